"""What the programs dropped, joined with what the state knows: who sent it to whom, why, and what to do about it. Pure.

    drops(counted, Known.of(networks, attachments), now_ns)

    isolation   back/admin  >  front/web    different networks, and neither is open      publish a port, or ...
    guard       front/web   >  192.0.2.55   packets from an address that is not its own  guard: mac, if ...

Packets are counted since the programs were loaded. Of each pair of networks, and of each container and reason, the last
packet is kept; it names the containers, for the counts only know networks and ports.

Be aware: the maps behind this make room by themselves: of thousands of pairs, those that were quiet longest are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from control.desired.hooks import POLICIES, port_of
from control.desired.ruleset import targets
from control.model import Attachment, AttachmentKey, GuardPolicy, IngressPolicy
from dataplane.abi import MANUAL_NETWORK, GuardReason, Offender
from dataplane.types import Address, IfIndex, Protocol

K = TypeVar("K")

OUTSIDE, BY_HAND, GONE = "outside", "by hand", "gone"
"""In place of the name of a network that has none: none of ours, hooked by ``dpctl bpf attach``, without containers."""

_NANOSECONDS = 1_000_000_000
_PROTOCOLS = {**{one.number: str(one) for one in Protocol}, 1: "icmp", 2: "igmp", 58: "icmpv6"}

_ARP, _NEIGHBOUR = GuardReason.ARP.name.lower(), GuardReason.NEIGHBOUR.name.lower()

REASONS = {
    GuardReason.SOURCE_MAC: "frames from a MAC that is not its own",
    GuardReason.SOURCE_ADDRESS: "packets from an address that is not its own",
    GuardReason.ARP: "ARP that claims somebody else's address or MAC",
    GuardReason.NEIGHBOUR: "neighbour discovery that claims somebody else's address or MAC",
    GuardReason.ROUTER: "router advertisements or redirects (CVE-2020-10749)",
    GuardReason.DHCP_SERVER: "answers of a DHCP server",
    GuardReason.LOOPBACK: "packets from or to a loopback address",
    GuardReason.UNREADABLE: "frames that cannot be read: too many tags or headers, or not what they claim to be",
    GuardReason.BRIDGE: "frames to the bridge itself: spanning tree, LLDP, 802.1X",
}
"""Why guard drops, in words."""

_MEANT = {
    GuardReason.SOURCE_MAC: "if it is meant to have further MACs (a virtual machine, a bridge in it)",
    GuardReason.SOURCE_ADDRESS: "if it is meant to send for others (a router, a VPN, containers in it)",
    GuardReason.ARP: "if it is meant to hold a shared address (VRRP, keepalived)",
    GuardReason.NEIGHBOUR: "if it is meant to hold a shared address (VRRP, keepalived)",
    GuardReason.ROUTER: "if it is meant to be this network's router",
    GuardReason.DHCP_SERVER: "if it is meant to be this network's DHCP server",
    GuardReason.LOOPBACK: "but nothing that works needs it to send these",
    GuardReason.UNREADABLE: "if it is meant to send them",
    GuardReason.BRIDGE: "if it is meant to be a switch",
}


class Dropper(StrEnum):
    """The program that dropped."""

    ISOLATION = "isolation"
    GUARD = "guard"


@dataclass(frozen=True, slots=True)
class Counted:
    """What the maps hold."""

    isolated: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """Packets by the numbers of source and destination network."""
    isolated_last: Mapping[tuple[int, int], Offender] = field(default_factory=dict)
    guarded: Mapping[tuple[IfIndex, GuardReason], int] = field(default_factory=dict)
    """Packets by host veth and reason."""
    guarded_last: Mapping[tuple[IfIndex, GuardReason], Offender] = field(default_factory=dict)

    def since(self, before: Counted) -> Counted:
        """What came since then; what is less than before was evicted, and began anew."""
        return replace(
            self,
            isolated=_more(self.isolated, before.isolated),
            guarded=_more(self.guarded, before.guarded),
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What the state says about networks and containers."""

    networks: Mapping[int, str]
    policies: Mapping[str, IngressPolicy]
    """Of networks: the strictest that one of its attachments asks for, which is what holds."""
    ports: Mapping[IfIndex, AttachmentKey]
    """Who is behind a host veth."""
    addresses: Mapping[tuple[str, Address], AttachmentKey]
    """Who has an address of a network."""
    holders: Mapping[Address, AttachmentKey]
    """Who has an address, of whichever network."""
    published: Mapping[tuple[Address, int, int], str]
    """Container address, protocol number and port -> where the host publishes it: ``8080/tcp``."""

    @classmethod
    def of(cls, networks: Mapping[int, str], attachments: Iterable[Attachment]) -> Known:
        """From the networks' names by number, and every attachment."""
        policies: dict[str, IngressPolicy] = {}
        ports: dict[IfIndex, AttachmentKey] = {}
        addresses: dict[tuple[str, Address], AttachmentKey] = {}
        published: dict[tuple[Address, int, int], str] = {}
        for one in attachments:
            network, policy = one.key.network, one.options.ingress_policy
            policies[network] = max(policies.get(network, policy), policy, key=lambda each: POLICIES[each])
            if port_of(one):
                ports[port_of(one)] = one.key
            addresses |= {(network, address): one.key for address in one.request.addresses}
            for target in targets(one):
                for mapping in one.published(target.version):
                    published[target, mapping.protocol.number, mapping.container_port] = str(mapping)
        holders = {address: key for (_, address), key in addresses.items()}
        return cls(networks, policies, ports, addresses, holders, published)


