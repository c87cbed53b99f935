"""Controls: figures of a variant against itself, by which a run tells whether it could have told. Pure.

control_figure(again, own)                             # invalid where ours differs from itself
size_controls(again, own, "control: ADD", within=0.1)  # where several sizes are judged: one for each end of them
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.figures.measure import (
    CONFIDENCE,
    CONTROL_BLOCKS,
    CONTROL_TOLERANCE,
    SLIGHT,
    Control,
    Sample,
    by_size,
    interval,
    over_sizes,
    paired,
)
from bench.figures.rows import Counted, Figure, share_text

ALONE_BLOCKS = 15
"""Blocks from which a size has a control of its own; with fewer, neighbouring sizes have one together, for the interval
of one would say no more than that blocks are few."""
_APART = 4
"""Sizes from which the smaller have one control and the larger another."""


def control_figure(
    above: Sequence[Sample],
    below: Sequence[Sample],
    what: str = "control: the same twice",
    *,
    of: int = 1,
    within: float = CONTROL_TOLERANCE,
    slight: float = SLIGHT,
) -> Figure:
    """A variant against itself: where this is not met, the run is invalid, and says so. ``slight``: by how much its
    interval may miss 1.

    Of several controls in one run some find by chance what is not there: so each is one ``of`` so many, and has a wider
    interval (Bonferroni), that all of them together are as sure as one alone.
    """
    return _figure(paired(above, below), what, of, within, slight)


def size_controls(
    above: Sequence[Sample],
    below: Sequence[Sample],
    what: str,
    *,
    of: int = 1,
    within: float = CONTROL_TOLERANCE,
) -> list[Figure]:
    """A variant against itself at several sizes: at the least and at the largest, each as ``control_figure``.

    Where one of these has fewer than ``ALONE_BLOCKS``, the smaller sizes and the larger ones have a control each, or
    all of a few sizes one, whose ratios are the means over the sizes of a block; a size that is surely off by more than
    the tolerance stands for its neighbours. Blocks are what is resampled.
    """
    numerators, divisors = by_size(above), by_size(below)
    groups = _groups({size: len(paired(numerators[size], divisors.get(size, ()))) for size in numerators})
    if not groups:
        return [_figure([], what, of, within)]

    def control(sizes: Sequence[int]) -> Figure:
        ratios = over_sizes(_at(above, sizes), _at(below, sizes))
        return _figure(list(ratios.values()), f"{what}, {_named(sizes)}", of * len(groups), within)

    def told(sizes: Sequence[int]) -> Figure:
        alone = (control([size]) for size in sizes)
        return next((one for one in alone if _surely_off(one, within)), control(sizes))

    return [told(sizes) for sizes in groups]


def _groups(blocks: dict[int, int]) -> list[tuple[int, ...]]:
    """Which sizes have a control together, of those that have so many blocks."""
    sizes = sorted(size for size, count in blocks.items() if count)
    if len(sizes) < 2:
        return [(size,) for size in sizes]
    if min(blocks[sizes[0]], blocks[sizes[-1]]) >= ALONE_BLOCKS:
        return [(sizes[0],), (sizes[-1],)]
    middle = len(sizes) // 2
    return [tuple(sizes)] if len(sizes) < _APART else [tuple(sizes[:middle]), tuple(sizes[middle:])]


def _surely_off(control: Figure, within: float) -> bool:
    spread = control.interval
    return (
        spread is not None and spread.count >= CONTROL_BLOCKS and (spread.low > 1 + within or spread.high < 1 - within)
    )


def _at(samples: Iterable[Sample], sizes: Sequence[int]) -> list[Sample]:
    return [one for one in samples if one.size in sizes]


def _named(sizes: Sequence[int]) -> str:
    """ "at 1,000", "at 0 to 1,000"."""
    return "at " + " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))


def _figure(ratios: Sequence[float], what: str, of: int, within: float, slight: float = SLIGHT) -> Figure:
    if not ratios:
        return Figure(what, None, "x", note="not measured", control=True)
    spread = interval(ratios, confidence=1 - (1 - CONFIDENCE) / of)
    valid = Control(spread, within, slight).valid
    apart = max(abs(spread.low - 1), abs(spread.high - 1))
    few = spread.count < CONTROL_BLOCKS
    by = f"the machine differs from itself by up to {share_text(apart)}"
    note = "" if valid else f"RUN INVALID: {f'blocks are too few: {spread.count}' if few else by}"
    must = f"1 within {within:.0%}"
    return Figure(
        what, spread.middle, "x", spread.low, spread.high, spread.count, must, valid, note,
        control=True, counted=Counted.BLOCKS,
    )  # fmt: skip
