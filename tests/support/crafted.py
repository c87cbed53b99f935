"""Frames of any content, layer by layer, with right checksums and lengths: what a container may send by a raw socket.

ethernet(ipv4("10.11.0.2", "10.11.0.3", UDP, udp(68, 67)), source=WEB_MAC)
ethernet(ipv6("fe80::1", "ff02::1", ICMP6, nd(136, "fd00:11::1", mac_option(2, WEB_MAC)), [extension(DESTINATION)]))
ethernet(arp(2, WEB_MAC, "10.11.0.1"), tags=[7])
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from support.frames import ones_sum

WEB_MAC, DB_MAC, STRANGER = "02:42:ac:11:00:02", "02:42:ac:11:00:03", "02:42:ac:11:00:ff"
BROADCAST, ALL_NODES = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"

IPV4, IPV6, ARP, RARP = 0x0800, 0x86DD, 0x0806, 0x8035
ICMP, IGMP, TCP, UDP, ICMP6, SCTP = 1, 2, 6, 17, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION, MOBILITY = 0, 43, 44, 51, 60, 135
FIRST, LATER = 0x2000, 0x0010
"""Flags and offset of IPv4: more fragments at 0; the last one, at 128."""

_CHECK_AT = {ICMP: 2, IGMP: 2, UDP: 6, ICMP6: 2}
_PSEUDO_HEADER = frozenset({UDP, ICMP6})


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension header of IPv6, without its first byte, which says what follows."""

    number: int
    rest: bytes


def raw_mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def link_local(mac: str) -> str:
    """The link-local address that a MAC gives (RFC 4291, appendix A)."""
    octets = raw_mac(mac)
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]))


def ethernet(
    payload: bytes,
    kind: int = 0,
    *,
    source: str = WEB_MAC,
    destination: str = BROADCAST,
    tags: Sequence[int] = (),
) -> bytes:
    """A frame; the protocol is that of the payload unless it is given. Tags are from the outermost."""
    if not kind:
        kind = {4: IPV4, 6: IPV6}.get(payload[0] >> 4, ARP)
    tagged = b"".join(struct.pack("!HH", 0x8100, tag) for tag in tags)
    return raw_mac(destination) + raw_mac(source) + tagged + struct.pack("!H", kind) + payload


def ipv4(
    source: str, destination: str, protocol: int, payload: bytes = b"", *, options: bytes = b"", fragment: int = 0
) -> bytes:
    """A packet. Of UDP, ICMP and IGMP the checksum is filled in, unless it is a fragment."""
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    if not fragment:
        payload = _summed(addresses, protocol, payload)
    length = 20 + len(options)
    head = struct.pack("!BBHHHBB", 0x40 | length // 4, 0, length + len(payload), 7, fragment, 64, protocol)
    check = ~ones_sum(head + addresses + options) & 0xFFFF
    return head + struct.pack("!H", check) + addresses + options + payload


def ipv6(
    source: str, destination: str, protocol: int, payload: bytes = b"", extensions: Sequence[Extension] = ()
) -> bytes:
    """A packet with a hop limit of 255. Of UDP and ICMPv6 the checksum is filled in."""
    addresses = IPv6Address(source).packed + IPv6Address(destination).packed
    numbers = [one.number for one in extensions] + [protocol]
    chain = b"".join(bytes([after]) + one.rest for one, after in zip(extensions, numbers[1:], strict=True))
    content = chain + _summed(addresses, protocol, payload)
    return struct.pack("!IHBB", 6 << 28, len(content), numbers[0], 255) + addresses + content


def extension(number: int, words: int = 0) -> Extension:
    """One of so many times 8 bytes besides its first 8, full of padding; of AH, a header of 16 bytes and more."""
    if number == AH:
        return Extension(AH, bytes([2 + 2 * words]) + bytes(14 + 8 * words))
    if number == FRAGMENT:
        return fragment6()
    if number == ROUTING:
        return Extension(ROUTING, bytes([words, 4, 0]) + bytes(4 + 8 * words))
    room = 6 + 8 * words
    return Extension(number, bytes([words, 1, room - 2]) + bytes(room - 2))  # PadN


def fragment6(offset: int = 0, *, more: bool = False) -> Extension:
    """A fragment header; the offset is in bytes. Without either it is an atomic fragment (RFC 6946)."""
    return Extension(FRAGMENT, struct.pack("!BHI", 0, offset | more, 99))


def udp(source: int, destination: int, payload: bytes = b"") -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def tcp(source: int, destination: int, payload: bytes = b"") -> bytes:
    """With an acknowledgement; the checksum is left zero."""
    return struct.pack("!HHIIBBHHH", source, destination, 1, 1, 0x50, 0x10, 65535, 0, 0) + payload


def icmp(kind: int, rest: bytes = bytes(4)) -> bytes:
    """ICMP, IGMP or ICMPv6, with code 0."""
    return struct.pack("!BBH", kind, 0, 0) + rest


def nd(kind: int, target: str, *options: bytes) -> bytes:
    """A neighbour solicitation (135) or advertisement (136: solicited, override)."""
    flags = 0x60000000 if kind == 136 else 0
    return icmp(kind, struct.pack("!I", flags) + IPv6Address(target).packed + b"".join(options))


def mac_option(kind: int, mac: str) -> bytes:
    """A source (1) or target (2) link-layer address option."""
    return bytes([kind, 1]) + raw_mac(mac)


def router_advertisement(mac: str) -> bytes:
    """One that makes its sender the default router for 1800 s, with a prefix to make addresses of."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + IPv6Address("2001:db8:bad::").packed
    return icmp(134, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + mac_option(1, mac) + prefix)


def arp(
    operation: int, sender_mac: str, sender: str, target: str = "0.0.0.0", *, kind: tuple[int, int] = (1, IPV4)
) -> bytes:
    """An ARP packet for Ethernet and IPv4, whatever kinds of hardware and protocol it says it is for."""
    packed = raw_mac(sender_mac) + IPv4Address(sender).packed + bytes(6) + IPv4Address(target).packed
    return struct.pack("!HHBBH", *kind, 6, 4, operation) + packed


def _summed(addresses: bytes, protocol: int, message: bytes) -> bytes:
    at = _CHECK_AT.get(protocol)
    if at is None or len(message) < at + 2:
        return message
    pseudo = addresses + struct.pack("!IxxxB", len(message), protocol) if protocol in _PSEUDO_HEADER else b""
    check = ~ones_sum(pseudo + message) & 0xFFFF or 0xFFFF
    return message[:at] + struct.pack("!H", check) + message[at + 2 :]
