"""SIGKILL at every crash point, in the plugin's own process and in the agent: what is left, one more DEL removes.

A scenario is a call that passes some of the points. Each is killed at each of its points; then the runtime's DEL comes,
or the call once more and then the DEL. Compared is the whole host, and a container that was there before answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from dataplane.crashpoints import Point
from dataplane.programs.cgroups import CgroupHooks, root_if_any
from dataplane.programs.loading import LINKS
from dataplane.types import LOCALHOST_PROGRAMS
from support import needs, plan
from support.crashing import Command, PluginCall, crashed, crashed_agent, ran, served, served_by_agent
from support.loopback import hide_cgroups, with_cgroups
from support.netns import Sandbox, outer_state, wait_until
from support.snapshot import Snapshot, difference, snapshot
from support.traffic import ask, serve
from support.world import World, publish

CHAINED4, CHAINED_BRIDGE = IPv4Address("10.13.0.2"), "br-chained"
FOREIGN = "inet foreign forward"


def chained(verb: str, **changed: object) -> PluginCall:
    """A call of the chained plugin, with all that makes steps."""
    conf = {
        "cniVersion": "1.0.0",
        "name": "chained",
        "type": "dataplane",
        "ipMasq": True,
        "ingressPolicy": "isolated",
        "forwardChains": [FOREIGN],
        "firewalldZone": "trusted",
        "capabilities": {"portMappings": True},
        "runtimeConfig": {"portMappings": [mapping(9000, 80, "tcp"), mapping(9001, 53, "udp")]},
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": CHAINED_BRIDGE},
                {"name": "vethchained"},
                {"name": "eth0", "sandbox": "/run/netns/chained"},
            ],
            "ips": [{"address": f"{CHAINED4}/24", "interface": 2}],
        },
        **changed,
    }
    return PluginCall("dataplane", verb, "chained", json.dumps(conf))


def single(where: plan.Network) -> dict[str, object]:
    """A single entry."""
    return {
        "type": "dataplane-bridge",
        "bridge": where.device,
        "isGateway": True,
        "ipMasq": True,
        "macspoofchk": True,
        "adminChain": "admins",
        "capabilities": {"portMappings": True},
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(where.subnet4)}], [{"subnet": str(where.subnet6)}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }


def wired(verb: str) -> PluginCall:
    """A call of the main plugin, which makes bridge and interface."""
    conf = {
        "cniVersion": "1.0.0",
        "name": plan.BACK.name,
        "runtimeConfig": {"portMappings": [mapping(9000, 80, "tcp"), mapping(9001, 53, "udp")]},
        **single(plan.BACK),
    }
    return PluginCall("dataplane-bridge", verb, "wired", json.dumps(conf))


def mapping(host: int, container: int, protocol: str) -> dict[str, object]:
    return {"hostPort": host, "containerPort": container, "protocol": protocol}


@dataclass(frozen=True, slots=True)
class Scenario:
    """A call that is killed, and the points that it passes; ``NAME:N`` is where it passes NAME for the Nth time."""

    dying: PluginCall
    after: PluginCall
    """What comes then: the DEL that a runtime sends."""
    points: tuple[str, ...]
    before: PluginCall | None = None
    """What was done before, whole."""
    damage: tuple[str, ...] = ()
    """What nft was told to do meanwhile, by somebody else."""
    refused: bool = False
    """Whether the call fails where nobody kills it."""


_DEL, _WIRED_DEL = chained("DEL"), wired("DEL")
_OTHERWISE = chained(
    "ADD",
    ingressPolicy="open",
    checksum="off",
    forwardChains=[],
    firewalldZone="",
    runtimeConfig={"portMappings": [mapping(9001, 53, "udp"), mapping(9002, 80, "tcp")]},
)
RECONCILE = ("reconcile",)
_NOWHERE = [FOREIGN, "inet foreign nowhere"]

_COMMITTED = (Point.FLUSH_FLOWS, Point.CHANGE_COMMITTED)
_HOOKED = (
    *(Point.LOAD_PROGRAMS, Point.PUT_ENTRY, f"{Point.PUT_ENTRY}:4", Point.TCX_LINKED, Point.TCX_PINNED),
    *(Point.ATTACH_PROGRAM, f"{Point.TCX_LINKED}:2", f"{Point.ATTACH_PROGRAM}:2"),
)
_UNHOOKED = (
    *(Point.TCX_DETACHED, Point.DETACH_PROGRAM, f"{Point.DETACH_PROGRAM}:2"),
    *(Point.DROP_ENTRY, f"{Point.DROP_ENTRY}:3", Point.FORGET_COUNTS),
)

SCENARIOS = {
    "add": Scenario(
        chained("ADD"),
        _DEL,
        (
            *(
                Point.NETWORK_NUMBERED,
                Point.CHANGE_NOTED,
                Point.SYSCTL_REMEMBERED,
                *_HOOKED,
                Point.SET_SYSCTL,
                f"{Point.SET_SYSCTL}:2",
            ),
            *(Point.SET_PORT_FLAGS, Point.RUN_NFT, Point.INSERT_RULES, Point.TRUST_SOURCE, *_COMMITTED),
        ),
    ),
    "change": Scenario(
        _OTHERWISE,
        _DEL,
        (
            *(Point.CHANGE_NOTED, Point.SET_PORT_FLAGS, Point.RUN_NFT, Point.DELETE_RULES, Point.DISTRUST_SOURCE),
            *(*_UNHOOKED, *_COMMITTED),
        ),
        before=chained("ADD"),
    ),
    "refused": Scenario(
        chained("ADD", forwardChains=_NOWHERE),
        _DEL,
        (
            *(f"{Point.STEP_UNDONE}:{number}" for number in (1, 3, 5, 7, 9, 11, 12)),
            Point.SYSCTLS_FORGOTTEN,
            Point.CHANGE_WITHDRAWN,
        ),
        refused=True,
    ),
    "refused change": Scenario(
        chained("ADD", checksum="off", forwardChains=_NOWHERE),
        _DEL,
        (Point.STEP_UNDONE, Point.SYSCTLS_FORGOTTEN, Point.CHANGE_WITHDRAWN),
        before=chained("ADD"),
        refused=True,
    ),
    "del": Scenario(
        _DEL,
        _DEL,
        (
            *(Point.CHANGE_NOTED, Point.SET_SYSCTL, Point.RUN_NFT, Point.DELETE_RULES, Point.DISTRUST_SOURCE),
            *(Point.SET_PORT_FLAGS, *_UNHOOKED, *_COMMITTED),
        ),
        before=chained("ADD"),
    ),
    "main add": Scenario(
        wired("ADD"),
        _WIRED_DEL,
        (
            *(Point.BRIDGE_MADE, Point.BRIDGE_UP, Point.VETH_MADE, Point.VETH_NAMED, Point.PORT_SET),
            *(Point.LEASE_BEGUN, Point.LEASE_LINKED, Point.LEASE_WRITTEN, f"{Point.LEASE_WRITTEN}:2", Point.PORT_UP),
            *(Point.BRIDGE_ADDRESSED, Point.CONTAINER_ADDRESSED, Point.CONTAINER_UP, Point.CONTAINER_ROUTED),
            *(Point.PUT_ENTRY, Point.ATTACH_PROGRAM, Point.RUN_NFT, Point.CHANGE_COMMITTED),
        ),
    ),
    "main del": Scenario(
        _WIRED_DEL,
        _WIRED_DEL,
        (
            *(Point.RUN_NFT, Point.DETACH_PROGRAM, Point.DROP_ENTRY, Point.CHANGE_COMMITTED),
            *(Point.LINK_DELETED, Point.LEASE_RELEASED, f"{Point.LEASE_RELEASED}:2"),
        ),
        before=wired("ADD"),
    ),
    "resync": Scenario(
        chained("ADD"),
        _DEL,
        (
            *(Point.CHANGE_NOTED, Point.TABLE_REPLACED, Point.SKELETON_KEPT),
            *(Point.PUT_ENTRY, Point.ATTACH_PROGRAM, Point.INSERT_RULES, Point.SYSCTLS_FORGOTTEN, Point.NOTES_SETTLED),
        ),
        before=chained("ADD"),
        damage=("delete table inet dataplane",),
    ),
}
ALL = [(name, point) for name, scenario in SCENARIOS.items() for point in scenario.points]
FIRST = list({point.partition(":")[0]: (name, point) for name, point in reversed(ALL)}.values())
"""Each point once."""
STARTING = (Point.SOCKET_BOUND, Point.SOCKET_LISTENING, Point.AGENT_READY)
QUEUEING = (Point.CALL_WRITTEN, Point.CALL_QUEUED)
INSTALLING = (Point.INSTALL_BACKED_UP, Point.INSTALL_WRITTEN, Point.INSTALL_RENAMED, Point.INSTALL_LINKED)
LOADING = (Point.PROGRAMS_BEGUN, Point.PROGRAMS_COMPILED, Point.PROGRAMS_RENAMED)
LEADING: tuple[str, ...] = (
    Point.CGROUP_LINKED,
    Point.CGROUP_PINNED,
    f"{Point.CGROUP_PINNED}:5",
    Point.ATTACH_LOCALHOST,
)
UNLOADING = (Point.CGROUP_DETACHED, Point.DETACH_LOCALHOST, Point.PINS_REMOVED, Point.STATE_CLEARED)
REPAIRING = (Point.ELEMENTS_REPAIRED, Point.ADMIN_CHAINS_REPAIRED)
REBUILDING = (Point.STATE_SET_ASIDE, Point.STATE_REBUILT)


class Stage:
    """A host with one container that must never notice anything, and the places of two that come and go."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.host = sandbox
        hide_cgroups(sandbox)  # by nftables localhost takes more steps
        self._made: dict[str, set[str]] = {}
        self.world = World(sandbox, directory)
        self.world.define(plan.FRONT, [single(plan.FRONT)])
        self.world.serve(self.world.attach("steady", plan.FRONT, publish("8080:80")))
        sandbox.run("nft", "add", "table", "inet", "foreign")
        sandbox.run("nft", "add", "chain", *FOREIGN.split(), "{ type filter hook forward priority 10; }")
        place = sandbox.namespace("chained")
        sandbox.bridge(CHAINED_BRIDGE, "10.13.0.1/24")
        sandbox.plug(CHAINED_BRIDGE, "vethchained", place, address=f"{CHAINED4}/24")
        place.ip("route", "add", "default", "via", "10.13.0.1")
        sandbox.namespace("wired").sysctl("net/ipv6/conf/default/accept_dad", 0)
        sandbox.run("mkdir", "-p", "/var/lib/dataplane/queue")
        for name in ("chained", "wired"):
            serve(sandbox.namespace(name), name, "udp", 53, "::")
        # Whatever stays by design is there from now on.
        for scenario in SCENARIOS.values():
            self.prepare(scenario)
            self.finish(scenario)
        served_by_agent(self.host, _DEL)
        self.clean = snapshot(self.host)
        self.sound = True

    def prepare(self, scenario: Scenario) -> None:
        """Do what comes before the call that is killed."""
        self.sound = False
        if scenario.before is not None:
            self.succeed(scenario.before)
            self.talk()
        for command in scenario.damage:
            self.host.run("nft", command)

    def finish(self, scenario: Scenario, *, by_agent: bool = False) -> None:
        """What a runtime and an administrator do in the end."""
        self.succeed(scenario.after, by_agent=by_agent)
        self.host.run("ip", "link", "delete", plan.BACK.device, check=False)

    def succeed(self, act: PluginCall | Command, *, by_agent: bool = False) -> None:
        """Have a call served, or run dpctl, which must not fail."""
        if isinstance(act, PluginCall):
            answer = (served_by_agent if by_agent else served)(self.host, act)
            assert answer.exit_code == 0, (act.verb, answer)
        else:
            assert ran(self.host, act) == 0, act

    def talk(self) -> bool:
        """Ask by the published UDP port, which leaves a flow; whether there was an answer."""
        return ask(self.world.client, plan.HOST4, 9001, "udp", source_port=5353, timeout=0.1) is not None

    def made(self, name: str) -> set[str]:
        """The kinds of which something is there after a scenario that nobody disturbs."""
        if name not in self._made:
            self.prepare(SCENARIOS[name])
            self.succeed(SCENARIOS[name].dying)
            self.talk()
            self._made[name] = set(self.left())
            self.finish(SCENARIOS[name])
        return self._made[name]

    def left(self) -> Snapshot:
        """What is there that was not, and what is not that was."""
        return difference(self.clean, snapshot(self.host))

    def assert_clean(self) -> None:
        """Nothing is left, and the steady container has noticed nothing."""
        left = self.left()
        if left:
            # A link's own address, route and sysctls go a moment after it.
            wait_until(lambda: not self.left(), 2.0, str(left))
        assert ask(self.world.client, plan.HOST4, 8080) is not None
        self.sound = True


