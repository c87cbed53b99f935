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
Falsified  by a round trip that takes more than 1.05 times as long with 10,000 ports more, by a lost answer, or by a
           host of ours that differs from itself

The rules that translate are asked by the first packet of a connection (that is ``first_packet``): what differs here is
conntrack's translation, which is the same for all, and what else their rules and programs do with every packet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bench.figures import Better, Figure, Results, control_figure, count_figure, grid, median_figure, ratio_figure
from bench.figures.answers import Answer, Beside, Growth, Kind
from bench.figures.measure import interval, paired
from bench.figures.plots import Axis, Bar, Bars, Plot, bar
from bench.hosts.ladder import (
    AGAIN,
    CHAIN,
    MAP,
    OURS,
    PORTMAP,
    PORTMAP_NFT,
    PUBLISHED,
    TABLES_ALONE,
    TWIN,
    VETH,
    Rules,
    Rung,
)
from bench.hosts.sightings import prove
from bench.hosts.testbed import Testbed
from bench.instruments.roundtrips import RoundTrips
from bench.stage import Stage
from dataplane.types import Protocol

MANY_PORTS = 10_000
"""That are published besides those that are talked to."""
FLAT = 1.05
NEAR = 0.02
SECONDS = (100, 11)

_FLOWS, _BYTES = (1, 16, 256), (8, 64, 1400)
_DISCARDED = 1  # milliseconds at the start of a round
_WOKEN = 4
"""How many times as long a round across processors takes: its round trips are that much slower."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of round trip."""

    protocol: Protocol = Protocol.UDP
    payload: int = 64
    flows: int = 1
    version: int = 4
    apart: bool = False
    """The server is on another processor."""

    @property
    def name(self) -> str:
        """As rows have it: "UDP, 64 bytes, 16 flows"."""
        return f"{self.way}, {self.payload:,} bytes, {self.flows} flow{'s' if self.flows > 1 else ''}"

    @property
    def way(self) -> str:
        """Whose sockets: shapes of the same way share them."""
        return f"{self.protocol.upper()}{' by IPv6' if self.version == 6 else ''}{' across CPUs' if self.apart else ''}"


