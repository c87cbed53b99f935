"""podman's containers are reached as ``-p`` asks, and not otherwise, whatever conflist their networks are made by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support import plan
from support.images import GREETING
from support.netns import Namespace, Place, wait_until
from support.podmanhost import PodmanHost, Setup
from support.traffic import ask, fetch, serve

pytestmark = pytest.mark.parametrize("podman_host", Setup, indirect=True, scope="module")

TCP, UDP, FEW, MANY = 18080, 18081, 18090, 18100
ONE_ADDRESS, LOCALHOST, ONE_ADDRESS6, OTHERS = 18082, 18083, 18084, 18085
PUBLISHED = (
    f"{TCP}:80",
    f"{UDP}:81/udp",
    f"{FEW}-{FEW + 2}:90-92/udp",
    f"{MANY}-{MANY + 19}:{MANY}-{MANY + 19}",
    f"{plan.HOST4}:{ONE_ADDRESS}:80",
    f"127.0.0.1:{LOCALHOST}:80",
)
PUBLISHED6 = (f"[{plan.HOST6}]:{ONE_ADDRESS6}:80",)


@dataclass(frozen=True, slots=True)
class Running:
    """Three containers: ``web`` with everything published and ``neighbour`` on one network, ``other`` on another."""

    on: PodmanHost
    web: Namespace
    neighbour: Namespace
    other: Namespace
    addresses: tuple[str, ...]
    """web's, one of each family that its network has."""


@pytest.fixture(scope="module")
def running(podman_host: PodmanHost) -> Iterator[Running]:
    """The containers; afterwards nothing is left of them."""
    podman, front, back = podman_host.podman, podman_host.front, podman_host.back
    ports = [word for one in PUBLISHED + (PUBLISHED6 if podman_host.front6 else ()) for word in ("-p", one)]
    podman.run_web("web", "--network", front, *ports)
    podman.run_web("neighbour", "--network", front)
    podman.run_web("other", "--network", back, "-p", f"{OTHERS}:80")
    # Debian's bridge has the kernel look for duplicates of its gateways first: they answer a second or two later.
    wait_until(lambda: not podman_host.host.ip("-6", "address", "show", "tentative"), what="the gateways answer")
    web, neighbour, other = (podman.inside(name) for name in ("web", "neighbour", "other"))
    yield Running(podman_host, web, neighbour, other, podman.addresses("web", front))
    podman.remove_all()
    assert podman_host.left() == {}
    assert fetch(podman_host.client, plan.HOST4, TCP, timeout=0.3) is None


def test_a_port_from_everywhere(running: Running) -> None:
    """A client outside, the host, the container itself, its neighbour and a container of another network reach it."""
    client, host = running.on.client, running.on.host
    for place in (client, host, running.web, running.neighbour, running.other):
        assert fetch(place, plan.HOST4, TCP) == GREETING, place
    assert fetch(host, "127.0.0.1", TCP) == GREETING
    for place in (client, host, running.web, running.neighbour, running.other):
        assert fetch(place, plan.HOST4, OTHERS) == GREETING, place


def test_a_port_over_ipv6(running: Running) -> None:
    """From where there is IPv6 the same port is reachable over it, if the container's network has it, too."""
    on = running.on
    places: list[Place] = [on.client, on.host]
    places += [running.web, running.neighbour] if on.front6 else []
    places += [running.other] if on.back6 else []
    assert len(running.addresses) == 1 + on.front6
    for place in places:
        assert fetch(place, plan.HOST6, TCP) == (GREETING if on.front6 else None), place


def test_a_udp_port_and_who_asks(running: Running) -> None:
    """A UDP port is reachable from outside, and the container sees who asks."""
    serve(running.web, "web", "udp", 81)
    answer = ask(running.on.client, plan.HOST4, UDP, "udp")
    assert answer is not None
    assert (answer.server, answer.address) == ("web", str(plan.CLIENT4))


def test_ranges_of_ports(running: Running) -> None:
    """Each port of a range leads to its own, whether the numbers differ inside or are kept."""
    for number in (0, 2):
        serve(running.web, f"few {number}", "udp", 90 + number)
    for number in (0, 19):
        serve(running.web, f"many {number}", "tcp", MANY + number)
    answers = [ask(running.on.client, plan.HOST4, FEW + number, "udp") for number in (0, 2)]
    answers += [ask(running.on.client, plan.HOST4, MANY + number) for number in (0, 19)]
    assert [one and one.server for one in answers] == ["few 0", "few 2", "many 0", "many 19"]
    assert ask(running.on.client, plan.HOST4, MANY + 20, timeout=0.3) is None


def test_host_addresses(running: Running) -> None:
    """A port of one host address is reachable at that address alone; one of 127.0.0.1 from nowhere but the host."""
    client, host = running.on.client, running.on.host
    assert fetch(client, plan.HOST4, ONE_ADDRESS) == GREETING
    assert fetch(host, "127.0.0.1", ONE_ADDRESS, timeout=0.3) is None
    assert fetch(host, "127.0.0.1", LOCALHOST) == GREETING
    assert fetch(client, plan.HOST4, LOCALHOST, timeout=0.3) is None
    if running.on.front6:
        assert fetch(client, plan.HOST6, ONE_ADDRESS6) == GREETING
        assert fetch(client, plan.HOST4, ONE_ADDRESS6, timeout=0.3) is None


def test_outside_is_reached_under_the_hosts_address(running: Running) -> None:
    """What a container asks a machine outside comes there from the host."""
    asked = [(plan.CLIENT4, plan.HOST4), *([(plan.CLIENT6, plan.HOST6)] if running.on.front6 else [])]
    for client, host in asked:
        answer = ask(running.web, client, 80)
        assert answer is not None, client
        assert answer.address == str(host)


def test_networks_are_apart(running: Running) -> None:
    """The container's own address is reachable for its neighbour, and not for a container of another network."""
    for address in running.addresses:
        assert fetch(running.neighbour, address, 80) == GREETING
        if "." in address or running.on.back6:
            assert fetch(running.other, address, 80, timeout=0.3) is None
