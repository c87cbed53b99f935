"""From attachments to BPF: which programs belong on which device, and what their maps must hold for them.

The programs sit on container-facing devices (a bridge, or the host veth of a routed network), once per device. What
they decide by comes from three maps: ``networks`` (device -> network, policy, mode), ``origins`` (container port ->
where its traffic was sent before our DNAT) and ``settings`` (the mark of published traffic).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from control.desired.ruleset import PLAIN, Group, group_of, targets
from control.model import Attachment, ChecksumPolicy, ForeignChain, IngressPolicy
from dataplane.abi import MANUAL_NETWORK, MAX_HOST_ADDRESSES, MAX_ORIGIN_SLOTS, U32, NetworkEntry, Origin, OriginKey
from dataplane.types import Address, ChecksumMode, IfIndex, IsolationPolicy, Program, Protocol

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
}

_ANY = IPv4Address(0)
_UNUSED = IPv4Address(0)


@dataclass(frozen=True, slots=True)
class Use:
    """What one or more attachments ask of a device; attachments of one network usually ask the same."""

    device: IfIndex
    device_name: str
    network: str
    policy: IngressPolicy
    checksum: ChecksumPolicy
    localhost: bool
    """Published ports are to answer on 127.0.0.1."""
    forwards4: bool
    forwards6: bool
    """The host must forward packets of that family."""
    groups: tuple[Group, ...]
    """Condition groups, without the skeleton's own."""
    forward_chains: tuple[ForeignChain, ...]
    admin_chain: str


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
        localhost=options.snat and 4 in published,
        forwards4=reached and 4 in versions,
        forwards6=reached and 6 in versions,
        groups=tuple(sorted(groups - set(PLAIN), key=lambda group: (group.version, group.suffix))),
        forward_chains=options.forward_chains,
        admin_chain=options.admin_chain,
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


def device_entries(uses: Iterable[Use], facts: Mapping[str, NetworkFacts], mark: int) -> dict[tuple[str, bytes], bytes]:
    """``networks`` and ``settings``. Where two networks share a device, the stricter policy and mode hold for both."""
    devices: dict[IfIndex, NetworkEntry] = {}
    for use in uses:
        entry = NetworkEntry(facts[use.network].id, POLICIES[use.policy], mode_of(use, facts))
        other = devices.get(use.device, entry)
        devices[use.device] = NetworkEntry(
            min(entry.id, other.id), max(entry.policy, other.policy), max(entry.checksum, other.checksum)
        )
    active = {
        device: entry
        for device, entry in devices.items()
        if entry.policy is not IsolationPolicy.OPEN or entry.checksum is not ChecksumMode.OFF
    }
    entries = {("networks", U32.pack(device)): entry.pack() for device, entry in active.items()}
    if entries:
        entries["settings", U32.pack(0)] = U32.pack(mark)
    return entries


def origin_entries(attachments: Iterable[Attachment]) -> dict[tuple[str, bytes], bytes]:
    """``origins`` of IPv4 TCP and UDP ports. Slots are given in a fixed order; a port published more often than there
    are slots keeps the first ones."""
    origins: defaultdict[tuple[IPv4Address, int, int], set[tuple[IPv4Address, int]]] = defaultdict(set)
    for attachment in attachments:
        for target in targets(attachment):
            if not isinstance(target, IPv4Address):
                continue
            for mapping in attachment.published(target.version):
                if mapping.protocol is Protocol.SCTP:
                    continue
                host = mapping.host_address if isinstance(mapping.host_address, IPv4Address) else _ANY
                port = (target, mapping.protocol.number, mapping.container_port)
                origins[port].add((host, mapping.host_port))
    return {
        ("origins", OriginKey(address, protocol, port, slot).pack()): Origin(*origin).pack()
        for (address, protocol, port), known in origins.items()
        for slot, origin in enumerate(sorted(known)[:MAX_ORIGIN_SLOTS])
    }


def host_address_entries(addresses: Iterable[Address]) -> dict[tuple[str, bytes], bytes]:
    """``host_addresses``: the whole array, so that former addresses are overwritten."""
    own = [address for address in addresses if isinstance(address, IPv4Address)][:MAX_HOST_ADDRESSES]
    padded = own + [_UNUSED] * (MAX_HOST_ADDRESSES - len(own))
    return {("host_addresses", U32.pack(index)): address.packed for index, address in enumerate(padded)}


def needs_host_addresses(entries: Entries) -> bool:
    """Whether any published port is proved stale against every address of the host."""
    return any(name == "origins" and Origin.unpack(value).address == _ANY for (name, _), value in entries.items())


def is_manual(map_name: str, value: bytes) -> bool:
    """Whether a map entry was made by hand (``dpctl bpf attach``), not for an attachment."""
    return map_name == "networks" and bool(NetworkEntry.unpack(value).id & MANUAL_NETWORK)


def mode_of(use: Use, facts: Mapping[str, NetworkFacts]) -> ChecksumMode:
    """The checksum mode of a use: the operator's word, else the conflist's."""
    return MODES[facts[use.network].checksum or use.checksum]
