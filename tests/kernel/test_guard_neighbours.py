"""The guard program on ARP and neighbour discovery: a container says where it is itself, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.abi import GuardReason
from support import needs
from support.crafted import (
    ARP,
    DB_MAC,
    DESTINATION,
    HOP_BY_HOP,
    IPV4,
    IPV6,
    RARP,
    WEB_MAC,
    arp,
    ethernet,
    extension,
    fragment6,
    icmp,
    mac_option,
    nd,
    raw_mac,
)
from support.guarding import DB4, DB6, DB_LL, HOST4, HOST6, LL, NOBODY4, NOBODY6, WEB4, WEB6, GuardBench, said

R = GuardReason


@pytest.fixture(scope="module")
def bench() -> Iterator[GuardBench]:
    needs.root()
    with GuardBench() as loaded:
        yield loaded


def case(name: str, frame: bytes, reason: GuardReason | None = None) -> object:
    return pytest.param(frame, reason, id=name)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        case("request", ethernet(arp(1, WEB_MAC, WEB4, DB4))),
        case("reply", ethernet(arp(2, WEB_MAC, WEB4, DB4), destination=DB_MAC)),
        case("announcement", ethernet(arp(1, WEB_MAC, WEB4, WEB4))),
        case("gratuitous reply", ethernet(arp(2, WEB_MAC, WEB4, WEB4))),
        case("probe", ethernet(arp(1, WEB_MAC, NOBODY4, WEB4))),
        case("padded", ethernet(arp(1, WEB_MAC, WEB4, DB4) + bytes(18))),
        case("tagged", ethernet(arp(1, WEB_MAC, WEB4, DB4), ARP, tags=[7])),
        case("reply for another", ethernet(arp(2, WEB_MAC, HOST4, DB4)), R.ARP),
        case("request as another", ethernet(arp(1, WEB_MAC, HOST4, DB4)), R.ARP),
        case("reply for another, tagged", ethernet(arp(2, WEB_MAC, HOST4, DB4), ARP, tags=[7, 9]), R.ARP),
        case("other sender MAC", ethernet(arp(2, DB_MAC, WEB4, HOST4)), R.ARP),
        case("reply of nobody", ethernet(arp(2, WEB_MAC, NOBODY4, WEB4)), R.ARP),
        case("probe for another's", ethernet(arp(1, WEB_MAC, NOBODY4, DB4)), R.ARP),
        case("loopback", ethernet(arp(2, WEB_MAC, "127.0.0.1")), R.ARP),
        case("rarp request in arp", ethernet(arp(3, WEB_MAC, WEB4)), R.ARP),
        case("inverse arp", ethernet(arp(9, WEB_MAC, WEB4)), R.ARP),
        case("rarp", ethernet(arp(3, WEB_MAC, WEB4), RARP), R.ARP),
        case("ieee 802", ethernet(arp(1, WEB_MAC, WEB4, kind=(6, IPV4))), R.UNREADABLE),
        case("no ipv4", ethernet(arp(1, WEB_MAC, WEB4, kind=(1, IPV6))), R.UNREADABLE),
        case("long addresses", ethernet(b"\0\1\x08\0\x08\x04" + arp(1, WEB_MAC, WEB4)[6:]), R.UNREADABLE),
        case("long protocol addresses", ethernet(b"\0\1\x08\0\x06\x10" + arp(1, WEB_MAC, WEB4)[6:]), R.UNREADABLE),
        case("truncated", ethernet(arp(1, WEB_MAC, WEB4)[:-1]), R.UNREADABLE),
    ],
)
def test_arp(bench: GuardBench, frame: bytes, reason: GuardReason | None) -> None:
    """It may ask for anybody, and say where it is itself, by its own MAC; a probe is for its own address."""
    assert bench.judge([frame]) == (reason,)


NONCE = bytes([14, 1]) + bytes(6)  # RFC 7527
SLLA, TLLA = mac_option(1, WEB_MAC), mac_option(2, WEB_MAC)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        case("solicitation", said(WEB6, nd(135, DB6, SLLA))),
        case("solicitation, link-local", said(LL, nd(135, DB6, SLLA, NONCE))),
        case("solicitation, no option", said(WEB6, nd(135, DB6))),
        case("solicitation as another", said(DB6, nd(135, HOST6, SLLA)), R.SOURCE_ADDRESS),
        case("solicitation with another's MAC", said(WEB6, nd(135, DB6, mac_option(1, DB_MAC))), R.NEIGHBOUR),
        case("another's MAC, second", said(WEB6, nd(135, DB6, NONCE, mac_option(1, DB_MAC))), R.NEIGHBOUR),
        case("both MACs", said(WEB6, nd(135, DB6, SLLA, mac_option(1, DB_MAC))), R.NEIGHBOUR),
        case("another's as target's in a solicitation", said(WEB6, nd(135, DB6, mac_option(2, DB_MAC))), R.NEIGHBOUR),
        case("detection", said(NOBODY6, nd(135, WEB6))),
        case("detection, nonce", said(NOBODY6, nd(135, WEB6, NONCE))),
        case("detection of its link-local", said(NOBODY6, nd(135, LL))),
        case("detection of another's", said(NOBODY6, nd(135, DB6)), R.NEIGHBOUR),
        case("detection of another's link-local", said(NOBODY6, nd(135, DB_LL, NONCE)), R.NEIGHBOUR),
        case("advertisement", said(WEB6, nd(136, WEB6, TLLA))),
        case("advertisement by link-local", said(LL, nd(136, WEB6, TLLA))),
        case("advertisement of link-local", said(WEB6, nd(136, LL, TLLA))),
        case("advertisement, no option", said(WEB6, nd(136, WEB6))),
        case("advertisement of another's", said(WEB6, nd(136, DB6, TLLA)), R.NEIGHBOUR),
        case("advertisement of the host's", said(LL, nd(136, HOST6, TLLA)), R.NEIGHBOUR),
        case("advertisement of IPv4 in disguise", said(LL, nd(136, f"::ffff:{WEB4}", TLLA)), R.NEIGHBOUR),
        case("advertisement with another's MAC", said(WEB6, nd(136, WEB6, mac_option(2, DB_MAC))), R.NEIGHBOUR),
        case("advertisement as another", said(DB6, nd(136, WEB6, TLLA)), R.SOURCE_ADDRESS),
        case("advertisement of nobody", said(NOBODY6, nd(136, WEB6, TLLA)), R.SOURCE_ADDRESS),
        case("router solicitation", said(LL, icmp(133, bytes(4) + SLLA))),
        case("router solicitation of nobody", said(NOBODY6, icmp(133))),
        case("router solicitation, another's MAC", said(LL, icmp(133, bytes(4) + mac_option(1, DB_MAC))), R.NEIGHBOUR),
        case("option of no length", said(WEB6, nd(136, WEB6, TLLA, bytes(8))), R.NEIGHBOUR),
        case("long MAC option", said(WEB6, nd(136, WEB6, bytes([2, 2]) + raw_mac(WEB_MAC) + bytes(8))), R.NEIGHBOUR),
        case("option longer than the message", said(WEB6, nd(136, WEB6, bytes([14, 2]) + bytes(6))), R.NEIGHBOUR),
        case("half an option", said(WEB6, nd(136, WEB6, bytes([2, 1, 2, 66]))), R.NEIGHBOUR),
        case("eight options", said(WEB6, nd(136, WEB6, *[NONCE] * 7, TLLA))),
        case("a lie as the eighth", said(WEB6, nd(136, WEB6, *[NONCE] * 7, mac_option(2, DB_MAC))), R.NEIGHBOUR),
        case("nine options", said(WEB6, nd(136, WEB6, *[NONCE] * 9)), R.NEIGHBOUR),
        case("a long option", said(WEB6, nd(136, WEB6, bytes([14, 30]) + bytes(238), TLLA))),
        case("a lie behind it", said(WEB6, nd(136, WEB6, bytes([14, 30]) + bytes(238), mac_option(2, DB_MAC))),
             R.NEIGHBOUR),
        case("no target", said(WEB6, icmp(136)), R.NEIGHBOUR),
        case("half a target", said(WEB6, icmp(136, bytes(12))), R.NEIGHBOUR),
        case("in a first fragment", said(WEB6, nd(136, WEB6, TLLA), fragment6(more=True)), R.NEIGHBOUR),
        case("in an atomic fragment", said(WEB6, nd(136, WEB6, TLLA), fragment6())),
        case("a lie in an atomic fragment", said(WEB6, nd(136, DB6, TLLA), fragment6()), R.NEIGHBOUR),
        case("a lie behind headers", said(WEB6, nd(136, DB6, TLLA), extension(HOP_BY_HOP, 30), extension(DESTINATION)),
             R.NEIGHBOUR),
        case("behind headers", said(WEB6, nd(136, WEB6, TLLA), extension(HOP_BY_HOP, 30), extension(DESTINATION))),
    ],
)  # fmt: skip
def test_neighbour_discovery(bench: GuardBench, frame: bytes, reason: GuardReason | None) -> None:
    """It may ask for anybody, and say where it is itself, by its own MAC; what cannot be followed is dropped."""
    assert bench.judge([frame]) == (reason,)
