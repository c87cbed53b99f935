"""The configurations of the plugin types that we answer to, each read as that plugin reads it.

    conf = read("portmap", parse_object(stdin))       # the same NetConf as of our own type
    conf.options, conf.mappings, conf.notes

    type                        of                          policy        checksum   guard  ports  masquerade
    dataplane, dataplane-bridge us, see plugin/config.py    same-bridge   repair     full   yes    ipMasq
    bridge                      containernetworking         open          off        off    yes    ipMasq
    portmap                     containernetworking         open          repair     off    yes    no
    firewall                    containernetworking         ingressPolicy off        off    no     no
    isolation                   AkihiroSuda/cni-isolation   same-bridge   off        off    no     no
    cni-nftables-portmap        greenpau/cni-plugins        open          repair     off    yes    ipMasq, which is true
    cni-nftables-firewall       greenpau/cni-plugins        open          off        off    no     no

What is open to a part of a chain is closed all the same if another part closes it. ``macspoofchk`` of bridge and
dataplane-bridge is guard ``mac``, unless ``guard`` says more: with bridge alone it is the whole guard, dataplane-bridge
is as strict without it, and with guard ``off`` it is what remains. Of ``bridge`` only what a network is
told to do is read here; what the link is made of is the main plugin's.

Be aware: types of others are read as Go reads them, keys in any letter case and unknown ones ignored. Known ones that
have nothing to act on here are ignored with a note, and what the type itself refuses is refused. Two keys are ours and
work in theirs, too: ``checksum`` (all but isolation), and ``forwardChains`` in bridge and firewall.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum

from control.model import (
    ChecksumPolicy,
    ForeignChain,
    GuardPolicy,
    IngressPolicy,
    InvalidValueError,
    Options,
    chain_name,
)
from plugin.config import (
    IGNORED,
    Header,
    NetConf,
    admin_chain,
    choice,
    conditions,
    firewalld_zone,
    forward_chains,
    net_conf,
    notes,
    options,
    parse,
    parse_header,
)
from plugin.errors import ConfigError
from plugin.jsontext import JsonObject, Section

UPSTREAM = Options(ingress_policy=IngressPolicy.OPEN, checksum=ChecksumPolicy.OFF, guard=GuardPolicy.OFF)
"""What a plugin of others does that was told nothing: no isolation, sums as they come, frames as they are sent."""

DEFAULT_ADMIN_CHAIN = "CNI-ADMIN"
DEFAULT_ZONE = "trusted"

NAT_NAMES = (
    "nat_table_name", "postrouting_nat_chain_name", "prerouting_nat_chain_name", "output_nat_chain_name",
    "input_nat_chain_name", "raw_table_name", "prerouting_raw_chain_name",
)  # fmt: skip
"""Names of the tables and chains that cni-nftables-portmap works in."""

BRIDGE_NAMES = (
    "bridge", "isGateway", "isDefaultGateway", "forceAddress", "ipMasq", "ipMasqBackend", "mtu", "hairpinMode",
    "promiscMode", "vlan", "vlanTrunk", "preserveDefaultVlan", "macspoofchk", "portIsolation", "enabledad",
    "disableContainerInterface", "ipam", "dns",
)  # fmt: skip
"""Keys of bridge; what the link is made of is read by plugin/mainconf.py."""

_IGNORED_BY_BRIDGE = {**IGNORED, "ipMasqBackend": "this plugin always works by nftables"}
_MARK_CHAIN = "hairpin and localhost connections are told by conntrack; no chain is called to mark them"
_MARK_BITS = 32


class Backend(StrEnum):
    """What a plugin of containernetworking's may be told to work by; here it is nftables whatever is named."""

    ANY = ""
    IPTABLES = "iptables"
    NFTABLES = "nftables"


def read(plugin: str, conf: JsonObject) -> NetConf:
    """Read the configuration of a plugin of one of these types. Raises ``CniError`` that names the first bad field."""
    if reader := _READERS.get(plugin):
        return reader(parse_header(conf), Section(conf, fold=True))
    return _own_bridge(conf) if plugin == "dataplane-bridge" else parse(conf)


def _own_bridge(conf: JsonObject) -> NetConf:
    parsed, section = parse(conf, BRIDGE_NAMES), Section(conf)
    choice(section, "ipMasqBackend", Backend, Backend.ANY)
    return replace(parsed, options=_spoof_checked(section, parsed.options), notes=notes(section, _IGNORED_BY_BRIDGE))


def _spoof_checked(section: Section, chosen: Options) -> Options:
    checked = section.boolean("macspoofchk", default=False)
    return replace(chosen, guard=GuardPolicy.MAC) if checked and chosen.guard is GuardPolicy.OFF else chosen


def _bridge(header: Header, section: Section) -> NetConf:
    choice(section, "ipMasqBackend", Backend, Backend.ANY)
    chosen = _spoof_checked(section, options(section, UPSTREAM))
    return net_conf(header, section, chosen, notes(section, _IGNORED_BY_BRIDGE))


def _portmap(header: Header, section: Section) -> NetConf:
    backend = choice(section, "backend", Backend, Backend.ANY)
    if backend is Backend.NFTABLES and section.raw("externalSetMarkChain") is not None:
        raise ConfigError("externalSetMarkChain", "backend nftables has no such chain; remove one of the two keys")
    return net_conf(
        header,
        section,
        _publishing(section, ip_masq=False),
        notes(section, {**IGNORED, "externalSetMarkChain": _MARK_CHAIN}),
    )


