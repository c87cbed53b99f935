"""Whose fault a wrong TCP, UDP or ICMPv6 checksum is: verdicts over single frames, with their evidence. Pure.

    explain(segment, Knowledge(mappings, host_addresses, containers, origins)) -> Finding

A sum covers the addresses and ports, so it tells which ones it was made for. Where it becomes right by undoing exactly
one rewrite that NAT does, and by nothing else, the payload is intact and NAT left the sum stale:

    stored sum right for ...                                     evidence          certainty at best
    what conntrack says that the packet was                      CONNTRACK         proved
    the tuple before DNAT (or un-DNAT) of a mapping we know      MAPPING           proved
    the tuple that the user says it was sent to                  ORIGIN            proved, if that is true
    a tuple before (un-)masquerading a container, or both        CONTAINER         proved
    an address of this host in place of the destination          HOST_ADDRESS      likely
    one address of the client's own /24 in place of it           NEIGHBOURHOOD     inferred, and only where neither a
                                                                                   mapping nor the user tells more

Be aware: 16 bits identify no address. A random wrong sum fits one given tuple by chance once in 65,535, and some
address of a /24 once in 259. So a verdict counts what was tried for it, and its certainty falls with that number: of a
host with more than 32 addresses, a port that is published on all of them proves nothing by itself. Conntrack, which
knows the one tuple that it was, does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum

from control.checksums.frame import Segment, SumState, Transport
from control.checksums.rewrites import Ends, Evidence, Knowledge, Rewrite, Side, ends_of, receiver, rewrites, side_of
from control.model import AttachmentKey

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


class Certainty(StrEnum):
    """How far a stale verdict can be relied on."""

    PROVED = "proved"
    """A rewrite that is known to be done here fits, which a random error does at most once in 1,000."""
    LIKELY = "likely"
    """One of the two: known, or that rarely by chance; or conntrack says otherwise of a flow with these ends."""
    INFERRED = "inferred"
    """Neither: found by a search, in which a random error would find something, too."""


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
    tracked: Ends | None = None
    """What conntrack says that the packet was before NAT; None where it was not asked, or does not know the flow."""
    state: SumState | None = None
    """What the kernel knows about the sum; None of a frame that was not captured here."""
    receiver: AttachmentKey | None = None
    """Of a stale or corrupt sum: the container that the packet goes to, if it is one of ours."""

    @property
    def one_in(self) -> int | None:
        """Of a stale sum: one in so many random errors would have been explained just as well."""
        return None if self.rewrite is None else MODULUS // self.tried

    @property
    def certainty(self) -> Certainty | None:
        """Of a stale sum: how far the verdict can be relied on."""
        if self.rewrite is None:
            return None
        few, known = self.tried <= MAX_PROVED, self.rewrite.evidence.known
        contradicted = self.tracked is not None and self.rewrite.evidence is not Evidence.CONNTRACK
        if few and known and not contradicted:
            return Certainty.PROVED
        return Certainty.LIKELY if few or known else Certainty.INFERRED

    @property
    def side(self) -> Side | None:
        """Which end the rewrite changed."""
        return None if self.rewrite is None else side_of(self.rewrite.before, ends_of(self.segment))

    @property
    def address_changed(self) -> bool:
        """Whether the rewrite changed an address."""
        if self.rewrite is None:
            return False
        before, now = self.rewrite.before, self.segment
        return (before.source, before.destination) != (now.source, now.destination)

    @property
    def port_changed(self) -> bool:
        """Whether the rewrite changed a port."""
        if self.rewrite is None:
            return False
        before, now = self.rewrite.before, self.segment
        return (before.source_port, before.destination_port) != (now.source_port, now.destination_port)


def explain(
    segment: Segment, knowledge: Knowledge, tracked: Ends | None = None, state: SumState | None = None
) -> Finding:
    """The verdict over one segment, and the evidence for it.

    ``tracked`` is what conntrack says that it was before NAT; ``state`` what the kernel says about its sum.
    """
    if segment.protocol is Transport.UDP and segment.stored == 0 and segment.source.version == 4:
        return Finding(Verdict.ZERO, segment, None, state=state)
    correct = correct_sum(segment) if segment.complete else None
    if state is SumState.PARTIAL:
        return Finding(Verdict.PARTIAL, segment, correct, state=state)
    if segment.protocol is Transport.UDP and segment.stored == 0:
        # NAT never makes it so, and the sum of zeros that it may happen to be is sent as 0xffff.
        return Finding(Verdict.CORRUPT, segment, correct, state=state)
    if segment.complete and is_right(segment):
        return Finding(Verdict.RIGHT, segment, correct, state=state)
    # It covers the addresses alone, so it can be told however much of the packet was captured. Where the kernel says
    # that it is a full sum, it is one that happens to look so.
    if state is None and segment.stored == partial_sum(segment):
        return Finding(Verdict.PARTIAL, segment, correct)
    if not segment.complete:
        return Finding(Verdict.UNVERIFIABLE, segment, None, state=state)
    return _explain_wrong(segment, correct, knowledge, tracked, state)


def _explain_wrong(
    segment: Segment, correct: int | None, knowledge: Knowledge, tracked: Ends | None, state: SumState | None
) -> Finding:
    # What all that the sum covers adds up to is 0 where it is right, and where a rewrite was left out of it, just what
    # that rewrite changed.
    error = (_pseudo_header(segment) + _words(segment.data)) % MODULUS
    found: Rewrite | None = None
    tried: set[int] = set()
    for rewrite in rewrites(segment, knowledge, tracked):
        if found is not None and rewrite.evidence is not found.evidence:
            break
        changed = _change(segment, rewrite.before)
        if changed:
            tried.add(changed)
        if found is None and changed == error:
            found = rewrite
    verdict = Verdict.CORRUPT if found is None else Verdict.STALE
    return Finding(verdict, segment, correct, found, len(tried), tracked, state, receiver(segment, knowledge))


def is_right(segment: Segment) -> bool:
    """Whether the stored sum verifies, as a receiver does it (RFC 1071: everything sums to all ones)."""
    return _fold(_pseudo_header(segment) + _words(segment.data)) == 0xFFFF


def correct_sum(segment: Segment) -> int:
    """The sum that a complete segment should carry; a UDP sum of 0 is sent as 0xffff (RFC 768)."""
    total = _fold(_pseudo_header(segment) + _words(segment.data) - segment.stored)
    return (~total & 0xFFFF) or (0xFFFF if segment.protocol is Transport.UDP else 0)


def partial_sum(segment: Segment) -> int:
    """What the field holds while a device is still to compute the sum: the pseudo-header's, not complemented."""
    return _fold(_pseudo_header(segment))


def _change(segment: Segment, before: Ends) -> int:
    """What a rewrite changed in the sum of all that the checksum covers. ICMPv6 has no ports that count: its are 0."""
    return (_ends_sum(ends_of(segment)) - _ends_sum(before)) % MODULUS


def _ends_sum(ends: Ends) -> int:
    return _words(ends.source.packed) + ends.source_port + _words(ends.destination.packed) + ends.destination_port


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
