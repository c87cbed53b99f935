"""Playbooks for the reconciler: what it hears, what it wants done, what came of it, line by line.

play = Playbook()
play.hears(flushed("nft", 7)).syncs(Part.TABLES, by=("nft (7)",)).ends(found(Part.TABLES))
play.waits()
"""

from __future__ import annotations

from control.repair.reconciler import EVERYTHING, UNANNOUNCED, Fight, Outcome, Part, Reconciler, Sync
from dataplane.events import Event, RulesetChanged
from dataplane.types import IfIndex

ENGINE = 4242
"""The engine's own thread."""
BRIDGE, PORT, STRANGER = IfIndex(10), IfIndex(20), IfIndex(30)


class Roster:
    """One bridge by the name of br-front, with one port."""

    def is_device(self, index: IfIndex, name: str = "") -> bool:
        return index == BRIDGE or name == "br-front"

    def is_port(self, index: IfIndex) -> bool:
        return index == PORT


class Playbook:
    """A reconciler and a clock that only moves when told to. What it wants at its start is done."""

    def __init__(self, *, started: bool = True, collect_after: float = 60.0) -> None:
        self.now = 1000.0
        self.reconciler = Reconciler(Roster(), self.now, collect_after=collect_after)
        self.reconciler.own.add(ENGINE)
        self.reconciler.own_port = ENGINE
        self._sync: Sync | None = None
        self.fights: tuple[Fight, ...] = ()
        if started:
            self.syncs(*EVERYTHING).ends()

    def hears(self, *events: Event) -> Playbook:
        """These events arrive."""
        for event in events:
            self.reconciler.hear(event, self.now)
        return self

    def after(self, seconds: float) -> Playbook:
        """Time passes."""
        self.now += seconds
        return self

    def syncs(self, *parts: Part, by: tuple[str, ...] | None = None) -> Playbook:
        """A sync of exactly these parts is due now."""
        assert self._sync is None, "one runs already"
        self._sync = self.reconciler.next(self.now)
        assert self._sync is not None, f"nothing is due before {self.reconciler.wake - self.now:g} s"
        assert self._sync.parts == frozenset(parts)
        assert by is None or self._sync.causes == by
        assert self.reconciler.next(self.now) is None, "two at once"
        return self

    def ends(self, outcome: Outcome | None = None) -> Playbook:
        """The sync ends so."""
        assert self._sync is not None
        self.fights = self.reconciler.ended(self._sync, outcome or Outcome(), self.now)
        self._sync = None
        return self

    def waits(self, seconds: float = 0.0) -> Playbook:
        """Nothing is due, for at least so long."""
        assert self.reconciler.next(self.now) is None
        end = self.now + seconds - 1e-9
        while (wake := self.reconciler.wake) < end:
            assert self.reconciler.next(wake) is None
        return self

    def idles(self, seconds: float) -> Playbook:
        """Time passes, and only what is unannounced is looked at."""
        end = self.now + seconds - 1e-9
        while (wake := self.reconciler.wake) < end:
            self.now = max(self.now, wake)
            sync = self.reconciler.next(self.now)
            if sync is not None:
                assert sync.quiet
                assert sync.parts <= UNANNOUNCED
                self.reconciler.ended(sync, Outcome(), self.now)
        self.now = end + 1e-9
        return self


def changed(program: str, pid: int, *tables: str, others: bool = False) -> RulesetChanged:
    """A transaction of somebody's, in our main table unless told otherwise."""
    touched = frozenset(tables or ({"inet dataplane"} if not others else ()))
    return RulesetChanged(7, pid, program, touched, frozenset(), others)


def found(*parts: Part) -> Outcome:
    """Something was wrong about these parts, and is right now."""
    return Outcome({part: (f"something about {part}",) for part in parts})
