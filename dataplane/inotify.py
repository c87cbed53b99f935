"""inotify: Python's library has none.

    notify = Inotify()
    number = notify.add("/run/netns", DELETE)
    notify.read()  ->  ([Notice(number, DELETE, "web")], False)

A watch is on an inode: of the file that has the path at that moment, whatever becomes of the path.

Source: include/uapi/linux/inotify.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from dataplane.errors import KernelError

MODIFY, MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x2, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
"""IN_*"""
ONLYDIR, MASK_CREATE = 0x01000000, 0x10000000
"""IN_*: only a directory is to be watched; one that is watched already is refused"""
UNMOUNT, IGNORED = 0x2000, 0x8000
"""IN_*: its file system is gone; the watch has ended, by itself or by ``remove``. Told unasked"""

_OVERFLOW = 0x4000  # IN_Q_OVERFLOW
_EVENT = struct.Struct("=iIII")  # inotify_event: watch, mask, cookie, length of the name
_BUFFER = 1 << 16
_LIBC = ctypes.CDLL(None, use_errno=True)


class Notice(NamedTuple):
    """Something happened to a watched file, or to the one of that name in a watched directory."""

    watch: int
    mask: int
    name: str


class Inotify:
    """An inotify instance. Raises ``KernelError``."""

    def __init__(self) -> None:
        self._descriptor: int = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            hint = "fs.inotify.max_user_instances says how many there may be"
            raise KernelError.from_errno("make", "an inotify instance", ctypes.get_errno(), hint)

    def fileno(self) -> int:
        """Readable (epoll, select) while there is something to read."""
        return self._descriptor

    def add(self, path: str, mask: int) -> int:
        """Watch a file or directory; the number of the watch, the same for the same inode. Raises ``KernelError``, with
        ENOENT where there is none."""
        number: int = _LIBC.inotify_add_watch(self._descriptor, os.fsencode(path), mask)
        if number < 0:
            raise KernelError.from_errno("watch", path, ctypes.get_errno())
        return number

    def remove(self, watch: int) -> None:
        """Watch no more; a watch that has ended is fine."""
        _LIBC.inotify_rm_watch(self._descriptor, watch)

    def read(self) -> tuple[list[Notice], bool]:
        """What is there, oldest first, as far as it fits into a buffer, and whether some was lost; never waits."""
        try:
            raw = os.read(self._descriptor, _BUFFER)
        except BlockingIOError:
            return [], False
        notices = list(_notices(raw))
        kept = [notice for notice in notices if not notice.mask & _OVERFLOW]
        return kept, len(kept) < len(notices)

    def close(self) -> None:
        """Watch nothing any more; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _notices(raw: bytes) -> Iterator[Notice]:
    at = 0
    while at < len(raw):
        watch, mask, _, length = _EVENT.unpack_from(raw, at)
        at += _EVENT.size
        yield Notice(watch, mask, os.fsdecode(raw[at : at + length].rstrip(b"\0")))
        at += length
