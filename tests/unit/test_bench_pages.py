"""A report as it is read: Markdown, and one page that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from bench.drawing.draw import svg
from bench.figures import grid
from bench.figures.blocks import Heading, Items, Table, Text, parse
from bench.report.contents import contents
from bench.report.html import inline, page
from bench.report.markdown import render
from support.plotted import BARS, CURVES, PLOTS
from support.summarized import SUMMARY

PLOTTED = {CURVES.name, BARS.name}


def test_the_report_is_markdown() -> None:
    """Headings, tables whose cells cannot break out, pictures beside it, no HTML of a name's own."""
    text = render(contents(SUMMARY, drawn=PLOTTED), "plots")
    assert text.startswith("# ")
    assert f"![{CURVES.title}](plots/first_packet.svg)" in text
    assert "add one mapping \\| of many<br>**doubtful: see below**" in text
    assert "&lt;b>1&lt;/b>" in text
    assert "<= 2 x" in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    widths = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| ")]
    assert set(widths) == {3, 6, 7}


def test_a_plot_that_was_not_drawn_is_not_linked() -> None:
    """Without matplotlib the report has no broken pictures."""
    assert "![" not in render(contents(SUMMARY, drawn=()))


class Page(HTMLParser):
    """What a browser would see: tags that are closed, and where it would go."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.asked: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in {"src", "href", "xlink:href", "srcset", "data", "action"} or name.startswith("on"):
                self.asked.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else() -> None:
    """No script, no link to anywhere but itself, every tag closed, every name of a drawing its own."""
    drawings = {plot.name: svg(plot) for plot in PLOTS}
    text = page("Figures & <more>", contents(SUMMARY, drawn=drawings), drawings)
    seen = Page()
    seen.feed(text)
    assert not seen.open
    assert not seen.tags & {"script", "link", "img", "iframe", "object"}
    assert all(one.startswith("#") and one[1:] in seen.ids for one in seen.asked)
    assert len(seen.ids) == len(set(seen.ids))
    assert "url(http" not in text
    assert "@import" not in text
    assert "<title>Figures &amp; &lt;more&gt;</title>" in text
    assert "&lt;b&gt;1&lt;/b&gt;" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_a_drawing_takes_the_colours_of_the_page() -> None:
    """Light on dark where the page is: no colour of its own is left, nor a size."""
    drawn = inline("layers", svg(BARS))
    assert "var(--ours, #0072b2)" in drawn
    assert not re.search(r"[^,] #[0-9a-f]{6}\b", drawn)
    assert " width=" not in drawn.partition(">")[0]
    assert 'id="layers-' in drawn


def test_a_table_of_a_scenario_comes_back_from_markdown() -> None:
    """Title, header, cells with what would end them."""
    text = grid("sides", ("", "a|b"), [("x\ny", "1"), ("**z**", "")]) + "\na remark\n"
    assert list(parse(text)) == [
        Heading(3, "sides"),
        Table(("", "a|b"), (("x\ny", "1"), ("**z**", ""))),
        Text("a remark"),
    ]


def test_a_list_is_rendered_as_one() -> None:
    """An item a line."""
    assert render([Items(("a", "b <i>"))]) == "* a\n* b &lt;i>\n"
