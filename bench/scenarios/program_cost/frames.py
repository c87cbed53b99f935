"""Ethernet frames for programs to be run on: TCP and UDP over IPv4, with the checksum that a case is about.

frame(Flow("udp", CLIENT, 4000, CONTAINER, 80), 64)                  64 bytes, as a sender would
frame(flow, 1500, summed_for=flow.to("10.0.2.15", 8080))             as a NAT that forgets the checksum leaves it
frame(flow, 64, partial=True)                                        not summed yet: a device was to do it
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from dataplane.types import Protocol

ETHERNET = 14
SYN, ACK = 0x02, 0x10

_IPV4 = 0x0800
_IP_HEADER = 20
_CHECK_AT = {Protocol.TCP: 16, Protocol.UDP: 6}
_PATTERN = bytes(range(1, 251))


@dataclass(frozen=True, slots=True)
class Flow:
    """The five-tuple of a packet, and the hardware addresses around it."""

    protocol: Protocol
    source: str
    source_port: int
    destination: str
    destination_port: int
    source_mac: str = "02:00:00:00:00:01"
    destination_mac: str = "02:00:00:00:00:02"

    def to(self, address: str, port: int) -> Flow:
        """The same flow before DNAT took it to where it is now."""
        return replace(self, destination=address, destination_port=port)

    @property
    def check_at(self) -> int:
        """Where the checksum is in a frame of this flow."""
        return ETHERNET + _IP_HEADER + _CHECK_AT[self.protocol]


def frame(
    flow: Flow, length: int, *, summed_for: Flow | None = None, partial: bool = False, flags: int = ACK
) -> bytes:  # fmt: skip
    """A frame of so many bytes. ``summed_for`` is the flow that its checksum is computed for; ``flags`` are TCP's."""
    check = _check(summed_for or flow, length, flags)
    if partial:
        check = _sum(_pseudo_header(flow, length - ETHERNET - _IP_HEADER))
    segment = bytearray(_segment(flow, length, flags))
    struct.pack_into("!H", segment, _CHECK_AT[flow.protocol], check)
    addresses = IPv4Address(flow.source).packed + IPv4Address(flow.destination).packed
    head = struct.pack("!BBHHHBB", 0x45, 0, length - ETHERNET, 1, 0, 64, flow.protocol.number)
    head += struct.pack("!H", ~_sum(head + addresses) & 0xFFFF) + addresses
    macs = bytes.fromhex((flow.destination_mac + flow.source_mac).replace(":", ""))
    return macs + struct.pack("!H", _IPV4) + head + bytes(segment)


def _check(flow: Flow, length: int, flags: int) -> int:
    check = ~_sum(_pseudo_header(flow, length - ETHERNET - _IP_HEADER) + _segment(flow, length, flags)) & 0xFFFF
    return 0xFFFF if not check and flow.protocol is Protocol.UDP else check


def _segment(flow: Flow, length: int, flags: int) -> bytes:
    """Transport header with a checksum of zero, and a payload that fills the frame."""
    inner = length - ETHERNET - _IP_HEADER
    if flow.protocol is Protocol.TCP:
        head = struct.pack("!HHIIBBHHH", flow.source_port, flow.destination_port, 1, 0, 5 << 4, flags, 65535, 0, 0)
    else:
        head = struct.pack("!HHHH", flow.source_port, flow.destination_port, inner, 0)
    return head + (_PATTERN * (inner // len(_PATTERN) + 1))[: inner - len(head)]


def _pseudo_header(flow: Flow, length: int) -> bytes:
    addresses = IPv4Address(flow.source).packed + IPv4Address(flow.destination).packed
    return addresses + struct.pack("!HH", flow.protocol.number, length)


def _sum(octets: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(octets) + 1) // 2}H", octets + bytes(len(octets) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
