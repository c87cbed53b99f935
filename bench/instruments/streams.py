"""Bulk TCP and steady UDP along one path, a round at a time: ``native/stream.c`` and ``native/steady.c``.

    with Stream(host, native, (cpu, cpu), ends) as stream:
        stream.measure(Direction.TO_CONTAINER, 30)         # milliseconds -> Transfer(sent, received, wrong, ...)
    with Steady(host, native, cpu, ends, Pace(rate=40_000, burst=8)) as steady:
        steady.measure(30)                                 # -> Arrivals(sent, received, wrong, ...)

UDP sockets stay open until the block ends. ``reached`` is the address that the server was reached at, as its own socket
has it: behind DNAT it is not the one that the client talks to.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from bench.instruments.roundtrips import Ends
from bench.native import BenchError, Native
from bench.place import Host, end

_PATIENCE = 10.0  # seconds
_KIB = 1024
_NUMBERS = 6  # before the histogram
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
    retransmitted: int
    in_vain: int
    """Segments that were sent again and had arrived (DSACK)."""
    reordered: int

    @property
    def gigabits(self) -> float:
        """A second."""
        return self.received * 8 / self.nanoseconds

    @property
    def nanoseconds_per_kib(self) -> float:
        """Processor time of both ends and all between."""
        return self.busy / self.received * _KIB


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
    def nanoseconds_per_packet(self) -> float:
        """Processor time of both ends and all between. Raises ``BenchError`` where no burst was left alone."""
        if not self.counted:
            raise BenchError("could not tell what a packet costs: others had the processor during every burst")
        return self.busy / self.counted


class _Rounds:
    """A program that opens sockets, says "ready ADDRESS:PORT" and answers each line with a line."""

    def __init__(self, host: Host, ends: Ends, *argv: object) -> None:
        self._where = f"{ends.address}:{ends.port}"
        self._process = host.spawn(*argv, stdin=subprocess.PIPE)
        said = self._process.stdout.readline().decode().split() if self._process.stdout is not None else []
        if len(said) != 2 or said[0] != "ready":
            end(self._process)
            raise BenchError(f"could not open sockets to {self._where}: see above")
        self.reached = said[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # At the end of its input it ends by itself.
        if self._process.stdin is not None:
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        end(self._process)

    def _ask(self, line: str) -> list[str]:
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("made with pipes")
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        answer = self._process.stdout.readline().decode().split()
        if not answer:
            raise BenchError(f"could not send to {self._where}: see above")
        return answer


class Stream(_Rounds):
    """TCP connections, one a round; ``cpus`` are those of the client and of the container. Raises ``BenchError``."""

    def __init__(self, host: Host, native: Native, cpus: tuple[int, int], ends: Ends) -> None:
        super().__init__(
            host, ends, native.stream, *cpus, ends.client, ends.address, ends.port, ends.server, ends.listen
        )  # fmt: skip

    def measure(self, direction: Direction, milliseconds: int, *, every_byte: bool = False) -> Transfer:
        """Send for so long, by a connection of its own that has opened its windows before; wait until all is there, and
        compare some or every byte of it. Raises ``BenchError``."""
        line = f"{_WORDS[direction]} {_WARM} {milliseconds} {'all' if every_byte else 'some'}"
        return Transfer(*map(int, self._ask(line)))


class Steady(_Rounds):
    """A UDP flow to the container that keeps its pace. Raises ``BenchError``."""

    def __init__(self, host: Host, native: Native, cpu: int, ends: Ends, pace: Pace) -> None:
        super().__init__(
            host, ends, native.steady, cpu, ends.client, ends.address, ends.port, ends.server, ends.listen,
            pace.size, pace.rate, pace.burst,
        )  # fmt: skip

    def measure(self, milliseconds: int) -> Arrivals:
        """Send for so long, and wait for the last. Raises ``BenchError``."""
        words = self._ask(str(milliseconds))
        pairs = (word.partition(":") for word in words[_NUMBERS:])
        latencies = tuple((int(value), int(count)) for value, _, count in pairs)
        sent, received, wrong, busy, counted, late = map(int, words[:_NUMBERS])
        return Arrivals(sent, received, wrong, busy, counted, late, latencies)
