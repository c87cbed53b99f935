"""What NAT may have rewritten in a packet: every tuple that it may have had before, the best evidence first. Pure.

    for rewrite in rewrites(segment, knowledge, tracked): ...

    translation     what NAT wrote                                      before it there was
    published       destination: a published port's container           an address of the host, the published port
    reply           source: an address of the host, the published port  its container
    masquerade      source: an address of the host                      a container of a network that masquerades
    unmasquerade    destination: such a container                       an address of the host
    both            both ends at once: hairpin, localhost               a published and a masqueraded tuple

These are the ones that the programs in the kernel know (``enum translation`` of bpf/abi.h). Of an address and a port
that were rewritten, the sum may have missed either, or both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from itertools import product
from typing import TypeVar

from control.checksums.frame import Segment
from control.model import AttachmentKey
from dataplane.abi import Translation
from dataplane.types import Address, Protocol

T = TypeVar("T")

_LOOPBACK: dict[int, Address] = {4: IPv4Address("127.0.0.1"), 6: IPv6Address("::1")}


class Evidence(StrEnum):
    """What a stale verdict rests on, the strongest first."""

    CONNTRACK = "conntrack"
    MAPPING = "mapping"
    ORIGIN = "origin"
    CONTAINER = "container"
    HOST_ADDRESS = "host address"
    NEIGHBOURHOOD = "neighbourhood"

    @property
    def known(self) -> bool:
        """Whether it is a rewrite that is known to be done here; else one that might be."""
        return self not in {Evidence.HOST_ADDRESS, Evidence.NEIGHBOURHOOD}


class Side(StrEnum):
    """Which end of the packet NAT rewrote."""

    SOURCE = "source"
    DESTINATION = "destination"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of a packet."""

    source: Address
    source_port: int
    destination: Address
    destination_port: int


@dataclass(frozen=True, slots=True)
class KnownMapping:
    """A published port, as far as checksums are concerned."""

    host_address: Address | None
    """None: published on every address of the host."""
    host_port: int
    protocol: Protocol
    container_address: Address
    container_port: int
    owner: AttachmentKey

    def __str__(self) -> str:
        where = "*" if self.host_address is None else endpoint(self.host_address)
        target = endpoint(self.container_address, self.container_port)
        return f"{where}:{self.host_port}/{self.protocol} -> {target} ({self.owner})"