@dataclass(frozen=True, slots=True)
class Party:
    """One end of what was dropped; what is empty is not known."""

    network: str = ""
    container: str = ""
    address: Address | None = None

    def __str__(self) -> str:
        where = f"{self.network}/{self.container[:12]}" if self.container else self.network
        return where or str(self.address or "-")


@dataclass(frozen=True, slots=True)
class Drop:
    """One line of ``dpctl drops``."""

    dropper: Dropper
    source: Party
    destination: Party
    reason: str
    """Of isolation ``networks`` or ``neighbours``, of guard its ``GuardReason`` in lower case."""
    why: str
    packets: int
    last: Offender | None
    """None where room was needed for others."""
    age: float | None
    """Seconds since the last one."""
    advice: str


def drops(counted: Counted, known: Known, now_ns: int) -> list[Drop]:
    """What was dropped, the latest first. ``now_ns`` is CLOCK_MONOTONIC."""
    found = [
        _isolated(pair, packets, counted.isolated_last.get(pair), known, now_ns)
        for pair, packets in counted.isolated.items()
    ]
    found += [
        _guarded(key, packets, counted.guarded_last.get(key), known, now_ns) for key, packets in counted.guarded.items()
    ]
    return sorted(found, key=lambda one: (one.age is None, one.age or 0.0, -one.packets, str(one.source)))


def network_name(number: int, networks: Mapping[int, str]) -> str:
    """A network by the number that the programs know, in words where it has no name."""
    if number == 0:
        return OUTSIDE
    return networks.get(number, BY_HAND if number & MANUAL_NETWORK else GONE)


def endpoint(address: Address | None, port: int) -> str:
    """``10.11.0.2:80``, without the port where there is none."""
    if address is None:
        return "?"
    if not port:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def protocol_name(number: int) -> str:
    """``tcp``, or the number where it has no name here."""
    return _PROTOCOLS.get(number, f"protocol {number}")


