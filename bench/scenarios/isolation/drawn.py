"""What is drawn from the rounds of the scenario ``isolation``: figures, tables, plots, and rows of the one table. Pure.

Rounds are samples of a measure (a path's name, or ``DENIED``), by variant and by the number of networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.figures import (
    Better,
    Figure,
    Results,
    control_figure,
    count_figure,
    difference_figure,
    grid,
    median_figure,
    number,
    ratio_figure,
)
from bench.figures.answers import Answer, Beside, Growth, Kind
from bench.figures.measure import CONFIDENCE, Control, Sample, block_medians, interval, paired
from bench.figures.plots import Axis, Curves, line
from bench.scenarios.isolation.rules import OPEN, PUBLISHED, ROUTED, Variant

SIZES, QUICK_SIZES = (1, 2, 10, 100, 1_000), (1, 2, 100, 1_000)
"""Of 1, nothing is denied: its packets have no other to go to."""
DENIED, DENIED_FLOWS = "denied", "denied, a flow each"
FLAT, AS_SETS, OF_TODAY = 1.05, 1.03, 0.25
NEAR = 0.02
"""How surely the same must be as fast as itself, where 1.05 and 1.03 are held against it."""

_OURS = (Variant.DEFAULTS, Variant.ALONE)
_PEERS = (Variant.NOTHING, Variant.SETS, Variant.LINEAR, Variant.STAGES, Variant.PLUGIN)
_ANSWERED = (Variant.NOTHING, Variant.SETS, Variant.STAGES, Variant.LINEAR, Variant.ALONE)
"""Whom all defaults are set beside in the one table: isolation alone, which is what the others do, is told from it."""
_REMARK = "ours with all that an ADD leaves by default, which also looks at sums and guards; the others only isolate"
_DRAWN = (Variant.NOTHING, Variant.STAGES, Variant.LINEAR, Variant.SETS, Variant.ALONE, Variant.DEFAULTS)

_At = tuple[Variant, int]


@dataclass(frozen=True, slots=True)
class _Way:
    """What is measured."""

    measure: str
    text: str
    unit: str
    rules: int
    """Rules a network that are met where rules are scanned. A packet meets the first stage, and one that comes from a
    network that is kept apart meets the second as well: of a round trip both packets, or one of them; what is denied
    meets half of each."""
    plot: str = ""
    answers: bool = True

    @property
    def denied(self) -> bool:
        """Nobody lets it through, so nobody is the floor."""
        return self.unit == "ns"


_WAYS = (
    _Way(ROUTED.name, f"UDP round trip, {ROUTED.name}", "us", 3, "routed"),
    _Way(PUBLISHED.name, f"UDP round trip, {PUBLISHED.name}", "us", 3, "published"),
    _Way(OPEN.name, f"UDP round trip, {OPEN.name}", "us", 2, "open", answers=False),
    _Way(DENIED, "a datagram that is denied", "ns", 1, "denied"),
    _Way(DENIED_FLOWS, "a datagram that is denied, each of a flow of its own", "ns", 1),
)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = []
    for way in _WAYS:
        sizes = results.sizes(way.measure, Variant.ALONE)
        rows += _rows(results, way, sizes[0], sizes[-1]) if len(sizes) > 1 else []  # one size does not grow
    rows.append(_total(results, "lost", "round trips", "round trips lost or damaged"))
    rows.append(_total(results, "arrived", "sent", "denied datagrams that arrived"))
    places = {one.variant for one in results.samples if one.measure == "unproved"}
    what = f"variants and sizes that were not what their name says, of {len(places):,}"
    rows.append(count_figure(what, len(_unproved(results)) if places else None, at_most=0))
    return rows


def tables(results: Results) -> list[str]:
    """Every variant at every size: medians."""
    made = []
    for way in _WAYS:
        sizes = results.sizes(way.measure, Variant.ALONE)
        rows = []
        for variant in Variant:
            cells = [_cell(results.of(way.measure, variant, size)) for size in sizes]
            if any(cells):
                rows.append((str(variant), *cells))
        if rows:
            title = f"isolation: {way.text}, {way.unit} (95 %), by the number of networks"
            made.append(grid(title, ("", *(f"{size:,}" for size in sizes)), rows))
    return made


def plots(results: Results) -> list[Curves]:
    """A plot for each way, and one of what is denied."""
    drawn = []
    for way in _WAYS:
        by_size = {
            variant: {size: results.of(way.measure, variant, size) for size in results.sizes(way.measure, variant)}
            for variant in _DRAWN
        }
        lines = tuple(line(variant, variant.role, found) for variant, found in by_size.items() if found)
        if lines and way.plot:
            quantity = "processor time, a datagram" if way.denied else "round trip, p50"
            drawn.append(
                Curves(
                    f"isolation_{way.plot}",
                    f"Networks kept apart: {way.text}",
                    Axis("networks", log=True),
                    Axis(f"{quantity}, {way.unit}", log=True),
                    lines,
                    "Both ends and softirq on one processor. iptables: the rules of the CNI firewall plugin.",
                )
            )
    return drawn


def answers(results: Results) -> list[Answer]:
    """The rows of the one table: at the most networks, and how that grew."""
    made = []
    for way in _WAYS:
        sizes = results.sizes(way.measure, Variant.DEFAULTS)
        if len(sizes) < 2 or not way.answers:
            continue
        few, many = sizes[0], sizes[-1]
        ours = results.of(way.measure, Variant.DEFAULTS, many)
        besides = []
        for variant in _ANSWERED:
            ratios = paired(ours, results.of(way.measure, variant, many))
            if ratios:
                growth = _growth(results, way, variant, few, many)
                besides.append(Beside(variant.role, variant, interval(ratios), growth))
        made.append(
            Answer(
                Kind.PACKET,
                f"{way.text}, {many:,} networks kept apart",
                way.unit,
                interval(list(block_medians(ours).values())),
                tuple(besides),
                _growth(results, way, Variant.DEFAULTS, few, many),
                _doubt(results, way, many),
                _REMARK,
            )
        )
    return made


def _rows(results: Results, way: _Way, few: int, many: int) -> list[Figure]:
    """The rows of one way: ours beside each peer at the fewest and the most networks, and how each grows."""
    rows, unproved = [], _unproved(results)

    def ratio(what: str, above: _At, below: _At, at_most: float | None = None) -> None:
        numerators, divisors = (results.of(way.measure, *at) for at in (above, below))
        if numerators and divisors:
            note = "NOT PROVED: see below" if {place(*above), place(*below)} & unproved else ""
            better = Better.LESS if above[0].of_ours else None
            peer = above[0].of_ours and not below[0].of_ours and below[0] is not Variant.NOTHING
            what = f"{way.measure}{what}"
            rows.append(ratio_figure(what, numerators, divisors, at_most=at_most, better=better, note=note, peer=peer))

    for size in (few, many):
        there = f", {size:,} networks: "
        for own in _OURS:
            rows.append(median_figure(f"{way.measure}{there}{own}", results.of(way.measure, own, size), way.unit))
            for peer in _PEERS:
                # Peers only isolate, so what is held against them is what isolates.
                at_most = _limit(way, peer) if size == SIZES[-1] and own is Variant.ALONE else None
                ratio(f"{there}{own} / {peer}", (own, size), (peer, size), at_most)
        ratio(f"{there}{Variant.DEFAULTS} / {Variant.ALONE}", (Variant.DEFAULTS, size), (Variant.ALONE, size))
    for variant in Variant:
        if variant is not Variant.AGAIN:
            at_most = FLAT if variant in _OURS else None
            ratio(f": {variant}, {many:,} / {few:,} networks", (variant, many), (variant, few), at_most)
    rows += _slopes(results, way, few, many)
    again, ours = (results.of(way.measure, variant, many) for variant in (Variant.AGAIN, Variant.ALONE))
    what = f"control: {way.measure}, {many:,} networks, the same twice"
    rows.append(control_figure(again, ours, what, of=len(_WAYS), within=NEAR))
    return rows


def _limit(way: _Way, peer: Variant) -> float | None:
    if way.denied:
        return None
    return {Variant.SETS: AS_SETS, Variant.STAGES: OF_TODAY}.get(peer)


def _slopes(results: Results, way: _Way, few: int, many: int) -> list[Figure]:
    """What one more rule costs a packet, where rules are scanned."""
    scale = (1 if way.unit == "ns" else 1e3) / (way.rules * (many - few))
    rows = []
    for variant in (Variant.STAGES, Variant.LINEAR):
        above, below = (
            [replace(one, value=one.value * scale) for one in results.of(way.measure, variant, size)]
            for size in (many, few)
        )
        if above:
            what = f"{way.measure}: {variant}, each rule that a packet meets"
            rows.append(difference_figure(what, above, below, "ns"))
    return rows


def _growth(results: Results, way: _Way, variant: Variant, few: int, many: int) -> Growth | None:
    ratios = paired(results.of(way.measure, variant, many), results.of(way.measure, variant, few))
    return Growth(interval(ratios), few, many, "networks") if ratios else None


def _doubt(results: Results, way: _Way, size: int) -> str:
    """Why a row of answers says nothing."""
    places = {place(variant, size) for variant in (Variant.DEFAULTS, *_ANSWERED)}
    if found := sorted(places & _unproved(results)):
        return f"not proved: {', '.join(found)}"
    ratios = paired(results.of(way.measure, Variant.AGAIN, size), results.of(way.measure, Variant.ALONE, size))
    if not ratios:
        return "there is no control"
    spread = interval(ratios, confidence=1 - (1 - CONFIDENCE) / len(_WAYS))
    if Control(spread, NEAR).valid:
        return ""
    return f"the same twice differs: {spread.low:.3f} - {spread.high:.3f}"


def _unproved(results: Results) -> set[str]:
    return {one.variant for one in results.samples if one.measure == "unproved" and one.value}


def _total(results: Results, what: str, of: str, said: str) -> Figure:
    made = sum(one.value for one in results.samples if one.measure == of)
    found = sum(one.value for one in results.samples if one.measure == what)
    return count_figure(f"{said}, of {made:,.0f}", found if made else None, at_most=0)


def _cell(samples: Sequence[Sample]) -> str:
    """ "11.5 (11.4 - 11.7)"; empty where there is nothing."""
    if not samples:
        return ""
    spread = interval(list(block_medians(samples).values()))
    return f"{number(spread.middle)} ({number(spread.low)} - {number(spread.high)})"


def place(variant: str, size: int) -> str:
    """What is proved, or not, by name."""
    return f"{variant}, {size:,} networks"
