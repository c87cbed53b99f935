"""What others break on a real host, and how the next request or ``dpctl reconcile`` puts it back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugin.errors import CniError
from support import plan
from support.netns import NO_DROP_INS, Sandbox
from support.traffic import ask
from support.world import Attached, World, publish


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host without networks yet."""
    return World(sandbox, tmp_path)


def problems(world: World) -> list[str]:
    """What ``dpctl status`` complains about."""
    found = json.loads(world.dpctl("status", "--json", check=False))["problems"]
    assert isinstance(found, list)
    return found


def host_veth(world: World, one: Attached) -> str:
    """The name of a container's port."""
    interfaces = one.result["interfaces"]
    assert isinstance(interfaces, list)
    return str(interfaces[1]["name"])


def test_rules_that_were_flushed_come_back_with_the_next_add(world: World) -> None:
    """``nft flush table inet dataplane`` takes the rules and leaves sets and elements: the next ADD notices."""
    world.network(plan.FRONT)
    world.serve(world.attach("web", plan.FRONT, publish("8080:80")))
    world.host.run("nft", "flush", "table", "inet", "dataplane")
    assert ask(world.client, plan.HOST4, 8080, timeout=0.4) is None
    world.serve(world.attach("late", plan.FRONT, publish("8081:80")))
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert ask(world.client, plan.HOST4, 8081) is not None


def test_forwarding_that_was_switched_off_comes_back_with_the_next_add(world: World) -> None:
    """An ADD that says done has a port that answers, also where the first one's sysctls were set back since."""
    world.network(plan.FRONT)
    world.attach("web", plan.FRONT, publish("8080:80"))
    localhost = f"net/ipv4/conf/{plan.FRONT.device}/route_localnet"
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", localhost):
        world.host.sysctl(name, 0)
    world.serve(world.attach("late", plan.FRONT, publish("8081:80")))
    for host in (plan.HOST4, plan.HOST6):
        assert ask(world.client, host, 8081) is not None
    assert ask(world.host, "127.0.0.1", 8081) is not None


def test_a_bridge_that_was_deleted_and_made_anew(world: World) -> None:
    """The bridge that the main plugin makes again gets programs and settings, though the old one was never DELed."""
    world.network(plan.FRONT)
    world.network(plan.BACK)
    world.attach("web", plan.FRONT, publish("8080:80"))
    world.host.ip("link", "del", plan.FRONT.device)
    late = world.attach("late", plan.FRONT, publish("8081:80"))
    admin = world.attach("admin", plan.BACK)
    world.serve(late)
    for place, address in ((world.client, plan.HOST4), (world.host, "127.0.0.1"), (late.netns, plan.HOST4)):
        assert ask(place, address, 8081) is not None
    assert ask(admin.netns, late.address(4), 80, timeout=0.4) is None


def test_isolation_that_was_switched_off_is_reported_and_put_back(world: World) -> None:
    """A port flag, the table and a program are broken at once: status tells each, reconcile repairs all."""
    world.network(plan.FRONT, ingressPolicy="isolated")
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    shop = world.attach("shop", plan.FRONT)
    world.serve(web)
    assert problems(world) == []
    for one in (web, shop):
        world.host.run("bridge", "link", "set", "dev", host_veth(world, one), "isolated", "off", "hairpin", "off")
    world.host.run("nft", "delete", "table", "inet", "dataplane")
    assert ask(shop.netns, web.address(4), 80) is not None, "the port flag is what keeps them apart"
    assert len([text for text in problems(world) if "is not isolated" in text]) == 2
    dry = json.loads(world.dpctl("reconcile", "--dry-run", "--json", check=False))
    assert dry["found"] == dry["left"] == problems(world)
    done = json.loads(world.dpctl("reconcile", "--json"))
    assert (done["found"], done["left"]) == (dry["found"], [])
    assert ask(shop.netns, web.address(4), 80, timeout=0.4) is None
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert problems(world) == []


def test_a_del_of_a_container_that_lives_on_leaves_its_port_as_it_was(world: World) -> None:
    """What ADD set on the bridge port is set back, and what the main plugin had set stays."""
    world.network(plan.FRONT, ingressPolicy="isolated")
    web = world.attach("web", plan.FRONT, publish("8080:80"))

    def flags() -> tuple[bool, bool]:
        (port,) = json.loads(world.host.run("bridge", "-d", "-j", "link", "show", "dev", host_veth(world, web)).stdout)
        return port["hairpin"], port["isolated"]

    assert flags() == (True, True)
    world.dpctl("uninstall", "--cni-bin", world.plugins, "--conf", world.plugins.with_name("net.d"), *NO_DROP_INS)
    assert flags() == (False, False)


def test_a_state_that_was_deleted(world: World) -> None:
    """What the kernel serves is known again at the next request, and refused to others as before."""
    world.network(plan.FRONT)
    world.serve(world.attach("web", plan.FRONT, publish("8080:80")))
    world.host.run("rm", "/run/dataplane/state.db")
    with pytest.raises(CniError, match='already published by container "web"'):
        world.attach("late", plan.FRONT, publish("8080:80"))
    world.attach("later", plan.FRONT, publish("8081:80"))
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert problems(world) == []


def test_a_wrong_setting_is_reported_where_add_fails(world: World, tmp_path: Path) -> None:
    """With a typo in the settings ADD fails and status says why; without it both are well."""
    world.network(plan.FRONT)
    (tmp_path / "dataplane.toml").write_text('atach = "tcx"')
    with pytest.raises(CniError, match="atach"):
        world.attach("web", plan.FRONT)
    assert ["atach" in text for text in problems(world)] == [True]
