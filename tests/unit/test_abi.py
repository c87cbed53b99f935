"""``bpf/abi.h`` and ``dataplane/abi.py`` are one layout, written twice."""

from __future__ import annotations

import re
import struct
import sys
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from dataplane import abi
from dataplane.abi import (
    ChecksumCounts,
    Event,
    EventAction,
    EventKind,
    GuardReason,
    HostSettings,
    NetworkEntry,
    Offender,
    Origin,
    OriginKey,
    Port,
    PublishedKey,
    Target,
    Translation,
)
from dataplane.programs.source import MAPS, source_directory
from dataplane.types import ChecksumMode, GuardLevel, IsolationPolicy

ABI = (source_directory() / "abi.h").read_text()
MAPS_H = (source_directory() / "maps.h").read_text()

WIDTHS = {"__u8": 1, "__u16": 2, "__be16": 2, "__u32": 4, "__be32": 4, "__u64": 8, "struct address": 16}
ALIGNMENTS = WIDTHS | {"struct address": 4}
MIRRORS = {
    "address": abi.ADDRESS,
    "network": abi.NETWORK,
    "settings": abi.SETTINGS,
    "origin_key": abi.ORIGIN_KEY,
    "origin": abi.ORIGIN,
    "published_key": abi.PUBLISHED_KEY,
    "target": abi.TARGET,
    "host_address_key": abi.HOST_ADDRESS_KEY,
    "container_key": abi.CONTAINER_KEY,
    "flow_key": abi.FLOW_KEY,
    "flow": abi.FLOW,
    "checksum_counts": abi.CHECKSUM_COUNTS,
    "fill_key": abi.FILL_KEY,
    "network_pair": abi.NETWORK_PAIR,
    "offender": abi.OFFENDER,
    "port": abi.PORT,
    "port_address_key": abi.PORT_ADDRESS_KEY,
    "guard_drop_key": abi.GUARD_DROP_KEY,
    "peer_key": abi.PEER_KEY,
    "peer": abi.PEER,
    "event": abi.EVENT,
}


def members(name: str) -> list[tuple[int, int]]:
    """Offset and size of each member of a C struct, by the rules of natural alignment."""
    match = re.search(rf"^struct {name} \{{(.*?)^\}};", ABI, re.MULTILINE | re.DOTALL)
    assert match, f"struct {name} is not in abi.h"
    body = re.sub(r"/\*.*?\*/", "", match[1], flags=re.DOTALL)
    found, at = [], 0
    for kind, _, count in re.findall(r"((?:struct )?\w+)\s+(\w+)(?:\[(\d+)\])?;", body):
        width = WIDTHS[kind]
        at += -at % ALIGNMENTS[kind]
        found.append((at, width * int(count or 1)))
        at += found[-1][1]
    return found


def fields(layout: struct.Struct) -> list[tuple[int, int]]:
    """Offset and size of each field of a ``struct`` format without alignment."""
    found, at = [], 0
    for count, code in re.findall(r"(\d*)([A-Za-z])", layout.format):
        width = struct.calcsize(f"={code}")
        whole = [width * int(count)] if code in "sx" and count else [width] * int(count or 1)
        for size in whole:
            if code != "x":
                found.append((at, size))
            at += size
    return found


def test_every_struct_is_mirrored() -> None:
    """A struct that is added to abi.h needs a mirror here."""
    assert set(re.findall(r"^struct (\w+) \{", ABI, re.MULTILINE)) == set(MIRRORS)


@pytest.mark.parametrize("name", MIRRORS)
def test_sizes_agree(name: str) -> None:
    """The size that C asserts is the size that Python packs, and what the members add up to."""
    asserted = re.search(rf"sizeof\(struct {name}\) == (\d+)", ABI)
    assert asserted
    last, width = members(name)[-1]
    assert MIRRORS[name].size == int(asserted[1]) == last + width


@pytest.mark.parametrize("name", MIRRORS)
def test_fields_are_where_the_members_are(name: str) -> None:
    """Each field that Python reads begins and ends where a member does; members it skips are called unused."""
    skipped = set(members(name)) - set(fields(MIRRORS[name]))
    assert set(fields(MIRRORS[name])) <= set(members(name))
    assert len(skipped) <= len(re.findall(r"unused\d*;", ABI))


@pytest.mark.parametrize(
    ("prefix", "mirror"),
    [
        ("POLICY", IsolationPolicy),
        ("CHECKSUM", ChecksumMode),
        ("GUARD", GuardLevel),
        ("REASON", GuardReason),
        ("TRANSLATION", Translation),
        ("EVENT", EventKind),
        ("ACTION", EventAction),
    ],
)
def test_enums_agree(prefix: str, mirror: type[IntEnum]) -> None:
    """Both sides give the same numbers to the same names."""
    assert {name: int(value) for name, value in re.findall(rf"\b{prefix}_(\w+) = (\d+)", ABI)} == {
        member.name: member.value for member in mirror
    }


@pytest.mark.parametrize("name", ["MAX_ORIGIN_SLOTS"])
def test_limits_agree(name: str) -> None:
    """What user space fills is what the programs read."""
    limit = re.search(rf"#define {name} (\d+)", MAPS_H)
    assert limit
    assert int(limit[1]) == getattr(abi, name)


