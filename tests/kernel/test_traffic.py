"""Real traffic through real conflists: who reaches whom, and whom a server sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugin.errors import CniError
from support import plan
from support.netns import Namespace, Sandbox
from support.traffic import Answer, ask, serve
from support.world import ELSEWHERE4, ELSEWHERE6, Attached, World, publish

HOST = {4: plan.HOST4, 6: plan.HOST6}
CLIENT = {4: plan.CLIENT4, 6: plan.CLIENT6}
FRONT_GATEWAY = {4: plan.FRONT.gateway4, 6: plan.FRONT.gateway6}
ELSEWHERE = {4: ELSEWHERE4, 6: ELSEWHERE6}
WAYS = ("auto", "clsact")


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host without networks yet."""
    return World(sandbox, tmp_path)


def seen(answer: Answer | None) -> tuple[str, str] | None:
    """Which server answered, and which client address it saw."""
    return (answer.server, answer.address) if answer else None


def bridged(world: World, value: int) -> None:
    """Let netfilter see bridged packets, or not."""
    for name in ("iptables", "ip6tables"):
        world.host.sysctl(f"net/bridge/bridge-nf-call-{name}", value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_published_port_is_reached_from_everywhere(
    sandbox: Sandbox, tmp_path: Path, way: str, version: int, protocol: str
) -> None:
    """Outside, host, itself, neighbour and the other network reach a published port; clients keep their addresses."""
    world = World(sandbox, tmp_path, f'attach = "{way}"')
    world.network(plan.FRONT)
    world.network(plan.BACK)
    web = world.attach("web", plan.FRONT, publish("8080:80", protocol))
    shop = world.attach("shop", plan.FRONT)
    admin = world.attach("admin", plan.BACK)
    world.serve(web, protocol)
    host = HOST[version]

    def asks(place: Sandbox | Namespace) -> tuple[str, str] | None:
        return seen(ask(place, host, 8080, protocol))

    assert asks(world.client) == ("web", str(CLIENT[version]))
    assert asks(world.host) == ("web", str(host))
    assert asks(admin.netns) == ("web", str(admin.address(version)))
    for value in (0, 1):
        bridged(world, value)
        for place in (web, shop):
            assert asks(place.netns) == ("web", str(FRONT_GATEWAY[version])), (place.name, value)
    assert ask(admin.netns, web.address(version), 80, protocol, timeout=0.4) is None
    assert seen(ask(shop.netns, web.address(version), 80, protocol)) == ("web", str(shop.address(version)))


def test_localhost_reaches_a_published_port_and_nobody_elses(world: World) -> None:
    """127.0.0.1 works on the host; a neighbour that sends 127/8 on the wire reaches nothing of the host, guarded or
    not."""
    world.network(plan.FRONT, guard="off")
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    world.serve(web)
    serve(world.host, "private", "tcp", 9999, "127.0.0.1")
    assert seen(ask(world.host, "127.0.0.1", 8080)) == ("web", str(plan.FRONT.gateway4))
    web.netns.sysctl("net/ipv4/conf/all/route_localnet", 1)
    web.netns.sysctl("net/ipv4/conf/eth0/route_localnet", 1)
    web.netns.ip("address", "del", "127.0.0.1/8", "dev", "lo")
    web.netns.ip("route", "replace", "127.0.0.1/32", "via", plan.FRONT.gateway4, "src", web.address(4))
    assert ask(web.netns, "127.0.0.1", 9999, timeout=0.5) is None
    assert "counter packets 0" not in world.ruleset()


@pytest.mark.parametrize("host", ["", "192.0.2.1", "2001:db8:0:2::1"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_traffic_forwarded_to_the_same_port_elsewhere_is_not_hijacked(world: World, host: str, protocol: str) -> None:
    """CVE-2025-67499: only this host's own addresses are published, for every family, protocol and hostIP."""
    world.network(plan.FRONT, ipMasq=True)
    web = world.attach("web", plan.FRONT, publish("53:53", protocol, host))
    world.serve(web, protocol, 53)
    serve(world.elsewhere, "elsewhere", protocol, 53, "::")
    for version in (4, 6):
        assert seen(ask(world.client, ELSEWHERE[version], 53, protocol)) == ("elsewhere", str(CLIENT[version]))
        container = ask(web.netns, ELSEWHERE[version], 53, protocol)
        assert container is not None
        assert container.server == "elsewhere"


def test_one_host_address_beats_the_wildcard(world: World) -> None:
    """The same port on one address and on all: the specific one wins there, whatever the order of their ADDs."""
    world.host.ip("address", "add", "192.0.2.7/24", "dev", plan.OUTSIDE.device)
    world.network(plan.FRONT)
    for name, host in (("every", ""), ("one", "192.0.2.7")):
        world.serve(world.attach(name, plan.FRONT, publish("8080:80", host=host)))
    assert seen(ask(world.client, plan.HOST4, 8080)) == ("every", str(plan.CLIENT4))
    assert seen(ask(world.client, "192.0.2.7", 8080)) == ("one", str(plan.CLIENT4))
    world.detach("one")
    assert seen(ask(world.client, "192.0.2.7", 8080)) == ("every", str(plan.CLIENT4))


def test_a_range_of_ports_is_one_element(world: World) -> None:
    """A thousand ports that keep their numbers are one element, and each answers; the next one does not."""
    world.network(plan.FRONT)
    for protocol in ("tcp", "udp"):
        name = f"range{protocol}"
        made = world.attach(name, plan.FRONT, *(publish(f"{port}:{port}", protocol) for port in range(20000, 21000)))
        for port in (20000, 20500, 20999):
            world.serve(made, protocol, port)
            for version in (4, 6):
                assert seen(ask(world.client, HOST[version], port, protocol)) == (name, str(CLIENT[version]))
        assert ask(world.client, plan.HOST4, 21000, protocol, timeout=0.3) is None
        assert f"{protocol} . 20000-20999" in world.ruleset()
        world.check(name)
    with pytest.raises(CniError, match="20500/tcp: already published by container"):
        world.attach("late", plan.FRONT, publish("20500:80"))
    world.detach("rangetcp")
    assert "tcp . 20000" not in world.ruleset()


def test_an_address_of_one_family_publishes_that_family_only(world: World) -> None:
    """hostIP 0.0.0.0 is every IPv4 address and no IPv6 one."""
    world.network(plan.FRONT)
    world.serve(world.attach("web", plan.FRONT, publish("8080:80", host="0.0.0.0")))
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert ask(world.client, plan.HOST6, 8080, timeout=0.4) is None


def test_a_second_publication_is_refused_and_the_first_goes_on(world: World) -> None:
    """A conflict names the holder (code 101), and the loser's DEL does not touch the winner."""
    world.network(plan.FRONT)
    world.serve(world.attach("web", plan.FRONT, publish("8080:80")))
    with pytest.raises(CniError, match=r'8080/tcp: already published by container "web"') as refused:
        world.attach("late", plan.FRONT, publish("8080:80"))
    assert refused.value.code == 101
    assert ask(world.client, plan.HOST4, 8080) is not None


def test_egress_is_masqueraded_outside_and_not_inside(world: World) -> None:
    """ipMasq hides containers from the outside; inside their network, and from published ports, it does not."""
    world.network(plan.FRONT, ipMasq=True)
    world.network(plan.BACK, ipMasq=True)
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    admin = world.attach("admin", plan.BACK)
    shop = world.attach("shop", plan.FRONT)
    world.serve(web)
    serve(world.elsewhere, "elsewhere", "tcp", 80, "::")
    assert seen(ask(shop.netns, ELSEWHERE4, 80)) == ("elsewhere", str(ELSEWHERE4 - 8))
    assert seen(ask(shop.netns, ELSEWHERE6, 80)) == ("elsewhere", str(ELSEWHERE6 - 8))
    assert seen(ask(shop.netns, web.address(4), 80)) == ("web", str(shop.address(4)))
    assert seen(ask(admin.netns, plan.HOST4, 8080)) == ("web", str(admin.address(4)))


def test_egress_of_a_routed_network(world: World) -> None:
    """ipMasq after ptp: neighbours, by veths alone, see each other; the outside sees the host."""
    world.network(plan.FRONT, main="ptp", ipMasq=True)
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    shop = world.attach("shop", plan.FRONT)
    world.serve(web)
    serve(world.elsewhere, "elsewhere", "tcp", 80, "::")
    for version in (4, 6):
        assert seen(ask(shop.netns, web.address(version), 80)) == ("web", str(shop.address(version)))
    assert seen(ask(shop.netns, ELSEWHERE4, 80)) == ("elsewhere", str(ELSEWHERE4 - 8))


def test_masq_all_hides_every_client(world: World) -> None:
    """With masqAll the container sees the host's address for every client."""
    world.network(plan.FRONT, masqAll=True)
    world.serve(world.attach("web", plan.FRONT, publish("8080:80")))
    assert seen(ask(world.client, plan.HOST4, 8080)) == ("web", str(plan.FRONT.gateway4))


def test_without_snat_only_clients_outside_of_the_network_are_served(world: World) -> None:
    """snat false: outside works with the client's address, hairpin and localhost do not."""
    world.network(plan.FRONT, snat=False)
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    world.serve(web)
    assert seen(ask(world.client, plan.HOST4, 8080)) == ("web", str(plan.CLIENT4))
    assert ask(world.host, "127.0.0.1", 8080, timeout=0.4) is None
    assert ask(web.netns, plan.HOST4, 8080, timeout=0.4) is None


def test_conditions_narrow_a_published_port(world: World) -> None:
    """conditionsV4 decides who may use a port; another container may hold it for everybody else."""
    world.network(
        plan.FRONT,
        conditionsV4=["ip", "saddr", "!=", str(plan.CLIENT4)],
        conditionsV6=["ip6", "saddr", "!=", str(plan.CLIENT6)],
    )
    world.network(plan.BACK)
    world.serve(world.attach("web", plan.FRONT, publish("8080:80")))
    assert ask(world.client, plan.HOST4, 8080, timeout=0.4) is None
    assert seen(ask(world.elsewhere, plan.HOST4, 8080)) == ("web", str(ELSEWHERE4))
    shown = {one["conditions"] for one in json.loads(world.dpctl("ports", "--json"))["ports"]}
    assert shown == {f"ip saddr != {plan.CLIENT4}", f"ip6 saddr != {plan.CLIENT6}"}
    world.serve(world.attach("rest", plan.BACK, publish("8080:80")))
    assert seen(ask(world.client, plan.HOST4, 8080)) == ("rest", str(plan.CLIENT4))
    assert seen(ask(world.elsewhere, plan.HOST4, 8080)) == ("web", str(ELSEWHERE4))
    world.detach("web")
    assert seen(ask(world.elsewhere, plan.HOST4, 8080)) == ("rest", str(ELSEWHERE4))


def test_a_foreign_chain_that_drops_is_asked_for_an_accept(world: World) -> None:
    """forwardChains: published ports and egress pass a chain with policy drop; DEL leaves that chain as it was."""
    before = (
        "add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }"
    )
    world.host.run("nft", before)
    empty = world.host.run("nft", "list", "table", "inet", "filter").stdout
    world.network(plan.FRONT, ipMasq=True, forwardChains=["inet filter forward"])
    world.network(plan.BACK)
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    world.serve(web)
    world.serve(world.attach("hidden", plan.BACK, publish("8081:80")))
    serve(world.elsewhere, "elsewhere", "tcp", 80, "::")
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert ask(web.netns, ELSEWHERE4, 80) is not None
    assert ask(world.client, plan.HOST4, 8081, timeout=0.4) is None, "the other network did not ask for an accept"
    world.detach("web")
    assert world.host.run("nft", "list", "table", "inet", "filter").stdout == empty


def test_a_foreign_chain_that_is_not_there_is_named(world: World) -> None:
    """An ADD whose forwardChains names no chain fails, and leaves nothing."""
    world.network(plan.FRONT, forwardChains=["inet filter nowhere"])
    with pytest.raises(CniError, match="inet filter nowhere"):
        world.attach("web", plan.FRONT, publish("8080:80"))
    assert "8080" not in world.ruleset()


@pytest.mark.parametrize("way", WAYS)
def test_isolated_keeps_neighbours_apart_and_published_ports_open(sandbox: Sandbox, tmp_path: Path, way: str) -> None:
    """isolated: no neighbour directly, by the bridge or routed; its published port by the host's address."""
    world = World(sandbox, tmp_path, f'attach = "{way}"')
    world.network(plan.FRONT, ingressPolicy="isolated")
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    shop = world.attach("shop", plan.FRONT)
    world.serve(web)
    bridged(world, 0)
    for version in (4, 6):
        assert ask(shop.netns, web.address(version), 80, timeout=0.4) is None
        assert ask(shop.netns, HOST[version], 8080) is not None
    # By way of the gateway, which would route the packet back into the network.
    shop.netns.ip("route", "add", f"{web.address(4)}/32", "via", plan.FRONT.gateway4)
    world.host.sysctl("net/ipv4/conf/all/send_redirects", 0)
    assert ask(shop.netns, web.address(4), 80, timeout=0.4) is None
    assert ask(world.client, plan.HOST4, 8080) is not None


def test_open_networks_reach_each_other(world: World) -> None:
    """open: no isolation, and no program where checksums and guard are off as well."""
    for network in (plan.FRONT, plan.BACK):
        world.network(network, ingressPolicy="open", checksum="off", guard="off")
    web = world.attach("web", plan.FRONT)
    admin = world.attach("admin", plan.BACK)
    world.serve(web)
    assert ask(admin.netns, web.address(4), 80) is not None
    assert not world.host.exists("/sys/fs/bpf/dataplane")


def test_a_flush_never_opens_a_network(world: World) -> None:
    """``nft flush ruleset`` closes published ports, isolation holds, and the next ADD restores all of it."""
    world.network(plan.FRONT)
    world.network(plan.BACK)
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    admin = world.attach("admin", plan.BACK)
    world.serve(web)
    world.host.run("nft", "flush", "ruleset")
    assert ask(world.client, plan.HOST4, 8080, timeout=0.4) is None
    assert ask(admin.netns, web.address(4), 80, timeout=0.4) is None
    assert ask(admin.netns, plan.HOST4, 8080, timeout=0.4) is None
    with pytest.raises(CniError, match="was wiped"):
        world.check("web")
    world.attach("late", plan.BACK)
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert ask(admin.netns, plan.HOST4, 8080) is not None
    assert ask(admin.netns, web.address(4), 80, timeout=0.4) is None
    world.check("web")


def test_udp_flows_follow_their_port_at_once(world: World) -> None:
    """A UDP flow that was tracked before ADD or DEL is decided anew; a forwarded flow to that port lives on."""
    world.network(plan.FRONT)
    world.serve(world.attach("old", plan.FRONT, publish("5353:53", "udp")), "udp", 53)
    serve(world.elsewhere, "elsewhere", "udp", 5353)

    def asks(destination: object) -> tuple[str, str] | None:
        return seen(ask(world.client, destination, 5353, "udp", source_port=40000, timeout=0.4))

    assert asks(plan.HOST4) == ("old", str(plan.CLIENT4))
    assert asks(ELSEWHERE4) == ("elsewhere", str(plan.CLIENT4))
    world.detach("old")
    flows = world.host.run("conntrack", "-L", "-p", "udp").stdout
    assert f"dst={ELSEWHERE4} " in flows
    assert f"src={plan.CLIENT4} dst={plan.HOST4} " not in flows
    assert asks(plan.HOST4) is None
    world.serve(world.attach("new", plan.FRONT, publish("5353:53", "udp")), "udp", 53)
    assert asks(plan.HOST4) == ("new", str(plan.CLIENT4))
    assert f"dst={ELSEWHERE4} " in world.host.run("conntrack", "-L", "-p", "udp").stdout


def test_two_interfaces_of_one_container(world: World) -> None:
    """A container on two networks: DEL of one interface leaves the other's port."""
    world.network(plan.FRONT)
    world.network(plan.BACK)
    first = world.attach("web", plan.FRONT, publish("8080:80"))
    world.serve(first)
    world.network(plan.BACK)
    world.attach("web", plan.BACK, publish("8081:80"), ifname="eth1")
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert "tcp . 8081" in world.ruleset()
    world.detach("web", "eth1")
    assert "tcp . 8081" not in world.ruleset()
    assert ask(world.client, plan.HOST4, 8080) is not None


def test_a_routed_network(world: World) -> None:
    """After ptp, which has no bridge: published, isolated from other networks, and gone with its veth."""
    world.network(plan.FRONT, main="ptp")
    world.network(plan.BACK)
    web: Attached = world.attach("web", plan.FRONT, publish("8080:80"))
    admin = world.attach("admin", plan.BACK)
    world.serve(web)
    for place, address in ((world.client, plan.CLIENT4), (admin.netns, admin.address(4))):
        assert seen(ask(place, plan.HOST4, 8080)) == ("web", str(address))
    assert ask(web.netns, plan.HOST4, 8080) is not None
    assert ask(admin.netns, web.address(4), 80, timeout=0.4) is None
    world.detach("web")
    assert str(web.address(4)) not in world.ruleset()
