"""The door to inotify: which names of a directory anybody changed since it was last asked.

    changes = DirectoryChanges(Path("/var/lib/cni/networks/front"))
    changes.taken()      # {"10.11.0.7"}; None: that cannot be told any more, look at everything and watch anew

The kernel notes a change before the system call that makes it returns: who asks while it holds a lock that all writers
take misses none of theirs.

Be aware: what another host changes on a shared file system is not seen, nor what is written by a name in another
directory. A process that ends waits for the kernel to let go of its watches, some ten milliseconds: not for one that
asks once.

Source: include/uapi/linux/inotify.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200  # IN_*
_DELETE_SELF, _MOVE_SELF, _ONLYDIR, _MASK_CREATE = 0x400, 0x800, 0x01000000, 0x10000000
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000  # told unasked
_ASKED = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR | _MASK_CREATE
_END = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _IGNORED
_EVENT = struct.Struct("=iIII")  # inotify_event: watch, mask, cookie, length of the name that follows
_BUFFER = 1 << 16


class _Queue:
    """The changes of all directories that this process watches: a user has but 128 of these."""

    def __init__(self) -> None:
        self._descriptor = _checked(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._lock = threading.Lock()
        self._names: dict[int, set[str] | None] = {}

    def watch(self, directory: Path) -> int:
        with self._lock:
            watch = _checked(_LIBC.inotify_add_watch(self._descriptor, os.fsencode(directory), _ASKED))
            self._names[watch] = set()
            return watch

    def unwatch(self, watch: int) -> None:
        with self._lock:
            self._names.pop(watch, None)
            # It is refused where the directory is gone, and its watch with it.
            _LIBC.inotify_rm_watch(self._descriptor, watch)

    def taken(self, watch: int) -> frozenset[str] | None:
        with self._lock:
            while raw := self._read():
                self._note(raw)
            names = self._names.get(watch)
            if names is not None:
                self._names[watch] = set()
            return None if names is None else frozenset(names)

    def close(self) -> None:
        os.close(self._descriptor)

    def _note(self, raw: bytes) -> None:
        at = 0
        while at < len(raw):
            watch, mask, _, length = _EVENT.unpack_from(raw, at)
            at += _EVENT.size + length
            names = self._names.get(watch)
            if mask & _OVERFLOW:
                self._names = dict.fromkeys(self._names)
            elif names is not None and mask & _END:
                self._names[watch] = None
            elif names is not None:
                names.add(os.fsdecode(raw[at - length : at].rstrip(b"\0")))

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _BUFFER)
        except BlockingIOError:
            return b""


class _Shared:
    """The queue of this process, once there is one."""

    def __init__(self) -> None:
        self._queue: _Queue | None = None
        self._lock = threading.Lock()

    def queue(self) -> _Queue:
        with self._lock:
            if self._queue is None:
                self._queue = _Queue()
            return self._queue

    def owns(self, queue: _Queue) -> bool:
        return queue is self._queue

    def start_anew(self) -> None:
        """In the child of a fork: what it took from the queue, its parent would miss."""
        if self._queue is not None:
            self._queue.close()
        self._queue = None
        self._lock = threading.Lock()  # the other may be held by a thread that is not here


_shared = _Shared()
os.register_at_fork(after_in_child=_shared.start_anew)


class DirectoryChanges:
    """See the module. Raises ``OSError`` where the directory cannot be watched, or is watched already."""

    def __init__(self, directory: Path) -> None:
        self._queue = _shared.queue()
        self._watch = self._queue.watch(directory)

    def close(self) -> None:
        """Watch no longer."""
        if _shared.owns(self._queue):
            self._queue.unwatch(self._watch)

    def taken(self) -> frozenset[str] | None:
        """Names that were made, written, renamed or removed since the last call; None where changes may have been
        missed: some were dropped, the directory was itself removed or renamed, or this is the child of a fork."""
        return self._queue.taken(self._watch) if _shared.owns(self._queue) else None


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
