"""Round trips along one path, a round at a time: ``native/roundtrip.c``, which makes and times them, and its sockets.

ends = Ends(client.path, "10.0.2.15", 40001, web.path, 9000)
with RoundTrips(host, native, cpu, ends) as trips:
    trips.measure(30)              # milliseconds -> Round(count, lost, wrong, p50 ...), in nanoseconds
    trips.measure(30, payload=8, flows=16, spread=True)         # another question by the same sockets

What has both ends goes before all others on its processor (``precedence``); where a server is to be woken, neither end
does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.instruments.answering import Answering, distribution
from bench.instruments.precedence import rest
from bench.native import BenchError, Native
from bench.place import Host
from dataplane.types import Protocol

PAYLOAD = 64
"""Bytes, unless something else is asked for."""

_PATIENCE = 10.0  # seconds
_WARM = 2  # milliseconds


class Mode(StrEnum):
    """What is timed: the words of ``native/roundtrip.c``."""

    ONE = "one"
    TWO = "two"
    CONNECT = "connect"


@dataclass(frozen=True, slots=True)
class Ends:
    """Who talks to whom. Namespaces are paths, "-" is the host itself."""

    client: str
    address: str
    port: int
    server: str
    listen: int
    protocol: Protocol = Protocol.UDP
    mode: Mode = Mode.ONE
    payload: int = PAYLOAD
    flows: int = 1
    """The client's sockets, which are asked in turn."""
    server_cpu: int | None = None
    """Where a server of its own (``Mode.TWO``) is; None is where the client is."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round came to; times in nanoseconds."""

    count: int
    lost: int
    wrong: int
    least: int
    p50: int
    p90: int
    p99: int
    p999: int
    most: int
    spread: tuple[tuple[int, int], ...] = ()
    """(value, how often), where it was asked for; buckets are at most 1 % wide."""

    @property
    def failed(self) -> int:
        """Round trips without an answer, or with another than was due."""
        return self.lost + self.wrong


class RoundTrips(Answering):
    """Two sockets that stay open, until the block ends. Raises ``BenchError`` where they do not reach each other."""

    work = "make round trips"

    def __init__(self, host: Host, native: Native, cpu: int, ends: Ends, cgroup: Path | None = None) -> None:
        self._ends = ends
        where = f"{ends.protocol} {ends.address} port {ends.port}"
        cpus = cpu if ends.server_cpu is None else f"{cpu},{ends.server_cpu}"
        super().__init__(
            host, where, native.roundtrip, cpus, ends.mode, ends.protocol, ends.client, ends.address,
            ends.port, ends.server, ends.listen, ends.payload, ends.flows,
            first=ends.mode is not Mode.TWO, cgroup=cgroup,
        )  # fmt: skip

    @property
    def protocol(self) -> Protocol:
        """Of the sockets."""
        return self._ends.protocol

    def warm(self) -> None:
        """Have each flow answered, without a loss in between: neighbours are known then, and connections established.

        Raises ``BenchError`` where that does not come to be.
        """
        asked, limit = 0, time.monotonic() + _PATIENCE
        while asked < 2 * self._ends.flows:
            made = self.measure(_WARM)
            asked = 0 if made.lost or made.wrong else asked + made.count
            if time.monotonic() > limit:
                raise BenchError(f"could not have all answers from {self._where}: some are lost for {_PATIENCE:g} s")

    def measure(
        self, milliseconds: int, *, payload: int | None = None, flows: int | None = None, spread: bool = False
    ) -> Round:
        """Round trips, or connections, for so long; of fewer bytes and flows than there are, where that is asked for.

        Raises ``BenchError``.
        """
        asked = (milliseconds, payload or self._ends.payload, flows or self._ends.flows)
        numbers = self._ask(*asked, "spread") if spread else self._ask(*asked)
        count, lost, wrong, least, p50, p90, p99, p999, most = map(int, numbers)
        told = distribution(self._answer()) if spread else ()
        rest(milliseconds)
        return Round(count, lost, wrong, least, p50, p90, p99, p999, most, told)
