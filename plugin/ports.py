"""``runtimeConfig.portMappings``: the ports that a runtime wants published, as values that can be programmed.

    {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""}  ->  PortMapping(8080, 80, Protocol.TCP)
    unserved(entries, addresses)   -> notes; ConfigError for a hostIP that can lead to no address of the container

    hostPort, containerPort   integers from 1 to 65535; neither "80" nor 80.0 nor true
    protocol                  tcp, udp or sctp in any letter case; tcp where it is missing or empty
    hostIP                    an address of one machine, of a family that the container has an address of; missing or
                              empty is every local address, 0.0.0.0 and :: those of a family

Be aware: an IPv4-mapped IPv6 address (::ffff:192.0.2.1) is read as the IPv4 address in it, as Go does: the runtime that
sent it means that one. Keys that are not listed are ignored. A port that is asked for twice for the same
container port counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from control.model import PortMapping
from dataplane.types import Address, Protocol
from plugin.errors import ConfigError
from plugin.jsontext import Json, Section

Claim = tuple[Protocol, int, int | Address]
"""Something that only one mapping can have: a port of one address, or of every address of an IP version (4 or 6)."""

_EVERY_IPV4 = IPv4Address("0.0.0.0")
_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Entry:
    """A mapping, and the path of the entry that asked for it."""

    path: str
    mapping: PortMapping


def port_mappings(entries: Iterable[tuple[str, Json]]) -> tuple[Entry, ...]:
    """Read the mappings, each given with its path. Raises ``ConfigError``."""
    claimed: dict[Claim, tuple[str, PortMapping]] = {}
    found: dict[PortMapping, str] = {}
    for path, entry in entries:
        mapping = _mapping(Section(entry, path, fold=True))
        claims = _claims(mapping)
        holders = [claimed[claim] for claim in claims if claim in claimed]
        for holder_path, holder in holders:
            if holder.container_port != mapping.container_port:
                raise ConfigError(
                    f"{path}.hostPort",
                    f"{mapping} is to lead to container port {mapping.container_port}, "
                    f"but {holder_path} leads it to {holder.container_port}",
                )
        if len(holders) == len(claims):
            continue  # published already, by one entry or by several
        for claim in claims:
            claimed.setdefault(claim, (path, mapping))
        found[mapping] = path
    return tuple(_widest(found))


def unserved(entries: Sequence[Entry], addresses: Iterable[Address], *, skips: bool = False) -> tuple[str, ...]:
    """Notes on mappings that have no effect for a container with these addresses, one for each host address.

    Unless it ``skips`` them, raises ``ConfigError`` where the container has no address of hostIP's family, and hostIP
    is no wildcard that the runtime may have written by itself: 0.0.0.0, or :: beside 0.0.0.0 for the same port.
    """
    versions = {address.version for address in addresses}
    mappings = {entry.mapping for entry in entries}
    left_out: dict[tuple[Address, str], list[str]] = {}
    for entry in entries:
        host = entry.mapping.host_address
        if host is None or host.version in versions:
            continue
        reason = f"the container has no IPv{host.version} address"
        # 0.0.0.0 needs no other beside it: nerdctl writes it alone where its user named no address.
        if not (skips or (entry.mapping.wildcard and replace(entry.mapping, host_address=_EVERY_IPV4) in mappings)):
            raise ConfigError(f"{entry.path}.hostIP", f"{host} is IPv{host.version}, and {reason}")
        left_out.setdefault((host, reason), []).append(entry.path)
    return tuple(
        f"{paths[0]}{f' and {len(paths) - 1} more publish' if paths[1:] else ' publishes'} nothing on {host}: {reason}"
        for (host, reason), paths in left_out.items()
    )


def many_machines(address: Address) -> str:
    """What kind of address it is, if it stands for more than one machine: nothing can be published there."""
    if address.is_multicast:
        return "a multicast address"
    return "the broadcast address" if address == _BROADCAST else ""


def _widest(found: Mapping[PortMapping, str]) -> Iterator[Entry]:
    # "Every address" says all that "every IPv4 address" says: one record of it is enough to find the holder by.
    everywhere = {(one.protocol, one.host_port) for one in found if one.host_address is None}
    for mapping, path in found.items():
        narrower = mapping.wildcard and mapping.host_address is not None
        if not (narrower and (mapping.protocol, mapping.host_port) in everywhere):
            yield Entry(path, mapping)


def _claims(mapping: PortMapping) -> list[Claim]:
    port = (mapping.protocol, mapping.host_port)
    if mapping.host_address is None:
        return [(*port, 4), (*port, 6)]
    return [(*port, mapping.host_address.version if mapping.wildcard else mapping.host_address)]


def _mapping(entry: Section) -> PortMapping:
    return PortMapping(
        _port(entry, "hostPort"), _port(entry, "containerPort"), _protocol(entry), _host_address(entry, "hostIP")
    )


def _port(entry: Section, name: str) -> int:
    port = entry.integer(name)
    if port is None:
        raise ConfigError(entry.at(name), "is missing")
    if not 1 <= port <= 65535:
        raise ConfigError(entry.at(name), f"{port if abs(port) < 10**9 else 'it'} is not a port (1 to 65535)")
    return port


def _protocol(entry: Section) -> Protocol:
    name = entry.text("protocol") or Protocol.TCP
    try:
        return Protocol(name.lower())
    except ValueError:
        raise ConfigError(entry.at("protocol"), f"{name[:64]!r} is not tcp, udp or sctp") from None


def _host_address(entry: Section, name: str) -> Address | None:
    text = entry.text(name)
    if not text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        raise ConfigError(entry.at(name), f"{text[:64]!r} is not an IP address") from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ConfigError(entry.at(name), f"{text[:64]!r} names a zone, which NAT cannot match; leave it out")
        address = address.ipv4_mapped or address
    if kind := many_machines(address):
        raise ConfigError(entry.at(name), f"{text[:64]!r} is {kind}, which no host has for its own")
    return address
