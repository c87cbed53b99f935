"""The one table that a run is made for: ours beside raw veth, the best pure nft and what people run, and how each grows
with size; where ours does not win, in this table and in any figure; what is doubtful. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures.answers import Answer, Beside, Growth, Kind
from bench.figures.blocks import Block, Heading, Items, Table, Text
from bench.figures.measure import CONTROL_BLOCKS, Interval
from bench.figures.plots import Role
from bench.figures.rows import Better, Figure, value
from bench.figures.words import Verdict, faster, inverse, measured, verdict
from bench.report.summary import Summary, Told

_COLUMNS = {
    "beside the least there is": (Role.FLOOR,),
    "beside the best pure nft": (Role.PURE,),
    "beside what people run": (Role.TODAY, Role.TODAY_TOO),
}
_OWN = (Role.OURS, Role.OURS_TOO)
_NOTHING = "-"
_FEW, _WORST = 5, 3
"""How many comparisons are named one by one; and how many of more."""
_HEADER = ("", "ours", *_COLUMNS, "growth with size")

LEGEND = (
    "Each ratio is of medians within a block, with its 95 % interval: *2.1x faster (2.0 - 2.2)* took 1/2.1 of the "
    "other's time. Of what holds 1, or comes within 2 % of it, of which no control is sure, *same* reaches no further "
    "than 5 % from 1, and *not told apart* does. "
    "Ratios carry over to other machines better than times do."
).replace("*", "**")


def table(summary: Summary, kind: Kind) -> Table:
    """A row an answer, and a column for each whom one of them is beside."""
    rows = [_HEADER, *(_row(told, answer) for told, answer in summary.answers(kind))]
    shown = [column for column in zip(*rows, strict=True) if set(column[1:]) != {_NOTHING}]
    header, *rest = zip(*shown, strict=True)
    return Table(header, tuple(rest))


def tables(summary: Summary) -> Iterator[Block]:
    """The table of each kind that has rows, and how to read them."""
    kinds = [kind for kind in Kind if any(summary.answers(kind))]
    if not kinds:
        yield Text("None of these scenarios has a row in the table that sets ours beside others.")
        return
    for kind in kinds:
        yield Heading(3, kind.value[0].upper() + kind.value[1:])
        yield table(summary, kind)
    yield Text(LEGEND)


def reservations(summary: Summary) -> Iterator[Block]:
    """What the figures do not flatter: where ours does not win, which limits it misses, and what is doubtful."""
    rows = [(told, answer) for kind in Kind for told, answer in summary.answers(kind)]
    if rows or any(one.peer for told in summary.scenarios for one in told.figures):
        yield Heading(3, "Where ours does not win")
        lines = [line for told, answer in rows for line in _not_won(told, answer)]
        lines += [line for told in summary.scenarios for line in _lost(told)]
        yield _listed(lines, "Nowhere: neither in this table nor in any comparison of a scenario.")
    yield Heading(3, "Limits that are not met")
    yield _listed([line for told in summary.scenarios for line in _not_met(told)], "None.")
    yield Heading(3, "What is doubtful")
    yield _listed(list(_doubts(summary)), "Nothing: every control held, and every path was proved.")


def _listed(lines: list[str], otherwise: str) -> Block:
    return Items(tuple(lines)) if lines else Text(otherwise)


def _not_met(told: Told) -> Iterator[str]:
    """Limits of figures that say something; and those that could not be shown to be met."""
    for one in told.figures:
        if one.met is False and not one.control and not told.smoke:
            yield f"{told.name}, {one.what}: {value(one)}, must be {one.must}"


def _row(told: Told, answer: Answer) -> tuple[str, ...]:
    doubtful = "**doubtful: see below**" if told.doubt(answer) else ""
    what = "\n".join(line for line in (answer.what, answer.remark, doubtful) if line)
    ours = [_time(answer.ours, answer.unit)]
    ours += [_beside(one) for one in answer.besides if one.role in _OWN]
    columns = [[_beside(one) for one in answer.besides if one.role in roles] for roles in _COLUMNS.values()]
    grown = [f"ours: {_growth(answer.growth)}"] if answer.growth else []
    grown += [f"{one.name}: {_growth(one.growth)}" for one in answer.besides if one.growth]
    return what, "\n".join(ours), *("\n".join(lines) or _NOTHING for lines in columns), "\n".join(grown) or _NOTHING


def _time(spread: Interval, unit: str) -> str:
    text = f"{measured(spread.middle, unit)} {unit}"
    if spread.count < 2:
        return text
    return f"{text} ({measured(spread.low, unit)} - {measured(spread.high, unit)})"


def _beside(one: Beside) -> str:
    few = _few(one.ratio)
    match verdict(one.ratio):
        case Verdict.FASTER | Verdict.SLOWER:
            return f"**{faster(one.ratio)}** than {one.name}{few}"
        case Verdict.SAME:
            return f"**{faster(one.ratio)}** as {one.name}{few}"
        case Verdict.UNSURE:
            return f"{faster(one.ratio)} from {one.name}{few}"


def _growth(growth: Growth) -> str:
    text = f"{faster(growth.ratio)} from {growth.smaller:,} to {growth.larger:,} {growth.of}"
    return f"{text}{_few(growth.ratio)}"


def _few(ratio: Interval) -> str:
    """A word on an interval that is none."""
    return f", of {ratio.count} blocks only" if ratio.count < CONTROL_BLOCKS else ""


def _not_won(told: Told, answer: Answer) -> Iterator[str]:
    """One line, where others are as fast as ours, or faster, where ours grows, or where it is not known."""
    if told.doubt(answer):
        yield ": ".join(part for part in (f"{told.name}, {answer.what}", "not known", answer.doubt) if part)
        return
    others = [one for one in answer.besides if one.role not in _OWN]
    parts = [
        _beside(one).replace("**", "") + (", the least there is" if one.role is Role.FLOOR else "")
        for one in others
        if verdict(one.ratio) is not Verdict.FASTER
    ]
    if answer.growth and verdict(answer.growth.ratio) is Verdict.SLOWER:
        parts.append(f"grows: {_growth(answer.growth)}")
    if parts:
        yield f"{told.name}, {answer.what}: {'; '.join(parts)}"


def _lost(told: Told) -> Iterator[str]:
    """One line on all figures that compare ours with somebody else's: in how many of them ours is surely slower, the
    worst by name, and of how many it is not known. What is the least there is, is no comparison."""
    compared = [one for one in told.figures if one.peer and one.better is not None]
    unknown = sum(bool(told.why_not(one)) for one in compared)
    beside = ((_beside_ours(one), one.what) for one in compared if not told.why_not(one))
    slower = [(ratio, what) for ratio, what in beside if ratio is not None and verdict(ratio) is Verdict.SLOWER]
    slower.sort(key=lambda one: one[0].middle, reverse=True)
    named = slower if len(slower) <= _FEW else slower[:_WORST]
    parts = [f"{what}: ours {faster(ratio)}" for ratio, what in named]
    parts += [f"and {len(slower) - len(named)} more below"] if len(slower) > len(named) else []
    parts += [f"not known: {unknown}"] if unknown else []
    if parts:
        yield f"{told.name}, of {len(compared)} comparisons surely slower in {len(slower)}: {'; '.join(parts)}"


def _beside_ours(figure: Figure) -> Interval | None:
    """A ratio's interval as ours / theirs."""
    spread = figure.interval
    return inverse(spread) if spread and figure.better is Better.MORE else spread


def _doubts(summary: Summary) -> Iterator[str]:
    for told in summary.scenarios:
        yield from (f"{told.name}: {doubt}" for doubt in told.doubts)
        yield from (f"{told.name}, {one.what}: {one.doubt}" for one in told.answers if one.doubt)
    yield from (f"{name}: left out: {why}" for name, why in summary.left_out.items())