@dataclass(frozen=True, slots=True)
class KnownContainer:
    """An address of a container."""

    address: Address
    masquerades: bool
    """What its network sends out leaves with an address of the host."""
    owner: AttachmentKey


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the user thinks that a packet was sent to, before NAT. Without a port: to the one it has now."""

    address: Address
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a wrong sum is held against."""

    mappings: tuple[KnownMapping, ...] = ()
    host_addresses: tuple[Address, ...] = ()
    containers: tuple[KnownContainer, ...] = ()
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A tuple that the packet may have had, and why it is thought of."""

    before: Ends
    """What the rewrite left alone is as in the packet."""
    evidence: Evidence
    translation: Translation = Translation.NONE
    """NONE: it is not said which of our translations would do this."""
    mapping: KnownMapping | None = None
    container: AttachmentKey | None = None
    """Whose packet it is, where that is known."""


def receiver(segment: Segment, knowledge: Knowledge) -> AttachmentKey | None:
    """The container that a segment goes to, if it is one of ours."""
    owners = [one.owner for one in knowledge.containers if one.address == segment.destination]
    owners += [one.owner for one in knowledge.mappings if one.container_address == segment.destination]
    return owners[0] if owners else None


def rewrites(segment: Segment, knowledge: Knowledge, tracked: Ends | None) -> Iterator[Rewrite]:
    """Rewrites that NAT may have done, the best evidence first. ``tracked`` is what conntrack says that it did."""
    mappings = [one for one in knowledge.mappings if _concerns(one, segment)]
    if tracked is not None:
        yield from _of_tracked(segment, mappings, tracked)
    hosts = tuple(one for one in knowledge.host_addresses if one.version == segment.destination.version)
    for mapping in mappings:
        yield from _of_mapping(segment, mapping, hosts)
    for origin in knowledge.origins:
        yield from _of_origin(segment, origin)
    yield from _of_containers(segment, mappings, knowledge.containers, hosts)
    for address in hosts:
        yield Rewrite(_to(segment, address, segment.destination_port), Evidence.HOST_ADDRESS)
    if not knowledge.origins and not any(_leads_to(mapping, segment) for mapping in mappings):
        yield from _neighbours(segment)


def ends_of(segment: Segment) -> Ends:
    """The ends that a segment has now."""
    return Ends(segment.source, segment.source_port, segment.destination, segment.destination_port)


def endpoint(address: Address, port: int | None = None) -> str:
    """An address, and a port if there is one, as URLs have them."""
    text = f"[{address}]" if address.version == 6 else str(address)
    return text if port is None else f"{text}:{port}"


def _concerns(mapping: KnownMapping, segment: Segment) -> bool:
    target = mapping.protocol.number, mapping.container_address.version
    return target == (segment.protocol.number, segment.destination.version)


def _leads_to(mapping: KnownMapping, segment: Segment) -> bool:
    return (mapping.container_address, mapping.container_port) == (segment.destination, segment.destination_port)


def _published(mapping: KnownMapping, hosts: tuple[Address, ...]) -> tuple[Address, ...]:
    return hosts if mapping.host_address is None else (mapping.host_address,)


def _of_tracked(segment: Segment, mappings: list[KnownMapping], tracked: Ends) -> Iterator[Rewrite]:
    now = ends_of(segment)
    # All that NAT changed first; the sum may have missed less of it.
    for source, source_port, destination, destination_port in product(
        _either(tracked.source, now.source),
        _either(tracked.source_port, now.source_port),
        _either(tracked.destination, now.destination),
        _either(tracked.destination_port, now.destination_port),
    ):
        before = Ends(source, source_port, destination, destination_port)
        if before != now:
            mapping = next((one for one in mappings if _did(one, tracked, now)), None)
            owner = mapping.owner if mapping else None
            yield Rewrite(before, Evidence.CONNTRACK, _named(before, now, mapping), mapping, owner)


def _either(before: T, now: T) -> tuple[T, ...]:
    return (before,) if before == now else (before, now)


def _did(mapping: KnownMapping, before: Ends, now: Ends) -> bool:
    """Whether a flow is that of a mapping, in either direction."""
    container, port = mapping.container_address, mapping.container_port
    there = (now.destination, now.destination_port, before.destination_port) == (container, port, mapping.host_port)
    back = (before.source, before.source_port, now.source_port) == (container, port, mapping.host_port)
    return there or back


def _named(before: Ends, now: Ends, mapping: KnownMapping | None) -> Translation:
    match side_of(before, now):
        case Side.SOURCE:
            return Translation.MASQUERADE if mapping is None else Translation.REPLY
        case Side.DESTINATION:
            return Translation.UNMASQUERADE if mapping is None else Translation.PUBLISHED
        case Side.BOTH:
            return Translation.BOTH


def side_of(before: Ends, now: Ends) -> Side:
    """Which end differs."""
    if (before.source, before.source_port) == (now.source, now.source_port):
        return Side.DESTINATION
    same = (before.destination, before.destination_port) == (now.destination, now.destination_port)
    return Side.SOURCE if same else Side.BOTH


def _of_mapping(segment: Segment, mapping: KnownMapping, hosts: tuple[Address, ...]) -> Iterator[Rewrite]:
    if _leads_to(mapping, segment):
        for address, port in _destinations(segment, mapping, hosts):
            before = _to(segment, address, port)
            yield Rewrite(before, Evidence.MAPPING, Translation.PUBLISHED, mapping, mapping.owner)
    if segment.source in _published(mapping, hosts) and segment.source_port == mapping.host_port:
        for address, port in _sources(segment, mapping):
            before = _from(segment, address, port)
            yield Rewrite(before, Evidence.MAPPING, Translation.REPLY, mapping, mapping.owner)


def _destinations(segment: Segment, mapping: KnownMapping, hosts: tuple[Address, ...]) -> Iterator[tuple[Address, int]]:
    """Where a packet to a container's port may have been sent to, as far as the sum missed it."""
    for address in _published(mapping, hosts):
        yield address, segment.destination_port
        yield address, mapping.host_port
    yield segment.destination, mapping.host_port


