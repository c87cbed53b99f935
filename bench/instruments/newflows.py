"""Flows that nobody saw before, a round at a time: ``native/newflow.c``, which makes and times them.

with NewFlows(host, native, cpu, client.path, "10.0.2.15", web.path, (Target(Protocol.UDP, 8053, 53),)) as flows:
    flows.measure(0, milliseconds=10, least=10)       # Round(made, tracked, lost, wrong, p50 ..., spread), in ns

It goes before all others on its processor (``precedence``).
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bench.instruments.precedence import first_in_line, rest
from bench.native import BenchError, Native
from bench.place import Host, Place, end
from dataplane.types import Protocol

SOURCES = "10.3.0.0/16"
"""Where new flows come from: each has an address and a port of its own, and none is used again."""

_PATIENCE = 10.0  # seconds


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


class NewFlows:
    """Both ends, in one process on one processor, until the block ends. Raises ``BenchError``."""

    def __init__(
        self, host: Host, native: Native, cpu: int, client: str, address: str, server: str, targets: Sequence[Target]
    ) -> None:
        words = [f"{target.protocol}:{target.port}:{target.listen}" for target in targets]
        self._where = f"{address}, {' '.join(words)}"
        first = SOURCES.partition("/")[0]
        with first_in_line():
            self._process = host.spawn(
                native.newflow, cpu, client, first, address, server, *words, stdin=subprocess.PIPE
            )
        if self._process.stdout is None or self._process.stdout.readline() != b"ready\n":
            end(self._process)
            raise BenchError(f"could not open sockets for {self._where}: see above")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        end(self._process)

    def measure(self, target: int, milliseconds: int, least: int) -> Round:
        """New flows to a target for so long, and at least so many. Raises ``BenchError``."""
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("made with pipes")
        self._process.stdin.write(b"%d %d %d\n" % (target, milliseconds, least))
        self._process.stdin.flush()
        words = self._process.stdout.readline().decode("ascii").split()
        rest(milliseconds)
        numbers, buckets = words[:8], words[8:]
        if len(numbers) < 8:
            raise BenchError(f"could not make new flows to {self._where}: see above")
        pairs = (bucket.partition(":") for bucket in buckets)
        spread = tuple((int(value), int(count)) for value, _, count in pairs)
        count, lost, wrong, made, tracked, p50, p90, p99 = map(int, numbers)
        return Round(count, lost, wrong, made, tracked, p50, p90, p99, spread)
