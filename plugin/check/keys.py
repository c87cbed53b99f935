"""What each key of each plugin type does here, as data: for ``dpctl config check`` and docs/compatibility.md.

    TYPES["portmap"].key("markmasqbit")   -> Key("markMasqBit", Effect.IGNORED, "what is masqueraded is ...")
    COMMON                                -> keys that every type has
    HOST_LOCAL                            -> keys of ``ipam``

A path with a dot is a key of that object; ``CNI_ARGS NAME`` is no key but what the runtime may pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from plugin.dropins import NAT_NAMES


class Effect(StrEnum):
    """How a key's effect here compares with the plugin's that has it."""

    SAME = "same"
    BETTER = "better"
    PARTLY = "partly"  # not all that the plugin does; the text says what
    OURS = "ours"  # a key that the plugin does not have
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its name as it is spelt, its effect and a sentence on it."""

    name: str
    effect: Effect
    text: str


@dataclass(frozen=True, slots=True)
class PluginType:
    """A plugin type that we answer to."""

    name: str
    origin: str
    keys: tuple[Key, ...]
    main: bool = False
    """It makes the interface, and is the first of a chain."""
    publishes: bool = False
    """It publishes ports, if the conflist declares the capability."""

    def key(self, name: str) -> Key | None:
        """The key by this name, in any letter case."""
        return next((one for one in (*self.keys, *COMMON) if one.name.lower() == name.lower()), None)


_SAME, _BETTER, _PARTLY = Effect.SAME, Effect.BETTER, Effect.PARTLY
_OURS, _IGNORED, _REFUSED = Effect.OURS, Effect.IGNORED, Effect.REFUSED

_VLAN = "needs a kernel with CONFIG_BRIDGE_VLAN_FILTERING, which the error names"

COMMON = (
    Key(
        "cniVersion",
        _BETTER,
        "0.1.0 to 1.1.0 for every type; firewall began at 0.4.0, and greenpau's know no other",
    ),
    Key("name", _SAME, "of the network; state, leases and comments in nftables carry it"),
    Key("type", _SAME, "the executable's name, which is what its behaviour goes by"),
    Key("capabilities", _SAME, "what the runtime hands over; without portMappings it keeps -p to itself"),
    Key("runtimeConfig", _SAME, "put there by the runtime, of the capabilities that are declared"),
    Key("args", _SAME, "bridge reads args.cni.mac, host-local args.cni.ips; the rest is others'"),
    Key("prevResult", _SAME, "put there by the runtime; chained types need it for ADD and CHECK, and never for DEL"),
)

_PORTS = Key(
    "runtimeConfig.portMappings", _BETTER,
    "one map element a port, or a range; a port that is taken is an error naming its holder; a host address beats all",
)  # fmt: skip
_CHECKSUM = Key(
    "checksum", _OURS,
    "off, observe, repair (L4 checksums that NAT left stale on the way to it) or fill (and DHCP's that are partial)",
)  # fmt: skip
_FORWARD_CHAINS = Key("forwardChains", _OURS, "foreign chains that drop what they do not know, and need our accept")
_SNAT = Key("snat", _BETTER, "localhost and hairpin, of self and neighbours; only connections that NAT rewrote")
_MASQ_ALL = Key("masqAll", _SAME, "masquerades every connection to a published port")
_MARK_BIT = Key("markMasqBit", _IGNORED, "what is masqueraded is told by conntrack, not by a mark; 0 to 31 as upstream")
_MARK_CHAIN = Key("externalSetMarkChain", _IGNORED, "no chain is called to mark what is to be masqueraded")
_CONDITIONS = tuple(
    Key(
        f"conditionsV{version}", _PARTLY,
        "nft's or iptables' matches of addresses, devices and marks, per network; any other is refused by name",
    )
    for version in (4, 6)
)  # fmt: skip

