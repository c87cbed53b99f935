"""What an IPAM plugin answers, as values; and the words of CNI that all of them are written in.

    result.addresses, result.routes, result.dns

Keys of ``ipam`` are found in any letter case, as Go's decoder finds them: what served host-local serves here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Interface, ip_interface, ip_network

from control.ipam.ranges import Lease
from dataplane.types import Address, Interface, Network, Route
from plugin.errors import ConfigError
from plugin.jsontext import JsonObject, Section, shown


@dataclass(frozen=True, slots=True)
class IpamResult:
    """What an ADD gave the container."""

    addresses: tuple[Lease, ...]
    routes: tuple[Route, ...] = ()
    dns: JsonObject = field(default_factory=dict)
    fresh: bool = True
    """False where the attachment held the addresses before: who undoes this ADD must not release them."""
    lease_dir: str = ""
    """Where we keep the leases; empty where another plugin does."""


def address(section: Section, name: str) -> Address | None:
    """An IP address; None where it is missing or empty."""
    text = section.text(name)
    if not text:
        return None
    parsed = parse_interface(text)
    if parsed is None or "/" in text:
        raise ConfigError(section.at(name), f"{shown(text)} is not an IP address")
    return parsed.ip


def network(section: Section, name: str, *, strict: bool) -> Network:
    """A network. ``strict`` refuses addresses in it, which are cut down to their network otherwise."""
    text = section.text(name)
    if not text:
        raise ConfigError(section.at(name), "is missing")
    if "/" not in text or "%" in text:
        raise ConfigError(section.at(name), f"{shown(text)} is not a network, such as 10.11.0.0/24")
    try:
        return ip_network(text, strict=strict)
    except ValueError as error:
        raise ConfigError(section.at(name), str(error)) from None


def parse_interface(text: str) -> Interface | None:
    """An IP address with or without prefix length, as Go reads it; None where it is neither."""
    if "%" in text:
        return None
    try:
        interface = ip_interface(text)
        mapped = interface.ip.ipv4_mapped if interface.version == 6 else None
        if mapped is not None:
            return IPv4Interface((mapped, max(interface.network.prefixlen - 96, 0)))
    except ValueError:
        return None
    return interface


def routes(section: Section, name: str = "routes") -> tuple[Route, ...]:
    """A list of routes as CNI describes them; ``gw`` and the rest may be missing."""
    return tuple(_route(Section(item, path, fold=True)) for path, item in section.items(name))


def lease_object(lease: Lease) -> JsonObject:
    """A leased address as an entry of a result's ``ips``."""
    return {"address": str(lease.address), **({"gateway": str(lease.gateway)} if lease.gateway else {})}


def route_object(route: Route) -> JsonObject:
    """A route as CNI describes it."""
    written: JsonObject = {"dst": str(route.destination)}
    if route.gateway is not None:
        written["gw"] = str(route.gateway)
    numbers = {name: getattr(route, name) for name in _NUMBERS}
    return written | {name: number for name, number in numbers.items() if number is not None}


_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")


def _route(section: Section) -> Route:
    numbers = {name: section.integer(name) for name in _NUMBERS}
    for name, number in numbers.items():
        most = 255 if name == "scope" else (1 << 32) - 1
        if number is not None and not 0 <= number <= most:
            raise ConfigError(section.at(name), f"{number} is not 0 to {most}")
    return Route(network(section, "dst", strict=False), address(section, "gw"), **numbers)