def _sources(segment: Segment, mapping: KnownMapping) -> Iterator[tuple[Address, int]]:
    """Where an answer of a container's port came from, as far as the sum missed it."""
    yield mapping.container_address, segment.source_port
    yield mapping.container_address, mapping.container_port
    yield segment.source, mapping.container_port


def _of_origin(segment: Segment, origin: Origin) -> Iterator[Rewrite]:
    if origin.address.version != segment.destination.version:
        return
    yield Rewrite(_to(segment, origin.address, segment.destination_port), Evidence.ORIGIN)
    if origin.port is not None:
        # As with a mapping: the sum may have missed both, or the port alone.
        yield Rewrite(_to(segment, origin.address, origin.port), Evidence.ORIGIN)
        yield Rewrite(_to(segment, segment.destination, origin.port), Evidence.ORIGIN)


def _of_containers(
    segment: Segment,
    mappings: list[KnownMapping],
    containers: tuple[KnownContainer, ...],
    hosts: tuple[Address, ...],
) -> Iterator[Rewrite]:
    containers = tuple(one for one in containers if one.address.version == segment.destination.version)
    if segment.source in hosts:
        for one in containers:
            if one.masquerades:
                before = _from(segment, one.address, segment.source_port)
                yield Rewrite(before, Evidence.CONTAINER, Translation.MASQUERADE, None, one.owner)
    for one in containers:
        if one.masquerades and one.address == segment.destination:
            for address in hosts:
                before = _to(segment, address, segment.destination_port)
                yield Rewrite(before, Evidence.CONTAINER, Translation.UNMASQUERADE, None, one.owner)
    for mapping in mappings:
        neighbours = tuple(one.address for one in containers if one.owner.network == mapping.owner.network)
        for before in _both(segment, mapping, neighbours, hosts):
            yield Rewrite(before, Evidence.CONTAINER, Translation.BOTH, mapping, mapping.owner)


def _both(
    segment: Segment, mapping: KnownMapping, neighbours: tuple[Address, ...], hosts: tuple[Address, ...]
) -> Iterator[Ends]:
    """Hairpin and localhost: who asks is a neighbour, or the host itself, and is seen with an address of the host."""
    loopback = _LOOPBACK[segment.destination.version]
    if _leads_to(mapping, segment) and segment.source in hosts:
        for source in neighbours:
            for address, port in _destinations(segment, mapping, hosts):
                yield Ends(source, segment.source_port, address, port)
        for port in (mapping.host_port, segment.destination_port):
            yield Ends(loopback, segment.source_port, loopback, port)
    answers = segment.source in _published(mapping, hosts) and segment.source_port == mapping.host_port
    if answers and segment.destination in neighbours:
        for (address, port), destination in product(_sources(segment, mapping), hosts):
            yield Ends(address, port, destination, segment.destination_port)


def _neighbours(segment: Segment) -> Iterator[Rewrite]:
    """Addresses beside the client, one of which the host often has. Nothing is inferred inside one network, where no
    NAT is to be expected and small errors would all look like neighbours."""
    if not isinstance(segment.source, IPv4Address):
        return
    network = IPv4Network((segment.source, 24), strict=False)
    if segment.destination in network:
        return
    for address in network.hosts():
        if address != segment.source:
            yield Rewrite(_to(segment, address, segment.destination_port), Evidence.NEIGHBOURHOOD)


def _to(segment: Segment, address: Address, port: int) -> Ends:
    return Ends(segment.source, segment.source_port, address, port)


def _from(segment: Segment, address: Address, port: int) -> Ends:
    return Ends(address, port, segment.destination, segment.destination_port)
