"""Whose fault a wrong TCP or UDP checksum is: verdicts over single frames, with their evidence. Pure.

    explain(segment, Knowledge(mappings, host_addresses, origins)) -> Finding

A sum covers the addresses and ports, so it tells which ones it was made for. Where it becomes right by undoing exactly
one rewrite that NAT does, and by nothing else, the payload is intact and NAT left the sum stale:

    stored sum right for ...                                     evidence          certainty at best
    the tuple before DNAT (or un-DNAT) of a mapping we know      MAPPING           proved
    the tuple that the user says it was sent to                  ORIGIN            proved, if that is true
    an address of this host in place of the destination          HOST_ADDRESS      likely
    one address of the client's own /24 in place of it           NEIGHBOURHOOD     inferred, and only where neither a
                                                                                   mapping nor the user tells more

Be aware: 16 bits identify no address. A random wrong sum fits one given tuple by chance once in 65,535, and some
address of a /24 once in 259. So a verdict counts what was tried for it, and its certainty falls with that number. The
repair program takes mappings alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from control.checksums.frame import Segment
from control.model import AttachmentKey
from dataplane.types import Address, Protocol

MODULUS = 0xFFFF
"""Ones' complement sums are numbers modulo this: there are 65,535 of them, and one is right."""
MAX_PROVED = 65
"""How many errors a proof may have been sought for: a random one is then taken for it at most once in 1,000."""


class Verdict(StrEnum):
    """What a checksum is."""

    RIGHT = "right"
    PARTIAL = "partial"  # not computed yet: the sender's own side, where the device is to do it
    ZERO = "zero"  # UDP over IPv4 without a checksum (RFC 768)
    STALE = "stale"  # right for what the packet was before NAT
    CORRUPT = "corrupt"  # wrong, and no NAT that is known explains it
    UNVERIFIABLE = "unverifiable"  # not all bytes that it covers are there

    @property
    def problem(self) -> bool:
        return self in {Verdict.STALE, Verdict.CORRUPT}


class Evidence(StrEnum):
    """What a stale verdict rests on, the strongest first."""

    MAPPING = "mapping"
    ORIGIN = "origin"
    HOST_ADDRESS = "host address"
    NEIGHBOURHOOD = "neighbourhood"


class Certainty(StrEnum):
    """How far a stale verdict can be relied on."""

    PROVED = "proved"
    """A known mapping or the named origin fits, which a random error does at most once in 1,000."""
    LIKELY = "likely"
    """One of the two: known, or that rarely by chance."""
    INFERRED = "inferred"
    """Neither: found by a search, in which a random error would find something, too."""


class Side(StrEnum):
    """Which end of the packet NAT rewrote."""

    SOURCE = "source"
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True)
class KnownMapping:
    """A published port, as far as checksums are concerned."""

    host_address: IPv4Address | None
    """None: published on every address of the host."""
    host_port: int
    protocol: Protocol
    container_address: IPv4Address
    container_port: int
    owner: AttachmentKey

    def __str__(self) -> str:
        where = "*" if self.host_address is None else str(self.host_address)
        target = f"{self.container_address}:{self.container_port}"
        return f"{where}:{self.host_port}/{self.protocol} -> {target} ({self.owner})"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the user thinks that a packet was sent to, before NAT. Without a port: to the one it has now."""

    address: Address
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a wrong sum is held against."""

    mappings: tuple[KnownMapping, ...] = ()
    host_addresses: tuple[IPv4Address, ...] = ()
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A tuple that the stored sum is right for, and why it is thought of."""

    side: Side
    address: Address
    port: int
    """``address`` and ``port`` are what this side had when the sum was made."""
    evidence: Evidence
    mapping: KnownMapping | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one checksum."""

    verdict: Verdict
    segment: Segment
    correct: int | None
    """The value that the field should have; None where that cannot be said."""
    rewrite: Rewrite | None = None
    """Of a stale sum: the rewrite that it missed."""
    tried: int = 0
    """Of a stale or corrupt sum: how many different errors would have been explained by evidence as good as this, or
    better (of a corrupt one: by any)."""

    @property
    def one_in(self) -> int | None:
        """Of a stale sum: one in so many random errors would have been explained just as well."""
        return None if self.rewrite is None else MODULUS // self.tried

    @property
    def certainty(self) -> Certainty | None:
        """Of a stale sum: how far the verdict can be relied on."""
        if self.rewrite is None:
            return None
        few, known = self.tried <= MAX_PROVED, self.rewrite.evidence in {Evidence.MAPPING, Evidence.ORIGIN}
        if few and known:
            return Certainty.PROVED
        return Certainty.LIKELY if few or known else Certainty.INFERRED

    @property
    def address_changed(self) -> bool:
        """Whether the rewrite changed the address."""
        return self.rewrite is not None and self.rewrite.address != _end(self.segment, self.rewrite.side)[0]

    @property
    def port_changed(self) -> bool:
        """Whether the rewrite changed the port."""
        return self.rewrite is not None and self.rewrite.port != _end(self.segment, self.rewrite.side)[1]


def explain(segment: Segment, knowledge: Knowledge) -> Finding:
    """The verdict over one segment, and the evidence for it."""
    if segment.protocol is Protocol.UDP and segment.stored == 0 and segment.source.version == 4:
        return Finding(Verdict.ZERO, segment, None)
    correct = correct_sum(segment) if segment.complete else None
    if segment.protocol is Protocol.UDP and segment.stored == 0:
        # NAT never makes it so, and the sum of zeros that it may happen to be is sent as 0xffff.
        return Finding(Verdict.CORRUPT, segment, correct)
    if segment.complete and is_right(segment):
        return Finding(Verdict.RIGHT, segment, correct)
    # It covers the addresses alone, so it can be told however much of the packet was captured.
    if segment.stored == partial_sum(segment):
        return Finding(Verdict.PARTIAL, segment, correct)
    if not segment.complete:
        return Finding(Verdict.UNVERIFIABLE, segment, None)
    return _explain_wrong(segment, correct, knowledge)


