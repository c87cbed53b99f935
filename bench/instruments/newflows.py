"""Flows that nobody saw before, a round at a time: ``native/newflow.c``, which makes and times them.

with NewFlows(host, native, cpu, client.path, "10.0.2.15", web.path, (Target(Protocol.UDP, 8053, 53),)) as flows:
    flows.measure(0, milliseconds=10, least=10)       # Round(made, tracked, lost, wrong, p50 ..., spread), in ns

It goes before all others on its processor (``precedence``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.instruments.answering import Answering, distribution
from bench.instruments.precedence import rest
from bench.native import Native
from bench.place import Host, Place
from dataplane.types import Protocol

SOURCES = "10.3.0.0/16"
"""Where new flows come from: each has an address and a port of its own, and none is used again."""

_NUMBERS = 8  # before the distribution


@dataclass(frozen=True, slots=True)
class Target:
    """What the client talks to, and what the server listens on."""

    protocol: Protocol
    port: int
    listen: int


@dataclass(frozen=True, slots=True)
class Round:
    """What one round came to; times in nanoseconds."""

    count: int
    """Flows that were timed."""
    lost: int
    wrong: int
    made: int
    """All flows, the first few among them, which are not timed."""
    tracked: int
    """Entries of conntrack after the round: as many as flows, where each was new to it."""
    p50: int
    p90: int
    p99: int
    spread: tuple[tuple[int, int], ...]
    """(least of a bucket, how many in it); buckets are at most 1 % wide."""


def give_sources(client: Place, address: str, beside: Place) -> None:
    """Have a client take all sources for its own, and who is beside it send there what is for them."""
    client.run("ip", "route", "add", "local", SOURCES, "dev", "lo")
    beside.run("ip", "route", "add", SOURCES, "via", address)


class NewFlows(Answering):
    """Both ends, in one process on one processor, until the block ends. Raises ``BenchError``."""

    work = "make new flows"

    def __init__(
        self,
        host: Host,
        native: Native,
        cpu: int,
        client: str,
        address: str,
        server: str,
        targets: Sequence[Target],
        cgroup: Path | None = None,
    ) -> None:
        words = [f"{target.protocol}:{target.port}:{target.listen}" for target in targets]
        began, where = SOURCES.partition("/")[0], f"{address}, {' '.join(words)}"
        ends = (cpu, client, began, address, server)
        super().__init__(host, where, native.newflow, *ends, *words, first=True, cgroup=cgroup)

    def measure(self, target: int, milliseconds: int, least: int) -> Round:
        """New flows to a target for so long, and at least so many. Raises ``BenchError``."""
        words = self._ask(target, milliseconds, least)
        rest(milliseconds)
        count, lost, wrong, made, tracked, p50, p90, p99 = map(int, words[:_NUMBERS])
        return Round(count, lost, wrong, made, tracked, p50, p90, p99, distribution(words[_NUMBERS:]))
