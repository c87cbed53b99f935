"""Transactions that only change elements, as messages for the kernel: all that an ADD or DEL usually asks of nftables.

    messages(transaction)   ->  ((type, flags, body), ...), or None where chains, rules or sets come and go
    send(messages)              all of them, or none

libnftables takes all other transactions. For these it would be too slow, and ever slower: at each command it lists the
tables, chains and sets of this network namespace, everybody's, and for the index of a link all links.

Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import groupby

from dataplane.netlink import ACK, CREATE, EXCLUSIVE, NESTED, Message, attribute, exchange_all, text_attribute
from dataplane.nft.elements import pack
from dataplane.nft.objects import Atom, Element, PortRange, Set, Table
from dataplane.nft.transaction import Command, Transaction

_NETFILTER = 12  # NETLINK_NETFILTER
_NFTABLES = 10  # NFNL_SUBSYS_NFTABLES
_NEWSETELEM, _DELSETELEM = _NFTABLES << 8 | 12, _NFTABLES << 8 | 14  # NFT_MSG_*
_BEGIN, _END = 16, 17  # NFNL_MSG_BATCH_*
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_ELEMENT, _VALUE = 1 | NESTED, 1  # NFTA_LIST_ELEM, NFTA_DATA_VALUE
_KEY, _DATA, _USERDATA, _KEY_END = 1 | NESTED, 2 | NESTED, 6, 10 | NESTED  # NFTA_SET_ELEM_*
_COMMENT = 0  # NFTNL_UDATA_SET_ELEM_COMMENT of libnftnl
_GENMSG = struct.Struct(">BBH")  # nfgenmsg: family, version, resource
_FLAGS = {"add": CREATE, "create": CREATE | EXCLUSIVE, "delete": 0}

_MAX_LIST = 60_000  # bytes of elements in one message; the length of an attribute has 16 bits


def messages(transaction: Transaction) -> tuple[Message, ...] | None:
    """The messages of a transaction, in its order; None where it changes anything but elements."""
    if not all(_is_of_elements(command) for command in transaction.commands):
        return None
    return tuple(message for _, run in groupby(transaction.commands, key=_place) for message in _run(tuple(run)))


def send(wanted: Sequence[Message]) -> None:
    """Have the kernel apply all of the messages or none. Raises ``OSError`` with the errno of the first refusal."""
    mark = _GENMSG.pack(0, 0, _NFTABLES)
    *others, (kind, flags, body) = wanted
    exchange_all(_NETFILTER, ((_BEGIN, 0, mark), *others, (kind, flags | ACK, body), (_END, 0, mark)))


def _is_of_elements(command: Command) -> bool:
    return isinstance(command.target, Element) or (isinstance(command.target, Set) and command.verb == "flush")


def _place(command: Command) -> tuple[str, Table, str]:
    """What commands have in common that share a message."""
    target = command.target
    return command.verb, command.table, target.set_name if isinstance(target, Element) else ""


def _run(commands: tuple[Command, ...]) -> Iterator[Message]:
    verb, table = commands[0].verb, commands[0].table
    elements = [command.target for command in commands if isinstance(command.target, Element)]
    if not elements:
        flushed = (command.target.name for command in commands if isinstance(command.target, Set))
        # To delete without naming an element is to delete them all.
        yield from ((_DELSETELEM, 0, _set(table, name)) for name in flushed)
        return
    kind = _DELSETELEM if verb == "delete" else _NEWSETELEM
    for chunk in _chunks(_element(element, whole=verb != "delete") for element in elements):
        yield kind, _FLAGS[verb], _set(table, elements[0].set_name) + attribute(_ELEMENTS | NESTED, chunk)


def _set(table: Table, name: str) -> bytes:
    family, table_name = table.identity
    return _GENMSG.pack(family, 0, 0) + text_attribute(_TABLE, table_name) + text_attribute(_SET, name)


def _element(element: Element, *, whole: bool) -> bytes:
    key, value = pack(element)
    last = b""
    if PortRange in map(type, element.key) and any(_is_wide(atom) for atom in element.key):
        key, last = key[: len(key) // 2], key[len(key) // 2 :]
    parts = attribute(_KEY, attribute(_VALUE, key))
    if last:
        parts += attribute(_KEY_END, attribute(_VALUE, last))
    if whole and value:
        parts += attribute(_DATA, attribute(_VALUE, value))
    if whole and element.comment is not None and element.comment.text:
        comment = element.comment.text.encode() + b"\0"
        parts += attribute(_USERDATA, bytes([_COMMENT, len(comment)]) + comment)
    return attribute(_ELEMENT, parts)


def _is_wide(atom: Atom) -> bool:
    return isinstance(atom, PortRange) and atom.first != atom.last


def _chunks(elements: Iterator[bytes]) -> Iterator[bytes]:
    chunk = b""
    for element in elements:
        if len(chunk) + len(element) > _MAX_LIST:
            yield chunk
            chunk = b""
        chunk += element
    yield chunk
