"""Writes to sysctls that the kernel does not announce, seen as changes of their files.

Be aware: only writes by way of the same mount of /proc are seen, which is what the programs of this host use; not those
of a container that has its own. Nor what the kernel changes by itself: a write to ``conf/all`` is no write to each
link's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from dataplane.errors import KernelError
from dataplane.events import Event, NotificationsLost, SysctlWritten
from dataplane.inotify import IGNORED, MODIFY, Inotify

SOURCE = "sysctls"

_ROOT = "/proc/sys"


class SysctlMonitor:
    """Watches what ``follow`` was told, in the namespace of the thread that tells it. Raises ``KernelError``."""

    def __init__(self) -> None:
        self._inotify = Inotify()
        self._names: dict[int, str] = {}
        # Open while it is watched: the kernel might forget the inode of a file that nobody uses, and make another one
        # for who writes next.
        self._files: dict[int, int] = {}

    def fileno(self) -> int:
        """Readable (epoll, select) while there is something to read."""
        return self._inotify.fileno()

    def follow(self, names: Iterable[str]) -> frozenset[str]:
        """Watch these sysctls, by their paths below /proc/sys, and no others; those that cannot be are answered.

        To be told again after links came, went or changed their names: another file may have the path now.
        """
        wanted = frozenset(names)
        watched: dict[int, str] = {}
        for name in wanted:
            watch = self._watch(name)
            if watch is not None:
                watched[watch] = name
        for watch in self._names.keys() - watched.keys():
            self._inotify.remove(watch)
            self._forget(watch)
        self._names = watched
        return wanted - set(watched.values())

    def read(self) -> tuple[Event, ...]:
        """What was written to, each sysctl once; never waits."""
        notices, lost = self._inotify.read()
        found: dict[Event, None] = {NotificationsLost(SOURCE): None} if lost else {}
        for notice in notices:
            if notice.mask & IGNORED:
                self._forget(notice.watch)
            elif notice.watch in self._names:
                found[SysctlWritten(self._names[notice.watch])] = None
        return tuple(found)

    def close(self) -> None:
        """Watch no more; a second time does nothing."""
        self._inotify.close()
        for watch in tuple(self._files):
            self._forget(watch)

    def _watch(self, name: str) -> int | None:
        path = f"{_ROOT}/{name}"
        try:
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            watch = self._inotify.add(f"/proc/self/fd/{file}", MODIFY)
        except KernelError:
            os.close(file)
            return None
        if watch in self._files:
            os.close(file)
        else:
            self._files[watch] = file
        return watch

    def _forget(self, watch: int) -> None:
        self._names.pop(watch, None)
        with suppress(KeyError):
            os.close(self._files.pop(watch))
