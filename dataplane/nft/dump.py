"""What our tables hold, by netlink: the elements of one set, and which of the sets and tables there are.

    held(Set("members4", ("iface_index", "ipv4_addr")))   ->  (Held(key, value, "front/web/eth0"), ...)
    values(Set("members4", ...))                          ->  {key: value, ...}
    holds(element)                                        ->  whether this one is among them
    has_set(Set("members4", ...))                         ->  whether there is one of this name
    tables()                                              ->  {Table.MAIN}

libnftables would read all sets of the table to list one of them, and write each element as text.

Be aware: a set that the kernel makes larger or smaller just then may be told without some of its elements. Who misses
one asks for it alone.

Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from dataplane.errors import NftError
from dataplane.netlink import (
    DUMP,
    NESTED,
    attribute,
    attributes,
    each_attribute,
    exchange,
    question,
    text,
    text_attribute,
)
from dataplane.nft.elements import Held, asked_by, each_held, each_pair, pack
from dataplane.nft.objects import Element, Set, Table

_NETFILTER = 12  # NETLINK_NETFILTER
_GETTABLE, _GETSET, _GETSETELEM = (10 << 8 | kind for kind in (1, 10, 13))  # NFNL_SUBSYS_NFTABLES, NFT_MSG_*
_GENMSG = 4  # bytes of nfgenmsg: family, version, resource
_TABLE_NAME = 1  # NFTA_TABLE_NAME
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*; the first two are NFTA_SET_{TABLE,NAME} as well
_ELEMENT, _KEY, _VALUE = 1, 1, 1  # NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE


def held(declared: Set) -> tuple[Held, ...]:
    """The elements of a set or map, in no particular order; none where it is not there. Raises ``NftError``."""
    # A table of hashes that the kernel makes larger or smaller meanwhile may tell some of them twice.
    return tuple(dict.fromkeys(element for raw in _lists(declared) for element in each_held(raw)))


def values(declared: Set) -> dict[bytes, bytes]:
    """The values of a set or map by their keys, both as ``pack`` has them. Raises ``NftError``."""
    found: dict[bytes, bytes] = {}
    for raw in _lists(declared):
        found.update(each_pair(raw))
    return found


def _lists(declared: Set) -> Iterator[bytes]:
    """The lists of elements that the kernel answers with, of a few kilobytes each. Raises ``NftError``."""
    family, name = declared.table.identity
    body = bytes([family, 0, 0, 0]) + text_attribute(_TABLE, name) + text_attribute(_SET, declared.name)
    try:
        answers = exchange(_NETFILTER, _GETSETELEM, DUMP, body)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return
        what = f"the elements of {declared.kind} {declared.name} of table {declared.table}"
        raise NftError.from_errno("list", what, error.errno or 0) from error
    yield from (raw for answer in answers for kind, raw in each_attribute(answer[_GENMSG:]) if kind == _ELEMENTS)


def holds(element: Element) -> bool:
    """Whether the kernel holds this very element, with this value where it has one; a range is found by itself alone.
    Raises ``NftError``."""
    family, name = element.table.identity
    wanted = pack(element)
    # Of intervals the kernel finds whichever holds the key, and tells its bounds.
    key = attribute(_KEY | NESTED, attribute(_VALUE, asked_by(element)))
    body = bytes([family, 0, 0, 0]) + text_attribute(_TABLE, name) + text_attribute(_SET, element.set_name)
    body += attribute(_ELEMENTS | NESTED, attribute(_ELEMENT | NESTED, key))
    try:
        answers = exchange(_NETFILTER, _GETSETELEM, 0, body)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise NftError.from_errno("read", f"element {element}", error.errno or 0) from error
    lists = (raw for answer in answers for kind, raw in each_attribute(answer[_GENMSG:]) if kind == _ELEMENTS)
    found = (one.packed for raw in lists for one in each_held(raw))
    return any(one.key == wanted.key and (not element.value or one.value == wanted.value) for one in found)


def has_set(declared: Set) -> bool:
    """Whether there is a set or map of this name, whatever it holds. Raises ``NftError``."""
    family, name = declared.table.identity
    body = bytes([family, 0, 0, 0]) + text_attribute(_TABLE, name) + text_attribute(_SET, declared.name)
    try:
        question(_NETFILTER, _GETSET, body)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        what = f"{declared.kind} {declared.name} of table {declared.table}"
        raise NftError.from_errno("look for", what, error.errno or 0) from error
    return True


def tables() -> frozenset[Table]:
    """Which of our tables there are. Raises ``NftError``."""
    try:
        answers = exchange(_NETFILTER, _GETTABLE, DUMP, bytes(_GENMSG))
    except OSError as error:
        raise NftError.from_errno("list", "the tables", error.errno or 0) from error
    there = {(answer[0], text(attributes(answer[_GENMSG:]).get(_TABLE_NAME, b""))) for answer in answers}
    return frozenset(table for table in Table if table.identity in there)