BRIDGE_KEYS = (
    Key("bridge", _SAME, "name of the bridge; cni0 where it is missing"),
    Key("isGateway", _SAME, "the bridge gets the gateway's address, and forwarding is turned on"),
    Key("isDefaultGateway", _SAME, "isGateway, and a default route in the container"),
    Key("forceAddress", _SAME, "replaces another address that the bridge has, in place of an error"),
    Key("ipMasq", _BETTER, "one set element an address in place of rules; gone with the attachment in any case"),
    Key("ipMasqBackend", _IGNORED, "masquerade is nftables' here; iptables or nftables is accepted"),
    Key("mtu", _SAME, "of bridge and veth"),
    Key("hairpinMode", _SAME, "of the bridge's port; a published port turns it on by itself where it needs it"),
    Key("promiscMode", _SAME, "of the bridge; not together with hairpinMode"),
    Key("vlan", _SAME, f"0 to 4094, not together with vlanTrunk; {_VLAN}"),
    Key("vlanTrunk", _SAME, f"tags by id, or minID and maxID; {_VLAN}"),
    Key("preserveDefaultVlan", _SAME, f"keeps VLAN 1 on the port; {_VLAN}"),
    Key("macspoofchk", _BETTER, "frames by another MAC are dropped: guard mac, where guard does not say full"),
    Key("portIsolation", _SAME, "ports of the bridge do not reach each other"),
    Key("enabledad", _SAME, "waits for duplicate address detection"),
    Key("disableContainerInterface", _SAME, "the container's interface stays down; not together with ipam"),
    Key("ipam", _SAME, "host-local in process, in its own files; any other type by its executable"),
    Key("dns", _SAME, "passed on in the result"),
    Key("runtimeConfig.mac", _SAME, "the container's MAC address; beats the two below"),
    Key("args.cni.mac", _SAME, "as above; beats the one below"),
    Key("CNI_ARGS MAC", _SAME, "as above"),
)

HOST_LOCAL = PluginType(
    "host-local",
    "containernetworking/plugins",
    (
        Key("type", _SAME, "host-local, served in process by bridge and dataplane-bridge"),
        Key("subnet", _SAME, "a range in the short form"),
        Key("rangeStart", _SAME, "first address of the short form"),
        Key("rangeEnd", _SAME, "last address of the short form"),
        Key("gateway", _SAME, "gateway of the short form; the first address where it is missing"),
        Key("ranges", _SAME, "sets of ranges, an address of each set; dual stack by one set a family"),
        Key("routes", _SAME, "passed on, with all that CNI 1.1 knows of a route"),
        Key("dataDir", _SAME, "same files, same lock: leases stay valid when one changes over, either way"),
        Key("rangeFromFile", _SAME, "a file with a range, read where no other is given"),
        Key("resolvConf", _SAME, "a file that dns is read from"),
        Key("runtimeConfig.ips", _SAME, "requested addresses"),
        Key("runtimeConfig.ipRanges", _SAME, "ranges before those of the file"),
        Key("args.cni.ips", _SAME, "requested addresses"),
        Key("CNI_ARGS IP", _SAME, "a requested address"),
    ),
)

OWN_KEYS = (
    _PORTS,
    Key("snat", _OURS, "default true: masquerade hairpin and localhost connections to published ports"),
    Key("masqAll", _OURS, "masquerade every connection to a published port"),
    Key("ipMasq", _OURS, "masquerade what containers send out of their network"),
    Key("ingressPolicy", _OURS, "open, same-bridge or isolated: who may reach containers directly"),
    _CHECKSUM,
    Key("fillPorts", _OURS, "UDP ports whose partial sums checksum fill completes; 68 and 546 where it is missing"),
    Key("guard", _OURS, "off, mac or full: nothing by other MACs or addresses than its own, no router, no DHCP server"),
    Key("conditionsV4", _OURS, "what an IPv4 connection to a published port must match besides"),
    Key("conditionsV6", _OURS, "what an IPv6 connection to a published port must match besides"),
    _FORWARD_CHAINS,
    Key("adminChain", _OURS, "a chain of inet dataplane_admin for rules of your own; what is forwarded enters it"),
    Key("firewalldZone", _OURS, "zone of firewalld for the containers' addresses, while firewalld runs"),
)
_MOVED_KEYS = (
    Key("backend", _IGNORED, "of portmap: always nftables here"),
    Key("markMasqBit", _IGNORED, "of portmap: what is masqueraded is told by conntrack, not by a mark"),
    Key("externalSetMarkChain", _REFUSED, "of portmap: a chain of iptables; type portmap ignores it instead"),
)
_BRIDGE_NAMES = {key.name for key in BRIDGE_KEYS}

