"""The engine's thread: one thing at a time, in the order in which they came.

    turns = Turns("engine")
    turns.submit(request).result()       waits for its turn
    turns.is_awaited                     whether anybody waits for theirs

What takes long asks ``is_awaited`` now and then, stops there, and submits the rest of itself again: whoever came
meanwhile is before it, and whoever comes later is not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Turns:
    """See the module. Any thread may submit."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting = 0
        self._closing = False

    @property
    def is_awaited(self) -> bool:
        """Whether anything was submitted that has not begun, or nothing more is to begin."""
        return self._waiting > 0 or self._closing

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have it done when it is its turn. Raises ``RuntimeError`` once closed."""
        self._count(1)
        try:
            return self._thread.submit(self._begin, work)
        except RuntimeError:
            self._count(-1)
            raise

    def close(self) -> None:
        """Take nothing more, and wait for what was taken."""
        self._closing = True
        self._thread.shutdown(wait=True)

    def _begin(self, work: Callable[[], T]) -> T:
        self._count(-1)
        return work()

    def _count(self, by: int) -> None:
        with self._lock:
            self._waiting += by
