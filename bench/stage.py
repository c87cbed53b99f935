"""What a scenario is given: where to put hosts, the programs that measure, the log, and how much is to be done.

with stage.host("ours") as host:
    fleet = containers(host, 100, ports_each=10)
    for turn in stage.turns(variants, blocks=stage.amount(40, 24, 2)):
        ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from bench.cni import Container, port
from bench.figures import Log
from bench.figures.measure import Turn, schedule
from bench.machine import Meter
from bench.native import Native
from bench.place import Host

FIRST_PORT = 10000
"""Where the ports that are only present begin."""

PEERS = (Path("/usr/lib/cni"),)

NET = 77
"""10.77.0.0/16 is the network of the first bridge, 10.78.0.0/16 that of the next."""

_BRIDGE_PORTS = 1000
"""Containers on a bridge: the kernel's limit is 1024 ports (BR_MAX_PORTS)."""


class Extent(IntEnum):
    """How much of everything is measured."""

    FULL = 0
    QUICK = 1
    SMOKE = 2
    """Only to see that it runs: the figures say nothing."""


@dataclass(frozen=True, slots=True)
class Stage:
    """See the module."""

    directory: Path
    native: Native
    log: Log
    extent: Extent = Extent.FULL
    seed: int = 1
    cpu: int | None = None
    """Where executables are started, if they are to stay on one processor."""
    many: bool = False
    """Ten thousand containers with a port each in place of a hundred with a hundred."""
    peers: tuple[Path, ...] = PEERS
    """Directories of the plugins that ours are compared with."""
    advance: Callable[[int, int], None] = lambda _done, _of: None
    """Told how many blocks of how many are measured."""
    stopped: Callable[[], bool] = lambda: False
    """Whether somebody asked to stop: what a signal raises is lost where a library calls back (ctypes)."""

    def amount(self, full: int, quick: int, smoke: int) -> int:
        """Of three numbers the one for this extent."""
        return (full, quick, smoke)[self.extent]

    def host(self, name: str) -> Host:
        """A host of its own."""
        return Host(name, self.directory)

    def turns(self, variants: Sequence[str], blocks: int, first: int = 0) -> Iterator[Turn]:
        """Every variant once a block, shuffled; what the machine did meanwhile is noted with each block. Raises
        ``KeyboardInterrupt`` where somebody asked to stop.

        A scenario that measures one thing after the other numbers the blocks of each from another ``first``.
        """
        meter, current = Meter(self.cpu), first
        self.advance(0, blocks)
        for turn in schedule(variants, blocks, self.seed, first):
            if self.stopped():
                raise KeyboardInterrupt
            if turn.block != current:
                self.log.block(current, *meter.read())
                meter, current = Meter(self.cpu), turn.block
                self.advance(current - first, blocks)
            yield turn
        self.log.block(current, *meter.read())


def containers(host: Host, count: int, ports_each: int) -> list[Container]:
    """Bridges, and so many containers on them, plugged in and with addresses: all that a main plugin does.

    Each asks for ports of its own that no other has, and that are no range: each is one element of a map.
    """
    made = []
    places = host.namespaces([f"c{number}" for number in range(count)])
    for group, start in enumerate(range(0, count, _BRIDGE_PORTS)):
        bridge, gateway = f"br-bench{group}", f"10.{NET + group}.0.1"
        host.bridge(bridge, f"{gateway}/16")
        peers = [
            (place, f"10.{NET + group}.{member // 200 + 1}.{member % 200 + 2}/16")
            for member, place in enumerate(places[start : start + _BRIDGE_PORTS])
        ]
        links = host.wires(bridge, peers, gateway)
        for number, ((place, address), link) in enumerate(zip(peers, links, strict=True), start):
            first = FIRST_PORT + number * ports_each
            ports = tuple(port(first + one, 1 + one) for one in range(ports_each))
            made.append(Container(place.name, place.path, address, gateway, bridge, link, ports))
    return made
