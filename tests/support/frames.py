"""Ethernet frames with right, wrong and stale checksums, built by hand.

Flow(Protocol.TCP, "10.0.2.2", 54017, "10.88.0.116", 80)
frame(flow, b"payload")                               as a sender would
frame(flow, summed_for=flow.to("10.0.2.15", 80))      as a NAT that forgets the checksum leaves it
frame6(flow, b"payload", extensions=[HOP_BY_HOP])     over IPv6; icmp6() likewise
tagged(frame, 5)                                      in a VLAN
flipped(frame, bit)                                   as a bad cable leaves it
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from dataplane.types import Protocol

ETHERNET_LEN = 14
TCP_SYN, TCP_ACK = 0x02, 0x10

Extension = tuple[int, bytes]
"""An IPv6 extension header: its number, and its bytes; the first is overwritten with the number of what follows."""
HOP_BY_HOP, DESTINATION, MOBILITY = (0, bytes(8)), (60, bytes([0, 1]) + bytes(14)), (135, bytes(8))
AUTHENTICATION = (51, bytes([0, 4]) + bytes(22))
ROUTING, ROUTED = (43, bytes([0, 2, 2, 1]) + bytes(20)), (43, bytes([0, 2, 2, 0]) + bytes(20))
"""With one segment left to visit, and with none."""
WHOLE, FIRST, LATER = (44, bytes(8)), (44, bytes([0, 0, 0, 1]) + bytes(4)), (44, bytes([0, 0, 0, 8]) + bytes(4))
"""A fragment header on a packet that is none, on a first fragment, and on a later one."""

_IPV4, _IPV6, _VLAN = 0x0800, 0x86DD, 0x8100
_ICMPV6, _ECHO_REPLY = 58, 129
_CHECK_AT = {Protocol.TCP: 16, Protocol.UDP: 6}
_SOURCE_MAC, _DESTINATION_MAC = bytes.fromhex("0242ac110001"), bytes.fromhex("0242ac110002")


@dataclass(frozen=True, slots=True)
class Flow:
    """The five-tuple of a packet."""

    protocol: Protocol
    source: str
    source_port: int
    destination: str
    destination_port: int

    def to(self, address: str, port: int) -> Flow:
        """The same flow before DNAT took it to where it is now."""
        return replace(self, destination=address, destination_port=port)

    def of(self, address: str, port: int) -> Flow:
        """The same flow before SNAT, or the way back of DNAT, changed its source to what it is now."""
        return replace(self, source=address, source_port=port)

    @property
    def back(self) -> Flow:
        """The other direction."""
        return Flow(self.protocol, self.destination, self.destination_port, self.source, self.source_port)


def ones_sum(octets: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071), an odd last byte padded with zero."""
    total: int = sum(struct.unpack(f"!{(len(octets) + 1) // 2}H", octets + bytes(len(octets) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum_of(flow: Flow, segment: bytes) -> int:
    """The checksum that a segment with a zeroed checksum field carries in this flow."""
    check = ~ones_sum(_pseudo_header(flow, len(segment)) + segment) & 0xFFFF
    return 0xFFFF if check == 0 and flow.protocol is Protocol.UDP else check


def pseudo_sum(flow: Flow, length: int) -> int:
    """What a sender leaves in the checksum field for its device to complete."""
    return ones_sum(_pseudo_header(flow, length))


def frame(
    flow: Flow,
    payload: bytes = b"",
    *,
    summed_for: Flow | None = None,
    checksum: int | None = None,
    tcp_flags: int = TCP_ACK,
    ip_options: bytes = b"",
    fragment: int = 0,
    padding: bytes = b"",
    vlan: int | None = None,
    total_length: int | None = None,
    udp_length: int | None = None,
) -> bytes:
    """A TCP or UDP packet over IPv4. ``summed_for`` is the flow that its checksum is computed for; ``checksum`` is it
    outright; ``fragment`` is the flags and offset field; ``padding`` follows the IP packet; lengths may lie."""
    segment = _segment(flow, payload, tcp_flags, udp_length)
    at = _CHECK_AT[flow.protocol]
    before = summed_for or flow
    check = checksum_of(before, _segment(before, payload, tcp_flags, udp_length)) if checksum is None else checksum
    segment = segment[:at] + struct.pack("!H", check) + segment[at + 2 :]
    packet = _ipv4(flow, segment, ip_options, fragment, total_length) + segment
    tag = b"" if vlan is None else struct.pack("!HH", _VLAN, vlan)
    return _DESTINATION_MAC + _SOURCE_MAC + tag + struct.pack("!H", _IPV4) + packet + padding


def frame6(
    flow: Flow,
    payload: bytes = b"",
    *,
    summed_for: Flow | None = None,
    checksum: int | None = None,
    tcp_flags: int = TCP_ACK,
    extensions: Sequence[Extension] = (),
    padding: bytes = b"",
) -> bytes:
    """A TCP or UDP packet over IPv6; as ``frame``."""
    segment = _segment(flow, payload, tcp_flags, None)
    at = _CHECK_AT[flow.protocol]
    before = summed_for or flow
    check = checksum_of(before, _segment(before, payload, tcp_flags, None)) if checksum is None else checksum
    segment = segment[:at] + struct.pack("!H", check) + segment[at + 2 :]
    return _ipv6(flow.source, flow.destination, flow.protocol.number, segment, extensions) + padding


def icmp6(source: str, destination: str, payload: bytes = b"", *, summed_for: tuple[str, str] | None = None) -> bytes:
    """An ICMPv6 echo reply. ``summed_for`` are the addresses that its checksum is computed for."""
    message = struct.pack("!BBHHH", _ECHO_REPLY, 0, 0, 7, 1) + payload
    check = ~ones_sum(_pseudo(*(summed_for or (source, destination)), _ICMPV6, len(message)) + message) & 0xFFFF
    message = message[:2] + struct.pack("!H", check) + message[4:]
    return _ipv6(source, destination, _ICMPV6, message, ())


def tagged(octets: bytes, *vlans: int) -> bytes:
    """The frame with 802.1Q tags, the outermost first."""
    return octets[:12] + b"".join(struct.pack("!HH", _VLAN, vlan) for vlan in vlans) + octets[12:]


def flipped(octets: bytes, bit: int) -> bytes:
    """The frame with one bit changed, counted from the first bit of the first byte."""
    changed = bytearray(octets)
    changed[bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed)


def stored_checksum(octets: bytes, protocol: Protocol) -> int:
    """The checksum field of an untagged frame."""
    at = ETHERNET_LEN + (octets[ETHERNET_LEN] & 0xF) * 4 + _CHECK_AT[protocol]
    return int.from_bytes(octets[at : at + 2], "big")


def seed_stale_syn() -> bytes:
    """The frame of a known issue: SYN to 10.88.0.116:80, checksum 0xd776, right for 10.0.2.15:80; should be 0xd8b9."""
    lines = (Path(__file__).parent.parent / "data" / "seed_stale_syn.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def _pseudo_header(flow: Flow, length: int) -> bytes:
    return _pseudo(flow.source, flow.destination, flow.protocol.number, length)


def _pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    # As sums, the pseudo headers of IPv4 (RFC 9293, 3.1) and of IPv6 (RFC 8200, 8.1) are laid out alike.
    return ip_address(source).packed + ip_address(destination).packed + struct.pack("!HI", protocol, length)


def _ipv6(source: str, destination: str, protocol: int, payload: bytes, extensions: Sequence[Extension]) -> bytes:
    following = [*(number for number, _ in extensions[1:]), protocol][: len(extensions)]
    headers = b"".join(bytes([after]) + octets[1:] for (_, octets), after in zip(extensions, following, strict=True))
    first = extensions[0][0] if extensions else protocol
    head = struct.pack("!IHBB", 6 << 28, len(headers) + len(payload), first, 64)
    addresses = IPv6Address(source).packed + IPv6Address(destination).packed
    return _DESTINATION_MAC + _SOURCE_MAC + struct.pack("!H", _IPV6) + head + addresses + headers + payload


def _segment(flow: Flow, payload: bytes, tcp_flags: int, udp_length: int | None) -> bytes:
    if flow.protocol is Protocol.TCP:
        header = struct.pack(
            "!HHIIBBHHH", flow.source_port, flow.destination_port, 0x8B4C4A01, 0, 5 << 4, tcp_flags, 65535, 0, 0
        )
    else:
        length = 8 + len(payload) if udp_length is None else udp_length
        header = struct.pack("!HHHH", flow.source_port, flow.destination_port, length, 0)
    return header + payload


def _ipv4(flow: Flow, segment: bytes, options: bytes, fragment: int, total_length: int | None) -> bytes:
    length = 20 + len(options)
    total = length + len(segment) if total_length is None else total_length
    addresses = IPv4Address(flow.source).packed + IPv4Address(flow.destination).packed
    head = struct.pack("!BBHHHBB", 0x40 | length // 4, 0, total, 8844, fragment, 63, flow.protocol.number)
    check = ~ones_sum(head + addresses + options) & 0xFFFF
    return head + struct.pack("!H", check) + addresses + options
