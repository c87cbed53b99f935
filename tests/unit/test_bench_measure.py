"""The statistics of a bench: orders, percentiles, pairs within blocks, intervals, controls."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures.measure import (
    Control,
    Interval,
    Sample,
    block_medians,
    by_size,
    differences,
    interval,
    over_sizes,
    paired,
    percentile,
    schedule,
    undisturbed,
)

VARIANTS = ("ours", "peer", "ours again")


def samples(variant: str, *blocks: tuple[float, ...]) -> list[Sample]:
    """Values by block."""
    return [Sample("ADD", variant, value, block=block) for block, values in enumerate(blocks) for value in values]


def test_every_block_runs_every_variant_once() -> None:
    """A block's turns are a permutation of the variants, numbered in the order in which they come."""
    turns = list(schedule(VARIANTS, blocks=20, seed=3))
    for block in range(20):
        own = [turn for turn in turns if turn.block == block]
        assert sorted(turn.variant for turn in own) == sorted(VARIANTS)
        assert [turn.order for turn in own] == [0, 1, 2]


def test_the_order_differs_between_blocks_and_not_between_runs() -> None:
    """Nobody is always first; the same seed gives the same order, another seed another one."""
    turns = list(schedule(VARIANTS, blocks=30, seed=3))
    assert {turn.variant for turn in turns if turn.order == 0} == set(VARIANTS)
    assert turns == list(schedule(VARIANTS, blocks=30, seed=3))
    assert turns != list(schedule(VARIANTS, blocks=30, seed=4))


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0), (0.25, 1.75), (0.99, 3.97)])
def test_percentiles_lie_between_neighbours_by_proportion(share: float, expected: float) -> None:
    """As numpy's default and R's type 7 have it."""
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == pytest.approx(expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_the_middle_percentile_is_the_median(values: list[float]) -> None:
    """For every list of values."""
    assert percentile(values, 0.5) == pytest.approx(median(values))


def test_nothing_has_no_percentile_and_no_interval() -> None:
    """None is no number."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_ratios_are_of_the_same_block() -> None:
    """A drift that blocks share is in none of the ratios; a block that one of both lacks is left out."""
    ours = samples("ours", (1.0, 1.0, 9.0), (10.0,), (100.0,))
    peer = samples("peer", (2.0,), (20.0, 20.0), (200.0,), (5.0,))
    assert paired(peer, ours) == [2.0, 2.0, 2.0]


def test_differences_are_of_the_same_block() -> None:
    """As ratios are."""
    assert differences(samples("a", (5.0,), (50.0,), (7.0,)), samples("b", (1.0,), (40.0,))) == [4.0, 10.0]


def test_blocks_are_numbered_from_where_one_says() -> None:
    """Two rounds of blocks in one run do not share a number, and are shuffled as before."""
    later = list(schedule(VARIANTS, blocks=2, seed=3, first=5))
    assert {turn.block for turn in later} == {5, 6}
    assert [turn.variant for turn in later] == [turn.variant for turn in schedule(VARIANTS, blocks=2, seed=3)]


def test_a_divisor_of_nothing_says_nothing() -> None:
    """A block whose median is 0 gives no ratio."""
    assert paired(samples("peer", (1.0,), (1.0,)), samples("ours", (0.0,), (2.0,))) == [0.5]


def test_one_slow_call_moves_no_block() -> None:
    """A block is the median of its samples."""
    assert block_medians(samples("ours", (1.0, 1.0, 1000.0))) == {0: 1.0}


def test_an_interval_holds_its_median() -> None:
    """It is between the edges, and the edges are within the values."""
    chance = Random(1)  # noqa: S311 - values, and no secret
    values = [chance.gauss(10, 1) for _ in range(40)]
    found = interval(values)
    assert min(values) <= found.low <= found.middle <= found.high <= max(values)
    assert found.middle == median(values)
    assert found.count == 40
    assert found == interval(values)


def test_an_interval_of_95_percent_misses_the_truth_rarely() -> None:
    """Of 200 intervals of samples whose median is known, no more than one in eight misses it (one in twenty, and what
    a bootstrap of 20 values lacks)."""
    chance = Random(2)  # noqa: S311 - values, and no secret
    missed = sum(
        not interval([chance.gauss(0, 1) for _ in range(20)], seed=number).contains(0.0) for number in range(200)
    )
    assert missed <= 25


def test_who_wants_to_be_surer_gets_a_wider_interval() -> None:
    """Of the same values."""
    chance = Random(7)  # noqa: S311 - values, and no secret
    values = [chance.gauss(10, 1) for _ in range(20)]
    usual, surer = interval(values), interval(values, confidence=0.99)
    assert surer.low <= usual.low <= usual.high <= surer.high
    assert surer.high - surer.low > usual.high - usual.low


def test_more_blocks_make_it_surer() -> None:
    """The interval of many blocks is narrower than that of few."""
    chance = Random(5)  # noqa: S311 - values, and no secret
    few, many = ([chance.gauss(10, 1) for _ in range(count)] for count in (6, 200))
    assert interval(many).high - interval(many).low < interval(few).high - interval(few).low


@pytest.mark.parametrize(
    ("low", "high", "valid"),
    [
        (0.98, 1.02, True),
        (0.95, 1.05, True),
        (1.01, 1.02, False),  # a difference where there is none
        (0.90, 1.02, False),  # too unsure to see one of five percent
        (0.98, 1.20, False),
    ],
)
def test_a_control_finds_no_difference_and_would_find_one(low: float, high: float, valid: bool) -> None:
    """It holds 1, and reaches no further from it than the tolerance."""
    assert Control(Interval(low, (low + high) / 2, high, 12)).valid is valid


@pytest.mark.parametrize(("low", "high", "valid"), [(0.982, 0.999, True), (0.97, 0.994, False), (1.006, 1.02, False)])
def test_a_control_may_miss_1_by_what_nothing_is_judged_by(low: float, high: float, valid: bool) -> None:
    """By less than half a per cent, however narrow its interval is; by more, it has found a difference."""
    assert Control(Interval(low, (low + high) / 2, high, 12)).valid is valid


def test_a_control_can_be_stricter() -> None:
    """Where hundredths are to be told apart, a difference of four is too much."""
    assert Control(Interval(0.97, 1.0, 1.04, 12)).valid
    assert not Control(Interval(0.97, 1.0, 1.04, 12), tolerance=0.02).valid


def test_a_control_of_few_blocks_says_nothing() -> None:
    """Two blocks that agree by chance prove nothing."""
    assert Control(Interval(1.0, 1.0, 1.0, 5)).valid
    assert not Control(Interval(1.0, 1.0, 1.0, 4)).valid


def test_blocks_that_the_hypervisor_disturbed_are_left_out() -> None:
    """Above two percent of steal, a block's samples do not count; a block that nobody watched does."""
    kept = undisturbed(samples("ours", (1.0,), (2.0,), (3.0,)), {0: 0.019, 1: 0.021})
    assert [sample.value for sample in kept] == [1.0, 3.0]


def test_a_block_of_several_sizes_has_one_ratio_in_which_each_is_seen() -> None:
    """The mean of the ratios at each size: of a median, the one size that differs would be no part."""
    sizes = {10: 1.0, 100: 10.0, 1000: 100.0}
    ours = [Sample("ADD", "ours", value, size, block) for block in range(3) for size, value in sizes.items()]
    again = [replace(one, variant="again", value=one.value * (8 if one.size == 1000 else 1)) for one in ours]
    assert over_sizes(again, ours) == pytest.approx({0: 2.0, 1: 2.0, 2: 2.0})
    assert over_sizes(again, [one for one in ours if one.block]).keys() == {1, 2}
    assert {size: len(found) for size, found in by_size(ours).items()} == {10: 3, 100: 3, 1000: 3}
