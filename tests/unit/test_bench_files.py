"""A run as files: raw results however they ended, the summary, and all that is written from them."""

from __future__ import annotations

import json
import lzma
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import bench
from bench.figures import Log, Results
from bench.figures.measure import Interval
from bench.figures.plots import Boxes, Plot, Role, box
from bench.native import BenchError
from bench.report.contents import contents
from bench.report.markdown import render
from bench.report.shape import plain, shaped
from bench.report.summary import Summary, tell
from bench.report.write import of_results, stored, write
from bench.scenarios import NAMES, find
from support.plotted import BARS, BOXES, CURVES
from support.summarized import PACKETS, RUN, SUMMARY, TRIP, around

PLOTTED = {CURVES.name, BARS.name}


def quiet(_: str) -> None:
    """Nobody listens."""


def test_a_summary_comes_back_from_json() -> None:
    """Equal to what it was: reports and comparisons need no raw results."""
    text = json.dumps(SUMMARY.to_json())
    assert Summary.from_json(json.loads(text)) == SUMMARY
    ratio = json.loads(text)["scenarios"]["updates"]["figures"][1]
    assert (ratio["valid"], ratio["why"]) == (
        False,
        "the machine differs from itself by up to 30%, and this by no more",
    )


@pytest.mark.parametrize(
    ("plots", "why"),
    [
        ((BARS, BARS), 'could not name the plots of "agent_cost": there are two of layers'),
        ((replace(BARS, name="../layers"),), 'could not name a plot of "agent_cost" "../layers"'),
    ],
)
def test_a_plot_has_a_name_of_its_own_that_a_file_can_have(plots: tuple[Plot, ...], why: str) -> None:
    """Or the scenario is wrong."""
    scenario = replace(find("agent_cost"), plots=lambda _: plots)
    with pytest.raises(ValueError, match=why):
        tell(scenario, Results(RUN))


@pytest.mark.parametrize("fields", [{}, {"version": 1}, {"version": 2}, {"version": 2, "scenarios": {"x": {}}}])
def test_what_is_no_summary_is_refused(fields: dict[str, object], tmp_path: Path) -> None:
    """With the file, and what to do."""
    (tmp_path / "summary.json").write_text(json.dumps(fields))
    with pytest.raises(BenchError, match=r"could not read the summary .*summary.json: "):
        stored(tmp_path)


def test_values_keep_their_types() -> None:
    """A value of another type is refused and not carried on; unknown fields are left out."""
    interval = Interval(1.0, 2.0, 3.0, 4)
    assert shaped(Interval, {**plain(interval), "later": 1}) == interval
    with pytest.raises(ValueError, match="this is no Interval"):
        shaped(Interval, {**plain(interval), "count": "4"})
    with pytest.raises(ValueError, match="this is no Interval"):
        shaped(Interval, {"low": 1.0})


def lines(directory: Path, name: str, *, end: bool = True) -> str:
    """Raw results, as a scenario writes them."""
    path = directory / f"{name}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        log = Log(file, {**RUN, "scenario": name}, quiet)
        log.sample("rss", "idle", 26.0)
        log.block(0, 0.0, 0.5)
        if end:
            log.end()
    return path.read_text()


def test_packed_results_are_read(tmp_path: Path) -> None:
    """As those that are not; which are read where there are both."""
    text = lines(tmp_path, "agent_cost")
    (whole,) = of_results(tmp_path).scenarios
    (tmp_path / "agent_cost.jsonl").unlink()
    with lzma.open(tmp_path / "agent_cost.jsonl.xz", "wt") as file:
        file.write(text)
    assert of_results(tmp_path).scenarios == (whole,)
    assert not whole.cut


@pytest.mark.parametrize("keep", [1.0, 0.97])
def test_an_interrupted_run_is_told_as_far_as_it_came(tmp_path: Path, keep: float) -> None:
    """Whether it ended between two lines or within one, and the report says so."""
    text = lines(tmp_path, "agent_cost", end=False)
    (tmp_path / "agent_cost.jsonl").write_text(text[: int(len(text) * keep)])
    summary = of_results(tmp_path)
    (told,) = summary.scenarios
    assert "interrupted" in told.cut
    assert [one.value for one in told.figures if one.what.startswith("idle: resident")] == [26.0]
    assert "agent_cost: interrupted" in render(contents(summary, drawn=()))


