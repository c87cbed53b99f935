"""One SQLite file: opened, followed where another takes its place, and begun anew where it cannot be read.

    database = Database(Path("/run/dataplane/state.db"))
    database.renewed = ...                     called with every other file that is opened in its place
    with database.transaction():
        database.run("INSERT ...", values)

A statement that finds the file damaged sets it aside, and is run again on an empty one; within a transaction it fails,
and the next ``follow`` begins anew.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from control.state.schema import prepare
from dataplane.crashpoints import Point, reached
from dataplane.errors import DataplaneError

Version = tuple[int, int]
"""(how often the file was opened, changes to the attachments in it, by whichever process): equal to an earlier one of
the same database when the attachments are the same."""

_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE = 0xFF


class StateError(DataplaneError):
    """The state file cannot be used."""


class Answer:
    """What a statement returned, read to its end."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows, self.rowcount = rows, rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def fetchone(self) -> Any:
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[Any]:
        return self._rows


class Database:
    """See the module. All methods but ``close`` raise ``StateError``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection, self._inode = _opened(path)
        self._openings = 0
        self._damage: sqlite3.Error | None = None
        self.renewed: Callable[[], object] = lambda: None
        """Called when another file was opened; may use the database."""

    @property
    def version(self) -> Version:
        """Which state of the attachments this is."""
        number: int = self.run("SELECT number FROM serial").fetchone()[0]
        return self._openings, number

    def follow(self) -> None:
        """Open the file again if another one is there by its name, or none: others use that one."""
        if self._damage is not None:
            self._begin_anew(self._damage)
        try:
            there = self.path.stat().st_ino
        except OSError:
            there = 0
        if there != self._inode:
            self._open_again()

    def close(self) -> None:
        self._connection.close()

    def run(self, statement: str, values: tuple[object, ...] = ()) -> Answer:
        """Run one statement."""
        try:
            return self._execute(statement, values)
        except sqlite3.Error as error:
            if not _is_corrupt(error):
                raise StateError(f"could not use the state: {error}") from error
            if self._connection.in_transaction:
                # What is under way fails; the next request begins anew.
                self._damage = error
                raise StateError(f"could not use the state, which is damaged: {error}") from error
            self._begin_anew(error)
            return self._execute(statement, values)

    def run_many(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        """Run one statement with each of these."""
        try:
            self._connection.executemany(statement, rows)
        except sqlite3.Error as error:
            raise StateError(f"could not change the state: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements within, or none of them. For changes to what attachments ask for: another version follows."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("UPDATE serial SET number = number + 1")
        except BaseException:
            # SQLite itself has ended it where the disk was full; that is what the caller is to be told.
            if self._connection.in_transaction:
                self.run("ROLLBACK")
            raise
        self.run("COMMIT")

    def _execute(self, statement: str, values: tuple[object, ...]) -> Answer:
        cursor = self._connection.execute(statement, values)
        return Answer(cursor.fetchall() if cursor.description else [], cursor.rowcount)

    def _begin_anew(self, error: sqlite3.Error) -> None:
        self._damage = None
        self._connection.close()
        try:
            _set_aside(self.path, error)
        except OSError as reason:
            raise StateError(f"could not set aside the state {self.path}: {reason}") from reason
        self._open_again()

    def _open_again(self) -> None:
        self._connection.close()
        self._connection, self._inode = _opened(self.path)
        self._openings += 1
        self.renewed()


def _opened(path: Path) -> tuple[sqlite3.Connection, int]:
    """The file, made if there is none, and its inode. Raises ``StateError``."""
    try:
        if not path.exists():
            # SQLite would play the log of a file that was deleted into the new one.
            _remove_log(path)
            path.touch(mode=0o600)
        try:
            return _connected(path, "there was no state"), path.stat().st_ino
        except sqlite3.OperationalError:
            # It is the disk that is full, or the file that is held: what is in it is as good as before.
            raise
        except sqlite3.DatabaseError as error:
            _set_aside(path, error)
            return _connected(path, f"the state could not be read ({error})"), path.stat().st_ino
    except (OSError, sqlite3.Error) as error:
        full = "; its file system is full: make room" if _is_full(path.parent) else ""
        raise StateError(f"could not open the state {path}: {error}{full}") from error


def _connected(path: Path, why_empty: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # A byte that flipped is found by a document's digest, and is no reason not to read its row.
        connection.text_factory = _text
        connection.execute("PRAGMA journal_mode=WAL")
        # Nothing here must survive a power cut: /run does not.
        connection.execute("PRAGMA synchronous=OFF")
        prepare(connection, why_empty)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_aside(path: Path, reason: sqlite3.Error) -> None:
    """Give the file another name, and make an empty one. Raises ``OSError``."""
    aside = path.with_name(path.name + ".unreadable")
    print(f"dataplane: the state {path} cannot be read ({reason}): kept as {aside}", file=sys.stderr)
    _remove_log(path)
    path.rename(aside)
    reached(Point.STATE_SET_ASIDE)
    path.touch(mode=0o600)


def _remove_log(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _is_full(directory: Path) -> bool:
    try:
        return os.statvfs(directory).f_bavail == 0
    except OSError:
        return False


def _is_corrupt(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE in _CORRUPT


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
