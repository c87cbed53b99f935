"""The state, read and no more: for commands that look, and must neither wait nor change anything.

    read(RUN_DIRECTORY / STATE_FILE)     -> Known(attachments, networks); nothing where there is no state

No engine, no lock, no repair: one snapshot of the file (SQLite's WAL), as it was committed last. What the engine would
read back from the kernel is not known here; ``dpctl status`` has it done.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from control.desired.hooks import NetworkFacts
from control.model import Attachment, ChecksumPolicy
from control.state.codec import SCHEMA
from control.state.database import StateError
from control.state.rows import legible

_WAIT = 2.0  # seconds; a writer holds the file for less
_TO_DO = "dpctl status reads back what the kernel knows"


@dataclass(frozen=True, slots=True)
class Known:
    """What is attached, and what is kept about networks, by name."""

    attachments: tuple[Attachment, ...] = ()
    networks: dict[str, NetworkFacts] = field(default_factory=dict)


def read(path: Path) -> Known:
    """What the state file says. Raises ``StateError``, ``OSError``."""
    try:
        path.stat()
    except FileNotFoundError:
        return Known()
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_WAIT)) as connection:
            return _read(connection)
    except sqlite3.Error as error:
        raise StateError(f'could not read the state "{path}": {error}; {_TO_DO}') from error


def _read(connection: sqlite3.Connection) -> Known:
    connection.execute("BEGIN")  # what follows is of one moment
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if schema != SCHEMA:
        raise sqlite3.DatabaseError(f"its schema is {schema}, this version's is {SCHEMA}")
    documents = connection.execute("SELECT document FROM attachments ORDER BY network, container, ifname, plugin")
    networks = connection.execute("SELECT id, name, checksum FROM networks")
    return Known(
        legible(documents),
        {name: NetworkFacts(number, ChecksumPolicy(mode) if mode else None) for number, name, mode in networks},
    )
