"""What is asked of those who publish ports: one port, 32 ports, a range come, change and go. Pure.

    for update in UPDATES: ...                # "ADD 1 port", "REPLACE 1 port", "DEL 1 port", "ADD 32 ports" ...
    update.container(own)                     # as a runtime asks for it
    in_map(update, own)                       # as nft text, for rulesets.pure_map and ``RANGES``
    elements(update, own)                     # what is in a map afterwards: (set, element), and what is not

A container has one set of ports at a time, so that each update begins where the last one ended, and the last leaves
nothing. Whoever knows ranges is given a range as one element.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, ip_interface

from bench.cni import Container, port
from bench.peers.rulesets import MAP_TABLE
from dataplane.nft.objects import Element, Port, PortRange
from dataplane.types import Protocol

MAP, RANGE_MAP = "ports", "ranges"
RANGES = f"""table {MAP_TABLE} {{
\tmap {RANGE_MAP} {{
\t\ttype inet_proto . inet_service : ipv4_addr
\t\tflags interval
\t}}
\tchain prerouting {{
\t\tfib daddr type local dnat ip to meta l4proto . th dport map @{RANGE_MAP}
\t}}
\tchain output {{
\t\tfib daddr type local dnat ip to meta l4proto . th dport map @{RANGE_MAP}
\t}}
}}
"""
"""What ``rulesets.pure_map`` needs to know ranges, as nft text to load behind it."""


class Verb(StrEnum):
    """What happens to a container's ports."""

    ADD = "ADD"
    REPLACE = "REPLACE"
    """They lead to another port of the container."""
    DEL = "DEL"


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of the host, of TCP, that nobody of a crowd has."""

    name: str
    first: int
    count: int = 1
    ranged: bool = False
    """They lead to ports of the same numbers, and are one range."""

    def pairs(self, verb: Verb) -> list[tuple[int, int]]:
        """Host port and container port, after this."""
        inner = self.first if self.ranged else 180 if verb is Verb.REPLACE else 80
        return [(self.first + one, inner + one) for one in range(self.count)]


@dataclass(frozen=True, slots=True)
class Update:
    """One change."""

    verb: Verb
    ports: Ports

    @property
    def name(self) -> str:
        """Of what is measured: "ADD 32 ports"."""
        return f"{self.verb} {self.ports.name}"

    def container(self, own: Container) -> Container:
        """The container, with what its call says of ports."""
        return replace(own, ports=tuple(port(host, inner) for host, inner in self.ports.pairs(self.verb)))


ONE, MANY = Ports("1 port", 40000), Ports("32 ports", 41000, 32)
RANGE = Ports("a range of 100 ports", 42000, 100, ranged=True)
UPDATES = (
    Update(Verb.ADD, ONE),
    Update(Verb.REPLACE, ONE),
    Update(Verb.DEL, ONE),
    Update(Verb.ADD, MANY),
    Update(Verb.DEL, MANY),
    Update(Verb.ADD, RANGE),
    Update(Verb.DEL, RANGE),
)
"""In the order in which they follow each other."""


def elements(update: Update, own: Container, single: str = MAP, ranged: str = RANGE_MAP) -> list[tuple[Element, bool]]:
    """What an update is about, and whether it is there afterwards; the names are those of the maps."""
    there = update.verb is not Verb.DEL
    return [(element, there) for element in _elements(update, own, single, ranged)]


def in_map(update: Update, own: Container) -> str:
    """The update as a transaction. It fails where a key that comes is there, or one that goes is not."""
    entries = list(_elements(update, own, MAP, RANGE_MAP))
    into = f"element {MAP_TABLE} {entries[0].set_name}"
    keys = ", ".join(one.body().partition(" : ")[0] for one in entries)
    gone = f"delete {into} {{ {keys} }}\n" if update.verb is not Verb.ADD else ""
    come = f"create {into} {{ {', '.join(one.body() for one in entries)} }}\n" if update.verb is not Verb.DEL else ""
    return gone + come


def _elements(update: Update, own: Container, single: str, ranged: str) -> Iterator[Element]:
    pairs, address = update.ports.pairs(update.verb), _address(own)
    if update.ports.ranged:
        ports = PortRange(Port(pairs[0][0]), Port(pairs[-1][0]))
        yield Element(ranged, (Protocol.TCP, ports), (address,))
        return
    for host, inner in pairs:
        yield Element(single, (Protocol.TCP, Port(host)), (address, Port(inner)))


def _address(own: Container) -> IPv4Address:
    address = ip_interface(own.address).ip
    if not isinstance(address, IPv4Address):
        raise ValueError(f"not an IPv4 address: {address}")  # noqa: TRY004 - the value, and not its type
    return address
