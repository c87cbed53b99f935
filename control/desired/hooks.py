"""From attachments to BPF: which programs belong on which link, and what their maps must hold for them.

isolation and checksum sit on container-facing devices (a bridge, or the host veth of a routed network), once per
device; guard and fill on each container's host veth. What they decide by:

    networks                   device -> network, policy, mode
    settings                   mark of published traffic
    origins, published         container port -> where its traffic was sent before our DNAT; and the other way
    containers                 addresses of containers, by what they add to a checksum
    ports, port_addresses      host veth -> what its container may send
    fill_ports                 network and UDP port -> partial sums are completed
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from control.desired.ruleset import PLAIN, Group, Variant, group_of, targets
from control.model import Attachment, ChecksumPolicy, ForeignChain, GuardPolicy, IngressPolicy, PortMapping
from dataplane import abi
from dataplane.abi import (
    MANUAL_NETWORK,
    MAX_ORIGIN_SLOTS,
    NO_ADDRESS,
    ORIGIN,
    ORIGIN_KEY,
    PUBLISHED_KEY,
    TARGET,
    U32,
    HostSettings,
    NetworkEntry,
    Port,
    pack_address,
    pack_port,
)
from dataplane.types import (
    DATAGRAM_PROGRAMS,
    LOCALHOST_PROGRAMS,
    Address,
    ChecksumMode,
    GuardLevel,
    IfIndex,
    IsolationPolicy,
    Program,
    Protocol,
)

Entries = Mapping[tuple[str, bytes], bytes]
"""(map, key) -> value."""

POLICIES = {
    IngressPolicy.OPEN: IsolationPolicy.OPEN,
    IngressPolicy.SAME_BRIDGE: IsolationPolicy.SAME_BRIDGE,
    IngressPolicy.ISOLATED: IsolationPolicy.ISOLATED,
}
MODES = {
    ChecksumPolicy.OFF: ChecksumMode.OFF,
    ChecksumPolicy.OBSERVE: ChecksumMode.OBSERVE,
    ChecksumPolicy.REPAIR: ChecksumMode.REPAIR,
    ChecksumPolicy.FILL: ChecksumMode.FILL,
}
GUARDS = {
    GuardPolicy.OFF: GuardLevel.OFF,
    GuardPolicy.MAC: GuardLevel.MAC,
    GuardPolicy.FULL: GuardLevel.FULL,
}

CONTAINER_MAPS = frozenset({"containers", "origins", "published"})
"""The maps that are about containers and their ports, as the programs on networks' devices know them."""
PORT_MAPS = frozenset({"ports", "port_addresses"})
"""The maps that are about single host veths."""

_PRESENT = U32.pack(1)
"""The value of an entry that is a member of a set."""
_ELSEWHERE = U32.pack(2)
"""That of an address of the container that another interface of it has."""
_EVERY_IPV4 = pack_address(IPv4Address("0.0.0.0"))


@dataclass(frozen=True, slots=True)
class HostWide:
    """What holds for all networks of this host."""

    mark: int
    """Mark bit of published traffic."""
    cookie: int = 0
    """Of the host's network namespace, where its processes reach published ports by programs of the cgroups' root; 0
    where they do not."""
    localnet: bool = True
    """Whether they do by nftables instead, which needs route_localnet."""

    @property
    def localhost(self) -> str:
        """By which means they do, in one word."""
        return "cgroups" if self.cookie else "nft" if self.localnet else "off"

    @property
    def variant(self) -> Variant:
        """Which skeleton of our table belongs to that."""
        return Variant(self.mark, localnet=self.localnet and not self.cookie)


