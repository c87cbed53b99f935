"""What others break while an agent runs is right again before anybody asks, and isolation is never open in between."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from dataplane.abi import U32
from dataplane.programs.attach import Hooks
from dataplane.programs.door import KernelPrograms
from dataplane.types import NETWORK_PROGRAMS, AttachMode, IfIndex
from support import needs, plan
from support.netns import Sandbox, wait_until
from support.prober import Prober
from support.traffic import ask, serve
from support.world import DPCTL, Attached, World, publish

SOON = 20.0  # seconds; on a quiet machine it takes milliseconds
CALL = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])) as far:
    far.sendall(b"hello")
    print(far.recv(2048).decode())
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two networks that are kept apart, a published port on the first, and an agent: one for all tests, for each leaves
    it as it was."""
    needs.root()
    with Sandbox() as host:
        made = World(host, tmp_path_factory.mktemp("world"), "collect_after = 1")
        made.start_agent()
        made.network(plan.FRONT, ingressPolicy="isolated")
        made.network(plan.BACK)
        made.serve(made.attach("web", plan.FRONT, publish("8080:80")))
        made.attach("admin", plan.BACK)
        made.attach("shop", plan.FRONT)
        yield made


def records(world: World, *kinds: str) -> list[dict[str, object]]:
    """What the agent tells, of these kinds."""
    lines = world.dpctl("events", "--json", "-n", "1000", *(word for kind in kinds for word in ("--kind", kind)))
    return [json.loads(line) for line in lines.splitlines()]


def healthy(world: World) -> bool:
    """Whether ``dpctl status`` has nothing to complain of."""
    return not json.loads(world.dpctl("status", "--json", check=False))["problems"]


class Repairs:
    """The repairs that are told from now on."""

    def __init__(self, world: World, before: int | None = None) -> None:
        self._world = world
        self._before = len(records(world, "repaired")) if before is None else before

    def settle(self, text: str) -> dict[str, object]:
        """Wait until the repair of this is told, and nothing is wrong any more; the record."""

        def told() -> dict[str, object] | None:
            found = records(self._world, "repaired")[self._before :]
            return next((one for one in found if text in str(one["text"])), None)

        record = wait_until(told, SOON, f"the repair of: {text}")
        wait_until(lambda: healthy(self._world), SOON, "a healthy host")
        assert record is not None
        return record


@pytest.fixture
def repairs(world: World) -> Repairs:
    """What is repaired in this test."""
    return Repairs(world)


def host_veth(one: Attached) -> str:
    """The name of a container's port."""
    interfaces = one.result["interfaces"]
    assert isinstance(interfaces, list)
    return str(interfaces[1]["name"])


@pytest.fixture
def leaks(world: World) -> Iterator[None]:
    """Asks for the whole of a test what isolation forbids: nothing may ever answer."""
    web = world.attached("web").address(4)
    probers = [Prober(world.attached(name).netns, web, 80) for name in ("admin", "shop")]
    yield
    probed = [prober.stop() for prober in probers]
    assert [one.answers for one in probed] == [0, 0], "isolation was open"
    assert all(one.tries > 10 for one in probed)


def test_the_prober_sees_what_is_open(world: World) -> None:
    """A prober that is answered counts it: that it counts nothing elsewhere means something."""
    prober = Prober(world.client, plan.HOST4, 8080)
    time.sleep(0.5)
    probed = prober.stop()
    assert probed.answers > 10


