"""The nftables transactions of a host, as they are announced: ``native/watch.c``, and a thread that listens to it.

with Watcher(host, native) as watcher:
    mark = watcher.mark()
    host.run("nft", "flush", "ruleset")
    (flush, *rest) = watcher.since(mark)
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bench.native import BenchError, Native
from bench.place import Host, end, send


@dataclass(frozen=True, slots=True)
class Commit:
    """One transaction that is in force."""

    nanoseconds: int
    """CLOCK_MONOTONIC, which ``time.monotonic_ns`` is, too."""
    generation: int
    program: str
    """The name of the process that made it."""


class Watcher:
    """See the module."""

    def __init__(self, host: Host, native: Native) -> None:
        self._process = host.spawn(native.watch)
        self._commits: list[Commit] = []
        self._changed = threading.Condition()
        self._lost = False
        if self._line() != "ready":
            raise BenchError("could not watch nftables: see above")
        self._thread = threading.Thread(target=self._listen, name="watcher", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        send(self._process, signal.SIGKILL)
        self._thread.join()  # it has read to the end of the file
        end(self._process)

    def mark(self) -> int:
        """A place in the sequence of transactions: now."""
        with self._changed:
            return len(self._commits)

    def since(self, mark: int) -> list[Commit]:
        """Those after a place. Raises ``BenchError`` where announcements were lost."""
        with self._changed:
            if self._lost:
                raise BenchError("could not follow nftables: announcements were lost")
            return self._commits[mark:]

    def wait(self, mark: int, until: float) -> bool:
        """Wait for one after a place, until a moment of ``time.monotonic``; whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._commits) > mark, max(until - time.monotonic(), 0))

    def settle(self, mark: int, quiet: float, until: float) -> int:
        """Wait until none came for so many seconds; the place after the last."""
        while True:
            now = self.mark()
            if not self.wait(now, min(time.monotonic() + quiet, until)):
                return max(now, mark)

    def _listen(self) -> None:
        while line := self._line():
            with self._changed:
                if line == "lost":
                    self._lost = True
                else:
                    nanoseconds, generation, _, program = line.split(" ", 3)
                    self._commits.append(Commit(int(nanoseconds), int(generation), program))
                self._changed.notify_all()

    def _line(self) -> str:
        if self._process.stdout is None:
            raise AssertionError("made with a pipe")
        return self._process.stdout.readline().decode(errors="replace").rstrip("\n")
