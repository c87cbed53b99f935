"""Network namespaces whose files are deleted, as runtimes and ``ip netns delete`` do.

Be aware: this is told for files in directories such as /run/netns only. Namespaces that are known as /proc/PID/ns/net
end with their processes, and nobody says so; nor is anything told of one that is unmounted while its file stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

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
        self._followed: dict[str, int] = {}
        """The same paths, and the watches of their directories."""
        self._directories: dict[str, int | None] = {}
        self._doubtful: set[str] = set()
        """Paths that were told to be gone, or may have gone untold: whoever follows them has them looked at again."""

    def fileno(self) -> int:
        """Readable (epoll, select) while there is something to read."""
        return self._inotify.fileno()

    def follow(self, paths: Iterable[str]) -> frozenset[str]:
        """Watch these paths and no others; those that there are not, or whose end nobody would tell, are answered. Only
        these, and what was not watched before, are looked at: there may be thousands, and a call that made one more."""
        wanted = frozenset(paths)
        former = self._directories
        self._directories = {directory: self._watch(directory) for directory in former}
        replaced = {watch for directory, watch in former.items() if self._directories[directory] != watch}
        for path, watch in list(self._followed.items()) if replaced else ():
            if watch in replaced:
                self._drop(path)
        for path in (self._followed.keys() - wanted) | (self._followed.keys() & self._doubtful):
            self._drop(path)
        self._doubtful.clear()
        unwatched = frozenset(path for path in wanted - self._followed.keys() if not self._add(path))
        for watch in [watch for watch, names in self._paths.items() if not names]:
            self._inotify.remove(watch)
            del self._paths[watch]
        still = {path.rpartition("/")[0] for path in unwatched}
        self._directories = {
            directory: watch
            for directory, watch in self._directories.items()
            if watch in self._paths or directory in still
        }
        return unwatched

    def read(self) -> tuple[Event, ...]:
        """What was deleted, each path once; never waits."""
        notices, lost = self._inotify.read()
        found: dict[Event, None] = {NotificationsLost(SOURCE): None} if lost else {}
        if lost:
            self._doubtful.update(self._followed)
        for notice in notices:
            if notice.mask & IGNORED:
                # The directory itself is gone, and all that was in it before.
                for paths in self._paths.pop(notice.watch, {}).values():
                    for path in paths:
                        del self._followed[path]
            else:
                for path in sorted(self._paths.get(notice.watch, {}).get(notice.name, ())):
                    found[NamespaceGone(path)] = None
                    self._doubtful.add(path)
        return tuple(found)

    def close(self) -> None:
        """Watch no more; a second time does nothing."""
        self._inotify.close()

    def _add(self, path: str) -> bool:
        """Whether the path is there, and its end will be told."""
        directory, _, name = path.rpartition("/")
        if directory not in self._directories:
            self._directories[directory] = self._watch(directory)
        watch = self._directories[directory]
        # Watched first, then looked at: what is deleted in between is seen by one or the other.
        if watch is None:
            return False
        names = self._paths.setdefault(watch, {})
        if not os.path.exists(path):  # noqa: PTH110 - there may be thousands
            return False
        names.setdefault(name, set()).add(path)
        self._followed[path] = watch
        return True

    def _drop(self, path: str) -> None:
        names, name = self._paths[self._followed.pop(path)], path.rpartition("/")[2]
        names[name].discard(path)
        if not names[name]:
            del names[name]

    def _watch(self, directory: str) -> int | None:
        if not directory or os.path.realpath(directory).startswith("/proc/"):
            return None
        try:
            return self._inotify.add(directory, DELETE | MOVED_FROM)
        except KernelError:
            return None
