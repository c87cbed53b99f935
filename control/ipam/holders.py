"""Who holds which lease of a directory: read once, and from then on only what changed.

    holders = held_in(directory)          the caller holds the lock that all who write there take
    holders.of(Owner("3f9c...", "eth0"))  ["10.11.0.2"]
    "10.11.0.3" in holders                False: free

An agent serves an ADD among thousands of leases as fast as the first. The first time, and where changes cannot be
watched, everything is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dataplane.directories import DirectoryChanges
from dataplane.errors import KernelError

_MOST = 256
"""Directories to remember."""
_MAX_BYTES = 4096
_FIRST_OF_ADDRESS = frozenset("0123456789abcdef:")


class Owner(NamedTuple):
    """Who holds a lease. Without ``ifname``: a container, in a lease of the old form."""

    container: str
    ifname: str

    def __str__(self) -> str:
        return f'container "{self.container}" (interface {self.ifname or "unknown"})'


class Holders:
    """The leases of one directory, by name and by who holds them; none before ``look_at``. A name may also be that of
    something else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._by_name: dict[str, Owner | None] = {}
        self._by_owner: dict[Owner, set[str]] = {}

    @classmethod
    def of_all(cls, directory: Path) -> Holders:
        """Those of a whole directory. Raises ``OSError``."""
        found = cls(directory)
        for name in os.listdir(directory):  # noqa: PTH208 - names are all that is needed, of up to 65,000
            found.look_at(name)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str) -> Owner | None:
        """Who a lease is of; None where there is none, or that cannot be read."""
        return self._by_name.get(name)

    def of(self, owner: Owner) -> list[str]:
        """The leases of one owner, in the order of their names."""
        return sorted(self._by_owner.get(owner, ()))

    def look_at(self, name: str) -> None:
        """Read what has this name now."""
        # To parse all these names would take longer than to read what they are about.
        if name[:1] not in _FIRST_OF_ADDRESS:
            return
        former = self._by_name.pop(name, None)
        if former is not None:
            names = self._by_owner[former]
            names.discard(name)
            if not names:
                del self._by_owner[former]
        try:
            owner = read_owner(self._directory, name)
        except FileNotFoundError:
            return
        self._by_name[name] = owner
        if owner is not None:
            self._by_owner.setdefault(owner, set()).add(name)


class _Watched(NamedTuple):
    changes: DirectoryChanges
    holders: Holders


_Key = tuple[Path, int, int]

_watched: dict[_Key, _Watched | None] = {}
"""None for a directory that was read once: a plugin without an agent reads none twice, and would only wait at its end
for the watch to go."""


def held_in(directory: Path) -> Holders:
    """Who holds what there now. Raises ``OSError``."""
    status = directory.stat()
    key = directory, status.st_dev, status.st_ino
    first = key not in _watched
    known = _brought_up_to_date(_watched.pop(key, None))
    if known is None and not first:
        known = _begun(directory)
    _watched[key] = known
    _drop_the_oldest()
    return known.holders if known else Holders.of_all(directory)


def _brought_up_to_date(known: _Watched | None) -> _Watched | None:
    if known is None:
        return None
    names = known.changes.taken()
    if names is None:
        known.changes.close()
        return None
    for name in names:
        known.holders.look_at(name)
    return known


def _begun(directory: Path) -> _Watched | None:
    try:
        # Before the first look, so that no change is missed.
        changes = DirectoryChanges(directory)
    except KernelError:
        return None
    return _Watched(changes, Holders.of_all(directory))


def read_owner(directory: Path, name: str) -> Owner | None:
    """Who a lease is of; None where that cannot be read. Raises ``FileNotFoundError``."""
    try:
        descriptor = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    try:
        text = os.read(descriptor, _MAX_BYTES).decode(errors="replace").strip()
    except IsADirectoryError:
        return None
    finally:
        os.close(descriptor)
    container, _, ifname = text.partition("\r\n")
    return Owner(container, ifname) if container else None


def _drop_the_oldest() -> None:
    # Other threads do the same with other directories.
    for oldest in list(_watched)[:-_MOST]:
        dropped = _watched.pop(oldest, None)
        if dropped is not None:
            dropped.changes.close()
