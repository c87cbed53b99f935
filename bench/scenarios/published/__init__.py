"""What does a packet of an established connection to a published port pay, and does it matter how many are published?

Hosts that publish a port by the rules of different people, once with that port alone and once with 10,000 more; on each
the same questions: UDP and TCP, 8, 64 and 1,400 bytes, 1, 16 and 256 connections in turn; UDP by IPv6; and UDP to a
server on another processor, which is told apart.

Peers      a veth pair, below which nothing can be; one nft map, the best that pure nft does; the rules of portmap 1.9
           (nft), of Debian's portmap (iptables), and of portmap with firewall, which together do what ours does; ours
           with programs off and at the defaults
Unit       microseconds of one round trip, median (p50) of a round; ratios are of medians within a block
Fair       client, server and softirq on one processor, before all others there (SCHED_FIFO), in one process that nobody
           has to wake, but for the row that says otherwise; a host for each variant and size, its sockets open
           throughout; the same payload for all, its checksum computed by the client, as what comes from a network has
           it; shuffled blocks; payload compared and losses counted. Conntrack, counters at the hooks and how often each
           program ran prove the path, before and after
Falsified  by a round trip that takes more than 1.05 times as long with 10,000 ports more, by a lost answer, by a host
           of ours that differs from itself, or by another like it that differs by more than ratios are read with

The rules that translate are asked by the first packet of a connection (that is ``first_packet``): what differs here is
conntrack's translation, which is the same for all, and what else their rules and programs do with every packet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bench.hosts.ladder import AGAIN, CHAIN, OURS, PORTMAP, PUBLISHED, TABLES_ALONE, TWIN, VETH, Rung
from bench.hosts.sightings import prove
from bench.hosts.testbed import Testbed
from bench.instruments.roundtrips import RoundTrips
from bench.scenarios.published.drawn import MANY_PORTS, answers, figures, plots, tables
from bench.scenarios.published.shapes import Shape, shapes
from bench.stage import Stage

__all__ = ["answers", "figures", "plots", "run", "tables"]

SECONDS = (100, 12)

_DISCARDED = 1  # milliseconds at the start of a round
_WOKEN = 4
"""How many times as long a round across processors takes: its round trips are that much slower."""
_SPARED, _SPARED_OF_MANY = {PORTMAP}, {PORTMAP, CHAIN, TABLES_ALONE}
"""Not in a quick run: what takes long to put in place, and differs little from the next."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A testbed with its sockets, by way, and the shapes that are asked of it."""

    variant: str
    bed: Testbed
    ways: Mapping[str, RoundTrips]
    shapes: tuple[Shape, ...]


def run(stage: Stage) -> None:
    """Measure."""
    cpu = stage.cpu if stage.cpu is not None else max(os.sched_getaffinity(0))
    other = min(os.sched_getaffinity(0) - {cpu}, default=cpu)
    with ExitStack() as stack:
        sizes = (0, stage.amount(MANY_PORTS, MANY_PORTS, 100))
        stage.log.progress(f"making hosts with a port, and with {sizes[-1]:,} more")
        beds = [Testbed(stack, stage, rung, size) for size in sizes for rung in _rungs(stage, size)]
        every = not stage.extent
        asked = {bed.name: _opened(bed, shapes(bed.rung, bed.present, every=every), cpu, other) for bed in beds}
        stage.log.note(f"client, server and softirq on processor {cpu}; across CPUs, the server is on {other}")
        _prove(stage, asked)
        asked[AGAIN] = replace(asked[OURS.name], variant=AGAIN)
        stage.log.progress("measuring")
        for turn in stage.turns(list(asked), stage.amount(36, 18, 2)):
            for shape in asked[turn.variant].shapes:
                _round(stage, asked[turn.variant], shape, turn.block)
        del asked[AGAIN]
        _prove(stage, asked)


def _rungs(stage: Stage, size: int) -> Iterator[Rung]:
    """Whose rules are there with so many further ports."""
    if not size:
        yield VETH
    for rung in PUBLISHED:
        if not stage.extent or rung not in (_SPARED_OF_MANY if size else _SPARED):
            yield rung
    if not size:
        yield TWIN


def _opened(bed: Testbed, wanted: tuple[Shape, ...], cpu: int, other: int) -> _Asked:
    most = {one.way: max(other.flows for other in wanted if other.way == one.way) for one in wanted}
    ways = {}
    for one in {shape.way: shape for shape in wanted}.values():
        opened = bed.open_apart(cpu, other) if one.apart else bed.open(cpu, one.protocol, one.version, most[one.way])
        ways[one.way] = opened
    return _Asked(bed.rung.name, bed, ways, wanted)


def _round(stage: Stage, asked: _Asked, shape: Shape, block: int) -> None:
    trips, variant, size = asked.ways[shape.way], asked.variant, asked.bed.present
    times = _WOKEN if shape.apart else 1
    before = trips.measure(_DISCARDED * times, payload=shape.payload, flows=shape.flows)
    span = stage.amount(10, 3, 2) * times
    made = trips.measure(span, payload=shape.payload, flows=shape.flows)
    stage.log.sample(shape.name, variant, made.p50 / 1e3, size=size, block=block)
    stage.log.sample("round trips", variant, made.count, size=size, block=block)
    stage.log.sample("lost", variant, before.failed + made.failed, size=size, block=block)


def _prove(stage: Stage, asked: Mapping[str, _Asked]) -> None:
    stage.log.progress(f"proving {len(asked)} hosts")
    for one in asked.values():
        prove(stage, one.bed, one.ways)
