"""What a bench writes, reads again, and says about it; and what two containers must not have at the same time."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import bench
from bench.figures import (
    Better,
    Figure,
    Log,
    Results,
    control_figure,
    count_figure,
    difference_figure,
    median_figure,
    number,
    ratio_figure,
    read,
)
from bench.figures.measure import Interval, Sample
from bench.figures.rows import doubt_of, why_not
from bench.hosts.traffic import Knock
from bench.native import BenchError
from bench.report.contents import scenario as told_in_full
from bench.report.markdown import render
from bench.report.summary import Told
from bench.scenarios import NAMES, find
from bench.scenarios.repair import closed
from bench.scenarios.storm import Held, duplicates

RUN = {"run": "0123456789ab", "commit": "abcdef", "cpu": "Some CPU", "cpus": 2, "kernel": "6.18", "python": "3.11"}


def blocks(variant: str, *values: float, measure: str = "ADD", size: int = 0) -> list[Sample]:
    """A sample a block."""
    return [Sample(measure, variant, value, size, block) for block, value in enumerate(values)]


def written(*samples: Sample, notes: tuple[str, ...] = (), steal: tuple[float, ...] = ()) -> str:
    """The lines of a run."""
    file = io.StringIO()
    log = Log(file, RUN, lambda _: None)
    for one in samples:
        log.sample(one.measure, one.variant, one.value, size=one.size, block=one.block)
    for block, share in enumerate(steal):
        log.block(block, share, 0.5)
    for note in notes:
        log.note(note)
    return file.getvalue()


def table(*figures: Figure, notes: tuple[str, ...] = (), steal: tuple[float, ...] = ()) -> str:
    """What a report says of one scenario."""
    told = Told("cni", "How long?", RUN, figures, notes=notes, steal=steal)
    return render(told_in_full(told, drawn=()))


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    """Run, samples, blocks and notes come back as they went, and every line is an object."""
    samples = (Sample("ADD", "ours", 1.5, 1000, 0), Sample("DEL", "peer", 2.5, 0, 1))
    text = written(*samples, notes=("slow",), steal=(0.0, 0.5))
    assert all(json.loads(line)["kind"] for line in text.splitlines())
    (tmp_path / "x.jsonl").write_text(text)
    results = read(tmp_path / "x.jsonl")
    assert results == Results(RUN, samples, {0: 0.0, 1: 0.5}, ("slow",))
    assert results.sizes("ADD", "ours") == [1000]


def test_disturbed_blocks_are_left_out_unless_all_are(tmp_path: Path) -> None:
    """A figure of nothing but disturbed blocks is drawn, and the table says that it is one."""
    results = Results(RUN, tuple(blocks("ours", 1.0, 2.0)), {0: 0.5, 1: 0.0})
    assert [one.value for one in results.of("ADD", "ours")] == [2.0]
    assert "left out" in table(steal=(0.5, 0.0))
    hopeless = Results(RUN, tuple(blocks("ours", 1.0, 2.0)), {0: 0.5, 1: 0.5})
    assert len(hopeless.of("ADD", "ours")) == 2
    assert "quiet machine" in table(steal=(0.5, 0.5))


def test_a_limit_is_held_against_the_median() -> None:
    """Met at the limit, not met above it, and neither where there is none."""
    assert median_figure("ADD", blocks("ours", 2.0, 3.0, 90.0), "ms", 3.0).met is True
    assert median_figure("ADD", blocks("ours", 2.0, 3.1, 90.0), "ms", 3.0).met is False
    assert median_figure("ADD", blocks("ours", 2.0), "ms").met is None


def test_one_block_has_no_interval() -> None:
    """However many samples it has: they share what the block was like."""
    one = median_figure("rss", [*blocks("idle", 26.0), *blocks("idle", 27.0)], "MiB")
    assert (one.low, one.high, one.count) == (None, None, 2)
    two = median_figure("rss", blocks("idle", 26.0, 27.0), "MiB")
    assert (two.low, two.high) == (26.0, 27.0)


def test_a_ratio_can_be_too_small_or_too_large() -> None:
    """``at_least`` for how much faster, ``at_most`` for how flat."""
    peer, ours = blocks("peer", 20.0, 20.0), blocks("ours", 2.0, 2.0)
    assert ratio_figure("faster", peer, ours, at_least=10.0).met is True
    assert ratio_figure("faster", peer, ours, at_least=10.1).met is False
    assert ratio_figure("flat", peer, ours, at_most=9.0).met is False
    assert ratio_figure("told", peer, ours).met is None


def test_what_was_not_measured_is_not_met() -> None:
    """A missing figure with a limit is a failure to show it, and says so."""
    for figure in (
        median_figure("ADD", [], "ms", 3.0),
        ratio_figure("faster", [], [], at_least=10.0),
        count_figure("lost", None, at_most=0),
    ):
        assert figure.value is None
        assert figure.met is False
    assert median_figure("ADD", [], "ms", 3.0).note == "not measured"
    assert median_figure("repair", [], "ms", 10.0, "not restored within 5 s").note == "not restored within 5 s"


def test_a_run_that_differs_from_itself_is_called_invalid() -> None:
    """In the row of the control, where who reads the table sees it."""
    assert control_figure(blocks("again", *[1.0] * 12), blocks("ours", *[1.0] * 12)).note == ""
    assert control_figure(blocks("again", 1.0), blocks("ours", 1.0)).note == "RUN INVALID: blocks are too few: 1"
    apart = control_figure(blocks("again", *[1.3] * 12), blocks("ours", *[1.0] * 12))
    assert (apart.met, apart.note) == (False, "RUN INVALID: the machine differs from itself by up to 30%")


def test_of_many_controls_each_is_surer() -> None:
    """What one control in twenty finds by chance, one of seven finds in every third run: its interval is wider."""
    again, ours = blocks("again", *[0.98, 0.985, 0.99, 0.995, 1.01] * 2), blocks("ours", *[1.0] * 10)
    alone, one_of_many = control_figure(again, ours), control_figure(again, ours, of=20)
    assert alone.high is not None
    assert one_of_many.high is not None
    assert one_of_many.high > alone.high
    assert alone.what == "control: the same twice"


def test_which_way_a_ratio_is_for_us_is_known_by_its_limit() -> None:
    """Or said; or not known."""
    peer, ours = blocks("peer", 20.0, 20.0), blocks("ours", 2.0, 2.0)
    assert ratio_figure("faster", peer, ours, at_least=10.0).better is Better.MORE
    assert ratio_figure("flat", peer, ours, at_most=9.0).better is Better.LESS
    assert ratio_figure("told", peer, ours, better=Better.MORE).better is Better.MORE
    assert ratio_figure("told", [], [], at_most=9.0).better is Better.LESS
    assert ratio_figure("told", peer, ours).better is None
    assert ratio_figure("told", peer, ours, at_least=0.9, at_most=1.1).better is None


def test_a_control_takes_with_it_what_is_no_further_from_1_than_itself() -> None:
    """A ratio far beyond it stands, as a time does; without enough blocks none does."""
    off = control_figure(blocks("again", *[1.2] * 12), blocks("ours", *[1.0] * 12))
    near = ratio_figure("near", blocks("a", *[1.1] * 12), blocks("b", *[1.0] * 12))
    nearly = ratio_figure("nearly", blocks("a", *[1.0] * 12), blocks("b", *[1.15] * 12))
    far = ratio_figure("far", blocks("a", *[5.0] * 12), blocks("b", *[1.0] * 12))
    few = ratio_figure("few", blocks("a", 5.0, 5.0), blocks("b", 1.0, 1.0))
    time = median_figure("time", blocks("a", 5.0, 5.0), "ms")
    rows = (off, near, nearly, far, few, time)
    assert why_not(near, rows) == "the machine differs from itself by up to 20%, and this by no more"
    assert why_not(nearly, rows) == why_not(near, rows)
    farther = ratio_figure("farther", blocks("a", *[1.0] * 12), blocks("b", *[5.0] * 12))
    assert [why_not(one, rows) for one in (far, farther, time)] == ["", "", ""]
    less = control_figure(blocks("again", *[0.8] * 12), blocks("ours", *[1.0] * 12))
    assert why_not(near, (less,)) == "the machine differs from itself by up to 25%, and this by no more"
    assert why_not(near, (near,)) == ""
    assert why_not(few, rows) == "blocks are too few: 2"
    assert "RUN INVALID" in why_not(off, rows)


def test_rows_of_the_one_table_are_doubted_as_figures_are() -> None:
    """Where a control differs by a fifth, what is ten times as fast is so, and what is a tenth faster is not known;
    where it has too few blocks, nothing is."""
    ours, off = blocks("ours", *[1.0] * 12), blocks("again", *[1.2] * 12)
    control, far, near = control_figure(off, ours), Interval(0.09, 0.1, 0.11, 12), Interval(0.88, 0.9, 0.92, 12)
    assert doubt_of([control], [far]) == ""
    assert doubt_of([control], [far, near]) == control.note
    assert doubt_of([control_figure(ours, ours)], [near]) == ""
    assert doubt_of([control_figure(ours, ours), control], [near]) == control.note
    assert doubt_of([control_figure(off[:2], ours)], [far]) == "RUN INVALID: blocks are too few: 2"
    assert doubt_of([control_figure([], ours)], [far]) == "not measured"
    assert doubt_of([], [far]) == "there is no control"


def test_what_was_not_proved_says_nothing() -> None:
    """Nor what was not measured; the note is the reason."""
    assert why_not(Figure("idle", 1.0, "ms", note="NOT PROVED: see below"), ()) == "NOT PROVED: see below"
    assert why_not(Figure("idle", None, "ms", note="not restored"), ()) == "not restored"


def test_a_difference_is_within_a_block() -> None:
    """What one costs beyond the other, whatever the block was like."""
    figure = difference_figure("beyond", blocks("a", 3.0, 13.0, 23.0), blocks("b", 1.0, 11.0, 21.0), "ns")
    assert (figure.value, figure.low, figure.high, figure.count) == (2.0, 2.0, 2.0, 3)
    assert difference_figure("beyond", [], blocks("b", 1.0), "ns").note == "not measured"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (3.0, "3"), (100_000.0, "100,000"), (0.01234, "0.0123"), (12.34, "12.3"), (1234.5, "1,234")],
)
def test_numbers_have_three_digits_or_are_whole(value: float, text: str) -> None:
    """No figure here is surer than that."""
    assert number(value) == text


def test_ratios_near_1_are_told_in_thousandths() -> None:
    """One that misses 1.03 by a little does not look as if it met it."""
    text = table(Figure("idle", 1.0342, "x", 1.0, 1.1, 12, "<= 1.03 x", met=False))
    assert "| idle | 1.034 x | 1.000 - 1.100 | 12 | <= 1.03 x | not met |" in text.splitlines()


def test_the_table_is_markdown() -> None:
    """A row a figure, with verdict and note in the last column, then the notes."""
    rows = [
        Figure("ADD", 1.23456, "ms", 1.2, 1.3, 300, "<= 3 ms", True),
        Figure("repair", None, "ms", must="<= 10 ms", met=False, note="not restored within 5 s"),
    ]
    assert table(*rows, notes=("by iptables-nft",)).startswith(
        "## cni: How long?\n\n"
        "| what | measured | 95 % | n | must |  |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| ADD | 1.23 ms | 1.2 - 1.3 | 300 | <= 3 ms | met |\n"
        "| repair | - |  |  | <= 10 ms | not met. not restored within 5 s |\n"
        "\n* by iptables-nft\n"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_scenario_asks_a_question_and_says_what_would_falsify_it(name: str) -> None:
    """Its docstring is what a reader judges the figures by; without results every limit is shown as not met."""
    scenario = find(name)
    assert scenario.question.endswith("?")
    for word in ("Peers ", "Unit ", "Fair ", "Falsified "):
        assert f"\n{word}" in scenario.text
    figures = scenario.figures(Results(RUN))
    assert figures
    assert not any(figure.met for figure in figures)


def test_a_scenario_that_is_not_there_is_named() -> None:
    """With those that there are."""
    with pytest.raises(BenchError, match=r'"storms": there are .*program_cost'):
        find("storms")


def test_figures_can_be_drawn_again(tmp_path: Path) -> None:
    """``dpctl bench report`` reads the lines of an old run and writes summary and report anew."""
    (tmp_path / "agent_cost.jsonl").write_text(written(Sample("rss", "idle", 26.0)))
    done = CliRunner().invoke(bench, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "| idle: resident memory (RSS) | 26 MiB |" in done.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["scenarios"]["agent_cost"]["run"] == RUN
    assert (tmp_path / "report.md").read_text() in done.output


def test_a_duplicate_is_what_two_hold_at_once() -> None:
    """One after the other is none; an overlap of one name is one, whatever else they hold."""
    assert duplicates([Held(("a", "p1"), 0, 2), Held(("a", "p2"), 2, 3)]) == 0
    assert duplicates([Held(("a", "p1"), 0, 2), Held(("b", "p2"), 1, 3)]) == 0
    assert duplicates([Held(("a", "p1"), 0, 2), Held(("a", "p2"), 1, 3)]) == 1


def test_a_duplicate_is_seen_behind_a_short_life() -> None:
    """A name that is held for long, by others within that time."""
    assert duplicates([Held(("a",), 0, 10), Held(("a",), 1, 2), Held(("a",), 5, 6)]) == 2


def test_closed_is_from_the_first_refusal_to_the_next_connection() -> None:
    """Nothing refused is no time at all; never again is an error."""
    open_, refused = Knock(0, 1_000_000, 0), Knock(2_000_000, 2_100_000, 111)
    assert closed([open_]) == 0
    assert closed([open_, refused, Knock(3_000_000, 3_100_000, 111), Knock(4_000_000, 4_500_000, 0)]) == 2.5
    with pytest.raises(ValueError, match="no connection"):
        closed([open_, refused])
