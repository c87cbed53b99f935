"""The statistics of a comparison: interleaved blocks, ratios within a block, medians with bootstrap intervals. Pure.

    for turn in schedule(("ours", "peer", "ours again"), blocks=12, seed=7):    # shuffled anew in every block
        ...
    ratios = paired(peer_samples, our_samples)             # one a block: median / median of the same block
    interval(ratios)                                       # median over blocks, 95 % percentile bootstrap

Why ratios within a block: a small virtual machine drifts by tens of percent within minutes, which a block of a second
or two shares, and two runs in a row do not ("duet benchmarking", ICPE 2020). Why blocks are what is resampled: samples
of one block are not independent of each other.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, median

DRAWS = 2000
CONFIDENCE = 0.95
CONTROL_TOLERANCE = 0.05
"""How far the interval of a variant against itself may reach from 1 before a run says nothing."""
SLIGHT = 0.005
"""By how much that interval may miss 1: no figure is judged by so little, and two hosts that are alike, but for what
memory they happen to have, differ by as much."""
CONTROL_BLOCKS = 5
"""Blocks below which an interval is no interval."""
MOST_STEAL = 0.02
"""The share of a block's time that the hypervisor may have given to others."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured value: of which variant, at how many ports present, in which block."""

    measure: str
    variant: str
    value: float
    size: int = 0
    block: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """A variant's place in a block."""

    block: int
    order: int
    variant: str


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and how sure it is: of ``count`` blocks."""

    low: float
    middle: float
    high: float
    count: int

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Control:
    """A variant against itself: were differences found where there are none?"""

    interval: Interval
    tolerance: float = CONTROL_TOLERANCE
    slight: float = SLIGHT
    """By how much the interval may miss 1: by all of the tolerance, where what is alike does differ a little."""

    @property
    def valid(self) -> bool:
        """Whether the interval holds 1, or misses it by next to nothing, is within the tolerance to either side, and is
        of enough blocks."""
        if self.interval.count < CONTROL_BLOCKS:
            return False
        near = self.interval.low >= 1 - self.tolerance and self.interval.high <= 1 + self.tolerance
        return near and self.interval.low <= 1 + self.slight and self.interval.high >= 1 - self.slight


def schedule(variants: Sequence[str], blocks: int, seed: int, first: int = 0) -> Iterator[Turn]:
    """Every variant once a block, in an order of its own for each; blocks are numbered from ``first``."""
    chance = random.Random(seed)  # noqa: S311 - an order, and no secret
    for block in range(first, first + blocks):
        shuffled = chance.sample(variants, len(variants))
        yield from (Turn(block, order, variant) for order, variant in enumerate(shuffled))


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which a share of all lie, between neighbours by proportion. Raises ``ValueError`` for none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread_percentile(spread: Mapping[float, int], share: float) -> float:
    """The bucket of a histogram (value: how often) below or in which a share of all lie. Raises ``ValueError`` for an
    empty one."""
    wanted, seen = share * sum(spread.values()), 0
    for value, count in sorted(spread.items()):
        seen += count
        if seen >= wanted and seen:
            return value
    raise ValueError("no values")


@lru_cache
def _middles(count: int, seed: int) -> tuple[tuple[int, int], ...]:
    """Which two of so many ordered values are in the middle of each resample; of an odd number twice the same.

    A report has a thousand intervals of a few lengths: what is drawn for one is drawn for all of its length.
    """
    chance = random.Random(seed)  # noqa: S311 - resampling; the same values give the same interval
    resamples = (sorted(chance.choices(range(count), k=count)) for _ in range(DRAWS))
    return tuple((one[(count - 1) // 2], one[count // 2]) for one in resamples)


def interval(values: Sequence[float], seed: int = 1, confidence: float = CONFIDENCE) -> Interval:
    """The median with its percentile bootstrap interval. Raises ``ValueError`` for none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    medians = [(ordered[one] + ordered[other]) / 2 for one, other in _middles(len(ordered), seed)]
    edge = (1 - confidence) / 2
    return Interval(percentile(medians, edge), median(values), percentile(medians, 1 - edge), len(values))


def block_medians(samples: Iterable[Sample]) -> dict[int, float]:
    """The median of each block."""
    blocks: defaultdict[int, list[float]] = defaultdict(list)
    for sample in samples:
        blocks[sample.block].append(sample.value)
    return {block: median(values) for block, values in blocks.items()}


def paired(above: Iterable[Sample], below: Iterable[Sample]) -> list[float]:
    """Ratios of block medians, of the blocks that both have; a block whose divisor is 0 says nothing."""
    numerators, divisors = block_medians(above), block_medians(below)
    both = sorted(numerators.keys() & divisors.keys())
    return [numerators[block] / divisors[block] for block in both if divisors[block]]


def differences(above: Iterable[Sample], below: Iterable[Sample]) -> list[float]:
    """Differences of block medians, of the blocks that both have."""
    minuends, subtrahends = block_medians(above), block_medians(below)
    return [minuends[block] - subtrahends[block] for block in sorted(minuends.keys() & subtrahends.keys())]


def over_sizes(above: Iterable[Sample], below: Iterable[Sample]) -> dict[int, float]:
    """One ratio a block of what is measured at several sizes: the geometric mean of those at each size, so that a size
    that differs is seen in it; of a median it would not be."""
    logarithms: defaultdict[int, list[float]] = defaultdict(list)
    numerators, divisors = by_size(above), by_size(below)
    for size in numerators.keys() & divisors.keys():
        over, under = block_medians(numerators[size]), block_medians(divisors[size])
        for block in over.keys() & under.keys():
            if over[block] and under[block]:
                logarithms[block].append(math.log(over[block] / under[block]))
    return {block: math.exp(fmean(found)) for block, found in sorted(logarithms.items())}


def by_size(samples: Iterable[Sample]) -> dict[int, list[Sample]]:
    """The samples at each size, the least first."""
    found: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.size].append(sample)
    return dict(sorted(found.items()))


def undisturbed(samples: Iterable[Sample], steal: Mapping[int, float]) -> list[Sample]:
    """The samples of blocks in which the hypervisor took no more than ``MOST_STEAL``."""
    return [sample for sample in samples if steal.get(sample.block, 0.0) <= MOST_STEAL]
