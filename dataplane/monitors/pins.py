"""Changes to the directories of our pins: files that come and go, and another file system in their place.

    /sys/fs/bpf/                  a bpffs: mounted, unmounted, mounted over       (the mount table)
        dataplane/                ours: appears, vanishes                         (inotify on the parent)
            <digest>/  links/     pins: appear, vanish                            (inotify)

Be aware: a program that is detached from its link while its pins stay is not seen here, nor anywhere else.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path

from dataplane.errors import KernelError
from dataplane.events import Event, NotificationsLost, PinsChanged
from dataplane.inotify import CREATE, DELETE, DELETE_SELF, MOVE_SELF, MOVED_FROM, MOVED_TO, Inotify
from dataplane.programs.loading import BASE

SOURCE = "pins"

_MOUNTS = "/proc/self/mountinfo"
_CHANGES = CREATE | DELETE | MOVED_FROM | MOVED_TO | DELETE_SELF | MOVE_SELF

Identity = tuple[int, int]
"""Device and inode of a directory."""


class PinMonitor:
    """Watches a directory of pins, those in it and the one that it is in. Raises ``KernelError``."""

    def __init__(self, base: Path = BASE) -> None:
        self._base = base
        self._inotify = Inotify()
        # The mount table is told as an urgent condition, which an epoll instance can wait for, and selectors cannot.
        self._mounts = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._inotify.fileno(), select.EPOLLIN)
        self._epoll.register(self._mounts, select.EPOLLPRI)
        self._watches: dict[Path, int] = {}
        self._there = self._follow()

    def fileno(self) -> int:
        """Readable (epoll, select) while there is something to read."""
        return self._epoll.fileno()

    def read(self) -> tuple[Event, ...]:
        """``PinsChanged`` where something did; never waits."""
        self._epoll.poll(0)
        notices, lost = self._inotify.read()
        # Of the parent, in which others have their pins, only our name counts.
        parent, watched = self._watches.get(self._base.parent), set(self._watches.values())
        changed = any(
            notice.name == self._base.name if notice.watch == parent else notice.watch in watched for notice in notices
        )
        before, self._there = self._there, self._follow()
        changed = changed or self._there != before
        found: list[Event] = [NotificationsLost(SOURCE)] if lost else []
        return (*found, PinsChanged()) if changed else tuple(found)

    def close(self) -> None:
        """Watch no more; a second time does nothing."""
        if not self._epoll.closed:
            self._epoll.close()
            self._inotify.close()
            os.close(self._mounts)

    def _follow(self) -> dict[Path, Identity]:
        """Watch the directories that there are now; which these are."""
        there: dict[Path, Identity] = {}
        watches: dict[Path, int] = {}
        for directory in self._directories():
            # Watched first, then looked at: what changes in between is told.
            try:
                watches[directory] = self._inotify.add(str(directory), _CHANGES)
                status = directory.stat()
            except FileNotFoundError:
                continue
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
                continue
            there[directory] = (status.st_dev, status.st_ino)
        for watch in set(self._watches.values()) - set(watches.values()):
            self._inotify.remove(watch)
        self._watches = watches
        return there

    def _directories(self) -> Iterator[Path]:
        """One after the other: what is in ours is asked for when that is watched."""
        yield self._base.parent
        yield self._base
        try:
            yield from [Path(entry.path) for entry in os.scandir(self._base) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return
