"""nftables objects as values that print themselves in nft's own words.

    web = (IPv4Address("10.88.0.2"), Port(80))
    str(Element("publish4", (Protocol.TCP, Port(8080)), web, Comment("front/web/eth0")))
    'publish4 { tcp . 8080 comment "front/web/eth0" : 10.88.0.2 . 80 }'

What a user or a container chose reaches nft text only inside an ``Element`` (addresses, numbers, protocols: by type) or
a ``Comment`` (allow-listed), and the names of foreign chains only as ``ChainRef`` (allow-listed). Link names never do:
links are matched by index. The names of chains in ``Table.ADMIN`` are the one exception, and allow-listed as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from typing import NewType

from dataplane.types import Address, IfIndex, Protocol


class Table(StrEnum):
    """Our tables, by family and name: the only ones that are created, changed or listed to make anything work."""

    MAIN = "inet dataplane"
    """Ports, masquerade, forwarding: nothing in it is anybody else's."""
    ADMIN = "inet dataplane_admin"
    """Chains that users fill with rules of their own."""
    BRIDGE = "bridge dataplane"
    """That of earlier versions, which compared the MAC addresses of frames in it; it is only removed."""

    @property
    def identity(self) -> tuple[int, str]:
        """The number of its family (NFPROTO_*), and its name, as netlink has them."""
        family, _, name = self.partition(" ")
        return _NUMBERS[family], name


_NUMBERS = {"inet": 1, "bridge": 7}  # NFPROTO_*


TABLE = Table.MAIN

Port = NewType("Port", int)


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from ``first`` to ``last``, both included: one element of an interval set."""

    first: Port
    last: Port

    def __str__(self) -> str:
        return f"{int(self.first)}-{int(self.last)}"


@dataclass(frozen=True, slots=True)
class LinkIndex:
    """A link by its index.

    nft takes a bare number for the link of that *name*, if there is one. Quoted and with more digits than a name can
    have characters (15) it can only be the index.
    """

    index: IfIndex

    def __str__(self) -> str:
        return f'"{int(self.index):016d}"'


Atom = Address | Protocol | Port | PortRange | LinkIndex
"""One part of an element: an address, a protocol, a port, a range of ports or the index of a link."""

_ATOMS = (int, PortRange, LinkIndex, IPv4Address, IPv6Address, Protocol)

MAX_COMMENT = 128
"""Bytes of a comment: NFTNL_UDATA_COMMENT_MAXLEN of libnftnl."""

_DIGEST = 12  # hexadecimal digits
_COMMENT = re.compile(r"[A-Za-z0-9_.:/@#, +=\-]{0,128}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FOREIGN_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.\-]{0,63}")
_FAMILIES = frozenset({"ip", "ip6", "inet"})
# A rule is one line of ours: whatever ends a statement, a line or a string early has no place in it.
_RULE = re.compile(r"[A-Za-z0-9_.:/@&|=!<>,(){} \-]+(\"[A-Za-z0-9_.:/@#, +=\-]*\"[A-Za-z0-9_.:/@&|=!<>,(){} \-]*)*")


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment that is safe inside quotes. Raises ``ValueError`` for any other text."""

    text: str

    def __post_init__(self) -> None:
        if not _COMMENT.fullmatch(self.text):
            raise ValueError(f"not a comment nft can carry: {self.text[:64]!r}")

    @classmethod
    def owner(cls, *parts: str) -> Comment:
        """A comment that names an owner, part by part, shortened until it fits (see ``fitting``)."""
        return cls("/".join(fitting(parts, MAX_COMMENT)))


@dataclass(frozen=True, slots=True)
class Set:
    """A set, or with ``value`` types a map. Types are nft's words: "ipv4_addr", "inet_proto", "inet_service" ..."""

    name: str
    key: tuple[str, ...]
    value: tuple[str, ...] = ()
    interval: bool = False
    """Keys may be ranges. Dearer to change than a plain set."""
    table: Table = field(default=TABLE, kw_only=True)

    def __post_init__(self) -> None:
        _check_name(self.name)

    @property
    def kind(self) -> str:
        return "map" if self.value else "set"

    def declaration(self) -> str:
        """``map inet dataplane publish4 { type inet_proto . inet_service : ipv4_addr . inet_service; }``"""
        of = " . ".join(self.key) + (" : " + " . ".join(self.value) if self.value else "")
        flags = " flags interval;" if self.interval else ""
        return f"{self.kind} {self.table} {self.name} {{ type {of};{flags} }}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that others jump to."""

    name: str
    table: Table = field(default=TABLE, kw_only=True)

    def __post_init__(self) -> None:
        _check_chain(self.name, self.table)

    def declaration(self) -> str:
        return f"chain {self.table} {self.name}"