class Stages:
    """One stage for all tests, because each leaves it as it was; a new one after a test that failed."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._sandbox: Sandbox | None = None
        self._stage: Stage | None = None

    def get(self) -> Stage:
        if self._stage is None or not self._stage.sound:
            self.close()
            self._sandbox = Sandbox()
            self._stage = Stage(self._sandbox, self._factory.mktemp("stage"))
        return self._stage

    def close(self) -> None:
        self._stage = None
        if self._sandbox is not None:
            self._sandbox.stop()


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    needs.root()
    needs.command("conntrack", package="conntrack")
    outside = outer_state()
    made = Stages(tmp_path_factory)
    try:
        yield made
    finally:
        made.close()
    assert outer_state() == outside, "the tests left something on the machine they run on"


@pytest.fixture
def stage(stages: Stages) -> Stage:
    """A host with one container that must never notice anything, and the places of two that come and go."""
    return stages.get()


@pytest.mark.parametrize(("name", "point", "again"), [(*one, number % 2 == 1) for number, one in enumerate(ALL)])
def test_what_a_killed_call_left_its_del_removes(stage: Stage, name: str, point: str, again: bool) -> None:
    """In process, at each point: after the DEL, or the same call once more and then the DEL, the host is as it was, and
    others' ports never noticed; the second call makes what one makes that nobody disturbs."""
    scenario = SCENARIOS[name]
    again = again and not scenario.refused
    made = stage.made(name) if again else set()
    stage.prepare(scenario)
    assert crashed(stage.host, scenario.dying, point), f"{name} does not pass {point}"
    if again:
        stage.succeed(scenario.dying)
    stage.talk()
    if again:
        assert set(stage.left()) == made
    stage.finish(scenario)
    stage.assert_clean()


