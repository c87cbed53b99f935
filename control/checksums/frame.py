"""Frames as bytes or as hex text, parsed down to the TCP, UDP or ICMPv6 segment that they carry. Pure.

    frames_of_text(text)                     every frame in what tcpdump -xx, hexdump -C, xxd or a person wrote
    parse(frame, LinkType.ETHERNET)          -> Segment

Be aware: tunnels are not entered, IP options and IPv6 extension headers are stepped over and not interpreted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv6Address

from dataplane.errors import DataplaneError
from dataplane.types import Address, Protocol

MAX_FRAME = 262_144
"""The longest frame that is looked at, in bytes: the snapshot length of tcpdump."""

_ETHERTYPE_IPV4, _ETHERTYPE_IPV6 = 0x0800, 0x86DD
_VLANS = {0x8100, 0x88A8, 0x9100}
_SCTP, _ICMP, _ICMPV6 = Protocol.SCTP.number, 1, 58
_FRAGMENT_HEADER = 44
_EXTENSION_HEADERS = {0, 43, 60}  # hop-by-hop, routing, destination options
_MAX_EXTENSIONS = 8


class FrameError(DataplaneError):
    """What was given is no frame, or a broken one; the text says where."""


class NoSegmentError(FrameError):
    """A sound frame that carries no TCP, UDP or ICMPv6 header: ARP, SCTP, a later fragment ..."""


class Transport(StrEnum):
    """A protocol whose checksum covers the addresses, which is what NAT can leave stale."""

    TCP = "tcp"
    UDP = "udp"
    ICMPV6 = "icmpv6"

    @property
    def number(self) -> int:
        """The protocol field of an IP header (IANA protocol numbers)."""
        return _NUMBERS[self]

    @property
    def label(self) -> str:
        """As people write it."""
        return "ICMPv6" if self is Transport.ICMPV6 else self.value.upper()


class SumState(StrEnum):
    """What the kernel knows about a frame's checksum (``skb->ip_summed``); no file tells."""

    PARTIAL = "partial"  # a device is to compute it
    VERIFIED = "verified"  # a device, or the kernel, found it right
    UNKNOWN = "unknown"  # a full sum that nobody looked at


_NUMBERS = {Transport.TCP: 6, Transport.UDP: 17, Transport.ICMPV6: _ICMPV6}
# By IP version and protocol number: name, offset of the checksum, bytes of the shortest header.
_TRANSPORTS = {
    (4, 6): (Transport.TCP, 16, 20),
    (6, 6): (Transport.TCP, 16, 20),
    (4, 17): (Transport.UDP, 6, 8),
    (6, 17): (Transport.UDP, 6, 8),
    (6, _ICMPV6): (Transport.ICMPV6, 2, 8),
}


class LinkType(IntEnum):
    """What a frame starts with, by its number in capture files (tcpdump.org/linktypes.html)."""

    ETHERNET = 1
    RAW = 101  # the IP header
    LINUX_SLL = 113  # "cooked", tcpdump -i any
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276


@dataclass(frozen=True, slots=True)
class Segment:
    """One TCP segment, UDP datagram or ICMPv6 message, with the addresses that its checksum covers."""

    protocol: Transport
    source: Address
    destination: Address
    source_port: int
    """0 for ICMPv6."""
    destination_port: int
    stored: int
    """The checksum field."""
    length: int
    """Bytes from the transport header on, as the IP header says."""
    data: bytes
    """These bytes; fewer than ``length`` where the capture or the packet was cut short."""
    fragment: bool
    """The first fragment of a packet whose rest is in other frames."""

    @property
    def complete(self) -> bool:
        """Whether every byte that the checksum covers is here."""
        return not self.fragment and len(self.data) == self.length


