"""prevResult: what the plugins before us made, the part of it that we need, and the whole of it passed on.

    previous = parse(conf.previous, "eth0")
    previous.addresses, previous.host_interfaces, previous.mac        # the engine's part
    convert(conf.previous, "0.4.0")                     # the runtime's part: the answer to ADD

    up to 0.2.0   one address of each family, with its routes: ip4 and ip6 {ip, gateway, routes}; no interfaces
    up to 0.4.0   ips[] carry "version": "4" or "6"
    1.0.0         they do not
    1.1.0         interfaces[] gain mtu, socketPath, pciID; routes[] gain mtu, advmss, priority, table, scope

Be aware: keys that no version knows are passed on: they are somebody's. What a version has no words for is lost in it:
up to 0.2.0 that is every address but the first of its family, as in Go's conversions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network

from control.model import InvalidValueError, interface_name
from dataplane.types import Address, Interface, Network
from plugin.errors import CniError, Code, ConfigError
from plugin.jsontext import Json, JsonObject, Section
from plugin.ports import many_machines
from plugin.versions import CURRENT_VERSION, SUPPORTED_VERSIONS

_FIELD = "prevResult"
_OLD = ("0.1.0", "0.2.0")
_FAMILIES = {"ip4": 4, "ip6": 6}
"""The keys of an old result, and the version of IP that each is about."""
_MAC = re.compile(r"(?!00(?::00){5}$)[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
"""As Go writes one of six octets; all zeros are that of an interface without any."""
_IPS_CARRY_VERSION = ("0.3.0", "0.3.1", "0.4.0")
_SINCE_1_1 = {
    "interfaces": ("mtu", "socketPath", "pciID"),
    "routes": ("mtu", "advmss", "priority", "table", "scope"),
}


@dataclass(frozen=True, slots=True)
class PreviousResult:
    """The attachment as the plugins before us left it."""

    addresses: tuple[Address, ...]
    """Of the container's interface, in order."""
    host_interfaces: tuple[str, ...]
    """Interfaces outside the sandbox, in order: the bridge, the host veth. None where the container has a link that the
    host has no end of (macvlan, ipvlan, host-device), or where the result names no interfaces."""
    mac: str = ""
    """Of the container's interface, in lower case with colons; empty where the result has none that is one of
    Ethernet."""


@dataclass(frozen=True, slots=True)
class _Interface:
    name: str
    in_sandbox: bool
    mac: str = field(default="", compare=False)


def parse(result: JsonObject | None, ifname: str) -> PreviousResult:
    """Read prevResult for one interface of the container. Raises ``CniError``: 7, or 1 for an unknown version.

    Addresses that name no interface are the container's: those of old results, and of plugins that name none.
    """
    if result is None:
        raise ConfigError(
            _FIELD,
            "is missing: this plugin must be called as a chained plugin; "
            'add it after bridge or ptp in "plugins" of a conflist',
        )
    section = Section(result, _FIELD)
    _check_shape(section)
    if _is_old(result):
        return PreviousResult(tuple(dict.fromkeys(_own(_old_addresses(section), ifname))), ())
    interfaces = [_interface(Section(item, path)) for path, item in section.items("interfaces")]
    for index, one in enumerate(interfaces):
        if not one.in_sandbox:
            _check_name(one.name, f"{_FIELD}.interfaces[{index}].name")
    container = _Interface(ifname, in_sandbox=True)
    entries = [Section(item, path) for path, item in section.items("ips")]
    if interfaces and container not in interfaces and any(entry.raw("interface") is not None for entry in entries):
        raise ConfigError(f"{_FIELD}.interfaces", f"holds no interface {ifname!r} (CNI_IFNAME) with a sandbox")
    addresses = []
    for entry in entries:
        address, owner = _address(entry, "address").ip, _owner(entry, len(interfaces))
        if owner is None or interfaces[owner] == container:
            addresses.append((address, entry.at("address")))
    outside = tuple(one.name for one in interfaces if not one.in_sandbox)
    mac = next((one.mac for one in interfaces if one == container), "")
    return PreviousResult(tuple(dict.fromkeys(_own(addresses, ifname))), outside, mac)


def convert(result: JsonObject, version: str) -> JsonObject:
    """The result in another version of CNI. It must have passed ``parse``.

    Raises ``CniError`` (code 1) for a result without addresses in a version that has no words for one.
    """
    current = _from_old(result) if _is_old(result) else result
    if version in _OLD:
        return _to_old(current, version)
    converted: JsonObject = {"cniVersion": version, **current}
    converted["cniVersion"] = version
    if "ips" in current:
        converted["ips"] = [_converted_address(item, version) for item in _list(current, "ips")]
    if version != CURRENT_VERSION:
        for name, added in _SINCE_1_1.items():
            if name in current:
                converted[name] = [_without(item, *added) for item in _list(current, name)]
    return converted


def upgraded(result: JsonObject) -> JsonObject:
    """The result of any version in the current one."""
    return convert(result, CURRENT_VERSION)


def _is_old(result: JsonObject) -> bool:
    return any(result.get(name) is not None for name in _FAMILIES) or result.get("cniVersion") in _OLD


def _from_old(result: JsonObject) -> JsonObject:
    """An old result in the shape of today, its addresses without interface."""
    addresses: list[Json] = []
    routes: list[Json] = []
    for name in _FAMILIES:
        family = result.get(name)
        if isinstance(family, dict):
            addresses.append({"address": family.get("ip"), **_rest(family, "ip", "routes")})
            routes += _list(family, "routes")
    lists: JsonObject = {"ips": addresses, "routes": routes}
    return {**{name: items for name, items in lists.items() if items}, **_rest(result, *_FAMILIES)}


