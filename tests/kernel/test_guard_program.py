"""The guard program on crafted frames: whom a container may speak for, and what is said about a drop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.abi import EventAction, EventKind, GuardReason
from dataplane.types import GuardLevel
from support import needs
from support.crafted import (
    AH,
    DB_MAC,
    DESTINATION,
    FIRST,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    IGMP,
    IPV4,
    IPV6,
    LATER,
    ROUTING,
    SCTP,
    STRANGER,
    TCP,
    UDP,
    WEB_MAC,
    arp,
    ethernet,
    extension,
    fragment6,
    icmp,
    ipv4,
    ipv6,
    link_local,
    mac_option,
    nd,
    raw_mac,
    router_advertisement,
    tcp,
    udp,
)
from support.guarding import (
    ALL6,
    DB4,
    DB6,
    DB_LL,
    HOST4,
    HOST6,
    LL,
    NETWORK,
    NOBODY4,
    NOBODY6,
    OWN,
    WEB4,
    WEB6,
    GuardBench,
    said,
)
from support.programs import DEVICE

ROUTER_ALERT = b"\x94\x04\0\0"
TO_DB = ethernet(ipv4(WEB4, DB4, UDP, udp(4000, 53)))
R = GuardReason


@pytest.fixture(scope="module")
def bench() -> Iterator[GuardBench]:
    needs.root()
    with GuardBench() as loaded:
        yield loaded


def case(name: str, frame: bytes, reason: GuardReason | None = None) -> object:
    return pytest.param(frame, reason, id=name)


def spoofed(frame: bytes) -> bytes:
    """The frame as if a stranger had sent it."""
    return frame[:6] + raw_mac(STRANGER) + frame[12:]


# -- levels -----------------------------------------------------------------------------------------------------------

LIES = (ethernet(ipv4(DB4, HOST4, UDP, udp(1, 2))), ethernet(arp(2, DB_MAC, DB4)), ethernet(bytes(40), IPV4))


@pytest.mark.parametrize("level", [None, GuardLevel.OFF])
def test_a_port_without_a_guard_sends_what_it_likes(bench: GuardBench, level: GuardLevel | None) -> None:
    """No entry, or guard off: whatever it is goes on."""
    assert set(bench.judge([*LIES, *map(spoofed, LIES)], level=level)) == {None}


def test_the_mac_level_looks_at_the_mac_alone(bench: GuardBench) -> None:
    """Its own MAC may say anything, another one nothing; without a known MAC there is nothing to compare."""
    assert bench.judge(LIES, level=GuardLevel.MAC) == (None,) * 3
    assert bench.judge(map(spoofed, LIES), level=GuardLevel.MAC) == (R.SOURCE_MAC,) * 3
    assert bench.judge(map(spoofed, LIES), level=GuardLevel.MAC, mac="") == (None,) * 3


def test_each_bit_of_the_mac_counts(bench: GuardBench) -> None:
    """One that differs in any bit is another's."""
    frames = [TO_DB[:6] + bytes(a ^ b for a, b in zip(TO_DB[6:12], bits, strict=True)) + TO_DB[12:]
              for bits in ((1 << bit).to_bytes(6, "big") for bit in range(48))]  # fmt: skip
    for level in (GuardLevel.MAC, GuardLevel.FULL):
        assert bench.judge(frames, level=level) == (R.SOURCE_MAC,) * 48
    assert bench.judge([TO_DB]) == (None,)


def test_without_a_known_mac_the_rest_is_held_against_the_frame(bench: GuardBench) -> None:
    """What ARP, neighbour discovery and a link-local address say has to fit the frame that says it."""
    frames = (
        ethernet(arp(1, STRANGER, WEB4, DB4), source=STRANGER),
        ethernet(ipv6(link_local(STRANGER), ALL6, UDP, udp(1, 2)), source=STRANGER),
        ethernet(ipv6(WEB6, DB6, ICMP6, nd(136, WEB6, mac_option(2, STRANGER))), source=STRANGER),
    )
    assert bench.judge(frames, mac="") == (None,) * 3
    assert bench.judge([ethernet(frame[14:], source=DB_MAC) for frame in frames], mac="") == (
        *(R.ARP, R.SOURCE_ADDRESS, R.NEIGHBOUR),
    )