def frames_of_text(text: str) -> list[bytes]:
    """The frames in hex text. ``#`` starts a comment, except in the text column of a dump.

    Lines with offsets (``0x0010:  4500 ...``, ``00000010  45 00 ...``) are checked for gaps, and offset 0 starts a new
    frame; where a line has one with a colon, lines without are passed over, as tcpdump's headlines. Text without
    offsets is one frame. Raises ``FrameError``.
    """
    lines = text.splitlines()
    headlines = any(_COLON_OFFSET.match(line) for line in lines)
    frames: list[bytearray] = []
    dump = False  # inside lines with offsets
    for number, line in enumerate(lines, 1):
        reached = len(frames[-1]) if frames else 0
        start = _COLON_OFFSET.match(line) or _BARE_OFFSET.match(line)
        if start and start.re is _BARE_OFFSET and int(start[1], 16) != (reached if dump else 0):
            start = None  # data that happens to look like one
        if start:
            offset, dump = int(start[1], 16), True
            if offset not in {0, reached}:
                raise FrameError(f"could not read line {number}: offset {offset:#x}, but {reached:#x} bytes before it")
            if offset == 0:
                frames.append(bytearray())
            words = _dumped_words(line[start.end() :])
        elif headlines:
            continue
        else:
            words = line.partition("#")[0].split()
            if words and not frames:
                frames.append(bytearray())
        try:
            data = bytes.fromhex("".join(words))
        except ValueError:
            raise FrameError(f"could not read line {number}: not hex digits in pairs: {line.strip()[:60]!r}") from None
        if data:
            frames[-1] += data
    if not any(frames):
        raise FrameError("could not read a frame: no hex digits in what was given")
    return [bytes(frame) for frame in frames if frame]


def link_type_of(frame: bytes) -> LinkType:
    """Whether a frame of unknown origin starts with Ethernet or with IP (``tcpdump -x`` leaves the link layer out)."""
    ethernet = len(frame) >= 14 and int.from_bytes(frame[12:14], "big") in {_ETHERTYPE_IPV4, _ETHERTYPE_IPV6, *_VLANS}
    if not ethernet and frame and frame[0] >> 4 in {4, 6}:
        return LinkType.RAW
    return LinkType.ETHERNET


def parse(frame: bytes, link: LinkType = LinkType.ETHERNET) -> Segment:
    """The segment in a frame. Raises ``NoSegmentError`` where there is none, ``FrameError`` where it is broken."""
    if len(frame) > MAX_FRAME:
        raise FrameError(f"could not read a frame: {len(frame)} bytes are more than a frame has (limit {MAX_FRAME})")
    packet = _network_layer(frame, link)
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return _parse_ipv4(packet)
    if version == 6:
        return _parse_ipv6(packet)
    raise FrameError(f"could not read the IP header: version {version} is neither 4 nor 6")


_COLON_OFFSET = re.compile(r"\s*(?:0x)?([0-9a-fA-F]{4,8}):\s*")
_BARE_OFFSET = re.compile(r"\s*([0-9a-fA-F]{4,8})(?:\s{2,}|\s*$)")
_COLUMN = re.compile(r"\s{2,}|\s*\|")


def _dumped_words(line: str) -> list[str]:
    """The words of hex digits in what follows an offset; the text column is left out."""
    columns = _COLUMN.split(line.rstrip())
    words = columns[0].split()
    if len(words) == 8 and len(columns) > 1 and _is_bytes(words):
        more = columns[1].split()  # hexdump -C leaves a gap in the middle
        if len(more) <= 8 and _is_bytes(more):
            words += more
    return words


def _is_bytes(words: list[str]) -> bool:
    return all(re.fullmatch("[0-9a-fA-F]{2}", word) for word in words)


def _network_layer(frame: bytes, link: LinkType) -> bytes:
    if link in {LinkType.RAW, LinkType.IPV4, LinkType.IPV6}:
        return frame
    at, header = {LinkType.ETHERNET: (12, 14), LinkType.LINUX_SLL: (14, 16), LinkType.LINUX_SLL2: (0, 20)}[link]
    _need(frame, header, "the link header")
    ethertype = int.from_bytes(frame[at : at + 2], "big")
    while ethertype in _VLANS:
        _need(frame, header + 4, "the VLAN tag")
        ethertype = int.from_bytes(frame[header + 2 : header + 4], "big")
        header += 4
    if ethertype not in {_ETHERTYPE_IPV4, _ETHERTYPE_IPV6}:
        raise NoSegmentError(f"ethertype {ethertype:#06x} is not IP")
    return frame[header:]