def last_packet(drop: Drop) -> str:
    """The last packet in one line. Of guard the MAC as well, where a MAC may be what was wrong about it; a frame that
    was dropped for its MAC was not read any further."""
    last = drop.last
    if last is None:
        return "-"
    if last.source is None and last.destination is None:
        return f"a frame from {last.mac}"
    ends = (endpoint(last.source, last.source_port), endpoint(last.destination, last.destination_port))
    if drop.reason == _ARP:
        return f"{' > '.join(ends)} arp, from {last.mac}"
    packet = f"{' > '.join(ends)} {protocol_name(last.protocol)}"
    return f"{packet}, from {last.mac}" if drop.reason == _NEIGHBOUR else packet


def ago(seconds: float | None) -> str:
    """``3 s ago``, in the largest unit of which there are two."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"


def _more(now: Mapping[K, int], before: Mapping[K, int]) -> dict[K, int]:
    grown = {key: number - (former if (former := before.get(key, 0)) <= number else 0) for key, number in now.items()}
    return {key: number for key, number in grown.items() if number}


def _isolated(pair: tuple[int, int], packets: int, last: Offender | None, known: Known, now_ns: int) -> Drop:
    sender, receiver = (network_name(number, known.networks) for number in pair)
    source = _member(sender, last.source if last else None, known)
    destination = _member(receiver, last.destination if last else None, known)
    neighbours = pair[0] == pair[1]
    if neighbours:
        why = f"network {receiver} is isolated: its containers are kept apart"
    else:
        why = f"different networks, and neither is open ({_policy(sender, known)}; {_policy(receiver, known)})"
    return Drop(
        dropper=Dropper.ISOLATION,
        source=source,
        destination=destination,
        reason="neighbours" if neighbours else "networks",
        why=why,
        packets=packets,
        last=last,
        age=_age(last, now_ns),
        advice=_advice(source, destination, last, known),
    )


def _guarded(key: tuple[IfIndex, GuardReason], packets: int, last: Offender | None, known: Known, now_ns: int) -> Drop:
    port, reason = key
    owner = known.ports.get(port)
    source = Party(owner.network, owner.container, last.source if last else None) if owner else Party(GONE)
    level = GuardPolicy.OFF if reason is GuardReason.SOURCE_MAC else GuardPolicy.MAC
    change = f'"guard": "{level}" in the conflist of network {source.network} allows it, {_MEANT[reason]}'
    return Drop(
        dropper=Dropper.GUARD,
        source=source,
        destination=_anybody(last.destination if last else None, known),
        reason=reason.name.lower(),
        why=REASONS[reason],
        packets=packets,
        last=last,
        age=_age(last, now_ns),
        advice=f"look at what it runs; {change}" if owner else "nothing: that container is gone",
    )


def _advice(source: Party, destination: Party, last: Offender | None, known: Known) -> str:
    wanted = (last.destination, last.protocol, last.destination_port) if last and last.destination else None
    published = known.published.get(wanted) if wanted else None
    if published is not None:
        return f"that port is published: ask an address of the host for {published} instead"
    if source.network == destination.network:
        change = f'"ingressPolicy": "{IngressPolicy.SAME_BRIDGE}" in the conflist of network {destination.network}'
        return f"publish the port and ask the host for it; or {change}"
    change = f'"ingressPolicy": "{IngressPolicy.OPEN}" in the conflist of one of them'
    return f"publish the port and ask the host for it; or attach both containers to one network; or {change}"


def _member(network: str, address: Address | None, known: Known) -> Party:
    owner = known.addresses.get((network, address)) if address else None
    return Party(network, owner.container if owner else "", address)


def _anybody(address: Address | None, known: Known) -> Party:
    owner = known.holders.get(address) if address else None
    return Party(owner.network, owner.container, address) if owner else Party(address=address)


def _policy(network: str, known: Known) -> str:
    policy = known.policies.get(network)
    return f"{network} is {policy}" if policy else f"{network} has no containers now"


def _age(last: Offender | None, now_ns: int) -> float | None:
    return None if last is None else max(0, now_ns - last.time_ns) / _NANOSECONDS
