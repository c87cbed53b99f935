"""The main plugin on a real kernel: what each key does to traffic, what CHECK names, and that failures leave nothing.

What Debian's bridge does as well is compared with it in test_bridge_plugin.py.
"""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any

import pytest

from dataplane.types import Protocol
from support import needs, plan
from support.bridgehost import (
    BRIDGE,
    DUAL,
    GATEWAY4,
    GATEWAY6,
    IPV4,
    IPV6,
    MAC,
    STRANGER,
    V4,
    V6,
    Host,
    env_of,
    host_local,
    link_of,
    main_host,
)
from support.frames import Flow, frame, ones_sum
from support.netns import wait_until
from support.started import DPCTL, Plugin
from support.traffic import ask, counters, send_frame, serve
from support.world import GO_PLUGINS


@pytest.fixture(scope="module")
def one_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host of all tests; programs are compiled only once."""
    with main_host(tmp_path_factory.mktemp("bridge"), "dataplane-bridge") as made:
        yield made


@pytest.fixture
def host(one_host: Host) -> Iterator[Host]:
    """The host without containers, before and after."""
    yield one_host
    one_host.clear()


# Keys


@pytest.mark.parametrize("key", [{"vlan": 7}, {"vlanTrunk": [{"id": 7}, {"minID": 100, "maxID": 110}]}])
@pytest.mark.parametrize("bridge", ["made by the call", "there before"])
def test_vlans_where_the_kernel_has_none(host: Host, key: dict[str, Any], bridge: str) -> None:
    """The error names the kernel's option; there is no interface, no lease, and no bridge that was not there."""
    probe = host.sandbox.run("ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1", check=False)
    if probe.returncode == 0:
        pytest.skip("this kernel has CONFIG_BRIDGE_VLAN_FILTERING")
    if bridge == "there before":
        host.sandbox.bridge(BRIDGE)
    for preserve in (True, False):
        words = host.refuses(ipam=IPV4, preserveDefaultVlan=preserve, **key)
        assert "CONFIG_BRIDGE_VLAN_FILTERING" in words


def test_port_isolation(host: Host) -> None:
    """Ports that are isolated reach the gateway and not each other; one that is not reaches them."""
    for name in ("web", "db", "open"):
        host.add(name, ipam=IPV4, isGateway=True, portIsolation=name != "open", ingressPolicy="open")
        serve(host.inside(name), name, "tcp", 80)
    serve(host.sandbox, "host", "tcp", 7001)
    web = host.inside("web")
    assert ask(web, host.address("db"), 80, timeout=0.4) is None
    assert ask(web, GATEWAY4, 7001) is not None
    assert ask(web, host.address("open"), 80) is not None
    assert host.check("web") == []


def test_hairpin(host: Host) -> None:
    """Frames that a container sends to itself by way of the bridge come back, and without the key they do not."""
    flags = {}
    for name in ("web", "db"):
        host.add(name, ipam=IPV4, hairpinMode=name == "web")
        port = link_of(host.sandbox, host.port(name))["linkinfo"]["info_slave_data"]
        flags[name] = port["hairpin"]
    assert flags == {"web": True, "db": False}


def test_promiscuous_mode(host: Host) -> None:
    """CHECK says when the bridge is no longer promiscuous."""
    host.add(ipam=IPV4, promiscMode=True)
    assert link_of(host.sandbox, BRIDGE)["promiscuity"] >= 1
    assert host.check() == []
    host.sandbox.ip("link", "set", BRIDGE, "promisc", "off")
    assert host.check() == [f'bridge "{BRIDGE}" is not promiscuous']


def test_duplicate_address_detection(host: Host) -> None:
    """The result is not printed before the address is proved unique: nothing is tentative then."""
    host.add(ipam=IPV6, enabledad=True)
    for one in link_of(host.inside())["addr_info"]:
        assert not one.get("tentative"), one
    inside = host.inside()
    assert inside.run("cat", "/proc/sys/net/ipv6/conf/eth0/accept_dad").stdout.strip() == "1"


