"""Many containers at once on one small subnet and few ports: nothing is handed out twice, and nothing stays behind."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from plugin.errors import Code
from plugin.runtime.conflist import ConfList
from support import plan
from support.netns import Sandbox
from support.residue import LEASES, residue
from support.storm import KILLED, WIDTH, Bare, Chain, Life, Log, Runtime, blow, clashes, could_hold
from support.world import World

PORTS = range(9000, 9040)
FIRST, LAST = plan.FRONT.host4(10), plan.FRONT.host4(57)
"""48 addresses for 64 containers."""
SEED = 20
NETWORK: dict[str, object] = {
    "bridge": plan.FRONT.device,
    "isGateway": True,
    "ipMasq": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": str(plan.FRONT.subnet4), "rangeStart": str(FIRST), "rangeEnd": str(LAST)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    },
}
PUBLISHES = {"capabilities": {"portMappings": True}}


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with a network namespace for each of the containers that are there at once."""
    made = World(sandbox, tmp_path)
    sandbox.run("sh", "-c", 'for n in $(seq 0 $1); do ip netns add "box$n"; done', "sh", WIDTH - 1)
    return made


def bare(world: World) -> Bare:
    """The single entry."""
    conf = {"cniVersion": "1.0.0", "name": plan.FRONT.name, "type": "dataplane-bridge", **NETWORK, **PUBLISHES}
    return Bare(world.plugins / "dataplane-bridge", conf, world.environment)


def chain(world: World) -> Chain:
    """The stock chain on drop-ins."""
    plugins = [{"type": "bridge", **NETWORK}, {"type": "portmap", **PUBLISHES}]
    conflist = ConfList.parse(json.dumps({"cniVersion": "1.0.0", "name": plan.FRONT.name, "plugins": plugins}))
    return Chain(conflist, [world.install_drop_ins()], world.plugins.parent / "cache")


def life(number: int, dice: random.Random, wave: int = 0, *, goes: bool = False) -> Life:
    """A container in one of the namespaces."""
    return Life(
        f"c{wave}-{number}",
        f"/run/netns/box{number}",
        dice.choice(PORTS),
        goes=goes,
        before=dice.uniform(0, 0.3),
        between=dice.uniform(0, 0.3),
    )


def leaving(logs: Iterable[Log]) -> list[Life]:
    """The end of all lives that were begun."""
    return [Life(log.life.container, log.life.netns, log.life.port, comes=False, goes=True) for log in logs]


def winners(logs: Iterable[Log]) -> list[Log]:
    return [log for log in logs if log.code == 0]


def expect_one_holder_of_each(logs: list[Log]) -> None:
    """Whoever lost was told why, and to whom."""
    assert clashes(logs) == []
    for log in logs:
        if log.code == Code.PORT_CONFLICT:
            named = [one for one in could_hold(logs, log) if f'already published by container "{one}"' in log.text]
            assert named, log
        else:
            assert log.code in {0, Code.NO_ADDRESS}, log


def expect_only(world: World, held: list[Log]) -> None:
    """Kernel and disk hold what these containers were told that they have, and nothing else."""
    there = residue(world.host, world.environment)
    assert there["leases"] == sorted(f"{LEASES}/{plan.FRONT.name}/{log.addresses[0]}" for log in held)
    assert len(there["veths"]) == len(held)
    assert {one.partition(" ")[0] for one in there["attachments"]} == {log.life.container for log in held}
    assert world.published() == {("publish4", "tcp", log.life.port, log.addresses[0], 80) for log in held}


def storm(world: World, runtime: Runtime, *, passing: int) -> None:
    """All come at once; some stay, and among them others come and go; then all leave."""
    dice = random.Random(SEED)  # noqa: S311 - a storm that can be repeated

    def do(lives: Iterable[Life]) -> list[Log]:
        return world.host.call(blow, runtime, list(lives), world.environment)

    arrived = do(life(number, dice) for number in range(WIDTH))
    expect_one_holder_of_each(arrived)
    held = winners(arrived)
    assert WIDTH // 4 < len(held) < WIDTH, "too few won, or nobody had to lose"
    expect_only(world, held)

    stay, go = held[: WIDTH // 4], held[WIDTH // 4 :]
    free = sorted(set(range(WIDTH)) - {int(log.life.netns.removeprefix("/run/netns/box")) for log in stay})
    assert {log.code for log in do(leaving(go))} == {0}
    passed = do(life(number, dice, wave=1, goes=True) for number in free[:passing])
    expect_one_holder_of_each([*stay, *passed])
    assert winners(passed)
    expect_only(world, stay)

    assert {log.code for log in do(leaving(stay))} == {0}
    assert residue(world.host, world.environment) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("way", "passing"), [("alone", 16), ("agent", 48)])
def test_a_storm_of_single_entries(world: World, way: str, passing: int) -> None:
    """64 at a time: no address and no port is held twice, losers leave nothing, not even for a DEL to remove."""
    if way == "agent":
        world.start_agent()
    storm(world, bare(world), passing=passing)


@pytest.mark.slow
def test_a_storm_of_chains(world: World) -> None:
    """The same through the stock chain on drop-ins, where a loser is removed by the runtime's DEL."""
    world.start_agent()
    storm(world, chain(world), passing=16)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["alone", "agent", "agent dies"])
def test_a_storm_in_which_plugins_are_killed(world: World, way: str) -> None:
    """SIGKILL for some, at random moments: whoever was answered holds alone what they were told; DEL removes all."""
    if way != "alone":
        world.start_agent()
    if way == "agent dies":
        pid = json.loads(world.dpctl("status", "--json"))["agent"]["pid"]
        world.host.spawn("sh", "-c", f"sleep 0.6; kill -9 {pid}")
    dice, runtime = random.Random(SEED), bare(world)  # noqa: S311 - as above
    lives = [life(number, dice) for number in range(WIDTH if way == "agent" else WIDTH // 2)]
    logs = world.host.call(blow, runtime, lives, world.environment, dice)
    assert {0, KILLED} <= {log.code for log in logs}
    expected = {0, KILLED, Code.PORT_CONFLICT, Code.NO_ADDRESS}
    assert [(log.code, log.text) for log in logs if log.code not in expected] == []
    assert clashes(logs) == []
    assert {log.code for log in world.host.call(blow, runtime, leaving(logs), world.environment)} == {0}
    assert residue(world.host, world.environment) == {}
