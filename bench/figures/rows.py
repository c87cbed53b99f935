"""Figures: the rows of a scenario's table, each drawn from samples, and whether one says anything. Pure.

median_figure("ADD", results.of("ADD", "ours"), "ms", at_most=3.0)
ratio_figure("peer / ours", theirs, own, at_least=10.0)             # within blocks, with its 95 % interval
tail_figure("ADD", results.of("ADD", "ours"), "ms")                 # "ADD, p99", or "slowest" of less than a hundred
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.figures.measure import (
    CONTROL_BLOCKS,
    MOST_STEAL,
    Interval,
    Sample,
    differences,
    interval,
    paired,
    percentile,
)
from bench.figures.words import measured, number

UNPROVED = "NOT PROVED"
"""How the note of a figure begins whose path was not the one it is named for."""


DISTURBED = f"all its blocks had more than {MOST_STEAL:.0%} steal: repeat it on a quiet machine"
"""Why a figure says nothing that there are no others for."""

HUNDREDTH = 100
"""Values below which there is no slowest hundredth of them."""


class Counted(StrEnum):
    """What a figure is drawn of."""

    SAMPLES = "samples"
    BLOCKS = "blocks"


class Better(StrEnum):
    """Which way a ratio is for us."""

    LESS = "less"
    """As in ours / theirs."""
    MORE = "more"
    """As in theirs / ours."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table. ``value`` is None where nothing could be measured; the note says why."""

    what: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    count: int = 0
    must: str = ""
    met: bool | None = None
    note: str = ""
    better: Better | None = None
    """Of a ratio, where that is known."""
    control: bool = False
    """Whether it is of a variant against itself."""
    peer: bool = False
    """Whether it is a ratio of ours and of somebody else who does the same: not of the least there is."""
    counted: Counted | None = None
    """What ``count`` is of; None of a plain number."""
    disturbed: bool = False
    """Whether there are but blocks for it that the hypervisor disturbed."""

    @property
    def interval(self) -> Interval | None:
        """Of a figure that has one."""
        if self.value is None or self.low is None or self.high is None:
            return None
        return Interval(self.low, self.value, self.high, self.count)


def why_not(figure: Figure, others: Iterable[Figure]) -> str:
    """Why a figure says nothing, among all of its scenario; empty where it does.

    A control that is not met takes with it the ratios that are no further from 1 than the machine is from itself.
    """
    if figure.value is None or figure.note.startswith(UNPROVED):
        return figure.note or "not measured"
    if figure.disturbed:
        return DISTURBED
    if figure.control:
        return "" if figure.met else figure.note
    if figure.unit != "x":
        return ""
    spread = figure.interval
    if spread is None or spread.count < CONTROL_BLOCKS:
        return f"blocks are too few: {figure.count}"
    apart = max((_apart(one) for one in others if one.control and not one.met), default=1.0)
    if _no_further(spread, apart):
        return f"the machine differs from itself by up to {share_text(apart - 1)}, and this by no more"
    return ""


def doubt_of(controls: Sequence[Figure], ratios: Collection[Interval]) -> str:
    """Why ratios say nothing beside their controls: one has too few blocks, or is not met and one of them is no
    further from 1 than the machine is from itself. Empty where they do: what is ten times as fast is so on a machine
    that differs from itself by a fifth."""
    if not controls:
        return "there is no control"
    return next((why for why in (_doubt(control, ratios) for control in controls) if why), "")


def _doubt(control: Figure, ratios: Collection[Interval]) -> str:
    spread = control.interval
    if spread is None or spread.count < CONTROL_BLOCKS:
        return control.note or "there is no control"
    return control.note if any(_no_further(one, _apart(control)) for one in ratios) and not control.met else ""


def _apart(control: Figure) -> float:
    """The factor by which the machine differs from itself at the most, as far as a control says."""
    spread = control.interval
    return 1.0 if spread is None or spread.low <= 0 else max(spread.high, 1 / spread.low)


def share_text(part: float) -> str:
    """How far something is from 1, "2.1%", "20%": controls are held against whole ones."""
    return f"{part:.1%}" if part < 0.0995 else f"{part:.0%}"


def _no_further(ratio: Interval, apart: float) -> bool:
    return apart > 1 and ratio.low < apart and ratio.high > 1 / apart


