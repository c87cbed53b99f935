"""What is attached in turn, which paths packets take meanwhile, and what proves that the programs saw them. Pure.

for variant in variants(every=False): ...          # "isolation idle", "isolation hit" ... "all hit, by clsact"
doubts(variant, PUBLISHED, trips, seen)            # nothing where each did what the variant's name says
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field

from bench.instruments.roundtrips import Mode
from dataplane.abi import ChecksumCounts
from dataplane.types import DEVICE_PROGRAMS, AttachMode, Program, Protocol

NONE, AGAIN = "nothing attached", "nothing attached again"
HOST_PORTS = 30000
"""A published port is the container's port and this."""

_FEW = 2
"""Packets of a flow that is known which may be verified all the same: its first, once more."""
_ALL = frozenset(DEVICE_PROGRAMS)
_MODES = (AttachMode.TCX, AttachMode.CLSACT)


@dataclass(frozen=True, slots=True)
class Path:
    """A way from a client to the container."""

    name: str
    listen: int
    """The container's port: each path has one of its own."""
    published: bool = False
    from_host: bool = False
    protocol: Protocol = Protocol.UDP
    mode: Mode = Mode.ONE


BARE = Path("routed, no tables", 9001)
ROUTED = Path("routed", 9001)
PUBLISHED = Path("published", 9000, published=True)
FROM_HOST = Path("from the host", 9002, from_host=True)
STREAM = Path("published, TCP", 9000, published=True, protocol=Protocol.TCP)
WOKEN = Path("published, the server woken", 9003, published=True, mode=Mode.TWO)
PATHS = (BARE, ROUTED, PUBLISHED, FROM_HOST, STREAM, WOKEN)


@dataclass(frozen=True, slots=True)
class Variant:
    """What is attached while a round is made, and whether it has anything to do."""

    name: str
    programs: frozenset[Program] = frozenset()
    mode: AttachMode = AttachMode.AUTO
    works: bool = False
    """Their maps have entries for the devices."""
    empty: bool = False
    """In their place is one that does nothing: what the hook costs by itself."""

    @property
    def judged(self) -> bool:
        """Whether a limit is held against it: one program of ours that has nothing to do."""
        return len(self.programs) == 1 and not self.works and not self.empty

    def acts(self, program: Program) -> bool:
        """Whether this program is attached, and has something to do."""
        return self.works and program in self.programs

    def says_something_of(self, path: Path) -> bool:
        """Whether its name is true there: fill has work to do where sums are not computed yet."""
        return path.from_host or not (self.works and self.programs == {Program.FILL})


@dataclass(frozen=True, slots=True)
class Seen:
    """What the programs counted."""

    runs: Mapping[Program, int] = field(default_factory=dict)
    sums: ChecksumCounts = field(default_factory=ChecksumCounts)
    filled: int = 0

    def since(self, before: Seen) -> Seen:
        """What came after another."""
        return Seen(
            {program: count - before.runs.get(program, 0) for program, count in self.runs.items()},
            ChecksumCounts(*(a - b for a, b in zip(astuple(self.sums), astuple(before.sums), strict=True))),
            self.filled - before.filled,
        )


def variants(*, every: bool) -> list[Variant]:
    """What is attached in turn: nothing, twice; an empty program; each of ours as it usually is, and all, idle and at
    work; with ``every`` each alone the other way, too, and all by tcx and by clsact."""
    place = frozenset({Program.ISOLATION})
    made = [Variant(NONE), Variant(AGAIN)]
    made += [Variant(f"an empty program, by {mode}", place, mode, empty=True) for mode in _MODES]
    for program in DEVICE_PROGRAMS:
        unusual = AttachMode.TCX if program.of_port else AttachMode.CLSACT
        modes = (AttachMode.AUTO, unusual) if every else (AttachMode.AUTO,)
        made += _idle_and_hit(str(program), frozenset({program}), modes)
    return made + _idle_and_hit("all", _ALL, (AttachMode.AUTO, *(_MODES if every else ())))


def doubts(variant: Variant, path: Path, trips: int, seen: Seen) -> Iterator[str]:
    """Why packets of so many round trips did not go the way that the names of variant and path say."""
    for program in DEVICE_PROGRAMS:
        runs, attached = seen.runs.get(program, 0), program in variant.programs and not variant.empty
        if attached and runs < max(trips, 1):
            yield f"{program} ran {runs:,} times in {trips:,} round trips"
        if not attached and runs:
            yield f"{program} ran {runs:,} times, and is not attached"
    if variant.acts(Program.CHECKSUM):
        if path.from_host and seen.sums.partial < trips:
            yield f"checksum found {seen.sums.partial:,} sums to be computed later in {trips:,} round trips"
        if not path.from_host and sum(astuple(seen.sums)) > _FEW:
            yield f"checksum looked again at a flow that is known good: {seen.sums}"
    if variant.acts(Program.FILL) and path.from_host and seen.filled < trips:
        yield f"fill completed {seen.filled:,} sums in {trips:,} round trips"


def _idle_and_hit(name: str, programs: frozenset[Program], modes: tuple[AttachMode, ...]) -> list[Variant]:
    return [
        Variant(
            f"{name} {'hit' if works else 'idle'}" + ("" if mode is AttachMode.AUTO else f", by {mode}"),
            programs,
            mode,
            works,
        )
        for mode in modes
        for works in (False, True)
    ]
