"""A state that is deleted or damaged under running containers: their ports answer on, and their DELs leave nothing."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from support import plan
from support.netns import Place, Sandbox
from support.residue import residue
from support.traffic import ask
from support.world import Attached, World, publish

STATE = "/run/dataplane/state.db"
THIRD = plan.Network("third", "br-third", IPv4Network("10.13.0.0/24"), IPv6Network("fd00:13::/64"))
CONDITION = ["ip", "saddr", str(plan.OUTSIDE.subnet4), "iifname", "{ uplink, uplink1 }"]


def ipam(network: plan.Network) -> dict[str, object]:
    """Addresses of both families."""
    subnets = [[{"subnet": str(network.subnet4)}], [{"subnet": str(network.subnet6)}]]
    return {"type": "host-local", "ranges": subnets, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with a network of every making, and a container on each."""
    made = World(sandbox, tmp_path)
    made.network(plan.FRONT, ipMasq=True, conditionsV4=CONDITION)
    ours = {"type": "dataplane-bridge", "bridge": plan.BACK.device, "isGateway": True, "ipam": ipam(plan.BACK)}
    closed = {"macspoofchk": True, "ingressPolicy": "isolated", "ipMasq": True}
    made.define(plan.BACK, [{**ours, **closed, "capabilities": {"portMappings": True}}])
    chain: list[dict[str, object]] = [
        {"type": "bridge", "bridge": THIRD.device, "isGateway": True, "ipMasq": True, "ipam": ipam(THIRD)},
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "firewall", "ingressPolicy": "same-bridge", "backend": "nftables"},
    ]
    made.define(THIRD, chain, [made.install_drop_ins()])
    return made


def attach(world: World) -> dict[str, Attached]:
    """Containers with ports of every kind, each with servers."""
    span = [publish(f"{number}:{number}") for number in range(20000, 20032)]
    attached = {
        "web": world.attach("web", plan.FRONT, publish("8080:80"), publish("53:53", "udp")),
        "span": world.attach("span", plan.BACK, *span, publish("8081:80", host=str(plan.HOST4))),
        "shop": world.attach("shop", plan.BACK, publish("8082:80")),
        "api": world.attach("api", THIRD, publish("8083:80")),
    }
    for one in attached.values():
        world.serve(one)
    world.serve(attached["web"], "udp", 53)
    world.serve(attached["span"], "tcp", 20031)
    return attached


def answers(world: World, attached: dict[str, Attached]) -> dict[str, bool]:
    """Who answers whom, also where nobody should."""

    def reaches(place: Place, address: object, number: int, protocol: str = "tcp") -> bool:
        try:
            return ask(place, address, number, protocol, timeout=0.4) is not None
        except OSError as error:
            # A neighbour that is isolated does not even answer ARP.
            if error.errno != errno.EHOSTUNREACH:
                raise
            return False

    web, shop, api = attached["web"], attached["shop"], attached["api"]
    return {
        "web": reaches(world.client, plan.HOST4, 8080),
        "web from elsewhere": reaches(world.elsewhere, plan.HOST4, 8080),
        "web, UDP": reaches(world.client, plan.HOST4, 53, "udp"),
        "web, IPv6": reaches(world.client, plan.HOST6, 8080),
        "a range": reaches(world.client, plan.HOST4, 20031),
        "a range, IPv6": reaches(world.client, plan.HOST6, 20031),
        "one address": reaches(world.client, plan.HOST4, 8081),
        "another address": reaches(world.host, "127.0.0.1", 8081),
        "hairpin": reaches(web.netns, plan.HOST4, 8080),
        "hairpin of a chain": reaches(api.netns, plan.HOST4, 8083),
        "localhost": reaches(world.host, "127.0.0.1", 8082),
        "a chain": reaches(world.client, plan.HOST4, 8083),
        "an isolated neighbour": reaches(attached["span"].netns, shop.address(4), 80),
        "another network": reaches(web.netns, api.address(4), 80),
    }


def deleted(world: World) -> None:
    world.host.run("rm", STATE)


def truncated(world: World) -> None:
    world.host.run("truncate", "-s", "5000", STATE)


def overwritten(world: World) -> None:
    world.host.run(
        "dd", "if=/dev/urandom", f"of={STATE}", "bs=512", "seek=8", "count=64", "conv=notrunc", "status=none"
    )


def of_another_schema(world: World) -> None:
    # The user_version in the header of the file, big endian.
    world.host.run("sh", "-c", f"printf '\\0\\0\\0\\143' | dd of={STATE} bs=1 seek=60 conv=notrunc status=none")


@pytest.mark.slow
@pytest.mark.parametrize("lose", [deleted, truncated, overwritten, of_another_schema])
def test_a_lost_state_is_read_back(world: World, lose: Callable[[World], None]) -> None:
    """All that answered answers, all that was closed is closed, and every DEL takes away what is its own."""
    attached = attach(world)
    before = answers(world, attached)
    closed = {"web from elsewhere", "hairpin", "another address", "an isolated neighbour", "another network"}
    assert {name for name, is_open in before.items() if not is_open} == closed
    lose(world)
    assert answers(world, attached) == before
    late = world.attach("late", plan.FRONT, publish("8090:80"))
    world.serve(late)
    assert answers(world, attached) == before
    assert ask(world.client, plan.HOST4, 8090) is not None
    for name in attached:
        world.check(name)
    for name in (*attached, "late"):
        world.detach(name)
    assert residue(world.host, world.environment) == {}


def test_containers_that_end_without_a_del_are_still_noticed(world: World) -> None:
    """The path of a namespace is read back, behind whichever plugin's bridge: gc removes what went with it."""
    for name, network in (("web", plan.FRONT), ("shop", plan.BACK), ("api", THIRD)):
        world.attach(name, network, publish("80:80", host=f"127.0.0.{len(name)}"))
    deleted(world)
    assert world.dpctl("gc").count("removed") == 0
    for name in ("web", "shop"):
        world.host.remove_namespace(name)
    world.dpctl("gc")
    assert {one["container"] for one in json.loads(world.dpctl("ps", "--json"))["attachments"]} == {"api"}
    assert [lease for lease in residue(world.host, world.environment)["leases"] if plan.BACK.name in lease] == []
