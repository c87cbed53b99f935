"""Elements as the kernel holds them: key and value in bytes, to compare thousands without nft text.

    pack(element)          ->  Packed(key, value)
    nft.held(declared)     ->  (Held(key, value, "front/web/eth0"), ...)
    unpack(declared, held) ->  element

    tcp . 8080             is  06 00 00 00 1f 90 00 00
    10.11.0.2 . 80         is  0a 0b 00 02 00 50 00 00

A concatenation is its parts in a row, each padded to 32 bits, numbers in network order; the index of a link is in the
host's. A range is told by two keys, its first and its last: here one behind the other, and a single one where both are
the same.

Be aware: sets of intervals are known only with concatenated keys, as all of ours are; of a key with one part the kernel
tells first and last as two elements.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from dataplane.nft.objects import Atom, Comment, Element, LinkIndex, Port, PortRange, Set
from dataplane.types import IfIndex, Protocol


# Tuples and no dataclasses: there may be tens of thousands, and these are made, hashed and compared in C.
class Packed(NamedTuple):
    """Key and value of an element; the value is empty in a set."""

    key: bytes
    value: bytes


class Held(NamedTuple):
    """An element that the kernel holds."""

    key: bytes
    value: bytes
    comment: str
    """As somebody wrote it, with what is not UTF-8 replaced; empty where there is none."""

    @property
    def packed(self) -> Packed:
        """What ``pack`` makes of the same element."""
        return Packed(self.key, self.value)


_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_NESTED = 2 * _ATTRIBUTE.size
"""Bytes before the value of an NFTA_SET_ELEM_KEY, in which it is an NFTA_DATA_VALUE."""
_TYPE_MASK = 0x3FFF
_KEY, _DATA, _USERDATA, _KEY_END = 1, 2, 6, 10  # NFTA_SET_ELEM_*
_KEY_AT = _ATTRIBUTE.size
"""Where the first part of an NFTA_LIST_ELEM begins."""
_COMMENT_FOLLOWS = struct.pack("=H", _USERDATA)
"""The type in the header of an element's last part."""
_COMMENT = 0  # NFTNL_UDATA_SET_ELEM_COMMENT of libnftnl

_PADDING = (b"", bytes(3), bytes(2), bytes(1))  # by the length modulo 4
_NUMBERS = {protocol: bytes([protocol.number]) for protocol in Protocol}
_BY_NUMBER = {protocol.number: protocol for protocol in Protocol}
_WIDTHS = {"ipv4_addr": 4, "ipv6_addr": 16, "inet_proto": 1, "inet_service": 2, "iface_index": 4}
"""Bytes of each of nft's types that our elements are made of."""


def pack(element: Element) -> Packed:
    """The element as the kernel holds it, once it does."""
    first = _joined(element.key, last=False)
    if PortRange in map(type, element.key):
        last = _joined(element.key, last=True)
        first += last if last != first else b""
    return Packed(first, _joined(element.value, last=False))


def asked_by(element: Element) -> bytes:
    """The key by which the kernel finds the element: of a range, its first."""
    return _joined(element.key, last=False)


def unpack(declared: Set, held: Held) -> Element:
    """The element as a value, with its comment where that is one of ours. Raises ``ValueError`` for a key or a value
    that no element of ours could have, such as a protocol that cannot be published."""
    width = sum(map(_padded, declared.key)) if len(declared.key) > 1 else _WIDTHS.get(declared.key[0], 0)
    if len(held.key) not in {width, 2 * width}:
        raise ValueError(f"not a key of {declared.kind} {declared.name}: {held.key[:64].hex()}")
    key = _parted(declared, declared.key, held.key[:width], held.key[width:] or held.key)
    value = _parted(declared, declared.value, held.value, held.value)
    try:
        comment = Comment(held.comment) if held.comment else None
    except ValueError:
        comment = None
    return Element(declared.name, key, value, comment, table=declared.table)


def each_held(elements: bytes) -> Iterator[Held]:
    """The elements of an NFTA_SET_ELEM_LIST_ELEMENTS; one without a key, which stands for all others, is passed by."""
    # By hand: a list of attributes for each would take three times as long.
    unpack_from, at, total = _ATTRIBUTE.unpack_from, 0, len(elements) - _ATTRIBUTE.size
    while at <= total:
        length, _ = unpack_from(elements, at)
        end, inner = min(at + length, len(elements)), at + _ATTRIBUTE.size
        key = last = value = comment = b""
        while inner + _ATTRIBUTE.size <= end:
            size, kind = unpack_from(elements, inner)
            kind &= _TYPE_MASK
            if kind == _KEY:
                key = _value(elements, inner)
            elif kind == _DATA:
                value = _value(elements, inner)
            elif kind == _KEY_END:
                last = _value(elements, inner)
            elif kind == _USERDATA:
                comment = _comment(elements[inner + _ATTRIBUTE.size : inner + size])
            inner += max(size + 3 & ~3, _ATTRIBUTE.size)
        if key:
            yield Held(key + last if last and last != key else key, value, comment.decode(errors="replace"))
        at += max(length + 3 & ~3, _ATTRIBUTE.size)


