"""The long variants of test_chaos, for ``make chaos``: more packets, more of everything, in random order."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plugin.errors import Code
from support import needs, plan
from support.netns import Sandbox
from support.resident import GENEROUS, INSTALLED, Resident, upgraded
from support.residue import residue
from support.scene import Scene
from support.storm import WIDTH, Bare, Life, Log, blow, clashes
from support.traffic import ask
from support.world import DPCTL, World, publish

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

COUNT, RATE = 100_000, 20_000
SEED = 4


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all tests: each leaves it as it was."""
    needs.root()
    with Sandbox() as host:
        yield Scene(host, tmp_path_factory.mktemp("chaos"))


# -- packets ----------------------------------------------------------------------------------------------------------


def _upgrade(scene: Scene) -> None:
    scene.resident.again(signal.SIGTERM, upgraded(scene.directory, 1))
    scene.resident.again(signal.SIGTERM, INSTALLED)


EVENTS: dict[str, Callable[[Scene], object]] = {
    "nothing": lambda _: None,
    "restart": lambda scene: scene.resident.again(signal.SIGTERM),
    "kill": lambda scene: scene.resident.again(signal.SIGKILL),
    "upgrade": _upgrade,
    "flush": lambda scene: scene.host.run("nft", "flush", "ruleset"),
    "delete": lambda scene: scene.host.run("nft", "delete", "table", "inet", "dataplane"),
    "unpin": lambda scene: scene.host.run("sh", "-c", "rm -r /sys/fs/bpf/dataplane* || true"),
    "overmount": lambda scene: scene.host.run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf"),
}


@pytest.mark.parametrize("event", EVENTS)
def test_a_hundred_thousand_packets(scene: Scene, event: str) -> None:
    """At 20,000 a second, whatever happens in between: none is lost, and where the table stays no connection is
    refused."""
    with scene.traffic(rate=RATE) as seen:
        began = time.monotonic()
        time.sleep(1.0)
        EVENTS[event](scene)
        time.sleep(max(0.0, COUNT / RATE + 0.5 - (time.monotonic() - began)))
    assert seen.packets.sent >= COUNT
    if event in {"flush", "delete"}:
        seen.expect_running_flows()
    else:
        seen.expect_nothing_lost()


# -- everything at random ---------------------------------------------------------------------------------------------

BREAKING = (
    ("nft", "flush", "ruleset"),
    ("nft", "delete", "table", "inet", "dataplane"),
    ("nft", "flush", "table", "inet", "dataplane"),
    ("nft", "flush", "chain", "inet", "dataplane", "forward"),
    ("nft", "insert", "rule", "inet", "dataplane", "forward", "drop"),
    ("nft", "delete", "chain", "inet", "dataplane", "source"),
    ("nft", "delete", "element", "inet", "dataplane", "publish4", "{ tcp . 8080 }"),
    ("nft", "flush", "map", "inet", "dataplane", "publish4"),
    ("nft", "flush", "set", "inet", "dataplane", "members4"),
    ("sh", "-c", "rm -rf /sys/fs/bpf/dataplane*"),
    ("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"),
    ("sh", "-c", f"echo 0 > /proc/sys/net/ipv4/conf/{plan.FRONT.device}/route_localnet"),
)
TIMES = 50


def test_everything_at_random(scene: Scene) -> None:
    """Each thing fifty times, in random order, too fast for the agent, which slows down: isolation is never open, who
    talks may have to wait and is never cut off, and in the end all is as it was."""
    dice = random.Random(SEED)  # noqa: S311 - a mess that can be repeated
    commands = [command for command in BREAKING for _ in range(TIMES)]
    dice.shuffle(commands)
    with scene.traffic(patience=60.0) as seen:
        for command in commands:
            scene.host.run(*command, check=False)  # what it breaks may be broken already
            time.sleep(dice.uniform(0.0, 0.4))
    assert seen.talk.broken == ""
    assert seen.knocks.answered > 0


# -- the agent stands still -------------------------------------------------------------------------------------------


def test_an_add_while_the_agent_stands_still(scene: Scene) -> None:
    """The plugin waits for the agent only so long; then it does the work itself, once, and the agent finds it done."""
    with scene.traffic() as seen:
        scene.resident.signal(signal.SIGSTOP)
        late = scene.world.attach("late", plan.FRONT, publish("8090:80"))
        scene.world.serve(late)
        assert ask(scene.world.client, plan.HOST4, 8090) is not None
        scene.resident.signal(signal.SIGCONT)
        scene.resident.settle()
        scene.world.check("late")
        scene.world.detach("late")
    seen.expect_nothing_lost()


# -- storms -----------------------------------------------------------------------------------------------------------

ROUNDS = 16
_SUPERVISOR = """
import random, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
dice = random.Random(int(sys.argv[1]))
while True:
    agent = subprocess.Popen(sys.argv[2:], stderr=subprocess.DEVNULL)
    try:
        time.sleep(dice.uniform(0.3, 2.0))
    finally:
        agent.kill()
        agent.wait()
"""


