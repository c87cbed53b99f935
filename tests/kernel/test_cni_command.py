"""``dpctl cni`` on a real host: Debian's main plugin, then the installed one of ours, from a directory of conflists."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from plugin.result import convert
from plugin.versions import SUPPORTED_VERSIONS
from support import plan
from support.netns import Namespace, Sandbox
from support.traffic import ask, serve
from support.world import DPCTL, GO_PLUGINS, World

OLD, GO = SUPPORTED_VERSIONS[:2], SUPPORTED_VERSIONS[:-1]
"""Versions whose results name no interfaces; versions that Debian's plugins know."""
BRIDGE: dict[str, Any] = {
    "type": "bridge",
    "bridge": plan.FRONT.device,
    "isGateway": True,
    "ipam": {
        "type": "static",
        "addresses": [
            {"address": f"{plan.FRONT.host4(10)}/24", "gateway": str(plan.FRONT.gateway4)},
            {"address": f"{plan.FRONT.host6(10)}/64", "gateway": str(plan.FRONT.gateway6)},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    },
}
OURS: dict[str, Any] = {"type": "dataplane", "capabilities": {"portMappings": True}}
PORTS = json.dumps({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]})


class Commands(World):
    """A host with the plugins and a directory of conflists, on which ``dpctl cni`` is run."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        super().__init__(sandbox, directory)
        self.conf, self.cache = directory / "conf", directory / "cni"
        self.conf.mkdir()

    def write(self, name: str, version: str, *plugins: dict[str, Any]) -> None:
        text = json.dumps({"cniVersion": version, "name": name, "plugins": plugins})
        (self.conf / f"10-{name}.conflist").write_text(text)

    def cni(self, *words: object, status: int = 0) -> str:
        """Run a verb that must end so; what it printed, on both outputs where it failed."""
        where = ("--conf", self.conf, "--cache", self.cache, "--cni-bin", self.plugins, "--cni-bin", GO_PLUGINS)
        done = self.host.run(DPCTL, "cni", *words, *where, check=False, env=self.environment)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + (done.stderr if status else "")

    def container(self, name: str) -> Namespace:
        place = self.host.namespace(name)
        for scope in ("default", "all"):
            place.sysctl(f"net/ipv6/conf/{scope}/accept_dad", 0)
        return place

    def veths(self) -> str:
        return self.host.run("ip", "-o", "link", "show", "type", "veth").stdout

    def kept(self) -> list[str]:
        return sorted(path.name for path in (self.cache / "results").glob("*"))


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Commands:
    """A host, a client, plugins and no network."""
    return Commands(sandbox, tmp_path)


def server(world: Commands) -> str | None:
    """Who answers on the published port."""
    answer = ask(world.client, plan.HOST4, 8080)
    return answer.server if answer else None


def test_the_life_of_an_attachment(world: Commands) -> None:
    """ADD publishes a port, CHECK sees what was taken away, a second ADD harms nothing, DEL leaves nothing."""
    world.write("front", "1.0.0", BRIDGE, OURS)
    serve(world.container("web"), "web", "tcp", 80, "::")
    before = world.veths()
    result = json.loads(world.cni("add", "front", "web", "--cap", PORTS))
    assert [one["name"] for one in result["interfaces"]][::2] == [plan.FRONT.device, "eth0"]
    assert server(world) == "web"
    world.cni("check", "front", "web")

    assert "it is there already" in world.cni("add", "front", "web", status=1)
    assert server(world) == "web"

    world.host.run("nft", "flush", "ruleset")
    assert "plugin dataplane: " in world.cni("check", "front", "web", status=1)
    world.dpctl("reconcile")
    world.cni("check", "front", "web")

    for _ in range(2):
        world.cni("del", "front", "web")
        assert world.kept() == []
        assert world.veths() == before
    assert server(world) is None
    assert json.loads(world.dpctl("ps", "--json"))["attachments"] == []


def test_a_failed_add_leaves_nothing(world: Commands) -> None:
    """What the second plugin refuses is deleted by the first; the error is the second's."""
    world.write("front", "1.0.0", BRIDGE, OURS)
    world.container("web")
    before = world.veths()
    bad = json.dumps({"portMappings": [{"hostPort": 0, "containerPort": 80}]})
    assert "plugin dataplane: " in world.cni("add", "front", "web", "--cap", bad, status=1)
    assert world.kept() == []
    assert world.veths() == before


def test_gc(world: Commands) -> None:
    """Only what is said to be valid stays, though its list cannot be asked: before 1.1.0 by the cache alone."""
    ranges = [[{"subnet": str(plan.FRONT.subnet4)}]]
    leased = {**BRIDGE, "ipam": {"type": "host-local", "ranges": ranges, "dataDir": str(world.cache / "leases")}}
    world.write("front", "1.0.0", leased, OURS)
    for name in ("web", "db"):
        world.container(name)
        world.cni("add", "front", name, "--id", name)
    assert world.cni("gc", "front", status=2)
    assert world.kept() == ["front-db-eth0", "front-web-eth0"]
    world.cni("gc", "front", "--valid", "web/eth0")
    assert world.kept() == ["front-web-eth0"]
    world.cni("check", "front", "web", "--id", "web")
    world.cni("gc", "front", "--none-valid")
    assert world.kept() == []
    assert [path.name for path in (world.cache / "leases" / "front").glob("10.*")] == []
    assert json.loads(world.dpctl("ps", "--json"))["attachments"] == []


def test_status_and_gc_of_1_1_0(world: Commands) -> None:
    """The verbs that came with 1.1.0 reach our plugin; a plugin that cannot be asked is not ready."""
    world.write("front", "1.1.0", OURS)
    assert world.cni("status", "front") == "front: ready\n"
    world.cni("gc", "front", "--none-valid")
    world.write("front", "1.1.0", BRIDGE, OURS)
    # Debian's plugins are of 1.0.0, and have no STATUS.
    assert world.cni("status", "front", status=3).startswith("front: not ready: plugin bridge: ")


def masked(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what is another one each time, and without the empty "dns" that Go writes up to 0.4.0."""
    for one in result.get("interfaces", []):
        one["mac"] = "MAC"
        one["name"] = "veth" if one["name"].startswith("veth") else one["name"]
    return {name: value for name, value in result.items() if value != {}}


def test_results_in_every_version(world: Commands) -> None:
    """What Go's bridge prints in one version, and what we make of it in another, is what Go prints there."""
    printed = {}
    for index, version in enumerate(GO):
        world.write("front", version, BRIDGE)
        world.container(f"web{index}")
        printed[version] = masked(json.loads(world.cni("add", "front", f"web{index}")))
        world.cni("del", "front", f"web{index}")
    for one in printed.values():
        for interface in one.get("interfaces", []):
            interface.update({"sandbox": "NETNS"} if "sandbox" in interface else {})
    for before, after in product(GO, GO):
        if before not in OLD or after in OLD:
            assert convert(printed[before], after) == printed[after], (before, after)