@pytest.mark.parametrize(("name", "point"), FIRST)
def test_what_a_killed_agent_left_the_next_one_removes(stage: Stage, name: str, point: str) -> None:
    """In the agent, at each point: once the next agent has served the DEL the host is as it was."""
    scenario = SCENARIOS[name]
    stage.prepare(scenario)
    assert crashed_agent(stage.host, scenario.dying, point), f"{name} does not pass {point} in an agent"
    stage.talk()
    assert ask(stage.world.client, plan.HOST4, 8080) is not None or scenario.damage
    stage.finish(scenario, by_agent=True)
    stage.assert_clean()


@pytest.mark.parametrize("point", STARTING)
def test_an_agent_that_was_killed_at_its_start_can_be_started_again(stage: Stage, point: str) -> None:
    """Whatever it had made of its socket, the next agent listens and serves."""
    stage.sound = False
    assert crashed_agent(stage.host, None, point)
    stage.succeed(chained("ADD"), by_agent=True)
    assert stage.talk()
    stage.succeed(_DEL, by_agent=True)
    stage.assert_clean()


@pytest.mark.parametrize("point", REPAIRING)
def test_an_agent_that_was_killed_in_a_repair(stage: Stage, point: str) -> None:
    """What it had not yet put right, ``dpctl reconcile`` does."""
    stage.sound = False
    stage.host.run("nft", "flush map inet dataplane publish4; delete table inet dataplane_admin")
    assert crashed_agent(stage.host, None, point)
    stage.succeed(RECONCILE)
    stage.succeed(_DEL, by_agent=True)
    stage.assert_clean()


