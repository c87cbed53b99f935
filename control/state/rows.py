"""Attachments as rows: a document each, and beside it what attachments are looked up by.

    rows.put(key, attachment)           in attachments, addresses and ports, in place of what was there
    rows.read(ONE, columns(key))        the attachments of a query for documents

Be aware: ``put`` is several statements; who calls it has begun a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from control.desired.hooks import use_of
from control.desired.ruleset import group_of, targets
from control.model import Attachment, AttachmentKey, Claim
from control.state.codec import DocumentError, decode, encode
from control.state.database import Database

KEY = "network, container, ifname, plugin"
"""The columns of an attachment's key, in every table that has one."""

_IS_KEY = "network = ? AND container = ? AND ifname = ? AND plugin = ?"
ONE = f"SELECT document FROM attachments WHERE {_IS_KEY}"

_REMOVE = (
    f"DELETE FROM attachments WHERE {_IS_KEY}",
    f"DELETE FROM addresses WHERE {_IS_KEY}",
    f"DELETE FROM ports WHERE {_IS_KEY}",
    f"DELETE FROM rebuilt WHERE {_IS_KEY}",
)
_REMOVE_STRAY = tuple(
    f"DELETE FROM {table} WHERE ({KEY}) NOT IN (SELECT {KEY} FROM attachments)"
    for table in ("addresses", "ports", "rebuilt")
)

PortSlot = tuple[str, str, str, int]
"""(condition group, host address or "v4", "v6" for all of a family, protocol, port): what can be held once."""


class Rows:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._encoded: tuple[Attachment | None, str] = None, ""

    def document(self, attachment: Attachment) -> str:
        """As ``encode``, which is asked twice of what changes: for the journal, and for its row."""
        known, document = self._encoded
        if known is not attachment:
            document = encode(attachment)
            self._encoded = attachment, document
        return document

    def read(self, query: str, values: tuple[object, ...] = ()) -> list[Attachment]:
        """The attachments of a query for documents. Raises ``DocumentError`` where one is damaged."""
        return [decode(document) for (document,) in self._db.run(query, values)]

    def put(self, key: AttachmentKey, attachment: Attachment | None) -> None:
        """Have this attachment for the key, or none."""
        key_columns = columns(key)
        first, *others = _REMOVE
        if self._db.run(first, key_columns).rowcount:
            for remove in others:
                self._db.run(remove, key_columns)
        if attachment is not None:
            use = use_of(attachment)
            digest = sha256(repr(use).encode()).hexdigest()[:16]
            self._db.run(
                "INSERT INTO attachments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*key_columns, use.device, use.device_name, digest, bool(use.groups), self.document(attachment)),
            )
            addresses = {str(address) for address in attachment.request.addresses}
            self._db.run_many(
                "INSERT INTO addresses VALUES (?, ?, ?, ?, ?)", [(one, *key_columns) for one in addresses]
            )
            self._db.run_many(
                "INSERT INTO ports VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(*slot, *key_columns) for slot in port_slots(attachment)],
            )

    def keys(self) -> set[AttachmentKey]:
        """Those of all attachments."""
        return {AttachmentKey(*row) for row in self._db.run(f"SELECT {KEY} FROM attachments")}

    def noted(self) -> tuple[Attachment, ...]:
        """The attachments of the journal's notes; notes that were damaged are left out."""
        return legible(self._db.run("SELECT DISTINCT document FROM journal WHERE document IS NOT NULL"))

    def drop_damaged(self) -> int:
        """Drop the rows that are not as they were written, and what is left of them elsewhere; how many these were."""
        damaged: list[tuple[object, ...]] = [
            (number,)
            for number, document, *key_columns in self._db.run(f"SELECT rowid, document, {KEY} FROM attachments")
            if not any(columns(one.key) == tuple(key_columns) for one in legible([(document,)]))
        ]
        self._db.run_many("DELETE FROM attachments WHERE rowid = ?", damaged)
        for remove in _REMOVE_STRAY:
            self._db.run(remove)
        return len(damaged)


def columns(key: AttachmentKey) -> tuple[str, str, str, str]:
    """The values of the columns of a key."""
    return key.network, key.container, key.ifname, key.plugin


def legible(documents: Iterable[tuple[str]]) -> tuple[Attachment, ...]:
    """The attachments of rows of a document each, without those that are not as they were written."""
    found: list[Attachment] = []
    for (document,) in documents:
        try:
            found.append(decode(document))
        except DocumentError:
            continue
    return tuple(found)


def port_slots(attachment: Attachment) -> dict[PortSlot, Claim]:
    """What an attachment's ports occupy, each once, and by which claim."""
    slots: dict[PortSlot, Claim] = {}
    for target in targets(attachment):
        group = group_of(attachment, target.version)
        for mapping in attachment.published(target.version):
            where = f"v{target.version}" if mapping.wildcard else str(mapping.host_address)
            slots[group.suffix, where, str(mapping.protocol), mapping.host_port] = (mapping, target.version)
    return slots
