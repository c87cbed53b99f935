"""What attachments ask of their devices: each distinct use once, however many attachments ask for it.

A row has the digest of its attachment's use; the use itself is read from any row with that digest, and remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from control.desired.hooks import Use, use_of
from control.model import AttachmentKey, Device
from control.state.codec import decode
from control.state.database import Database
from control.state.rows import KEY, columns


def _distinct_uses(column: str) -> str:
    """The query for the distinct uses of attachments with a value in an indexed column; it takes the value twice.
    SQLite's own DISTINCT reads each of them; this reads one of each use, and mostly all of them ask the same of their
    device."""
    next_use = f"SELECT min(use) FROM attachments WHERE {column} = ?"
    return (
        f"WITH RECURSIVE each(use) AS ({next_use} UNION ALL SELECT ({next_use} AND use > each.use) FROM each"
        " WHERE use IS NOT NULL) SELECT use FROM each WHERE use IS NOT NULL"
    )


_BY_INDEX = _distinct_uses("device")
_BY_NAME = _distinct_uses("device_name")
_GROUPED = _distinct_uses("grouped")
_SAMPLE = f"SELECT rowid FROM attachments WHERE use = ? AND ({KEY}) != (?, ?, ?, ?) LIMIT 1"

_MAX_KNOWN = 256
"""A digest always means the same, but in the long run there are ever more of them."""


class Uses:
    """See the module. All raise ``DocumentError`` where a row is damaged."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._known: dict[str, Use] = {}

    def of(self, devices: Iterable[Device], key: AttachmentKey | None) -> tuple[Use, ...]:
        """What attachments other than ``key`` ask of these devices; and whoever asks for condition groups."""
        digests = {
            row[0]
            for device in devices
            for query, value in ((_BY_INDEX, device.index), (_BY_NAME, device.name))
            for row in self._db.run(query, (value, value))
        }
        digests |= {row[0] for row in self._db.run(_GROUPED, (1, 1))}
        return tuple(self._sampled(sorted(digests), key))

    def all(self) -> tuple[Use, ...]:
        """What all attachments ask of all devices."""
        query = "SELECT DISTINCT use FROM attachments ORDER BY use"
        return tuple(self._sampled([row[0] for row in self._db.run(query)], None))

    def forget(self) -> None:
        """Read all uses again: a digest may have been damaged."""
        self._known.clear()

    def _sampled(self, digests: Iterable[str], key: AttachmentKey | None) -> Iterator[Use]:
        # The use of any attachment with that digest is the use of all of them.
        but = columns(key) if key else ("", "", "", "")
        for digest in digests:
            row = self._db.run(_SAMPLE, (digest, *but)).fetchone()
            if row:
                yield self._use(digest, row[0])

    def _use(self, digest: str, attachment: int) -> Use:
        """The use with this digest, of an attachment by its number, unless it is known."""
        use = self._known.get(digest)
        if use is None:
            (document,) = self._db.run("SELECT document FROM attachments WHERE rowid = ?", (attachment,)).fetchone()
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            use = self._known[digest] = use_of(decode(document))
        return use