@dataclass(frozen=True, slots=True)
class Use:
    """What one or more attachments ask of a device; attachments of one network usually ask the same."""

    device: IfIndex
    device_name: str
    network: str
    policy: IngressPolicy
    checksum: ChecksumPolicy
    fill_ports: tuple[int, ...]
    masquerades: bool
    localhost: tuple[int, ...]
    """IP versions of the containers' addresses whose published ports are to answer on loopback addresses."""
    datagrams: bool
    """UDP ports are among them."""
    forwards4: bool
    forwards6: bool
    """The host must forward packets of that family."""
    groups: tuple[Group, ...]
    """Condition groups, without the skeleton's own."""
    forward_chains: tuple[ForeignChain, ...]
    admin_chain: str
    guarded: bool
    """What containers send is looked at, on their own host veths; nothing is where these are not known."""


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What the state keeps about a network: its number, and an operator's word against its conflist's."""

    id: int
    checksum: ChecksumPolicy | None = None


def use_of(attachment: Attachment) -> Use:
    """What an attachment asks of its device."""
    request, options = attachment.request, attachment.options
    versions = {address.version for address in request.addresses}
    reached = bool(request.mappings) or options.ip_masq
    published = [address.version for address in targets(attachment) if attachment.published(address.version)]
    groups = {group_of(attachment, version) for version in published}
    return Use(
        device=attachment.device.index,
        device_name=attachment.device.name,
        network=attachment.key.network,
        policy=options.ingress_policy,
        checksum=options.checksum,
        fill_ports=options.fill_ports,
        masquerades=options.ip_masq,
        localhost=tuple(sorted(published)) if options.snat else (),
        datagrams=options.snat and any(one.protocol is Protocol.UDP for one in request.mappings),
        forwards4=reached and 4 in versions,
        forwards6=reached and 6 in versions,
        groups=tuple(sorted(groups - set(PLAIN), key=lambda group: (group.version, group.suffix))),
        forward_chains=options.forward_chains,
        admin_chain=options.admin_chain,
        guarded=options.guard is not GuardPolicy.OFF and bool(port_of(attachment)),
    )


def programs(uses: Iterable[Use], facts: Mapping[str, NetworkFacts]) -> frozenset[tuple[Program, IfIndex]]:
    """Which programs belong on which device."""
    wanted: set[tuple[Program, IfIndex]] = set()
    for use in uses:
        if use.policy is not IngressPolicy.OPEN:
            wanted.add((Program.ISOLATION, use.device))
        if mode_of(use, facts) is not ChecksumMode.OFF:
            wanted.add((Program.CHECKSUM, use.device))
    return frozenset(wanted)


def localhost_programs(uses: Iterable[Use], host: HostWide) -> frozenset[Program]:
    """Which programs belong on the root of the cgroups: nobody's datagrams wait for programs that lead TCP alone."""
    reached = [use for use in uses if host.cookie and use.localhost]
    if not reached:
        return frozenset()
    wanted = frozenset(LOCALHOST_PROGRAMS)
    return wanted if any(use.datagrams for use in reached) else wanted - DATAGRAM_PROGRAMS


def needs_programs(uses: Iterable[Use], facts: Mapping[str, NetworkFacts]) -> bool:
    """Whether any program belongs anywhere, a device or a container's host veth."""
    uses = tuple(uses)
    return any(use.guarded for use in uses) or bool(programs(uses, facts))


def port_of(attachment: Attachment) -> IfIndex:
    """The container's host veth; 0 where there is none that is known."""
    device = attachment.device
    return device.index if device.routed else device.port


def level_of(attachment: Attachment) -> GuardLevel:
    """What the guard asks of an attachment. Where no address is known (a network of layer 2), none can be wrong."""
    level = GUARDS[attachment.options.guard]
    return level if attachment.request.addresses else min(level, GuardLevel.MAC)


def port_programs(
    attachments: Iterable[Attachment], facts: Mapping[str, NetworkFacts]
) -> frozenset[tuple[Program, IfIndex]]:
    """Which programs belong on which host veth."""
    wanted: set[tuple[Program, IfIndex]] = set()
    for one in attachments:
        if not port_of(one):
            continue
        if one.options.guard is not GuardPolicy.OFF:
            wanted.add((Program.GUARD, port_of(one)))
        if mode_for(one, facts) is ChecksumMode.FILL:
            wanted.add((Program.FILL, port_of(one)))
    return frozenset(wanted)


def device_entries(
    uses: Iterable[Use], facts: Mapping[str, NetworkFacts], host: HostWide
) -> dict[tuple[str, bytes], bytes]:
    """``networks``, ``fill_ports`` and ``settings``. Where two networks share a device, the stricter policy and mode
    hold for both."""
    uses = tuple(uses)
    devices: dict[IfIndex, NetworkEntry] = {}
    for use in uses:
        entry = NetworkEntry(facts[use.network].id, POLICIES[use.policy], mode_of(use, facts), use.masquerades)
        other = devices.get(use.device, entry)
        devices[use.device] = NetworkEntry(
            id=min(entry.id, other.id),
            policy=max(entry.policy, other.policy),
            checksum=max(entry.checksum, other.checksum),
            masquerades=entry.masquerades or other.masquerades,
        )
    active = {
        device: entry
        for device, entry in devices.items()
        if entry.policy is not IsolationPolicy.OPEN or entry.checksum is not ChecksumMode.OFF
    }
    entries = {("networks", U32.pack(device)): entry.pack() for device, entry in active.items()}
    entries |= fill_entries(uses, facts)
    if entries or (host.cookie and any(use.localhost for use in uses)):
        entries["settings", U32.pack(0)] = HostSettings(host.mark, host.cookie).pack()
    return entries


