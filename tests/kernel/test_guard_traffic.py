"""The guard on a real container's port: what a hostile one sends arrives nowhere, and an honest one notices nothing."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
from collections import Counter
from contextlib import suppress

import pytest

from dataplane.abi import EventKind, GuardReason
from dataplane.types import AttachMode
from support.crafted import (
    ALL_NODES,
    ARP,
    DB_MAC,
    DESTINATION,
    FIRST,
    ICMP,
    ICMP6,
    IPV4,
    RARP,
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
    router_advertisement,
    tcp,
    udp,
)
from support.guarding import (
    ALL6,
    DB4,
    DB6,
    HOST4,
    HOST6,
    LL,
    NETWORK,
    PORT,
    WEB4,
    WEB6,
    Heard,
    configure,
    drops,
    events,
    guard,
    plugged,
    say,
    socket_in,
    unguard,
)
from support.netns import Namespace, Sandbox, wait_until
from support.traffic import ask, serve

MODES = pytest.mark.parametrize("mode", [AttachMode.TCX, AttachMode.CLSACT])
R = GuardReason

LIES: tuple[tuple[bytes, GuardReason], ...] = (
    (ethernet(ipv4(WEB4, DB4, UDP, udp(1, 2)), source=STRANGER), R.SOURCE_MAC),
    (ethernet(arp(2, WEB_MAC, WEB4), source=DB_MAC), R.SOURCE_MAC),
    (ethernet(ipv4(DB4, HOST4, UDP, udp(1, 2))), R.SOURCE_ADDRESS),
    (ethernet(ipv4("192.0.2.7", HOST4, TCP, tcp(1, 2)), tags=[7]), R.SOURCE_ADDRESS),
    (ethernet(ipv6(DB6, HOST6, UDP, udp(1, 2))), R.SOURCE_ADDRESS),
    (ethernet(ipv6("fe80::7", ALL6, UDP, udp(1, 2))), R.SOURCE_ADDRESS),
    (ethernet(arp(2, WEB_MAC, HOST4, DB4)), R.ARP),
    (ethernet(arp(2, WEB_MAC, HOST4, DB4), ARP, tags=[0]), R.ARP),
    (ethernet(arp(2, WEB_MAC, HOST4, DB4), ARP, tags=[7, 8]), R.ARP),
    (ethernet(arp(1, DB_MAC, WEB4, DB4)), R.ARP),
    (ethernet(arp(3, WEB_MAC, WEB4), RARP), R.ARP),
    (ethernet(ipv6(LL, ALL6, ICMP6, nd(136, HOST6, mac_option(2, WEB_MAC)))), R.NEIGHBOUR),
    (ethernet(ipv6(WEB6, ALL6, ICMP6, nd(136, WEB6, mac_option(2, DB_MAC)))), R.NEIGHBOUR),
    (ethernet(ipv6("::", ALL6, ICMP6, nd(135, DB6))), R.NEIGHBOUR),
    (ethernet(ipv6(LL, ALL6, ICMP6, nd(136, HOST6), [extension(DESTINATION)])), R.NEIGHBOUR),
    (ethernet(ipv6(LL, ALL6, ICMP6, router_advertisement(WEB_MAC))), R.ROUTER),
    (ethernet(ipv6(LL, ALL6, ICMP6, router_advertisement(WEB_MAC), [fragment6(more=True)])), R.ROUTER),
    (ethernet(ipv6(LL, ALL6, ICMP6, icmp(137, bytes(36)))), R.ROUTER),
    (ethernet(ipv4(WEB4, DB4, ICMP, icmp(5, bytes(32)))), R.ROUTER),
    (ethernet(ipv4(WEB4, "255.255.255.255", UDP, udp(67, 68, bytes(240)))), R.DHCP_SERVER),
    (ethernet(ipv6(LL, ALL6, UDP, udp(547, 546, bytes(40)))), R.DHCP_SERVER),
    (ethernet(ipv4("127.0.0.1", DB4, UDP, udp(1, 2))), R.LOOPBACK),
    (ethernet(ipv4(WEB4, "127.0.0.1", UDP, udp(1, 2))), R.LOOPBACK),
    (ethernet(ipv6(WEB6, "::1", UDP, udp(1, 2))), R.LOOPBACK),
    (ethernet(ipv6(f"::ffff:{WEB4}", DB6, UDP, udp(1, 2))), R.LOOPBACK),
    (ethernet(b"\x45", IPV4), R.UNREADABLE),
    (ethernet(ipv4(WEB4, DB4, UDP, b"", fragment=FIRST)), R.UNREADABLE),
    (ethernet(ipv4(WEB4, DB4, UDP, udp(1, 2)), tags=[1, 2, 3, 4]), R.UNREADABLE),
)
SPANNING_TREE = ethernet(b"\x42\x42\x03" + bytes(35), 38, destination="01:80:c2:00:00:00")


def echoed(place: Namespace, address: str) -> bool:
    """Whether an address answers a ping."""

    def ping() -> bool:
        version6 = ":" in address
        family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if version6 else (socket.AF_INET, ICMP)
        request, answer = (128, 129) if version6 else (8, 0)
        with socket.socket(family, socket.SOCK_RAW, protocol) as out:
            out.settimeout(5)
            check = 0 if version6 else ~(request << 8) & 0xFFFF
            out.sendto(struct.pack("!BBHI", request, 0, check, 0), (address, 0))
            with suppress(TimeoutError):
                while True:
                    came = out.recv(2048)
                    if came[0 if version6 else 20] == answer:
                        return True
        return False

    return place.call(ping)


def streamed(size: int) -> list[int]:
    """Inside the host: how much arrives from ``web`` at ``db``, of so many bytes by TCP, in segments as large as there
    are, and of a datagram of 4,000 bytes, in fragments; over both families."""
    arrived = []
    for family, address in ((socket.AF_INET, DB4), (socket.AF_INET6, DB6)):
        kind = socket.SOCK_STREAM
        with socket_in("db", family, kind) as server, socket_in("web", family, kind) as client:
            client.settimeout(10)
            server.settimeout(10)
            server.bind((address, 9000))
            server.listen()
            client.connect((address, 9000))
            sending = threading.Thread(target=client.sendall, args=(bytes(size),))
            sending.start()
            came, connection = 0, server.accept()[0]
            with connection:
                connection.settimeout(10)
                while came < size and (chunk := connection.recv(1 << 20)):
                    came += len(chunk)
            sending.join()
            arrived.append(came)
        kind = socket.SOCK_DGRAM
        with socket_in("db", family, kind) as server, socket_in("web", family, kind) as client:
            server.settimeout(10)
            server.bind((address, 9000))
            client.sendto(bytes(4000), (address, 9000))
            arrived.append(len(server.recv(8000)))
    return arrived


def members_of(index: int) -> str:
    """Inside the host: what the bridge knows of groups while ``web`` is a member of two by this interface."""
    with (
        socket_in("web", socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket_in("web", socket.AF_INET6, socket.SOCK_DGRAM) as two,
    ):
        membership = socket.inet_aton("239.1.2.3") + socket.inet_aton(WEB4)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        membership = socket.inet_pton(socket.AF_INET6, "ff05::123") + struct.pack("=I", index)
        two.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)

        def known() -> str:
            command = ["bridge", "mdb", "show", "dev", "br-front"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            return said if all(f"port {PORT} grp {group} " in said for group in ("239.1.2.3", "ff05::123")) else ""

        return wait_until(known, what="both groups")


def serve_all(*places: tuple[Sandbox | Namespace, str]) -> None:
    for place, name in places:
        for protocol in ("tcp", "udp"):
            serve(place, name, protocol, 80, "::")


@MODES
def test_what_a_hostile_container_sends_arrives_nowhere(sandbox: Sandbox, mode: AttachMode) -> None:
    """Neither at its neighbour nor at the host, which hear all of it where there is no guard; each is counted, told."""
    web, _ = plugged(sandbox)
    configure(web, WEB4, WEB6)
    frames, everything = [frame for frame, _ in LIES], frozenset(range(len(LIES)))
    assert say(sandbox, frames) == Heard(everything, everything)
    assert say(sandbox, [SPANNING_TREE]).by_neighbour == {0}

    guard(sandbox, PORT, mode)
    events(sandbox)
    assert say(sandbox, [*frames, SPANNING_TREE]) == Heard(frozenset(), frozenset())
    expected = [reason for _, reason in LIES] + [R.BRIDGE]
    assert drops(sandbox) == Counter(expected)
    told = [one for one in events(sandbox) if one.kind is EventKind.GUARDED]
    assert [one.guard for one in told] == expected
    assert {one.source_network for one in told} == {NETWORK}
    assert [one.mac for one in told[:3]] == [STRANGER, DB_MAC, WEB_MAC]

    unguard(sandbox, PORT)
    assert say(sandbox, frames) == Heard(everything, everything)


@MODES
def test_an_honest_container_notices_nothing(sandbox: Sandbox, mode: AttachMode) -> None:
    """Guarded before its interface is up: address detection, neighbours, groups, TCP, UDP, pings, fragments, large
    segments, over both families, and not a single drop."""
    web, db = plugged(sandbox)
    guard(sandbox, PORT, mode)
    configure(web, WEB4, WEB6, detect=True)
    serve_all((web, "web"), (db, "db"), (sandbox, "host"))
    for protocol in ("tcp", "udp"):
        for address in (DB4, DB6, HOST4, HOST6):
            assert ask(web, address, 80, protocol, timeout=5), f"{protocol} to {address}"
        for address in (WEB4, WEB6):
            assert ask(db, address, 80, protocol, timeout=5), f"{protocol} to {address}"
            assert ask(sandbox, address, 80, protocol, timeout=5), f"{protocol} to {address}"
    assert all(echoed(web, address) for address in (DB4, DB6, HOST4, HOST6, f"{link_local(DB_MAC)}%eth0"))
    web.ip("link", "set", "eth0", "gso_max_size", 190_000)  # "BIG TCP": over IPv6 more than a header can say
    assert sandbox.call(streamed, 16 << 20) == [16 << 20, 4000] * 2

    own_index = json.loads(web.ip("-j", "link", "show", "eth0"))[0]["ifindex"]
    assert sandbox.call(members_of, own_index)

    honest = (
        ethernet(ipv4("0.0.0.0", "255.255.255.255", UDP, udp(68, 67, bytes(240)))),
        ethernet(arp(1, WEB_MAC, "0.0.0.0", WEB4)),
        ethernet(arp(2, WEB_MAC, WEB4, WEB4)),
        ethernet(ipv6(LL, "ff02::1:2", UDP, udp(546, 547, bytes(60)))),
        ethernet(ipv6("::", ALL6, ICMP6, icmp(133))),
        ethernet(ipv4(WEB4, DB4, UDP, udp(1, 2)), tags=[7]),
        ethernet(bytes(46), 0x88B5),
    )
    assert say(sandbox, honest) == Heard(frozenset(range(7)), frozenset(range(7)))
    assert drops(sandbox) == {}


def test_a_container_does_not_become_the_router(sandbox: Sandbox) -> None:
    """Its advertisement is a default route to neighbour and host (CVE-2020-10749), unless it is guarded."""
    web, db = plugged(sandbox)
    configure(web, WEB4, WEB6)
    db.sysctl("net/ipv6/conf/eth0/accept_ra", 1)
    sandbox.sysctl("net/ipv6/conf/br-front/accept_ra", 1)
    advertisement = ethernet(ipv6(LL, ALL6, ICMP6, router_advertisement(WEB_MAC)), destination=ALL_NODES)

    def routed() -> list[bool]:
        say(sandbox, [advertisement])
        return [f"via {LL}" in place.ip("-6", "route", "show", "default") for place in (db, sandbox)]

    guard(sandbox, PORT, AttachMode.AUTO)
    assert routed() == [False, False]
    unguard(sandbox, PORT)
    wait_until(lambda: routed() == [True, True], what="routes by the advertisement")


def test_a_container_does_not_become_its_neighbours_gateway(sandbox: Sandbox) -> None:
    """It answers for the gateway's addresses, and the neighbour believes it, unless it is guarded."""
    web, db = plugged(sandbox)
    configure(web, WEB4, WEB6)
    serve_all((sandbox, "host"))
    lies = (
        ethernet(arp(2, WEB_MAC, HOST4, DB4), destination=DB_MAC),
        ethernet(ipv6(LL, DB6, ICMP6, nd(136, HOST6, mac_option(2, WEB_MAC))), destination=DB_MAC),
    )

    def believed() -> list[bool]:
        assert all(ask(db, address, 80, timeout=5) for address in (HOST4, HOST6))
        say(sandbox, lies)
        return [WEB_MAC in db.ip("neighbour", "show", address) for address in (HOST4, HOST6)]

    db.sysctl("net/ipv4/neigh/eth0/locktime", 0)  # else the first answer within a second counts
    guard(sandbox, PORT, AttachMode.AUTO)
    assert believed() == [False, False]
    unguard(sandbox, PORT)
    assert believed() == [True, True]
