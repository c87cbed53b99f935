"""SIGKILL at any moment: what a request leaves behind, the next one repairs."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from support import plan
from support.netns import Sandbox
from support.traffic import ask
from support.world import World, publish

MOMENTS = range(0, 160, 8)
"""Milliseconds after its start at which a plugin is killed: from before its first import until after its end."""


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with one network and one container that must never notice anything."""
    made = World(sandbox, tmp_path)
    made.network(plan.FRONT, ipMasq=True)
    made.serve(made.attach("steady", plan.FRONT, publish("8080:80")))
    return made


def run(world: World, verb: str, kill_after: float | None = None) -> None:
    """Run our plugin for the container "dying" on a bridge of its own; kill it after so many milliseconds."""
    conf = {
        "cniVersion": "1.0.0",
        "name": "doomed",
        "type": "dataplane",
        "ipMasq": True,
        "capabilities": {"portMappings": True},
        "runtimeConfig": {"portMappings": [{"hostPort": 9000, "containerPort": 80, "protocol": "tcp"}]},
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "br-doomed"}, {"name": "eth0", "sandbox": "/run/netns/dying"}],
            "ips": [{"address": "10.13.0.2/24", "interface": 1}],
        },
    }
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "dying",
        "CNI_NETNS": "/run/netns/dying",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(world.plugins),
        **world.environment,
    }
    process = world.host.spawn(
        world.plugins / "dataplane", env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(conf))
    process.stdin.close()
    if kill_after is not None:
        time.sleep(kill_after / 1000)
        with suppress(FileNotFoundError, ProcessLookupError):  # it was quicker
            world.host.signal(process, signal.SIGKILL)
    process.wait(60)


def residue(world: World) -> dict[str, object]:
    """What is in the kernel and the state, but for the steady container's part."""
    loaded = json.loads(world.dpctl("bpf", "ls", "--json"))
    return {
        "elements": [line for line in world.ruleset().splitlines() if "10.13.0.2" in line],
        "hooks": [one["program"] for one in loaded["attached"] if one["device"] == "br-doomed"],
        "entries": [(one["name"], one["entries"]) for one in loaded["maps"] if one["name"] in {"networks", "origins"}],
        "attachments": [one["container"] for one in json.loads(world.dpctl("ps", "--json"))["attachments"]],
        "localnet": world.host.run("cat", "/proc/sys/net/ipv4/conf/br-doomed/route_localnet").stdout.strip(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_killed_request_leaves_nothing_that_a_del_does_not_remove(world: World, verb: str) -> None:
    """ADD or DEL, killed at twenty moments: after one more DEL nothing of it is left, and nobody else noticed."""
    world.host.namespace("dying")
    world.host.bridge("br-doomed", "10.13.0.1/24")
    clean = residue(world)
    for moment in MOMENTS:
        if verb == "DEL":
            run(world, "ADD")
        run(world, verb, moment)
        run(world, "DEL")
        assert residue(world) == clean, f"killed after {moment} ms"
    assert ask(world.client, plan.HOST4, 8080) is not None
    world.check("steady")
