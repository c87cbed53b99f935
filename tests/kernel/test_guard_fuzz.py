"""The guard program on whatever comes: what holds for every frame, however it is put together."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.abi import GuardReason
from support import needs
from support.crafted import (
    AH,
    ARP,
    DESTINATION,
    FIRST,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    IGMP,
    IPV4,
    IPV6,
    LATER,
    MOBILITY,
    ROUTING,
    SCTP,
    TCP,
    UDP,
    WEB_MAC,
    Extension,
    arp,
    ethernet,
    extension,
    icmp,
    ipv4,
    ipv6,
    mac_option,
    nd,
    tcp,
    udp,
)
from support.guarding import ALL6, DB4, DB6, LL, NOBODY4, NOBODY6, WEB4, WEB6, GuardBench, said

TO_DB = ethernet(ipv4(WEB4, DB4, UDP, udp(4000, 53)))
R = GuardReason
NONCE = bytes([14, 1]) + bytes(6)  # RFC 7527
SLLA, TLLA = mac_option(1, WEB_MAC), mac_option(2, WEB_MAC)


@pytest.fixture(scope="module")
def bench() -> Iterator[GuardBench]:
    needs.root()
    with GuardBench() as loaded:
        yield loaded


FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
HEADERS = st.sampled_from([HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION, MOBILITY])
CHAINS = st.lists(st.builds(extension, HEADERS, st.integers(0, 4)), max_size=8)
TAGS = st.lists(st.integers(0, 4095), max_size=4)
OPTIONS = st.integers(0, 10).map(lambda words: b"\x01\x01\x01\x00" * words)
ANY4, ANY6 = st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)
PAYLOADS = st.binary(max_size=64)
PROTOCOLS = st.sampled_from([TCP, UDP, ICMP, IGMP, ICMP6, SCTP]) | st.integers(0, 255)


@st.composite
def packets(draw: st.DrawFn, source4: st.SearchStrategy[str], source6: st.SearchStrategy[str]) -> bytes:
    """A frame with IP of either version from such an address, and nothing else about it is sure."""
    protocol, payload = draw(PROTOCOLS), draw(PAYLOADS)
    if draw(st.booleans()):
        fragment = draw(st.sampled_from([0, FIRST, LATER]))
        packet = ipv4(draw(source4), draw(ANY4), protocol, payload, options=draw(OPTIONS), fragment=fragment)
    else:
        packet = ipv6(draw(source6), draw(ANY6), protocol, payload, draw(CHAINS))
    return ethernet(packet, tags=draw(TAGS))


@FUZZ
@given(st.lists(packets(ANY4.filter(lambda one: one not in {WEB4, NOBODY4}),
                        ANY6.filter(lambda one: one not in {WEB6, LL, NOBODY6})), min_size=1, max_size=30))  # fmt: skip
def test_nothing_passes_as_another(bench: GuardBench, frames: list[bytes]) -> None:
    """A packet that is from none of its addresses is dropped, whatever is in it and in front of it."""
    assert None not in bench.judge(frames)


@FUZZ
@given(st.lists(st.tuples(CHAINS, TAGS, st.sampled_from([134, 137, 138])), min_size=1, max_size=30))
def test_routers_are_found_behind_any_headers(
    bench: GuardBench, ways: list[tuple[list[Extension], list[int], int]]
) -> None:
    """Within the bounds it is told what it is, beyond them that it cannot be told; it never passes."""
    frames = [
        ethernet(ipv6(LL, ALL6, ICMP6, icmp(kind, bytes(32)), chain), IPV6, tags=tags) for chain, tags, kind in ways
    ]
    expected = tuple(R.ROUTER if len(chain) <= 6 and len(tags) <= 2 else R.UNREADABLE for chain, tags, _ in ways)
    assert bench.judge(frames) == expected


@FUZZ
@given(st.lists(st.tuples(CHAINS, TAGS, PAYLOADS), min_size=1, max_size=30))
def test_its_own_packets_pass_within_the_bounds(
    bench: GuardBench, ways: list[tuple[list[Extension], list[int], bytes]]
) -> None:
    """TCP from its own address goes on, behind up to six headers and two tags."""
    frames = [ethernet(ipv6(WEB6, DB6, TCP, tcp(1, 2, data), chain), tags=tags) for chain, tags, data in ways]
    assert bench.judge(frames) == tuple(
        None if len(chain) <= 6 and len(tags) <= 2 else R.UNREADABLE for chain, tags, _ in ways
    )


def passes_for_its_own(frame: bytes) -> bool:
    """Read anew, for frames without tags: whether it says what the guard let pass it for."""
    kind, at = struct.unpack_from("!H", frame, 12)[0], 14
    if kind == ARP:
        sender, target = IPv4Address(frame[at + 14 : at + 18]), IPv4Address(frame[at + 24 : at + 28])
        return frame[6:12] == frame[at + 8 : at + 14] and str(target if sender.is_unspecified else sender) == WEB4
    if kind == IPV4:
        return str(IPv4Address(frame[at + 12 : at + 16])) in {WEB4, NOBODY4}
    return str(IPv6Address(frame[at + 8 : at + 24])) in {WEB6, LL, NOBODY6}


HONEST = (
    TO_DB,
    ethernet(arp(1, WEB_MAC, NOBODY4, WEB4)),
    ethernet(arp(2, WEB_MAC, WEB4, DB4)),
    ethernet(ipv4(NOBODY4, "255.255.255.255", UDP, udp(68, 67))),
    said(NOBODY6, nd(135, WEB6, NONCE)),
    said(WEB6, nd(136, WEB6, TLLA), extension(HOP_BY_HOP)),
    said(LL, icmp(133, bytes(4) + SLLA)),
)


@FUZZ
@given(
    st.lists(
        st.tuples(st.sampled_from(HONEST), st.integers(14 * 8, 120 * 8), st.integers(14, 200)), min_size=1, max_size=30
    )
)
def test_a_changed_frame_passes_only_for_its_own(bench: GuardBench, changes: list[tuple[bytes, int, int]]) -> None:
    """One bit flipped and cut anywhere: it is dropped, or still speaks for the container alone."""
    frames = []
    for honest, bit, length in changes:
        octets = bytearray(honest)
        if bit < len(octets) * 8:
            octets[bit // 8] ^= 0x80 >> bit % 8
        frames.append(bytes(octets[:length]))
    tagged = [one[:12] + b"\x81\0\0\7" + one[12:] for one in frames]  # else BPF_PROG_TEST_RUN takes no short ones
    for frame, reason in zip(frames, bench.judge(tagged), strict=True):
        assert reason or passes_for_its_own(frame)
