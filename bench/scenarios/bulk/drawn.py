"""What is measured in bulk, by name, and what is drawn from that: figures, table, plots, answers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from bench.figures import (
    Better,
    Counted,
    Figure,
    Results,
    control_figure,
    count_figure,
    grid,
    median_figure,
    ratio_figure,
)
from bench.figures.answers import Answer, Beside, Growth, Kind
from bench.figures.measure import Interval, Sample, block_medians, interval, paired, spread_percentile
from bench.figures.plots import Axis, Bars, Boxes, Plot, bar, box
from bench.figures.rows import UNPROVED
from bench.hosts.sites import AGAIN, MAP, NFT, OTHERS, OURS, PUBLISHERS, RULE, RULES, VETH, Publisher
from bench.instruments.stackcounts import TROUBLE
from bench.instruments.streams import Direction, Pace


class Form(StrEnum):
    """What segments are like on their way."""

    WIRE = "as from a wire"
    """At most 1,500 bytes each, summed by their sender."""
    WHOLE = "in whole"
    """64 KiB at a time, their sums left to a device: between neighbours on one machine."""
    JOINED = "joined by the host"
    """As from a wire, and put together by the host's devices (GRO)."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One form of segments, with both ends on one processor, or one on each of two."""

    form: Form
    apart: bool = False

    @property
    def name(self) -> str:
        return f"{self.form}, two processors" if self.apart else str(self.form)

    def measure(self, direction: Direction) -> str:
        """The name of samples: nanoseconds a KiB, of processor time, or where ends are apart, of the clock."""
        return f"TCP {direction}, {self.name}"


WIRE, WHOLE = Phase(Form.WIRE), Phase(Form.WHOLE)
PHASES = (WIRE, WHOLE, Phase(Form.JOINED), Phase(Form.WIRE, apart=True), Phase(Form.WHOLE, apart=True))
QUICK_PHASES = (WIRE, WHOLE)
PACES = (Pace(40_000, 8, 64), Pace(40_000, 8, 1400))

TRANSFERRED, AMISS, LOST, SENT = "bytes", "bytes amiss", "packets amiss", "packets"
AGAIN_SENT, IN_VAIN, REORDERED = "sent again", "sent again in vain (DSACK)", "out of order"
LATE = "late"
INFO = (AGAIN_SENT, IN_VAIN, REORDERED)

COUNTED = 0.95
"""The share of a round that its processor time must be about: what was not looked at may have been dearer."""

_GIB = 1 << 30
_GIGABITS = 8 * 1024  # Gb/s at a nanosecond a KiB
_OTHERS = (MAP, RULE, RULES, VETH, NFT)
"""Whom ours is compared with; beside whom it stands in the one table of a run."""
_BESIDES = (MAP, RULE, VETH)
_WHERE = "Both ends on one processor. dataplane isolates, looks at sums and guards; the others do not."


def packet(pace: Pace) -> str:
    """The name of samples: nanoseconds of processor time a packet; and of histograms: microseconds since it was due."""
    return f"UDP, {pace.size:,} bytes"


def counted_of(measure: str) -> str:
    """The name of samples: the share of a round that its processor time is about."""
    return f"{measure}, counted"


def trouble(phase: Phase, kind: str) -> str:
    """The name of samples: how often, in a turn."""
    return f"{phase.name}: {kind}"


def gigabits(samples: Sequence[Sample]) -> list[Sample]:
    """Nanoseconds a KiB as Gb/s."""
    return [replace(one, value=_GIGABITS / one.value) for one in samples]


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    phases, paces = _measured(results)
    controls = _controls(results)
    rows = list[Figure]()
    for phase in phases:
        for direction in Direction:
            rows += _bulk(results, phase, direction, controls)
        rows += _troubles(results, phase)
    for pace in paces:
        rows += _steady(results, pace, controls)
    amounts = {
        "bytes lost or damaged": (AMISS, TRANSFERRED, _GIB, " GiB"),
        "packets lost or damaged": (LOST, SENT, 1, ""),
    }
    for what, (measure, whole, unit, name) in amounts.items():
        total = _total(results, whole)
        rows.append(count_figure(f"{what}, of {total / unit:,.0f}{name}", _total(results, measure) if total else None,
                                 at_most=0))  # fmt: skip
    proofs = [one for one in results.samples if one.measure == "unproved"]
    unproved = {one.variant for one in proofs if one.value}
    what = f"ways that were not what their name says, of {len({one.variant for one in proofs}):,}"
    rows.append(count_figure(what, len(unproved) if proofs else None, at_most=0))
    return rows