def fill_entries(uses: Iterable[Use], facts: Mapping[str, NetworkFacts]) -> dict[tuple[str, bytes], bytes]:
    """``fill_ports``."""
    return {
        ("fill_ports", abi.fill_key(facts[use.network].id, port)): _PRESENT
        for use in uses
        if mode_of(use, facts) is ChecksumMode.FILL
        for port in use.fill_ports
    }


def attachment_entries(
    attachments: Iterable[Attachment], facts: Mapping[str, NetworkFacts], host: HostWide
) -> dict[tuple[str, bytes], bytes]:
    """The entries of every map that is about containers."""
    attachments = tuple(attachments)
    return {**container_entries(attachments, facts, host), **port_entries(attachments, facts)}


def container_entries(
    attachments: Iterable[Attachment],
    facts: Mapping[str, NetworkFacts],
    host: HostWide,
    maps: frozenset[str] = CONTAINER_MAPS,
) -> dict[tuple[str, bytes], bytes]:
    """The entries of these maps."""
    watched: list[Attachment] = []
    others: list[Attachment] = []
    for one in attachments:
        (others if mode_for(one, facts) is ChecksumMode.OFF else watched).append(one)
    # In this order: of two that have published the same port, the last entry counts.
    reached = [one for one in others if host.cookie and use_of(one).localhost]
    return {
        **(_origin_entries(watched) if "origins" in maps else {}),
        **(_published_entries([*watched, *reached]) if "published" in maps else {}),
        **(_container_entries(watched, facts) if "containers" in maps else {}),
    }


def _origin_entries(attachments: Iterable[Attachment]) -> dict[tuple[str, bytes], bytes]:
    """``origins`` of TCP and UDP ports. Slots are given in a fixed order; a port published more often than there are
    slots keeps the first ones."""
    # Packed by hand, here and below: of tens of thousands of ports an object for each would take twice as long.
    origins: defaultdict[tuple[bytes, int, int], dict[bytes, None]] = defaultdict(dict)
    for attachment in attachments:
        for target in targets(attachment):
            address = pack_address(target)
            for mapping in _summed(attachment, target):
                port = (address, mapping.protocol.number, mapping.container_port)
                origins[port][ORIGIN.pack(_host_address(mapping), pack_port(mapping.host_port))] = None
    return {
        ("origins", ORIGIN_KEY.pack(address, pack_port(port), protocol, slot)): origin
        for (address, protocol, port), known in origins.items()
        for slot, origin in enumerate(sorted(known)[:MAX_ORIGIN_SLOTS])
    }


def _published_entries(attachments: Iterable[Attachment]) -> dict[tuple[str, bytes], bytes]:
    """``published``, without ports under conditions, which may be published more than once."""
    entries: dict[tuple[str, bytes], bytes] = {}
    for attachment in attachments:
        found, localhost = targets(attachment), attachment.options.snat
        of_ipv4 = all(one.version == 4 for one in found)
        for target in found:
            if group_of(attachment, target.version) not in PLAIN:
                continue
            address = pack_address(target)
            for mapping in _summed(attachment, target):
                entry = TARGET.pack(address, pack_port(mapping.container_port), localhost)
                port, number = pack_port(mapping.host_port), mapping.protocol.number
                entries["published", PUBLISHED_KEY.pack(_host_address(mapping), port, number, target.version)] = entry
                if of_ipv4 and mapping.host_address is None:
                    # Published on both families, and there is no IPv6 to lead to: a socket of IPv6 reaches IPv4, too.
                    # Under a key of its own, for another container may have the port of IPv6.
                    entries["published", PUBLISHED_KEY.pack(_EVERY_IPV4, port, number, 6)] = entry
    return entries