def test_files_that_are_no_results_are_left_out_and_named(tmp_path: Path) -> None:
    """An empty one, damage in the middle, a broken archive: the rest is reported."""
    text = lines(tmp_path, "agent_cost")
    (tmp_path / "storm.jsonl").write_text("")
    (tmp_path / "repair.jsonl").write_text(text.replace('{"kind": "sample"', "{kind", 1))
    (tmp_path / "continuity.jsonl.xz").write_bytes(lzma.compress(text.encode())[:-20])
    summary = of_results(tmp_path)
    assert [told.name for told in summary.scenarios] == ["agent_cost"]
    assert set(summary.left_out) == {"storm.jsonl", "repair.jsonl", "continuity.jsonl.xz"}
    assert "line 2 is no JSON" in summary.left_out["repair.jsonl"]


def test_a_directory_without_results_is_an_error(tmp_path: Path) -> None:
    """That says how to make some."""
    with pytest.raises(BenchError, match=r"there are no results; dpctl bench run --out DIR"):
        of_results(tmp_path)


def test_all_files_are_written(tmp_path: Path) -> None:
    """Summary, report, page and plots; again from the summary alone, and equal."""
    write(SUMMARY, tmp_path, quiet)
    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    expected = {"summary.json", "report.md", "report.html"}
    expected |= {f"plots/{name}.{kind}" for name in PLOTTED for kind in ("svg", "png")}
    assert {str(name) for name in files} == expected
    done = CliRunner().invoke(bench, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == files


def test_a_plot_that_cannot_be_drawn_takes_no_other_with_it(tmp_path: Path) -> None:
    """The report has the others, and says why not this one."""
    zero = replace(BARS, name="zero", y=replace(BARS.y, log=True), bars=(replace(BARS.bars[0], value=0.0),))
    text = write(Summary((replace(PACKETS, plots=(zero, CURVES)),)), tmp_path, quiet)
    assert 'plot zero: left out: could not draw the plot "zero": 0 is on no logarithmic axis' in text
    assert "plots/first_packet.svg" in text
    assert "plots/zero.svg" not in text


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_can_be_told_of_nothing(name: str) -> None:
    """Interrupted before the first sample, or without peers: its figures, tables, plots and answers are drawn, or are
    not there."""
    told = tell(find(name), Results(RUN))
    assert not told.plots
    assert not told.answers
    assert all(figure.met is not True for figure in told.figures)


def test_an_empty_plot_is_none(tmp_path: Path) -> None:
    """Where nothing was measured that a plot is of, as a peer that is not installed."""
    empty = replace(CURVES, lines=tuple(replace(line, points=()) for line in CURVES.lines))
    scenario = replace(find("agent_cost"), plots=lambda _: (empty, replace(BARS, bars=()), BOXES))
    assert tell(scenario, Results(RUN)).plots == (BOXES,)


def test_a_run_that_was_interrupted_too_early_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a scenario cannot draw what is not there; a whole run of it is an error, and not hidden."""
    short = replace(find("agent_cost"), plots=lambda _: [Boxes("b", "b", BARS.y, (box("none", Role.OURS, {}),))])
    monkeypatch.setattr("bench.report.write.find", lambda _: short)
    lines(tmp_path, "agent_cost", end=False)
    assert "which is too little: no values" in of_results(tmp_path).left_out["agent_cost.jsonl"]
    lines(tmp_path, "agent_cost")
    with pytest.raises(ValueError, match="no values"):
        of_results(tmp_path)


def test_without_matplotlib_all_but_the_plots_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is said how to have them."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("bench.drawing.draw", "bench.drawing.sheets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("bench.drawing.draw", raising=False)
    said: list[str] = []
    text = write(SUMMARY, tmp_path, said.append)
    assert any("pip install 'dataplane[bench]'" in line for line in said)
    assert "pip install 'dataplane[bench]'" in text
    assert "![" not in text
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "plots").exists()


def test_answers_keep_their_intervals() -> None:
    """What the table is drawn from is what the scenario said."""
    assert around(2.0).contains(2.0)
    assert Summary.from_json(json.loads(json.dumps(SUMMARY.to_json()))).scenarios[0].answers == (TRIP,)
