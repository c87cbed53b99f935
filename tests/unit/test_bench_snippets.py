"""Figures in other texts: drawn from a summary, never written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import bench
from bench.report.snippets import fill, names
from support.plotted import BARS
from support.summarized import PORTMAP, SUMMARY, TRIP


def test_snippets_are_drawn_from_the_summary() -> None:
    """Between marks, on lines of their own or within one; what is around stays; a second time changes nothing."""
    text = (
        "# Title\n\n<!-- bench: answers per packet -->\nby hand\n<!-- /bench -->\n"
        "A trip takes <!-- bench: value layers: round trip, ours -->?<!-- /bench --> here, "
        f"<!-- bench: value layers: {TRIP.what}: {PORTMAP} --><!-- /bench -->.\n"
        "<!-- bench: plot layers --><!-- /bench -->\n<!-- bench: figures layers -->\n<!-- /bench -->\n"
        "<!-- bench: machine -->\n<!-- /bench -->\n<!-- bench: not won -->\n<!-- /bench -->\n"
    )
    drawn = fill(text, SUMMARY, "bench/results/plots")
    assert "round trip, ours -->9.6 us (9.4 - 9.8)<!-- /bench --> here" in drawn
    assert "4.0x faster (3.9 - 4.1)<!-- /bench -->" in drawn
    assert f"![{BARS.title}](bench/results/plots/layers.svg)" in drawn
    assert "by hand" not in drawn
    assert "**same (0.980 - 1.020)** as nft map" in drawn
    assert fill(drawn, SUMMARY, "bench/results/plots") == drawn
    assert names(drawn)[0] == "answers per packet"


def test_a_text_without_marks_stays_as_it_is() -> None:
    """Also one that speaks of comments."""
    assert fill("# Title <!-- other -->\n", SUMMARY, "plots") == "# Title <!-- other -->\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<!-- bench: nothing --><!-- /bench -->", 'snippet "nothing"'),
        ("<!-- bench: plot none --><!-- /bench -->", 'snippet "plot none"'),
        ("<!-- bench: figures none --><!-- /bench -->", 'scenario "none"'),
        ("<!-- bench: value layers: none --><!-- /bench -->", 'value "layers: none"'),
        ("<!-- bench: value updates: Go portmap / ours --><!-- /bench -->", "differs from itself"),
        ("<!-- bench: value updates: add one mapping | of many: libnftables --><!-- /bench -->", "control: differs"),
        ("<!-- bench: machine -->", "each has an end of its own"),
        ("<!-- bench: machine --><!-- bench: machine --><!-- /bench -->", "each has an end of its own"),
        ("<!-- /bench -->", "each has an end of its own"),
    ],
)
def test_a_snippet_that_cannot_be_drawn_is_an_error(text: str, why: str) -> None:
    """A wrong name, an end that is missing, or a figure that says nothing: no text has that."""
    with pytest.raises(ValueError, match=why):
        fill(text, SUMMARY, "plots")


def test_readme_writes_texts_and_checks_them(tmp_path: Path) -> None:
    """``--check`` fails where a text was edited, and not after it was drawn anew."""
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY.to_json()))
    text = tmp_path / "docs" / "text.md"
    text.parent.mkdir()
    text.write_text("<!-- bench: plot layers -->\n<!-- /bench -->\n")
    check = ["readme", str(tmp_path), str(text), "--check"]
    stale = CliRunner().invoke(bench, check)
    assert stale.exit_code == 1
    assert "text.md are not those of" in stale.output
    assert CliRunner().invoke(bench, check[:3]).exit_code == 0
    assert "](../plots/layers.svg)" in text.read_text()
    assert CliRunner().invoke(bench, check).exit_code == 0
