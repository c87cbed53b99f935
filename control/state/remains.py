"""What is left of attachments in the kernel, and in the directory of leases, by whose it is. Pure.

    traces = Traces(remains)           of a ``Remains``, which control/state/survey.py asks the kernel for
    traces.keys()                      everybody who has left something
    traces.published[key]              what one has left, kind by kind

An element tells by its comment whose it is; a wire by its link's alias. Conditions of ports are read from the look-up
rules that have them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from control.conditions import Condition, ConditionError, parse
from control.desired.owners import UNTOLD_MAIN, key_of
from control.desired.ruleset import Group
from control.model import AttachmentKey, PortMapping
from control.wiring.wire import is_named
from dataplane.abi import NetworkEntry, Port
from dataplane.doors import Link, PortFlags
from dataplane.nft.objects import Element, LinkIndex, PortRange
from dataplane.types import Address, IfIndex, Program, Protocol

TRUSTED = "trusted"
"""The zone that a firewall plugin names where nobody names another."""

_LOOKUP = re.compile(r"(?P<when>\S.*)dnat ip6? to .*map @(?:publish|ranges)(?P<version>[46])(?P<suffix>_c[0-9a-f]{12})")
_PUBLISHED = re.compile(r"(?:publish|ranges)(?P<version>[46])(?:_host)?(?P<suffix>_c[0-9a-f]{12})?")

Interface = tuple[str, str, str]
"""(network, container, ifname): what all parts of an interface share."""
Place = tuple[IfIndex, Address]
"""An address behind a device."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A network namespace that a runtime may have made."""

    path: str
    inode: int
    links: tuple[Link, ...] = ()
    addresses: Mapping[IfIndex, frozenset[Address]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Remains:
    """What the kernel, and the directory of leases, hold of attachments."""

    elements: tuple[Element, ...] = ()
    """Of all sets and maps of our tables."""
    rules: str = ""
    """The main table without elements, as nft lists it."""
    networks: Mapping[IfIndex, NetworkEntry] = field(default_factory=dict)
    origins: frozenset[tuple[Address, int, int]] = frozenset()
    """(container's address, protocol, port) that the checksum program knows."""
    targets: frozenset[tuple[Address, int, int, bool]] = frozenset()
    """The same of ports that lead there, and whether loopback addresses of the host do, too."""
    watched: frozenset[tuple[int, Address]] = frozenset()
    """Addresses of containers whose checksums it looks at, by the number of the network, and those of all that
    masquerade by 0."""
    ports: Mapping[IfIndex, Port] = field(default_factory=dict)
    """Host veths, and what their containers may send."""
    port_addresses: frozenset[Place] = frozenset()
    """Host veths and the addresses behind them."""
    fill_ports: frozenset[tuple[int, int]] = frozenset()
    """UDP ports whose partial sums are completed, by the number of the network."""
    hooks: frozenset[tuple[Program, IfIndex]] = frozenset()
    links: Mapping[IfIndex, Link] = field(default_factory=dict)
    flags: Mapping[IfIndex, PortFlags] = field(default_factory=dict)
    localhost: frozenset[IfIndex] = frozenset()
    """Devices with route_localnet."""
    sandboxes: tuple[Sandbox, ...] = ()
    leased: frozenset[AttachmentKey] = frozenset()
    """Those with leases in ``lease_dir``."""
    lease_dir: str = ""
    admin_chains: tuple[str, ...] = ()
    trusted: frozenset[Address] = frozenset()
    """Addresses in that zone of firewalld."""


class Publication(NamedTuple):
    """One element of a map of published ports."""

    version: int
    suffix: str
    protocol: Protocol
    host: Address | None
    ports: range
    target: Address
    container_port: int | None
    """None: the host's."""

    def mappings(self) -> Iterator[PortMapping]:
        """Its ports; without a host address where it is published on all."""
        for port in self.ports:
            yield PortMapping(port, self.container_port or port, self.protocol, self.host)


class Traces:
    """See the module."""

    def __init__(self, remains: Remains) -> None:
        self.places: defaultdict[AttachmentKey, defaultdict[str, set[Place]]] = defaultdict(lambda: defaultdict(set))
        """By key and set."""
        self.egress: defaultdict[AttachmentKey, set[Address]] = defaultdict(set)
        self.published: defaultdict[AttachmentKey, list[Publication]] = defaultdict(list)
        self.everywhere: defaultdict[str, set[Place]] = defaultdict(set)
        """Places by set, whoever they are of."""
        self.masqueraded: dict[Address, AttachmentKey] = {}
        self.wildcards: dict[tuple[int, str, Protocol, int], AttachmentKey] = {}
        """(IP version, group's suffix, protocol, port) published on all addresses, by whom."""
        self.aliased = {link.alias: link for link in remains.links.values() if link.alias}
        self.nobodys = 0
        """How many elements do not tell whose they are."""
        self._groups = {(version, suffix): group for version, suffix, group in groups_of(remains.rules)}
        for element in remains.elements:
            owner = key_of(element.comment.text) if element.comment else None
            if owner is None:
                self.nobodys += 1
            else:
                self._read(owner, element)

    def keys(self) -> frozenset[AttachmentKey]:
        """Everybody who has left something."""
        told = {*self.places, *self.egress, *self.published}
        interfaces = {interface_of(key) for key in told}
        aliases = (key_of(link.alias.partition(" ")[2]) for link in self.aliased.values() if is_named(link))
        silent = {replace(key, plugin=UNTOLD_MAIN) for key in aliases if key and interface_of(key) not in interfaces}
        return frozenset(told | silent)

    def conditions(self, one: Publication) -> tuple[Condition, ...] | None:
        """Those that a port asks for; None where they cannot be read."""
        if not one.suffix:
            return ()
        group = self._groups.get((one.version, one.suffix))
        return group.conditions if group else None

    def _read(self, owner: AttachmentKey, element: Element) -> None:
        name = element.set_name.rstrip("46")
        match element.key, element.value:
            case (LinkIndex(index), address), ():
                place = (index, _address(address))
                self.places[owner][name].add(place)
                self.everywhere[name].add(place)
            case (address,), () if name == "egress":
                self.egress[owner].add(_address(address))
                self.masqueraded[_address(address)] = owner
            case (*host, Protocol() as protocol, ports), (target, *rest) if match := _PUBLISHED.fullmatch(
                element.set_name
            ):
                first, last = (ports.first, ports.last) if isinstance(ports, PortRange) else (ports, ports)
                one = Publication(
                    int(match["version"]),
                    match["suffix"] or "",
                    protocol,
                    _address(host[0]) if host else None,
                    range(_number(first), _number(last) + 1),
                    _address(target),
                    _number(rest[0]) if rest else None,
                )
                self.published[owner].append(one)
                if one.host is None:
                    self.wildcards |= {(one.version, one.suffix, protocol, port): owner for port in one.ports}


def interface_of(key: AttachmentKey) -> Interface:
    """The interface that a key is a part of."""
    return key.network, key.container, key.ifname


def groups_of(rules: str) -> tuple[tuple[int, str, Group | None], ...]:
    """(version, suffix of its maps, group) for each group of conditions that the look-up rules name; None where its
    conditions cannot be read, or are not those that its name is made from."""
    found: dict[tuple[int, str], Group | None] = {}
    for line in map(str.strip, rules.splitlines()):
        if match := _LOOKUP.fullmatch(line):
            version, suffix = int(match["version"]), match["suffix"]
            try:
                group = Group(version, parse([match["when"]], version))
            except ConditionError:
                found.setdefault((version, suffix), None)
                continue
            found[version, suffix] = group if group.suffix == suffix else found.get((version, suffix))
    return tuple((version, suffix, group) for (version, suffix), group in found.items())


def _address(atom: object) -> Address:
    if not isinstance(atom, IPv4Address | IPv6Address):
        raise TypeError(f"not an address: {atom!r}")
    return atom


def _number(atom: object) -> int:
    if not isinstance(atom, int):
        raise TypeError(f"not a number: {atom!r}")
    return int(atom)
