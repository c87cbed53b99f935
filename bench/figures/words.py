"""Numbers and ratios in words, the same in all that is written. Pure.

number(1234.5)                         "1,234"
faster(Interval(0.46, 0.48, 0.5, 12))  "2.1x faster (2.0 - 2.2)": it took 0.48 of the other's time
"""

from __future__ import annotations

import math
from enum import StrEnum

from bench.figures.measure import Interval

SAME_WITHIN = 0.05
"""How far an interval that comes near 1 may reach from it to be called the same; a wider one tells nothing apart."""
SAME_BESIDE = 0.02
"""How near to 1 an interval must not come to be called anything else: no control here is surer than that."""


class Verdict(StrEnum):
    """What an interval of a ratio of times says."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    UNSURE = "not told apart"
    """It holds 1, or comes near it, and reaches far from it."""


def verdict(ratio: Interval) -> Verdict:
    """What a ratio of times, the first by the second, says about the first: an interval that misses 1 by less than any
    control here is sure of has found no difference."""
    if ratio.high < 1 - SAME_BESIDE:
        return Verdict.FASTER
    if ratio.low > 1 + SAME_BESIDE:
        return Verdict.SLOWER
    within = ratio.low >= 1 - SAME_WITHIN and ratio.high <= 1 + SAME_WITHIN
    return Verdict.SAME if within else Verdict.UNSURE


def faster(ratio: Interval) -> str:
    """A ratio of times in words, with its interval: factors are 1 or more, whichever way they go."""
    match verdict(ratio):
        case Verdict.FASTER:
            ends = inverse(ratio)
            return f"{times(ends.middle)} faster ({bounds(ends)})"
        case Verdict.SLOWER:
            return f"{times(ratio.middle)} slower ({bounds(ratio)})"
        case word:
            return f"{word} ({bounds(ratio)})"


def inverse(ratio: Interval) -> Interval:
    """The second by the first. A bound of 0 becomes infinite."""
    low, middle, high = (1 / bound if bound else math.inf for bound in (ratio.high, ratio.middle, ratio.low))
    return Interval(low, middle, high, ratio.count)


def bounds(ratio: Interval) -> str:
    """The interval of a ratio, as exact as its middle: "2.0 - 2.2"."""
    digits = _digits(ratio.middle)
    return " - ".join(f"{bound:,.{digits}f}" if math.isfinite(bound) else "any" for bound in (ratio.low, ratio.high))


def times(factor: float) -> str:
    """A factor: "1.034x", "1.25x", "2.1x", "104x"."""
    return f"{factor:,.{_digits(factor)}f}x"


def number(value: float) -> str:
    """Three significant digits, more before the point."""
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def measured(value: float, unit: str) -> str:
    """As ``number``, and ratios near 1 in thousandths: they are held against limits in hundredths."""
    return f"{value:.3f}" if unit == "x" and 0.9 <= value < 2 else number(value)


def _digits(factor: float) -> int:
    """After the point, of a factor: more for those near 1."""
    return next((digits for below, digits in ((1.1, 3), (2, 2), (10, 1)) if round(factor, digits) < below), 0)