RULESET = [
    (("nft", "flush", "ruleset"), "table inet dataplane was wiped"),
    (("nft", "delete", "table", "inet", "dataplane"), "table inet dataplane was wiped"),
    (("nft", "flush", "table", "inet", "dataplane"), "chains or rules of table inet dataplane were altered"),
    (("nft", "flush", "chain", "inet", "dataplane", "forward"), "chains or rules of table inet dataplane were altered"),
    (("nft", "insert", "rule", "inet", "dataplane", "forward", "drop"), "were altered"),
    (("nft", "delete", "chain", "inet", "dataplane", "source"), "were altered"),
    (("nft", "delete", "element", "inet", "dataplane", "publish4", "{ tcp . 8080 }"), "publish4 { tcp . 8080"),
    (("nft", "flush", "map", "inet", "dataplane", "publish4"), "publish4 { tcp . 8080"),
    (("nft", "flush", "set", "inet", "dataplane", "members4"), "members4"),
]


@pytest.mark.parametrize(("command", "told"), RULESET, ids=[" ".join(command[1:4]) for command, _ in RULESET])
def test_the_ruleset_comes_back(
    world: World, repairs: Repairs, leaks: None, command: tuple[str, ...], told: str
) -> None:
    """Whatever nft takes away or alters is there again, its doer is named, and nothing was open meanwhile."""
    world.host.run(*command)
    record = repairs.settle(told)
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert str(record["by"]).startswith("['nft (")
    assert isinstance(record["milliseconds"], float)


def test_a_bent_element_leads_home_again(world: World, repairs: Repairs, leaks: None) -> None:
    """A published port that somebody bends to another container is its holder's again, and one by hand is no port."""
    shop = world.attached("shop").address(4)
    element = f"{{ tcp . 8080 : {shop} . 80 }}"
    world.host.run("nft", "delete element inet dataplane publish4 { tcp . 8080 }; "
                   f"add element inet dataplane publish4 {element}; "
                   f"add element inet dataplane publish4 {{ tcp . 9090 : {shop} . 80 }}")  # fmt: skip
    repairs.settle("no attachment asks for element publish4 { tcp . 9090")
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert "9090" not in world.ruleset()


def test_tables_of_others_are_not_touched(world: World, repairs: Repairs) -> None:
    """A table that somebody else made is byte for byte the same after every repair."""
    world.host.run("nft", "add table inet other; add chain inet other c { type filter hook forward priority 5; }; "
                   "add rule inet other c ip saddr 203.0.113.9 counter drop")  # fmt: skip
    before = world.host.run("nft", "-a", "list", "table", "inet", "other").stdout
    world.host.run("nft", "delete", "table", "inet", "dataplane")
    repairs.settle("table inet dataplane was wiped")
    assert world.host.run("nft", "-a", "list", "table", "inet", "other").stdout == before


def test_a_firewall_that_takes_over_with_one_file(world: World, repairs: Repairs, leaks: None, tmp_path: Path) -> None:
    """``systemctl restart nftables`` is a flush and a file in one transaction: its rules stay, ours come back."""
    ruleset = tmp_path / "nftables.conf"
    ruleset.write_text("flush ruleset\ntable inet filter {\nchain input {\ntype filter hook input priority 0;\n}\n}\n")
    world.host.run("nft", "-f", ruleset)
    repairs.settle("table inet dataplane was wiped")
    assert "chain input" in world.host.run("nft", "list", "table", "inet", "filter").stdout
    assert ask(world.client, plan.HOST4, 8080) is not None


def test_pins_that_are_removed(world: World, repairs: Repairs, leaks: None) -> None:
    """``rm -r`` of our pins detaches nothing, because the agent holds what is hooked; they are pinned anew."""
    # The agent may pin again while it runs: then the directory is not empty.
    world.host.run("sh", "-c", "rm -r /sys/fs/bpf/dataplane* || true")
    repairs.settle("the BPF programs are not loaded")
    assert programs_of_networks(world) == ["isolation", "checksum"] * 2
    assert sorted(guarded(world)) == sorted(host_veth(world.attached(name)) for name in ("web", "admin", "shop"))


