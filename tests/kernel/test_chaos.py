"""What happens to the agent, its state and its kernel happens under traffic: who is connected notices nothing.

The traffic, and what must hold afterwards each time, is in ``support.scene``; longer and harder in test_chaos_long.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin.errors import CniError
from support import needs, plan
from support.firewallhost import FirewallHost
from support.netns import NO_DROP_INS, Sandbox, wait_until
from support.resident import GENEROUS, INSTALLED, Resident, upgraded
from support.scene import RATE, Scene
from support.traffic import ask
from support.world import World, publish

BLOCKED = 100_000
"""Elements in one transaction whose notifications are more than the agent's buffer."""
ANCHOR = "inet dataplane_anchor"
STATE = "/run/dataplane"
ROOM = 12
"""Pages; an ADD takes fewer."""
REFUSED = "could not (open|use|change) the state.* full|Read-only file system"
PINS = "/sys/fs/bpf/dataplane"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all tests: each leaves it as it was."""
    needs.root()
    with Sandbox() as host:
        yield Scene(host, tmp_path_factory.mktemp("chaos"))


LOSSY = """
table inet lossy {
    chain c { type filter hook forward priority -5; numgen random mod 50 == 0 drop; }
}
"""


def test_the_clients_see_what_is_lost(scene: Scene) -> None:
    """Of packets that a rule drops they tell: that they tell of nothing elsewhere means something."""
    with scene.traffic() as seen:
        scene.host.run("nft", "-f", "-", input=LOSSY)
        time.sleep(1.0)
        scene.host.run("nft", "delete", "table", "inet", "lossy")
        time.sleep(0.5)
    assert 0 < seen.packets.lost < seen.packets.sent / 5
    assert seen.talk.longest > 0.1
    with scene.traffic() as seen:
        scene.resident.signal(signal.SIGSTOP)  # or it is back before anybody knocks
        scene.host.run("nft", "delete", "element", "inet", "dataplane", "publish4", "{ tcp . 8080 }")
        time.sleep(0.3)
        scene.resident.signal(signal.SIGCONT)
        scene.resident.settle()
    assert seen.knocks.refused > 0


# -- the agent comes and goes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_nobody_notices_a_restart(scene: Scene, number: signal.Signals) -> None:
    """Stopped or killed, and started: no packet is lost and no connection refused, and the programs are the same."""
    before = scene.resident.hooked()
    with scene.traffic() as seen:
        scene.resident.again(number)
    seen.expect_nothing_lost()
    assert scene.resident.hooked() == before


def test_nobody_notices_an_upgrade(scene: Scene) -> None:
    """An agent with another BPF source replaces the programs, each at once and once, and unpins the former ones; and
    so does the former agent when it comes back."""
    for command in (upgraded(scene.directory, 1), INSTALLED):
        before = {number for _, _, number in scene.resident.hooked()}
        pinned = _digests(scene)
        with scene.traffic() as seen:
            scene.resident.again(signal.SIGTERM, command)
        seen.expect_nothing_lost()
        assert not before & {number for _, _, number in scene.resident.hooked()}
        assert len(_digests(scene)) == 1
        assert not pinned & _digests(scene)


def test_nobody_notices_a_fresh_bpffs_and_a_kill(scene: Scene) -> None:
    """Killed, its pins hidden below another file system, and started: what is hooked is found there, not doubled."""
    with scene.traffic() as seen:
        scene.resident.end(signal.SIGKILL)
        scene.host.run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
        scene.resident.start()
    seen.expect_nothing_lost()


def _digests(scene: Scene) -> set[str]:
    """The directories of pinned programs."""
    return set(scene.host.run("ls", PINS).stdout.split()) - {"links"}


# -- others take things away ------------------------------------------------------------------------------------------

RELOAD = """
flush ruleset
table inet filter {
    chain input { type filter hook input priority 0; ct state established accept; }
    chain forward { type filter hook forward priority 0; ct state established,related accept; }
}
"""
"""As ``systemctl restart nftables`` does it."""
COMMANDS = {
    "flush ruleset": ("nft", "flush", "ruleset"),
    "delete table": ("nft", "delete", "table", "inet", "dataplane"),
    "flush table": ("nft", "flush", "table", "inet", "dataplane"),
    "reload": ("nft", "-f", "-"),
    # The agent may pin again while it runs: then the directory is not empty.
    "rm pins": ("sh", "-c", "rm -r /sys/fs/bpf/dataplane* || true"),
    "fresh bpffs": ("mount", "-t", "bpf", "bpf", "/sys/fs/bpf"),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_running_flows_live_on(scene: Scene, what: str) -> None:
    """Whoever was connected stays so while the table or the pins are gone, because the agent keeps NAT and programs
    going; only who connects in those milliseconds is refused."""
    with scene.traffic() as seen:
        time.sleep(0.5)
        scene.host.run(*COMMANDS[what], input=RELOAD if what == "reload" else None)
        scene.resident.settle()
        time.sleep(0.5)
    seen.expect_running_flows()
    assert seen.knocks.answered > seen.knocks.tries / 2


def test_flows_that_begin_while_the_table_is_away(scene: Scene) -> None:
    """A UDP flow that began in the gap, and that conntrack would remember as one to the host itself, reaches its
    container once the table is back."""
    scene.resident.signal(signal.SIGSTOP)
    scene.host.run("nft", "flush", "ruleset")
    packets = scene.packets(RATE // 10)
    time.sleep(0.5)
    scene.resident.signal(signal.SIGCONT)
    scene.resident.settle()
    time.sleep(0.5)
    assert packets.stop().received > RATE // 100


def test_firewalld_takes_over(scene: Scene) -> None:
    """firewalld starts, reloads and stops: its rules come and go, and running flows live on."""
    firewall = FirewallHost(scene.host)
    with scene.traffic() as seen:
        firewall.start()
        scene.resident.settle()
        assert firewall.client("--reload").returncode == 0
        scene.resident.settle()
        firewall.stop()
    seen.expect_running_flows()


def test_nothing_is_held_once_the_agent_is_gone(scene: Scene) -> None:
    """What keeps NAT going over a flush is the agent's alone: it goes with it, however it ends, and comes back."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        assert ANCHOR in scene.host.run("nft", "list", "tables").stdout
        assert scene.host.run("nft", "delete", "table", *ANCHOR.split(), check=False).returncode != 0
        scene.resident.end(number)
        wait_until(lambda: ANCHOR not in scene.host.run("nft", "list", "tables").stdout, GENEROUS, "its end")
        scene.resident.start()


