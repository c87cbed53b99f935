"""Isolation under real traffic: what a container sends to whom it must not reach, by every way that there is.

Where it says that something does not arrive, the same test with an open network shows that it does.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from dataplane.types import Protocol
from support import plan
from support.frames import Flow, frame, frame6, ones_sum
from support.listener import Listener
from support.netns import Place, Sandbox
from support.traffic import Answer, ask, send_frame, serve
from support.world import Attached, World, publish

SIDE = plan.Network("side", "br-side", IPv4Network("10.13.0.0/24"), IPv6Network("fd00:13::/64"))
HOST = {4: plan.HOST4, 6: plan.HOST6}
MARK = 1 << 27
ISOLATED = {"ingressPolicy": "isolated"}
UNGUARDED = {"guard": "off"}
"""Where containers send what guard would stop before isolation sees it."""


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host without networks yet."""
    return World(sandbox, tmp_path)


def bridged(world: World, value: int) -> None:
    """Let netfilter see bridged packets, or not."""
    for name in ("iptables", "ip6tables"):
        world.host.sysctl(f"net/bridge/bridge-nf-call-{name}", value)


def seen(answer: Answer | None) -> tuple[str, str] | None:
    """Which server answered, and which client address it saw."""
    return (answer.server, answer.address) if answer else None


def reached(place: Place, address: object, port: int = 80, timeout: float = 0.2) -> bool:
    """Whether anybody answers; no route, and a neighbour that is not found, is no."""
    try:
        return ask(place, address, port, timeout=timeout) is not None
    except OSError:
        return False


def mac(place: Place, device: str) -> bytes:
    """A link's address."""
    (link,) = json.loads(place.ip("-j", "link", "show", "dev", device))
    return bytes.fromhex(link["address"].replace(":", ""))


# -- what crosses between networks -------------------------------------------------------------------------------------


def icmp6(source: str, destination: str, kind: int, body: bytes, hop_limit: int = 255) -> bytes:
    """An ICMPv6 packet behind an Ethernet header, summed."""
    ends = IPv6Address(source).packed + IPv6Address(destination).packed
    message = struct.pack("!BBH", kind, 0, 0) + body
    check = ~ones_sum(ends + struct.pack("!II", len(message), 58) + message) & 0xFFFF
    message = message[:2] + struct.pack("!H", check) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), 58, hop_limit) + ends
    return bytes(12) + b"\x86\xdd" + header + message


def behind(sent: bytes, protocol: int, body: bytes) -> bytes:
    """An IPv6 packet with an extension header put in front of what it carries; ``body`` is without the next header."""
    header, payload = sent[14:54], bytes([sent[20]]) + body + sent[54:]
    return sent[:14] + header[:4] + struct.pack("!HB", len(payload), protocol) + header[7:] + payload


def forbidden(source: Attached, target: Attached) -> Iterator[tuple[str, bytes]]:
    """Frames from one container to another, each with its token, all but the MACs."""

    def flow(version: int, protocol: Protocol = Protocol.UDP) -> Flow:
        return Flow(protocol, str(source.address(version)), 4000, str(target.address(version)), 4000)

    own, other = str(source.address(6)), str(target.address(6))
    yield "udp4", frame(flow(4), b"<udp4>")
    yield "tcp4", frame(flow(4, Protocol.TCP), b"<tcp4>")
    yield "options4", frame(flow(4), b"<options4>", ip_options=b"\x01\x01\x01\x00")
    yield "udp6", frame6(flow(6), b"<udp6>")
    yield "tcp6", frame6(flow(6, Protocol.TCP), b"<tcp6>")
    yield "hop by hop", behind(frame6(flow(6), b"<hop by hop>"), 0, b"\x00\x01\x04\x00\x00\x00\x00")
    yield "routing", behind(frame6(flow(6), b"<routing>"), 43, b"\x00\x00\x00\x00\x00\x00\x00")
    yield "destination", behind(frame6(flow(6), b"<destination>"), 60, b"\x00\x01\x04\x00\x00\x00\x00")
    yield "esp", frame6(flow(6), b"<esp>").replace(b"\x11\x40", b"\x32\x40", 1)
    yield "router", icmp6(own, other, 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + b"<router>")
    yield "neighbour", icmp6(own, other, 136, struct.pack("!I", 0xE0000000) + IPv6Address(own).packed + b"<neighbour>")
    quoted = frame6(flow(6))[14:]
    yield "too big", icmp6(own, other, 2, struct.pack("!I", 1280) + quoted + b"<too big>")
    broadcast = Flow(Protocol.UDP, str(source.address(4)), 4000, str(target.network.subnet4.broadcast_address), 4000)
    yield "broadcast", frame(broadcast, b"<broadcast>")


