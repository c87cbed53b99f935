"""The agent with no more rights than its unit gives it: all that plugins ask of it works."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from control.protocol.client import SOCKET_PATH
from plugin.units import SERVICE, own_dpctl, unit_text
from support import needs, plan
from support.netns import Sandbox, wait_until
from support.traffic import ask
from support.world import DPCTL, World, publish


def capabilities() -> list[str]:
    """Those of CapabilityBoundingSet, as setpriv calls them."""
    found = re.search(r"^CapabilityBoundingSet=(.+)$", unit_text(SERVICE, own_dpctl()), re.MULTILINE)
    assert found
    return [name.removeprefix("CAP_").lower() for name in found[1].split()]


def start(world: World) -> subprocess.Popen[str]:
    """Start the agent with only these capabilities, on a bpffs that is there before, as the unit asserts."""
    needs.command("setpriv", package="util-linux")
    bounding = ",".join(("-all", *(f"+{name}" for name in capabilities())))
    few = ("setpriv", "--no-new-privs", f"--bounding-set={bounding}", "--inh-caps=-all", "--ambient-caps=-all")
    agent = world.host.spawn(*few, DPCTL, "agent", env=world.environment, stderr=subprocess.PIPE, stdout=None)
    wait_until(lambda: world.host.exists(SOCKET_PATH), 30, "the agent's socket")
    return agent


def effective(pid: int) -> int:
    """How many capabilities a process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^CapEff:\s+([0-9a-f]+)$", status, re.MULTILINE)[1], 16).bit_count()  # type: ignore[index]


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with a network whose interfaces our own main plugin makes, the programs not compiled yet."""
    made = World(sandbox, tmp_path)
    ipam = {"type": "host-local", "ranges": [[{"subnet": str(plan.FRONT.subnet4)}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {
        "type": "dataplane-bridge", "bridge": plan.FRONT.device, "isGateway": True, "ipMasq": True, "vlan": 0,
        "macspoofchk": True, "capabilities": {"portMappings": True}, "ipam": ipam,
    }  # fmt: skip
    made.define(plan.FRONT, [bridge])
    return made


def test_the_units_capabilities_are_enough(world: World) -> None:
    """Compiling and loading, interfaces, addresses, sysctls, ports, repair, CHECK, DEL and GC."""
    agent = start(world)
    pid = json.loads(world.dpctl("status", "--json"))["agent"]["pid"]
    assert world.host.call(effective, pid) == len(capabilities())
    Path(world.environment["DATAPLANE_CONFIG"]).write_text("nonsense = 1")  # only the agent can serve from now on
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    world.serve(web)
    assert ask(world.client, plan.HOST4, 8080) is not None
    world.check("web")
    world.host.run("nft", "flush", "ruleset")
    world.attach("other", plan.FRONT, publish("8081:80"))
    assert ask(world.client, plan.HOST4, 8080) is not None
    world.detach("web")
    world.gc(plan.FRONT)
    assert "808" not in world.ruleset()
    assert agent.poll() is None
