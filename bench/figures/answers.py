"""The rows of the one table that a run is made for: how fast is ours beside others, and how does that grow. Pure.

    Answer(Kind.PACKET, "UDP round trip, published port", "us", ours,
           (Beside(Role.PURE, "nft map", ratio),), growth=None)

A ratio is ours / theirs, of medians within a block: 0.5 is twice as fast, and more than 1 is slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bench.figures.measure import Interval
from bench.figures.plots import Role


class Kind(StrEnum):
    """What something is paid for."""

    PACKET = "per packet"
    UPDATE = "per update"


@dataclass(frozen=True, slots=True)
class Growth:
    """How much slower at the larger size than at the smaller: ratio of medians within a block."""

    ratio: Interval
    smaller: int
    larger: int
    of: str
    """What there are so many of: "published ports"."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Somebody else doing the same, at the same size."""

    role: Role
    name: str
    ratio: Interval
    growth: Growth | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One row."""

    kind: Kind
    what: str
    unit: str
    ours: Interval
    """In that unit: medians of blocks."""
    besides: tuple[Beside, ...]
    growth: Growth | None = None
    doubt: str = ""
    """Why the row says nothing: a control that differs, a path that was not proved. Empty where it says something."""
    remark: str = ""
    """What a reader must know with it, and what may differ from run to run: they are compared by ``what``."""
