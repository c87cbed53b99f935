"""The state: what was attached, by whom, and what is being changed right now. SQLite in /run, like what it describes.

    attachments   one row each: request and device as a document, and a digest of what it asks of its device
    addresses     container addresses, to find attachments that share one
    ports         who holds which host port: unique, so that the holder can be named
    networks      the number of each network (what BPF calls it), and an operator's checksum mode
    sysctls       values that device sysctls had before us
    journal       changes under way, with what they may put into the kernel or leave there; a row that outlives its
                  request means that it was interrupted
    facts         single values by name
    rebuilt       whose attachments were read back from the kernel, and may not be told in full

A file that is missing or cannot be read begins anew, and a row that is not as it was written is dropped; what was lost
with them, and the kernel still serves, is read back (``control.state.recovery``).

Be aware: every method expects that the caller holds the state's lock (``control.lock``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from control.desired.hooks import NetworkFacts, Use
from control.model import Attachment, AttachmentKey, ChecksumPolicy, Claim, Device
from control.state.database import Database, Version
from control.state.recovery import Recovery
from control.state.rows import KEY, Rows, columns, port_slots
from control.state.uses import Uses
from dataplane.crashpoints import Point, reached
from dataplane.types import Address

if TYPE_CHECKING:
    from control.state.rebuild import Rebuilt

_ALL = f"SELECT document FROM attachments ORDER BY {KEY}"
_OF_NETWORK = f"SELECT document FROM attachments WHERE network = ? ORDER BY {KEY}"
_BESIDE = f"SELECT document FROM attachments WHERE container = ? AND ({KEY}) != (?, ?, ?, ?) ORDER BY {KEY}"
_HOLDER = f"SELECT {KEY} FROM ports WHERE port_group = ? AND address = ? AND protocol = ? AND port = ?"
_UNUSED = "DELETE FROM networks WHERE name NOT IN (SELECT network FROM attachments)"
_ANY_UNUSED = "SELECT 1 FROM networks WHERE name NOT IN (SELECT network FROM attachments) LIMIT 1"
_FACTS = "SELECT id, checksum FROM networks WHERE name = ?"
# Whoever has a port on an address, in any group: one step in the index for each group.
_ON_ADDRESS = f"""
WITH RECURSIVE each(name) AS (
    SELECT min(port_group) FROM ports
    UNION ALL SELECT (SELECT min(port_group) FROM ports WHERE port_group > each.name) FROM each WHERE name IS NOT NULL
)
SELECT 1 FROM each WHERE EXISTS (
    SELECT 1 FROM ports WHERE port_group = each.name AND address = ? AND ({KEY}) != (?, ?, ?, ?)
) LIMIT 1
"""
_A_FEW = 8
_FORGOTTEN_BY_CLEAR = ("attachments", "addresses", "ports", "networks", "sysctls", "facts", "rebuilt")


class Store:
    """See the module. ``read_back`` is asked for what was lost, with the lock held; it must not use the state."""

    def __init__(self, path: Path, read_back: Callable[[], Rebuilt]) -> None:
        self._db = Database(path)
        self._rows = Rows(self._db)
        self._uses = Uses(self._db)
        self.recovery = Recovery(self._db, self._rows, self._uses, read_back)

    @property
    def version(self) -> Version:
        """Which state of the attachments this is."""
        return self._db.version

    def follow(self) -> None:
        """Use the file that others use, and recover what was lost. Raises what ``read_back`` raises; it is asked again
        then."""
        self._db.follow()
        self.recovery.follow()

    def close(self) -> None:
        self._db.close()

    # -- attachments --------------------------------------------------------------------------------------------------

    def get(self, key: AttachmentKey) -> Attachment | None:
        """The attachment with this key."""
        return self.recovery.find(key)

    def attachments(self, network: str | None = None) -> Iterator[Attachment]:
        """All attachments (of one network), ordered by key."""
        yield from self.recovery.read(_ALL) if network is None else self.recovery.read(_OF_NETWORK, (network,))

    def siblings(self, key: AttachmentKey) -> tuple[Attachment, ...]:
        """The other parts of the same interface."""
        query = "SELECT document FROM attachments WHERE network = ? AND container = ? AND ifname = ? AND plugin != ?"
        return tuple(self.recovery.read(query, columns(key)))

    def sharing(self, attachments: Iterable[Attachment], key: AttachmentKey) -> tuple[Attachment, ...]:
        """Attachments other than ``key`` that have an address of one of these."""
        found: dict[AttachmentKey, Attachment] = {}
        for address in {address for attachment in attachments for address in attachment.request.addresses}:
            query = f"SELECT {KEY} FROM addresses WHERE address = ?"
            for row in self._db.run(query, (str(address),)).fetchall():
                other = AttachmentKey(*row)
                if other != key and other not in found and (attachment := self.get(other)):
                    found[other] = attachment
        return tuple(found.values())

    def beside(self, key: AttachmentKey) -> tuple[Attachment, ...]:
        """The other attachments of the same container."""
        return tuple(self.recovery.read(_BESIDE, (key.container, *columns(key))))

    def published_on(self, addresses: Iterable[Address], key: AttachmentKey) -> frozenset[Address]:
        """Which of these addresses of the host attachments other than ``key`` have ports on, and not on all."""
        return frozenset(
            address for address in addresses if self._db.run(_ON_ADDRESS, (str(address), *columns(key))).fetchone()
        )

    def fellows(self, key: AttachmentKey) -> tuple[Attachment, ...]:
        """A few of the other attachments of the same network."""
        query = (
            "SELECT document FROM attachments WHERE network = ? AND NOT (container = ? AND ifname = ? AND plugin = ?)"
            f" LIMIT {_A_FEW}"
        )
        return tuple(self.recovery.read(query, columns(key)))

    def uses(self, devices: Iterable[Device], key: AttachmentKey | None = None) -> tuple[Use, ...]:
        """What attachments other than ``key`` ask of these devices; and whoever asks for condition groups.

        By index, and by name: a sysctl belongs to whichever device has the name now.
        """
        devices = tuple(devices)
        return self.recovery.mended(lambda: self._uses.of(devices, key))

    def all_uses(self) -> tuple[Use, ...]:
        """What all attachments ask of their devices, each distinct use once."""
        return self.recovery.mended(self._uses.all)

    def holders(self, attachment: Attachment) -> Iterator[tuple[Claim, AttachmentKey]]:
        """Ports that an attachment asks for and another one holds."""
        for slot, claim in port_slots(attachment).items():
            row = self._db.run(_HOLDER, slot).fetchone()
            if row and (holder := AttachmentKey(*row)) != attachment.key:
                yield claim, holder

    def clear(self) -> None:
        """Forget all attachments, networks and former sysctls; notes stay."""
        with self._db.transaction():
            for table in _FORGOTTEN_BY_CLEAR:
                self._db.run(f"DELETE FROM {table}")
        reached(Point.STATE_CLEARED)

    # -- journal: changes under way ------------------------------------------------------------------------------------

    def begin(self, touched: Iterable[Attachment]) -> int:
        """Note that the kernel is about to change: it may hold any of these. The number of the note, for its end."""
        batch: int = self._db.run("SELECT coalesce(max(batch), 0) + 1 FROM journal").fetchone()[0]
        documents: list[str | None] = [self._rows.document(attachment) for attachment in touched]
        self._db.run_many("INSERT INTO journal VALUES (?, ?)", [(batch, one) for one in documents or [None]])
        reached(Point.CHANGE_NOTED)
        return batch

    def end(self, batch: int) -> None:
        """Drop a note: the kernel is as it was before it."""
        self._db.run("DELETE FROM journal WHERE batch = ?", (batch,))
        self._db.run(_UNUSED)
        reached(Point.CHANGE_WITHDRAWN)

    def commit(
        self,
        key: AttachmentKey,
        attachment: Attachment | None,
        batch: int | None = None,
        restored: Iterable[str] = (),
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """End a change: from here on the state has this attachment for the key, or none, and these single values. Its
        note goes, if named, and the former values of sysctls that were ``restored``."""
        with self._db.transaction():
            self._rows.put(key, attachment)
            if attachment is None:
                # A network that nobody is attached to any more is forgotten, with its operator's mode.
                self._db.run(_UNUSED)
            self._db.run("DELETE FROM journal WHERE batch = ?", (batch,))
            for name in restored:
                self._db.run("DELETE FROM sysctls WHERE name = ?", (name,))
            for name, value in (facts or {}).items():
                self.keep_fact(name, value)
        reached(Point.CHANGE_COMMITTED)

    def interrupted(self) -> bool:
        """Whether a change was begun and never ended: kernel and state may differ."""
        return self._db.run("SELECT 1 FROM journal LIMIT 1").fetchone() is not None

    def touched(self) -> tuple[Attachment, ...]:
        """What interrupted changes may have left in the kernel; notes that were damaged are left out."""
        return self._rows.noted()

    def settle(self) -> None:
        """Drop all notes: kernel and state agree."""
        self._db.run("DELETE FROM journal")
        self._db.run(_UNUSED)
        reached(Point.NOTES_SETTLED)

    # -- networks ------------------------------------------------------------------------------------------------------

    def facts(self, names: Iterable[str]) -> dict[str, NetworkFacts]:
        """Facts of networks; one that is not known yet gets its number."""
        known: dict[str, NetworkFacts] = {}
        for name in names:
            row = self._db.run(_FACTS, (name,)).fetchone()
            if row is None:
                self._db.run("INSERT INTO networks (name) VALUES (?)", (name,))
                reached(Point.NETWORK_NUMBERED)
                row = self._db.run(_FACTS, (name,)).fetchone()
            number, checksum = row
            known[name] = NetworkFacts(number, ChecksumPolicy(checksum) if checksum else None)
        return known

    def network_names(self) -> dict[int, str]:
        """Names of networks by their numbers."""
        return dict(self._db.run("SELECT id, name FROM networks"))

    def set_checksum(self, network: str, mode: ChecksumPolicy | None) -> None:
        """Keep an operator's checksum mode for a network. A change of the state as others are: an agent that has read
        the modes reads them again."""
        with self._db.transaction():
            self._db.run("UPDATE networks SET checksum = ? WHERE name = ?", (mode, network))

    def forget_unused(self) -> None:
        """Drop the numbers of networks that nobody is attached to."""
        if self._db.run(_ANY_UNUSED).fetchone():
            self._db.run(_UNUSED)

    # -- sysctls and single facts --------------------------------------------------------------------------------------

    def remember_sysctl(self, name: str, value: str) -> None:
        """Keep the value that a sysctl had before us; one that is kept already stays."""
        self._db.run("INSERT OR IGNORE INTO sysctls VALUES (?, ?)", (name, value))
        reached(Point.SYSCTL_REMEMBERED)

    def former_sysctls(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """Values that sysctls (those with these names) had before us."""
        if names is None:
            return dict(self._db.run("SELECT name, value FROM sysctls"))
        rows = (self._db.run("SELECT name, value FROM sysctls WHERE name = ?", (name,)).fetchone() for name in names)
        return dict(filter(None, rows))

    def forget_sysctls(self, names: Iterable[str]) -> None:
        """Drop former values that were put back."""
        self._db.run_many("DELETE FROM sysctls WHERE name = ?", [(name,) for name in names])
        reached(Point.SYSCTLS_FORGOTTEN)

    def fact(self, name: str) -> str | None:
        """A single value that was kept by name."""
        row = self._db.run("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def keep_fact(self, name: str, value: str) -> None:
        """Keep a single value by name."""
        self._db.run("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