def _explain_wrong(segment: Segment, correct: int | None, knowledge: Knowledge) -> Finding:
    # What all that the sum covers adds up to is 0 where it is right, and where a rewrite was left out of it, just what
    # that rewrite changed.
    error = (_pseudo_header(segment) + _words(segment.data)) % MODULUS
    found: Rewrite | None = None
    tried: set[int] = set()
    for rewrite in _candidates(segment, knowledge):
        if found is not None and rewrite.evidence is not found.evidence:
            break
        changed = _change(segment, rewrite)
        if changed:
            tried.add(changed)
        if found is None and changed == error:
            found = rewrite
    return Finding(Verdict.CORRUPT if found is None else Verdict.STALE, segment, correct, found, len(tried))


def is_right(segment: Segment) -> bool:
    """Whether the stored sum verifies, as a receiver does it (RFC 1071: everything sums to all ones)."""
    return _fold(_pseudo_header(segment) + _words(segment.data)) == 0xFFFF


def correct_sum(segment: Segment) -> int:
    """The sum that a complete segment should carry; a UDP sum of 0 is sent as 0xffff (RFC 768)."""
    total = _fold(_pseudo_header(segment) + _words(segment.data) - segment.stored)
    return (~total & 0xFFFF) or (0xFFFF if segment.protocol is Protocol.UDP else 0)


def partial_sum(segment: Segment) -> int:
    """What the field holds while a device is still to compute the sum: the pseudo-header's, not complemented."""
    return _fold(_pseudo_header(segment))


def _candidates(segment: Segment, knowledge: Knowledge) -> Iterator[Rewrite]:
    """Rewrites that NAT may have done, the best evidence first."""
    for mapping in knowledge.mappings:
        if mapping.protocol is segment.protocol:
            yield from _of_mapping(segment, mapping, knowledge.host_addresses)
    for origin in knowledge.origins:
        yield from _of_origin(segment, origin)
    for address in knowledge.host_addresses:
        if segment.destination.version == 4:
            yield Rewrite(Side.DESTINATION, address, segment.destination_port, Evidence.HOST_ADDRESS)
    if not knowledge.origins and not any(_leads_to(mapping, segment) for mapping in knowledge.mappings):
        yield from _neighbours(segment)


def _leads_to(mapping: KnownMapping, segment: Segment) -> bool:
    target = (mapping.protocol, mapping.container_address, mapping.container_port)
    return target == (segment.protocol, segment.destination, segment.destination_port)


def _of_mapping(segment: Segment, mapping: KnownMapping, host_addresses: Iterable[IPv4Address]) -> Iterator[Rewrite]:
    published: tuple[Address, ...] = (mapping.host_address,) if mapping.host_address else tuple(host_addresses)
    container = (mapping.container_address, mapping.container_port)
    if _leads_to(mapping, segment):
        # The sum may have missed the address, the port, or both.
        for address in published:
            yield Rewrite(Side.DESTINATION, address, mapping.container_port, Evidence.MAPPING, mapping)
            yield Rewrite(Side.DESTINATION, address, mapping.host_port, Evidence.MAPPING, mapping)
        yield Rewrite(Side.DESTINATION, container[0], mapping.host_port, Evidence.MAPPING, mapping)
    if segment.source in published and segment.source_port == mapping.host_port:
        # A reply, whose source was rewritten on the way back.
        yield Rewrite(Side.SOURCE, container[0], mapping.host_port, Evidence.MAPPING, mapping)
        yield Rewrite(Side.SOURCE, *container, Evidence.MAPPING, mapping)
        yield Rewrite(Side.SOURCE, segment.source, mapping.container_port, Evidence.MAPPING, mapping)


def _of_origin(segment: Segment, origin: Origin) -> Iterator[Rewrite]:
    if origin.address.version != segment.destination.version:
        return
    yield Rewrite(Side.DESTINATION, origin.address, segment.destination_port, Evidence.ORIGIN)
    if origin.port is not None:
        # As with a mapping: the sum may have missed both, or the port alone.
        yield Rewrite(Side.DESTINATION, origin.address, origin.port, Evidence.ORIGIN)
        yield Rewrite(Side.DESTINATION, segment.destination, origin.port, Evidence.ORIGIN)


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
            yield Rewrite(Side.DESTINATION, address, segment.destination_port, Evidence.NEIGHBOURHOOD)


def _change(segment: Segment, rewrite: Rewrite) -> int:
    """What the rewrite changed in the sum of all that the checksum covers."""
    address, port = _end(segment, rewrite.side)
    return (_words(address.packed) + port - _words(rewrite.address.packed) - rewrite.port) % MODULUS


def _end(segment: Segment, side: Side) -> tuple[Address, int]:
    if side is Side.SOURCE:
        return segment.source, segment.source_port
    return segment.destination, segment.destination_port


def _pseudo_header(segment: Segment) -> int:
    # RFC 9293 3.1 and RFC 8200 8.1: addresses, protocol and length; as 16-bit words the two layouts sum alike.
    addresses = segment.source.packed + segment.destination.packed
    return _words(addresses) + segment.protocol.number + (segment.length >> 16) + (segment.length & 0xFFFF)


def _words(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    return sum(struct.unpack(f">{len(padded) // 2}H", padded))


def _fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
