"""Plots: readable, whole, the same each time; and the numbers along their axes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from bench.drawing.draw import draw, svg, write
from bench.drawing.scales import MOST, plain_interval, plain_number, sizes_shown, ticks
from bench.drawing.sheets import DPI, WIDTH
from bench.figures.colours import DARK, LIGHT
from bench.figures.plots import Axis, Bars, Curves, Line, Plot, Point, Role
from support.plotted import BARS, BOXES, CURVES, PLOTS, SIZES

SHORT = replace(CURVES, name="short", lines=CURVES.lines[:1], title="One", remark="")
LONG = replace(BARS, name="long", title="a title that does not end " * 12, remark="nor does its remark end " * 20)
ONE_SIZE = replace(CURVES, name="one", lines=tuple(replace(line, points=line.points[:1]) for line in CURVES.lines))
SMALL_RANGE = replace(BARS, name="log", y=Axis("us", log=True), bars=BARS.bars[:3])
ALL = (*PLOTS, SHORT, LONG, ONE_SIZE, SMALL_RANGE)


@cache
def laid_out(plot: Plot) -> Figure:
    """A plot's figure, drawn once for all who only look at it."""
    return draw(plot)


def texts_of(figure: Figure) -> list[Text]:
    """All of them, empty ones too."""
    return figure.findobj(Text)


def shown(figure: Figure) -> Iterator[tuple[Artist, Bbox]]:
    """The texts, legends and lines of a figure, and where they are, in pixels."""
    lines = [line for axes in figure.axes for line in axes.lines]
    texts = [text for text in texts_of(figure) if text.get_text()]
    for artist in (*lines, *texts, *figure.legends):
        if artist.get_visible():
            yield artist, artist.get_window_extent()


@pytest.mark.parametrize("plot", ALL, ids=lambda plot: plot.name)
def test_nothing_is_cut_off(plot: Plot) -> None:
    """All that a figure shows lies within it, however long titles, names and remarks are."""
    figure = laid_out(plot)
    figure.draw_without_rendering()
    for artist, box in shown(figure):
        where = figure.bbox.padded(0.5)
        assert where.x0 <= box.x0 <= box.x1 <= where.x1, artist
        assert where.y0 <= box.y0 <= box.y1 <= where.y1, artist
    tight = figure.get_tightbbox()
    assert tight.x0 >= 0
    assert tight.y0 >= 0
    assert tight.x1 <= figure.get_figwidth()
    assert tight.y1 <= figure.get_figheight()