def test_a_fresh_bpffs_over_ours(world: World, repairs: Repairs, leaks: None) -> None:
    """A file system mounted over our pins hides them: the programs are loaded anew and hooked once, not twice."""
    world.host.run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
    repairs.settle("the BPF programs are not loaded")
    assert programs_of_networks(world) == ["isolation", "checksum"] * 2
    assert sorted(guarded(world)) == sorted(host_veth(world.attached(name)) for name in ("web", "admin", "shop"))


def hooked(world: World) -> list[dict[str, object]]:
    """Our programs on all devices."""
    found = json.loads(world.dpctl("bpf", "ls", "--json"))["attached"]
    assert isinstance(found, list)
    return found


def programs_of_networks(world: World) -> list[str]:
    """Those on the networks' bridges."""
    return [str(one["program"]) for one in hooked(world) if str(one["device"]).startswith("br-")]


def guarded(world: World) -> list[str]:
    """The host veths that are guarded, once for each copy of the guard."""
    return [str(one["device"]) for one in hooked(world) if one["program"] == "guard"]


def detach_all(device: str) -> None:
    """Detach every program of ours from a device behind the agent's back, whichever way it is hooked."""
    hooks = Hooks(AttachMode.AUTO, Path("/nowhere"))
    for program in NETWORK_PROGRAMS:
        hooks.detach(program, IfIndex(socket.if_nametoindex(device)))


def test_programs_that_are_detached(world: World, repairs: Repairs) -> None:
    """The kernel tells nobody that a tcx link was detached: it is noticed within seconds, and hooked again."""
    world.host.call(detach_all, plan.FRONT.device)
    repairs.settle("program isolation is not attached")
    assert len(programs_of_networks(world)) == 4


def wipe(veth: IfIndex) -> None:
    """Take out what the programs know of one host veth."""
    KernelPrograms().drop("ports", U32.pack(veth))


GUARDS = [
    ("tc", "filter", "del", "dev", "{veth}", "ingress"),
    ("tc", "qdisc", "del", "dev", "{veth}", "clsact"),
]


@pytest.mark.parametrize("command", GUARDS, ids=[" ".join(command[1:3]) for command in GUARDS])
def test_a_guard_that_is_taken_away(world: World, repairs: Repairs, command: tuple[str, ...]) -> None:
    """Whatever ``tc`` does to a container's host veth, its guard is there again, and once."""
    veth = host_veth(world.attached("shop"))
    world.host.run(*(word.format(veth=veth) for word in command))
    repairs.settle("program guard is not attached")
    assert guarded(world).count(veth) == 1


def test_entries_of_a_guard_that_are_wiped(world: World, repairs: Repairs) -> None:
    """No event tells of it: what the guard knows of a container is there again when its turn comes."""
    (link,) = json.loads(world.host.ip("-json", "link", "show", "dev", host_veth(world.attached("shop"))))
    world.host.call(wipe, IfIndex(link["ifindex"]))
    repairs.settle("BPF map ports: entry")


