"""What somebody who waits is told: what is being measured, how far that is, and how long the rest may take.

    progress = Progress([("layers", 12.0), ("bulk", 10.0)], sys.stderr)
    progress.begin("layers")               # 1 of 2 layers
    progress.tell("making hosts")          # a line that stays
    progress.at(3, 12)                     # 3 of 12 blocks, about 0:19 left; on a terminal in place of the last

Times left are what scenarios took on the machine that they were written on; as soon as blocks are counted, what these
take here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TextIO

_EVERY = 10.0
"""Seconds between two lines where lines stay."""
_CLEAR = "\r\x1b[K"


class Progress:
    """See the module."""

    def __init__(
        self, plan: Sequence[tuple[str, float]], out: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan, self._out, self._clock = list(plan), out, clock
        self._terminal = out.isatty()
        self._number, self._name, self._expected = 0, "", 0.0
        self._began = self._told = clock()
        self._counted: tuple[float, int] | None = None
        """When blocks of this kind began to be counted, and how many were done then."""
        self._transient = False

    def begin(self, name: str) -> None:
        """The next scenario."""
        self._number = [one for one, _ in self._plan].index(name) + 1
        self._name, self._expected = name, self._plan[self._number - 1][1]
        self._began, self._counted = self._clock(), None
        self.tell("begins" + self._left(self._expected))

    def end(self) -> None:
        """It is done."""
        self.tell(f"done in {clock(self._clock() - self._began)}")

    def tell(self, text: str) -> None:
        """A line that stays."""
        self._wipe()
        place = f"{self._number}/{len(self._plan)} {self._name}: " if self._name else ""
        self._out.write(f"bench: {place}{text}\n")
        self._out.flush()
        self._told = self._clock()

    def interject(self, text: str) -> None:
        """A line that a signal's handler has to say: past the stream, which may be in the middle of one."""
        os.write(self._out.fileno(), f"bench: {text}\n".encode())

    def at(self, done: int, of: int) -> None:
        """So many blocks of so many are measured."""
        now = self._clock()
        if done == 0 or self._counted is None:
            self._counted = (now, done)
        since, before = self._counted
        spent, blocks = now - since, done - before
        own = spent / blocks * (of - done) if blocks else max(self._expected - (now - self._began), 0.0)
        text = f"{done} of {of} blocks{self._left(own)}"
        if not self._terminal:
            if now - self._told >= _EVERY:
                self.tell(text)
            return
        self._out.write(f"{_CLEAR}bench: {self._number}/{len(self._plan)} {self._name}: {text}")
        self._out.flush()
        self._transient = True

    def _left(self, own: float) -> str:
        left = own + sum(seconds for _, seconds in self._plan[self._number :])
        return f", about {clock(left)} left" if left >= 1 else ""

    def _wipe(self) -> None:
        if self._transient:
            self._out.write(_CLEAR)
            self._transient = False


def clock(seconds: float) -> str:
    """ "2:05"."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"
