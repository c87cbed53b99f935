"""The one lock: whoever changes the kernel or the state holds it, be it the agent or a plugin's own process."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from control.errors import BusyError

_POLL = 0.005  # seconds


@contextmanager
def locked(path: Path, timeout: float = 30.0) -> Iterator[None]:
    """Hold the lock. Raises ``BusyError`` when others hold it for ``timeout`` seconds.

    A file lock, so the kernel frees it when its holder dies, however it dies.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"could not get the lock {path} within {timeout:.0f} s: another request holds it; try again"
                    ) from None
                time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)
