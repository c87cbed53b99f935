"""prevResult: what the plugins before us made, the part of it that we need, and the whole of it passed on.

    previous = parse(conf.previous, "eth0")
    previous.addresses, previous.host_interfaces        # the engine's part
    convert(conf.previous, "0.4.0")                     # the runtime's part: the answer to ADD

    up to 0.4.0   ips[] carry "version": "4" or "6"
    1.0.0         they do not
    1.1.0         interfaces[] gain mtu, socketPath, pciID; routes[] gain mtu, advmss, priority, table, scope

Be aware: keys that no version knows are passed on: they are somebody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

from control.model import InvalidValueError, interface_name
from dataplane.types import Address
from plugin.config import CURRENT_VERSION, SUPPORTED_VERSIONS
from plugin.errors import CniError, Code, ConfigError
from plugin.jsontext import Json, JsonObject, Section
from plugin.ports import many_machines

_FIELD = "prevResult"
_IPS_CARRY_VERSION = ("0.3.0", "0.3.1", "0.4.0")
_SINCE_1_1 = {
    "interfaces": {"mtu", "socketPath", "pciID"},
    "routes": {"mtu", "advmss", "priority", "table", "scope"},
}


@dataclass(frozen=True, slots=True)
class PreviousResult:
    """The attachment as the plugins before us left it."""

    addresses: tuple[Address, ...]
    """Of the container's interface, in order."""
    host_interfaces: tuple[str, ...]
    """Interfaces outside the sandbox, in order: the bridge, the host veth."""


@dataclass(frozen=True, slots=True)
class _Interface:
    name: str
    in_sandbox: bool


def parse(result: JsonObject | None, ifname: str) -> PreviousResult:
    """Read prevResult for one interface of the container. Raises ``CniError``: 7, or 1 for a result before 0.3.0."""
    if result is None:
        raise ConfigError(
            _FIELD,
            "is missing: this plugin must be called as a chained plugin; "
            'add it after bridge or ptp in "plugins" of a conflist',
        )
    section = Section(result, _FIELD)
    _refuse_old(section)
    interfaces = [_interface(Section(item, path)) for path, item in section.items("interfaces")]
    outside = tuple(one.name for one in interfaces if not one.in_sandbox)
    if _Interface(ifname, in_sandbox=True) not in interfaces:
        raise ConfigError(f"{_FIELD}.interfaces", f"holds no interface {ifname!r} (CNI_IFNAME) with a sandbox")
    if not outside:
        raise ConfigError(f"{_FIELD}.interfaces", "holds no interface of the host: neither a bridge nor a host veth")
    for index, one in enumerate(interfaces):
        if not one.in_sandbox:
            _check_name(one.name, f"{_FIELD}.interfaces[{index}].name")
    _check_shape(section)
    ours = {index for index, one in enumerate(interfaces) if one == _Interface(ifname, in_sandbox=True)}
    addresses: dict[Address, None] = {}
    for path, item in section.items("ips"):
        entry = Section(item, path)
        address, owner = _address(entry, len(interfaces))
        if owner is None or owner in ours:
            _check_own(address, entry.at("address"))
            addresses[address] = None
    return PreviousResult(tuple(addresses), outside)


def convert(result: JsonObject, version: str) -> JsonObject:
    """The result in another version of CNI. It must have passed ``parse``."""
    converted: JsonObject = {"cniVersion": version, **result}
    converted["cniVersion"] = version
    converted["ips"] = [_converted_address(item, version) for item in _list(result, "ips")]
    if version != CURRENT_VERSION:
        for name, added in _SINCE_1_1.items():
            if name in result:
                converted[name] = [_without(item, added) for item in _list(result, name)]
    if not converted["ips"] and "ips" not in result:
        del converted["ips"]
    return converted


def _refuse_old(section: Section) -> None:
    version = section.text("cniVersion")
    if version and version not in SUPPORTED_VERSIONS:
        reason = f"{version[:64]!r} is not one of {', '.join(SUPPORTED_VERSIONS)}"
        raise CniError(Code.INCOMPATIBLE_VERSION, "incompatible CNI versions", f"{_FIELD}.cniVersion: {reason}")
    for old in ("ip4", "ip6"):
        if section.raw(old) is not None:
            reason = "is of a result before CNI 0.3.0, which names no interfaces"
            raise CniError(Code.INCOMPATIBLE_VERSION, "incompatible CNI versions", f"{section.at(old)}: {reason}")


def _interface(entry: Section) -> _Interface:
    return _Interface(entry.text("name"), bool(entry.text("sandbox")))


def _check_shape(section: Section) -> None:
    # Only passed on, but what is no list of objects cannot be written in another version.
    for path, item in section.items("routes"):
        Section(item, path)
    section.section("dns")


def _check_name(name: str, field: str) -> None:
    try:
        interface_name(name, field)
    except InvalidValueError as error:
        raise ConfigError(error.field, error.reason) from None


def _address(entry: Section, interfaces: int) -> tuple[Address, int | None]:
    text = entry.text("address")
    interface = _parse_interface(text)
    if interface is None:
        raise ConfigError(entry.at("address"), f"{text[:64]!r} is not an address with its prefix length")
    gateway = entry.text("gateway")
    if gateway:
        try:
            ip_address(gateway)
        except ValueError:
            raise ConfigError(entry.at("gateway"), f"{gateway[:64]!r} is not an IP address") from None
    owner = entry.integer("interface")
    if owner is not None and not 0 <= owner < interfaces:
        raise ConfigError(entry.at("interface"), f"there is no such entry among {interfaces} interfaces")
    return interface.ip, owner


def _check_own(address: Address, field: str) -> None:
    kind = many_machines(address)
    if address.is_unspecified:
        kind = "the unspecified address"
    elif address.is_loopback:
        kind = "a loopback address"
    if kind:
        raise ConfigError(field, f"{address} is {kind}, which no port can lead to")


def _parse_interface(text: str) -> IPv4Interface | IPv6Interface | None:
    if "/" not in text or "%" in text:
        return None
    try:
        return ip_interface(text)
    except ValueError:
        return None


def _converted_address(item: Json, version: str) -> Json:
    converted = _without(item, {"version"})
    if version not in _IPS_CARRY_VERSION or not isinstance(converted, dict):
        return converted
    interface = _parse_interface(str(converted.get("address")))
    return {"version": str(interface.version) if interface else "", **converted}


def _without(item: Json, names: set[str]) -> Json:
    if not isinstance(item, dict):
        return item
    return {name: value for name, value in item.items() if name not in names}


def _list(result: JsonObject, name: str) -> list[Json]:
    value = result.get(name)
    return value if isinstance(value, list) else []
