"""Two runs beside each other: what changed, how sure that is, and what must not be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.cli import bench
from bench.figures import Better, Figure
from bench.report.compare import Change, Comparison, compare, table
from bench.report.summary import Summary, Told
from support.summarized import PACKETS, RUN, SUMMARY, TRIP, around

OTHER = {**RUN, "cpu": "Another CPU"}


def run(*figures: Figure, facts: dict[str, object] | None = None) -> Summary:
    """A run of one scenario."""
    return Summary((Told("layers", "What?", facts or RUN, figures),))


def ratio(middle: float, better: Better | None = Better.LESS, share: float = 0.01, note: str = "") -> Figure:
    """A figure that is one."""
    return Figure("r", middle, "x", middle * (1 - share), middle * (1 + share), 30, better=better, note=note)


def time(middle: float, share: float = 0.01) -> Figure:
    """A figure that is one."""
    return Figure("t", middle, "ms", middle * (1 - share), middle * (1 + share), 300)


def only(found: Comparison) -> Change:
    """Its one change."""
    (change,) = found.changes
    return change


@pytest.mark.parametrize(
    ("before", "after", "better", "word", "worse"),
    [
        (1.0, 1.2, Better.LESS, "slower", True),
        (1.0, 1.2, Better.MORE, "faster", False),
        (1.2, 1.0, Better.LESS, "faster", False),
        (1.2, 1.0, Better.MORE, "slower", True),
        (1.0, 1.0, Better.LESS, "same", False),
        (1.0, 1.03, Better.LESS, "same", False),
        (1.0, 1.04, Better.LESS, "slower", False),
        (1.0, 1.06, Better.LESS, "slower", False),
        (1.0, 1.2, None, "more", False),
        (1.2, 1.0, None, "less", False),
    ],
)
def test_a_ratio_is_better_or_worse_by_its_interval(
    before: float, after: float, better: Better | None, word: str, worse: bool
) -> None:
    """Whichever way is for us; and worse than a limit only where the interval excludes it: 1.06 may be 1.05."""
    found = compare(run(ratio(before, better)), run(ratio(after, better)))
    assert only(found).word == word
    assert bool(found.worse(1.05)) is worse
    assert found.unjudged == (better is None)


def test_the_interval_of_a_change_is_wider_than_those_it_is_of() -> None:
    """Two medians that were measured apart: their errors add up as squares."""
    change = only(compare(run(ratio(2.0, share=0.03)), run(ratio(2.0, share=0.04))))
    assert change.ratio is not None
    assert change.ratio.low == pytest.approx(0.951, abs=0.002)
    assert change.ratio.high == pytest.approx(1.052, abs=0.002)
    assert only(compare(run(ratio(2.0, share=0.3)), run(ratio(2.0, share=0.3)))).word == "not told apart"


def test_times_of_two_machines_are_not_compared() -> None:
    """Ratios are; what differs is said first."""
    found = compare(run(time(1.0), ratio(1.0)), run(time(3.0), ratio(1.2), facts=OTHER))
    assert found.apart == ("other machine: processor: Some CPU and Another CPU",)
    assert not found.one_machine
    of_time, of_ratio = table(found).rows
    assert of_time[-1] == "times of two machines are not comparable"
    assert of_ratio[-1] == "slower"
    assert [one.what for one in found.worse(1.05)] == ["r"]


def test_times_of_one_machine_are_compared_and_not_judged() -> None:
    """It drifts from day to day, which is nobody's fault."""
    found = compare(run(time(1.0)), run(time(3.0)))
    assert only(found).word == "slower"
    assert not found.worse(1.05)


@pytest.mark.parametrize(("unit", "word"), [("ms", "slower"), ("calls/s", "faster"), ("Gb/s", "faster"), ("", "more")])
def test_quantities_are_better_or_worse_by_their_unit(unit: str, word: str) -> None:
    """More milliseconds are worse, more Gb/s better; and of what is only counted it is not known."""
    assert only(compare(run(replace(time(1.0), unit=unit)), run(replace(time(3.0), unit=unit)))).word == word


