"""What happened, as the agent remembers it: a record each, the last thousand of them, and whoever waits for the next.

    history.tell(Kind.REPAIRED, "table inet dataplane was wiped", by=("nft (4711)",), milliseconds=3.1)
    history.after(number)                 -> the records since, those that are still there
    history.wait(number, timeout)         -> the same, as soon as there is one

Threads may share it. The numbers go on without a gap, so who asks again misses nothing, or knows how much.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import takewhile

KEPT = 1000


class Kind(StrEnum):
    """What a record is about."""

    STARTED = "started"
    STOPPING = "stopping"
    SERVED = "served"
    """A call of the plugin."""
    REPAIRED = "repaired"
    """Something was not as the attachments ask for, and is again."""
    PROBLEM = "problem"
    """Something is not, and cannot be put right from here."""
    FAILED = "failed"
    """A repair did not come to its end; it is tried again."""
    FIGHT = "fight"
    """Others undo what is repaired; the next repair waits."""
    LOST = "lost"
    """Notifications of the kernel were lost; everything was looked at."""
    DROPPED = "dropped"
    """A program dropped packets: isolation, guard."""
    CHECKSUM = "checksum"
    """A wrong checksum was found."""


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened."""

    number: int
    time: float
    """Seconds since 1970."""
    kind: Kind
    text: str
    by: tuple[str, ...] = ()
    """Whose doing it was, as far as the kernel tells: programs with their process, or what was noticed."""
    milliseconds: float | None = None
    """How long what was done about it took."""
    details: Mapping[str, object] = field(default_factory=dict)

    def fields(self) -> dict[str, object]:
        """As JSON has it."""
        return asdict(self)


class History:
    """See the module. ``listener`` is told of each record, by whichever thread."""

    def __init__(self, listener: Callable[[Record], None] = lambda _: None, clock: Callable[[], float] = time.time):
        self._records: deque[Record] = deque(maxlen=KEPT)
        self._last = 0
        self._more = threading.Condition()
        self._listener, self._clock = listener, clock
        self._closed = False

    def tell(
        self,
        kind: Kind,
        text: str,
        *,
        by: tuple[str, ...] = (),
        milliseconds: float | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        """Something happened."""
        with self._more:
            self._last += 1
            record = Record(self._last, self._clock(), kind, text, by, milliseconds, details or {})
            self._records.append(record)
            self._more.notify_all()
        self._listener(record)

    def after(self, number: int) -> tuple[Record, ...]:
        """The records since that one, oldest first."""
        with self._more:
            return self._after(number)

    def wait(self, number: int, timeout: float) -> tuple[Record, ...]:
        """The records since that one, as soon as there is any, or ``timeout`` seconds later."""
        with self._more:
            self._more.wait_for(lambda: self._last > number or self._closed, timeout)
            return self._after(number)

    @property
    def closed(self) -> bool:
        """Whether nothing more will happen."""
        return self._closed

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._more:
            self._closed = True
            self._more.notify_all()

    def _after(self, number: int) -> tuple[Record, ...]:
        newest_first = takewhile(lambda record: record.number > number, reversed(self._records))
        return tuple(newest_first)[::-1]
