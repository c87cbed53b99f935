"""The fingerprint of a table: equal to an earlier one where its chains, rules and sets are what they were.

    fingerprint(Table.MAIN)    -> "3f9c..."; empty where the table is not there

By netlink, as the kernel has them, and without the elements of sets: libnftables (1.0.6) reads every element of a table
to list its chains, a second for 60,000. Handles, counters and comments are left out: who writes the same again has the
same.

Be aware: of a set with a name only its declaration counts, and objects that no rule refers to do not. The elements of a
set without one, such as ``{ 10.0.0.0/8, 192.0.2.1 }``, are part of the rule that it is written in.

Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from dataplane.errors import NftError
from dataplane.netlink import DUMP, attribute, attributes, each_attribute, exchange, text, text_attribute
from dataplane.nft.objects import Table

_NETFILTER = 12  # NETLINK_NETFILTER
_GETTABLE, _GETCHAIN, _GETRULE, _GETSET = (10 << 8 | kind for kind in (1, 4, 7, 10))  # NFNL_SUBSYS_NFTABLES, NFT_MSG_*
_GENMSG = 4  # bytes of nfgenmsg: family, version, resource
_OF = 1  # NFTA_{TABLE_NAME,CHAIN_TABLE,RULE_TABLE,SET_TABLE}
_TABLE = (2,)  # NFTA_TABLE_FLAGS: dormant, owner ...
_CHAIN = (3, 4, 5, 7, 10)  # NFTA_CHAIN_{NAME,HOOK,POLICY,TYPE,FLAGS}
_SET = (2, 3, 4, 5, 6, 7, 8, 9, 11, 12)  # NFTA_SET_{NAME,FLAGS,KEY_*,DATA_*,POLICY,DESC,TIMEOUT,GC_INTERVAL}
_SET_NAME, _SET_FLAGS, _ANONYMOUS = 2, 3, 1  # NFTA_SET_{NAME,FLAGS}, NFT_SET_ANONYMOUS
_GETSETELEM, _ELEMENTS = 10 << 8 | 13, 3  # NFT_MSG_GETSETELEM, NFTA_SET_ELEM_LIST_ELEMENTS
_RULE_CHAIN, _EXPRESSIONS = 2, 4  # NFTA_RULE_*
_NAME, _DATA = 1, 2  # NFTA_EXPR_*
_COUNTING = frozenset({b"counter\0", b"last\0"})
"""Expressions whose state is all that they have."""


def fingerprint(table: Table) -> str:
    """See the module. Raises ``NftError``."""
    try:
        whole = [repr(piece) for piece in _pieces(table)]
    except OSError as error:
        raise NftError.from_errno("list", f"the chains of table {table}", error.errno or 0) from error
    return sha256("\n".join(whole).encode()).hexdigest() if whole else ""


def _pieces(table: Table) -> Iterator[tuple[object, ...]]:
    """What counts of each object, in the order in which the kernel has them. Raises ``OSError``."""
    for kind, counts in ((_GETTABLE, _TABLE), (_GETCHAIN, _CHAIN), (_GETSET, _SET)):
        for raw in _objects(kind, table):
            found = attributes(raw)
            yield kind, *(found.get(one, b"") for one in counts)
            if kind == _GETSET and int.from_bytes(found.get(_SET_FLAGS, b""), "big") & _ANONYMOUS:
                yield tuple(_elements(table, found[_SET_NAME]))
    for raw in _objects(_GETRULE, table):
        found = attributes(raw)
        yield found.get(_RULE_CHAIN), *_expressions(found.get(_EXPRESSIONS, b""))


def _objects(kind: int, table: Table) -> Iterator[bytes]:
    family, name = table.identity
    # Of rules and sets the kernel tells those of this table alone, of the others all.
    only = text_attribute(_OF, name) if kind in {_GETRULE, _GETSET} else b""
    try:
        answers = exchange(_NETFILTER, kind, DUMP, bytes([family, 0, 0, 0]) + only)
    except FileNotFoundError:
        return
    for answer in answers:
        raw = answer[_GENMSG:]
        if answer[0] == family and text(attributes(raw).get(_OF, b"")) == name:
            yield raw


def _elements(table: Table, name: bytes) -> list[bytes]:
    """The elements of a set, in an order that does not depend on how the kernel keeps them. Raises ``OSError``."""
    family, of = table.identity
    body = bytes([family, 0, 0, 0]) + text_attribute(_OF, of) + attribute(_SET_NAME, name)
    answers = exchange(_NETFILTER, _GETSETELEM, DUMP, body)
    lists = (raw for answer in answers for kind, raw in each_attribute(answer[_GENMSG:]) if kind == _ELEMENTS)
    return sorted(raw for one in lists for _, raw in each_attribute(one))


def _expressions(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    for _, expression in each_attribute(raw):
        found = attributes(expression)
        name = found.get(_NAME, b"")
        yield name, b"" if name in _COUNTING else found.get(_DATA, b"")
