"""When to look at what: events and times in, syncs out. Pure: it has no clock, asks no kernel, and repairs nothing.

    reconciler.hear(event, now)              a hint: what it may be about is dirty now
    reconciler.next(now)                     -> Sync(parts, causes), or None; then ask again at ``wake``
    reconciler.ended(sync, outcome, now)     -> what is to be told, such as a fight with another writer

    event                                    part that is dirty
    a transaction in one of our tables       TABLES
    a transaction elsewhere                  FOREIGN
    a link of ours or a port of its changes  LINKS      (its end: CONTAINERS, after a while)
    qdisc or filter of a device, pin         PROGRAMS
    qdisc or filter of a container's veth    VETHS, this one
    forwarding, a watched sysctl             SYSCTLS
    an address of the host                   ADDRESSES
    a namespace's file is deleted            CONTAINERS (after a while: a DEL is usually on its way)
    notifications were lost                  all of them

What the engine's own thread did to tables and hooks is no event: the engine looks after itself. One sync runs at a
time; what is heard meanwhile is dirty for the next. A part that failed is tried again, later and later, and keeps no
other waiting; when one begins to fail, everything is looked at. What the kernel does not announce (a tcx link that was
detached) is looked at every few seconds, of the containers' veths some in turn, and all of it now and then.

Be aware: a part that others keep breaking is repaired at once a few times, and then ever more slowly, or two programs
that both mean well would use up the machine.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from dataplane.events import (
    AddressChanged,
    Event,
    Finding,
    ForwardingChanged,
    HookChanged,
    LinkChanged,
    NamespaceGone,
    NotificationsLost,
    PinsChanged,
    PortChanged,
    RulesetChanged,
    SysctlWritten,
)
from dataplane.types import IfIndex


class Part(StrEnum):
    """What of the kernel can be looked at, and repaired, by itself."""

    STATE = "state"
    """Changes that were interrupted."""
    PROGRAMS = "programs"
    """BPF programs on the hooks of networks' devices, their pins, their maps."""
    VETHS = "veths"
    """BPF programs on containers' host veths, and what is in their maps for these."""
    LINKS = "links"
    """Bridges and their ports, with the flags that isolate them."""
    TABLES = "tables"
    """Our nftables tables: chains, rules, elements."""
    SYSCTLS = "sysctls"
    FOREIGN = "foreign"
    """Accepts in chains of others, and zones of firewalld."""
    ADDRESSES = "addresses"
    """The host's addresses, as the checksum program knows them."""
    CONTAINERS = "containers"
    """Whether they are still there."""


ALL = frozenset(Part)
EVERYTHING = ALL - {Part.CONTAINERS}
"""What can be wrong; whether containers are there is looked at in its own time."""
UNANNOUNCED = frozenset({Part.STATE, Part.PROGRAMS, Part.VETHS, Part.SYSCTLS})
"""What changes without an event: the state by a process that was killed, links of programs that are detached, sysctls
by another mount of /proc."""

LOOK_EVERY = 2.0
"""Seconds between two looks at what is unannounced."""
RESYNC_EVERY = 600.0
"""Seconds between two looks at everything."""
SOON = 0.05
"""Seconds that changes of links are gathered for: they come in bursts."""
PATIENCE, WINDOW = 8, 10.0
"""So many repairs of one part within so many seconds are a fight."""
PAUSES = (1.0, 2.0, 5.0)
"""Seconds until the next repair in a fight, one after the other."""
PEACE = 30.0
"""Seconds without a repair that end a fight."""
MAX_CAUSES = 3
"""Causes of one sync that are named."""
RETRIES = (0.5, 2.0, 10.0, 60.0)
"""Seconds from one failed sync to the next."""


class Roster(Protocol):
    """What is ours among the links."""

    def is_device(self, index: IfIndex, name: str = "") -> bool:
        """Whether an attachment has this device, or had one by this name."""

    def is_port(self, index: IfIndex) -> bool:
        """Whether a link is the host veth of an attachment."""