def _nftables_portmap(header: Header, section: Section) -> NetConf:
    for name in NAT_NAMES:
        section.text(name)
    own_table = "published ports and masquerade are in a table of our own, which is never filtered by others' rules"
    ignored = {
        "markMasqBit": IGNORED["markMasqBit"],
        "externalSetMarkChain": _MARK_CHAIN,
        **dict.fromkeys(NAT_NAMES, own_table),
    }
    chosen = _publishing(section, ip_masq=section.boolean("ipMasq", default=True))
    return net_conf(header, section, chosen, notes(section, ignored))


def _publishing(section: Section, *, ip_masq: bool) -> Options:
    _check_mark(section)
    return replace(
        UPSTREAM,
        snat=section.boolean("snat", default=True),
        masq_all=section.boolean("masqAll", default=False),
        ip_masq=ip_masq,
        checksum=_checksum(section, ChecksumPolicy.REPAIR),
        conditions4=conditions(section, 4),
        conditions6=conditions(section, 6),
    )


def _check_mark(section: Section) -> None:
    bit = section.integer("markMasqBit")
    section.text("externalSetMarkChain")
    if bit is None:
        return
    if section.raw("externalSetMarkChain") is not None:
        raise ConfigError("markMasqBit", "cannot be given together with externalSetMarkChain; remove one of the two")
    if not 0 <= bit < _MARK_BITS:
        raise ConfigError("markMasqBit", f"{bit if abs(bit) < 10**9 else 'it'} is not a bit (0 to {_MARK_BITS - 1})")


def _firewall(header: Header, section: Section) -> NetConf:
    backend = section.text("backend")
    policy = choice(section, "ingressPolicy", _PolicyOrNone, _PolicyOrNone.NONE)
    ingress_policy = IngressPolicy(policy or IngressPolicy.OPEN)
    if ingress_policy is not IngressPolicy.OPEN:
        _check_bridge(section, f"ingressPolicy {ingress_policy}")
    zone = firewalld_zone(section, "firewalldZone", DEFAULT_ZONE)
    chain = admin_chain(section, "iptablesAdminChainName", DEFAULT_ADMIN_CHAIN)
    ignored: dict[str, str] = {}
    if backend:
        ignored["backend"] = IGNORED["backend"]
    # Which of the two would have acted is the backend's choice; where none is named, it depends on what runs.
    if backend == "firewalld":
        chain = ""
        ignored["iptablesAdminChainName"] = "backend firewalld has no such chain"
    elif backend in {Backend.IPTABLES, Backend.NFTABLES}:
        zone = ""
        ignored["firewalldZone"] = f"backend {backend} has no zones"
    chosen = replace(
        UPSTREAM,
        ingress_policy=ingress_policy,
        checksum=_checksum(section, ChecksumPolicy.OFF),
        forward_chains=forward_chains(section),
        admin_chain=chain,
        firewalld_zone=zone,
    )
    return net_conf(header, section, chosen, notes(section, ignored))


def _isolation(header: Header, section: Section) -> NetConf:
    _check_bridge(section, "isolation")
    chosen = replace(UPSTREAM, ingress_policy=IngressPolicy.SAME_BRIDGE)
    return net_conf(header, section, chosen, ())


def _nftables_firewall(header: Header, section: Section) -> NetConf:
    table, chain = (
        _nft_name(section, "filter_table_name", "filter"),
        _nft_name(section, "forward_chain_name", "forward"),
    )
    accepts = tuple(ForeignChain(family, table, chain, optional=True) for family in ("ip", "ip6"))
    chosen = replace(UPSTREAM, checksum=_checksum(section, ChecksumPolicy.OFF), forward_chains=accepts)
    return net_conf(header, section, chosen, ())


class _PolicyOrNone(StrEnum):
    NONE = ""
    OPEN = IngressPolicy.OPEN
    SAME_BRIDGE = IngressPolicy.SAME_BRIDGE
    ISOLATED = IngressPolicy.ISOLATED


def _nft_name(section: Section, name: str, default: str) -> str:
    try:
        return chain_name(section.text(name) or default, section.at(name))
    except InvalidValueError as error:
        raise ConfigError(error.field, error.reason) from None


def _checksum(section: Section, default: ChecksumPolicy) -> ChecksumPolicy:
    return choice(section, "checksum", ChecksumPolicy, default)


def _check_bridge(section: Section, what: str) -> None:
    """Refuse a prevResult that does not begin with a bridge: it is the bridge that is isolated."""
    if section.raw("prevResult") is None:
        return
    previous = section.section("prevResult")
    first = next(iter(previous.items("interfaces")), None)
    if first is None:
        raise ConfigError(previous.at("interfaces"), f'is empty, and {what} needs a bridge; chain it after "bridge"')
    path, item = first
    interface = Section(item, path)
    if not interface.text("name"):
        raise ConfigError(interface.at("name"), f"is missing, and {what} needs the bridge's name")
    if interface.text("sandbox"):
        raise ConfigError(path, f'is in the container, and {what} needs a bridge; chain it after "bridge"')


_READERS: Mapping[str, Callable[[Header, Section], NetConf]] = {
    "bridge": _bridge,
    "portmap": _portmap,
    "firewall": _firewall,
    "isolation": _isolation,
    "cni-nftables-portmap": _nftables_portmap,
    "cni-nftables-firewall": _nftables_firewall,
}
"""Types of others. All the rest is read as our own."""