def test_addresses_are_those_of_this_port(bench: GuardBench) -> None:
    """Another port's are not; a container with two has both."""
    frames = [ethernet(ipv4(DB4, HOST4, TCP, tcp(1, 2))), ethernet(ipv6(DB6, HOST6, TCP, tcp(1, 2)))]
    assert bench.judge(frames) == (R.SOURCE_ADDRESS,) * 2
    assert bench.judge(frames, own=[*OWN, DB4, DB6]) == (None,) * 2


# -- IP ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        *(case(f"own-{name}", ethernet(ipv4(WEB4, DB4, number, payload))) for name, number, payload in (
            ("tcp", TCP, tcp(40000, 80)), ("udp", UDP, udp(4000, 53)), ("ping", ICMP, icmp(8)), ("gre", 47, b""),
            ("unreachable", ICMP, icmp(3)), ("igmp-query", IGMP, icmp(0x11)), ("sctp", SCTP, bytes(12)),
        )),
        case("own, options", ethernet(ipv4(WEB4, DB4, TCP, tcp(1, 2), options=b"\x01" * 40))),
        case("own, to all", ethernet(ipv4(WEB4, "255.255.255.255", UDP, udp(5353, 5353)))),
        case("own, to the bridge's MAC", ethernet(ipv4(WEB4, "8.8.8.8", UDP, udp(1, 53)), destination=DB_MAC)),
        case("another's", ethernet(ipv4(DB4, HOST4, TCP, tcp(1, 2))), R.SOURCE_ADDRESS),
        case("the host's", ethernet(ipv4(HOST4, DB4, UDP, udp(53, 4000))), R.SOURCE_ADDRESS),
        case("a group's", ethernet(ipv4("224.0.0.1", DB4, UDP, udp(1, 2))), R.SOURCE_ADDRESS),
        case("a broadcast", ethernet(ipv4("255.255.255.255", DB4, UDP, udp(1, 2))), R.SOURCE_ADDRESS),
        case("zeroconf", ethernet(ipv4("169.254.7.7", DB4, UDP, udp(1, 2))), R.SOURCE_ADDRESS),
        case("another's, options", ethernet(ipv4(DB4, HOST4, TCP, tcp(1, 2), options=b"\x01" * 8)), R.SOURCE_ADDRESS),
        case("nobody's", ethernet(ipv4(NOBODY4, DB4, UDP, udp(1, 2))), R.SOURCE_ADDRESS),
        case("nobody's tcp", ethernet(ipv4(NOBODY4, DB4, TCP, tcp(68, 67))), R.SOURCE_ADDRESS),
        case("dhcp client", ethernet(ipv4(NOBODY4, "255.255.255.255", UDP, udp(68, 67, bytes(240))))),
        case("dhcp client, renewing", ethernet(ipv4(WEB4, HOST4, UDP, udp(68, 67, bytes(240))))),
        case("dhcp client, as another", ethernet(ipv4(DB4, HOST4, UDP, udp(68, 67, bytes(240)))), R.SOURCE_ADDRESS),
        case("nobody to a dhcp server", ethernet(ipv4(NOBODY4, HOST4, UDP, udp(69, 67))), R.SOURCE_ADDRESS),
        case("nobody from a dhcp port", ethernet(ipv4(NOBODY4, HOST4, UDP, udp(68, 66))), R.SOURCE_ADDRESS),
        *(case(f"igmp report {kind:#x}", ethernet(ipv4(NOBODY4, "224.0.0.22", IGMP, icmp(kind), options=ROUTER_ALERT)))
          for kind in (0x12, 0x16, 0x17, 0x22)),
        *(case(f"igmp of nobody {kind:#x}", ethernet(ipv4(NOBODY4, "224.0.0.1", IGMP, icmp(kind))), R.SOURCE_ADDRESS)
          for kind in (0x11, 0x13, 0x30)),
        case("igmp report of another", ethernet(ipv4(DB4, "224.0.0.22", IGMP, icmp(0x22))), R.SOURCE_ADDRESS),
    ],
)  # fmt: skip
def test_ipv4_sources(bench: GuardBench, frame: bytes, reason: GuardReason | None) -> None:
    """Its own address may send anything; nobody's a DHCP client's requests and group reports."""
    assert bench.judge([frame]) == (reason,)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        *(case(f"own-{name}", ethernet(ipv6(WEB6, DB6, number, payload))) for name, number, payload in (
            ("tcp", TCP, tcp(40000, 80)), ("udp", UDP, udp(4000, 53)), ("ping", ICMP6, icmp(128)), ("none", 59, b""),
            ("too-big", ICMP6, icmp(2)), ("query", ICMP6, icmp(130, bytes(20))), ("esp", 50, bytes(16)),
        )),
        case("link-local", ethernet(ipv6(LL, ALL6, ICMP6, icmp(128)))),
        case("dhcpv6 client", ethernet(ipv6(LL, "ff02::1:2", UDP, udp(546, 547, bytes(60))))),
        case("another's", ethernet(ipv6(DB6, HOST6, TCP, tcp(1, 2))), R.SOURCE_ADDRESS),
        case("another's link-local", ethernet(ipv6(DB_LL, HOST6, TCP, tcp(1, 2))), R.SOURCE_ADDRESS),
        case("made-up link-local", ethernet(ipv6("fe80::7", ALL6, UDP, udp(546, 547))), R.SOURCE_ADDRESS),
        case("link-local of fe80:1::/64", ethernet(ipv6(LL.replace("fe80::", "fe80:0:0:1:"), ALL6, UDP, udp(1, 2))),
             R.SOURCE_ADDRESS),
        case("same interface, another prefix", ethernet(ipv6(LL.replace("fe80::", "fd00:12::"), ALL6, UDP, udp(1, 2))),
             R.SOURCE_ADDRESS),
        case("universal bit not flipped", ethernet(ipv6("fe80::242:acff:fe11:2", ALL6, UDP, udp(1, 2)),
             source="00:42:ac:11:00:02"), R.SOURCE_MAC),
        case("ipv4-compatible", ethernet(ipv6(f"::{WEB4}", DB6, TCP, tcp(1, 2))), R.SOURCE_ADDRESS),
        case("nobody's", ethernet(ipv6(NOBODY6, DB6, UDP, udp(546, 547))), R.SOURCE_ADDRESS),
        case("nobody's ping", ethernet(ipv6(NOBODY6, DB6, ICMP6, icmp(128))), R.SOURCE_ADDRESS),
        *(case(f"mld report {kind}", ethernet(ipv6(NOBODY6, "ff02::16", ICMP6, icmp(kind, bytes(20)),
               [extension(HOP_BY_HOP)]))) for kind in (131, 132, 143)),
        case("mld report, link-local", ethernet(ipv6(LL, "ff02::16", ICMP6, icmp(143), [extension(HOP_BY_HOP)]))),
        case("mld query of nobody", ethernet(ipv6(NOBODY6, ALL6, ICMP6, icmp(130, bytes(20)))), R.SOURCE_ADDRESS),
        case("mld report of another", ethernet(ipv6(DB_LL, "ff02::16", ICMP6, icmp(143))), R.SOURCE_ADDRESS),
    ],
)  # fmt: skip
def test_ipv6_sources(bench: GuardBench, frame: bytes, reason: GuardReason | None) -> None:
    """Its own and its link-local address may send anything; nobody's what configures an address, and group reports."""
    assert bench.judge([frame]) == (reason,)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(ipv4("127.0.0.1", DB4, TCP, tcp(1, 2)), id="from 127.0.0.1"),
        pytest.param(ipv4("127.255.255.254", DB4, TCP, tcp(1, 2)), id="from the end of 127/8"),
        pytest.param(ipv4(WEB4, "127.0.0.1", UDP, udp(1, 2)), id="to 127.0.0.1"),
        pytest.param(ipv4(WEB4, "127.9.9.9", UDP, udp(1, 2), fragment=LATER), id="to 127/8, later fragment"),
        pytest.param(ipv6("::1", DB6, TCP, tcp(1, 2)), id="from ::1"),
        pytest.param(ipv6(WEB6, "::1", TCP, tcp(1, 2)), id="to ::1"),
        pytest.param(ipv6(WEB6, "::1", TCP, tcp(1, 2), [extension(DESTINATION)]), id="to ::1, options"),
        pytest.param(ipv6("::ffff:127.0.0.1", DB6, TCP, tcp(1, 2)), id="from ::ffff:127.0.0.1"),
        pytest.param(ipv6(f"::ffff:{WEB4}", DB6, TCP, tcp(1, 2)), id="from its own IPv4 in disguise"),
        pytest.param(ipv6(WEB6, f"::ffff:{DB4}", TCP, tcp(1, 2)), id="to IPv4 in disguise"),
    ],
)
@pytest.mark.parametrize("tags", [(), (7,)], ids=["untagged", "tagged"])
def test_loopback_is_not_for_the_wire(bench: GuardBench, packet: bytes, tags: tuple[int, ...]) -> None:
    """Neither from it nor to it, nor IPv4 addresses in headers of IPv6; though its own neighbours' are near."""
    assert bench.judge([ethernet(packet, tags=tags)]) == (R.LOOPBACK,)
    near = [ipv4(WEB4, "126.255.255.255", UDP, udp(1, 2)), ipv4(WEB4, "128.0.0.0", UDP, udp(1, 2)),
            ipv6(WEB6, "::2", UDP, udp(1, 2)), ipv6(WEB6, "::fffe:a0b:3", UDP, udp(1, 2))]  # fmt: skip
    assert bench.judge([ethernet(one, tags=tags) for one in near]) == (None,) * 4