UDP, TCP = Shape(), Shape(Protocol.TCP)
MANY = Shape(flows=256)
SIX, APART = Shape(version=6), Shape(apart=True)
QUICK = (UDP, Shape(payload=8), Shape(payload=1400), Shape(flows=16), MANY, TCP)
FULL = tuple(Shape(one, size, flows) for one in (Protocol.UDP, Protocol.TCP) for size in _BYTES for flows in _FLOWS)
CROWDED = (UDP, MANY, TCP)
"""Those that are asked with many ports, too."""
_SIX, _APART = (VETH, MAP, TABLES_ALONE, OURS), (VETH, MAP, OURS)
_SPARED, _SPARED_OF_MANY = {PORTMAP}, {PORTMAP, CHAIN, TABLES_ALONE}
"""Not in a quick run: what takes long to put in place, and differs little from the next."""
_CONTROLLED = (UDP, TCP)
_JUDGED = tuple(rung for rung in PUBLISHED if rung.rules.ours)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A testbed with its sockets, by way, and the shapes that are asked of it."""

    variant: str
    bed: Testbed
    ways: Mapping[str, RoundTrips]
    shapes: tuple[Shape, ...]


def shapes(rung: Rung, size: int, *, every: bool) -> tuple[Shape, ...]:
    """What is asked of a rung with so many further ports."""
    if size:
        return CROWDED
    usual = FULL if every else QUICK
    return (*usual, *((SIX,) if rung in _SIX else ()), *((APART,) if rung in _APART else ()))


def run(stage: Stage) -> None:
    """Measure."""
    cpu = stage.cpu if stage.cpu is not None else max(os.sched_getaffinity(0))
    other = min(os.sched_getaffinity(0) - {cpu}, default=cpu)
    with ExitStack() as stack:
        sizes = (0, stage.amount(MANY_PORTS, MANY_PORTS, 100))
        stage.log.progress(f"published: making hosts with a port, and with {sizes[-1]:,} more")
        beds = [Testbed(stack, stage, rung, size) for size in sizes for rung in _rungs(stage, size)]
        every = not stage.extent
        asked = {bed.name: _opened(bed, shapes(bed.rung, bed.present, every=every), cpu, other) for bed in beds}
        stage.log.note(f"client, server and softirq on processor {cpu}; across CPUs, the server is on {other}")
        _prove(stage, asked)
        asked[AGAIN] = replace(asked[OURS.name], variant=AGAIN)
        stage.log.progress("published: measuring")
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
    if not size and not stage.extent:
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
    stage.log.progress(f"published: proving {len(asked)} hosts")
    for one in asked.values():
        prove(stage, one.bed, one.ways)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = []
    unproved = {(one.variant, one.size) for one in results.samples if one.measure == "unproved" and one.value}
    for shape in _measured(results):
        own = results.of(shape.name, OURS.name, 0)
        for rung in (VETH, *PUBLISHED):
            note = "NOT PROVED: see below" if (rung.name, 0) in unproved else ""
            if found := results.of(shape.name, rung.name, 0):
                rows.append(median_figure(f"{shape.name}: {_who(rung)}", found, "us", note=note))
        rows += [
            ratio_figure(f"{shape.name}: dataplane / {_who(rung)}", own, found, better=Better.LESS)
            for rung in (VETH, *PUBLISHED)
            if rung is not OURS and (found := results.of(shape.name, rung.name, 0))
        ]
        tables, pure = results.of(shape.name, TABLES_ALONE.name, 0), results.of(shape.name, MAP.name, 0)
        if tables:
            what = f"{shape.name}: {TABLES_ALONE.rules} / {MAP.rules}"
            rows.append(ratio_figure(what, tables, pure, better=Better.LESS))
    size = _many(results)
    for shape in CROWDED:
        for rung in PUBLISHED:
            if many := results.of(shape.name, rung.name, size):
                note = "NOT PROVED: see below" if (rung.name, size) in unproved else ""
                at_most = FLAT if rung in _JUDGED else None
                what = f"{shape.name}: {_who(rung)}, {size:,} ports more / none"
                few = results.of(shape.name, rung.name, 0)
                rows.append(ratio_figure(what, many, few, at_most=at_most, note=note))
    for shape in _CONTROLLED:
        again, own, twin = (results.of(shape.name, one, 0) for one in (AGAIN, OURS.name, TWIN.name))
        if twin:
            rows.append(ratio_figure(f"{shape.name}: two hosts of ours, alike", twin, own))
        what = f"control: {shape.name}, the same twice"
        rows.append(control_figure(again, own, what, of=len(_CONTROLLED), within=NEAR))
    made = sum(one.value for one in results.samples if one.measure == "round trips")
    lost = sum(one.value for one in results.samples if one.measure == "lost")
    rows.append(count_figure(f"round trips lost or damaged, of {made:,.0f}", lost if made else None, at_most=0))
    proofs = {(one.variant, one.size) for one in results.samples if one.measure == "unproved"}
    what = f"hosts that were not what their name says, of {len(proofs)}"
    rows.append(count_figure(what, len(unproved) if proofs else None, at_most=0))
    return rows


def tables(results: Results) -> list[str]:
    """Ratios of ours, shapes below each other."""
    beside = (VETH, MAP, PORTMAP_NFT, PORTMAP, CHAIN)
    others = [rung for rung in beside if results.of(UDP.name, rung.name, 0)]
    rows = []
    for shape in _measured(results):
        own = results.of(shape.name, OURS.name, 0)
        cells = (_cell(paired(own, results.of(shape.name, rung.name, 0))) for rung in others)
        rows.append((shape.name, f"{interval([one.value for one in own]).middle:.2f}", *cells))
    if not rows:
        return []
    header = ("round trip", "dataplane, us", *(f"/ {_who(rung)}" for rung in others))
    return [grid("published: dataplane beside others, as ratio (95 %)", header, rows)]


def plots(results: Results) -> list[Plot]:
    """Everybody beside a veth pair; and ours beside the best pure nft, shape by shape."""
    made: list[Plot] = []
    for shape in (UDP, TCP):
        veth = results.of(shape.name, VETH.name, 0)
        bars = []
        for rung in PUBLISHED:
            for size in (0, _many(results)):
                found = results.of(shape.name, rung.name, size)
                if ratios := paired(found, veth):
                    more = f", {size:,} ports" if size else ""
                    bars.append(bar(f"{_who(rung)}{more}", rung.role, interval(ratios)))
        if bars:
            protocol = shape.protocol.upper()
            title = f"Established {protocol} round trip to a published port, 64 bytes"
            remark = "Client, server and softirq on one processor; a veth pair is 1."
            name = f"published_{shape.protocol}"
            made.append(Bars(name, title, Axis("ratio to a veth pair"), tuple(bars), remark))
    beside: list[Bar] = []
    for shape in _measured(results):
        own, pure = results.of(shape.name, OURS.name, 0), results.of(shape.name, MAP.name, 0)
        if ratios := paired(own, pure):
            beside.append(bar(shape.name, OURS.role, interval(ratios)))
    if beside:
        title = "Established round trips to a published port: dataplane beside one nft map"
        remark = "Above 1, ours takes longer: it isolates networks, and looks at checksums and sources of packets."
        made.append(Bars("published_shapes", title, Axis("ratio to one nft map"), tuple(beside), remark))
    return made


def answers(results: Results) -> list[Answer]:
    """UDP, TCP, and UDP by IPv6."""
    made = []
    for shape in (UDP, TCP, SIX):
        own = results.of(shape.name, OURS.name, 0)
        besides = tuple(
            Beside(rung.role, _who(rung), interval(ratios), _growth(results, shape, rung))
            for rung in (VETH, MAP, PORTMAP_NFT, CHAIN)
            if (ratios := paired(own, results.of(shape.name, rung.name, 0)))
        )
        if own and besides:
            what = f"{shape.way} round trip, established, published port"
            middle = interval([one.value for one in own])
            growth, doubt = _growth(results, shape, OURS), _doubt(results, shape)
            made.append(Answer(Kind.PACKET, what, "us", middle, besides, growth, doubt))
    return made


def _measured(results: Results) -> list[Shape]:
    """The shapes of this run."""
    return [shape for shape in (*FULL, SIX, APART) if results.of(shape.name, OURS.name, 0)]


def _many(results: Results) -> int:
    """The larger number of further ports."""
    return max(results.sizes(UDP.name, OURS.name), default=MANY_PORTS)


def _who(rung: Rung) -> str:
    return rung.name if rung.rules is Rules.NONE else str(rung.rules)


def _growth(results: Results, shape: Shape, rung: Rung) -> Growth | None:
    size = _many(results)
    ratios = paired(results.of(shape.name, rung.name, size), results.of(shape.name, rung.name, 0))
    return Growth(interval(ratios), 1, size, "published ports") if ratios else None


def _doubt(results: Results, shape: Shape) -> str:
    """Why a row of answers says nothing; empty where it does."""
    failed = sorted({one.variant for one in results.samples if one.measure == "unproved" and one.value})
    if failed:
        return f"not proved: {', '.join(failed)}"
    again, own = results.of(shape.name, AGAIN), results.of(shape.name, OURS.name, 0)
    return control_figure(again, own, of=len(_CONTROLLED), within=NEAR).note


def _cell(ratios: list[float]) -> str:
    """ "1.011 (1.006 - 1.022)"; empty where there is no ratio."""
    if not ratios:
        return ""
    spread = interval(ratios)
    return f"{spread.middle:.3f} ({spread.low:.3f} - {spread.high:.3f})"
