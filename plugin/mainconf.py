"""The configuration of the main plugin, ``bridge`` and ``dataplane-bridge``: what it says about bridge and interface.

    main = parse("dataplane-bridge", conf, invocation)
    main.net        name, version, policies, ports: as every plugin of ours has them (plugin/dropins.py)
    main.wire       bridge, VLANs, MAC: what control/wiring makes
    main.dns        to be passed on to the runtime

The keys are those of containernetworking's bridge plugin, and so are their defaults. The MAC comes from CNI_ARGS (MAC),
``args.cni.mac`` or ``runtimeConfig.mac``, the last of these that is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from control.model import AttachmentKey, InvalidValueError, interface_name
from control.wiring.wire import BridgeOptions, Wire
from plugin import dropins
from plugin.config import NetConf
from plugin.environment import Invocation, arguments
from plugin.errors import ConfigError
from plugin.jsontext import JsonObject, Section

_DEFAULT = BridgeOptions()
_MAX_VLAN = 4094
_MTUS = range(68, 65536)
"""What IPv4 needs at least (RFC 791), and what a veth takes at most."""
_MAC = re.compile(r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}|(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}")
"""The ways to write one that Go reads."""
_MULTICAST = 0x01
_DNS = ("nameservers", "search", "options", "domain")


@dataclass(frozen=True, slots=True)
class MainConf:
    """A whole configuration, for one attachment."""

    net: NetConf
    wire: Wire
    dns: JsonObject
    """Empty where the configuration has none, and IPAM's counts."""


def parse(plugin: str, conf: JsonObject, invocation: Invocation) -> MainConf:
    """Read everything. Raises ``CniError`` that names the first field that cannot be served."""
    net = dropins.read(plugin, conf)
    section = Section(conf, fold=plugin == "bridge")
    key = AttachmentKey(net.name, invocation.container, invocation.ifname, plugin)
    return MainConf(net, Wire(key, bridge_options(section), _mac(section, invocation)), _dns(section))


def bridge_options(section: Section) -> BridgeOptions:
    """The keys of the bridge plugin. Raises ``ConfigError``."""
    is_default_gateway = section.boolean("isDefaultGateway", default=False)
    options = BridgeOptions(
        bridge=_bridge(section),
        is_gateway=section.boolean("isGateway", default=False) or is_default_gateway,
        is_default_gateway=is_default_gateway,
        force_address=section.boolean("forceAddress", default=False),
        mtu=_mtu(section),
        hairpin=section.boolean("hairpinMode", default=False),
        promiscuous=section.boolean("promiscMode", default=False),
        vlan=_vlan(section, "vlan") or 0,
        trunk=tuple(_trunk(section)),
        preserve_default_vlan=section.boolean("preserveDefaultVlan", default=True),
        port_isolation=section.boolean("portIsolation", default=False),
        detect_duplicates=section.boolean("enabledad", default=False),
        container_up=not section.boolean("disableContainerInterface", default=False),
    )
    if options.hairpin and options.promiscuous:
        raise ConfigError("promiscMode", "cannot be set together with hairpinMode: choose one of them")
    if options.vlan and options.trunk:
        raise ConfigError("vlanTrunk", "cannot be set together with vlan: a port is of one VLAN, or a trunk")
    if options.vlan and options.is_gateway:
        _check_gateway_name(options)
    if not options.container_up and section.section("ipam").text("type"):
        raise ConfigError("ipam", "gives addresses, and disableContainerInterface leaves the interface down: drop one")
    return options


def _check_gateway_name(options: BridgeOptions) -> None:
    name = f"{options.bridge}.{options.vlan}"
    try:
        interface_name(name, "bridge")
    except InvalidValueError:
        raise ConfigError("bridge", f"the gateway of VLAN {options.vlan} would be {name!r}: too long a name") from None


def _bridge(section: Section) -> str:
    try:
        return interface_name(section.text("bridge") or _DEFAULT.bridge, "bridge")
    except InvalidValueError as error:
        raise ConfigError(error.field, error.reason) from None


def _mtu(section: Section) -> int:
    mtu = section.integer("mtu") or 0
    if mtu and mtu not in _MTUS:
        raise ConfigError(section.at("mtu"), f"{mtu} is not a size of packets ({_MTUS[0]} to {_MTUS[-1]})")
    return mtu


def _vlan(section: Section, name: str) -> int | None:
    vlan = section.integer(name)
    if vlan is not None and not 0 <= vlan <= _MAX_VLAN:
        raise ConfigError(section.at(name), f"{vlan} is not a VLAN (1 to {_MAX_VLAN})")
    return vlan


def _trunk(section: Section) -> Iterator[tuple[int, int]]:
    for path, item in section.items("vlanTrunk"):
        entry = Section(item, path, fold=True)
        single, first, last = (_vlan(entry, name) for name in ("id", "minID", "maxID"))
        if 0 in {single, first, last}:
            raise ConfigError(path, f"0 is not a VLAN (1 to {_MAX_VLAN})")
        if (first is None) != (last is None):
            raise ConfigError(path, "minID and maxID need each other")
        if first is not None and last is not None:
            if last < first:
                raise ConfigError(path, f"maxID {last} is less than minID {first}")
            yield first, last
        if single is not None:
            yield single, single


def _mac(section: Section, invocation: Invocation) -> str:
    asked = {
        "CNI_ARGS: MAC": arguments(invocation.args).get("MAC", "") if "MAC=" in invocation.args else "",
        "args.cni.mac": section.section("args").section("cni", fold=True).text("mac"),
        "runtimeConfig.mac": section.section("runtimeConfig", fold=True).text("mac"),
    }
    field, text = next(((name, mac) for name, mac in reversed(asked.items()) if mac), ("", ""))
    if not text:
        return ""
    if not _MAC.fullmatch(text.lower()):
        raise ConfigError(field, f"{text[:64]!r} is not a MAC address such as 02:00:5e:00:53:01")
    octets = bytes.fromhex(re.sub("[:.-]", "", text))
    if octets[0] & _MULTICAST:
        raise ConfigError(field, f"{text} is a multicast address, which no interface can have")
    if not any(octets):
        raise ConfigError(field, f"{text} is no interface's address")
    return octets.hex(":")


def _dns(section: Section) -> JsonObject:
    dns = section.section("dns")
    for name in _DNS[:3]:
        dns.texts(name)
    dns.text("domain")
    found = {name: dns.raw(name) for name in _DNS}
    return {name: value for name, value in found.items() if value}