def value(figure: Figure) -> str:
    """Its value with its unit: "1.23 ms"; "-" where there is none."""
    return "-" if figure.value is None else f"{measured(figure.value, figure.unit)} {figure.unit}".rstrip()


def spread(figure: Figure) -> str:
    """Its interval: "1.2 - 1.3"; empty where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{measured(figure.low, figure.unit)} - {measured(figure.high, figure.unit)}"


def median_figure(
    what: str, samples: Sequence[Sample], unit: str, at_most: float | None = None, note: str = ""
) -> Figure:
    """The median of all samples; its interval is that of the medians of the blocks, and one block has none."""
    must = "" if at_most is None else f"<= {number(at_most)} {unit}"
    if not samples:
        return Figure(what, None, unit, must=must, met=None if at_most is None else False, note=note or "not measured")
    blocks: dict[int, list[float]] = {}
    for sample in samples:
        blocks.setdefault(sample.block, []).append(sample.value)
    spread = interval([percentile(values, 0.5) for values in blocks.values()])
    middle = percentile([sample.value for sample in samples], 0.5)
    met = None if at_most is None else middle <= at_most
    low, high = (spread.low, spread.high) if spread.count > 1 else (None, None)
    return Figure(what, middle, unit, low, high, len(samples), must, met, note, counted=Counted.SAMPLES)


def tail_figure(what: str, samples: Sequence[Sample], unit: str) -> Figure:
    """The slowest hundredth, "WHAT, p99", without an interval; of less than a hundred values there is none, and what is
    told is "WHAT, slowest"."""
    if len(samples) < HUNDREDTH:
        return percentile_figure(f"{what}, slowest", samples, 1.0, unit)
    return percentile_figure(f"{what}, p99", samples, 0.99, unit)


def percentile_figure(what: str, samples: Sequence[Sample], share: float, unit: str) -> Figure:
    """A percentile of all samples, without an interval."""
    if not samples:
        return Figure(what, None, unit, note="not measured")
    middle = percentile([one.value for one in samples], share)
    return Figure(what, middle, unit, count=len(samples), counted=Counted.SAMPLES)


def ratio_figure(
    what: str,
    above: Sequence[Sample],
    below: Sequence[Sample],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    better: Better | None = None,
    note: str = "",
    peer: bool = False,
) -> Figure:
    """The median over blocks of the ratio within a block. A limit is held against the median.

    ``better`` says which way is for us; a limit says so too. ``peer``: see ``Figure``.
    """
    if better is None and (at_least is None) != (at_most is None):
        better = Better.MORE if at_most is None else Better.LESS
    bounds = ((">=", at_least), ("<=", at_most))
    must = ", ".join(f"{sign} {number(limit)} x" for sign, limit in bounds if limit is not None)
    ratios = paired(above, below)
    if not ratios:
        met = False if must else None
        return Figure(what, None, "x", must=must, met=met, note=note or "not measured", better=better, peer=peer)
    spread = interval(ratios)
    met = None
    if must:
        met = (at_least is None or spread.middle >= at_least) and (at_most is None or spread.middle <= at_most)
    return Figure(
        what, spread.middle, "x", spread.low, spread.high, spread.count, must, met, note, better,
        peer=peer, counted=Counted.BLOCKS,
    )  # fmt: skip


def difference_figure(
    what: str, above: Sequence[Sample], below: Sequence[Sample], unit: str, *, note: str = ""
) -> Figure:
    """The median over blocks of the difference within a block: what one costs beyond the other."""
    apart = differences(above, below)
    if not apart:
        return Figure(what, None, unit, note=note or "not measured")
    spread = interval(apart)
    bounds = (spread.low, spread.high)
    return Figure(what, spread.middle, unit, *bounds, spread.count, note=note, counted=Counted.BLOCKS)


def count_figure(
    what: str, value: float | None, unit: str = "", at_most: float | None = None, note: str = ""
) -> Figure:
    """A plain number, held against a limit where there is one."""
    must = "" if at_most is None else f"{'<= ' if at_most else ''}{number(at_most)} {unit}".rstrip()
    met = None if at_most is None else value is not None and value <= at_most
    return Figure(what, value, unit, count=0 if value is None else 1, must=must, met=met, note=note)
