"""podman's networks: created, connected and removed; addresses and MACs by wish, several for one container, pods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

import pytest

from support import images, plan
from support.images import GREETING
from support.netns import wait_until
from support.podman import LIMITS
from support.podmanhost import PodmanHost, Setup
from support.traffic import fetch

PORT = 18080
THIRD = plan.Network("third", "br-third", IPv4Network("10.13.0.0/24"), IPv6Network("fd00:13::/64"))

setups = pytest.mark.parametrize("podman_host", [Setup.SINGLE, Setup.STOCK], indirect=True, scope="module")
stock = pytest.mark.parametrize("podman_host", [Setup.STOCK], indirect=True, scope="module")


@pytest.fixture(autouse=True)
def nothing_left(podman_host: PodmanHost) -> Iterator[None]:
    """Whatever a test did: once its containers are removed, there is nothing of them."""
    yield
    podman_host.podman.remove_all()
    assert podman_host.left() == {}


def answers(host: PodmanHost, port: int = PORT) -> None:
    """The container is reached from outside as soon as its server listens."""
    wait_until(lambda: fetch(host.client, plan.HOST4, port) == GREETING, what=f"port {port} answers")


@setups
def test_addresses_by_wish(podman_host: PodmanHost) -> None:
    """--ip, --ip6 and --mac-address give just these, again after a restart; an address that is taken is refused."""
    podman, front = podman_host.podman, podman_host.front
    wished = ("--ip", plan.FRONT.host4(77), "--ip6", plan.FRONT.host6(0x77), "--mac-address", "02:00:5e:00:53:01")
    podman.run_web("web", "--network", front, *wished, "-p", f"{PORT}:80")
    for command in ((), ("restart", "-t", "0", "web")):
        if command:
            podman(*command)
        answers(podman_host)
        (link,) = json.loads(podman.inside("web").ip("-json", "address", "show", "dev", "eth0"))
        assert link["address"] == "02:00:5e:00:53:01"
        held = [str(plan.FRONT.host4(77)), str(plan.FRONT.host6(0x77))]
        assert [one["local"] for one in link["addr_info"] if one["scope"] == "global"] == held
        assert podman_host.leases(front) == held
    refused = podman.try_web("second", "--network", front, "--ip", plan.FRONT.host4(77))
    assert refused.returncode != 0
    assert str(plan.FRONT.host4(77)) in refused.stderr


@setups
def test_two_networks(podman_host: PodmanHost) -> None:
    """A container on two networks has an interface in each, with one address of each family that the network has."""
    podman, networks = podman_host.podman, (podman_host.front, podman_host.back)
    podman.run_web("web", "--network", ",".join(networks))
    links = json.loads(podman.inside("web").ip("-json", "-4", "address", "show", "scope", "global"))
    assert {link["ifname"] for link in links} == {"eth0", "eth1"}
    for network in networks:
        held = podman.addresses("web", network)
        assert podman_host.leases(network) == [*held]
        assert [fetch(podman_host.host, address, 80) for address in held] == [GREETING] * len(held)


@setups
def test_a_port_on_two_networks(podman_host: PodmanHost) -> None:
    """A container on two networks publishes a port once, though podman asks for it on each; either network may go."""
    podman = podman_host.podman
    podman.run_web("web", "--network", f"{podman_host.front},{podman_host.back}", "-p", f"{PORT}:80")
    answers(podman_host)
    serving = podman_host.ports()[0]["network"]
    podman("network", "disconnect", serving, "web")
    answers(podman_host)


@setups
def test_connected_and_disconnected(podman_host: PodmanHost) -> None:
    """A running container joins a network and leaves it again; nothing of the one it stays on changes."""
    podman, front, back = podman_host.podman, podman_host.front, podman_host.back
    podman.run_web("web", "--network", front)
    stays = podman_host.leases(front)
    podman("network", "connect", back, "web")
    joined = podman.settings("web", back)["IPAddress"]
    assert fetch(podman_host.host, joined, 80) == GREETING
    assert joined in podman_host.leases(back)

    podman("network", "disconnect", back, "web")
    assert podman_host.leases(back) == []
    assert podman_host.leases(front) == stays
    links = json.loads(podman.inside("web").ip("-json", "-4", "address", "show", "scope", "global"))
    assert [link["ifname"] for link in links] == ["eth0"]
    assert fetch(podman_host.host, stays[0], 80) == GREETING


@stock
def test_a_pod(podman_host: PodmanHost) -> None:
    """The port of a pod leads to whichever of its containers listens; that one comes and goes, the address stays."""
    podman, front = podman_host.podman, podman_host.front
    podman(
        "pod", "create", "--name", "pod", "--cgroup-parent", podman.cgroup_parent, "--network", front,
        "--infra-image", images.IMAGE, "-p", f"{PORT}:8080",
    )  # fmt: skip
    serve = ("/bin/httpd", "-f", "-p", "8080", "-h", "/www")
    podman("run", "-d", "--name", "member", "--pod", "pod", *LIMITS, images.IMAGE, *serve)
    answers(podman_host)
    held = podman_host.leases(front)
    podman("rm", "-f", "-t", "0", "member")
    assert fetch(podman_host.client, plan.HOST4, PORT, timeout=0.3) is None
    assert podman_host.leases(front) == held


@stock
def test_options_of_a_created_network(podman_host: PodmanHost) -> None:
    """A network's MTU is the container's; one that is not isolated is open to others; it is removed with its bridge."""
    podman, host = podman_host.podman, podman_host.host
    third = podman_host.create(THIRD, "-o", "mtu=1400", dual_stack=False)
    podman.run_web("web", "--network", third, "-p", f"{PORT}:80")
    podman.run_web("other", "--network", "podman")  # the network that podman has by itself: not isolated either
    (link,) = json.loads(podman.inside("web").ip("-json", "link", "show", "dev", "eth0"))
    assert link["mtu"] == 1400
    assert fetch(podman.inside("other"), podman.settings("web", third)["IPAddress"], 80) == GREETING
    answers(podman_host)

    bridges = host.ip("-brief", "link", "show", "type", "bridge")
    podman("network", "rm", "-f", "-t", "0", third)
    assert not podman_host.ports()
    assert len(host.ip("-brief", "link", "show", "type", "bridge").splitlines()) == len(bridges.splitlines()) - 1


@stock
def test_an_internal_network(podman_host: PodmanHost) -> None:
    """Containers of an internal network reach each other, and nothing else."""
    podman = podman_host.podman
    podman("network", "create", "--internal", "--subnet", THIRD.subnet4, THIRD.name)
    for name in ("web", "neighbour"):
        podman.run_web(name, "--network", THIRD.name)
    address = podman.settings("web", THIRD.name)["IPAddress"]
    inside = podman.inside("neighbour")
    assert fetch(inside, address, 80) == GREETING
    assert inside.ip("route", "show", "default") == ""
    assert podman_host.host.run("ip", "route", "get", address, check=False).returncode != 0
    podman("network", "rm", "-f", "-t", "0", THIRD.name)
