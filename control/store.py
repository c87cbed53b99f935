"""The state: what was attached, by whom, and what is being changed right now. SQLite in /run, like what it describes.

    attachments   one row each: request and device as a document, and a digest of what it asks of its device
    addresses     container addresses, to find attachments that share one
    ports         who holds which host port: unique, so that the holder can be named
    networks      the number of each network (what BPF calls it), and an operator's checksum mode
    sysctls       values that device sysctls had before us
    journal       changes under way, with what they may put into the kernel or leave there; a row that outlives its
                  request means that it was interrupted

Be aware: every method expects that the caller holds the state's lock (``control.lock``).
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from control.codec import SCHEMA, decode, encode
from control.hooks import NetworkFacts, Use, use_of
from control.model import Attachment, AttachmentKey, ChecksumPolicy, Claim, Device
from control.ruleset import group_of, targets
from dataplane.errors import DataplaneError

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
"""

_KEY = "network, container, ifname, plugin"
_IS_KEY = "network = ? AND container = ? AND ifname = ? AND plugin = ?"
_ONE = f"SELECT document FROM attachments WHERE {_IS_KEY}"
_ALL = f"SELECT document FROM attachments ORDER BY {_KEY}"
_OF_NETWORK = f"SELECT document FROM attachments WHERE network = ? ORDER BY {_KEY}"
_OF_CONTAINER = f"SELECT document FROM attachments WHERE container = ? ORDER BY {_KEY}"
_HOLDER = f"SELECT {_KEY} FROM ports WHERE port_group = ? AND address = ? AND protocol = ? AND port = ?"
_USES_BY_INDEX = "SELECT DISTINCT use FROM attachments WHERE device = ?"
_USES_BY_NAME = "SELECT DISTINCT use FROM attachments WHERE device_name = ?"
_UNUSED = "DELETE FROM networks WHERE name NOT IN (SELECT network FROM attachments)"
_REMOVE = (
    f"DELETE FROM attachments WHERE {_IS_KEY}",
    f"DELETE FROM addresses WHERE {_IS_KEY}",
    f"DELETE FROM ports WHERE {_IS_KEY}",
)

PortSlot = tuple[str, str, str, int]
"""(condition group, host address or "" for all of a family, protocol, port): what can be held once."""


class StateError(DataplaneError):
    """The state file cannot be used."""


