"""The layouts of ``bpf/abi.h``, packed and unpacked. Addresses and ports travel in network byte order.

Be aware: every ``struct`` format here has a C twin; ``tests/unit/test_abi.py`` compares them.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from dataplane.types import Address, ChecksumMode, GuardLevel, IfIndex, IsolationPolicy

U16 = struct.Struct("=H")
U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")
ADDRESS = struct.Struct("=16s")
NETWORK = struct.Struct("=IBBBx")
SETTINGS = struct.Struct("=I4xQ")
ORIGIN_KEY = struct.Struct("=16s2sBB")
ORIGIN = struct.Struct("=16s2s2x")
PUBLISHED_KEY = struct.Struct("=16s2sBB")
TARGET = struct.Struct("=16s2sBx")
HOST_ADDRESS_KEY = struct.Struct("=HBx")
CONTAINER_KEY = struct.Struct("=IHBx")
FLOW_KEY = struct.Struct("=16s16s2s2sII")
FLOW = struct.Struct("=HH")
CHECKSUM_COUNTS = struct.Struct("=7Q")
FILL_KEY = struct.Struct("=I2s2x")
NETWORK_PAIR = struct.Struct("=II")
OFFENDER = struct.Struct("=Q16s16s2s2sBB6s4x")
PORT = struct.Struct("=IBB6s")
PORT_ADDRESS_KEY = struct.Struct("=I16s")
GUARD_DROP_KEY = struct.Struct("=II")
PEER_KEY = struct.Struct("=Q16s2s6x")
PEER = struct.Struct("=16s2s2x")
EVENT = struct.Struct("=QIIIII16s16s16s16s2s2s2s2s2s2sHBBBB6s4x")

MAX_ORIGIN_SLOTS = 16
"""How often one container port can be published and still be proved stale: MAX_ORIGIN_SLOTS of ``bpf/maps.h``."""

MANUAL_NETWORK = 1 << 31
"""Bit in the id of a network that no attachment asked for: a device that was hooked by hand."""


NO_ADDRESS = bytes(16)
"""``struct address`` that is none, or any."""

_MAPPED = bytes(10) + b"\xff\xff"


def pack_address(address: Address | None) -> bytes:
    """``struct address``: IPv6 as it is, IPv4 as ::ffff:a.b.c.d; all zeros for None."""
    if address is None:
        return NO_ADDRESS
    return _MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed


def unpack_address(raw: bytes) -> Address | None:
    """The address of a ``struct address``; None where it is all zeros."""
    if raw == NO_ADDRESS:
        return None
    return IPv4Address(raw[12:]) if raw.startswith(_MAPPED) else IPv6Address(raw)


def folded(address: Address) -> int:
    """What an address adds up to in ones' complement, 1 to 0xffff, in the byte order of a packet as this host reads
    it: the ``sum`` of keys."""
    total: int = sum(word for (word,) in struct.iter_unpack("=H", address.packed))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pack_port(port: int) -> bytes:
    """A port, as packets have it."""
    return port.to_bytes(2, "big")


def _unpack_port(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """``struct network``: the network behind one container-facing device."""

    id: int
    policy: IsolationPolicy
    checksum: ChecksumMode
    masquerades: bool = False

    def pack(self) -> bytes:
        return NETWORK.pack(self.id, self.policy, self.checksum, self.masquerades)

    @classmethod
    def unpack(cls, raw: bytes) -> NetworkEntry:
        number, policy, checksum, masquerades = NETWORK.unpack(raw)
        return cls(number, IsolationPolicy(policy), ChecksumMode(checksum), bool(masquerades))


@dataclass(frozen=True, slots=True)
class HostSettings:
    """``struct settings``: what holds for the whole host."""

    mark: int
    netns_cookie: int = 0
    """Of the host's network namespace."""

    def pack(self) -> bytes:
        return SETTINGS.pack(self.mark, self.netns_cookie)

    @classmethod
    def unpack(cls, raw: bytes) -> HostSettings:
        return cls(*SETTINGS.unpack(raw))


