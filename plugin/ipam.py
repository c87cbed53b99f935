"""IP address management for a main plugin: who hands out addresses, and what comes back, whoever it is.

    ipam = ipam_of(invocation, conf, environment)      # None: layer 2 only
    result = ipam.add()
    result.addresses, result.routes, result.dns

    "ipam": {"type": "host-local", ...}     in this process, see plugin/hostlocal.py
    "ipam": {"type": "dhcp", ...}           by that plugin's executable, see plugin/delegate.py
    "ipam": {}                              nobody

Keys of ``ipam`` are found in any letter case, as Go's decoder finds them: what served host-local serves here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, ip_interface, ip_network
from typing import Protocol

from control.ipam.ranges import Lease
from dataplane.types import Address, Interface, Network, Route
from plugin.environment import Invocation, Verb
from plugin.errors import ConfigError
from plugin.jsontext import JsonObject, Section, kind_of, shown

HOST_LOCAL = "host-local"


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


class Ipam(Protocol):
    """The verbs of an IPAM plugin, for one attachment or, for ``collect`` and ``status``, one network."""

    def add(self) -> IpamResult:
        """Give the attachment its addresses. Raises ``NoAddressError``, ``CniError``, ...; then it has none more."""

    def delete(self) -> None:
        """Take them back; what is gone is no error. Also undoes an ADD."""

    def check(self) -> None:
        """Raises ``DifferenceError`` or ``CniError`` where the attachment does not hold its addresses."""

    def collect(self, valid: frozenset[tuple[str, str]]) -> None:
        """Take back what no valid (container, ifname) holds. Raises an ``ExceptionGroup`` after having tried all."""

    def status(self) -> None:
        """Raises ``NotReadyError`` or ``CniError`` where an ADD would fail."""


Say = Callable[[str], object]
"""Takes what a delegate wrote to its standard error."""


def is_delegated(conf: JsonObject) -> bool:
    """Whether addresses are another plugin's business."""
    return _type_of(conf, lenient=True) not in {"", HOST_LOCAL}


def ipam_of(
    invocation: Invocation, conf: JsonObject, environment: Mapping[str, str], say: Say = sys.stderr.write
) -> Ipam | None:
    """The IPAM of a configuration; None where it has none. Raises ``CniError`` for one that cannot be served.

    ``environment`` is the caller's, and where another plugin is to run the whole of it. Everything is checked here,
    before anything is changed, except on DEL and GC, which read no more than they need: a configuration that was broken
    after the ADD must not keep addresses from release.
    """
    named = _type_of(conf, lenient=invocation.verb is Verb.DEL)
    if not named:
        return None
    if named == HOST_LOCAL:
        from plugin.hostlocal import HostLocal  # noqa: PLC0415 - it imports the protocol from here

        return HostLocal(invocation, conf)
    from plugin.delegate import Delegated  # noqa: PLC0415 - only where there is something to delegate

    return Delegated(named, invocation, conf, environment, say)


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
        if number is not None and not 0 <= number < 1 << 32:
            raise ConfigError(section.at(name), f"{number} is not 0 to 4294967295")
    return Route(network(section, "dst", strict=False), address(section, "gw"), **numbers)


def _type_of(conf: JsonObject, *, lenient: bool) -> str:
    ipam = conf.get("ipam")
    if isinstance(ipam, dict):
        named = ipam.get("type")
        if isinstance(named, str):
            return named
        if not ipam or lenient:
            return ""
        raise ConfigError("ipam.type", "is missing" if named is None else f"{shown(named)} is not a string")
    if ipam is None or lenient:
        return ""
    raise ConfigError("ipam", f"{shown(ipam)} is {kind_of(ipam)}, not an object")