# -- the agent cannot keep up -----------------------------------------------------------------------------------------


def test_an_agent_that_stood_still(scene: Scene) -> None:
    """Stopped (SIGSTOP) while everything is broken: isolation holds, and what it finds when it goes on is repaired."""
    with scene.traffic() as seen:
        scene.resident.signal(signal.SIGSTOP)
        scene.host.run("nft", "flush", "ruleset")
        scene.host.run("sh", "-c", "rm -r /sys/fs/bpf/dataplane* || true")
        scene.host.sysctl(f"net/ipv4/conf/{plan.FRONT.device}/route_localnet", 0)
        time.sleep(1.0)
        scene.resident.signal(signal.SIGCONT)
    assert seen.knocks.unanswered + seen.knocks.refused > 0, "the table was not away at all"
    seen.expect_running_flows()


def test_notifications_that_were_lost(scene: Scene) -> None:
    """More than the kernel keeps for a reader who is slow (ENOBUFS): it is told and counted, and what was broken
    unseen is found."""
    before = scene.overruns()
    addresses = ", ".join(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(BLOCKED))
    blocklist = f"table inet blocklist {{ set s {{ type ipv4_addr; elements = {{ {addresses} }}; }}; }}"
    with scene.traffic(rate=RATE // 5) as seen:
        scene.resident.signal(signal.SIGSTOP)
        for _ in range(2):
            scene.host.run("nft", "-f", "-", input=blocklist)
            scene.host.run("nft", "delete", "table", "inet", "blocklist")
        scene.host.run("nft", "delete", "table", "inet", "dataplane")
        scene.resident.signal(signal.SIGCONT)
        wait_until(lambda: scene.overruns() > before, GENEROUS, "the overrun to be counted")
    seen.expect_running_flows()
    told = [str(one["text"]) for one in scene.resident.records("lost")]
    assert told[-1] == "notifications of the kernel were lost (ruleset)"


# -- the state's disk -------------------------------------------------------------------------------------------------


@pytest.fixture
def small(sandbox: Sandbox, tmp_path: Path) -> Scene:
    """A scene of its own whose state is on a disk of its own, and a small one."""
    sandbox.run("mkdir", "-p", STATE)
    sandbox.run("mount", "-t", "tmpfs", "-o", "size=16m,mode=750", "tmpfs", STATE)
    return Scene(sandbox, tmp_path)


def _fill(host: Sandbox) -> None:
    host.run("sh", "-c", f"dd if=/dev/zero of={STATE}/ballast bs=4096 2>/dev/null; true")


def _free(host: Sandbox) -> None:
    host.run("rm", f"{STATE}/ballast")


def _read_only(host: Sandbox) -> None:
    host.run("mount", "-o", "remount,ro", STATE)


def _writable(host: Sandbox) -> None:
    host.run("mount", "-o", "remount,rw", STATE)


SPOILT = [
    pytest.param("agent", _fill, _free, id="full, with the agent"),
    pytest.param("alone", _fill, _free, id="full, without"),
    # A file system cannot be made read-only while an agent has files open on it.
    pytest.param("alone", _read_only, _writable, id="read-only"),
]


def test_a_disk_that_fills_up_in_the_middle(small: Scene) -> None:
    """With room for the note of a change and none for its end, what was done is undone: an ADD that failed has no
    port in the kernel, and one that did not has its own."""
    world, refused = small.world, 0
    for room in range(ROOM):
        _fill(small.host)
        small.host.run("truncate", "-s", f"-{room * 4096}", f"{STATE}/ballast")
        before, name = world.published(), f"late{room}"
        try:
            world.attach(name, plan.FRONT, publish(f"{8100 + room}:80"))
        except CniError:
            refused += 1
            assert world.published() == before
        else:
            assert {port for _, _, port, _, _ in world.published() - before} == {8100 + room}
        _free(small.host)
    assert refused > 1, "there was always room"
    world.attach("last", plan.FRONT, publish("8090:80"))
    small.resident.settle()


@pytest.mark.parametrize(("way", "spoil", "mend"), SPOILT)
def test_a_state_that_cannot_be_written(
    small: Scene, way: str, spoil: Callable[[Sandbox], None], mend: Callable[[Sandbox], None]
) -> None:
    """ADD fails, says why and changes nothing; running ports live on; DEL succeeds, now or later; and once there is
    room again all is as it should be."""
    world, host = small.world, small.host
    world.attach("doomed", plan.FRONT, publish("8082:82"))
    with small.traffic(rate=RATE // 5) as seen:
        if way == "alone":
            small.resident.end(signal.SIGTERM)
        spoil(host)
        before = world.published()
        with pytest.raises(CniError, match=REFUSED):
            world.attach("late", plan.FRONT, publish("8083:80"))
        assert world.published() == before
        world.detach("doomed")
        mend(host)
        if way == "alone":
            small.resident.start()
        world.attach("last", plan.FRONT, publish("8083:80"))
        assert {port for _, _, port, _, _ in world.published()} == {8080, 8053, 8083}
        # A state that could not be opened is no state that cannot be read.
        assert "unreadable" not in host.run("ls", STATE).stdout
    seen.expect_running_flows()


# -- ownership --------------------------------------------------------------------------------------------------------


@pytest.fixture
def owning(sandbox: Sandbox, tmp_path: Path) -> Resident:
    """A host with a published port whose agent was asked to own the table."""
    world = World(sandbox, tmp_path, 'ownership = "on"\n')
    resident = Resident(world)
    world.network(plan.FRONT)
    world.serve(world.attach("web", plan.FRONT, publish("8080:80")))
    return resident


def test_ownership_that_cannot_be_had_is_told(owning: Resident) -> None:
    """Where libnftables or the kernel know no owned tables that outlive their owner, the agent says so, and works."""
    if _owns(owning):
        pytest.skip("this kernel and libnftables can: the next test is about them")
    (told,) = owning.records("problem")
    assert "the table has no owner" in str(told["text"])
    world = owning.world
    assert ask(world.client, plan.HOST4, 8080) is not None
    world.host.run("nft", "flush", "ruleset")
    wait_until(lambda: ask(world.client, plan.HOST4, 8080) is not None, GENEROUS, "the port to be back")


def test_an_owned_table(owning: Resident) -> None:
    """Others cannot flush, delete or alter it; it stays when the agent ends, and then anybody may serve; the next agent
    owns it again."""
    if not _owns(owning):
        pytest.skip("missing: owned tables that outlive their owner (Linux 6.9, libnftables 1.1.0)")
    world = owning.world
    for round_ in range(2):
        before = world.ruleset()
        assert "flags owner,persist" in before.replace(", ", ",")
        world.host.run("nft", "flush", "ruleset")
        for words in (("delete", "table"), ("flush", "table")):
            refused = world.host.run("nft", *words, "inet", "dataplane", check=False)
            assert "Operation not permitted" in refused.stderr
        assert world.ruleset() == before
        assert not owning.records("repaired")
        world.attach(f"served{round_}", plan.FRONT, publish(f"{8081 + round_}:80"))
        owning.end((signal.SIGTERM, signal.SIGKILL)[round_])
        assert ask(world.client, plan.HOST4, 8080) is not None
        world.attach(f"alone{round_}", plan.FRONT, publish(f"{8091 + round_}:80"))
        world.detach(f"alone{round_}")
        owning.start()
        assert ask(world.client, plan.HOST4, 8080) is not None
        assert not owning.problems()
    owning.end(signal.SIGTERM)
    world.dpctl("uninstall", "--cni-bin", world.plugins, "--conf", world.plugins.with_name("net.d"), *NO_DROP_INS)
    assert world.ruleset() == ""


def _owns(resident: Resident) -> bool:
    return "owner" in resident.world.ruleset().partition("chain")[0]