@dataclass(frozen=True, slots=True)
class BaseChain(Chain):
    """A chain that a netfilter hook enters; packets that reach its end are accepted.

    ``priority`` is a number: nft 1.0.6 refuses the name ``dstnat`` at the output hook.
    """

    type: str
    hook: str
    priority: int

    def declaration(self) -> str:
        return (
            f"chain {self.table} {self.name} "
            f"{{ type {self.type} hook {self.hook} priority {self.priority}; policy accept; }}"
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of ours at the end of a chain of ours; ``text`` is nft's."""

    chain: str
    text: str
    table: Table = field(default=TABLE, kw_only=True)

    def __post_init__(self) -> None:
        _check_chain(self.chain, self.table)
        if not _RULE.fullmatch(self.text):
            raise ValueError(f"not a rule of ours: {self.text[:64]!r}")

    def declaration(self) -> str:
        return f"rule {self.table} {self.chain} {self.text}"


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set or map. Two elements are equal when key and value are: the comment is for people."""

    set_name: str
    key: tuple[Atom, ...]
    value: tuple[Atom, ...] = ()
    comment: Comment | None = field(default=None, compare=False)
    table: Table = field(default=TABLE, kw_only=True)

    def __post_init__(self) -> None:
        _check_name(self.set_name)
        for atom in (*self.key, *self.value):
            if type(atom) not in _ATOMS:
                raise TypeError(f"not part of an element: {atom!r}")

    def body(self, *, comment: bool = True) -> str:
        """What stands between the braces."""
        text = _atoms(self.key)
        if comment and self.comment is not None and self.comment.text:
            text += f' comment "{self.comment.text}"'
        return text + (" : " + _atoms(self.value) if self.value else "")

    def value_text(self) -> str:
        """``10.88.0.2 . 80``, as nft lists it."""
        return _atoms(self.value)

    def key_text(self) -> str:
        """``{ tcp . 8080 }``, for ``nft get element``."""
        return "{ " + _atoms(self.key) + " }"

    def __str__(self) -> str:
        return f"{self.set_name} {{ {self.body()} }}"


@dataclass(frozen=True, slots=True)
class ChainRef:
    """A chain of somebody else's table. Raises ``ValueError`` for a name that could be more than a name."""

    family: str
    table: str
    chain: str

    def __post_init__(self) -> None:
        if (
            self.family not in _FAMILIES
            or not _FOREIGN_NAME.fullmatch(self.table)
            or not _FOREIGN_NAME.fullmatch(self.chain)
        ):
            raise ValueError(f"not a chain: {self.family[:32]!r} {self.table[:64]!r} {self.chain[:64]!r}")

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.chain}"


def fitting(parts: Sequence[str], limit: int) -> tuple[str, ...]:
    """Parts of a comment that have so many characters at most, with one between two of them: the longest is cut first.
    What is cut ends with ``+`` and a digest of the whole part, so that no two owners have the same comment."""
    lengths = [len(part) for part in parts]
    while sum(lengths) + len(lengths) - 1 > limit:
        lengths[lengths.index(max(lengths))] -= 1
    return tuple(_cut(part, length) for part, length in zip(parts, lengths, strict=True))


def _cut(part: str, length: int) -> str:
    if len(part) <= length:
        return part
    return f"{part[: length - _DIGEST - 1]}+{sha256(part.encode()).hexdigest()[:_DIGEST]}"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name of ours: {name[:64]!r}")


def _check_chain(name: str, table: Table) -> None:
    # Users name the chains of that table, as they would name chains of their own.
    if table is not Table.ADMIN:
        _check_name(name)
    elif not _FOREIGN_NAME.fullmatch(name):
        raise ValueError(f"not the name of a chain: {name[:64]!r}")


def _atoms(atoms: Iterable[Atom]) -> str:
    return " . ".join(str(int(atom)) if isinstance(atom, int) else str(atom) for atom in atoms)
