"""Datagrams that must not arrive: ``native/flood.c``, which sends and times them, and listens for any that do.

with Flood(host, native, cpu, sender.path, "10.77.0.2", 9000, receiver.path) as flood:
    flood.measure(64)              # batches of 8 -> Drops(sent, refused, arrived, least, p50, most)

It goes before all others on its processor (``precedence``): so many batches take milliseconds.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bench.instruments.precedence import first_in_line
from bench.native import BenchError, Native
from bench.place import Host, end


@dataclass(frozen=True, slots=True)
class Drops:
    """What one round came to. Times are nanoseconds of the processor for one datagram, from sending to the drop."""

    sent: int
    refused: int
    """By the sender's own kernel; nobody else saw them."""
    arrived: int
    least: int
    p50: int
    most: int


class Flood:
    """Two sockets that stay open, until the block ends. Namespaces are paths, "-" is the host itself. Raises
    ``BenchError`` where they cannot be opened."""

    def __init__(
        self, host: Host, native: Native, cpu: int, sender: str, address: str, port: int, receiver: str
    ) -> None:
        self._where = f"{address}:{port}"
        with first_in_line():
            self._process = host.spawn(native.flood, cpu, sender, address, port, receiver, stdin=subprocess.PIPE)
        if self._process.stdout is None or self._process.stdout.readline() != b"ready\n":
            end(self._process)
            raise BenchError(f"could not open sockets for datagrams to {self._where}: see above")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        end(self._process)

    def measure(self, batches: int, flows: int = 1) -> Drops:
        """Send so many batches, all of one flow, or each datagram of the next of so many. Raises ``BenchError``."""
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("made with pipes")
        self._process.stdin.write(b"%d %d\n" % (batches, flows))
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        if len(answer) != len(Drops.__slots__):
            raise BenchError(f"could not send datagrams to {self._where}: see above")
        return Drops(*map(int, answer))