# -- what only routers and servers say --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        case("router advertisement", ethernet(ipv6(LL, ALL6, ICMP6, router_advertisement(WEB_MAC))), R.ROUTER),
        case("of another", ethernet(ipv6(DB_LL, ALL6, ICMP6, router_advertisement(WEB_MAC))), R.ROUTER),
        case("redirect", ethernet(ipv6(LL, DB6, ICMP6, icmp(137, bytes(36)))), R.ROUTER),
        case("renumbering", ethernet(ipv6(LL, DB6, ICMP6, icmp(138, bytes(12)))), R.ROUTER),
        case("ipv4 redirect", ethernet(ipv4(WEB4, DB4, ICMP, icmp(5, bytes(32)))), R.ROUTER),
        case("ipv4 router advertisement", ethernet(ipv4(WEB4, DB4, ICMP, icmp(9, bytes(12)))), R.ROUTER),
        case("tagged", ethernet(ipv6(LL, ALL6, ICMP6, router_advertisement(WEB_MAC)), tags=[7, 8]), R.ROUTER),
        case("behind headers", ethernet(ipv6(LL, ALL6, ICMP6, router_advertisement(WEB_MAC),
             [extension(HOP_BY_HOP), extension(DESTINATION, 3), extension(ROUTING, 2), extension(AH)])), R.ROUTER),
        case("first fragment", ethernet(ipv6(LL, ALL6, ICMP6, router_advertisement(WEB_MAC), [fragment6(more=True)])),
             R.ROUTER),
        case("atomic fragment", ethernet(ipv6(LL, ALL6, ICMP6, router_advertisement(WEB_MAC), [fragment6()])),
             R.ROUTER),
        case("icmp types in tcp", ethernet(ipv4(WEB4, DB4, TCP, tcp(0x0500, 0x0900)))),
        case("icmpv6 over ipv4 means nothing", ethernet(ipv4(WEB4, DB4, ICMP6, icmp(134)))),
        case("dhcp offer", ethernet(ipv4(WEB4, "255.255.255.255", UDP, udp(67, 68, bytes(240)))), R.DHCP_SERVER),
        case("dhcp offer of the host", ethernet(ipv4(HOST4, DB4, UDP, udp(67, 68, bytes(240)))), R.DHCP_SERVER),
        case("from another port", ethernet(ipv4(WEB4, DB4, UDP, udp(6767, 68, bytes(240)))), R.DHCP_SERVER),
        case("its first fragment", ethernet(ipv4(WEB4, DB4, UDP, udp(67, 68, bytes(240)), fragment=FIRST)),
             R.DHCP_SERVER),
        case("behind options", ethernet(ipv4(WEB4, DB4, UDP, udp(67, 68), options=b"\x01" * 40)), R.DHCP_SERVER),
        case("to a relay", ethernet(ipv4(WEB4, HOST4, UDP, udp(67, 67, bytes(240))))),
        case("dhcpv6 reply", ethernet(ipv6(LL, DB_LL, UDP, udp(547, 546, bytes(60)))), R.DHCP_SERVER),
        case("dhcpv6 reply, other port", ethernet(ipv6(WEB6, DB6, UDP, udp(9, 546)), tags=[1]), R.DHCP_SERVER),
        case("dhcpv6 behind headers", ethernet(ipv6(LL, DB_LL, UDP, udp(547, 546), [extension(DESTINATION)] * 6)),
             R.DHCP_SERVER),
        case("port 68 over ipv6", ethernet(ipv6(WEB6, DB6, UDP, udp(67, 68)))),
        case("port 546 over ipv4", ethernet(ipv4(WEB4, DB4, UDP, udp(547, 546)))),
        case("tcp to port 68", ethernet(ipv4(WEB4, DB4, TCP, tcp(67, 68)))),
    ],
)  # fmt: skip
def test_routers_and_dhcp_servers(bench: GuardBench, frame: bytes, reason: GuardReason | None) -> None:
    """A container is neither: what only those say is dropped wherever it hides, and the like of it is not."""
    assert bench.judge([frame]) == (reason,)


