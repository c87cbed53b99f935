"""What the report of a run consists of, in its order: the one table, the machine, then each scenario. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from bench.figures.blocks import Block, Heading, Items, Picture, Table, parse
from bench.figures.plots import Plot
from bench.figures.rows import Figure, spread, value
from bench.report import machines, standing
from bench.report.summary import Summary, Told

TITLE = "How fast is it, beside others?"

_HEADER = ("what", "measured", "95 %", "n", "must", "")
_MET = {True: "met", False: "not met", None: ""}


def contents(summary: Summary, drawn: Collection[str]) -> Iterator[Block]:
    """All of it, with the pictures of the plots that were drawn."""
    yield Heading(1, TITLE)
    yield from standing.tables(summary)
    yield from standing.reservations(summary)
    yield Heading(2, "Measured on")
    yield machines.facts(summary)
    for told in summary.scenarios:
        yield from scenario(told, drawn)


def scenario(told: Told, drawn: Collection[str]) -> Iterator[Block]:
    """A scenario's plots, figures, tables and notes."""
    yield Heading(2, f"{told.name}: {told.question}")
    if told.doubts:
        yield Items(tuple(f"**doubtful**: {doubt}" for doubt in told.doubts))
    yield from (picture(plot) for plot in told.plots if plot.name in drawn)
    yield figures(told)
    for text in told.tables:
        yield from parse(text)
    yield Items((*told.notes, *machines.beside(told)))


def picture(plot: Plot) -> Picture:
    """Where a plot stands."""
    return Picture(plot.name, plot.title, plot.remark)


def figures(told: Told) -> Table:
    """A row a figure, with verdict, note and doubt in the last column; what is in doubt as a whole is said once."""
    return Table(_HEADER, tuple(_cells(figure, "" if told.smoke else told.why_not(figure)) for figure in told.figures))


def _cells(figure: Figure, why: str) -> tuple[str, ...]:
    doubtful = f"doubtful: {why}" if why and why not in figure.note and not figure.control else ""
    verdict = ". ".join(part for part in (_MET[figure.met], figure.note, doubtful) if part)
    count = f"{figure.count:,} {figure.counted or ''}".strip() if figure.count else ""
    return figure.what, value(figure), spread(figure), count, figure.must, verdict