@pytest.mark.parametrize("point", QUEUEING)
def test_a_del_that_nobody_could_serve_is_kept_or_sent_again(stage: Stage, point: str) -> None:
    """Killed as it is put into the queue: the next agent carries it out, or the runtime sends it once more."""
    stage.prepare(Scenario(_DEL, _DEL, (), before=chained("ADD")))
    with unusable(stage.host):
        assert crashed(stage.host, _DEL, point)
    stage.succeed(_DEL if point is Point.CALL_WRITTEN else _WIRED_DEL, by_agent=True)
    stage.assert_clean()


def test_a_queue_that_was_being_emptied_is_emptied(stage: Stage) -> None:
    """Killed right after a DEL of the queue was dropped: its work was done before."""
    stage.prepare(Scenario(_DEL, _DEL, (), before=chained("ADD")))
    with unusable(stage.host):
        stage.succeed(_DEL)
    assert crashed(stage.host, _DEL, Point.CALL_REPLAYED)
    stage.assert_clean()


@contextmanager
def unusable(host: Sandbox) -> Iterator[None]:
    """The engine fails, whoever has it: its lock is no file."""
    lock = "/run/dataplane/lock"
    host.run("mv", lock, f"{lock}.away")
    host.run("mkdir", lock)
    try:
        yield
    finally:
        host.run("rmdir", lock)
        host.run("mv", f"{lock}.away", lock)