def _container_entries(
    attachments: Iterable[Attachment], facts: Mapping[str, NetworkFacts]
) -> dict[tuple[str, bytes], bytes]:
    """``containers``.

    Be aware: of two addresses of a network that add up to the same, the map keeps one, and loses both with it until the
    next look at everything. That costs a proof, and no packet that would have been right.
    """
    return {
        ("containers", abi.container_key(facts[one.key.network].id, address)): abi.pack_address(address)
        for one in attachments
        for address in one.request.addresses
    }


def port_entries(
    attachments: Iterable[Attachment], facts: Mapping[str, NetworkFacts]
) -> dict[tuple[str, bytes], bytes]:
    """``ports`` and ``port_addresses``. Of the parts of one interface, the strictest counts.

    All addresses of a container are its own on each of its interfaces: what is answered to one may leave by another.
    They are told whatever the level: they say whose port it is, to whoever reads a lost state back.
    """
    attachments = tuple(attachments)
    held: defaultdict[str, dict[Address, None]] = defaultdict(dict)
    here: defaultdict[IfIndex, set[Address]] = defaultdict(set)
    for one in attachments:
        held[one.key.container] |= dict.fromkeys(one.request.addresses)
        here[port_of(one)].update(one.request.addresses)
    ports: dict[IfIndex, Port] = {}
    addresses: dict[tuple[str, bytes], bytes] = {}
    for one in attachments:
        port, level, number = port_of(one), level_of(one), facts[one.key.network].id
        filled = mode_for(one, facts) is ChecksumMode.FILL
        if not port or not (level or filled):
            continue
        other = ports.get(port, Port(number, GuardLevel.OFF))
        ports[port] = Port(min(number, other.network), max(level, other.guard), max(one.request.mac, other.mac))
        for address in held[one.key.container]:
            value = _PRESENT if address in here[port] else _ELSEWHERE
            addresses["port_addresses", abi.port_address_key(port, address)] = value
    return {("ports", U32.pack(port)): entry.pack() for port, entry in ports.items()} | addresses


def _summed(attachment: Attachment, target: Address) -> Iterable[PortMapping]:
    """The published ports whose packets carry an Internet checksum."""
    return (one for one in attachment.published(target.version) if one.protocol is not Protocol.SCTP)


def _host_address(mapping: PortMapping) -> bytes:
    """``struct address``: none is every local address."""
    host = mapping.host_address
    return NO_ADDRESS if host is None or host.is_unspecified else pack_address(host)


def host_address_entries(addresses: Iterable[Address]) -> dict[bytes, bytes]:
    """What ``host_addresses`` is to hold."""
    return {abi.host_address_key(address): abi.pack_address(address) for address in addresses}


def needs_host_addresses(wanted: Iterable[tuple[Program, IfIndex]]) -> bool:
    """Whether anything is proved against the addresses of the host."""
    return any(program is Program.CHECKSUM for program, _ in wanted)


def is_as_good(entry: tuple[str, bytes], held: bytes | None, wanted: bytes) -> bool:
    """Whether a map serves with what it holds: of containers' addresses that add up to the same it keeps any one."""
    name, key = entry
    if held == wanted or name != "containers" or held is None:
        return held == wanted
    address = abi.unpack_address(held)
    return address is not None and abi.container_key(abi.unpack_container_key(key), address) == key


def is_manual(map_name: str, value: bytes) -> bool:
    """Whether a map entry was made by hand (``dpctl bpf attach``), not for an attachment."""
    if map_name == "ports":
        return bool(Port.unpack(value).network & MANUAL_NETWORK)
    return map_name == "networks" and bool(NetworkEntry.unpack(value).id & MANUAL_NETWORK)


def mode_of(use: Use, facts: Mapping[str, NetworkFacts]) -> ChecksumMode:
    """The checksum mode of a use: the operator's word, else the conflist's."""
    return MODES[facts[use.network].checksum or use.checksum]


def mode_for(attachment: Attachment, facts: Mapping[str, NetworkFacts]) -> ChecksumMode:
    """The checksum mode of an attachment, as that of its use."""
    return MODES[facts[attachment.key.network].checksum or attachment.options.checksum]


def is_of_manual(map_name: str, key: bytes, manual_ports: Collection[bytes]) -> bool:
    """Whether an entry says more about what was made by hand: a UDP port of such a network, or an address of such a
    port. ``manual_ports`` are the keys of those in ``ports``."""
    if map_name == "fill_ports":
        return bool(U32.unpack_from(key)[0] & MANUAL_NETWORK)
    return map_name == "port_addresses" and key[: U32.size] in manual_ports