def tables(results: Results) -> list[str]:
    """Gb/s, phases side by side."""
    measures = [
        phase.measure(way) for phase in PHASES for way in Direction if results.of(phase.measure(way), OURS.name)
    ]
    if not measures:
        return []
    rows = [
        (one.name, *(_cell(gigabits(results.of(measure, one.name))) for measure in measures))
        for one in PUBLISHERS
        if one != AGAIN
    ]
    return [grid("bulk: Gb/s (95 %)", ("", *measures), rows)]


def plots(results: Results) -> list[Plot]:
    """What one processor moves in each form, what a packet costs, and how late it is."""
    made = list[Bars | Boxes]()
    for name, phase, how in (
        ("bulk_wire", WIRE, "in segments of 1,448 bytes"),
        ("bulk_whole", WHOLE, "64 KiB at a time"),
    ):
        measure = phase.measure(Direction.TO_CONTAINER)
        bars = tuple(
            bar(one.name, one.role, _middle(gigabits(found)))
            for one in PUBLISHERS
            if one != AGAIN and (found := results.of(measure, one.name))
        )
        title = f"Bulk TCP through a published port, {how}"
        made.append(Bars(name, title, Axis("Gb/s of one processor"), bars, _WHERE))
    pace = PACES[0]
    costs = tuple(
        bar(one.name, one.role, _middle([replace(sample, value=sample.value / 1e3) for sample in found]))
        for one in PUBLISHERS
        if one != AGAIN and (found := results.of(packet(pace), one.name))
    )
    title = f"A UDP packet of {pace.size} bytes, {pace.rate:,} a second"
    made.append(Bars("packet_cost", f"{title}: what it costs", Axis("us of processor time"), costs, _WHERE))
    boxes = tuple(
        box(one.name, one.role, spread)
        for one in PUBLISHERS
        if one != AGAIN and (spread := results.spread(packet(pace), one.name))
    )
    remark = f"From when a packet was due, {pace.burst} at a time, until all {pace.burst} were read."
    made.append(Boxes("packet_delay", f"{title}: how long it takes", Axis("us since it was due"), boxes, remark))
    return [plot for plot in made if (plot.bars if isinstance(plot, Bars) else plot.boxes)]


def answers(results: Results) -> list[Answer]:
    """A KiB in both forms, and a packet; and for who only wants ports translated, ours without any program."""
    wire = WIRE.measure(Direction.TO_CONTAINER)
    asked = [
        (OURS, wire, "bulk TCP, segments of 1,448 bytes: processor time a KiB"),
        (NFT, wire, "bulk TCP, segments of 1,448 bytes, ours without programs: processor time a KiB"),
        (OURS, WHOLE.measure(Direction.TO_CONTAINER), "bulk TCP, 64 KiB at a time: processor time a KiB"),
        (OURS, packet(PACES[0]), f"UDP at {PACES[0].rate:,} a second: processor time a packet"),
    ]
    return [_answer(results, one, measure, what) for one, measure, what in asked if results.of(measure, one.name)]


def _measured(results: Results) -> tuple[list[Phase], list[Pace]]:
    """What there are samples of."""
    phases = [phase for phase in PHASES if results.of(phase.measure(Direction.TO_CONTAINER), OURS.name)]
    return phases, [pace for pace in PACES if results.of(packet(pace), OURS.name)]


def _controls(results: Results) -> int:
    """Of how many each control is one."""
    phases, paces = _measured(results)
    return len(Direction) * len(phases) + len(paces)


def _bulk(results: Results, phase: Phase, direction: Direction, controls: int) -> Iterator[Figure]:
    measure = phase.measure(direction)
    for one in PUBLISHERS:
        if one != AGAIN:
            found, note = gigabits(results.of(measure, one.name)), _uncounted(results, measure, one)
            yield median_figure(f"{measure}: {one.name}", found, "Gb/s", note=note)
    yield from _ratios(results, measure, "time a KiB", controls)


def _steady(results: Results, pace: Pace, controls: int) -> Iterator[Figure]:
    measure = packet(pace)
    for one in PUBLISHERS:
        if one != AGAIN:
            found, note = results.of(measure, one.name), _uncounted(results, measure, one)
            yield median_figure(f"{measure}: processor time, {one.name}", found, "ns", note=note)
    yield from _ratios(results, measure, "processor time", controls)
    for one in PUBLISHERS:
        spread = results.spread(measure, one.name)
        if one != AGAIN and spread:
            for share in (0.5, 0.99, 0.999):
                what = f"{measure}: {share * 100:g} % of them came within, {one.name}"
                count = sum(spread.values())
                yield Figure(what, spread_percentile(spread, share), "us", count=count, counted=Counted.SAMPLES)
    late, sent = (
        sum(one.value for one in results.samples if one.measure == f"{measure}, {kind}") for kind in (LATE, SENT)
    )
    if sent:
        yield count_figure(f"{measure}: sent late by a burst or more, of {sent:,.0f}", late)


