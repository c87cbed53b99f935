"""Which names of a directory anybody changed since it was last asked.

    changes = DirectoryChanges(Path("/var/lib/cni/networks/front"))
    changes.taken()      # {"10.11.0.7"}; None: that cannot be told any more, look at everything and watch anew

The kernel notes a change before the system call that makes it returns: who asks while it holds a lock that all writers
take misses none of theirs.

Be aware: what another host changes on a shared file system is not seen, nor what is written by a name in another
directory. A process that ends waits for the kernel to let go of its watches, some ten milliseconds: not for one that
asks once.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from dataplane.inotify import (
    CREATE,
    DELETE,
    DELETE_SELF,
    IGNORED,
    MASK_CREATE,
    MODIFY,
    MOVE_SELF,
    MOVED_FROM,
    MOVED_TO,
    ONLYDIR,
    UNMOUNT,
    Inotify,
)

_ASKED = MODIFY | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ONLYDIR | MASK_CREATE
_END = DELETE_SELF | MOVE_SELF | UNMOUNT | IGNORED


class _Queue:
    """The changes of all directories that this process watches: a user has but 128 of these."""

    def __init__(self) -> None:
        self._inotify = Inotify()
        self._lock = threading.Lock()
        self._names: dict[int, set[str] | None] = {}

    def watch(self, directory: Path) -> int:
        with self._lock:
            watch = self._inotify.add(str(directory), _ASKED)
            self._names[watch] = set()
            return watch

    def unwatch(self, watch: int) -> None:
        with self._lock:
            self._names.pop(watch, None)
            self._inotify.remove(watch)

    def taken(self, watch: int) -> frozenset[str] | None:
        with self._lock:
            while self._note():
                pass
            names = self._names.get(watch)
            if names is not None:
                self._names[watch] = set()
            return None if names is None else frozenset(names)

    def close(self) -> None:
        self._inotify.close()

    def _note(self) -> bool:
        """Take in what fits into one reading; whether there was anything."""
        notices, lost = self._inotify.read()
        if lost:
            self._names = dict.fromkeys(self._names)
        for notice in notices:
            names = self._names.get(notice.watch)
            if names is not None and notice.mask & _END:
                self._names[notice.watch] = None
            elif names is not None:
                names.add(notice.name)
        return bool(notices) or lost


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
    """See the module. Raises ``KernelError`` where the directory cannot be watched, or is watched already."""

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