def test_an_address_that_somebody_has(host: Host) -> None:
    """With enabledad the ADD fails, names the address, and leaves no interface and no lease."""
    stranger = host.sandbox.namespace("stranger")
    host.sandbox.bridge(BRIDGE)
    taken = str(plan.FRONT.host6(2))
    host.sandbox.plug(BRIDGE, "foreign", stranger, address=f"{taken}/64")
    wait_until(lambda: link_of(host.sandbox, "foreign")["operstate"] == "UP")
    words = host.refuses(ipam=IPV6, enabledad=True)
    assert taken in words
    assert "in use by somebody else" in words
    host.add(ipam=host_local(V6 | {"rangeStart": str(plan.FRONT.host6(9))}), enabledad=True)


def test_disable_container_interface(host: Host) -> None:
    """The interface is there, down and without address, and that is how CHECK wants it; with ipam it is refused."""
    host.add(disableContainerInterface=True)
    link = link_of(host.inside())
    assert "UP" not in link["flags"]
    assert link["addr_info"] == []
    assert host.check() == []
    assert "disableContainerInterface" in host.refuses("db", disableContainerInterface=True, ipam=IPV4)


def test_layer_2(host: Host) -> None:
    """Without ipam the interface is up, with the link-local address that it gives itself and no other."""
    host.add()
    link = link_of(host.inside())
    assert "UP" in link["flags"]
    assert {one["scope"] for one in link["addr_info"]} <= {"link"}
    assert "ips" not in host.attached["web"]["prevResult"]
    assert host.check() == []


def test_routes_of_1_1(host: Host) -> None:
    """mtu, advmss, priority and table of a route get into the kernel, and into the result from 1.1.0 on."""
    routes = [
        {"dst": "198.51.100.0/24", "mtu": 1300, "advmss": 1200, "priority": 77},
        {"dst": "203.0.113.0/24", "gw": str(plan.FRONT.host4(9)), "table": 7},
    ]
    conf = host.add(ipam=host_local(V4, routes=routes))
    listed = json.loads(host.inside().ip("-json", "-details", "route", "show", "table", "all"))
    found = {route["dst"]: route for route in listed if route.get("type") == "unicast"}
    first, second = found["198.51.100.0/24"], found["203.0.113.0/24"]
    assert (first["gateway"], first["metric"], first["metrics"]) == (GATEWAY4, 77, [{"mtu": 1300, "advmss": 1200}])
    assert (second["gateway"], second["table"]) == (routes[1]["gw"], "7")
    assert conf["prevResult"]["routes"] == routes
    assert host.check() == []
    old = host.add("db", ipam=host_local(V4, routes=routes), cniVersion="1.0.0")
    assert [set(route) for route in old["prevResult"]["routes"]] == [{"dst"}, {"dst", "gw"}]
    assert host.check("db") == []


def test_add_again(host: Host) -> None:
    """The same result, and nothing twice: not the interface, addresses, routes, lease or elements."""
    more: dict[str, Any] = {"ipam": DUAL, "isDefaultGateway": True, "macspoofchk": True, "ipMasq": True}
    first = host.add(**more)["prevResult"]
    before, inside = host.left("web"), link_of(host.inside())
    routes = [host.inside().ip(family, "route") for family in ("-4", "-6")]
    assert host.add(**more)["prevResult"] == first
    assert host.left("web") == before
    assert link_of(host.inside()) == inside
    assert [host.inside().ip(family, "route") for family in ("-4", "-6")] == routes
    assert host.check() == []


def test_an_add_that_completes_another(host: Host) -> None:
    """What was lost since is there again after a repeated ADD: address, route, port, and the link is up."""
    more: dict[str, Any] = {"ipam": DUAL, "isDefaultGateway": True}
    first = host.add(**more)["prevResult"]
    host.inside().ip("address", "flush", "dev", "eth0")
    host.inside().ip("link", "set", "eth0", "down")
    assert len(host.check()) >= 5
    assert host.add(**more)["prevResult"] == first
    assert host.check() == []


