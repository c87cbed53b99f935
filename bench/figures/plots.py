"""What is to be drawn, as values; ``bench.drawing.draw`` draws them. Pure.

    Curves("first_packet", "First packet of a flow", Axis("published ports", log=True), Axis("p50, us"),
           (Line("dataplane", Role.OURS, (Point(1, 17.9, 17.6, 18.2), ...)), ...))
    Bars("layers", "Round trip by layer", Axis("us"), (Bar("loopback", Role.FLOOR, 5.6, 5.5, 5.8), ...))
    Boxes("layers_spread", ..., (Box("loopback", Role.FLOOR, p5, p25, p50, p75, p95, p99), ...))

Names of plots are names of files, and unique in a run. Labels name a quantity and its unit. Where ``log`` is set, no
value is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.figures.measure import Interval, Sample, block_medians, interval, spread_percentile


class Role(StrEnum):
    """Who something is measured of: it has the same colour in all plots."""

    OURS = "ours"
    OURS_TOO = "ours, otherwise"
    """Ours by another way, such as without an agent."""
    PURE = "best pure nft"
    TODAY = "what people run today"
    TODAY_TOO = "what people run today, otherwise"
    FLOOR = "the least there is"
    """Raw veth, loopback, a program that does nothing."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A quantity with its unit."""

    label: str
    log: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """A median, with its 95 % interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One variant over sizes."""

    name: str
    role: Role
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """Something against a size."""

    name: str
    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    remark: str = ""
    """What a reader must know, in a sentence below the plot."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One variant; its interval is of the value."""

    name: str
    role: Role
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Bars:
    """Variants side by side."""

    name: str
    title: str
    y: Axis
    bars: tuple[Bar, ...]
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """How single values of one variant are distributed: percentiles."""

    name: str
    role: Role
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Boxes:
    """Distributions side by side."""

    name: str
    title: str
    y: Axis
    boxes: tuple[Box, ...]
    remark: str = ""


Plot = Curves | Bars | Boxes


def line(name: str, role: Role, by_size: Mapping[int, Sequence[Sample]]) -> Line:
    """A line through the medians of blocks, at each size that has samples."""
    points = []
    for size, samples in sorted(by_size.items()):
        if samples:
            spread = interval(list(block_medians(samples).values()))
            bounds = (spread.low, spread.high) if spread.count > 1 else (None, None)
            points.append(Point(size, spread.middle, *bounds))
    return Line(name, role, tuple(points))


def bar(name: str, role: Role, spread: Interval) -> Bar:
    """A bar of an interval's middle."""
    return Bar(name, role, spread.middle, spread.low, spread.high)


def box(name: str, role: Role, spread: Mapping[float, int]) -> Box:
    """A box of a histogram (``Results.spread``). Raises ``ValueError`` for an empty one."""
    return Box(name, role, *(spread_percentile(spread, share) for share in (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)))
