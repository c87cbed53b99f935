"""Datagrams that must not arrive: ``native/flood.c``, which sends and times them, and listens for any that do.

with Flood(host, native, cpu, sender.path, "10.77.0.2", 9000, receiver.path) as flood:
    flood.measure(64)              # batches of 8 -> Drops(sent, refused, arrived, least, p50, most)

It goes before all others on its processor (``precedence``): so many batches take milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.instruments.answering import Answering
from bench.native import Native
from bench.place import Host


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


class Flood(Answering):
    """Two sockets that stay open, until the block ends. Namespaces are paths, "-" is the host itself. Raises
    ``BenchError`` where they cannot be opened."""

    work = "send datagrams"

    def __init__(
        self,
        host: Host,
        native: Native,
        cpu: int,
        sender: str,
        address: str,
        port: int,
        receiver: str,
        cgroup: Path | None = None,
    ) -> None:
        words = (native.flood, cpu, sender, address, port, receiver)
        super().__init__(host, f"{address}:{port}", *words, first=True, cgroup=cgroup)

    def measure(self, batches: int, flows: int = 1) -> Drops:
        """Send so many batches, all of one flow, or each datagram of the next of so many. Raises ``BenchError``."""
        return Drops(*map(int, self._ask(batches, flows)))
