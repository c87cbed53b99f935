"""The tables of the state: made in an empty file, or converted from those of an earlier version.

    prepare(connection, "there was no state")

A file that begins empty has a fact, ``LOST``, that says why: until the attachments are read back from the kernel, the
state does not tell everything.
"""

from __future__ import annotations

import sqlite3

from control.state.codec import CONVERTIBLE, SCHEMA

LOST = "lost"
"""The fact that says why a state does not tell everything."""

_TABLES = """
CREATE TABLE IF NOT EXISTS attachments (
    network TEXT, container TEXT, ifname TEXT, plugin TEXT,
    device INTEGER, device_name TEXT, use TEXT, grouped INTEGER, document TEXT,
    PRIMARY KEY (network, container, ifname, plugin)
);
CREATE INDEX IF NOT EXISTS attachments_by_use ON attachments (use);
CREATE INDEX IF NOT EXISTS attachments_by_device ON attachments (device, use);
CREATE INDEX IF NOT EXISTS attachments_by_device_name ON attachments (device_name, use);
CREATE INDEX IF NOT EXISTS attachments_by_group ON attachments (grouped, use);
CREATE INDEX IF NOT EXISTS attachments_by_container ON attachments (container);
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
CREATE TABLE IF NOT EXISTS serial (number INTEGER);
INSERT INTO serial SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM serial);
CREATE TABLE IF NOT EXISTS rebuilt (
    network TEXT, container TEXT, ifname TEXT, plugin TEXT,
    PRIMARY KEY (network, container, ifname, plugin)
) WITHOUT ROWID;
"""


def prepare(connection: sqlite3.Connection, why_empty: str) -> None:
    """Make the tables, unless they are there. Raises ``sqlite3.DatabaseError`` where they are not ours to convert."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA:
        return
    if version and version not in CONVERTIBLE:
        raise sqlite3.DatabaseError(f"its schema is {version}, this version's is {SCHEMA}")
    # Whoever is killed in here leaves the file as it was.
    connection.execute("BEGIN IMMEDIATE")
    if version:
        _convert(connection)
    else:
        _make_tables(connection)
        connection.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (LOST, why_empty))
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
    connection.execute("COMMIT")


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";"):
        connection.execute(statement)


def _convert(connection: sqlite3.Connection) -> None:
    """Keep all that an earlier version knew. Its documents go into ``former``, from where ``Recovery`` takes them."""
    # The fourth schema has the table, with whatever a conversion left that nobody has taken from there yet.
    connection.execute("CREATE TABLE IF NOT EXISTS former (document TEXT)")
    connection.execute("INSERT INTO former SELECT document FROM attachments")
    for table in ("attachments", "addresses", "ports"):
        connection.execute(f"DROP TABLE {table}")
    _make_tables(connection)
