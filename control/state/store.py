"""The state: what was attached, by whom, and what is being changed right now. SQLite in /run, like what it describes.

    attachments   one row each: request and device as a document, and a digest of what it asks of its device
    addresses     container addresses, to find attachments that share one
    ports         who holds which host port: unique, so that the holder can be named
    networks      the number of each network (what BPF calls it), and an operator's checksum mode
    sysctls       values that device sysctls had before us
    journal       changes under way, with what they may put into the kernel or leave there; a row that outlives its
                  request means that it was interrupted
    rebuilt       whose attachments were read back from the kernel, and may not be told in full

A file that is missing or cannot be read begins anew, and a row that is not as it was written is dropped; then ``lost``
says why, and with the next ``follow`` the state asks ``recover`` for what the kernel still serves.

Be aware: every method expects that the caller holds the state's lock (``control.lock``).
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from control.desired.hooks import NetworkFacts, Use, use_of
from control.desired.owners import MAIN_PLUGINS, UNTOLD_MAIN, is_cut, known_as
from control.desired.planner import route_localnet
from control.desired.ruleset import group_of, targets
from control.model import Attachment, AttachmentKey, ChecksumPolicy, Claim, Device
from control.state.codec import DocumentError, decode, encode
from control.state.statefile import LOST, StateError, opened, set_aside
from dataplane.crashpoints import Point, reached

if TYPE_CHECKING:
    from control.state.rebuild import Rebuilt


def _distinct_uses(column: str) -> str:
    """The query for the distinct uses of attachments with a value in an indexed column. SQLite's own DISTINCT reads
    each of them; this reads one of each use, and mostly all of them ask the same of their device."""
    next_use = f"SELECT min(use) FROM attachments WHERE {column} = ?1"
    return (
        f"WITH RECURSIVE each(use) AS ({next_use} UNION ALL SELECT ({next_use} AND use > each.use) FROM each"
        " WHERE use IS NOT NULL) SELECT use FROM each WHERE use IS NOT NULL"
    )


_KEY = "network, container, ifname, plugin"
_IS_KEY = "network = ? AND container = ? AND ifname = ? AND plugin = ?"
_ONE = f"SELECT document FROM attachments WHERE {_IS_KEY}"
_ALL = f"SELECT document FROM attachments ORDER BY {_KEY}"
_OF_NETWORK = f"SELECT document FROM attachments WHERE network = ? ORDER BY {_KEY}"
_OF_CONTAINER = f"SELECT document FROM attachments WHERE container = ? ORDER BY {_KEY}"
_HOLDER = f"SELECT {_KEY} FROM ports WHERE port_group = ? AND address = ? AND protocol = ? AND port = ?"
_USES_BY_INDEX = _distinct_uses("device")
_USES_BY_NAME = _distinct_uses("device_name")
_GROUPED_USES = _distinct_uses("grouped")
_UNUSED = "DELETE FROM networks WHERE name NOT IN (SELECT network FROM attachments)"
_ANY_UNUSED = "SELECT 1 FROM networks WHERE name NOT IN (SELECT network FROM attachments) LIMIT 1"
_FACTS = "SELECT id, checksum FROM networks WHERE name = ?"
_REMOVE = (
    f"DELETE FROM attachments WHERE {_IS_KEY}",
    f"DELETE FROM addresses WHERE {_IS_KEY}",
    f"DELETE FROM ports WHERE {_IS_KEY}",
    f"DELETE FROM rebuilt WHERE {_IS_KEY}",
)
_REMOVE_STRAY = tuple(
    f"DELETE FROM {table} WHERE ({_KEY}) NOT IN (SELECT {_KEY} FROM attachments)"
    for table in ("addresses", "ports", "rebuilt")
)
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE = 0xFF

Version = tuple[int, int, int]
"""(how often the file was opened, changes by others to it, changes by us to the attachments): equal to an earlier one
of the same store when the attachments are the same."""

T = TypeVar("T")

_MAX_KNOWN_USES = 256
"""A digest always means the same, but in the long run there are ever more of them."""

PortSlot = tuple[str, str, str, int]
"""(condition group, host address or "" for all of a family, protocol, port): what can be held once."""


class _Answer:
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


class Store:
    """The state behind one file. Use as a context manager, or call ``close``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db, self._inode = opened(path)
        self._known_uses: dict[str, Use] = {}
        self._openings = self._commits = 0
        self._damage: sqlite3.Error | None = None
        self.recover: Callable[[], Rebuilt] | None = None
        """Asked for what the state has lost. Called with the lock held; must not use the state."""
        self._take_over()
        self._lost = self.fact(LOST) or ""

    @property
    def lost(self) -> str:
        """Why the state does not tell everything; empty where it does."""
        if self._lost:  # until then; by another process, maybe
            self._lost = self.fact(LOST) or ""
        return self._lost

    @property
    def version(self) -> Version:
        """Which state of the attachments this is."""
        others: int = self._sql("PRAGMA data_version").fetchone()[0]
        return self._openings, others, self._commits

    def follow(self) -> None:
        """Open the file again if another one is there by its name, or none: others use that one. Then recover what was
        lost. Raises what ``recover`` raises; it is asked again then."""
        if self._damage is not None:
            self._begin_anew(self._damage)
        try:
            there = self._path.stat().st_ino
        except OSError:
            there = 0
        if there != self._inode:
            self._open_again()
        if self.lost and self.recover is not None:
            self._adopt(self.recover())

    def close(self) -> None:
        self._db.close()

    def get(self, key: AttachmentKey) -> Attachment | None:
        """The attachment with this key."""
        found = self._read(_ONE, _columns(key)) or self._read_under_another_name(key)
        return found[0] if found else None

    def is_rebuilt(self, key: AttachmentKey) -> bool:
        """Whether an attachment was read back from the kernel, and was not asked for again since. Of an interface of
        which parts were, any that is not known may be in these."""
        query = "SELECT plugin FROM rebuilt WHERE network = ? AND container = ? AND ifname = ?"
        plugins = [row[0] for row in self._sql(query, (key.network, key.container, key.ifname))]
        return key.plugin in plugins or (bool(plugins) and self.get(key) is None)

    def recognise(self, network: str, interfaces: Iterable[tuple[str, str]]) -> None:
        """Learn the true names of attachments to these (container, ifname) that were read back under shorter ones."""
        rows = self._sql(f"SELECT {_KEY} FROM rebuilt").fetchall()
        shortened = [key for row in rows if is_cut(key := AttachmentKey(*row))]
        for key in shortened:
            for container, ifname in interfaces:
                # The plugin is what the comment says: names of plugins are short.
                self.get(AttachmentKey(network, container, ifname, key.plugin))

    def attachments(self, network: str | None = None) -> Iterator[Attachment]:
        """All attachments (of one network), ordered by key."""
        yield from self._read(_ALL) if network is None else self._read(_OF_NETWORK, (network,))

    def siblings(self, key: AttachmentKey) -> tuple[Attachment, ...]:
        """The other parts of the same interface."""
        query = "SELECT document FROM attachments WHERE network = ? AND container = ? AND ifname = ? AND plugin != ?"
        return tuple(self._read(query, _columns(key)))

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
        devices = tuple(devices)
        return self._mended(lambda: self._uses(devices, key))

    def _uses(self, devices: tuple[Device, ...], key: AttachmentKey | None) -> tuple[Use, ...]:
        digests = {
            row[0]
            for device in devices
            for query, value in ((_USES_BY_INDEX, device.index), (_USES_BY_NAME, device.name))
            for row in self._sql(query, (value,))
        }
        digests |= {row[0] for row in self._sql(_GROUPED_USES, (1,))}
        return tuple(self._sampled(sorted(digests), key))

    def all_uses(self) -> tuple[Use, ...]:
        """What all attachments ask of their devices, each distinct use once."""
        query = "SELECT DISTINCT use FROM attachments ORDER BY use"
        return self._mended(lambda: tuple(self._sampled([row[0] for row in self._sql(query)], None)))

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
        return tuple(self._read(_OF_CONTAINER, (container,)))

    def facts(self, names: Iterable[str]) -> dict[str, NetworkFacts]:
        """Facts of networks; one that is not known yet gets its number."""
        known: dict[str, NetworkFacts] = {}
        for name in names:
            row = self._sql(_FACTS, (name,)).fetchone()
            if row is None:
                self._sql("INSERT INTO networks (name) VALUES (?)", (name,))
                reached(Point.NETWORK_NUMBERED)
                row = self._sql(_FACTS, (name,)).fetchone()
            number, checksum = row
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
        reached(Point.CHANGE_NOTED)
        return batch

    def end(self, batch: int) -> None:
        """Drop a note: the kernel is as it was before it."""
        self._sql("DELETE FROM journal WHERE batch = ?", (batch,))
        self._sql(_UNUSED)
        reached(Point.CHANGE_WITHDRAWN)

    def interrupted(self) -> bool:
        """Whether a change was begun and never ended: kernel and state may differ."""
        return self._sql("SELECT 1 FROM journal LIMIT 1").fetchone() is not None

    def touched(self) -> tuple[Attachment, ...]:
        """What interrupted changes may have left in the kernel; notes that were damaged are left out."""
        rows = self._sql("SELECT DISTINCT document FROM journal WHERE document IS NOT NULL").fetchall()
        return tuple(one for (document,) in rows if (one := _decoded(document)) is not None)

    def settle(self) -> None:
        """Drop all notes: kernel and state agree."""
        self._sql("DELETE FROM journal")
        self._sql(_UNUSED)
        reached(Point.NOTES_SETTLED)

    def commit(
        self,
        key: AttachmentKey,
        attachment: Attachment | None,
        batch: int | None = None,
        restored: Iterable[str] = (),
    ) -> None:
        """End a change: from here on the state has this attachment for the key, or none. Its note goes, if named, and
        the former values of sysctls that were ``restored``."""
        self._sql("BEGIN IMMEDIATE")
        try:
            self._replace(key, attachment)
            if attachment is None:
                # A network that nobody is attached to any more is forgotten, with its operator's mode.
                self._sql(_UNUSED)
            self._sql("DELETE FROM journal WHERE batch = ?", (batch,))
            for name in restored:
                self._sql("DELETE FROM sysctls WHERE name = ?", (name,))
        except BaseException:
            self._sql("ROLLBACK")
            raise
        self._sql("COMMIT")
        self._commits += 1
        reached(Point.CHANGE_COMMITTED)

    def forget_unused(self) -> None:
        """Drop the numbers of networks that nobody is attached to."""
        if self._sql(_ANY_UNUSED).fetchone():
            self._sql(_UNUSED)

    def clear(self) -> None:
        """Forget all attachments, networks and former sysctls; notes stay."""
        self._script(
            "BEGIN; DELETE FROM attachments; DELETE FROM addresses; DELETE FROM ports; DELETE FROM networks;"
            " DELETE FROM sysctls; DELETE FROM facts; DELETE FROM rebuilt; COMMIT"
        )
        self._commits += 1
        reached(Point.STATE_CLEARED)

    def remember_sysctl(self, name: str, value: str) -> None:
        """Keep the value that a sysctl had before us; one that is kept already stays."""
        self._sql("INSERT OR IGNORE INTO sysctls VALUES (?, ?)", (name, value))
        reached(Point.SYSCTL_REMEMBERED)

    def former_sysctls(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """Values that sysctls (those with these names) had before us."""
        if names is None:
            return dict(self._sql("SELECT name, value FROM sysctls"))
        rows = (self._sql("SELECT name, value FROM sysctls WHERE name = ?", (name,)).fetchone() for name in names)
        return dict(filter(None, rows))

    def forget_sysctls(self, names: Iterable[str]) -> None:
        """Drop former values that were put back."""
        self._sql_many("DELETE FROM sysctls WHERE name = ?", [(name,) for name in names])
        reached(Point.SYSCTLS_FORGOTTEN)

    def fact(self, name: str) -> str | None:
        """A single value that was kept by name."""
        row = self._sql("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def keep_fact(self, name: str, value: str) -> None:
        """Keep a single value by name."""
        self._sql("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _sql(self, text: str, parameters: tuple[object, ...] = ()) -> _Answer:
        try:
            return self._execute(text, parameters)
        except sqlite3.Error as error:
            if not _is_corrupt(error):
                raise StateError(f"could not use the state: {error}") from error
            if self._db.in_transaction:
                # What is under way fails; the next request begins anew.
                self._damage = error
                raise StateError(f"could not use the state, which is damaged: {error}") from error
            self._begin_anew(error)
            return self._execute(text, parameters)

    def _execute(self, text: str, parameters: tuple[object, ...]) -> _Answer:
        cursor = self._db.execute(text, parameters)
        return _Answer(cursor.fetchall() if cursor.description else [], cursor.rowcount)

    def _read(self, query: str, parameters: tuple[object, ...] = ()) -> list[Attachment]:
        """The attachments of a query for documents."""
        return self._mended(lambda: [decode(document) for (document,) in self._sql(query, parameters)])

    def _mended(self, question: Callable[[], T]) -> T:
        """The answer to a question for documents; where one turns out to be damaged, after that was mended."""
        try:
            return question()
        except DocumentError:
            self._mend()
            return question()

    def _read_under_another_name(self, key: AttachmentKey) -> list[Attachment]:
        """An attachment that was read back under a shorter name, or without its plugin's: under its own from now on."""
        names = {known_as(key)} | ({replace(key, plugin=UNTOLD_MAIN)} if key.plugin in MAIN_PLUGINS else set())
        for name in names - {key}:
            for one in self._read(_ONE, _columns(name)):
                renamed = replace(one, request=replace(one.request, key=key))
                self._sql("BEGIN IMMEDIATE")
                self._replace(name, None)
                self._replace(key, renamed)
                self._sql("INSERT INTO rebuilt VALUES (?, ?, ?, ?)", _columns(key))
                number = "UPDATE OR IGNORE networks SET name = ? WHERE name = ?"
                self._sql(number, (key.network, name.network))
                self._sql("COMMIT")
                self._commits += 1
                return [renamed]
        return []

    def _mend(self) -> None:
        """Drop the rows that are not as they were written, and recover them if they can be."""
        damaged: list[tuple[object, ...]] = [
            (number,)
            for number, document, *columns in self._sql(f"SELECT rowid, document, {_KEY} FROM attachments")
            if (one := _decoded(document)) is None or _columns(one.key) != tuple(columns)
        ]
        self._sql_many("DELETE FROM attachments WHERE rowid = ?", damaged)
        for remove in _REMOVE_STRAY:
            self._sql(remove)
        self._known_uses.clear()
        self._commits += 1
        self._lost = f"{len(damaged)} of its rows were not as they were written"
        self.keep_fact(LOST, self._lost)
        print(f"dataplane: the state {self._path} was damaged: {self._lost}", file=sys.stderr)
        if self.recover is not None:
            self._adopt(self.recover())

    def _begin_anew(self, error: sqlite3.Error) -> None:
        self._damage = None
        self._db.close()
        try:
            set_aside(self._path, error)
        except OSError as reason:
            raise StateError(f"could not set aside the state {self._path}: {reason}") from reason
        self._open_again()
        if self.recover is not None:
            self._adopt(self.recover())

    def _open_again(self) -> None:
        self._db.close()
        self._db, self._inode = opened(self._path)
        self._openings += 1
        self._take_over()
        self._lost = self.fact(LOST) or ""

    def _take_over(self) -> None:
        """Take in what an earlier version left."""
        former = self._sql("SELECT document FROM former").fetchall()
        if not former:
            return
        readable = [one for (document,) in former if (one := _decoded(document)) is not None]
        self._sql("BEGIN IMMEDIATE")
        for one in readable:
            self._replace(one.key, one)
        if len(readable) < len(former):
            self.keep_fact(LOST, f"{len(former) - len(readable)} attachments of an earlier version could not be read")
        self._sql("DELETE FROM former")
        self._sql("COMMIT")

    def _adopt(self, recovered: Rebuilt) -> None:
        """Take in what was recovered, but for what the state or its journal knows better."""
        better = {one.key for one in self.touched()} | {
            AttachmentKey(*row) for row in self._sql(f"SELECT {_KEY} FROM attachments")
        }
        adopted = [one for one in recovered.attachments if one.key not in better]
        self._sql("BEGIN IMMEDIATE")
        try:
            for name, number in recovered.numbers.items():
                self._sql("INSERT OR IGNORE INTO networks (id, name) VALUES (?, ?)", (number, name))
            for one in adopted:
                self._replace(one.key, one)
                self._sql("INSERT INTO rebuilt VALUES (?, ?, ?, ?)", _columns(one.key))
                if (use := use_of(one)).localhost and use.device_name:
                    # What it was before us nobody knows; off is what it is unless somebody wants it.
                    self._sql("INSERT OR IGNORE INTO sysctls VALUES (?, '0')", (route_localnet(use.device_name),))
            if adopted:
                # As after an interrupted change: what the kernel holds besides is taken away.
                self._sql("INSERT INTO journal SELECT coalesce(max(batch), 0) + 1, NULL FROM journal")
            self._sql("DELETE FROM facts WHERE name = ?", (LOST,))
        except BaseException:
            self._sql("ROLLBACK")
            raise
        self._sql("COMMIT")
        reached(Point.STATE_REBUILT)
        self._commits += 1
        why, self._lost = self._lost, ""
        if adopted:
            print(f"dataplane: {why}: {len(adopted)} attachments were read back from the kernel", file=sys.stderr)
        for note in recovered.notes:
            print(f"dataplane: {note}", file=sys.stderr)

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
        first, *others = _REMOVE
        if self._sql(first, columns).rowcount:
            for remove in others:
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
        query = f"SELECT rowid FROM attachments WHERE use = ? AND ({_KEY}) != (?, ?, ?, ?) LIMIT 1"
        columns = _columns(key) if key else ("", "", "", "")
        for digest in digests:
            row = self._sql(query, (digest, *columns)).fetchone()
            if row:
                yield self._use(digest, row[0])

    def _use(self, digest: str, attachment: int) -> Use:
        """The use with this digest, of an attachment by its number, unless it is known."""
        use = self._known_uses.get(digest)
        if use is None:
            (document,) = self._sql("SELECT document FROM attachments WHERE rowid = ?", (attachment,)).fetchone()
            if len(self._known_uses) >= _MAX_KNOWN_USES:
                self._known_uses.clear()
            use = self._known_uses[digest] = use_of(decode(document))
        return use


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


def _is_corrupt(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE in _CORRUPT


def _decoded(document: str) -> Attachment | None:
    try:
        return decode(document)
    except DocumentError:
        return None