TYPES: Mapping[str, PluginType] = {
    one.name: one
    for one in (
        PluginType("dataplane", "this project", (*OWN_KEYS, *_MOVED_KEYS), publishes=True),
        PluginType(
            "dataplane-bridge",
            "this project",
            (*BRIDGE_KEYS, *(key for key in (*OWN_KEYS, *_MOVED_KEYS) if key.name not in _BRIDGE_NAMES)),
            main=True,
            publishes=True,
        ),
        PluginType(
            "bridge",
            "containernetworking/plugins",
            (*BRIDGE_KEYS, *(Key(key.name, _OURS, key.text) for key in OWN_KEYS if key.name not in _BRIDGE_NAMES)),
            main=True,
            publishes=True,
        ),
        HOST_LOCAL,
        PluginType(
            "portmap",
            "containernetworking/plugins",
            (
                _PORTS,
                Key("backend", _IGNORED, "always nftables; iptables or nftables is accepted, anything else refused"),
                _SNAT, _MASQ_ALL, _MARK_BIT, _MARK_CHAIN, *_CONDITIONS, _CHECKSUM,
            ),
            publishes=True,
        ),
        PluginType(
            "firewall",
            "containernetworking/plugins",
            (
                Key("backend", _IGNORED, "always nftables; decides whether admin chain, zone or both are meant"),
                Key(
                    "ingressPolicy", _BETTER,
                    "published ports stay reachable, no br_netfilter is needed, and nothing is left behind",
                ),
                Key("firewalldZone", _SAME, "default trusted; where firewalld runs, unless backend is another"),
                Key(
                    "iptablesAdminChainName", _PARTLY,
                    "default CNI-ADMIN: a chain by this name in inet dataplane_admin, filled by nft, not by iptables",
                ),
                _CHECKSUM, _FORWARD_CHAINS,
            ),
        ),
        PluginType("isolation", "AkihiroSuda/cni-isolation", ()),
        PluginType(
            "cni-nftables-portmap",
            "greenpau/cni-plugins",
            (
                _PORTS,
                Key("snat", _BETTER, "works, hairpin and localhost included; there it is read and has no effect"),
                *(
                    Key(f"conditionsV{version}", _BETTER, "apply, as portmap's do; there they are read and ignored")
                    for version in (4, 6)
                ),
                _MARK_BIT, _MARK_CHAIN,
                *(Key(name, _IGNORED, "our rules are in a table of our own, inet dataplane") for name in NAT_NAMES),
                Key("ipMasq", _OURS, "default true: IPv4, as there, and IPv6; false where bridge's does it"),
                Key("masqAll", _OURS, "masquerades every connection to a published port"),
                _CHECKSUM,
            ),
            publishes=True,
        ),
        PluginType(
            "cni-nftables-firewall",
            "greenpau/cni-plugins",
            (
                Key("filter_table_name", _PARTLY, "default filter: tables ip and ip6 by this name, if there are any"),
                Key(
                    "forward_chain_name", _PARTLY,
                    "default forward: gets our accept where it exists; there it is created, with policy drop",
                ),
                _CHECKSUM,
            ),
        ),
    )
}  # fmt: skip
"""Types that we answer to, by name."""

OWN_TYPES = frozenset({"dataplane", "dataplane-bridge"})

FOREIGN_MAIN = frozenset(
    {"ptp", "macvlan", "ipvlan", "host-device", "vlan", "loopback", "dummy", "tap", "win-bridge", "win-overlay"}
)
"""Main plugins of others: what makes an interface, and must be the first of a chain."""