# -- frames -----------------------------------------------------------------------------------------------------------

V4, V6 = ipv4(WEB4, DB4, UDP, udp(4000, 53)), ipv6(WEB6, DB6, UDP, udp(4000, 53))
JUMBO = V6[:4] + b"\0\0\0" + V6[7:40] + bytes([UDP, 0, 0xC2, 4, 0, 1, 0, 0]) + V6[40:]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        case("two tags", ethernet(V4, tags=[1, 2])),
        case("three tags", ethernet(V4, tags=[1, 2, 3]), R.UNREADABLE),
        case("a lie behind two tags", ethernet(ipv4(DB4, HOST4, UDP, udp(1, 2)), tags=[1, 2]), R.SOURCE_ADDRESS),
        case("a lie behind a service tag", ethernet(b"\0\7\x08\0" + ipv4(DB4, HOST4, UDP, udp(1, 2)), 0x88A8),
             R.SOURCE_ADDRESS),
        case("jumbogram", ethernet(JUMBO), R.UNREADABLE),
        case("half a tag", ethernet(b"\0", 0x8100), R.UNREADABLE),
        case("padded", ethernet(V4 + bytes(30))),
        case("ipv6 called ipv4", ethernet(V6, IPV4), R.UNREADABLE),
        case("ipv4 called ipv6", ethernet(V4 + bytes(40), IPV6), R.UNREADABLE),
        case("ipv4 header cut", ethernet(V4[:19], IPV4, tags=[7]), R.UNREADABLE),
        case("ipv6 header cut", ethernet(V6[:39], IPV6, tags=[7]), R.UNREADABLE),
        case("ipv4 cut", ethernet(V4[:-1]), R.UNREADABLE),
        case("ipv6 cut", ethernet(V6[:-1]), R.UNREADABLE),
        case("short header", ethernet(bytes([0x44]) + V4[1:]), R.UNREADABLE),
        case("nothing of ipv4", ethernet(b"", IPV4, tags=[7]), R.UNREADABLE),
        case("nothing of ipv6", ethernet(b"", IPV6, tags=[7]), R.UNREADABLE),
        case("udp cut", ethernet(ipv4(WEB4, DB4, UDP, bytes(7))), R.UNREADABLE),
        case("icmp cut", ethernet(ipv4(WEB4, DB4, ICMP, b"\x05")), R.UNREADABLE),
        case("igmp cut", ethernet(ipv4(NOBODY4, DB4, IGMP, b"")), R.UNREADABLE),
        case("icmpv6 cut", ethernet(ipv6(WEB6, DB6, ICMP6, b"\x86")), R.UNREADABLE),
        case("icmpv6 in the padding", ethernet(ipv6(WEB6, DB6, ICMP6) + icmp(134)), R.UNREADABLE),
        case("small first fragment", ethernet(ipv4(WEB4, DB4, UDP, b"", fragment=FIRST)), R.UNREADABLE),
        case("header left to the next fragment", said(WEB6, b"", fragment6(more=True), extension(DESTINATION)),
             R.UNREADABLE),
        case("later fragment", ethernet(ipv4(WEB4, DB4, UDP, b"rest", fragment=LATER))),
        case("later fragment of icmpv6", said(WEB6, b"\x86", fragment6(64))),
        case("later fragment of another", ethernet(ipv4(DB4, HOST4, UDP, b"rest", fragment=LATER)), R.SOURCE_ADDRESS),
        case("later fragment of another, ipv6", said(DB6, b"rest", fragment6(64)), R.SOURCE_ADDRESS),
        case("later fragment of nobody", said(NOBODY6, b"rest", fragment6(64)), R.SOURCE_ADDRESS),
        case("six headers", said(WEB6, icmp(128), *[extension(DESTINATION)] * 6)),
        case("seven headers", said(WEB6, icmp(128), *[extension(DESTINATION)] * 7), R.UNREADABLE),
        case("ipx", ethernet(bytes(46), 0x8137)),
        case("802.3", ethernet(b"\xe0\xe0\x03" + bytes(43), 46)),
        case("eapol", ethernet(bytes(46), 0x888E)),
        *(case(f"to bridges {last:02x}", ethernet(bytes(46), 39, destination=f"01:80:c2:00:00:{last:02x}"), R.BRIDGE)
          for last in (0x00, 0x01, 0x02, 0x03, 0x0E, 0x0F)),
        case("ip to bridges", ethernet(V4, destination="01:80:c2:00:00:00"), R.BRIDGE),
        *(case(f"to {mac}", ethernet(bytes(46), 39, destination=mac)) for mac in (
            "01:80:c2:00:00:10", "01:80:c2:00:01:00", "01:80:c2:01:00:00", "01:00:0c:cc:cc:cc", "00:80:c2:00:00:00")),
    ],
)  # fmt: skip
def test_frames(bench: GuardBench, frame: bytes, reason: GuardReason | None) -> None:
    """What calls itself IP or ARP has to be; tags hide nothing; bridges are not spoken to; others pass by their MAC."""
    assert bench.judge([frame]) == (reason,)


