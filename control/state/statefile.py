"""The file of the state: made, opened, taken over from an earlier version, or set aside where it cannot be read.

    database, inode = opened(Path("/run/dataplane/state.db"))

One that begins empty has a fact, ``LOST``, that says why: until the attachments are read back from the kernel, the
state does not tell everything.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

from control.state.codec import CONVERTIBLE, SCHEMA
from dataplane.crashpoints import Point, reached
from dataplane.errors import DataplaneError

LOST = "lost"
"""The fact that says why a state began empty."""

_TABLES = """
CREATE TABLE IF NOT EXISTS attachments (
    network TEXT, container TEXT, ifname TEXT, plugin TEXT,
    device INTEGER, device_name TEXT, use TEXT, grouped INTEGER, guarded INTEGER, document TEXT,
    PRIMARY KEY (network, container, ifname, plugin)
);
CREATE INDEX IF NOT EXISTS attachments_by_use ON attachments (use);
CREATE INDEX IF NOT EXISTS attachments_by_device ON attachments (device, use);
CREATE INDEX IF NOT EXISTS attachments_by_device_name ON attachments (device_name, use);
CREATE INDEX IF NOT EXISTS attachments_by_group ON attachments (grouped, use);
CREATE INDEX IF NOT EXISTS attachments_by_container ON attachments (container);
CREATE INDEX IF NOT EXISTS attachments_guarded ON attachments (guarded) WHERE guarded;
CREATE TABLE IF NOT EXISTS addresses (
    address TEXT, network TEXT, container TEXT, ifname TEXT, plugin TEXT,
    PRIMARY KEY (address, network, container, ifname, plugin)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS addresses_by_key ON addresses (network, container, ifname, plugin);
CREATE TABLE IF NOT EXISTS ports (
    port_group TEXT, address TEXT, protocol TEXT, port INTEGER,
    network TEXT, container TEXT, ifname TEXT, plugin TEXT,
    PRIMARY KEY (port_group, address, protocol, port)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ports_by_key ON ports (network, container, ifname, plugin);
CREATE TABLE IF NOT EXISTS networks (id INTEGER PRIMARY KEY, name TEXT UNIQUE, checksum TEXT);
CREATE TABLE IF NOT EXISTS sysctls (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS journal (batch INTEGER, document TEXT);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS former (document TEXT);
CREATE TABLE IF NOT EXISTS rebuilt (
    network TEXT, container TEXT, ifname TEXT, plugin TEXT,
    PRIMARY KEY (network, container, ifname, plugin)
) WITHOUT ROWID;
"""


class StateError(DataplaneError):
    """The state file cannot be used."""


def opened(path: Path) -> tuple[sqlite3.Connection, int]:
    """The file, made if there is none, and its inode. Raises ``StateError``."""
    try:
        if not path.exists():
            # SQLite would play the log of a file that was deleted into the new one.
            _remove_log(path)
            path.touch(mode=0o600)
        try:
            return _open(path, "there was no state"), path.stat().st_ino
        except sqlite3.DatabaseError as error:
            set_aside(path, error)
            return _open(path, f"the state could not be read ({error})"), path.stat().st_ino
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"could not open the state {path}: {error}") from error


def set_aside(path: Path, reason: sqlite3.Error) -> None:
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


def _open(path: Path, why_empty: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # A byte that flipped is found by a document's digest, and is no reason not to read its row.
        database.text_factory = _text
        database.execute("PRAGMA journal_mode=WAL")
        # Nothing here must survive a power cut: /run does not.
        database.execute("PRAGMA synchronous=OFF")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version == SCHEMA:
            return database
        if version and version not in CONVERTIBLE:
            raise sqlite3.DatabaseError(f"its schema is {version}, this version's is {SCHEMA}")  # noqa: TRY301
        # Whoever is killed in here leaves the file as it was.
        database.execute("BEGIN IMMEDIATE")
        if version:
            _convert(database)
        else:
            _make_tables(database)
            database.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (LOST, why_empty))
        database.execute(f"PRAGMA user_version = {SCHEMA}")
        database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    return database


def _make_tables(database: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";"):
        database.execute(statement)


def _convert(database: sqlite3.Connection) -> None:
    """Keep all that an earlier version knew. Its documents go into ``former``, from where ``Store`` takes them."""
    database.execute("CREATE TABLE former AS SELECT document FROM attachments")
    for table in ("attachments", "addresses", "ports"):
        database.execute(f"DROP TABLE {table}")
    _make_tables(database)


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