def test_a_qdisc_that_is_removed(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where programs are filters of tc, ``tc qdisc del`` takes them away, and they are there again."""
    world = World(sandbox, tmp_path, 'attach = "clsact"')
    world.start_agent()
    world.network(plan.FRONT)
    world.attach("web", plan.FRONT, publish("8080:80"))
    world.host.run("tc", "qdisc", "del", "dev", plan.FRONT.device, "clsact")
    Repairs(world, 0).settle("program isolation is not attached")
    assert {str(one["mode"]) for one in hooked(world) if one["device"]} == {"clsact"}


@pytest.mark.parametrize("version", [4, 6])
def test_connections_that_began_while_the_table_was_away(sandbox: Sandbox, tmp_path: Path, version: int) -> None:
    """A container called somebody who knows no way back to it: the repair has its call masqueraded, and answered."""
    world = World(sandbox, tmp_path)
    agent = world.start_agent()
    world.network(plan.FRONT, ipMasq=True)
    web = world.attach("web", plan.FRONT)
    client, host, subnet = {
        4: (plan.CLIENT4, plan.HOST4, plan.FRONT.subnet4),
        6: (plan.CLIENT6, plan.HOST6, plan.FRONT.subnet6),
    }[version]
    world.client.ip(f"-{version}", "route", "add", "blackhole", subnet)
    serve(world.client, "far", "tcp", 9000, "::")
    world.host.signal(agent, signal.SIGSTOP)
    world.host.run("nft", "delete", "table", "inet", "dataplane")
    call = web.netns.spawn(sys.executable, "-I", "-S", "-c", CALL, client, 9000, SOON)
    listing = ("conntrack", "-L", "-f", f"ipv{version}", "-p", "tcp", "--dport", 9000)
    wait_until(lambda: world.host.run(*listing).stdout, SOON, "an entry of the call")
    world.host.signal(agent, signal.SIGCONT)
    said, _ = call.communicate(timeout=2 * SOON)
    assert said, "the call was never masqueraded"
    assert ip_address(json.loads(said)["peer"][0].removeprefix("::ffff:")) == host


def test_a_sysctl_that_is_turned_back(world: World, repairs: Repairs) -> None:
    """What published ports need of the host is set again at once."""
    world.host.sysctl("net/ipv4/ip_forward", 0)
    repairs.settle("sysctl net/ipv4/ip_forward is 0")
    assert ask(world.client, plan.HOST4, 8080) is not None


def test_port_flags_that_are_switched_off(world: World, repairs: Repairs) -> None:
    """A container of an isolated network that somebody opened is closed again."""
    veth = host_veth(world.attached("web"))
    world.host.run("bridge", "link", "set", "dev", veth, "isolated", "off")
    repairs.settle("is not isolated")
    assert ask(world.attached("shop").netns, world.attached("web").address(4), 80, timeout=0.4) is None


def test_a_bridge_that_was_deleted_and_made_anew(world: World, repairs: Repairs, leaks: None) -> None:
    """The bridge comes back under its name: its containers are on it again, published, and as isolated as before."""
    device = plan.FRONT.device
    world.host.ip("link", "del", device)
    world.host.ip("link", "add", device, "type", "bridge")
    repairs.settle(f"device {device} was deleted and made anew")
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert ask(world.host, "127.0.0.1", 8080) is not None


def test_a_container_that_vanished_without_del(world: World, repairs: Repairs) -> None:
    """Its runtime died with it: after ``collect_after`` its port is free."""
    world.attach("gone", plan.FRONT, publish("8082:80"))
    assert "8082" in world.ruleset()
    world.host.remove_namespace("gone")
    repairs.settle("its container is gone, and no DEL came")
    assert "8082" not in world.ruleset()


def test_a_fight_is_slowed_down_and_told(world: World) -> None:
    """Somebody deletes our table in a loop: isolation holds, the agent slows down and says so, and wins in the end."""
    loop = world.host.spawn("sh", "-c", "while :; do nft delete table inet dataplane 2>/dev/null; sleep 0.01; done")
    wait_until(lambda: bool(records(world, "fight")), SOON, "the fight to be told")
    world.host.signal(loop, signal.SIGTERM)
    wait_until(lambda: healthy(world), SOON, "a healthy host")
    assert str(records(world, "fight")[0]["by"]).startswith("['nft (")
    assert ask(world.client, plan.HOST4, 8080) is not None


def test_events_can_be_followed(world: World) -> None:
    """``dpctl events -f`` shows a repair as it happens: by whom, what, and in how many milliseconds."""
    following = world.host.spawn(DPCTL, "events", "-f", "-n", "0", "--kind", "repaired")
    time.sleep(0.5)
    world.host.run("nft", "delete", "table", "inet", "dataplane")
    assert following.stdout is not None
    line = following.stdout.readline()
    assert "table inet dataplane was wiped" in line
    assert "by nft (" in line
    assert line.rstrip().endswith(" ms")
