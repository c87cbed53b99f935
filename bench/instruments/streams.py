"""Bulk TCP and steady UDP along one path, a round at a time: ``native/stream.c`` and ``native/steady.c``.

    with Stream(host, native, (cpu, cpu), ends) as stream:
        stream.measure(Direction.TO_CONTAINER, 30)         # milliseconds -> Transfer(sent, received, wrong, ...)
    with Steady(host, native, cpu, ends, Pace(rate=40_000, burst=8)) as steady:
        steady.measure(30)                                 # -> Arrivals(sent, received, wrong, ...)

UDP sockets stay open until the block ends. ``reached`` is the address that the server was reached at, as its own socket
has it: behind DNAT it is not the one that the client talks to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bench.instruments.answering import Answering, distribution
from bench.instruments.roundtrips import Ends
from bench.native import BenchError, Native
from bench.place import Host

_NUMBERS = 6  # before the distribution
_WARM = 2  # milliseconds


class Direction(StrEnum):
    """Which way the bytes go, as the container sees it."""

    TO_CONTAINER = "to the container"
    FROM_CONTAINER = "from the container"


_WORDS = {Direction.TO_CONTAINER: "up", Direction.FROM_CONTAINER: "down"}


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one round of a stream came to; see ``native/stream.c``."""

    sent: int
    received: int
    wrong: int
    nanoseconds: int
    busy: int
    slept: int
    """What passed besides, and is work of others or of nobody."""
    retransmitted: int
    in_vain: int
    """Segments that were sent again and had arrived (DSACK)."""
    reordered: int

    @property
    def counted(self) -> float:
        """The share of its time that is in ``busy``."""
        return self.busy / (self.busy + self.slept) if self.busy else 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How packets are sent."""

    rate: int
    """A second."""
    burst: int
    """At a time."""
    size: int = 64
    """Bytes of payload."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What one round of packets came to; see ``native/steady.c``."""

    sent: int
    received: int
    wrong: int
    busy: int
    counted: int
    late: int
    latencies: tuple[tuple[int, int], ...]
    """(nanoseconds from when a packet was due, how often)."""

    @property
    def share_counted(self) -> float:
        """The share of the packets that ``busy`` is about."""
        return self.counted / self.sent if self.sent else 0.0

    @property
    def nanoseconds_per_packet(self) -> float:
        """Processor time of both ends and all between. Raises ``BenchError`` where no burst was left alone."""
        if not self.counted:
            raise BenchError("could not tell what a packet costs: others had the processor during every burst")
        return self.busy / self.counted


class _Reached(Answering):
    """Between two ends, of which the program tells the server's own address."""

    def __init__(self, host: Host, ends: Ends, *argv: object) -> None:
        super().__init__(host, f"{ends.address}:{ends.port}", *argv)
        (self.reached,) = self._ready


class Stream(_Reached):
    """TCP connections, one a round; ``cpus`` are those of the client and of the container. Raises ``BenchError``."""

    work = "send a stream"

    def __init__(self, host: Host, native: Native, cpus: tuple[int, int], ends: Ends) -> None:
        super().__init__(
            host, ends, native.stream, *cpus, ends.client, ends.address, ends.port, ends.server, ends.listen
        )  # fmt: skip

    def measure(self, direction: Direction, milliseconds: int, *, every_byte: bool = False) -> Transfer:
        """Send for so long, by a connection of its own that has opened its windows before; wait until all is there, and
        compare some or every byte of it. Raises ``BenchError``."""
        numbers = self._ask(_WORDS[direction], _WARM, milliseconds, "all" if every_byte else "some")
        return Transfer(*map(int, numbers))


class Steady(_Reached):
    """A UDP flow to the container that keeps its pace. Raises ``BenchError``."""

    work = "send packets"

    def __init__(self, host: Host, native: Native, cpu: int, ends: Ends, pace: Pace) -> None:
        super().__init__(
            host, ends, native.steady, cpu, ends.client, ends.address, ends.port, ends.server, ends.listen,
            pace.size, pace.rate, pace.burst,
        )  # fmt: skip

    def measure(self, milliseconds: int) -> Arrivals:
        """Send for so long, and wait for the last. Raises ``BenchError``."""
        words = self._ask(milliseconds)
        sent, received, wrong, busy, counted, late = map(int, words[:_NUMBERS])
        return Arrivals(sent, received, wrong, busy, counted, late, distribution(words[_NUMBERS:]))
