"""Sheets that plots are drawn on: title above, legend and remark below, each in lines as long as there is room.

    with styled():
        figure, axes = sheet(4.6)
        ...
        lay_out(figure, plot.title, legend, plot.remark)

The figure is as high as its texts need, so that nothing overlaps and nothing is cut off, however long names are. All of
it can be read at half its size. Imports matplotlib.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.text import Text

from bench.figures.colours import INK, PAPER, RULE

WIDTH = 10.0
"""Inches, of every plot."""
DPI = 144
"""Of pixels: 1440 to a width, so that half of it fills a column of text."""
FONT, SMALL = 15.0, 13.0
"""Points: half of the smaller is still read."""

_MARGIN = 0.15  # inches
_LEGEND_NAME = 90  # characters

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": FONT,
    "axes.labelsize": FONT,
    "axes.titlesize": FONT,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "grid.color": RULE,
    "grid.linewidth": 1.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a $ in a name is one
    "svg.hashsalt": "dataplane",  # names within the file are the same each time
    "svg.fonttype": "path",  # looks the same where there are other fonts
    "savefig.dpi": DPI,
}


@dataclass(frozen=True, slots=True)
class Key:
    """What a legend explains."""

    artists: tuple[Artist, ...]
    names: tuple[str, ...]
    length: float = 3.6
    """Of each artist, in letters."""


@contextmanager
def styled() -> Iterator[None]:
    """As all plots look, whatever this machine's settings are."""
    with matplotlib.style.context(_STYLE, after_reset=True):
        yield


def sheet(height: float) -> tuple[Figure, Axes]:
    """An empty figure; ``height`` in inches is that of its axes with their labels."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def lay_out(figure: Figure, title: str, key: Key | None, remark: str) -> None:
    """Make room for title, legend and remark, and put them there."""
    width = WIDTH - 2 * _MARGIN
    above = _paragraph(figure, title, width, FONT + 2, "bold")
    legend = _legend(figure, key, width) if key else None
    below = _paragraph(figure, remark, width, SMALL, "normal")
    under = [one for one in (legend, below) if one is not None]
    head = _inches(above) + 2 * _MARGIN if above else _MARGIN
    foot = sum(_inches(one) + _MARGIN for one in under) + _MARGIN
    total = figure.get_figheight() + head + foot
    figure.set_figheight(total)
    left = _MARGIN / WIDTH
    if above:
        above.set_position((left, 1 - _MARGIN / total))
    top = foot - _MARGIN
    for one in under:
        bottom = top - _inches(one)
        if isinstance(one, Legend):
            one.set_bbox_to_anchor((left, bottom / total))
        else:
            one.set_position((left, top / total))
        top = bottom - _MARGIN
    room = (left, foot / total, 1 - 2 * left, 1 - (head + foot) / total)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=room))
    figure.draw_without_rendering()


def wrapped(text: str, width: int) -> str:
    """In lines of at most so many characters."""
    return "\n".join(chain.from_iterable(textwrap.wrap(line, width) for line in text.splitlines())) or text


def _legend(figure: Figure, key: Key, width: float) -> Legend:
    """In as many columns as there is room for."""
    names = [wrapped(name, _LEGEND_NAME) for name in key.names]
    for columns in range(min(4, len(names)), 1, -1):
        made = _columns(figure, key, names, columns)
        if made.get_window_extent().width / DPI <= width:
            return made
        made.remove()
    return _columns(figure, key, names, 1)


def _columns(figure: Figure, key: Key, names: Sequence[str], columns: int) -> Legend:
    made = figure.legend(
        key.artists, names, ncols=columns, loc="lower left", frameon=False, borderpad=0, borderaxespad=0,
        handlelength=key.length, columnspacing=1.6,
    )  # fmt: skip
    figure.draw_without_rendering()
    return made


def _paragraph(figure: Figure, text: str, width: float, size: float, weight: str) -> Text | None:
    """Text in lines of that many inches, not yet in its place; None where there is none."""
    if not text:
        return None
    artist = figure.text(0, 1, text, fontsize=size, fontweight=weight, va="top", linespacing=1.3)
    characters = len(text)
    while (wide := artist.get_window_extent().width / DPI) > width and characters > 1:
        characters = max(1, min(characters - 1, int(characters * width / wide)))
        artist.set_text(wrapped(text, characters))
    return artist


def _inches(artist: Artist) -> float:
    return artist.get_window_extent().height / DPI