# -- what is said about it --------------------------------------------------------------------------------------------


def test_a_drop_says_who_said_what(bench: GuardBench) -> None:
    """The event and the last offender carry the packet's tuple, the frame's source, the port, its network, the why."""
    event, offender = bench.told(ethernet(ipv4(DB4, HOST4, UDP, udp(4000, 53)), tags=[3]))
    assert (event.kind, event.action, event.guard) == (EventKind.GUARDED, EventAction.DROPPED, R.SOURCE_ADDRESS)
    assert (event.ifindex, event.source_network, event.destination_network) == (DEVICE, NETWORK, 0)
    for one in (event, offender):
        assert (str(one.source), one.source_port, str(one.destination), one.destination_port) == (DB4, 4000, HOST4, 53)
        assert (one.protocol, one.mac) == (UDP, WEB_MAC)
    assert offender.time_ns == event.time_ns > 0


@pytest.mark.parametrize(
    ("frame", "reason", "source", "destination", "mac"),
    [
        pytest.param(ethernet(arp(2, WEB_MAC, HOST4, DB4)), R.ARP, HOST4, DB4, WEB_MAC, id="arp"),
        pytest.param(said(WEB6, nd(136, DB6)), R.NEIGHBOUR, WEB6, ALL6, WEB_MAC, id="nd"),
        pytest.param(spoofed(TO_DB), R.SOURCE_MAC, "None", "None", STRANGER, id="mac, nothing else is read"),
        pytest.param(ethernet(bytes(46), IPV4), R.UNREADABLE, "None", "None", WEB_MAC, id="unreadable"),
    ],
)
def test_a_drop_says_what_could_be_read(
    bench: GuardBench, frame: bytes, reason: GuardReason, source: str, destination: str, mac: str
) -> None:
    """Of ARP, whom it spoke for and to; of what was not read, the frame's source alone."""
    event, offender = bench.told(frame)
    assert event.guard is reason
    for one in (event, offender):
        assert (str(one.source), str(one.destination), one.mac) == (source, destination, mac)


def test_drops_are_counted_by_reason(bench: GuardBench) -> None:
    """Each frame once, under the first reason that holds."""
    lies = [*LIES, spoofed(TO_DB)]
    assert bench.judge(lies * 20) == (R.SOURCE_ADDRESS, R.ARP, R.UNREADABLE, R.SOURCE_MAC) * 20
