"""Two runs of the same scenarios: which figures changed, and how sure that is. Pure.

    found = compare(earlier, later)
    found.worse(1.05)                the ratios that are surely worse by more than that

Ratios are compared across machines, times only on one: and even there a machine drifts from day to day, which ratios
within blocks do not feel. So it is ratios alone that ``worse`` judges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from bench.figures.answers import Answer
from bench.figures.blocks import Table
from bench.figures.measure import Interval
from bench.figures.rows import Better
from bench.figures.words import Verdict, bounds, measured, times, verdict
from bench.report import machines
from bench.report.summary import Summary, Told

_BETTER = {
    **dict.fromkeys(("ns", "us", "ms", "s", "MiB"), Better.LESS),
    **dict.fromkeys(("Gb/s", "calls/s"), Better.MORE),
}
"""Which way quantities are for us, by unit; ratios say so themselves, and of anything else it is not known."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in two runs."""

    scenario: str
    what: str
    unit: str
    before: float
    after: float
    ratio: Interval | None
    """after / before; None where one of them has no interval."""
    better: Better | None
    """Which way is for us, where that is known."""
    judged: bool
    """Whether it is a ratio that says something in both runs."""
    why: str = ""
    """Why it is not to be believed."""

    @property
    def word(self) -> str:
        """ "faster", "slower", "same", "not told apart"; "more" and "less" where neither is known to be for us."""
        if self.why or self.ratio is None:
            return "doubtful" if self.why else ""
        found = verdict(self.ratio)
        if found not in {Verdict.FASTER, Verdict.SLOWER}:
            return found.value
        if self.better is None:
            return "less" if found is Verdict.FASTER else "more"
        return (Verdict.FASTER if (found is Verdict.FASTER) == (self.better is Better.LESS) else Verdict.SLOWER).value

    def worse_than(self, factor: float) -> bool:
        """Whether it is a ratio that is worse by more than a factor, as surely as its interval."""
        if not self.judged or self.why or self.ratio is None or self.better is None:
            return False
        if self.better is Better.LESS:
            return self.ratio.low > factor
        return self.ratio.high < 1 / factor


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two runs have in common, and what they do not."""

    apart: tuple[str, ...]
    """How the runs themselves differ: first of all what makes times incomparable."""
    one_machine: bool
    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    """Figures that only one of them has."""

    def worse(self, factor: float) -> tuple[Change, ...]:
        """Ratios that are surely worse by more than a factor."""
        return tuple(change for change in self.changes if change.worse_than(factor))

    @property
    def unjudged(self) -> int:
        """Ratios that say something and change, of which it is not known which way is for us."""
        return sum(one.judged and not one.why and one.better is None for one in self.changes)


def compare(before: Summary, after: Summary) -> Comparison:
    """What the second has beside the first."""
    apart, one_machine = _apart(before, after)
    changes, missing = list[Change](), list[str]()
    names = dict.fromkeys(told.name for summary in (before, after) for told in summary.scenarios)
    for name in names:
        one, other = before.scenario(name), after.scenario(name)
        if one is None or other is None:
            missing.append(f"{name}: only in the {'second' if one is None else 'first'}")
            continue
        firsts, seconds = dict(_rows(one)), dict(_rows(other))
        for key in dict.fromkeys([*firsts, *seconds]):
            if key not in firsts or key not in seconds:
                missing.append(f"{name}, {key}: only in the {'first' if key in firsts else 'second'}")
            elif (change := _change(name, key, firsts[key], seconds[key])) is not None:
                changes.append(change)
    return Comparison(apart, one_machine, tuple(changes), tuple(missing))


def table(found: Comparison) -> Table:
    """A row a figure that both have."""
    header = ("scenario", "what", "first", "second", "second / first", "")
    return Table(header, tuple(_cells(change, one_machine=found.one_machine) for change in found.changes))


@dataclass(frozen=True, slots=True)
class _Row:
    value: float
    unit: str
    spread: Interval | None
    better: Better | None
    why: str


def _rows(told: Told) -> Iterator[tuple[str, _Row]]:
    """What one run says, by name: its answers' ratios, then its figures."""
    for answer in told.answers:
        yield from _answered(told, answer)
    for figure in told.figures:
        if figure.value is not None and not figure.control:
            better = _BETTER.get(figure.unit, figure.better)
            yield figure.what, _Row(figure.value, figure.unit, figure.interval, better, told.why_not(figure))


def _answered(told: Told, answer: Answer) -> Iterator[tuple[str, _Row]]:
    for one in answer.besides:
        key = f"{answer.what}: ours / {one.name}"
        yield key, _Row(one.ratio.middle, "x", one.ratio, Better.LESS, told.doubt(answer))
    if answer.growth:
        key = f"{answer.what}: ours, {answer.growth.larger:,} / {answer.growth.smaller:,} {answer.growth.of}"
        yield key, _Row(answer.growth.ratio.middle, "x", answer.growth.ratio, Better.LESS, told.doubt(answer))


def _change(scenario: str, what: str, before: _Row, after: _Row) -> Change | None:
    if before.unit != after.unit:
        return None
    reasons = [f"{which}: {row.why}" for which, row in (("first", before), ("second", after)) if row.why]
    ratio = _quotient(after.spread, before.spread)
    judged = before.unit == "x" and ratio is not None
    better = after.better or before.better
    return Change(scenario, what, after.unit, before.value, after.value, ratio, better, judged, "; ".join(reasons))


def _quotient(above: Interval | None, below: Interval | None) -> Interval | None:
    """Of two medians that were measured apart: their relative errors add up as squares, to each side of its own."""
    if above is None or below is None or min(above.low, below.low) <= 0:
        return None
    middle = above.middle / below.middle
    down = math.hypot(math.log(above.middle / above.low), math.log(below.high / below.middle))
    up = math.hypot(math.log(above.high / above.middle), math.log(below.middle / below.low))
    return Interval(middle / math.exp(down), middle, middle * math.exp(up), min(above.count, below.count))


def _apart(before: Summary, after: Summary) -> tuple[tuple[str, ...], bool]:
    machine, run = list[str](), list[str]()
    for told in before.scenarios:
        other = after.scenario(told.name)
        if other is not None:
            machine += machines.other_machine(told.run, other.run)
            run += machines.other_run(told.run, other.run)
    found = [f"other machine: {one}" for one in dict.fromkeys(machine)]
    found += [f"other run: {one}" for one in dict.fromkeys(run)]
    return tuple(found), not machine


def _cells(change: Change, *, one_machine: bool) -> tuple[str, ...]:
    first, second = (
        f"{measured(value, change.unit)} {change.unit}".rstrip() for value in (change.before, change.after)
    )
    if change.unit != "x" and not one_machine:
        return change.scenario, change.what, first, second, "-", "times of two machines are not comparable"
    ratio = f"{times(change.ratio.middle)} ({bounds(change.ratio)})" if change.ratio else "-"
    word = f"{change.word}: {change.why}" if change.why else change.word
    return change.scenario, change.what, first, second, ratio, word