@pytest.mark.parametrize("policy", ["open", "same-bridge"])
def test_nothing_crosses_whatever_it_is(world: World, policy: str) -> None:
    """Options, extension headers, other protocols, router advertisements, forged errors, directed broadcasts, packets
    that policy routing sends: none of it crosses, and between open networks all of it does."""
    world.network(plan.FRONT, ingressPolicy=policy, **UNGUARDED)
    world.network(plan.BACK, ingressPolicy=policy, **UNGUARDED)
    web, shop = world.attach("web", plan.FRONT), world.attach("shop", plan.FRONT)
    admin = world.attach("admin", plan.BACK)
    for device in ("all", plan.BACK.device):
        world.host.sysctl(f"net/ipv4/conf/{device}/bc_forwarding", 1)
    world.host.ip("rule", "add", "iif", plan.BACK.device, "lookup", 100)
    world.host.ip("route", "add", plan.FRONT.subnet4, "dev", plan.FRONT.device, "table", 100)
    macs = mac(world.host, plan.BACK.device) + mac(admin.netns, "eth0")
    frames = dict(forbidden(admin, web))
    # The host is to know the target: a packet that waits for its address would be late, and not dropped.
    assert [ask(world.host, web.address(version), 9, timeout=0.3) for version in (4, 6)] == [None, None]
    with Listener(web.netns) as listener:
        for one in frames.values():
            send_frame(admin.netns, "eth0", macs + one[12:])
        control = frame(Flow(Protocol.UDP, str(shop.address(4)), 1, str(web.address(4)), 1), b"<control>")
        send_frame(shop.netns, "eth0", mac(web.netns, "eth0") + mac(shop.netns, "eth0") + control[12:])
        listener.wait_for("control")
    assert listener.heard - {"control"} == (set(frames) if policy == "open" else set())


def send_large(place: Place, address: object, token: str, port: int = 4000) -> None:
    """A datagram of several fragments, full of a token."""
    code = (
        "import socket, sys; address, port, token = sys.argv[1:]\n"
        "family = socket.AF_INET6 if ':' in address else socket.AF_INET\n"
        "socket.socket(family, socket.SOCK_DGRAM).sendto(b'<%s>' % token.encode() * 500, (address, int(port)))"
    )
    place.python(code, address, port, token)