def _ratios(results: Results, measure: str, what: str, controls: int) -> Iterator[Figure]:
    ours = results.of(measure, OURS.name)
    again = results.of(measure, AGAIN.name)
    yield control_figure(again, ours, f"control: {measure}, ours twice", of=controls)
    for one in _OTHERS:
        theirs = results.of(measure, one.name)
        beside, note = f"{measure}: {what}, {OURS.name} / {one.name}", _uncounted(results, measure, OURS, one)
        peer = one not in (NFT, VETH)
        yield ratio_figure(beside, ours, theirs, better=Better.LESS, note=note, peer=peer)
    alone = results.of(measure, NFT.name)
    what = f"{measure}: {what}, {NFT.name} / {MAP.name}"
    note = _uncounted(results, measure, NFT, MAP)
    yield ratio_figure(what, alone, results.of(measure, MAP.name), better=Better.LESS, note=note, peer=True)


def _troubles(results: Results, phase: Phase) -> Iterator[Figure]:
    """What ends and stack counted besides, of ours and of all others."""
    mine, others = (AGAIN.name, OURS.name), [one.name for one in PUBLISHERS if one not in {AGAIN, OURS}]
    for kind in (*INFO, *TROUBLE):
        found = {name: _total(results, trouble(phase, kind), name) for name in (*mine, *others)}
        if kind in INFO or any(found.values()):
            least, most = min(found[name] for name in others), max(found[name] for name in others)
            what = f"TCP {phase.name}: {kind}, {OURS.name}, twice"
            yield count_figure(what, sum(found[name] for name in mine), note=f"others {least:,.0f} to {most:,.0f} each")


def _answer(results: Results, publisher: Publisher, measure: str, what: str) -> Answer:
    ours = results.of(measure, publisher.name)
    besides = []
    for one in _BESIDES:
        ratios = paired(ours, results.of(measure, one.name))
        if ratios:
            besides.append(Beside(one.role, one.name, interval(ratios), _growth(results, measure, one)))
    return Answer(Kind.PACKET, what, "ns", _middle(ours), tuple(besides), doubt=_doubt(results, measure))


def _growth(results: Results, measure: str, publisher: Publisher) -> Growth | None:
    ratios = paired(results.of(measure, RULES.name), results.of(measure, RULE.name))
    if publisher != RULE or not ratios:
        return None
    return Growth(interval(ratios), 1, OTHERS, "published ports")


def _uncounted(results: Results, measure: str, *publishers: Publisher) -> str:
    """Whose processor time is about less than ``COUNTED`` of their rounds, in the median, and about how much; empty
    where nobody's is."""
    shares = {
        one.name: _middle(found).middle for one in publishers if (found := results.of(counted_of(measure), one.name))
    }
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share < COUNTED)
    return f"{UNPROVED}: only a part of the rounds was counted: {told}" if told else ""


def _doubt(results: Results, measure: str) -> str:
    """Why a measure says nothing of those that stand beside each other."""
    unproved = sorted({one.variant for one in results.samples if one.measure == "unproved" and one.value})
    if unproved:
        return f"not proved: {', '.join(unproved)}"
    amiss = LOST if measure in map(packet, PACES) else AMISS
    losers = [one.name for one in (OURS, AGAIN, NFT, *_BESIDES) if _total(results, amiss, one.name)]
    if losers:
        return f"{amiss}: {', '.join(losers)}"
    if uncounted := _uncounted(results, measure, OURS, AGAIN, NFT, *_BESIDES):
        return uncounted
    again, ours = results.of(measure, AGAIN.name), results.of(measure, OURS.name)
    return control_figure(again, ours, of=_controls(results)).note


def _total(results: Results, measure: str, variant: str | None = None) -> float:
    """The sum of all samples, those of disturbed blocks as well."""
    return sum(one.value for one in results.samples if one.measure == measure and variant in {None, one.variant})


def _middle(samples: Sequence[Sample]) -> Interval:
    return interval(list(block_medians(samples).values()))


def _cell(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    spread = _middle(samples)
    return f"{spread.middle:.3g} ({spread.low:.3g} - {spread.high:.3g})"