def _parse_ipv4(packet: bytes) -> Segment:
    _need(packet, 20, "the IPv4 header")
    header = (packet[0] & 0x0F) * 4
    if header < 20:
        raise FrameError(f"could not read the IPv4 header: {header} bytes are too short for one")
    _need(packet, header, "the IPv4 options")
    # Total length 0 is what a capture shows of a segment that the device is yet to cut into packets.
    total = int.from_bytes(packet[2:4], "big") or len(packet)
    if total < header:
        raise FrameError(f"could not read the IPv4 header: total length {total} is less than the header's {header}")
    fragmentation = int.from_bytes(packet[6:8], "big")
    if fragmentation & 0x1FFF:
        raise NoSegmentError("a later fragment of an IP packet, which has no transport header")
    return _parse_segment(
        packet[9],
        IPv4Address(packet[12:16]),
        IPv4Address(packet[16:20]),
        packet[header:total],
        total - header,
        fragment=bool(fragmentation & 0x2000),
    )


def _parse_ipv6(packet: bytes) -> Segment:
    _need(packet, 40, "the IPv6 header")
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    total = 40 + (int.from_bytes(packet[4:6], "big") or len(packet) - 40)
    following, at, fragment = packet[6], 40, False
    for _ in range(_MAX_EXTENSIONS):
        if following in _EXTENSION_HEADERS:
            _need(packet, at + 8, "an IPv6 extension header")
            if following == 43 and packet[at + 3]:
                raise NoSegmentError("a routing header holds the destination that the checksum covers")
            following, at = packet[at], at + 8 + packet[at + 1] * 8
        elif following == _FRAGMENT_HEADER:
            _need(packet, at + 8, "the IPv6 fragment header")
            position = int.from_bytes(packet[at + 2 : at + 4], "big")
            if position & 0xFFF8:
                raise NoSegmentError("a later fragment of an IP packet, which has no transport header")
            following, at, fragment = packet[at], at + 8, bool(position & 1)
        else:
            break
    return _parse_segment(following, source, destination, packet[at:total], max(total - at, 0), fragment=fragment)


def _parse_segment(
    number: int, source: Address, destination: Address, data: bytes, length: int, *, fragment: bool
) -> Segment:
    if number == _SCTP:
        raise NoSegmentError("SCTP, whose CRC32c covers no addresses: NAT cannot leave it stale")
    if (source.version, number) == (4, _ICMP):
        raise NoSegmentError("ICMP, whose checksum covers no addresses: NAT cannot leave it stale")
    if (source.version, number) not in _TRANSPORTS:
        raise NoSegmentError(f"IP protocol {number} is neither TCP nor UDP nor ICMPv6")
    transport, checksum, header = _TRANSPORTS[source.version, number]
    _need(data, header, f"the {transport.label} header")
    ports = transport is not Transport.ICMPV6
    if transport is Transport.UDP and header <= (said := int.from_bytes(data[4:6], "big")) < length:
        data, length = data[:said], said  # what follows a datagram in its packet is not covered (RFC 768)
    return Segment(
        protocol=transport,
        source=source,
        destination=destination,
        source_port=int.from_bytes(data[0:2], "big") if ports else 0,
        destination_port=int.from_bytes(data[2:4], "big") if ports else 0,
        stored=int.from_bytes(data[checksum : checksum + 2], "big"),
        length=length,
        data=data,
        fragment=fragment,
    )


def _need(data: bytes, length: int, what: str) -> None:
    if len(data) < length:
        raise FrameError(f"could not read {what}: {len(data)} bytes are there, {length} are needed")
