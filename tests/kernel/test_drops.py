"""``dpctl drops`` on a real host: who dropped what, whose it was, and what to do, by the programs' maps alone."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from dataplane import abi
from dataplane.abi import GuardReason
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from support import plan
from support.netns import Sandbox
from support.prober import Prober
from support.traffic import ask
from support.world import DPCTL, Attached, World, publish

MAC = bytes.fromhex("02420a0b0007")


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with two networks."""
    world = World(sandbox, tmp_path)
    world.network(plan.FRONT, guard="off")
    world.network(plan.BACK, guard="off", ingressPolicy="isolated")
    return world


def shown(world: World) -> list[dict[str, Any]]:
    """What ``dpctl drops --json`` prints."""
    said = json.loads(world.dpctl("drops", "--json"))
    assert (said["version"], said["programs_loaded"]) == (1, True)
    drops: list[dict[str, Any]] = said["drops"]
    return drops


def _guard_dropped(port: str, one: Attached, reason: GuardReason, packets: int) -> None:
    """Inside a sandbox: write what guard writes when it drops."""
    programs, key = KernelPrograms(), abi.GUARD_DROP_KEY.pack(socket.if_nametoindex(port), reason)
    ends = abi.pack_address(one.address(4)), abi.pack_address(plan.CLIENT4)
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    last = abi.OFFENDER.pack(now, *ends, bytes(2), bytes(2), 4, 1, MAC)
    programs.put("guard_offenders", key, last)
    cpus = syscall.value_bytes(programs.map("guard_drops")) // abi.U64.size
    programs.put("guard_drops", key, abi.U64.pack(packets) + bytes(abi.U64.size * (cpus - 1)))


def host_veth(world: World, one: Attached) -> str:
    """The host's end of a container's link."""
    (link,) = json.loads(one.netns.ip("-j", "link", "show", "dev", "eth0"))
    links = json.loads(world.host.ip("-j", "link", "show"))
    return next(str(each["ifname"]) for each in links if each["ifindex"] == link["link_index"])


def test_isolation_by_name(world: World) -> None:
    """Networks, containers, policies, the last packet, its age, and the published port that it could have asked."""
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    admin = world.attach("admin", plan.BACK)
    assert shown(world) == []
    assert world.dpctl("drops") == "nothing was dropped\n"
    for port in (81, 80):
        assert ask(admin.netns, web.address(4), port, timeout=0.3) is None
    (one,) = shown(world)
    assert (one["dropped_by"], one["reason"]) == ("isolation", "networks")
    assert one["source"] == {"network": "back", "container": "admin", "address": str(admin.address(4))}
    assert one["destination"] == {"network": "front", "container": "web", "address": str(web.address(4))}
    assert one["why"] == "different networks, and neither is open (back is isolated; front is same-bridge)"
    assert one["packets"] >= 2
    assert (one["last"]["destination"]["port"], one["last"]["protocol"]) == (80, "tcp")
    assert 0 <= one["last"]["seconds_ago"] < 60
    assert one["what_to_do"] == "that port is published: ask an address of the host for 8080/tcp instead"

    text = world.dpctl("drops")
    for words in ("isolation", "back/admin", "front/web", f"> {web.address(4)}:80 tcp", " s ago", "what to do", "8080"):
        assert words in text, text

    world.detach("admin")
    (one,) = shown(world)
    assert one["source"]["container"] is None, "nobody is at that address now"


@pytest.mark.parametrize("version", [4, 6])
def test_a_masqueraded_sender_is_named(world: World, version: int) -> None:
    """What is dropped has the host's address as its source by then; conntrack tells whose packet it was."""
    world.network(plan.BACK, guard="off", ingressPolicy="isolated", ipMasq=True)
    web, admin = world.attach("web", plan.FRONT), world.attach("admin", plan.BACK)
    assert ask(admin.netns, web.address(version), 81, timeout=0.3) is None
    (one,) = [each for each in shown(world) if each["last"]["protocol"] == "tcp"]
    assert one["source"] == {"network": "back", "container": "admin", "address": str(admin.address(version))}
    assert one["last"]["source"]["address"] == str(admin.address(version))


def test_neighbours_that_are_routed_back(world: World) -> None:
    """Within an isolated network the policy is the reason."""
    web, shop = world.attach("web", plan.BACK), world.attach("shop", plan.BACK)
    shop.netns.ip("route", "add", web.address(4), "via", plan.BACK.gateway4)
    assert ask(shop.netns, web.address(4), 80, timeout=0.3) is None
    (one,) = shown(world)
    assert (one["reason"], one["source"]["container"], one["destination"]["container"]) == ("neighbours", "shop", "web")
    assert one["why"] == "network back is isolated: its containers are kept apart"


def test_guard_by_the_containers_port(world: World) -> None:
    """What guard counts on a host veth is its container's, with the MAC of the last frame and what would allow it."""
    web = world.attach("web", plan.FRONT)
    world.host.call(_guard_dropped, host_veth(world, web), web, GuardReason.ROUTER, 3)
    (one,) = shown(world)
    assert (one["dropped_by"], one["reason"], one["packets"]) == ("guard", "router", 3)
    assert (one["source"]["network"], one["source"]["container"]) == ("front", "web")
    assert one["destination"]["address"] == str(plan.CLIENT4)
    assert one["last"]["mac"] == MAC.hex(":")
    assert '"guard": "mac" in the conflist of network front' in one["what_to_do"]
    assert "router advertisements or redirects (CVE-2020-10749)" in world.dpctl("drops")


def test_watch_shows_what_comes_now(world: World) -> None:
    """Not what was dropped before: only growth, a JSON object a line."""
    web, admin = world.attach("web", plan.FRONT), world.attach("admin", plan.BACK)
    assert ask(admin.netns, web.address(4), 80, timeout=0.2) is None
    assert world.dpctl("drops", "--for", 0.1) == ""
    prober = Prober(admin.netns, web.address(4), 81)
    (one, *_) = map(json.loads, world.dpctl("drops", "--watch", "--for", 1.2, "--json").splitlines())
    prober.stop()
    assert (one["source"]["container"], one["destination"]["container"]) == ("admin", "web")
    assert one["last"]["destination"]["port"] == 81
    (after,) = shown(world)
    assert 0 < one["packets"] < after["packets"]


def test_a_host_without_programs(sandbox: Sandbox) -> None:
    """Nothing was dropped there, which is said; looking makes no state, and there is nothing to watch."""
    before = sandbox.run("find", "/run", "-xdev").stdout
    assert sandbox.run(DPCTL, "drops").stdout == "nothing was dropped: no programs are loaded\n"
    said = json.loads(sandbox.run(DPCTL, "drops", "--json").stdout)
    assert said == {"version": 1, "programs_loaded": False, "drops": []}
    done = sandbox.run(DPCTL, "drops", "--watch", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no programs are loaded" in done.stderr
    assert sandbox.run("find", "/run", "-xdev").stdout == before