def test_other_code_and_extent_are_said() -> None:
    """What a fact is not told of, in an old run, is no difference."""
    old = {name: value for name, value in RUN.items() if name != "mitigations"}
    later = {**RUN, "commit": "fedcba", "extent": "quick"}
    found = compare(run(ratio(1.0), facts=old), run(ratio(1.0), facts=later))
    assert found.apart == ("other run: commit: abcdef012345 and fedcba", "other run: extent: full and quick")
    assert found.one_machine


def test_a_figure_that_says_nothing_is_doubtful() -> None:
    """In either run; it is never worse."""
    found = compare(run(ratio(1.0)), run(ratio(9.0, note="NOT PROVED: see below")))
    assert only(found).word == "doubtful"
    assert "second: NOT PROVED" in table(found).rows[0][-1]
    assert not found.worse(1.05)


def test_rows_of_the_one_table_are_judged() -> None:
    """Ours beside each peer, and its growth: less is always better."""
    slower = replace(TRIP, besides=(replace(TRIP.besides[0], ratio=around(1.8)), *TRIP.besides[1:]))
    found = compare(SUMMARY, Summary((replace(PACKETS, answers=(slower,)),)))
    assert [one.what for one in found.worse(1.05)] == ["UDP round trip, published port: ours / raw veth"]
    assert "updates: only in the first" in found.missing


def test_what_only_one_run_has_is_named() -> None:
    """And controls are compared with nothing: they are 1, or the run is invalid."""
    control = Figure("control", 1.0, "x", 0.99, 1.01, 30, met=True, control=True)
    found = compare(run(ratio(1.0), control), run(time(1.0), control))
    assert found.missing == ("layers, r: only in the first", "layers, t: only in the second")
    assert not found.changes


def asked(tmp_path: Path, before: Summary, after: Summary, *options: str) -> Result:
    """The command, on two files."""
    for name, summary in (("a.json", before), ("b.json", after)):
        (tmp_path / name).write_text(json.dumps(summary.to_json()))
    return CliRunner().invoke(bench, ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), *options])


def test_the_command_fails_where_a_ratio_is_surely_worse(tmp_path: Path) -> None:
    """With 1, naming it; and not without the option."""
    before, after = run(ratio(1.0)), run(ratio(1.2))
    assert asked(tmp_path, before, after).exit_code == 0
    failed = asked(tmp_path, before, after, "--fail-above", "1.05")
    assert failed.exit_code == 1
    assert "ratios worse by more than 1.05: 1\n  layers, r\n" in failed.output
    assert asked(tmp_path, before, after, "--fail-above", "1.25").exit_code == 0


def test_the_command_says_first_what_must_not_be_compared(tmp_path: Path) -> None:
    """Machines before figures; and how many ratios it could not judge."""
    done = asked(tmp_path, run(ratio(1.0, None)), run(ratio(1.2, None), facts=OTHER), "--fail-above", "1.05")
    assert done.exit_code == 0
    assert done.output.index("other machine") < done.output.index("SCENARIO")
    assert "times are not comparable, ratios are" in done.output
    assert "not judged, for it is not known which way is better: 1 ratios" in done.output


def test_the_command_speaks_json(tmp_path: Path) -> None:
    """Each change with its word, and those that are worse."""
    done = asked(tmp_path, run(ratio(1.0)), run(ratio(1.2)), "--json", "--fail-above", "1.05")
    assert done.exit_code == 1
    fields = json.loads(done.output)
    assert (fields["version"], fields["one_machine"]) == (1, True)
    assert fields["changes"][0]["word"] == "slower"
    assert [one["what"] for one in fields["worse"]] == ["r"]


def test_a_directory_without_results_is_an_error(tmp_path: Path) -> None:
    """That names it."""
    done = CliRunner().invoke(bench, ["compare", str(tmp_path), str(tmp_path)])
    assert done.exit_code == 1
    assert "there are no results" in str(done.exception) + done.output
