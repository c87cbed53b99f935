"""Figures in the project's own texts are those of the results that are committed beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.report.contents import contents
from bench.report.markdown import render
from bench.report.snippets import fill, names
from bench.report.write import PLOTS, REPORT, stored

TREE = Path(__file__).parents[2]
RESULTS = TREE / "bench" / "results"
TEXTS = [TREE / "README.md", TREE / "bench" / "README.md", *sorted((TREE / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(TREE)))
def test_no_figure_in_a_text_is_written_by_hand(path: Path) -> None:
    """What stands between marks is what ``dpctl bench readme bench/results`` would put there."""
    text = path.read_text(encoding="utf-8")
    assert fill(text, stored(RESULTS), os.path.relpath(RESULTS / PLOTS, path.parent)) == text


def test_the_texts_that_tell_figures_ask_for_them() -> None:
    """Or what keeps them true would have nothing to compare."""
    asked = {path: names(path.read_text(encoding="utf-8")) for path in TEXTS}
    assert {path for path, found in asked.items() if found} == {TREE / "README.md", TREE / "bench" / "README.md"}
    assert any(name.startswith("plot ") for name in asked[TREE / "README.md"])


def test_plots_that_a_text_shows_are_there() -> None:
    """A picture that is asked for is committed beside the summary."""
    for path in TEXTS:
        for name in names(path.read_text(encoding="utf-8")):
            kind, _, plot = name.partition(" ")
            assert kind != "plot" or (RESULTS / PLOTS / f"{plot}.svg").exists(), name


def test_the_report_is_that_of_its_summary() -> None:
    """Nobody has touched the Markdown since it was drawn."""
    drawn = (RESULTS / REPORT).read_text(encoding="utf-8")
    plots = frozenset(one.stem for one in (RESULTS / PLOTS).glob("*.svg"))
    assert render(tuple(contents(stored(RESULTS), drawn=plots)), PLOTS) == drawn
