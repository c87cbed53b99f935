"""Numbers along an axis: few, round, plain. Pure.

ticks(0.3, 120)                         (0.5, 1, 2, 5, 10, 20, 50, 100): of a logarithmic axis
sizes_shown((1, 10, 100, 60_000))       those sizes that were measured and have room beside each other
plain_number(60_000)                    "60k"
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST = 8
"""Numbers along an axis."""

_SERIES = ((1.0,), (1.0, 5.0), (1.0, 2.0, 5.0))
_LETTERS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_FEWEST = 3
_APART = 0.06
"""Of an axis: how far two of its numbers are from each other at the least."""


def ticks(low: float, high: float) -> tuple[float, ...]:
    """Round numbers between two bounds of a logarithmic axis: as many as can be, and ``MOST`` at most.

    Where no series of round factors has three between them, they are as on a linear axis.
    """
    found: list[tuple[float, ...]] = []
    for series in _SERIES:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        between = tuple(one * 10.0**decade for decade in decades for one in series if low <= one * 10.0**decade <= high)
        found.append(tuple(float(f"{one:.6g}") for one in between))
    fitting = [one for one in found if _FEWEST <= len(one) <= MOST]
    if fitting:
        return max(fitting, key=len)
    if len(found[0]) > MOST:
        return found[0][:: math.ceil(len(found[0]) / MOST)]
    return _linear(low, high)


def sizes_shown(sizes: Sequence[float]) -> list[float]:
    """Sizes that have a number below a logarithmic axis: the ends, and of the others those with room."""
    ordered = sorted(sizes)
    if len(ordered) < 3:
        return ordered
    room = math.log(ordered[-1] / ordered[0]) * _APART
    shown = [ordered[0], ordered[-1]]
    for size in reversed(ordered[1:-1]):
        if all(abs(math.log(size / other)) >= room for other in shown):
            shown.append(size)
    return sorted(shown)


def plain_number(value: float) -> str:
    """Without an exponent, in three digits: "0.05", "7.4", "100", "1k", "1.5k", "60k", "2M"."""
    places, factor, letter = _form(value)
    text = f"{value / factor:.{places}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + letter


def plain_interval(value: float, low: float | None, high: float | None) -> str:
    """A value with its interval, both as exact as the value: "9.28 (9.00 - 9.65)"."""
    if low is None or high is None:
        return plain_number(value)
    places, factor, letter = _form(value)
    middle, first, last = (f"{one / factor:.{places}f}{letter}" for one in (value, low, high))
    return f"{middle} ({first} - {last})"


def _form(value: float) -> tuple[int, float, str]:
    """Places after the point, the factor that it is told in, and the letter for that."""
    size = abs(value)
    factor, letter = next(((one, name) for one, name in _LETTERS if size >= one * 0.9995), (1.0, ""))
    return max(0, 2 - math.floor(math.log10(size / factor * 1.0005))) if size else 0, factor, letter


def _linear(low: float, high: float) -> tuple[float, ...]:
    step = 10.0 ** math.floor(math.log10((high - low) / _FEWEST))
    for factor in (5, 2, 1):
        first = math.ceil(low / (step * factor))
        last = math.floor(high / (step * factor))
        if last - first + 1 >= _FEWEST:
            return tuple(float(f"{one * step * factor:.6g}") for one in range(first, last + 1))
    return (low, high)