class _Layout(NamedTuple):
    """Where key and value of an element are, by the headers before them: mostly those of the element before it."""

    key_header: bytes
    value_header: bytes
    """Empty where there is no value."""
    value_at: int
    """Of this header; or the end."""
    end: int
    """Where nothing follows but a comment."""


def each_pair(elements: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values alone. One after the other is laid out alike, so most are cut out without a look at the parts of
    each; what is not, such as a range, is read as ``each_held`` does."""
    unpack_from, at, total, comment = _ATTRIBUTE.unpack_from, 0, len(elements) - _ATTRIBUTE.size, _COMMENT_FOLLOWS
    header, value_header, value_at, done = unlike = _Layout(b"", b"", 0, 0)
    while at <= total:
        length, _ = unpack_from(elements, at)
        if (
            elements[at + _KEY_AT : at + _KEY_AT + _NESTED] == header
            and elements[at + value_at : at + value_at + len(value_header)] == value_header
            and (length == done or elements[at + done + 2 : at + done + 4] == comment)
            and at + length <= len(elements)
        ):
            value = elements[at + value_at + _NESTED : at + done] if value_header else b""
            yield elements[at + _KEY_AT + _NESTED : at + value_at], value
        else:
            raw = elements[at : at + max(length, _ATTRIBUTE.size)]
            for held in each_held(raw):
                yield held.key, held.value
                header, value_header, value_at, done = _layout(raw, held) or unlike
        at += max(length + 3 & ~3, _ATTRIBUTE.size)


def _layout(raw: bytes, held: Held) -> _Layout | None:
    """How an element is laid out; None where that is not key, value and comment, each of whole words."""
    begin = _KEY_AT + _NESTED
    value_at = end = begin + len(held.key)
    if held.value:
        end += _NESTED + len(held.value)
    plain = len(held.key) % 4 == len(held.value) % 4 == 0
    found = raw[begin:value_at], raw[value_at + _NESTED : end] if held.value else b""
    follows = len(raw) == end or raw[end + 2 : end + 4] == _COMMENT_FOLLOWS
    if not (plain and follows and found == (held.key, held.value)):
        return None
    return _Layout(raw[_KEY_AT:begin], raw[value_at : value_at + _NESTED] if held.value else b"", value_at, end)


def _value(raw: bytes, at: int) -> bytes:
    """The bytes in an attribute of an attribute."""
    if len(raw) < at + _NESTED:
        return b""
    length, _ = _ATTRIBUTE.unpack_from(raw, at + _ATTRIBUTE.size)
    return raw[at + _NESTED : at + _ATTRIBUTE.size + length]


def _comment(userdata: bytes) -> bytes:
    """The comment in what userspace left: records of type (one byte), length (one byte) and value."""
    at = 0
    while at + 2 <= len(userdata):
        kind, length = userdata[at], userdata[at + 1]
        if kind == _COMMENT:
            return userdata[at + 2 : at + 2 + length].rstrip(b"\0")
        at += 2 + length
    return b""


def _joined(atoms: tuple[Atom, ...], *, last: bool) -> bytes:
    if len(atoms) == 1:
        return _bytes(atoms[0], last=last)
    parts = [_bytes(atom, last=last) for atom in atoms]
    return b"".join([part + _PADDING[len(part) & 3] for part in parts])


def _bytes(atom: Atom, *, last: bool) -> bytes:
    match atom:
        case IPv4Address() | IPv6Address():
            return atom.packed
        case Protocol():
            return _NUMBERS[atom]
        case PortRange():
            return int(atom.last if last else atom.first).to_bytes(2, "big")
        case LinkIndex():
            return int(atom.index).to_bytes(4, sys.byteorder)
        case _:
            return int(atom).to_bytes(2, "big")


def _padded(word: str) -> int:
    return (_WIDTHS.get(word, 0) + 3) & ~3


def _parted(declared: Set, words: tuple[str, ...], first: bytes, last: bytes) -> tuple[Atom, ...]:
    found: list[Atom] = []
    at = 0
    for word in words:
        width = _WIDTHS.get(word, 0)
        low, high = first[at : at + width], last[at : at + width]
        atom = _atom(word, low, high) if width and len(low) == len(high) == width else None
        if atom is None:
            raise ValueError(
                f"not an element of ours in {declared.kind} {declared.name}: {word} {low.hex()}-{high.hex()}"
            )
        found.append(atom)
        at += _padded(word)
    return tuple(found)


def _atom(word: str, low: bytes, high: bytes) -> Atom | None:
    if word == "inet_service":
        first, last = Port(int.from_bytes(low, "big")), Port(int.from_bytes(high, "big"))
        return first if first == last else PortRange(first, last)
    if low != high:
        return None
    match word:
        case "ipv4_addr":
            return IPv4Address(low)
        case "ipv6_addr":
            return IPv6Address(low)
        case "inet_proto":
            return _BY_NUMBER.get(low[0])
        case _:
            return LinkIndex(IfIndex(int.from_bytes(low, sys.byteorder)))
