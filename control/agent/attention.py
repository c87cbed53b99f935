"""When the agent's loop listens to the kernel: always, but for a moment after a call came.

    events = Events(watch)
    loop:  events.follow(selector); selector.select(min(events.rest(), ...)) -> key.data()
    events.pause()                     a call was delivered

One ADD makes the kernel tell of its qdisc, its filter, its bridge port and its elements. To read each at once would
take the interpreter away from the very call that causes them, a tenth of its time, and nobody could act on them before:
what does is the engine's thread, which serves the call. After the pause they are read together.

Be aware: a pause ends by itself, no call makes it longer, and between two of them the loop listens once at least:
however many calls come, the kernel is heard every ``PAUSE``.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterable
from math import inf
from typing import Protocol

from control.agent.watch import Reader

PAUSE = 0.003
"""Seconds: a little longer than a call takes. By so much later a flush of the ruleset is heard of, if it comes with a
call."""


class Listener(Protocol):
    """What is needed of ``control.agent.watch.Watch``."""

    def readers(self) -> Iterable[Reader]:
        """What to wait for: may change with each turn."""

    def read(self, reader: Reader) -> None:
        """Take what a reader has."""


class Events:
    """See the module. What the watch waits for is in a selector of its own, whose descriptor is in the loop's."""

    def __init__(self, watch: Listener, pause: float = PAUSE) -> None:
        self._watch, self._pause = watch, pause
        self._selector = selectors.EpollSelector()
        self._readers: set[tuple[int, Reader]] = set()
        self._heard = False
        self._paused_until = -inf

    def pause(self) -> None:
        """Listen to nothing for a moment, unless nothing was listened to since the last one."""
        if self._heard:
            self._paused_until = time.monotonic() + self._pause

    def rest(self) -> float:
        """Seconds until a pause is over, after ``follow``; infinity where there is none."""
        return inf if self._heard else max(0.0, self._paused_until - time.monotonic())

    def follow(self, selector: selectors.BaseSelector) -> None:
        """Before each turn: have the loop wait for these, or for none of them."""
        heard = time.monotonic() >= self._paused_until
        if heard:
            self._follow_readers()
        if heard == self._heard:
            return
        self._heard = heard
        if heard:
            selector.register(self._selector, selectors.EVENT_READ, self._read)
        else:
            selector.unregister(self._selector)

    def _follow_readers(self) -> None:
        """With what the watch waits for now, by descriptors that may have been closed since. That changes seldom."""
        wanted = {(reader.fileno(), reader) for reader in self._watch.readers()}
        for descriptor, _ in self._readers - wanted:
            self._selector.unregister(descriptor)
        for descriptor, reader in wanted - self._readers:
            self._selector.register(descriptor, selectors.EVENT_READ, reader)
        self._readers = wanted

    def close(self) -> None:
        """Listen no more; what the watch waits for is the watch's to close."""
        self._selector.close()

    def _read(self) -> None:
        for key, _ in self._selector.select(0):
            self._watch.read(key.data)
