"""The layouts of ``bpf/abi.h``, packed and unpacked. Addresses and ports travel in network byte order.

Be aware: every ``struct`` format here has a C twin; ``tests/unit/test_abi.py`` compares them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from dataplane.types import Address, ChecksumMode, IfIndex, IsolationPolicy

U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")
NETWORK = struct.Struct("=IBBH")
ORIGIN_KEY = struct.Struct("=4s2sBB")
ORIGIN = struct.Struct("=4s2sH")
FLOW_KEY = struct.Struct("=I4s4s2s2sI")
FLOW = struct.Struct("=II")
CHECKSUM_COUNTS = struct.Struct("=6Q")
NETWORK_PAIR = struct.Struct("=II")
EVENT = struct.Struct("=QIIIII16s16s2s2sBBBx2s2s4s2s2x")

MAX_ORIGIN_SLOTS = 16
"""How often one container port can be published and still be proved stale: MAX_ORIGIN_SLOTS of ``bpf/maps.h``."""

MAX_HOST_ADDRESSES = 64
"""Local addresses that a wildcard mapping is proved against: MAX_HOST_ADDRESSES of ``bpf/maps.h``."""

MANUAL_NETWORK = 1 << 31
"""Bit in the id of a network that no attachment asked for: a device that was hooked by hand."""


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """``struct network``: the network behind one container-facing device."""

    id: int
    policy: IsolationPolicy
    checksum: ChecksumMode

    def pack(self) -> bytes:
        return NETWORK.pack(self.id, self.policy, self.checksum, 0)

    @classmethod
    def unpack(cls, raw: bytes) -> NetworkEntry:
        number, policy, checksum, _ = NETWORK.unpack(raw)
        return cls(number, IsolationPolicy(policy), ChecksumMode(checksum))


@dataclass(frozen=True, slots=True)
class OriginKey:
    """``struct origin_key``: a port of a container, and which of its publications."""

    address: IPv4Address
    protocol: int
    port: int
    slot: int

    def pack(self) -> bytes:
        return ORIGIN_KEY.pack(self.address.packed, self.port.to_bytes(2, "big"), self.protocol, self.slot)

    @classmethod
    def unpack(cls, raw: bytes) -> OriginKey:
        address, port, protocol, slot = ORIGIN_KEY.unpack(raw)
        return cls(IPv4Address(address), protocol, int.from_bytes(port, "big"), slot)


@dataclass(frozen=True, slots=True)
class Origin:
    """``struct origin``: where such traffic was sent before DNAT; address 0.0.0.0 is every local address."""

    address: IPv4Address
    port: int

    def pack(self) -> bytes:
        return ORIGIN.pack(self.address.packed, self.port.to_bytes(2, "big"), 0)

    @classmethod
    def unpack(cls, raw: bytes) -> Origin:
        address, port, _ = ORIGIN.unpack(raw)
        return cls(IPv4Address(address), int.from_bytes(port, "big"))


@dataclass(frozen=True, slots=True)
class ChecksumCounts:
    """``struct checksum_counts``, summed over the CPUs: packets."""

    good: int = 0
    stale: int = 0
    repaired: int = 0
    corrupt: int = 0
    offloaded: int = 0
    unreadable: int = 0

    @classmethod
    def unpack(cls, raw: bytes) -> ChecksumCounts:
        return cls(*CHECKSUM_COUNTS.unpack(raw))


class EventKind(IntEnum):
    """``enum event_kind``."""

    ISOLATED = 1
    STALE = 2
    CORRUPT = 3


class EventAction(IntEnum):
    """``enum event_action``."""

    NONE = 0
    DROPPED = 1
    REPAIRED = 2


@dataclass(frozen=True, slots=True)
class Event:
    """``struct event``: one finding of a program. Addresses are None where the packet is neither IPv4 nor IPv6."""

    time_ns: int
    kind: EventKind
    ifindex: IfIndex
    ingress_ifindex: IfIndex
    source_network: int
    destination_network: int
    source: Address | None
    destination: Address | None
    source_port: int
    destination_port: int
    protocol: int
    action: EventAction
    stored: int
    correct: int
    origin: IPv4Address
    origin_port: int

    @classmethod
    def unpack(cls, raw: bytes) -> Event:
        (time_ns, kind, ifindex, ingress, source_network, destination_network, saddr, daddr, sport, dport,
         family, protocol, action, stored, correct, origin, origin_port) = EVENT.unpack(raw)  # fmt: skip
        return cls(
            time_ns=time_ns,
            kind=EventKind(kind),
            ifindex=IfIndex(ifindex),
            ingress_ifindex=IfIndex(ingress),
            source_network=source_network,
            destination_network=destination_network,
            source=_address(family, saddr),
            destination=_address(family, daddr),
            source_port=int.from_bytes(sport, "big"),
            destination_port=int.from_bytes(dport, "big"),
            protocol=protocol,
            action=EventAction(action),
            stored=int.from_bytes(stored, "big"),
            correct=int.from_bytes(correct, "big"),
            origin=IPv4Address(origin),
            origin_port=int.from_bytes(origin_port, "big"),
        )


def _address(family: int, raw: bytes) -> Address | None:
    if family == 4:
        return IPv4Address(raw[:4])
    return IPv6Address(raw) if family == 6 else None
