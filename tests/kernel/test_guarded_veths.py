"""Programs on containers' host veths, from the conflist to the kernel: beside other plugins, and over time."""

from __future__ import annotations

import json
import socket
from collections import Counter
from pathlib import Path

import pytest

from control.engine import open_engine
from control.model import ChecksumPolicy
from dataplane.abi import GUARD_DROP_KEY, U64, GuardReason, Port
from dataplane.doors import Hooked
from dataplane.programs import loading
from dataplane.programs.door import KernelPrograms
from dataplane.types import AttachMode, GuardLevel, IfIndex, Program, Protocol
from plugin.errors import CniError
from support import needs, plan
from support.frames import Flow, frame
from support.netns import Sandbox, wait_until
from support.residue import residue
from support.traffic import ask, send_frame
from support.world import GO_PLUGINS, Attached, World, publish

IPAM: dict[str, object] = {
    "type": "host-local",
    "ranges": [[{"subnet": str(plan.FRONT.subnet4)}]],
    "routes": [{"dst": "0.0.0.0/0"}],
}
BRIDGE: dict[str, object] = {"type": "bridge", "bridge": plan.FRONT.device, "isGateway": True, "ipam": IPAM}
OURS: dict[str, object] = {"type": "dataplane", "capabilities": {"portMappings": True}}
RATES = {"ingressRate": 10**9, "ingressBurst": 10**8, "egressRate": 10**9, "egressBurst": 10**8}
BANDWIDTH: dict[str, object] = {"type": "bandwidth", **RATES}


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host without networks."""
    return World(sandbox, tmp_path)


def hooked(world: World, program: str = "guard") -> dict[str, str]:
    """How a program is hooked, by device."""
    found = json.loads(world.dpctl("bpf", "ls", "--json"))["attached"]
    assert len({(one["device"], one["program"]) for one in found}) == len(found), "there twice"
    return {one["device"]: one["mode"] for one in found if one["program"] == program}


def veth(one: Attached) -> str:
    """The name of a container's host veth."""
    interfaces = one.result["interfaces"]
    assert isinstance(interfaces, list)
    names = [str(link["name"]) for link in interfaces if not link.get("sandbox")]
    return next(name for name in names if name.startswith("veth"))


def ports() -> list[Port]:
    """Inside the host: what the guard knows."""
    return [Port.unpack(value) for _, value in KernelPrograms().entries("ports")]


def lied(world: World, one: Attached) -> int:
    """How many of five packets of a container, from somebody else's address, the guard has dropped."""

    def dropped() -> int:
        found = world.host.call(counted)
        return found.get(GuardReason.SOURCE_ADDRESS, 0)

    (link,) = json.loads(one.netns.ip("-json", "link", "show", "dev", "eth0"))
    lie = frame(Flow(Protocol.UDP, str(plan.FRONT.host4(99)), 4000, str(plan.FRONT.gateway4), 53), b"lie")
    before = dropped()
    send_frame(one.netns, "eth0", lie[:6] + bytes.fromhex(link["address"].replace(":", "")) + lie[12:], 5)
    return dropped() - before


def counted() -> dict[GuardReason, int]:
    """Inside the host: packets that the guard has dropped."""
    found: Counter[GuardReason] = Counter()
    for key, value in KernelPrograms().entries("guard_drops"):
        _, reason = GUARD_DROP_KEY.unpack(key)
        found[GuardReason(reason)] += U64.unpack(value)[0]
    return dict(found)


def test_behind_the_bandwidth_plugin(world: World) -> None:
    """What that redirects before our filter would see it is guarded by a link; and DEL takes all of it away."""
    needs.file(GO_PLUGINS / "bandwidth", package="containernetworking-plugins")
    world.define(plan.FRONT, [BRIDGE, BANDWIDTH, OURS])
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    world.serve(web)
    assert hooked(world) == {veth(web): "tcx"}
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert lied(world, web) == 5
    assert "mirred" in world.host.run("tc", "filter", "show", "dev", veth(web), "ingress").stdout
    world.check("web")
    world.detach("web")
    assert residue(world.host, world.environment) == {}