def test_a_storm_over_an_agent_that_keeps_dying(sandbox: Sandbox, tmp_path: Path) -> None:
    """64 at a time, a thousand in all, while the agent is killed and started again and again: every call is served,
    nothing is held twice, and nothing is left."""
    world = World(sandbox, tmp_path)
    sandbox.run("sh", "-c", 'for n in $(seq 0 $1); do ip netns add "box$n"; done', "sh", WIDTH - 1)
    ipam = {"type": "host-local", "ranges": [[{"subnet": str(plan.FRONT.subnet4)}]], "routes": [{"dst": "0.0.0.0/0"}]}
    conf: dict[str, object] = {
        "cniVersion": "1.0.0", "name": plan.FRONT.name, "type": "dataplane-bridge", "bridge": plan.FRONT.device,
        "isGateway": True, "ipMasq": True, "capabilities": {"portMappings": True}, "ipam": ipam,
    }  # fmt: skip
    runtime = Bare(world.plugins / "dataplane-bridge", conf, world.environment)
    supervisor = sandbox.spawn(sys.executable, "-I", "-c", _SUPERVISOR, SEED, DPCTL, "agent", env=world.environment)
    dice = random.Random(SEED)  # noqa: S311 - a storm that can be repeated
    logs: list[Log] = []
    for turn in range(ROUNDS):
        lives = [_life(turn, number, dice) for number in range(WIDTH)]
        came = sandbox.call(blow, runtime, lives, world.environment)
        assert clashes(came) == []
        # An ADD whose first server was killed, and whose second refused it, leaves what runtimes send a DEL for.
        failed = [
            Life(log.life.container, log.life.netns, log.life.port, comes=False, goes=True) for log in came if log.code
        ]
        assert {log.code for log in sandbox.call(blow, runtime, failed, world.environment)} <= {0}
        logs += came
    sandbox.signal(supervisor, signal.SIGTERM)
    supervisor.wait(GENEROUS)
    wrong = [(log.code, log.text) for log in logs if log.code not in {0, Code.PORT_CONFLICT}]
    assert wrong == []
    assert len([log for log in logs if log.code == 0]) > len(logs) / 2
    Resident(world).settle()
    assert residue(sandbox, world.environment) == {}


def _life(turn: int, number: int, dice: random.Random) -> Life:
    port = dice.randrange(9000, 9200)
    return Life(f"c{turn}-{number}", f"/run/netns/box{number}", port, goes=True, between=dice.uniform(0, 0.2))


# -- soak -------------------------------------------------------------------------------------------------------------

SOAKED, WARM, WORKERS = 20_000, 2_000, 4
GROWTH = 4 << 10
"""KiB that may come of what is kept within bounds: records, uses of devices, arenas of the allocator."""


def test_an_agent_that_served_for_long(sandbox: Sandbox, tmp_path: Path) -> None:
    """Twenty thousand ADDs and as many DELs later the agent takes as much memory and as many descriptors as before."""
    world = World(sandbox, tmp_path)
    sandbox.bridge(plan.FRONT.device, f"{plan.FRONT.gateway4}/24")
    for worker in range(WORKERS):
        sandbox.namespace(f"soak{worker}")
    resident = Resident(world)
    sandbox.call(_soak, world.plugins / "dataplane", world.environment, WARM)
    before = resident.usage()
    sandbox.call(_soak, world.plugins / "dataplane", world.environment, SOAKED)
    after = resident.usage()
    print(f"KiB of memory and descriptors: {before}, {SOAKED} ADDs and DELs later {after}")
    assert after.memory - before.memory < GROWTH
    assert after.descriptors <= before.descriptors
    assert residue(sandbox, world.environment) == {}


def _soak(plugin: Path, environment: dict[str, str], count: int) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda worker: _come_and_go(plugin, environment, worker, count // WORKERS), range(WORKERS)))


def _come_and_go(plugin: Path, environment: dict[str, str], worker: int, count: int) -> None:
    mappings = [{"hostPort": 9000 + worker, "containerPort": 80, "protocol": "tcp"}]
    conf = {
        "cniVersion": "1.0.0",
        "name": plan.FRONT.name,
        "type": "dataplane",
        "capabilities": {"portMappings": True},
        "runtimeConfig": {"portMappings": mappings},
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": plan.FRONT.device}, {"name": "eth0", "sandbox": f"/run/netns/soak{worker}"}],
            "ips": [{"address": f"{plan.FRONT.host4(10 + worker)}/24", "interface": 1}],
        },
    }
    text = json.dumps(conf)
    for number in range(count):
        for verb in ("ADD", "DEL"):
            call = {
                "CNI_COMMAND": verb, "CNI_CONTAINERID": f"soak{worker}-{number}", "CNI_IFNAME": "eth0",
                "CNI_NETNS": f"/run/netns/soak{worker}", "CNI_PATH": str(plugin.parent),
            }  # fmt: skip
            subprocess.run([plugin], input=text, env=os.environ | environment | call, text=True, check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
