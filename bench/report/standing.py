"""The one table that a run is made for: ours beside raw veth, the best pure nft and what people run, and how each grows
with size; where ours does not win; what is doubtful. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures.answers import Answer, Beside, Growth, Kind
from bench.figures.blocks import Block, Heading, Items, Table, Text
from bench.figures.measure import CONTROL_BLOCKS, Interval
from bench.figures.plots import Role
from bench.figures.rows import value
from bench.figures.words import Verdict, faster, measured, verdict
from bench.report.summary import Summary, Told

_COLUMNS = {
    "beside the least there is": (Role.FLOOR,),
    "beside the best pure nft": (Role.PURE,),
    "beside what people run": (Role.TODAY, Role.TODAY_TOO),
}
_OWN = (Role.OURS, Role.OURS_TOO)
_NOTHING = "-"
_HEADER = ("", "ours", *_COLUMNS, "growth with size")

LEGEND = (
    "Each ratio is of medians within a block, with its 95 % interval: *2.1x faster (2.0 - 2.2)* took 1/2.1 of the "
    "other's time. *same* holds 1 within 5 %, or differs from it by less than 2 %, of which no control is sure; *not "
    "told apart* holds 1, and more than that. "
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
    if rows:
        yield Heading(3, "Where ours does not win")
        yield _listed([line for told, answer in rows for line in _not_won(told, answer)], "Nowhere in this table.")
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
    """One line, where others are as fast as ours, or faster, or where ours grows."""
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


def _doubts(summary: Summary) -> Iterator[str]:
    for told in summary.scenarios:
        yield from (f"{told.name}: {doubt}" for doubt in told.doubts)
        yield from (f"{told.name}, {one.what}: {one.doubt}" for one in told.answers if one.doubt)
    yield from (f"{name}: left out: {why}" for name, why in summary.left_out.items())
