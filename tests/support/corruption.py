"""Packets that a receiver must refuse, by the thousand: right and stale ones with damage of several kinds. Pure.

for case in cases(random.Random(1), flows, origin, 1000): ...
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from control.checksums.checksum import is_right
from control.checksums.frame import LinkType, parse
from dataplane.types import Protocol
from support.frames import ETHERNET_LEN, TCP_SYN, Flow, frame, frame6, ones_sum


class Kind(StrEnum):
    """What a packet is."""

    GOOD = "good"
    STALE = "stale"  # right for where it was sent before DNAT
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class Case:
    """A frame as it is sent, and what its receiver is to see of it."""

    kind: Kind
    flow: Flow
    sent: bytes
    expected: bytes
    """The transport segment."""
    payload: bytes
    """What a UDP socket reads, if it is delivered."""


def segment_at(flow: Flow) -> int:
    """Where the transport header of a frame without options starts."""
    return ETHERNET_LEN + (40 if ":" in flow.source else 20)


def built(flow: Flow, payload: bytes, before: Flow | None = None) -> bytes:
    """A UDP packet, or a TCP SYN that carries data."""
    build = frame6 if ":" in flow.source else frame
    return build(flow, payload, summed_for=before, tcp_flags=TCP_SYN)


def cases(
    rng: random.Random, flows: Sequence[Flow], before: Callable[[Flow], Flow], corrupt: int, others: int
) -> Iterator[Case]:
    """So many corrupt packets, and so many right and stale ones, in any order; ``before`` is a flow before NAT. Every
    other flow is stale."""
    order = [Kind.CORRUPT] * corrupt + [Kind.GOOD, Kind.STALE] * (others // 2)
    rng.shuffle(order)
    for kind in order:
        number = rng.randrange(len(flows) // 2)
        flow = flows[2 * number + (kind is Kind.STALE or (kind is Kind.CORRUPT and rng.random() < 0.5))]
        payload = rng.randbytes(rng.randrange(8, 200))
        right = built(flow, payload)
        stale = built(flow, payload, before(flow))
        start = segment_at(flow)
        if kind is Kind.CORRUPT:
            sent = damaged(rng, rng.choice((right, stale)), flow)
            yield Case(kind, flow, sent, sent[start:], b"")
        else:
            yield Case(kind, flow, stale if kind is Kind.STALE else right, right[start:], payload)


def damaged(rng: random.Random, octets: bytes, flow: Flow) -> bytes:
    """With one flipped bit, a few, a byte or two overwritten, or a part lost and filled with zeros; behind the ports
    and lengths, for other ports would be another flow's. Never such that its sum is right, or says "none", or is not
    touched by it: what an Internet checksum cannot see, as two flips that cancel out, nobody can refuse."""
    first = segment_at(flow) + (6 if flow.protocol is Protocol.UDP else 4)
    while True:
        changed = bytearray(octets)
        match rng.randrange(6):
            case 0 | 1 | 2:
                _flip(rng, changed, first, 1)
            case 3:
                _flip(rng, changed, first, rng.randrange(2, 5))
            case 4:
                at = rng.randrange(first, len(changed) - 1)
                changed[at : at + 2] = rng.randbytes(2)
            case 5:
                at = rng.randrange(first, len(changed))
                changed[at:] = bytes(len(changed) - at)
        stored = int.from_bytes(changed[first : first + 2], "big") if flow.protocol is Protocol.UDP else 1
        seen = (ones_sum(bytes(changed[first:])) - ones_sum(octets[first:])) % 0xFFFF
        length_at = segment_at(flow) + (12 if flow.protocol is Protocol.TCP else 4)
        if (
            stored
            and seen
            and changed[length_at] == octets[length_at]
            and not is_right(parse(bytes(changed), LinkType.ETHERNET))
        ):
            return bytes(changed)


def _flip(rng: random.Random, octets: bytearray, first: int, count: int) -> None:
    for bit in rng.sample(range(first * 8, len(octets) * 8), count):
        octets[bit // 8] ^= 0x80 >> bit % 8
