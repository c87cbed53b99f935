"""Capture files, read from bytes: classic pcap in both byte orders, and pcapng's packet blocks. Pure.

    for record in read_capture(path.read_bytes()):
        parse(record.frame, record.link)

Formats: tcpdump.org/manpages/pcap-savefile.5.html and the IETF draft pcapng. Be aware: times, names, comments and
decryption secrets are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from control.checksums.frame import FrameError, LinkType

# Magic numbers as read big-endian: microseconds and nanoseconds, and both of them in the other byte order.
_CLASSIC = {0xA1B2C3D4: ">", 0xA1B23C4D: ">", 0xD4C3B2A1: "<", 0x4D3CB2A1: "<"}
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6
_BYTE_ORDER = 0x1A2B3C4D


@dataclass(frozen=True, slots=True)
class Record:
    """One captured frame. ``number`` counts from 1, as tcpdump and Wireshark do."""

    number: int
    link: LinkType
    frame: bytes


def is_capture(raw: bytes) -> bool:
    """Whether these bytes begin like a capture file."""
    magic = int.from_bytes(raw[:4], "big")
    return len(raw) >= 4 and (magic in _CLASSIC or magic == _SECTION)


def read_capture(raw: bytes) -> Iterator[Record]:
    """The frames of a capture file, in order. Raises ``FrameError`` where the file is broken, after those before."""
    magic = int.from_bytes(raw[:4], "big")
    if len(raw) >= 4 and magic == _SECTION:
        return _read_pcapng(raw)
    if len(raw) >= 4 and magic in _CLASSIC:
        return _read_classic(raw, _CLASSIC[magic])
    raise FrameError("could not read the capture: it is neither pcap nor pcapng")


def _read_classic(raw: bytes, order: str) -> Iterator[Record]:
    link = _link_type(_unpack(f"{order}I", raw, 20, "the file header")[0] & 0xFFFF)
    at, number = 24, 0
    while at < len(raw):
        number += 1
        captured = _unpack(f"{order}8xI4x", raw, at, f"the header of packet {number}")[0]
        at += 16
        yield Record(number, link, _take(raw, at, captured, f"packet {number}"))
        at += captured


def _read_pcapng(raw: bytes) -> Iterator[Record]:
    order, at, number = "<", 0, 0
    links: list[int] = []
    while at < len(raw):
        where = f"the block at byte {at}"
        kind = _unpack(f"{order}I", raw, at, where)[0]
        if kind == _SECTION:  # reads the same in both byte orders, and tells which one holds from here
            order = "<" if _unpack("<I", raw, at + 8, where)[0] == _BYTE_ORDER else ">"
            if _unpack(f"{order}I", raw, at + 8, where)[0] != _BYTE_ORDER:
                raise FrameError(f"could not read {where}: no byte-order mark")
            links = []
        length = _unpack(f"{order}I", raw, at + 4, where)[0]
        if length < 12 or length % 4:
            raise FrameError(f"could not read {where}: it cannot be {length} bytes long")
        body = _take(raw, at, length, where)[8:-4]
        at += length
        if kind == _INTERFACE:
            links.append(_unpack(f"{order}H", body, 0, where)[0])
        elif kind == _ENHANCED:
            number += 1
            interface, captured = _unpack(f"{order}I8xI", body, 0, where)
            yield Record(number, _link_of(links, interface, where), _take(body, 20, captured, where))
        elif kind == _SIMPLE:
            number += 1
            original = _unpack(f"{order}I", body, 0, where)[0]
            yield Record(number, _link_of(links, 0, where), body[4 : 4 + original])


def _link_of(links: list[int], interface: int, where: str) -> LinkType:
    if interface >= len(links):
        raise FrameError(f"could not read {where}: interface {interface} is not described before it")
    return _link_type(links[interface])


def _link_type(number: int) -> LinkType:
    if number in {12, 14}:  # DLT_RAW, as some systems store it
        return LinkType.RAW
    try:
        return LinkType(number)
    except ValueError:
        known = ", ".join(f"{link.name} ({link.value})" for link in LinkType)
        raise FrameError(f"could not read the capture: link type {number} is none of {known}") from None


def _unpack(layout: str, raw: bytes, at: int, what: str) -> tuple[int, ...]:
    if len(raw) - at < struct.calcsize(layout):
        raise FrameError(f"could not read {what}: the file ends in it")
    return struct.unpack_from(layout, raw, at)


def _take(raw: bytes, at: int, length: int, what: str) -> bytes:
    if len(raw) - at < length:
        raise FrameError(f"could not read {what}: the file ends in it ({len(raw) - at} of {length} bytes are there)")
    return raw[at : at + length]
