"""What makes figures doubtful: controls at several sizes, blocks that were disturbed, tails of a few values."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from bench.figures import Results, median_figure, ratio_figure, size_controls, tail_figure
from bench.figures.measure import Sample
from bench.figures.results import Histogram
from bench.figures.rows import DISTURBED, Counted
from bench.report import machines
from bench.report.contents import scenario as told_in_full
from bench.report.markdown import render
from bench.report.summary import Summary, Told, tell
from bench.scenarios import find
from bench.scenarios.rule_updates.drawn import AGAIN, NFT, OURS
from bench.scenarios.storm import STORM

ADD = "ADD 1 port"


def sized(variant: str, by_size: dict[int, float], blocks: range) -> list[Sample]:
    """A sample at each size in each block."""
    return [Sample(ADD, variant, value, size, block) for block in blocks for size, value in by_size.items()]


def controls(sizes: tuple[int, ...], off: int, by: float, blocks: int) -> list[tuple[str, bool | None]]:
    """What ours is told to be beside itself, where it is not at one size."""
    own = sized(OURS, {size: 1.0 + size for size in sizes}, range(blocks))
    again = [replace(one, variant=AGAIN, value=one.value * (by if one.size == off else 1)) for one in own]
    return [(one.what, one.met) for one in size_controls(again, own, "control", within=0.1)]


def test_each_end_of_what_is_judged_has_a_control_of_its_own() -> None:
    """A size that differs by a third is no part of what holds elsewhere."""
    assert controls((0, 100, 1000), 1000, 1.3, 15) == [("control, at 0", True), ("control, at 1,000", False)]
    assert controls((0, 100, 1000), 0, 0.7, 15) == [("control, at 0", False), ("control, at 1,000", True)]
    assert controls((500,), 500, 1.3, 15) == [("control, at 500", False)]


def test_of_few_blocks_neighbouring_sizes_have_a_control_together() -> None:
    """In which one that differs is seen, and named where it is surely off by too much; few sizes have but one."""
    assert controls((0, 100, 1000), 1000, 1.0, 5) == [("control, at 0 to 1,000", True)]
    assert controls((0, 100, 1000), 1000, 1.09, 5) == [("control, at 0 to 1,000", False)]
    assert controls((0, 100, 1000), 1000, 1.3, 5) == [("control, at 1,000", False)]
    assert controls((0, 1, 10, 100), 10, 1.3, 5) == [("control, at 0 to 1", True), ("control, at 10", False)]
    assert controls((0, 1000), 1000, 1.3, 4) == [("control, at 0 to 1,000", False)]


def test_blocks_are_what_a_control_counts() -> None:
    """Turns of one block are not independent; and more controls are each surer."""
    chance = Random(1)  # noqa: S311 - values, and no secret
    drift = [chance.gauss(1, 0.05) for _ in range(20)]
    own = sized(OURS, dict.fromkeys((0, 1, 10, 100), 1.0), range(20))
    again = [replace(one, variant=AGAIN, value=drift[one.block]) for one in own]
    least, largest = (one.interval for one in size_controls(again, own, "control", within=0.1))
    (one,) = size_controls([one for one in again if not one.size], own, "control", within=0.1)
    assert least == largest
    assert least is not None
    assert one.interval is not None
    assert (least.count, one.counted) == (20, Counted.BLOCKS)
    assert least.high - least.low > one.interval.high - one.interval.low


def test_without_pairs_there_is_no_control() -> None:
    """And it is said."""
    own = sized(OURS, {0: 1.0}, range(6))
    for again in ([], sized(AGAIN, {10: 1.0}, range(6))):
        (one,) = size_controls(again, own, "control")
        assert (one.value, one.note, one.control) == (None, "not measured", True)


@pytest.mark.parametrize(("count", "what", "value"), [(99, "ADD, slowest", 98.0), (100, "ADD, p99", 98.01)])
def test_the_slowest_of_less_than_a_hundred_is_called_that(count: int, what: str, value: float) -> None:
    """A p99 of five values is their greatest by another name."""
    figure = tail_figure("ADD", [Sample("ADD", OURS, float(one)) for one in range(count)], "ms")
    assert (figure.what, figure.count, figure.interval) == (what, count, None)
    assert figure.value == pytest.approx(value)


def test_tables_say_what_n_counts() -> None:
    """Values of a median, blocks of a ratio."""
    many = [Sample("ADD", OURS, 1.0, block=one % 6) for one in range(1200)]
    told = Told("cni", "?", {}, (median_figure("ours", many, "ms"), ratio_figure("ours / ours", many, many)))
    text = render(told_in_full(told, drawn=()))
    assert "| 1,200 samples |" in text
    assert "| 6 blocks |" in text


def disturbed() -> Results:
    """A run of rule_updates in which all blocks at 1,000 ports present were disturbed, and one of those at none."""
    at = {0: (range(12), 1.0), 1000: (range(12, 24), 2.0)}
    found = [
        one
        for variant, factor in ((OURS, 1.0), (AGAIN, 1.0), (NFT, 3.0))
        for size, (blocks, value) in at.items()
        for one in sized(variant, {size: value * factor}, blocks)
    ]
    return Results({}, tuple(found), {block: 0.3 if block in {0, *at[1000][0]} else 0.0 for block in range(24)})


def test_a_figure_of_disturbed_blocks_alone_is_told_and_says_nothing() -> None:
    """Nor does a ratio or an answer of them; what has other blocks stands, without those."""
    told = tell(find("rule_updates"), disturbed())
    rows = {one.what: one for one in told.figures}
    for what in (f"{OURS}, {ADD}, 1,000 present", f"{OURS} / {NFT}: {ADD}, 1,000 present"):
        assert rows[what].value
        assert told.why_not(rows[what]) == DISTURBED
    for what in (f"{OURS}, {ADD}, 0 present", f"{OURS} / {NFT}: {ADD}, 0 present"):
        assert not told.why_not(rows[what])
    assert rows[f"{OURS}, {ADD}, 0 present"].count == 11
    (answer,) = told.answers
    assert answer.doubt == DISTURBED
    stored = Summary.from_json(Summary((told,)).to_json()).scenarios[0]
    assert stored.why_not(stored.figures[1]) == told.why_not(told.figures[1])


def test_the_count_of_blocks_that_are_left_out_is_true() -> None:
    """Not all that were disturbed are: it is said how many figures have no others."""
    told = tell(find("rule_updates"), disturbed())
    assert told.disturbed == 13
    (text,) = (line for line in machines.beside(told) if line.startswith("steal"))
    assert f"13 had more than 2%: left out, but for {told.kept} figures that have no others" in text
    assert told.kept == sum(one.disturbed for one in told.figures) > 3
    calm = tell(find("rule_updates"), disturbed().calm())
    assert not any(one.disturbed for one in calm.figures)


def test_what_went_wrong_in_a_disturbed_block_went_wrong() -> None:
    """Failures are no times: those of all blocks count, and they say something."""
    failures = (Sample("failures", STORM, 1.0, block=0), Sample("failures", STORM, 0.0, block=1))
    told = tell(find("storm"), Results({}, failures, {0: 0.5, 1: 0.0}))
    (figure,) = (one for one in told.figures if one.what == f"{STORM}: failures")
    assert (figure.value, figure.met, told.why_not(figure)) == (1.0, False, "")


def test_distributions_leave_disturbed_blocks_out_as_samples_do() -> None:
    """Unless there are no others."""
    found = tuple(Histogram("UDP", OURS, ((float(block), 1),), block=block) for block in range(2))
    assert Results({}, (), {0: 0.5}, histograms=found).spread("UDP", OURS) == {1.0: 1}
    assert Results({}, (), {0: 0.5, 1: 0.5}, histograms=found).spread("UDP", OURS) == {0.0: 1, 1.0: 1}
    assert Results({}, (), {0: 0.5, 1: 0.5}, histograms=found).calm().histograms == ()