def test_neighbours_outlive_an_add(host: Host) -> None:
    """The host does not forget its neighbours on the bridge when another container comes."""
    host.add(ipam=IPV4, isGateway=True)
    serve(host.inside(), "web", "tcp", 80)
    assert ask(host.sandbox, host.address("web"), 80) is not None

    def neighbours() -> list[str]:
        return [one["dst"] for one in json.loads(host.sandbox.ip("-json", "neighbour", "show", "dev", BRIDGE))]

    assert host.address("web") in neighbours()
    host.add("db", ipam=IPV4, isGateway=True)
    assert host.address("web") in neighbours()


def test_the_bridge_keeps_its_mac(host: Host) -> None:
    """It is none of its ports', its ID is made from it, and it stays while containers come and go."""
    host.add(ipam=IPV4)
    mac = link_of(host.sandbox, BRIDGE)["address"]
    assert mac != link_of(host.sandbox, host.port())["address"]
    host.add("db", ipam=IPV4)
    host.delete("web")
    host.delete("db")
    left = link_of(host.sandbox, BRIDGE)
    assert left["address"] == mac
    unpadded = ":".join(octet.lstrip("0") or "0" for octet in mac.split(":"))
    assert left["linkinfo"]["info_data"]["bridge_id"] == f"8000.{unpadded}"


# MAC spoof check


def frames_heard(host: Host, mac: str) -> int:
    """How many of five frames of ``web`` under some source MAC its neighbour hears."""
    db, web = host.inside("db"), host.inside("web")
    octets = frame(Flow(Protocol.UDP, host.address("web"), 4000, host.address("db"), 53), b"hello")
    to = bytes.fromhex(link_of(db)["address"].replace(":", ""))
    sent = to + bytes.fromhex(mac.replace(":", "")) + octets[12:]
    before = counters(db, "Udp")["NoPorts"]
    send_frame(web, "eth0", sent, 5)
    assert ask(web, host.address("db"), 80) is not None
    return counters(db, "Udp")["NoPorts"] - before


def guarded(host: Host) -> list[str]:
    """The containers of the pair whose guard is there, by their host veths' filters."""
    programs = json.loads(host.sandbox.run(DPCTL, "bpf", "ls", "--json").stdout)["attached"]
    veths = {one["device"] for one in programs if one["program"] == "guard"}
    return [name for name in sorted(host.attached) if host.port(name) in veths]


def guarded_pair(host: Host) -> None:
    """``web`` and ``db``, both checked; ``db`` serves."""
    for name in ("web", "db"):
        host.add(
            name, ipam=IPV4, macspoofchk=True, ingressPolicy="open", runtimeConfig={"mac": MAC} if name == "web" else {}
        )
    serve(host.inside("db"), "db", "tcp", 80)


def test_spoofed_frames_die(host: Host) -> None:
    """Its own traffic passes, frames by another MAC do not; also after somebody's ``tc`` took the guard away and it was
    put back. A flush of the ruleset is nothing to it."""
    guarded_pair(host)
    assert frames_heard(host, MAC) == 5
    assert frames_heard(host, STRANGER) == 0
    host.sandbox.run("nft", "flush", "ruleset")
    assert frames_heard(host, STRANGER) == 0
    host.sandbox.run("tc", "qdisc", "delete", "dev", host.port("web"), "clsact")
    assert frames_heard(host, STRANGER) == 5
    assert any("program guard is not attached to device" in one for one in host.check())
    host.sandbox.run(DPCTL, "reconcile")
    assert frames_heard(host, STRANGER) == 0
    assert host.check() == []


@pytest.mark.parametrize("verb", ["DEL", "GC"])
def test_a_guard_goes_with_its_container(host: Host, verb: str) -> None:
    """The neighbour's stays."""
    guarded_pair(host)
    assert guarded(host) == ["db", "web"]
    if verb == "DEL":
        host.delete("db")
    else:
        valid = [{"containerID": "web", "ifname": "eth0"}]
        host.plugin.succeeds("GC", host.conf(ipam=IPV4) | {"cni.dev/valid-attachments": valid})
    assert guarded(host) == ["web"]
    assert host.check() == []


# What a container must not be able to do, and what the host may not let us do