@dataclass(frozen=True, slots=True)
class OriginKey:
    """``struct origin_key``: a port of a container, and which of its publications."""

    address: Address
    protocol: int
    port: int
    slot: int

    def pack(self) -> bytes:
        return ORIGIN_KEY.pack(pack_address(self.address), pack_port(self.port), self.protocol, self.slot)

    @classmethod
    def unpack(cls, raw: bytes) -> OriginKey:
        address, port, protocol, slot = ORIGIN_KEY.unpack(raw)
        return cls(_known(address), protocol, _unpack_port(port), slot)


@dataclass(frozen=True, slots=True)
class Origin:
    """``struct origin``: where such traffic was sent before DNAT."""

    address: Address | None
    """None is every local address."""
    port: int

    def pack(self) -> bytes:
        return ORIGIN.pack(pack_address(self.address), pack_port(self.port))

    @classmethod
    def unpack(cls, raw: bytes) -> Origin:
        address, port = ORIGIN.unpack(raw)
        return cls(unpack_address(address), _unpack_port(port))


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """``struct published_key``: a port of the host."""

    address: Address | None
    """None is every local address of the family."""
    family: int
    protocol: int
    port: int

    def pack(self) -> bytes:
        return PUBLISHED_KEY.pack(pack_address(self.address), pack_port(self.port), self.protocol, self.family)

    @classmethod
    def unpack(cls, raw: bytes) -> PublishedKey:
        address, port, protocol, family = PUBLISHED_KEY.unpack(raw)
        return cls(unpack_address(address), family, protocol, _unpack_port(port))


@dataclass(frozen=True, slots=True)
class Target:
    """``struct target``: the container's port that a port of the host leads to."""

    address: Address
    port: int
    localhost: bool
    """Processes of the host reach it by a loopback address."""

    def pack(self) -> bytes:
        return TARGET.pack(pack_address(self.address), pack_port(self.port), self.localhost)

    @classmethod
    def unpack(cls, raw: bytes) -> Target:
        address, port, localhost = TARGET.unpack(raw)
        return cls(_known(address), _unpack_port(port), bool(localhost))


@dataclass(frozen=True, slots=True)
class Port:
    """``struct port``: what the container behind one host veth may send."""

    network: int
    guard: GuardLevel
    mac: str = ""
    """In lower case with colons; empty: any."""

    def pack(self) -> bytes:
        mac = bytes.fromhex(self.mac.replace(":", ""))
        return PORT.pack(self.network, self.guard, bool(mac), mac)

    @classmethod
    def unpack(cls, raw: bytes) -> Port:
        network, guard, has_mac, mac = PORT.unpack(raw)
        return cls(network, GuardLevel(guard), mac.hex(":") if has_mac else "")


def host_address_key(address: Address) -> bytes:
    """``struct host_address_key``."""
    return HOST_ADDRESS_KEY.pack(folded(address), address.version)


def container_key(network: int, address: Address) -> bytes:
    """``struct container_key``."""
    return CONTAINER_KEY.pack(network, folded(address), address.version)


def unpack_container_key(raw: bytes) -> int:
    """The network of such a key; the address is in the value."""
    network, _, _ = CONTAINER_KEY.unpack(raw)
    return int(network)


def port_address_key(ifindex: IfIndex, address: Address) -> bytes:
    """``struct port_address_key``."""
    return PORT_ADDRESS_KEY.pack(ifindex, pack_address(address))


def unpack_port_address_key(raw: bytes) -> tuple[IfIndex, Address]:
    """The host veth and the address of such a key."""
    ifindex, address = PORT_ADDRESS_KEY.unpack(raw)
    return IfIndex(ifindex), _known(address)


def fill_key(network: int, port: int) -> bytes:
    """``struct fill_key``."""
    return FILL_KEY.pack(network, pack_port(port))


def unpack_fill_key(raw: bytes) -> tuple[int, int]:
    """The network and the UDP port of such a key."""
    network, port = FILL_KEY.unpack(raw)
    return network, _unpack_port(port)


@dataclass(frozen=True, slots=True)
class ChecksumCounts:
    """``struct checksum_counts``, summed over the CPUs: packets."""

    good: int = 0
    stale: int = 0
    repaired: int = 0
    corrupt: int = 0
    partial: int = 0
    verified: int = 0
    unreadable: int = 0

    @classmethod
    def unpack(cls, raw: bytes) -> ChecksumCounts:
        return cls(*CHECKSUM_COUNTS.unpack(raw))


