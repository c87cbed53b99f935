"""What is drawn from round trips to a published port: figures, table, plots, answers. Pure."""

from __future__ import annotations

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
    TWINS,
    VETH,
    Rules,
    Rung,
)
from bench.scenarios.published.shapes import APART, CROWDED, FULL, SIX, TCP, UDP, Shape

MANY_PORTS = 10_000
"""That are published besides those that are talked to."""
FLAT = 1.05
NEAR = 0.02

_CONTROLLED = (UDP, TCP, SIX)
_JUDGED = tuple(rung for rung in PUBLISHED if rung.rules.ours)


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
            ratio_figure(
                f"{shape.name}: dataplane / {_who(rung)}",
                own,
                found,
                better=Better.LESS,
                peer=not rung.rules.ours and rung is not VETH,
            )
            for rung in (VETH, *PUBLISHED)
            if rung is not OURS and (found := results.of(shape.name, rung.name, 0))
        ]
        tables, pure = results.of(shape.name, TABLES_ALONE.name, 0), results.of(shape.name, MAP.name, 0)
        if tables:
            what = f"{shape.name}: {TABLES_ALONE.rules} / {MAP.rules}"
            rows.append(ratio_figure(what, tables, pure, better=Better.LESS, peer=True))
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
        rows += _controls(results, shape)
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
    return ". ".join(f"{one.what}: {one.note}" for one in _controls(results, shape) if not one.met)


def _controls(results: Results, shape: Shape) -> list[Figure]:
    """The same sockets of the same host twice, and two hosts that are alike."""
    again, own, twin = (results.of(shape.name, one, 0) for one in (AGAIN, OURS.name, TWIN.name))
    what, of = f"control: {shape.name}", 2 * len(_CONTROLLED)
    return [
        control_figure(again, own, f"{what}, the same twice", of=of, within=NEAR),
        control_figure(twin, own, f"{what}, two hosts of ours, alike", of=of, within=TWINS, slight=TWINS),
    ]


def _cell(ratios: list[float]) -> str:
    """ "1.011 (1.006 - 1.022)"; empty where there is no ratio."""
    if not ratios:
        return ""
    spread = interval(ratios)
    return f"{spread.middle:.3f} ({spread.low:.3f} - {spread.high:.3f})"