class Store:
    """The state behind one file. Use as a context manager, or call ``close``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db, self._inode = _opened(path)

    def follow(self) -> None:
        """Open the file again if another one is there by its name, or none: others use that one."""
        try:
            there = self._path.stat().st_ino
        except OSError:
            there = 0
        if there != self._inode:
            self._db.close()
            self._db, self._inode = _opened(self._path)

    def close(self) -> None:
        self._db.close()

    def get(self, key: AttachmentKey) -> Attachment | None:
        """The attachment with this key."""
        row = self._sql(_ONE, _columns(key)).fetchone()
        return decode(row[0]) if row else None

    def attachments(self, network: str | None = None) -> Iterator[Attachment]:
        """All attachments (of one network), ordered by key."""
        found = self._sql(_ALL) if network is None else self._sql(_OF_NETWORK, (network,))
        for (document,) in found.fetchall():
            yield decode(document)

    def siblings(self, key: AttachmentKey) -> tuple[Attachment, ...]:
        """The other parts of the same interface."""
        query = "SELECT document FROM attachments WHERE network = ? AND container = ? AND ifname = ? AND plugin != ?"
        return tuple(decode(document) for (document,) in self._sql(query, _columns(key)).fetchall())

    def sharing(self, attachments: Iterable[Attachment], key: AttachmentKey) -> tuple[Attachment, ...]:
        """Attachments other than ``key`` that have an address of one of these."""
        found: dict[AttachmentKey, Attachment] = {}
        for address in {address for attachment in attachments for address in attachment.request.addresses}:
            query = f"SELECT {_KEY} FROM addresses WHERE address = ?"
            for row in self._sql(query, (str(address),)).fetchall():
                other = AttachmentKey(*row)
                if other != key and other not in found and (attachment := self.get(other)):
                    found[other] = attachment
        return tuple(found.values())

    def uses(self, devices: Iterable[Device], key: AttachmentKey | None = None) -> tuple[Use, ...]:
        """What attachments other than ``key`` ask of these devices; and whoever asks for condition groups.

        By index, and by name: a sysctl belongs to whichever device has the name now.
        """
        digests = {
            row[0]
            for device in devices
            for query, value in ((_USES_BY_INDEX, device.index), (_USES_BY_NAME, device.name))
            for row in self._sql(query, (value,))
        }
        digests |= {row[0] for row in self._sql("SELECT DISTINCT use FROM attachments WHERE grouped = 1")}
        return tuple(self._sampled(sorted(digests), key))

    def all_uses(self) -> tuple[Use, ...]:
        """What all attachments ask of their devices, each distinct use once."""
        digests = [row[0] for row in self._sql("SELECT DISTINCT use FROM attachments ORDER BY use")]
        return tuple(self._sampled(digests, None))

    def guards_others(self, keys: Collection[AttachmentKey]) -> bool:
        """Whether an attachment besides these has a guarded port."""
        query = f"SELECT {_KEY} FROM attachments WHERE guarded LIMIT ?"
        return any(AttachmentKey(*row) not in keys for row in self._sql(query, (len(keys) + 1,)))

    def holders(self, attachment: Attachment) -> Iterator[tuple[Claim, AttachmentKey]]:
        """Ports that an attachment asks for and another one holds."""
        for slot, claim in port_slots(attachment).items():
            row = self._sql(_HOLDER, slot).fetchone()
            if row and (holder := AttachmentKey(*row)) != attachment.key:
                yield claim, holder

    def of_container(self, container: str) -> tuple[Attachment, ...]:
        """All attachments of a container."""
        rows = self._sql(_OF_CONTAINER, (container,)).fetchall()
        return tuple(decode(document) for (document,) in rows)

    def facts(self, names: Iterable[str]) -> dict[str, NetworkFacts]:
        """Facts of networks; one that is not known yet gets its number."""
        known: dict[str, NetworkFacts] = {}
        for name in names:
            self._sql("INSERT OR IGNORE INTO networks (name) VALUES (?)", (name,))
            number, checksum = self._sql("SELECT id, checksum FROM networks WHERE name = ?", (name,)).fetchone()
            known[name] = NetworkFacts(number, ChecksumPolicy(checksum) if checksum else None)
        return known

    def network_names(self) -> dict[int, str]:
        """Names of networks by their numbers."""
        return dict(self._sql("SELECT id, name FROM networks"))

    def set_checksum(self, network: str, mode: ChecksumPolicy | None) -> None:
        """Keep an operator's checksum mode for a network."""
        self._sql("UPDATE networks SET checksum = ? WHERE name = ?", (mode, network))

    def begin(self, touched: Iterable[Attachment]) -> int:
        """Note that the kernel is about to change: it may hold any of these. The number of the note, for its end."""
        batch: int = self._sql("SELECT coalesce(max(batch), 0) + 1 FROM journal").fetchone()[0]
        documents: list[str | None] = [encode(attachment) for attachment in touched]
        self._sql_many("INSERT INTO journal VALUES (?, ?)", [(batch, one) for one in documents or [None]])
        return batch

    def end(self, batch: int) -> None:
        """Drop a note: the kernel is as it was before it."""
        self._sql("DELETE FROM journal WHERE batch = ?", (batch,))
        self._sql(_UNUSED)

    def interrupted(self) -> bool:
        """Whether a change was begun and never ended: kernel and state may differ."""
        return self._sql("SELECT 1 FROM journal LIMIT 1").fetchone() is not None

    def touched(self) -> tuple[Attachment, ...]:
        """What interrupted changes may have left in the kernel."""
        rows = self._sql("SELECT DISTINCT document FROM journal WHERE document IS NOT NULL").fetchall()
        return tuple(decode(document) for (document,) in rows)

    def settle(self) -> None:
        """Drop all notes: kernel and state agree."""
        self._sql("DELETE FROM journal")
        self._sql(_UNUSED)

    def commit(self, key: AttachmentKey, attachment: Attachment | None, batch: int | None = None) -> None:
        """End a change: from here on the state has this attachment for the key, or none. Its note goes, if named."""
        self._sql("BEGIN IMMEDIATE")
        try:
            self._replace(key, attachment)
            # A network that nobody is attached to any more is forgotten, with its operator's mode.
            self._sql(_UNUSED)
            self._sql("DELETE FROM journal WHERE batch = ?", (batch,))
        except BaseException:
            self._sql("ROLLBACK")
            raise
        self._sql("COMMIT")

    def clear(self) -> None:
        """Forget all attachments, networks and former sysctls; notes stay."""
        self._script(
            "BEGIN; DELETE FROM attachments; DELETE FROM addresses; DELETE FROM ports; DELETE FROM networks;"
            " DELETE FROM sysctls; DELETE FROM facts; COMMIT"
        )

    def remember_sysctl(self, name: str, value: str) -> None:
        """Keep the value that a sysctl had before us; one that is kept already stays."""
        self._sql("INSERT OR IGNORE INTO sysctls VALUES (?, ?)", (name, value))

    def former_sysctls(self) -> dict[str, str]:
        """Values that sysctls had before us."""
        return dict(self._sql("SELECT name, value FROM sysctls"))

    def forget_sysctls(self, names: Iterable[str]) -> None:
        """Drop former values that were put back."""
        self._sql_many("DELETE FROM sysctls WHERE name = ?", [(name,) for name in names])

    def fact(self, name: str) -> str | None:
        """A single value that was kept by name."""
        row = self._sql("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def keep_fact(self, name: str, value: str) -> None:
        """Keep a single value by name."""
        self._sql("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _sql(self, text: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(text, parameters)
        except sqlite3.Error as error:
            raise StateError(f"could not use the state: {error}") from error

    def _sql_many(self, text: str, rows: list[tuple[object, ...]]) -> None:
        try:
            self._db.executemany(text, rows)
        except sqlite3.Error as error:
            raise StateError(f"could not change the state: {error}") from error

    def _script(self, text: str) -> None:
        try:
            self._db.executescript(text)
        except sqlite3.Error as error:
            raise StateError(f"could not change the state: {error}") from error

    def _replace(self, key: AttachmentKey, attachment: Attachment | None) -> None:
        columns = _columns(key)
        for remove in _REMOVE:
            self._sql(remove, columns)
        if attachment is not None:
            use = use_of(attachment)
            guarded = bool(attachment.request.guarded_mac)
            digest = sha256(repr(use).encode()).hexdigest()[:16]
            self._sql(
                "INSERT INTO attachments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*columns, use.device, use.device_name, digest, bool(use.groups), guarded, encode(attachment)),
            )
            addresses = {str(address) for address in attachment.request.addresses}
            self._sql_many("INSERT INTO addresses VALUES (?, ?, ?, ?, ?)", [(one, *columns) for one in addresses])
            self._sql_many(
                "INSERT INTO ports VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(*slot, *columns) for slot in port_slots(attachment)],
            )

    def _sampled(self, digests: Iterable[str], key: AttachmentKey | None) -> Iterator[Use]:
        # The use of any attachment with that digest is the use of all of them.
        query = f"SELECT document FROM attachments WHERE use = ? AND ({_KEY}) != (?, ?, ?, ?) LIMIT 1"
        columns = _columns(key) if key else ("", "", "", "")
        for digest in digests:
            row = self._sql(query, (digest, *columns)).fetchone()
            if row:
                yield use_of(decode(row[0]))


def _opened(path: Path) -> tuple[sqlite3.Connection, int]:
    """The file, made if there is none, and its inode. Raises ``StateError``."""
    try:
        if not path.exists():
            # SQLite would play the log of a file that was deleted into the new one.
            _remove_log(path)
            path.touch(mode=0o600)
        try:
            return _open(path), path.stat().st_ino
        except sqlite3.DatabaseError as error:
            _set_aside(path, error)
            return _open(path), path.stat().st_ino
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"could not open the state {path}: {error}") from error


def _remove_log(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        # Nothing here must survive a power cut: /run does not.
        database.execute("PRAGMA synchronous=OFF")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in {0, SCHEMA}:
            raise sqlite3.DatabaseError(f"its schema is {version}, this version's is {SCHEMA}")  # noqa: TRY301
        database.executescript(_TABLES)
        database.execute(f"PRAGMA user_version = {SCHEMA}")
    except BaseException:
        database.close()
        raise
    return database


def _set_aside(path: Path, reason: sqlite3.Error) -> None:
    aside = path.with_name(path.name + ".unreadable")
    print(
        f"dataplane: the state {path} cannot be read ({reason}): kept as {aside}, starting with an empty one;"
        " containers that run must be restarted to be published again",
        file=sys.stderr,
    )
    _remove_log(path)
    path.rename(aside)
    path.touch(mode=0o600)


def port_slots(attachment: Attachment) -> dict[PortSlot, Claim]:
    """What an attachment's ports occupy, each once, and by which claim."""
    slots: dict[PortSlot, Claim] = {}
    for target in targets(attachment):
        group = group_of(attachment, target.version)
        for mapping in attachment.published(target.version):
            where = f"v{target.version}" if mapping.wildcard else str(mapping.host_address)
            slots[group.suffix, where, str(mapping.protocol), mapping.host_port] = (mapping, target.version)
    return slots


def _columns(key: AttachmentKey) -> tuple[str, str, str, str]:
    return key.network, key.container, key.ifname, key.plugin