class EventKind(IntEnum):
    """``enum event_kind``."""

    ISOLATED = 1
    STALE = 2
    CORRUPT = 3
    GUARDED = 4


class EventAction(IntEnum):
    """``enum event_action``."""

    NONE = 0
    DROPPED = 1
    REPAIRED = 2


class Translation(IntEnum):
    """``enum translation``: which NAT of ours left a sum stale."""

    NONE = 0
    PUBLISHED = 1
    REPLY = 2
    MASQUERADE = 3
    UNMASQUERADE = 4
    BOTH = 5


class GuardReason(IntEnum):
    """``enum guard_reason``: why guard dropped a packet."""

    SOURCE_MAC = 1
    SOURCE_ADDRESS = 2
    ARP = 3
    NEIGHBOUR = 4
    ROUTER = 5
    DHCP_SERVER = 6
    LOOPBACK = 7
    UNREADABLE = 8
    BRIDGE = 9


@dataclass(frozen=True, slots=True)
class Offender:
    """``struct offender``: the last packet that was dropped. Addresses are None where it is neither IPv4 nor IPv6."""

    time_ns: int
    """CLOCK_MONOTONIC."""
    source: Address | None
    destination: Address | None
    source_port: int
    destination_port: int
    protocol: int
    mac: str
    """Source address of the frame."""

    @classmethod
    def unpack(cls, raw: bytes) -> Offender:
        time_ns, saddr, daddr, sport, dport, family, protocol, mac = OFFENDER.unpack(raw)
        return cls(
            time_ns=time_ns,
            source=_address(family, saddr),
            destination=_address(family, daddr),
            source_port=_unpack_port(sport),
            destination_port=_unpack_port(dport),
            protocol=protocol,
            mac=mac.hex(":"),
        )


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
    delta: int
    """What the sum lacks, as the packet has it: big-endian."""
    translation: Translation
    """Of ``STALE``."""
    origin_source: Address | None
    """Of ``STALE``: the tuple that the stored sum is right for."""
    origin_destination: Address | None
    origin_source_port: int
    origin_destination_port: int
    guard: GuardReason | None
    """Of ``GUARDED``."""
    mac: str
    """Of ``GUARDED``: source address of the frame."""

    @classmethod
    def unpack(cls, raw: bytes) -> Event:
        (time_ns, kind, ifindex, ingress, source_network, destination_network, saddr, daddr, origin_saddr, origin_daddr,
         origin_sport, origin_dport, sport, dport, stored, correct, delta,
         family, protocol, action, reason, mac) = EVENT.unpack(raw)  # fmt: skip
        return cls(
            time_ns=time_ns,
            kind=EventKind(kind),
            ifindex=IfIndex(ifindex),
            ingress_ifindex=IfIndex(ingress),
            source_network=source_network,
            destination_network=destination_network,
            source=_address(family, saddr),
            destination=_address(family, daddr),
            source_port=_unpack_port(sport),
            destination_port=_unpack_port(dport),
            protocol=protocol,
            action=EventAction(action),
            stored=int.from_bytes(stored, "big"),
            correct=int.from_bytes(correct, "big"),
            delta=int.from_bytes(delta.to_bytes(2, sys.byteorder), "big"),
            translation=Translation(reason if kind == EventKind.STALE else 0),
            origin_source=unpack_address(origin_saddr),
            origin_destination=unpack_address(origin_daddr),
            origin_source_port=_unpack_port(origin_sport),
            origin_destination_port=_unpack_port(origin_dport),
            guard=GuardReason(reason) if kind == EventKind.GUARDED else None,
            mac=mac.hex(":") if kind == EventKind.GUARDED else "",
        )


def _address(family: int, raw: bytes) -> Address | None:
    if family == 4:
        return IPv4Address(raw[12:])
    return IPv6Address(raw) if family == 6 else None


def _known(raw: bytes) -> Address:
    """An address that is there: all zeros are 0.0.0.0 or ::, which no container has."""
    return unpack_address(raw) or IPv6Address(0)
