"""Figures in the project's own texts are those of the results that are committed beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.report.snippets import fill, names
from bench.report.write import PLOTS, stored

TREE = Path(__file__).parents[2]
RESULTS = TREE / "bench" / "results"
TEXTS = [TREE / "README.md", TREE / "bench" / "README.md", *sorted((TREE / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(TREE)))
def test_no_figure_in_a_text_is_written_by_hand(path: Path) -> None:
    """What stands between marks is what ``dpctl bench readme bench/results`` would put there."""
    text = path.read_text(encoding="utf-8")
    if names(text):
        assert fill(text, stored(RESULTS), os.path.relpath(RESULTS / PLOTS, path.parent)) == text
