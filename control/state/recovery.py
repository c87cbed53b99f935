"""What the state has lost, and where it comes back from: an earlier version's documents, or what the kernel serves.

    lost                     taken in
    the whole file           what is read back from the kernel, with the next ``follow``
    a damaged row            the same, at once
    another version's file   its documents, when it is opened

Attachments that were read back may have a shorter name than their own, and may not be told in full: the table
``rebuilt`` has them, until they are asked for again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from control.desired.hooks import use_of
from control.desired.owners import MAIN_PLUGINS, UNTOLD_MAIN, is_cut, known_as
from control.desired.planner import route_localnet
from control.model import Attachment, AttachmentKey
from control.state.codec import DocumentError
from control.state.database import Database
from control.state.rows import KEY, ONE, Rows, columns, legible
from control.state.schema import LOST
from control.state.uses import Uses
from dataplane.crashpoints import Point, reached

if TYPE_CHECKING:
    from control.state.rebuild import Rebuilt

T = TypeVar("T")

_KEEP_FACT = "INSERT OR REPLACE INTO facts VALUES (?, ?)"
_IS_REBUILT = "INSERT INTO rebuilt VALUES (?, ?, ?, ?)"


class Recovery:
    """See the module. ``read_back`` is asked with the state's lock held, and must not use the state."""

    def __init__(self, database: Database, rows: Rows, uses: Uses, read_back: Callable[[], Rebuilt]) -> None:
        self._db, self._rows, self._uses, self._read_back = database, rows, uses, read_back
        self._lost = ""
        self._open()
        database.renewed = self._open_another

    @property
    def lost(self) -> str:
        """Why the state does not tell everything; empty where it does."""
        if self._lost:  # until then; by another process, maybe
            self._lost = self._told()
        return self._lost

    def follow(self) -> None:
        """Take in what the kernel still serves, where the state does not tell everything. Raises what ``read_back``
        raises; it is asked again then."""
        if self.lost:
            self._adopt(self._read_back())

    def read(self, query: str, values: tuple[object, ...] = ()) -> list[Attachment]:
        """The attachments of a query for documents."""
        return self.mended(lambda: self._rows.read(query, values))

    def mended(self, question: Callable[[], T]) -> T:
        """The answer to a question for documents; where one turns out to be damaged, after that was mended."""
        try:
            return question()
        except DocumentError:
            self._mend()
            return question()

    def find(self, key: AttachmentKey) -> Attachment | None:
        """The attachment with this key. One that was read back under another name has its own from then on."""
        found = self.read(ONE, columns(key)) or self._read_under_another_name(key)
        return found[0] if found else None

    def is_rebuilt(self, key: AttachmentKey) -> bool:
        """Whether an attachment was read back from the kernel, and was not asked for again since. Of an interface of
        which parts were, any that is not known may be in these."""
        query = "SELECT plugin FROM rebuilt WHERE network = ? AND container = ? AND ifname = ?"
        plugins = [row[0] for row in self._db.run(query, key.interface)]
        return key.plugin in plugins or (bool(plugins) and self.find(key) is None)

    def recognise(self, network: str, interfaces: Iterable[tuple[str, str]]) -> None:
        """Learn the true names of attachments to these (container, ifname) that were read back under shorter ones."""
        rows = self._db.run(f"SELECT {KEY} FROM rebuilt").fetchall()
        shortened = [key for row in rows if is_cut(key := AttachmentKey(*row))]
        for key in shortened:
            for container, ifname in interfaces:
                # The plugin is what the comment says: names of plugins are short.
                self.find(AttachmentKey(network, container, ifname, key.plugin))

    def _read_under_another_name(self, key: AttachmentKey) -> list[Attachment]:
        """An attachment that was read back under a shorter name, or without its plugin's: under its own from now on."""
        names = {known_as(key)} | ({replace(key, plugin=UNTOLD_MAIN)} if key.plugin in MAIN_PLUGINS else set())
        for name in names - {key}:
            for one in self.read(ONE, columns(name)):
                renamed = replace(one, request=replace(one.request, key=key))
                with self._db.transaction():
                    self._rows.put(name, None)
                    self._rows.put(key, renamed)
                    self._db.run(_IS_REBUILT, columns(key))
                    number = "UPDATE OR IGNORE networks SET name = ? WHERE name = ?"
                    self._db.run(number, (key.network, name.network))
                return [renamed]
        return []

    def _mend(self) -> None:
        """Drop the rows that are not as they were written, and recover them if they can be."""
        with self._db.transaction():
            dropped = self._rows.drop_damaged()
            self._lost = f"{dropped} of its rows were not as they were written"
            self._db.run(_KEEP_FACT, (LOST, self._lost))
        self._uses.forget()
        print(f"dataplane: the state {self._db.path} was damaged: {self._lost}", file=sys.stderr)
        self._adopt(self._read_back())

    def _open(self) -> None:
        self._take_over()
        self._lost = self._told()

    def _open_another(self) -> None:
        self._open()
        self.follow()

    def _told(self) -> str:
        row = self._db.run("SELECT value FROM facts WHERE name = ?", (LOST,)).fetchone()
        return row[0] if row else ""

    def _take_over(self) -> None:
        """Take in what an earlier version left."""
        former = self._db.run("SELECT document FROM former").fetchall()
        if not former:
            return
        readable = legible(former)
        with self._db.transaction():
            for one in readable:
                self._rows.put(one.key, one)
            if len(readable) < len(former):
                unread = len(former) - len(readable)
                self._db.run(_KEEP_FACT, (LOST, f"{unread} attachments of an earlier version could not be read"))
            self._db.run("DELETE FROM former")

    def _adopt(self, recovered: Rebuilt) -> None:
        """Take in what was recovered, but for what the state or its journal knows better."""
        better = {one.key for one in self._rows.noted()} | self._rows.keys()
        adopted = [one for one in recovered.attachments if one.key not in better]
        with self._db.transaction():
            for name, number in recovered.numbers.items():
                self._db.run("INSERT OR IGNORE INTO networks (id, name) VALUES (?, ?)", (number, name))
            for one in adopted:
                self._rows.put(one.key, one)
                self._db.run(_IS_REBUILT, columns(one.key))
                if 4 in (use := use_of(one)).localhost and use.device_name:
                    # What it was before us nobody knows; off is what it is unless somebody wants it.
                    self._db.run("INSERT OR IGNORE INTO sysctls VALUES (?, '0')", (route_localnet(use.device_name),))
            if adopted:
                # As after an interrupted change: what the kernel holds besides is taken away.
                self._db.run("INSERT INTO journal SELECT coalesce(max(batch), 0) + 1, NULL FROM journal")
            self._db.run("DELETE FROM facts WHERE name = ?", (LOST,))
        reached(Point.STATE_REBUILT)
        why, self._lost = self._lost, ""
        if adopted:
            print(f"dataplane: {why}: {len(adopted)} attachments were read back from the kernel", file=sys.stderr)
        for note in recovered.notes:
            print(f"dataplane: {note}", file=sys.stderr)