@dataclass(frozen=True, slots=True)
class Sync:
    """Look at these parts, and put right what is wrong."""

    parts: frozenset[Part]
    writers: tuple[str, ...] = ()
    """Whose transactions gave the hint: programs by name and thread."""
    hints: tuple[str, ...] = ()
    """What else did."""
    veths: frozenset[IfIndex] | None = None
    """Which of the containers' host veths to look at, if at any; None is all, and an empty set whichever is in turn."""

    @property
    def quiet(self) -> bool:
        """Whether nobody gave a hint: it is just time."""
        return not (self.writers or self.hints)

    @property
    def causes(self) -> tuple[str, ...]:
        """Whoever is known to have done something, else what was seen; the first few."""
        named = self.writers or self.hints
        more = (f"and {len(named) - MAX_CAUSES} more",) if len(named) > MAX_CAUSES else ()
        return (*named[:MAX_CAUSES], *more)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sync came to."""

    found: Mapping[Part, tuple[str, ...]] = field(default_factory=dict)
    """What was wrong, a sentence each; all of it is right now, unless it is left."""
    left: tuple[str, ...] = ()
    """What is wrong still, because its repair is not in our power."""
    failed: Mapping[Part, str] = field(default_factory=dict)
    """The parts of which the look or the repair did not come to its end, and why."""


def merged(outcomes: Iterable[Outcome]) -> Outcome:
    """What several looks came to together."""
    found: dict[Part, tuple[str, ...]] = {}
    left: list[str] = []
    failed: dict[Part, str] = {}
    for one in outcomes:
        for part, texts in one.found.items():
            found[part] = (*found.get(part, ()), *texts)
        left += one.left
        failed |= one.failed
    return Outcome(found, tuple(left), failed)


@dataclass(frozen=True, slots=True)
class Fight:
    """Others undo what we repair: the next repair of the part waits."""

    part: Part
    opponents: tuple[str, ...]
    pause: float
    """Seconds."""


@dataclass(slots=True)
class _Struggle:
    """How often one part was repaired of late."""

    repairs: deque[float] = field(default_factory=lambda: deque(maxlen=PATIENCE))
    pauses: int = 0

    def repaired(self, now: float) -> float:
        """Seconds to wait before the next repair."""
        if self.repairs and now - self.repairs[-1] > PEACE:
            self.repairs.clear()
            self.pauses = 0
        self.repairs.append(now)
        quick = len(self.repairs) == PATIENCE and now - self.repairs[0] < WINDOW
        if not (quick or self.pauses):
            return 0.0
        self.pauses += 1
        return PAUSES[min(self.pauses, len(PAUSES)) - 1]


class Reconciler:
    """See the module. Times are seconds of a clock that never goes back."""

    def __init__(self, roster: Roster, now: float, *, collect_after: float = 60.0):
        self._roster = roster
        self.own: set[int] = set()
        """The threads whose transactions are our own, as the kernel numbers them."""
        self.own_port = 0
        """The port of the engine's rtnetlink socket; 0 before it has one."""
        self._collect_after = collect_after
        self._dirty: dict[Part, float] = {}
        self._writers: dict[Part, dict[str, None]] = {}
        self._hints: dict[Part, dict[str, None]] = {}
        self._veths: set[IfIndex] | None = set()
        """The host veths that are dirty; None: all."""
        self._waiting: dict[Part, float] = {}
        self._struggles: dict[Part, _Struggle] = {part: _Struggle() for part in Part}
        self._failures: Counter[Part] = Counter()
        self._busy = False
        self._look_at = now + LOOK_EVERY
        self._resync_at = now + RESYNC_EVERY
        self.demand("the agent has started", now)

    def hear(self, event: Event, now: float) -> None:  # noqa: C901, PLR0912 - one arm an event
        """Take a hint."""
        match event:
            case RulesetChanged(pid=pid) if pid in self.own:
                return
            case RulesetChanged(pid=pid, program=program, tables=tables, others=others):
                for part, touched in ((Part.TABLES, tables), (Part.FOREIGN, others)):
                    if touched:
                        self._mark(part, now)
                        self._writers.setdefault(part, {})[f"{program} ({pid})"] = None
            case LinkChanged(index=index, name=name, gone=gone):
                if self._roster.is_device(index, name) or self._roster.is_port(index):
                    self._mark(Part.LINKS, now + SOON, f"link {name} {'vanished' if gone else 'changed'}")
                    if gone:
                        self._mark_containers(now, f"link {name} vanished")
            case PortChanged(index=index):
                if self._roster.is_port(index):
                    self._mark(Part.LINKS, now + SOON, f"bridge port {index} changed")
            case AddressChanged(index=index):
                self._mark(Part.ADDRESSES, now + SOON, "an address of the host changed")
                if self._roster.is_device(index):
                    self._mark(Part.LINKS, now + SOON, f"an address of link {index} changed")
            case HookChanged(port=port) if port and port == self.own_port:
                return
            case HookChanged(index=index):
                if not index or self._roster.is_device(index):
                    self._mark(Part.PROGRAMS, now, f"filters of link {index} changed")
                if self._roster.is_port(index):
                    self._mark(Part.VETHS, now, f"filters of link {index} changed")
                    if self._veths is not None:
                        self._veths.add(index)
            case ForwardingChanged():
                self._mark(Part.SYSCTLS, now, "forwarding changed")
            case SysctlWritten(name=name):
                self._mark(Part.SYSCTLS, now, f"sysctl {name} was written")
            case PinsChanged():
                self._mark(Part.PROGRAMS, now, "pins changed")
            case NamespaceGone(path=path):
                self._mark_containers(now, f"{path} was deleted")
            case NotificationsLost(source=source):
                self.demand(f"notifications were lost ({source})", now)
            case Finding():
                return

    def demand(self, cause: str, now: float, parts: Collection[Part] = ALL) -> None:
        """Have everything looked at, or these parts."""
        for part in ALL & set(parts):
            if part is Part.CONTAINERS:
                self._mark_containers(now, cause)
            else:
                self._mark(part, now, cause)
            if part is Part.VETHS:
                self._veths = None

    def next(self, now: float) -> Sync | None:
        """The sync that is due, if any; until ``ended`` is told of it there is no other."""
        if self._busy:
            return None
        if now >= self._resync_at:
            self._resync_at = now + RESYNC_EVERY
            self.demand("", now)
        parts = frozenset(part for part, since in self._dirty.items() if max(since, self._waiting.get(part, 0)) <= now)
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            parts |= {part for part in UNANNOUNCED if self._waiting.get(part, 0) <= now}
        if not parts:
            return None
        writers: dict[str, None] = {}
        hints: dict[str, None] = {}
        for part in sorted(parts):
            self._dirty.pop(part, None)
            writers |= self._writers.pop(part, {})
            hints |= self._hints.pop(part, {})
        veths: frozenset[IfIndex] | None = frozenset()
        if Part.VETHS in parts:
            veths, self._veths = None if self._veths is None else frozenset(self._veths), set()
        self._busy = True
        return Sync(parts, tuple(writers), tuple(hints), veths)

    @property
    def wake(self) -> float:
        """When to ask for the ``next`` sync, if nothing is heard before; never while one runs."""
        if self._busy:
            return float("inf")
        due = (max(since, self._waiting.get(part, 0)) for part, since in self._dirty.items())
        return min(self._look_at, self._resync_at, *due)

    def ended(self, sync: Sync, outcome: Outcome, now: float) -> tuple[Fight, ...]:
        """Take in what a sync came to; the fights to tell of."""
        self._busy = False
        for part in sync.parts:
            self._waiting.pop(part, None)
            if part not in outcome.failed:
                del self._failures[part]
        if any(not self._failures[part] for part in outcome.failed):
            self.demand("a sync failed", now)
        for part in sorted(outcome.failed):
            self._waiting[part] = now + RETRIES[min(self._failures[part], len(RETRIES) - 1)]
            self._failures[part] += 1
            self._mark(part, now)
            if part is Part.VETHS:
                self._veths = None
        fights = []
        for part in sorted(outcome.found):
            pause = self._struggles[part].repaired(now)
            if pause:
                self._waiting[part] = now + pause
                fights.append(Fight(part, sync.causes, pause))
        return tuple(fights)

    def _mark_containers(self, now: float, cause: str) -> None:
        if self._collect_after:
            self._mark(Part.CONTAINERS, now + self._collect_after, cause)

    def _mark(self, part: Part, at: float, hint: str = "") -> None:
        self._dirty[part] = min(at, self._dirty.get(part, at))
        if hint:
            self._hints.setdefault(part, {})[hint] = None