@pytest.mark.parametrize("plot", ALL, ids=lambda plot: plot.name)
def test_no_text_lies_upon_another(plot: Plot) -> None:
    """Neither title, labels, numbers, legend nor remark."""
    figure = laid_out(plot)
    figure.draw_without_rendering()
    texts = [(artist, box) for artist, box in shown(figure) if isinstance(artist, Text)]
    assert len(texts) > 5
    for (one, first), (other, second) in combinations(texts, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        down = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert across <= 1 or down <= 1, (one, other)


@pytest.mark.parametrize("plot", ALL, ids=lambda plot: plot.name)
def test_it_is_readable_at_half_its_size(plot: Plot) -> None:
    """No letter below 12 points, no line of data below 2."""
    figure = laid_out(plot)
    assert all(float(text.get_fontsize()) >= 12 for text in texts_of(figure) if text.get_text())
    lines = [line for axes in figure.axes for line in axes.lines if line.get_linestyle() != "None"]
    assert all(line.get_linewidth() >= 2 for line in lines)


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_axes_are_labelled(plot: Plot) -> None:
    """With what the plot says of them: the quantity and its unit."""
    figure = laid_out(plot)
    texts = {text.get_text() for text in texts_of(figure)}
    assert plot.y.label in texts
    assert not isinstance(plot, Curves) or plot.x.label in texts


def test_lines_differ_by_more_than_colour() -> None:
    """Each has a marker of its own, and those of one colour have dashes of their own."""
    lines = [line for line in laid_out(CURVES).axes[0].lines if len(line.get_xdata()) > 1]  # type: ignore[arg-type]
    assert len({line.get_marker() for line in lines}) == len(lines) == len(CURVES.lines)
    looks = {(str(line.get_color()), str(line._dash_pattern)) for line in lines}  # type: ignore[attr-defined]
    assert len(looks) == len(lines)


def test_intervals_are_bands_and_whiskers() -> None:
    """A band along sizes; a whisker where there is but one of them."""
    bands = laid_out(CURVES).axes[0].collections
    assert len(bands) == len(CURVES.lines)
    axes = laid_out(ONE_SIZE).axes[0]
    assert not axes.collections
    assert len(axes.lines) == 2 * len(CURVES.lines)


def test_the_same_plot_gives_the_same_file(tmp_path: Path) -> None:
    """Also in another process: a report that is drawn again changes nothing."""
    one, _ = write(CURVES, tmp_path)
    code = "from bench.drawing.draw import svg; from support.plotted import CURVES; print(svg(CURVES), end='')"
    paths = ":".join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": paths, "PYTHONHASHSEED": "7", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == one.read_text()


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_files_are_what_they_are_called(plot: Plot, tmp_path: Path) -> None:
    """SVG is XML without a date; PNG is one, as wide as promised."""
    vector, pixels = write(plot, tmp_path)
    assert (vector.name, pixels.name) == (f"{plot.name}.svg", f"{plot.name}.png")
    root = ET.fromstring(vector.read_text())  # noqa: S314 - our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "date" not in vector.read_text()
    head = pixels.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(head[16:20]) == WIDTH * DPI


def test_names_are_drawn_as_they_are() -> None:
    """A $ starts no formula, an & and a < break no file."""
    plot = replace(BARS, bars=(replace(BARS.bars[0], name="$x$ & <b>_^{"),))
    assert "$x$ & <b>_^{" in {text.get_text() for text in texts_of(draw(plot))}
    ET.fromstring(svg(plot))  # noqa: S314 - our own


def test_bars_begin_at_0() -> None:
    """Their length is what they say; on a logarithmic axis, where it says nothing, they are dots."""
    figure = laid_out(BARS)
    assert figure.axes[0].get_xlim()[0] == 0
    assert len(figure.axes[0].patches) == len(BARS.bars)
    assert not draw(replace(BARS, y=Axis("us", log=True))).axes[0].patches


@pytest.mark.parametrize(
    ("plot", "why"),
    [
        (Bars("none", "none", Axis("us"), ()), "there is nothing in it"),
        (replace(CURVES, name="none", lines=(Line("ours", Role.OURS, ()),)), "there is nothing in it"),
        (replace(CURVES, name="zero", lines=(Line("ours", Role.OURS, (Point(0, 1),)),)), "0 is on no logarithmic axis"),
        (replace(BOXES, name="below", boxes=(replace(BOXES.boxes[0], p5=-1),)), "-1 is on no logarithmic axis"),
    ],
    ids=lambda value: value.name if not isinstance(value, str) else "",
)
def test_what_cannot_be_drawn_is_named(plot: Plot, why: str) -> None:
    """With the plot's name."""
    with pytest.raises(ValueError, match=f'could not draw the plot "{plot.name}": {why}'):
        draw(plot)


def test_every_role_has_its_colour() -> None:
    """No two have the same, by day or by night."""
    assert len(set(LIGHT.values())) == len(set(DARK.values())) == len(Role)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (7.4, "7.4"), (12.345, "12.3"), (999.96, "1k"), (100, "100"), (1_000, "1k"),
     (1_500, "1.5k"), (60_000, "60k"), (2_000_000, "2M"), (-3, "-3")],
)  # fmt: skip
def test_numbers_are_plain(value: float, text: str) -> None:
    """No exponents, three digits."""
    assert plain_number(value) == text


def test_an_interval_is_as_exact_as_its_value() -> None:
    """9 beside 9.28 is 9.00."""
    assert plain_interval(9.28, 9.0, 9.651) == "9.28 (9.00 - 9.65)"
    assert plain_interval(1500, 990, 2000) == "1.50k (0.99k - 2.00k)"
    assert plain_interval(9.28, None, None) == "9.28"


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0.9, 110, (1, 2, 5, 10, 20, 50, 100)),
        (4.8, 43, (5, 10, 20)),
        (8.7, 21.4, (10, 15, 20)),
        (1, 60_000, (1, 10, 100, 1_000, 10_000)),
        (17, 20, (17, 18, 19, 20)),
        (0.97, 1.04, (0.98, 1.0, 1.02, 1.04)),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_round_and_some(low: float, high: float, found: tuple[float, ...]) -> None:
    """From 1-2-5 where there is room for these, and as on a linear axis where they are too few."""
    assert ticks(low, high) == found
    assert len(ticks(low, high)) <= MOST
    assert all(one < other for one, other in pairwise(ticks(low, high)))


def test_many_decades_have_few_ticks() -> None:
    """Every second or third of them."""
    assert 3 <= len(ticks(1e-9, 1e9)) <= MOST


def test_sizes_are_shown_where_there_is_room() -> None:
    """First and last always; of two that are next to each other, one."""
    assert sizes_shown(SIZES) == list(SIZES)
    assert sizes_shown([1, 10, 100, 50_000, 60_000]) == [1, 10, 100, 60_000]
    assert sizes_shown([1]) == [1]