def leave_unread(world: World) -> None:
    """Have a packet socket on the host that nobody reads: it holds a clone of whatever comes by."""
    code = (
        "import socket, time; one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))\n"
        "one.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE: one that is full holds nothing more\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    process = world.host.spawn(sys.executable, "-I", "-S", "-c", code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


@pytest.mark.parametrize("policy", ["open", "same-bridge"])
def test_fragments_are_kept_apart_like_whole_packets(world: World, policy: str) -> None:
    """Also those that the kernel puts together and splits anew, as it does when others hold clones of them: from
    another network they do not arrive; from outside, neighbours, the host and through published ports they do."""
    world.network(plan.FRONT, ingressPolicy=policy)
    world.network(plan.BACK, ingressPolicy=policy)
    web = world.attach("web", plan.FRONT, publish("8053:53", "udp"))
    shop, admin = world.attach("shop", plan.FRONT), world.attach("admin", plan.BACK)
    leave_unread(world)
    sent = {"admin": admin.netns, "shop": shop.netns, "outside": world.client, "host": world.host}
    allowed = {"shop", "outside", "host", "published"} | ({"admin"} if policy == "open" else set())
    for value in (0, 1):
        bridged(world, value)
        with Listener(web.netns) as listener:
            for version in (4, 6):
                for name, place in sent.items():
                    send_large(place, web.address(version), f"{name}{version}")
                send_large(admin.netns, HOST[version], f"published{version}", 8053)
                listener.wait_for(f"published{version}")
        # Half a token, too: at a fragment's beginning, behind an identification that ends with "<".
        whole = listener.heard & {f"{name}{version}" for name in (*sent, "published") for version in (4, 6)}
        assert whole == {f"{name}{version}" for name in allowed for version in (4, 6)}, value


# -- who may and who may not -------------------------------------------------------------------------------------------


def test_every_policy_beside_every_other(world: World) -> None:
    """An isolated network, one that is not, and one without a bridge: no way directly, published ports from all of them
    with the client's own address; host, outside and answers as ever, whether netfilter sees bridged packets or not."""
    world.network(plan.FRONT, **ISOLATED)
    world.network(plan.BACK)
    world.network(SIDE, main="ptp", **ISOLATED)
    published = {"web": (plan.FRONT, 8081), "admin": (plan.BACK, 8082), "side": (SIDE, 8083)}
    ones = {name: world.attach(name, net, publish(f"{port}:80")) for name, (net, port) in published.items()}
    other = world.attach("other", SIDE)
    for one in ones.values():
        world.serve(one)
    serve(world.host, "host", "tcp", 7000, "::")
    serve(world.client, "client", "tcp", 80, "::")
    outside = {4: plan.CLIENT4, 6: plan.CLIENT6}
    for value in (0, 1):
        bridged(world, value)
        for version in (4, 6):
            for name, one in ones.items():
                for peer, (network, port) in published.items():
                    if network is not one.network:
                        assert not reached(one.netns, ones[peer].address(version)), (name, peer, version, value)
                        asked = seen(ask(one.netns, HOST[version], port))
                        assert asked == (peer, str(one.address(version))), (name, peer, version, value)
                if value:
                    continue  # a bridge has no part in the rest
                assert seen(ask(world.client, one.address(version), 80)) == (name, str(outside[version]))
                assert reached(world.host, one.address(version))
                assert reached(one.netns, HOST[version], 7000)
                assert seen(ask(one.netns, outside[version], 80)) == ("client", str(one.address(version)))
            assert not reached(other.netns, ones["side"].address(version)), "routed neighbours"
            assert seen(ask(other.netns, HOST[version], 8083)) == ("side", str(other.address(version)))


@pytest.mark.parametrize("policy", ["same-bridge", "isolated"])
def test_neighbours_do_not_even_find_each_other(world: World, policy: str) -> None:
    """isolated: no ARP, no neighbour discovery, no other protocol, tagged or not, directly or by the gateway's MAC; the
    gateway is there. Otherwise all of it comes through."""
    world.network(plan.FRONT, ingressPolicy=policy, **UNGUARDED)
    web, shop = world.attach("web", plan.FRONT), world.attach("shop", plan.FRONT)
    serve(world.host, "host", "tcp", 7000, "::")
    own, gateway, target = mac(shop.netns, "eth0"), mac(world.host, plan.FRONT.device), mac(web.netns, "eth0")
    everybody, asked = b"\xff" * 6, b"\x33\x33\xff" + web.address(6).packed[-3:]
    flow = Flow(Protocol.UDP, str(shop.address(4)), 4000, str(web.address(4)), 4000)
    flow6 = Flow(Protocol.UDP, str(shop.address(6)), 4000, str(web.address(6)), 4000)
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + shop.address(4).packed + bytes(6) + web.address(4).packed
    wanted = struct.pack("!I", 0) + web.address(6).packed
    for value in (0, 1):
        bridged(world, value)
        frames = {
            "arp": everybody + own + b"\x08\x06" + arp + b"<arp>",
            "solicitation": asked + own + icmp6(flow6.source, flow6.destination, 135, wanted + b"<solicitation>")[12:],
            "other": target + own + b"\x88\xb5<other>",
            "udp4": target + own + frame(flow, b"<udp4>")[12:],
            "udp6": target + own + frame6(flow6, b"<udp6>")[12:],
            "tagged": target + own + frame(flow, b"<tagged>", vlan=7)[12:],
            "routed4": gateway + own + frame(flow, b"<routed4>")[12:],
            "routed6": gateway + own + frame6(flow6, b"<routed6>")[12:],
        }
        assert all(reached(world.host, web.address(version), 9) is False for version in (4, 6))
        with Listener(web.netns) as listener:
            for one in frames.values():
                send_frame(shop.netns, "eth0", one)
            send_frame(world.host, plan.FRONT.device, target + gateway + b"\x88\xb5<control>")
            listener.wait_for("control")
        assert listener.heard - {"control"} == (set(frames) if policy == "same-bridge" else set()), value
        for address in (plan.FRONT.gateway4, plan.FRONT.gateway6):
            assert reached(shop.netns, address, 7000)


def test_a_container_in_two_networks_is_no_hole(world: World) -> None:
    """Each of its interfaces is of its own network: nobody gets through, or to its other address, unless it wants."""
    world.network(plan.FRONT, **UNGUARDED)
    world.network(plan.BACK, **UNGUARDED)
    web, admin = world.attach("web", plan.FRONT), world.attach("admin", plan.BACK)
    both, second = world.attach("both", plan.FRONT), world.attach("both", plan.BACK, ifname="eth1")
    world.serve(web)
    world.serve(both)
    for version, name in ((4, "ipv4/ip_forward"), (6, "ipv6/conf/all/forwarding")):
        assert reached(admin.netns, second.address(version))
        assert reached(web.netns, both.address(version))
        assert not reached(admin.netns, both.address(version)), "by the host, to its other address"
        assert not reached(web.netns, second.address(version))
        for place, there, by in ((admin.netns, web, second), (web.netns, admin, both)):
            place.ip("route", "add", there.address(version), "via", by.address(version))
        assert not reached(admin.netns, web.address(version))
        both.netns.sysctl(f"net/{name}", 1)
        assert reached(admin.netns, web.address(version)), "a router between them, as somebody chose"


# -- what explains a packet --------------------------------------------------------------------------------------------


def test_nobody_elses_mark_opens_a_network(world: World) -> None:
    """Neither a container's own (SO_MARK) nor one that other rules set, on all of its bits; those of others stay."""
    world.network(plan.FRONT)
    world.network(plan.BACK)
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    admin = world.attach("admin", plan.BACK)
    world.serve(web)
    code = (
        "import socket, sys; one = socket.socket(); one.settimeout(0.3)\n"
        "one.setsockopt(socket.SOL_SOCKET, 36, int(sys.argv[2]))\n"
        "sys.exit(one.connect_ex((sys.argv[1], 80)) == 0)"
    )
    assert admin.netns.python(code, web.address(4), MARK, check=False).returncode == 0
    world.host.run(
        "nft",
        "table inet others {\n"
        "chain before { type filter hook prerouting priority -150; meta mark set 0xffffffff; }\n"
        f"chain after {{ type filter hook forward priority 10; meta mark {0xFFFFFFFF ^ MARK:#x} counter; }}\n}}",
    )
    for version in (4, 6):
        assert not reached(admin.netns, web.address(version))
        assert reached(admin.netns, HOST[version], 8080)
    assert "counter packets 0 " not in world.host.run("nft", "list", "table", "inet", "others").stdout


def test_errors_about_a_published_port_come_back(world: World) -> None:
    """Who asks a published port that nobody serves, from another network, is told by the container's ICMP error."""
    world.network(plan.FRONT, **ISOLATED)
    world.network(plan.BACK)
    web, admin = world.attach("web", plan.FRONT, publish("8053:53", "udp")), world.attach("admin", plan.BACK)
    code = (
        "import socket, sys; address, port = sys.argv[1:]\n"
        "one = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)\n"
        "one.settimeout(0.5); one.connect((address, int(port))); one.send(b'x')\n"
        "try: one.recv(1)\n"
        "except OSError as error: print(type(error).__name__)"
    )
    for version in (4, 6):
        assert admin.netns.python(code, HOST[version], 8053).stdout == "ConnectionRefusedError\n"
        assert admin.netns.python(code, web.address(version), 53).stdout == "TimeoutError\n"


@pytest.mark.parametrize("place", ["before ours", "after ours"])
def test_a_detour_by_ifb_loses_nothing(world: World, place: str) -> None:
    """Beside the bandwidth plugin, which sends what a container sends by way of another device, isolation is the same:
    with a bridge and without one."""
    ipam = {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}]}
    # The plugin makes an ingress qdisc and refuses to share it: guard has to come after it, or to be off.
    guard = {} if place == "before ours" else UNGUARDED
    ours: dict[str, object] = {"type": "dataplane", "capabilities": {"portMappings": True}, **guard}
    slow: dict[str, object] = {"type": "bandwidth", "egressRate": 10**9, "egressBurst": 10**9}
    mains: dict[plan.Network, dict[str, object]] = {
        plan.FRONT: {"type": "bridge", "bridge": plan.FRONT.device, "isGateway": True},
        plan.BACK: {"type": "bridge", "bridge": plan.BACK.device, "isGateway": True},
        SIDE: {"type": "ptp"},
    }
    for network, main in mains.items():
        own = ipam | {"ranges": [[{"subnet": str(network.subnet4)}]]}
        chained = [slow, ours] if place == "before ours" else [ours, slow]
        world.define(network, [main | {"ipam": own}, *chained])
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    world.serve(web)
    for name, network in (("admin", plan.BACK), ("side", SIDE)):
        one = world.attach(name, network)
        assert not reached(one.netns, web.address(4))
        assert seen(ask(one.netns, plan.HOST4, 8080)) == ("web", str(one.address(4)))
    counted = json.loads(world.host.ip("-j", "-s", "link", "show", "type", "ifb"))
    assert len(counted) == 3
    assert all(one["stats64"]["tx"]["packets"] for one in counted), "nothing went by way of the ifb devices"


def test_status_tells_what_bridged_netfilter_takes_away(world: World) -> None:
    """Neighbours of an isolated network reach each other's published ports unless netfilter sees bridged packets, which
    rewrites them where port isolation drops them; ``dpctl status`` says so, and how to have it otherwise."""
    world.network(plan.FRONT, **ISOLATED)
    web, shop = world.attach("web", plan.FRONT, publish("8080:80")), world.attach("shop", plan.FRONT)
    world.serve(web)
    for value in (0, 1):
        bridged(world, value)
        answers = {reached(place, address, 8080) for place in (web.netns, shop.netns) for address in HOST.values()}
        notes = json.loads(world.dpctl("status", "--json", check=False))["notes"]
        assert answers == {not value}
        assert any("bridge-nf-call-iptables=0 and net.bridge" in note for note in notes) == bool(value)
