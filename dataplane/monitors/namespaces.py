"""Network namespaces whose files are deleted, as runtimes and ``ip netns delete`` do.

Be aware: this is told for files in directories such as /run/netns only. Namespaces that are known as /proc/PID/ns/net
end with their processes, and nobody says so; nor is anything told of one that is unmounted while its file stays.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from dataplane.errors import KernelError
from dataplane.events import Event, NamespaceGone, NotificationsLost
from dataplane.inotify import DELETE, IGNORED, MOVED_FROM, Inotify

SOURCE = "namespaces"


class NamespaceMonitor:
    """Watches the directories of what ``follow`` was told. Raises ``KernelError``."""

    def __init__(self) -> None:
        self._inotify = Inotify()
        self._paths: dict[int, dict[str, set[str]]] = {}
        """The paths by the watch of their directory and their names in it: /var/run/netns is /run/netns."""

    def fileno(self) -> int:
        """Readable (epoll, select) while there is something to read."""
        return self._inotify.fileno()

    def follow(self, paths: Iterable[str]) -> frozenset[str]:
        """Watch these paths and no others; those that there are not, or whose end nobody would tell, are answered."""
        watched: defaultdict[int, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        unwatched: set[str] = set()
        directories: dict[str, int | None] = {}
        for path in paths:
            directory, _, name = path.rpartition("/")
            if directory not in directories:
                directories[directory] = self._watch(directory)
            watch = directories[directory]
            # Watched first, then looked at: what is deleted in between is seen by one or the other.
            if watch is None or not Path(path).exists():
                unwatched.add(path)
            else:
                watched[watch][name].add(path)
        for watch in self._paths.keys() - watched.keys():
            self._inotify.remove(watch)
        self._paths = {watch: dict(names) for watch, names in watched.items()}
        return frozenset(unwatched)

    def read(self) -> tuple[Event, ...]:
        """What was deleted, each path once; never waits."""
        notices, lost = self._inotify.read()
        found: dict[Event, None] = {NotificationsLost(SOURCE): None} if lost else {}
        for notice in notices:
            if notice.mask & IGNORED:
                # The directory itself is gone, and all that was in it before.
                self._paths.pop(notice.watch, None)
            else:
                for path in sorted(self._paths.get(notice.watch, {}).get(notice.name, ())):
                    found[NamespaceGone(path)] = None
        return tuple(found)

    def close(self) -> None:
        """Watch no more; a second time does nothing."""
        self._inotify.close()

    def _watch(self, directory: str) -> int | None:
        if not directory or os.path.realpath(directory).startswith("/proc/"):
            return None
        try:
            return self._inotify.add(directory, DELETE | MOVED_FROM)
        except KernelError:
            return None