def test_before_the_bandwidth_plugin(world: World, tmp_path: Path) -> None:
    """That fails there, as ``dpctl config check`` says; with tcx it does not."""
    needs.file(GO_PLUGINS / "bandwidth", package="containernetworking-plugins")
    chain = [BRIDGE, OURS, BANDWIDTH]
    world.define(plan.FRONT, chain)
    with pytest.raises(CniError, match="plugin bandwidth"):
        world.attach("web", plan.FRONT)
    conflist = tmp_path / "front.conflist"
    conflist.write_text(json.dumps({"cniVersion": "1.0.0", "name": plan.FRONT.name, "plugins": chain}))
    said = world.dpctl("config", "check", conflist, check=False)
    assert "plugins[2]: bandwidth finds a qdisc of dataplane where it is to make its own: put dataplane after" in said
    (tmp_path / "dataplane.toml").write_text('attach = "tcx"')
    web = world.attach("web", plan.FRONT)
    assert hooked(world) == {veth(web): "tcx"}
    assert lied(world, web) == 5


def test_each_interface_has_its_own(world: World) -> None:
    """A container on a bridge and behind ptp is guarded on both, by what each has; a checksum mode that fills is on the
    veths of its network, and goes again."""
    world.network(plan.FRONT, ingressPolicy="open")
    world.network(plan.BACK, main="ptp", guard="mac")
    web = world.attach("web", plan.FRONT)
    both = world.attach("web", plan.BACK, ifname="eth1")
    veths = {veth(web), veth(both)}
    assert hooked(world) == dict.fromkeys(veths, "clsact")
    macs = {link["address"] for link in json.loads(web.netns.ip("-json", "link")) if link["ifname"] != "lo"}
    found = world.host.call(ports)
    assert {one.mac for one in found} == macs
    assert sorted(one.guard for one in found) == [GuardLevel.MAC, GuardLevel.FULL]
    world.host.call(set_mode, plan.FRONT.name, ChecksumPolicy.FILL)
    assert hooked(world, "fill") == {veth(web): "clsact"}
    assert lied(world, web) == 5
    world.host.call(set_mode, plan.FRONT.name, ChecksumPolicy.OFF)
    assert hooked(world, "fill") == {}
    assert hooked(world) == dict.fromkeys(veths, "clsact")
    world.detach("web")
    world.detach("web", "eth1")
    assert residue(world.host, world.environment) == {}


def set_mode(network: str, mode: ChecksumPolicy) -> None:
    """Inside the host: what ``dpctl checksum mode`` does."""
    with open_engine() as engine:
        engine.set_checksum_mode(network, mode)


def upgrade(name: str) -> tuple[list[Port], set[str], tuple[Hooked, ...]]:
    """Inside the host: programs of another source are found missing, and loaded; their maps, and what is pinned."""
    with open_engine() as engine:
        assert isinstance(engine.kernel.programs, KernelPrograms)
        engine.kernel.programs.digest = "another"
        assert engine.reconcile()[1] == []
        held = [Port.unpack(value) for _, value in engine.kernel.programs.entries("ports")]
        engine.kernel.programs.prune()
        hooked = engine.kernel.programs.hooked(IfIndex(socket.if_nametoindex(name)))
        return held, {one.name for one in loading.BASE.iterdir()}, hooked


def guard_of(name: str) -> Hooked:
    """Inside the host: the guard on a device, which is there once."""
    (found,) = KernelPrograms().hooked(IfIndex(socket.if_nametoindex(name)))
    return found


def test_a_new_version_takes_over_all_veths(world: World) -> None:
    """The guard is replaced where it is, its new maps are filled, and nothing of the old one is left."""
    world.network(plan.FRONT)
    web, _ = (world.attach(name, plan.FRONT) for name in ("web", "shop"))
    before = world.host.call(guard_of, veth(web))
    held, pinned, after = world.host.call(upgrade, veth(web))
    assert len(held) == 2
    assert pinned == {"another", "links"}
    assert [(one.program, one.mode) for one in after] == [(Program.GUARD, AttachMode.CLSACT)]
    assert after[0].program_id != before.program_id


def test_links_are_held_by_the_agent(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where veths have links, ``rm -r`` of their pins opens no container; the very same links are pinned again."""
    world = World(sandbox, tmp_path, 'attach = "tcx"')
    world.start_agent()
    world.network(plan.FRONT)
    web = world.attach("web", plan.FRONT)

    before = world.host.call(guard_of, veth(web))
    held = ("sh", "-c", "ls -l /proc/*/fd | grep -c bpf.link")
    wait_until(lambda: int(sandbox.run(*held, check=False).stdout) == 3, 20, "the agent to hold three links")
    sandbox.run("sh", "-c", "rm -r /sys/fs/bpf/dataplane* || true")
    assert world.host.call(guard_of, veth(web)).link_id == before.link_id
    wait_until(lambda: not json.loads(world.dpctl("status", "--json", check=False))["problems"], 20, "a healthy host")
    assert world.host.call(guard_of, veth(web)).link_id == before.link_id