def advertisement(mac: str) -> bytes:
    """A router advertisement (RFC 4861) of a router for 1800 s and of the prefix 2001:db8:bad::/64."""
    source = IPv6Address("fe80::bad").packed
    to = IPv6Address("ff02::1").packed
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + IPv6Address("2001:db8:bad::").packed
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    check = ~ones_sum(source + to + struct.pack("!II", len(body), 58) + body) & 0xFFFF
    body = body[:2] + struct.pack("!H", check) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + to
    return (
        bytes.fromhex("333300000001") + bytes.fromhex(mac.replace(":", "")) + struct.pack("!H", 0x86DD) + header + body
    )


def test_a_rogue_router(host: Host) -> None:
    """A container that says it is a router changes no route and no address of the host (CVE-2020-10749): the host does
    not listen, and where somebody lets it, the guard lets no such frame pass."""
    host.add(ipam=IPV6, runtimeConfig={"mac": MAC})
    host.add("loose", ipam=IPV6, guard="off", runtimeConfig={"mac": STRANGER})

    def learned() -> str:
        listed = host.sandbox.ip("-6", "route", "show", "dev", BRIDGE) + host.sandbox.ip(
            "address", "show", "dev", BRIDGE
        )
        return "\n".join(line for line in listed.splitlines() if "fe80::bad" in line or "2001:db8:bad" in line)

    for link in (BRIDGE, host.port()):
        assert host.sandbox.run("cat", f"/proc/sys/net/ipv6/conf/{link}/accept_ra").stdout.strip() == "0"
    send_frame(host.inside("loose"), "eth0", advertisement(STRANGER))
    time.sleep(0.2)
    assert learned() == ""
    host.sandbox.sysctl(f"net/ipv6/conf/{BRIDGE}/accept_ra", 2)
    send_frame(host.inside(), "eth0", advertisement(MAC))
    time.sleep(0.2)
    assert learned() == ""
    # The proof that the frame is one that a host believes: by its own defaults, and from who is not guarded.
    send_frame(host.inside("loose"), "eth0", advertisement(STRANGER))
    wait_until(lambda: "fe80::bad" in learned(), 3, "the advertisement's effect")


def test_sysctls_that_cannot_be_set(host: Host) -> None:
    """A read-only /proc/sys is no reason to fail, and standard error says which sysctls were not set."""
    inside = host.sandbox.namespace("web")
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        host.sandbox.sysctl(name, 0)
    host.sandbox.run("mount", "--bind", "/proc/sys", "/proc/sys")
    host.sandbox.run("mount", "-o", "remount,ro,bind", "/proc/sys")
    conf = host.conf(ipam=DUAL, isGateway=True)
    try:
        answer = host.plugin("ADD", conf, **env_of("web"))
    finally:
        host.sandbox.run("umount", "/proc/sys")
    assert answer.exit_code == 0, answer
    host.attached["web"] = conf | {"prevResult": json.loads(answer.stdout)}
    for name in ("net/ipv4/ip_forward", f"net/ipv6/conf/{BRIDGE}/accept_ra", "net/ipv4/conf/eth0/arp_notify"):
        assert re.search(rf"sysctl {re.escape(name)} to \d: Read-only file system", answer.stderr), answer.stderr
    serve(host.sandbox, "host", "tcp", 7002, "::")
    for gateway in (GATEWAY4, GATEWAY6):
        assert ask(inside, gateway, 7002) is not None


def test_go_made_it_and_its_namespace_is_gone(host: Host) -> None:
    """A DEL without CNI_NETNS of what Go's plugin made gives back the leases, as that plugin does."""
    go = Plugin(host.sandbox, needs.file(GO_PLUGINS / "bridge", package="containernetworking-plugins"))
    host.sandbox.namespace("web")
    conf = host.conf(ipam=DUAL, cniVersion="1.0.0")
    before = host.left("web")
    go.succeeds("ADD", conf, **env_of("web"))
    assert len(host.left("web")[2]) == 2
    host.plugin.succeeds("DEL", conf, **env_of("web") | {"CNI_NETNS": ""})
    assert host.left("web")[2] == before[2]
    host.sandbox.remove_namespace("web")
