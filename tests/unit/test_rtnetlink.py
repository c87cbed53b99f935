"""rtnetlink's messages, byte by byte, where this machine's kernel may not be able to take or send them."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv4Network

import pytest

from dataplane import routes, vlans
from dataplane.netlink import attribute
from dataplane.types import IfIndex, Route
from dataplane.vlans import VlanRange

PORT, BRIDGE = IfIndex(3), IfIndex(4)
UNICAST, MAIN = 1, 254


@pytest.mark.parametrize(
    ("index", "vlan", "flags", "wanted"),
    [
        (PORT, VlanRange(5, 5), 0, "0c001a00 08000200 00000500"),  # bridge vlan add dev v0 vid 5
        (PORT, VlanRange(5, 5), 0x06, "0c001a00 08000200 06000500"),  # add dev v0 vid 5 pvid untagged
        (PORT, VlanRange(100, 199), 0x04, "14001a00 08000200 0c006400 08000200 1400c700"),  # vid 100-199 untagged
        (BRIDGE, VlanRange(7, 7), 0, "14001a00 06000000 02000000 08000200 00000700"),  # add dev br0 vid 7 self
        (PORT, VlanRange(10, 20), 0, "14001a00 08000200 08000a00 08000200 10001400"),  # del dev v0 vid 10-20
    ],
)
def test_vlans_are_asked_for_as_iproute2_does(index: IfIndex, vlan: VlanRange, flags: int, wanted: str) -> None:
    """What ``bridge vlan add`` and ``del`` of iproute2 6.1 send, as strace showed it (little-endian)."""
    header = f"07000000 {index:02x}000000 00000000 00000000"
    assert vlans._message(index, vlan, flags, itself=index == BRIDGE) == bytes.fromhex(header + wanted)


def test_vlans_are_read_as_ranges() -> None:
    """Neighbours that are alike come as a beginning and an end, others alone; other attributes are passed by."""
    listed = [(0x06, 1), (0x08, 10), (0x10, 20), (0x04 | 0x08, 30), (0x04 | 0x10, 31), (0, 40)]
    raw = attribute(1, b"\0\0") + b"".join(attribute(2, struct.pack("=HH", *one)) for one in listed)
    assert tuple(vlans._ranges(raw)) == (
        VlanRange(1, 1, untagged=True, pvid=True),
        VlanRange(10, 20),
        VlanRange(30, 31, untagged=True),
        VlanRange(40, 40),
    )


def test_a_route_with_several_next_hops_is_several_routes() -> None:
    """Each next hop is a route by its own link, with its own gateway."""
    hops = b""
    for index, gateway in ((2, "10.1.0.1"), (3, "10.2.0.1")):
        about = attribute(5, IPv4Address(gateway).packed)
        hops += struct.pack("=HBBi", 8 + len(about), 0, 0, index) + about
    answer = struct.pack("=BBBBBBBBI", socket.AF_INET, 8, 0, 0, MAIN, 3, 0, UNICAST, 0)
    answer += attribute(1, bytes([10, 0, 0, 0])) + attribute(9, hops)
    wanted = [
        (index, Route(IPv4Network("10.0.0.0/8"), IPv4Address(gateway), table=MAIN, scope=0))
        for index, gateway in ((2, "10.1.0.1"), (3, "10.2.0.1"))
    ]
    assert list(routes._routes_of(answer)) == wanted


def test_routes_of_other_families_are_passed_by() -> None:
    """A host that routes MPLS has unicast routes whose destinations are labels."""
    answer = struct.pack("=BBBBBBBBI", 28, 20, 0, 0, MAIN, 3, 0, UNICAST, 0) + attribute(1, b"\0\0\x10\0")
    assert list(routes._routes_of(answer + attribute(4, struct.pack("=I", 2)))) == []
