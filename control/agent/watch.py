"""The agent's eyes: what the kernel tells goes to the reconciler, what is due to the engine, what came of it is told.

    watch = Watch(engine, turns, history, metrics, wake)
    loop:  select(watch.readers(), watch.timeout()) -> watch.read(reader); watch.turn()

    monitors --events--> Reconciler --Sync--> engine's thread --Outcome--> history, metrics
    BPF ring --findings--------------------------------------------------> history

Everything here runs in the thread of the agent's loop, except the sync itself; ``wake`` is called when one has ended,
or has stopped between two of its looks, because a request waits: it goes on when that was served.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from control.agent.history import History, Kind
from control.agent.metrics import Metrics
from control.agent.sightings import fields, grouped, of_checksum, sentence
from control.agent.turns import Turns
from control.engine import Engine, Watched
from control.repair.reconciler import EVERYTHING, Outcome, Part, Reconciler, Sync, merged
from dataplane.errors import BpfError, DataplaneError
from dataplane.events import NamespaceGone, NotificationsLost, RulesetChanged
from dataplane.monitors import Monitor, kernel_monitors
from dataplane.netlink import own_port
from dataplane.programs.door import KernelPrograms
from dataplane.programs.ringbuf import EventReader

RING_REST = 0.2
"""Seconds between two looks into the ring: a container that provokes drops must not keep the agent busy."""
MAX_FINDINGS = 20
"""Records that one look into the ring makes; more are counted."""

_REMEMBERED = 64
"""Transactions of which it is remembered who sent them."""
_BY_ROSTER = frozenset({Part.PROGRAMS, Part.VETHS, Part.LINKS, Part.SYSCTLS})
"""Parts whose events are passed by unless they are about links of ours."""


class Reader(Protocol):
    """Something that a selector waits for."""

    def fileno(self) -> int: ...


@dataclass(slots=True)
class _Running:
    """A sync under way."""

    sync: Sync
    looks: Iterator[Outcome]
    """Those to come."""
    outcomes: list[Outcome] = field(default_factory=list)
    watched: Watched | None = None
    seconds: float = 0.0
    """Spent looking and repairing, without the requests in between."""
    stopped: Future[bool] = field(default_factory=Future)
    """Whether it has ended."""


class Watch:
    """See the module. Its monitors are opened when it is made, and closed by ``close``. Raises ``KernelError``."""

    def __init__(
        self,
        engine: Engine,
        turns: Turns,
        history: History,
        metrics: Metrics,
        wake: Callable[[], None],
        collect_after: float,
    ) -> None:
        self._engine, self._turns, self._history, self._metrics, self._wake = engine, turns, history, metrics, wake
        self._reconciler = Reconciler(
            engine.mirror,
            time.monotonic(),
            collect_after=collect_after,
        )
        self._seen: dict[int, int] = {}
        """The threads of recent transactions that may be ours, by generation."""
        self._running: _Running | None = None
        self._left: frozenset[str] = frozenset()
        self._watched: Watched | None = None
        self._monitors = kernel_monitors()
        self._programs = KernelPrograms()
        self._ring: tuple[int, EventReader] | None = None
        self._ring_rests_until = 0.0
        self._settled = threading.Event()

    @property
    def settled(self) -> bool:
        """Whether everything was looked at once."""
        return self._settled.is_set()

    @property
    def networks(self) -> tuple[Mapping[int, str], Mapping[str, int]]:
        """Names of networks by their numbers, and how many attachments each has, as of the last look."""
        watched = self._watched
        return (watched.networks, watched.sizes) if watched else ({}, {})

    def readers(self) -> Iterator[Reader]:
        """What to wait for: may change with each turn."""
        yield from self._monitors
        if self._ring and time.monotonic() >= self._ring_rests_until:
            yield self._ring[1]

    def timeout(self) -> float:
        """Seconds until there is something to do though nothing was read."""
        now = time.monotonic()
        due = min(self._reconciler.wake, self._ring_rests_until if self._ring_rests_until > now else float("inf"))
        return max(0.0, due - now)

    def read(self, reader: Reader) -> None:
        """Take what a reader has."""
        if self._ring is not None and reader is self._ring[1]:
            self._read_ring(self._ring[1])
            return
        for monitor in self._monitors:
            if monitor is reader:
                self._read_monitor(monitor)

    def turn(self) -> None:
        """Take in a sync that has ended, let one go on that has stopped, and start the one that is due."""
        if self._running is not None and self._running.stopped.done():
            if not self._running.stopped.result():
                self._go_on(self._running)
                return
            running, self._running = self._running, None
            self._take_in(running)
        sync = self._reconciler.next(time.monotonic())
        if sync is not None:
            self._running = _Running(sync, self._engine.looks(sync.parts, sync.veths))
            self._go_on(self._running)

    def close(self) -> None:
        """Watch no more."""
        self._monitors.close()
        if self._ring is not None:
            self._ring[1].close()

    # -- syncs --------------------------------------------------------------------------------------------------------

    def _go_on(self, running: _Running) -> None:
        running.stopped = self._turns.submit(lambda: self._look_on(running))
        running.stopped.add_done_callback(lambda _: self._wake())

    def _look_on(self, running: _Running) -> bool:
        """In the engine's thread: look until all was looked at, or somebody waits; whether it was all."""
        began = time.monotonic()
        try:
            for outcome in running.looks:
                running.outcomes.append(outcome)
                if self._turns.is_awaited:
                    return False
            running.watched = self._engine.watched(self._watched)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end what repairs faults of others
            fault = f"a fault of ours: {error!r}"
            running.outcomes.append(Outcome(failed=dict.fromkeys(running.sync.parts, fault)))
        finally:
            # It is the one that this thread's requests use, too; until it is known their events are a stranger's.
            self._reconciler.own_port = own_port(socket.NETLINK_ROUTE)
            running.seconds += time.monotonic() - began
        return True

    def _take_in(self, running: _Running) -> None:
        now = time.monotonic()
        outcome = merged(running.outcomes)
        milliseconds = running.seconds * 1000
        for fight in self._reconciler.ended(running.sync, outcome, now):
            text = f"{fight.part} is being changed as fast as it is repaired: the next repair waits {fight.pause:g} s"
            self._history.tell(Kind.FIGHT, text, by=fight.opponents)
        if not running.sync.quiet or outcome.found:
            self._metrics.reconciled(running.seconds)
        for text in sorted(set(outcome.failed.values())):
            self._history.tell(Kind.FAILED, text, by=running.sync.causes, milliseconds=milliseconds)
        self._tell_found(running.sync, outcome, milliseconds)
        if running.sync.parts >= EVERYTHING:
            self._settled.set()
        if running.watched is not None:
            self._follow(running.watched, now)
        self._follow_ring()

    def _follow(self, watched: Watched, now: float) -> None:
        if self._watched is not None and watched.readings != self._watched.readings:
            # Until it was read, what changed about attachments of others was nobody's.
            self._reconciler.demand("another process changed the state", now, _BY_ROSTER)
        self._watched = watched
        self._monitors.sysctls.follow(watched.sysctls)
        for path in self._monitors.namespaces.follow(watched.namespaces):
            if not os.path.exists(path):  # noqa: PTH110 - there may be thousands
                self._reconciler.hear(NamespaceGone(path), now)

    def _tell_found(self, sync: Sync, outcome: Outcome, milliseconds: float) -> None:
        for part, texts in outcome.found.items():
            for text in texts[:MAX_FINDINGS]:
                self._history.tell(Kind.REPAIRED, text, by=sync.causes, milliseconds=milliseconds)
            if len(texts) > MAX_FINDINGS:
                more = f"and {len(texts) - MAX_FINDINGS} more of {part}"
                self._history.tell(Kind.REPAIRED, more, by=sync.causes, milliseconds=milliseconds)
            if part is Part.TABLES:
                self._metrics.rules_lost(sync.writers[0].partition(" (")[0] if sync.writers else "", len(texts))
        left = frozenset(outcome.left)
        for text in sorted(left - self._left):
            self._history.tell(Kind.PROBLEM, text, by=sync.causes)
        self._left = left if sync.parts >= EVERYTHING else self._left | left

    # -- events -------------------------------------------------------------------------------------------------------

    def _read_monitor(self, monitor: Monitor) -> None:
        now = time.monotonic()
        for event in monitor.read():
            if isinstance(event, NotificationsLost):
                self._metrics.netlink_overrun()
                self._history.tell(Kind.LOST, f"notifications of the kernel were lost ({event.source})")
            if isinstance(event, RulesetChanged):
                self._recognise(event)
            self._reconciler.hear(event, now)

    def _recognise(self, event: RulesetChanged) -> None:
        """Learn the numbers of our own threads: the kernel tells those of its first namespace of processes, and we may
        be in another one, where our own numbers differ."""
        self._seen[event.generation] = event.pid
        while len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        # A transaction is usually heard of before the engine has noted that it was its own: then with the next one.
        # The newest alone counts: the engine has one thread, and a number may be a stranger's one day.
        if known := self._engine.own_generations & self._seen.keys():
            self._reconciler.own = {self._seen[max(known)]}

    # -- findings -----------------------------------------------------------------------------------------------------

    def _follow_ring(self) -> None:
        """Read the ring of the programs that are loaded now."""
        try:
            if not self._programs.loaded():
                return
            number = self._programs.map("events").id
            if self._ring is not None:
                if self._ring[0] == number:
                    return
                self._ring[1].close()
                self._ring = None
            self._ring = number, self._programs.events()
        except DataplaneError as error:
            text = f"findings of the BPF programs are not read: {error}"
            if text not in self._left:
                self._left |= {text}
                self._history.tell(Kind.PROBLEM, text)

    def _read_ring(self, ring: EventReader) -> None:
        self._ring_rests_until = time.monotonic() + RING_REST
        try:
            found = Counter(map(grouped, ring.poll()))
        except BpfError as error:
            self._history.tell(Kind.PROBLEM, str(error))
            return
        names = self._watched.networks if self._watched else {}
        containers = self._watched.containers if self._watched else {}
        for event, count in list(found.items())[:MAX_FINDINGS]:
            kind = Kind.CHECKSUM if of_checksum(event) else Kind.DROPPED
            details = {**fields(event, names, containers), "count": count}
            self._history.tell(kind, sentence(event, names, count, containers), details=details)
        if len(found) > MAX_FINDINGS:
            self._history.tell(Kind.DROPPED, f"and {len(found) - MAX_FINDINGS} more sightings")
