"""Locks between processes: the one of the state, and one for each attachment.

    with locked(directory / "lock"): ...                       whoever changes the kernel's tables or the state holds it
    with locked_attachment(directory, "front/web/eth0"): ...   two calls about one attachment come one after the other

File locks, so the kernel frees them when their holder dies, however it dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from control.errors import BusyError

TIMEOUT = 30.0
"""Seconds: less than a runtime waits for its plugin."""

_POLL = 0.005  # seconds
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid; padded as C does
_TAKEN = frozenset({errno.EAGAIN, errno.EACCES})


@contextmanager
def locked(path: Path, timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold the lock. Raises ``BusyError`` when others hold it for ``timeout`` seconds."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait(lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB), f"the lock {path}", timeout)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_attachment(directory: Path, key: str, timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold the lock of one attachment: a byte of one file, so that no file is left behind for each of them.

    An open file description lock, because the agent's threads must exclude each other, too.
    """
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    byte = int.from_bytes(sha256(key.encode()).digest()[:7], "big")
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    descriptor = os.open(directory / "attachments.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait(lambda: fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted), f"the lock of attachment {key}", timeout)
        yield
    finally:
        os.close(descriptor)


def _wait(attempt: Callable[[], object], thing: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            attempt()
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            if time.monotonic() > deadline:
                raise BusyError(
                    f"could not get {thing} within {timeout:.0f} s: another request holds it; try again"
                ) from None
            time.sleep(_POLL)
        else:
            return