@pytest.mark.parametrize("point", [*INSTALLING, Point.INSTALL_REMOVED])
def test_an_installation_that_was_killed_is_repeated(sandbox: Sandbox, tmp_path: Path, point: str) -> None:
    """Every file is there whole or not at all, what was there is kept, and nothing half-made is left."""
    own, drop_ins, conf = tmp_path / "bin", tmp_path / "drop-ins", tmp_path / "net.d"
    places = ("--cni-bin", own, "--conf", conf, "--drop-in-bin", drop_ins, "--unit-dir", tmp_path / "units")
    theirs = conf / "10-dataplane.conflist"
    conf.mkdir()
    theirs.write_text("{}")
    install = tuple(map(str, ("install", *places, "--drop-in", "--force")))
    uninstall = tuple(map(str, ("uninstall", *places)))
    if point is Point.INSTALL_REMOVED:
        assert ran(sandbox, install) == 0
    assert crashed(sandbox, uninstall if point is Point.INSTALL_REMOVED else install, point)
    assert ran(sandbox, install) == 0
    assert list(tmp_path.rglob(".*")) == []
    assert "{}" in [path.read_text() for path in conf.glob("*.bak")]
    assert ran(sandbox, uninstall) == 0
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} <= {conf}
    assert not theirs.exists()


def test_programs_whose_load_or_removal_was_killed(sandbox: Sandbox, tmp_path: Path) -> None:
    """Killed at each point of the first load, the next ADD loads them whole; killed at each point of ``dpctl
    uninstall``, the next one leaves nothing in the kernel."""
    uninstall = (
        "uninstall",
        *(f"--{name}={tmp_path / name}" for name in ("cni-bin", "conf", "drop-in-bin", "unit-dir")),
    )
    place = sandbox.namespace("chained")
    sandbox.bridge(CHAINED_BRIDGE, "10.13.0.1/24")
    sandbox.plug(CHAINED_BRIDGE, "vethchained", place, address=f"{CHAINED4}/24")
    sandbox.sysctl("net/ipv4/ip_forward", 1)
    with_cgroups(sandbox)
    pristine = snapshot(sandbox)
    add = chained("ADD", forwardChains=[])
    for point in LOADING:
        assert crashed(sandbox, add, point), point
        assert served(sandbox, _DEL).exit_code == 0
    for leading in LEADING:
        assert ran(sandbox, uninstall) == 0
        assert crashed(sandbox, add, leading), leading
        assert served(sandbox, add).exit_code == 0
        assert sandbox.call(attached_localhost) == len(LOCALHOST_PROGRAMS)
        assert served(sandbox, _DEL).exit_code == 0
    for point in UNLOADING:
        assert served(sandbox, add).exit_code == 0
        assert crashed(sandbox, uninstall, point), point
        assert ran(sandbox, uninstall) == 0
        assert sandbox.call(attached_localhost) == 0
        left = difference(pristine, snapshot(sandbox))
        assert left.keys() <= {"files", "state"}, left
        assert not [row for row in left.get("state", ()) if "facts" not in row], left


def attached_localhost() -> int:
    """How many links to the root of the cgroups serve this network namespace."""
    hooks = CgroupHooks(LINKS)
    with root_if_any() as root:
        return sum(len(hooks.copies(program, root)) for program in LOCALHOST_PROGRAMS)


def test_a_state_whose_recovery_was_killed(sandbox: Sandbox, tmp_path: Path) -> None:
    """Killed as an unreadable state is set aside, and as it is read back: ports answer, and a DEL removes all of it."""
    stage = Stage(sandbox, tmp_path)
    for point in REBUILDING:
        stage.succeed(chained("ADD", forwardChains=[]))
        sandbox.run("cp", "/dev/null", "/run/dataplane/state.db-wal", check=False)
        sandbox.run("sh", "-c", "head -c 65536 /dev/urandom > /run/dataplane/state.db")
        assert crashed(sandbox, _DEL, point), point
        stage.succeed(_DEL)
        assert ask(stage.world.client, plan.HOST4, 8080) is not None
        left = stage.left()
        # The port's flags are what they were: what they had been before us, nobody knows any more.
        came = [one for kind in ("nft", "state", "programs") for one in left.get(kind, ()) if one.startswith("+")]
        assert not [one for one in came if "chained" in one or str(CHAINED4) in one]


def test_every_point_is_in_a_test() -> None:
    """A point that no test of this module kills at is missing from its lists."""
    others = (*STARTING, *QUEUEING, Point.CALL_REPLAYED, *INSTALLING, Point.INSTALL_REMOVED, *LOADING, *UNLOADING)
    killed_at = {str(point).partition(":")[0] for _, point in ALL} | {*others, *REBUILDING, *REPAIRING}
    killed_at |= {point.partition(":")[0] for point in LEADING}
    assert killed_at == set(Point)
