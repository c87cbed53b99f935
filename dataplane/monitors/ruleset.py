"""What nftables tells: each transaction, who sent it, and which of our tables it changed.

The kernel tells every object that a transaction made or deleted, then the generation that it led to (NFT_MSG_NEWGEN)
with the process. A reload of somebody's blocklist may be a hundred thousand elements: datagrams in which our name does
not occur are not looked into.

Be aware: a table that vanishes with its owner's socket (flag ``owner``) is told by nothing, and the generation stays as
it was; nor is it told that counters are reset. Process ids are those of the first pid namespace.

Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dataplane.events import Event, NotificationsLost, RulesetChanged
from dataplane.monitors.subscription import BUFFER, MalformedError, Subscription, messages, required, split
from dataplane.netlink import text, text_attribute
from dataplane.nft.objects import Table

SOURCE = "ruleset"

_NETFILTER = 12  # NETLINK_NETFILTER
_GROUP = 7  # NFNLGRP_NFTABLES
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES, the high byte of a message's type
_DELTABLE, _NEWGEN = _SUBSYSTEM << 8 | 2, _SUBSYSTEM << 8 | 15  # NFT_MSG_*
_GENMSG = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_GEN_ID, _GEN_PID, _GEN_NAME = 1, 2, 3  # NFTA_GEN_*, numbers of 32 bits in network order
_TABLE = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE ...: it is the first attribute of every object

_FAMILIES = {"inet": 1, "bridge": 7}  # NFPROTO_*
_OURS = {(_FAMILIES[family], name): table for table in Table for family, _, name in [table.partition(" ")]}
_BEGINNINGS = [(bytes([family]), text_attribute(_TABLE, name), table) for (family, name), table in _OURS.items()]
_COMMON = min((name for _, name in _OURS), key=len).encode()
"""What all our tables' names begin with."""
_NEWGEN_TYPE = struct.pack("=H", _NEWGEN)


class RulesetMonitor:
    """A subscription to it, in the network namespace of the thread that opens it. Raises ``KernelError``."""

    def __init__(self, buffer: int = BUFFER) -> None:
        self._subscription = Subscription(SOURCE, _NETFILTER, (_GROUP,), buffer)
        self._transactions = Transactions()

    def fileno(self) -> int:
        """Readable (epoll, select) while there is something to read."""
        return self._subscription.fileno()

    def read(self) -> tuple[Event, ...]:
        """The transactions that came to their end, oldest first; never waits."""
        datagrams, lost = self._subscription.receive()
        found = [event for datagram in datagrams for event in self._transactions.decode(datagram)]
        if lost:
            self._transactions = Transactions()  # the end of the last one may be what was lost
            found.append(NotificationsLost(SOURCE))
        return tuple(found)

    def close(self) -> None:
        """Listen no more; a second time does nothing."""
        self._subscription.close()


class Transactions:
    """Puts transactions together from datagrams, of which one may take thousands."""

    def __init__(self) -> None:
        self._tables: set[str] = set()
        self._removed: set[str] = set()
        self._others = False

    def decode(self, datagram: bytes) -> Iterator[Event]:
        """The transactions that end in this datagram. What is malformed, and all behind it, counts as lost."""
        if _COMMON not in datagram and _NEWGEN_TYPE not in datagram:
            self._others = True
            return
        try:
            for kind, _, body in messages(datagram):
                if kind == _NEWGEN:
                    yield self._ended(body)
                elif kind >> 8 == _SUBSYSTEM:
                    self._object(kind, body)
        except MalformedError:
            self._forget()
            yield NotificationsLost(SOURCE)

    def _object(self, kind: int, body: bytes) -> None:
        table = _table(body)
        if table is None:
            self._others = True
            return
        self._tables.add(table)
        if kind == _DELTABLE:
            self._removed.add(table)

    def _ended(self, body: bytes) -> RulesetChanged:
        _, found = split(_GENMSG, body)
        event = RulesetChanged(
            generation=int.from_bytes(required(found, _GEN_ID), "big"),
            pid=int.from_bytes(found.get(_GEN_PID, b""), "big"),
            program=text(found.get(_GEN_NAME, b"")),
            tables=frozenset(self._tables),
            removed=frozenset(self._removed),
            others=self._others,
        )
        self._forget()
        return event

    def _forget(self) -> None:
        self._tables, self._removed, self._others = set(), set(), False


def _table(body: bytes) -> Table | None:
    """Which of our tables an object belongs to."""
    for family, name, table in _BEGINNINGS:
        if body.startswith(family) and body.startswith(name, _GENMSG.size):
            return table
    (number, *_), found = split(_GENMSG, body)
    return _OURS.get((number, text(found.get(_TABLE, b""))))
