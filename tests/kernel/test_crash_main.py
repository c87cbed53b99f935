"""SIGKILL before every step of the main plugin: link, lease, journal, transaction, program, port flag, sysctl.

Not at a point of ours, as in test_crashpoints.py, but at a system call, before it is carried out: every boundary
between two changes is met, on machines of any speed.

Be aware: strace counts by thread. Of the work in the container's namespace, which is a thread's, only the begin is met.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import needs, plan
from support.netns import Sandbox
from support.residue import residue
from support.traffic import ask
from support.world import World, publish

CALLS = "sendto,sendmsg,bpf,link,unlink,rename,mkdir,write,pwrite64,ftruncate,setns"
"""System calls by which something can be changed: netlink, nft, programs and maps, leases, sysctls, the state."""
NO_CHANGE = re.compile(
    r"(RTM|NFT_MSG)_GET|BPF_(OBJ_GET|MAP_LOOKUP|MAP_GET|PROG_GET|PROG_QUERY|LINK_GET|BTF_GET)|= -1 E"
)
PAGES = 10
"""Of the writes of the state's pages, one in so many is met."""


def network(where: plan.Network) -> dict[str, object]:
    """A single entry."""
    return {
        "type": "dataplane-bridge",
        "bridge": where.device,
        "isGateway": True,
        "ipMasq": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(where.subnet4)}], [{"subnet": str(where.subnet6)}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
        "capabilities": {"portMappings": True},
    }


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with one container that must never notice anything, and the namespace of one that dies as it comes."""
    needs.command("strace", package="strace")
    made = World(sandbox, tmp_path)
    made.define(plan.FRONT, [network(plan.FRONT)])
    made.serve(made.attach("steady", plan.FRONT, publish("8080:80")))
    sandbox.namespace("dying").sysctl("net/ipv6/conf/default/accept_dad", 0)
    return made


def run(world: World, verb: str, *prefix: object) -> int:
    """Run the plugin for the container "dying" on a bridge of its own; its exit status."""
    mapping = {"hostPort": 9000, "containerPort": 80, "protocol": "tcp"}
    conf = {"cniVersion": "1.0.0", "name": plan.BACK.name, **network(plan.BACK)}
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "dying",
        "CNI_NETNS": "/run/netns/dying",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(world.plugins),
        **world.environment,
    }
    text = json.dumps(conf | {"runtimeConfig": {"portMappings": [mapping]}})
    words = (*prefix, world.plugins / "dataplane-bridge")
    return world.host.run(*words, env=environment, input=text, check=False).returncode


def steps(world: World, verb: str, directory: Path) -> Iterator[tuple[str, int]]:
    """The changes that a verb makes when it ends well: system call, and its number among the thread's calls of it."""
    directory.mkdir()
    assert run(world, verb, "strace", "-ff", "-qqq", "-e", f"trace={CALLS}", "-o", directory / "calls") == 0
    first = min(directory.iterdir(), key=lambda path: int(path.suffix[1:]))
    seen = Counter[str]()
    for line in first.read_text().splitlines():
        name = line.partition("(")[0]
        seen[name] += 1
        if not NO_CHANGE.search(line) and (name != "pwrite64" or seen[name] % PAGES == 0):
            yield name, seen[name]
    yield "setns", 1


def left(world: World) -> dict[str, list[str]]:
    """What is there of containers, but for counts: they come with traffic, of which IPv6 makes some by itself."""
    found = residue(world.host, world.environment)
    found["entries"] = [thing for thing in found.get("entries", ()) if not thing.startswith("checksum_counts")]
    return {kind: things for kind, things in found.items() if things}


def sizes(world: World) -> dict[str, int]:
    """How many things of each kind are there."""
    return {kind: len(things) for kind, things in left(world).items()}


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_main_plugin_that_is_killed_before_any_step(world: World, tmp_path: Path, verb: str) -> None:
    """A DEL after it leaves nothing, an ADD after it makes everything, once; and nobody else noticed."""
    clean = left(world)
    # A network's bridge is made once, and nobody takes it away.
    assert run(world, "ADD") == 0
    attached = sizes(world)
    assert run(world, "DEL") == 0
    if verb == "DEL":
        assert run(world, "ADD") == 0
    killed = 0
    for count, (name, number) in enumerate(list(steps(world, verb, tmp_path / "trace"))):
        assert run(world, "DEL" if verb == "ADD" else "ADD") == 0
        inject = f"inject={name}:signal=KILL:when={number}"
        killed += run(world, verb, "strace", "-f", "-qqq", "-e", inject, "-o", "/dev/null") != 0
        again = count % 2 == 1
        if again:
            assert run(world, "ADD") == 0, (name, number)
            assert sizes(world) == attached, (name, number)
        assert run(world, "DEL") == 0, (name, number)
        assert left(world) == clean, (name, number)
        if not again:
            assert run(world, "ADD") == 0, (name, number)
    assert run(world, "DEL") == 0
    assert left(world) == clean
    assert killed > 10
    assert ask(world.client, plan.HOST4, 8080) is not None
    world.check("steady")