def test_map_names_agree() -> None:
    """Every map of maps.h is pinned, and no other is asked for."""
    declared = re.findall(r"^BPF_\w+\((.*)\);", MAPS_H, re.MULTILINE)
    names = [words.split(", ")[0 if words.startswith("events,") else 3] for words in declared]
    assert sorted(names) == sorted(MAPS)


def test_entries_survive_packing() -> None:
    """What is packed is what is unpacked."""
    for entry in (
        NetworkEntry(7, IsolationPolicy.ISOLATED, ChecksumMode.REPAIR, masquerades=True),
        HostSettings(1 << 27, 0x1234567890),
        OriginKey(IPv4Address("10.88.0.116"), 6, 80, 3),
        OriginKey(IPv6Address("fd00::2"), 6, 80, 0),
        Origin(IPv4Address("10.0.2.15"), 8080),
        Origin(None, 8080),
        PublishedKey(None, 6, 17, 53),
        PublishedKey(IPv4Address("127.0.0.1"), 4, 6, 80),
        Target(IPv4Address("10.88.0.116"), 80, localhost=True),
        Port(7, GuardLevel.FULL, "02:00:00:00:00:0a"),
        Port(7, GuardLevel.OFF),
    ):
        assert type(entry).unpack(entry.pack()) == entry


def test_addresses_and_ports_are_in_network_byte_order() -> None:
    """A key is found by a program that copies it out of a packet; IPv4 is mapped into IPv6."""
    mapped = "00000000000000000000ffff"
    assert OriginKey(IPv4Address("10.88.0.116"), 17, 0x1234, 2).pack() == bytes.fromhex(mapped + "0a5800741234 11 02")
    assert Origin(IPv4Address("10.0.2.15"), 80).pack() == bytes.fromhex(mapped + "0a00020f00500000")
    assert Origin(None, 80).pack() == bytes(16) + bytes.fromhex("00500000")


@pytest.mark.parametrize("text", ["10.88.0.116", "255.255.255.255", "192.168.255.255", "fd00:11::2", "::1"])
def test_an_address_folds_to_what_it_adds_to_a_checksum(text: str) -> None:
    """In ones' complement, as RFC 1071 has it; never 0, whatever zeros are called."""
    address = ip_address(text)
    words = [int.from_bytes(address.packed[at : at + 2], sys.byteorder) for at in range(0, len(address.packed), 2)]
    assert 1 <= abi.folded(address) <= 0xFFFF
    assert abi.folded(address) % 0xFFFF == sum(words) % 0xFFFF


def test_counts_come_in_the_order_of_the_struct() -> None:
    """The names of Python's counts are the members of the C struct."""
    body = re.search(r"^struct checksum_counts \{(.*?)^\}", ABI, re.MULTILINE | re.DOTALL)
    assert body
    assert tuple(re.findall(r"__u64 (\w+);", body[1])) == ChecksumCounts.__slots__


def _packed(kind: EventKind, family: int, raw: bytes, reason: int) -> bytes:
    origin = abi.pack_address(IPv4Address("10.0.2.15"))
    return abi.EVENT.pack(
        *(1, kind, 2, 3, 4, 5, raw, raw, raw, origin, b"\x00\x50", b"\x00\x51", b"\x00\x50", b"\x1f\x90"),
        *(b"\xd7\x76", b"\xd8\xb9", int.from_bytes(b"\x12\x34", sys.byteorder)),
        *(family, 6, EventAction.REPAIRED, reason, bytes.fromhex("02000000000a")),
    )


@pytest.mark.parametrize(
    ("family", "raw", "address"),
    [
        (4, abi.pack_address(IPv4Address("10.11.0.2")), IPv4Address("10.11.0.2")),
        (6, IPv6Address("fd00:11::2").packed, IPv6Address("fd00:11::2")),
        (0, bytes(16), None),
    ],
)
def test_an_event_reads_its_addresses_by_family(family: int, raw: bytes, address: object) -> None:
    """IPv4, IPv6, or neither."""
    event = Event.unpack(_packed(EventKind.STALE, family, raw, Translation.PUBLISHED))
    assert (event.source, event.destination, event.origin_source) == (address, address, address)
    assert (event.source_port, event.destination_port) == (80, 8080)
    assert (event.stored, event.correct, event.delta) == (0xD776, 0xD8B9, 0x1234)
    assert (event.origin_destination, event.origin_destination_port) == (IPv4Address("10.0.2.15"), 81)
    assert event.translation is Translation.PUBLISHED
    assert event.guard is None


def test_an_event_of_guard_says_why() -> None:
    """And from which MAC."""
    event = Event.unpack(_packed(EventKind.GUARDED, 6, IPv6Address("fe80::1").packed, GuardReason.ROUTER))
    assert (event.guard, event.mac) == (GuardReason.ROUTER, "02:00:00:00:00:0a")
    assert event.translation is Translation.NONE


def test_an_offender_is_read() -> None:
    """The last packet that was dropped."""
    raw = abi.OFFENDER.pack(
        9, IPv6Address("fd00::2").packed, IPv6Address("fd00::3").packed, b"\x00\x50", b"\x00\x51", 6, 17, bytes(6)
    )
    offender = Offender.unpack(raw)
    assert (offender.time_ns, offender.source_port, offender.destination_port, offender.protocol) == (9, 80, 81, 17)
    assert (offender.source, offender.destination) == (IPv6Address("fd00::2"), IPv6Address("fd00::3"))