def _to_old(result: JsonObject, version: str) -> JsonObject:
    families: dict[str, JsonObject] = {}
    for item in _list(result, "ips"):
        if isinstance(item, dict) and (interface := _parse_interface(item.get("address"))):
            entry: JsonObject = {"ip": item["address"], **_rest(item, "address", "interface", "version")}
            families.setdefault(f"ip{interface.version}", entry)
    if not families:
        reason = f"holds no address, and a result of CNI {version} cannot say so; use a later cniVersion"
        raise CniError(Code.INCOMPATIBLE_VERSION, "incompatible CNI versions", f"{_FIELD}.ips: {reason}")
    for name, family in families.items():
        routes = [_without(one, *_SINCE_1_1["routes"]) for one in _list(result, "routes") if _leads_by(one, name)]
        if routes:
            family["routes"] = routes
    ordered = {name: families[name] for name in _FAMILIES if name in families}
    return {"cniVersion": version, **ordered, **_rest(result, "cniVersion", "interfaces", "ips", "routes")}


def _leads_by(route: Json, family: str) -> bool:
    network = _parse_network(route.get("dst")) if isinstance(route, dict) else None
    return network is not None and network.version == _FAMILIES[family]


def _check_shape(section: Section) -> None:
    """Refuse a result of no version, of two at once, or one that could not be written in another."""
    version = section.text("cniVersion")
    if version and version not in SUPPORTED_VERSIONS:
        reason = f"{version[:64]!r} is not one of {', '.join(SUPPORTED_VERSIONS)}"
        raise CniError(Code.INCOMPATIBLE_VERSION, "incompatible CNI versions", f"{_FIELD}.cniVersion: {reason}")
    old = [name for name in _FAMILIES if section.raw(name) is not None]
    new = [name for name in ("interfaces", "ips", "routes") if section.raw(name) is not None]
    if old and new:
        raise ConfigError(section.at(old[0]), f"is of a result before CNI 0.3.0, and {new[0]!r} of a later one")
    misplaced = new if version in _OLD else old
    if version and misplaced:
        raise ConfigError(section.at(misplaced[0]), f"is not part of a result of CNI {version}")
    for one in (section, *(section.section(name) for name in old)):
        for path, item in one.items("routes"):
            _check_route(Section(item, path))
    section.section("dns")


def _check_route(route: Section) -> None:
    text = route.text("dst")
    if _parse_network(text) is None:
        raise ConfigError(route.at("dst"), f"{text[:64]!r} is not a network with its prefix length")


def _old_addresses(section: Section) -> Iterator[tuple[Address, str]]:
    for name, version in _FAMILIES.items():
        if section.raw(name) is not None:
            entry = section.section(name)
            address = _address(entry, "ip").ip
            if address.version != version:
                raise ConfigError(entry.at("ip"), f"{address} is not an IPv{version} address")
            yield address, entry.at("ip")


def _own(addresses: Iterable[tuple[Address, str]], ifname: str) -> Iterator[Address]:
    """The container's addresses, each with its field, without the loopback interface's, which lead nowhere."""
    for address, written in addresses:
        if not (ifname == "lo" and address.is_loopback):
            _check_own(address, written)
            yield address


def _interface(entry: Section) -> _Interface:
    mac = entry.text("mac").lower()
    return _Interface(entry.text("name"), bool(entry.text("sandbox")), mac if _MAC.fullmatch(mac) else "")


def _check_name(name: str, field: str) -> None:
    try:
        interface_name(name, field)
    except InvalidValueError as error:
        raise ConfigError(error.field, error.reason) from None


def _address(entry: Section, name: str) -> Interface:
    text = entry.text(name)
    interface = _parse_interface(text)
    if interface is None:
        raise ConfigError(entry.at(name), f"{text[:64]!r} is not an address with its prefix length")
    gateway = entry.text("gateway")
    if gateway:
        try:
            ip_address(gateway)
        except ValueError:
            raise ConfigError(entry.at("gateway"), f"{gateway[:64]!r} is not an IP address") from None
    return interface


def _owner(entry: Section, interfaces: int) -> int | None:
    owner = entry.integer("interface")
    if owner is not None and not 0 <= owner < interfaces:
        raise ConfigError(entry.at("interface"), f"there is no such entry among {interfaces} interfaces")
    return owner


def _check_own(address: Address, field: str) -> None:
    kind = many_machines(address)
    if address.is_unspecified:
        kind = "the unspecified address"
    elif address.is_loopback:
        kind = "a loopback address"
    if kind:
        raise ConfigError(field, f"{address} is {kind}, which no port can lead to")


def _parse_interface(text: Json) -> Interface | None:
    if not isinstance(text, str) or "/" not in text or "%" in text:
        return None
    try:
        return ip_interface(text)
    except ValueError:
        return None


def _parse_network(text: Json) -> Network | None:
    if not isinstance(text, str) or "/" not in text or "%" in text:
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _converted_address(item: Json, version: str) -> Json:
    converted = _without(item, "version")
    if version not in _IPS_CARRY_VERSION or not isinstance(converted, dict):
        return converted
    interface = _parse_interface(converted.get("address"))
    return {"version": str(interface.version) if interface else "", **converted}


def _without(item: Json, *names: str) -> Json:
    return _rest(item, *names) if isinstance(item, dict) else item


def _rest(item: JsonObject, *names: str) -> JsonObject:
    """An object without some of its keys."""
    return {name: value for name, value in item.items() if name not in names}


def _list(result: JsonObject, name: str) -> list[Json]:
    value = result.get(name)
    return value if isinstance(value, list) else []
