"""Draws plots (``bench.figures.plots``) as SVG and PNG. Imports matplotlib: who only measures does without this.

    svg(plot)                        the text of a file; equal plots give equal texts
    write(plot, directory)           directory/NAME.svg and NAME.png

Who is measured has the same colour everywhere; lines of one colour differ in dashes, and all of them in markers.
Intervals are bands and whiskers.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bench.drawing.scales import plain_interval, plain_number, sizes_shown, ticks
from bench.drawing.sheets import Key, lay_out, sheet, styled, wrapped
from bench.figures.colours import INK, LIGHT, PAPER
from bench.figures.plots import Axis, Bars, Boxes, Curves, Line, Plot, Role

_CURVES = 4.6  # inches high
_ROW, _ROW_LINE = 0.48, 0.24  # inches: a bar or a box with its name, and each further line of that
_THICK = 0.32  # inches: a bar or a box
_BENEATH = 0.75  # inches: the axis below them
_NAME = 34  # characters of a name beside a bar
_ROLES = tuple(Role)
_MARKERS = "osD^vPX*"
_Dashes = str | tuple[int, tuple[float, ...]]
_DASHES: tuple[_Dashes, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))
_HOW_BOXES = "Box: the middle half, with the median; whiskers: 5 % to 95 %; cross: 99 %. At the right: median and 99 %."


def svg(plot: Plot) -> str:
    """The plot as the text of an SVG file. Raises ``ValueError`` for a plot that cannot be drawn."""
    return _svg(draw(plot), plot.title)


def write(plot: Plot, directory: Path) -> tuple[Path, Path]:
    """Write the plot as SVG and PNG; their paths. Raises ``OSError``, and ``ValueError`` as ``svg`` does."""
    vector, pixels = directory / f"{plot.name}.svg", directory / f"{plot.name}.png"
    figure = draw(plot)
    vector.write_text(_svg(figure, plot.title), encoding="utf-8")
    with styled():
        figure.savefig(pixels, format="png", metadata={"Software": None})
    return vector, pixels


def draw(plot: Plot) -> Figure:
    """The plot, laid out. Raises ``ValueError`` for one without anything in it, and for 0 or less on a log axis."""
    with styled():
        match plot:
            case Curves():
                return _curves(plot)
            case Bars():
                return _bars(plot)
            case Boxes():
                return _boxes(plot)
            case _:
                assert_never(plot)


def _svg(figure: Figure, title: str) -> str:
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with styled():
        figure.savefig(file, format="svg", metadata={**nothing, "Title": title})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _curves(plot: Curves) -> Figure:
    drawn = [line for line in plot.lines if line.points]
    points = [point for line in drawn for point in line.points]
    _check(plot, plot.x, [point.x for point in points])
    _check(plot, plot.y, [point.y for point in points])
    figure, axes = sheet(_CURVES)
    order = sorted(range(len(drawn)), key=lambda number: (drawn[number].role is not Role.OURS, number))
    for number, line in enumerate(drawn):
        of_role = sum(one.role is line.role for one in drawn[:number])
        _line(axes, line, _MARKERS[number % len(_MARKERS)], _DASHES[of_role % len(_DASHES)], order.index(number))
    axes.set_xlabel(plot.x.label)
    axes.set_title(plot.y.label, loc="left")
    xs = sorted({point.x for point in points})
    if plot.x.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sizes_shown(xs)))
    else:
        axes.xaxis.set_major_locator(FixedLocator(xs) if len(xs) <= 8 else MaxNLocator(8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
    bounds = [bound for point in points for bound in (point.low, point.y, point.high) if bound is not None]
    _scale(axes, "y", plot.y, bounds)
    handles, names = axes.get_legend_handles_labels()
    lay_out(figure, plot.title, Key(tuple(handles), tuple(names)), plot.remark)
    return figure


def _line(axes: Axes, line: Line, marker: str, dashes: _Dashes, rank: int) -> None:
    """A line with its band. Those of a later rank lie above, and are smaller: lines that coincide are all seen."""
    colour, ours = LIGHT[line.role], line.role is Role.OURS
    xs, ys = [point.x for point in line.points], [point.y for point in line.points]
    axes.plot(
        xs, ys, label=line.name, color=colour, linestyle=dashes, linewidth=5.0 if ours else 2.5, marker=marker,
        markersize=max(14 - 1.2 * rank, 6), markerfacecolor=colour if ours else PAPER, markeredgewidth=2.2,
        zorder=3 + rank / 100, clip_on=False,
    )  # fmt: skip
    sure = [(one.x, one.low, one.high) for one in line.points if one.low is not None and one.high is not None]
    if not sure:
        return
    at, lows, highs = zip(*sure, strict=True)
    if len(line.points) > 1:
        axes.fill_between(at, lows, highs, color=colour, alpha=0.2, linewidth=0, zorder=2)
    else:
        axes.plot(at * 2, lows + highs, color=colour, linewidth=2.5, zorder=2)


def _bars(plot: Bars) -> Figure:
    _check(plot, plot.y, [bar.value for bar in plot.bars])
    names = [wrapped(bar.name, _NAME) for bar in plot.bars]
    figure, axes, places = _rows(names)
    for place, bar in zip(places, plot.bars, strict=True):
        colour = LIGHT[bar.role]
        if plot.y.log:  # where 0 is not on the axis, a length says nothing
            axes.plot(
                [bar.value], [place], linestyle="", marker=_MARKERS[_ROLES.index(bar.role)], markersize=12, color=colour
            )
        else:
            axes.barh(place, bar.value, height=_THICK, color=colour)
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [place, place], color=INK, linewidth=2.5, marker="|", markersize=11)
    bounds = [bound for bar in plot.bars for bound in (bar.low, bar.value, bar.high) if bound is not None]
    axes.set_xlabel(plot.y.label)
    _scale(axes, "x", plot.y, bounds)
    _beside(axes, places, [plain_interval(bar.value, bar.low, bar.high) for bar in plot.bars])
    lay_out(figure, plot.title, _by_role([bar.role for bar in plot.bars]), plot.remark)
    return figure


def _boxes(plot: Boxes) -> Figure:
    bounds = [bound for box in plot.boxes for bound in (box.p5, box.p25, box.p50, box.p75, box.p95, box.p99)]
    _check(plot, plot.y, bounds)
    names = [wrapped(box.name, _NAME) for box in plot.boxes]
    figure, axes, places = _rows(names)
    for place, box in zip(places, plot.boxes, strict=True):
        colour = LIGHT[box.role]
        axes.plot([box.p5, box.p95], [place, place], color=colour, linewidth=2.5, marker="|", markersize=11, zorder=3)
        axes.barh(place, box.p75 - box.p25, left=box.p25, height=_THICK, color=colour, zorder=3)
        axes.plot([box.p50, box.p50], [place - _THICK / 2, place + _THICK / 2], color=INK, linewidth=3, zorder=4)
        axes.plot(
            [box.p99], [place], linestyle="", marker="x", color=colour, markersize=9, markeredgewidth=2.5, zorder=3
        )
    axes.set_xlabel(plot.y.label)
    _scale(axes, "x", plot.y, bounds)
    _beside(axes, places, [f"{plain_number(box.p50)}, p99 {plain_number(box.p99)}" for box in plot.boxes])
    remark = " ".join(part for part in (plot.remark, _HOW_BOXES) if part)
    lay_out(figure, plot.title, _by_role([box.role for box in plot.boxes]), remark)
    return figure


def _check(plot: Plot, axis: Axis, values: Sequence[float]) -> None:
    if not values:
        raise ValueError(f'could not draw the plot "{plot.name}": there is nothing in it')
    if axis.log and min(values) <= 0:
        raise ValueError(f'could not draw the plot "{plot.name}": {min(values):g} is on no logarithmic axis')


def _rows(names: Sequence[str]) -> tuple[Figure, Axes, list[float]]:
    """A row for each name, from top to bottom, as high as it has lines; and where its middle is, in inches."""
    heights = [_ROW + _ROW_LINE * name.count("\n") for name in names]
    places = [sum(heights[:number]) + height / 2 for number, height in enumerate(heights)]
    figure, axes = sheet(sum(heights) + _BENEATH)
    axes.set_yticks(places, names)
    axes.set_ylim(sum(heights), 0)
    axes.tick_params("y", length=0)
    axes.grid(visible=False, axis="y")
    return figure, axes, places


def _beside(axes: Axes, places: Sequence[float], texts: Sequence[str]) -> None:
    """A column of values at the right of the rows."""
    right = axes.twinx()
    right.set_ylim(axes.get_ylim())
    right.set_yticks(places, texts)
    right.tick_params("y", length=0)
    right.grid(visible=False)
    for spine in right.spines.values():
        spine.set_visible(False)


def _scale(axes: Axes, which: str, axis: Axis, values: Sequence[float]) -> None:
    """From 0, or logarithmic with plain numbers."""
    along = axes.yaxis if which == "y" else axes.xaxis
    limits = axes.set_ylim if which == "y" else axes.set_xlim
    if axis.log:
        along.axes.set(**{f"{which}scale": "log"})
        positive = [value for value in values if value > 0]
        room = max(1.15, (max(positive) / min(positive)) ** 0.06)
        low, high = min(positive) / room, max(positive) * room
        along.set_major_locator(FixedLocator(ticks(low, high)))
        limits(low, high)
    else:
        limits(min(0.0, min(values) * 1.08), max(0.0, max(values) * 1.08) or 1.0)
        along.set_major_locator(MaxNLocator(6))
    along.set_minor_locator(NullLocator())
    along.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))


def _by_role(roles: Sequence[Role]) -> Key | None:
    """Whose a colour is, where there are several."""
    there = [role for role in Role if role in roles]
    if len(there) < 2:
        return None
    patches = tuple(Line2D([], [], color=LIGHT[role], marker="s", markersize=12, linestyle="") for role in there)
    return Key(patches, tuple(role.value for role in there), 1.0)
