"""The programs on the root of the cgroups: whose they are, how they come back, what serves where there is no root."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from dataplane.programs import cgroups, syscall
from dataplane.programs.cgroups import CgroupHooks
from dataplane.programs.door import KernelPrograms
from dataplane.programs.loading import LINKS
from dataplane.types import LOCALHOST_PROGRAMS, Program
from support import needs, plan
from support.cgroups import Cgroup
from support.loopback import (
    MOUNTED,
    Talk,
    hide_cgroups,
    mount_cgroups,
    on_root,
    root_of,
    route_localnet,
    talk,
    with_cgroups,
)
from support.netns import NO_DROP_INS, Sandbox, wait_until
from support.resident import Resident, upgraded
from support.stream import Knocks
from support.world import Attached, World, publish

HOOKS = len(LOCALHOST_PROGRAMS)


def start(world: World) -> Attached:
    """A network with a container that answers on a published port."""
    world.network(plan.FRONT)
    web = world.attach("web", plan.FRONT, publish("8080:80"), publish("8053:53", "udp"))
    world.serve(web)
    return web


def answers(world: World, address: str = "127.0.0.1") -> bool:
    """Whether the container answers on localhost."""
    return isinstance(talk(world.host, address, 8080), Talk)


def means(world: World) -> dict[str, str]:
    """How localhost is served, as dpctl has it."""
    found: dict[str, str] = json.loads(world.dpctl("status", "--json", check=False))["localhost"]
    return found


def choose(world: World, text: str) -> None:
    """Write the settings file."""
    Path(world.environment["DATAPLANE_CONFIG"]).write_text(text)


def links() -> dict[str, tuple[int, int]]:
    """The links that are pinned: (link, program) by pin."""
    found = {}
    for pin in sorted(KernelPrograms().directory.parent.glob("links/cgroup-*")):
        with syscall.obj_get(pin) as link:
            about = syscall.link_info(link.number)
            found[pin.name] = about.id, about.program_id
    return found


def detach_by_others() -> None:
    """Take our links off the root, as anybody may who is root; their pins stay."""
    for pin in KernelPrograms().directory.parent.glob("links/cgroup-*"):
        with syscall.obj_get(pin) as link:
            syscall.link_detach(link.number)


def ours() -> int:
    """How many programs serve this network namespace."""
    return len(KernelPrograms().localhost())


def copies(world: World) -> set[int]:
    """How many copies of each program serve the sandbox: of all on the root, those that have its cookie."""
    return set(map(len, world.host.call(_serving).values()))


def _serving() -> dict[str, list[int]]:
    hooks = CgroupHooks(LINKS)
    return {name: [one for one in ids if hooks.serves_us(one, Program(name))] for name, ids in on_root().items()}


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with cgroups and a container with a port."""
    with_cgroups(sandbox)
    made = World(sandbox, tmp_path)
    start(made)
    return made


def test_nothing_stays_on_the_root(world: World) -> None:
    """Attached once, whatever comes after; the last DEL leaves them for the next ADD; uninstall leaves none."""
    world.attach("shop", plan.FRONT, publish("8081:80"))
    world.network(plan.BACK)
    world.attach("back", plan.BACK, publish("8082:80"))
    pinned = world.host.call(links)
    assert len(pinned) == HOOKS
    assert copies(world) == {1}
    programs = {program for _, program in pinned.values()}
    for name in ("web", "shop", "back"):
        world.detach(name)
    assert world.host.call(links) == pinned
    said = world.dpctl("uninstall", *NO_DROP_INS)
    assert said.count("on the root of the cgroups") == HOOKS
    there = {number for numbers in world.host.call(on_root).values() for number in numbers}
    assert not there & programs


def test_two_hosts_on_one_root(world: World, tmp_path: Path) -> None:
    """Each network namespace has programs of its own: both answer, and what one removes the other keeps."""
    with Sandbox("second") as second:
        with_cgroups(second)
        (tmp_path / "second").mkdir()
        other = World(second, tmp_path / "second")
        start(other)
        assert copies(world) == copies(other) == {1}
        assert answers(world)
        assert answers(other)
        other.detach("web")
        other.dpctl("uninstall", *NO_DROP_INS)
        assert copies(world) == {1}
        assert answers(world)


@pytest.mark.parametrize("damage", ["pins", "links", "all pins", "a fresh bpffs"])
def test_what_others_remove_comes_back(world: World, damage: str) -> None:
    """The agent has each program there once again, whether its pin was removed, its link detached, or all of it hidden
    by another mount; nothing is left double."""
    resident = Resident(world)
    directory = "/sys/fs/bpf/dataplane"
    match damage:
        case "pins":
            world.host.run("sh", "-c", f"rm {directory}/links/cgroup-*")
        case "links":
            world.host.call(detach_by_others)
        case "all pins":
            # At once, and then piece by piece: the agent puts back what is missing while it goes.
            world.host.run("sh", "-c", f"mv {directory} {directory}-gone && rm -r {directory}-gone")
        case _:
            world.host.run("mount", "-t", "bpf", "-o", "mode=700", "bpf", "/sys/fs/bpf")
    wait_until(lambda: len(world.host.call(links)) == HOOKS and ours_are_current(world), 20, "they are there again")
    resident.settle()
    assert copies(world) == {1}
    assert answers(world)
    assert answers(world, "::1")


def ours_are_current(world: World) -> bool:
    """Whether nothing is to be done about them."""
    return world.host.call(_current) == HOOKS


def _current() -> int:
    programs = KernelPrograms()
    return len(programs.current_localhost()) if programs.loaded() else 0


def test_without_an_agent_reconcile_brings_them_back(world: World) -> None:
    """dpctl status names what is missing, and dpctl reconcile repairs it."""
    world.host.run("sh", "-c", "rm /sys/fs/bpf/dataplane/links/cgroup-*")
    assert not answers(world)
    said = world.dpctl("status", check=False)
    assert "PROBLEM      program connect4 is not attached to the root of the cgroups" in said
    world.dpctl("reconcile")
    assert answers(world)
    assert "PROBLEM" not in world.dpctl("status")


def test_entries_that_were_taken_out_come_back(world: World) -> None:
    """What leads to a container is looked at like any other entry."""
    world.host.call(_wipe)
    assert not answers(world)
    world.dpctl("reconcile")
    assert answers(world)


def _wipe() -> None:
    programs = KernelPrograms()
    for key, _ in list(programs.entries("published")):
        programs.drop("published", key)


def test_another_version_takes_over_the_links(world: World, tmp_path: Path) -> None:
    """An agent of another version replaces the programs of the links that are there; nobody is refused meanwhile."""
    resident = Resident(world)
    before = world.host.call(links)
    knocks = Knocks(world.host, IPv4Address("127.0.0.1"), 8080)
    resident.again(signal.SIGTERM, upgraded(tmp_path, 1))
    after = world.host.call(links)
    assert {pin: link for pin, (link, _) in after.items()} == {pin: link for pin, (link, _) in before.items()}
    assert not {program for _, program in after.values()} & {program for _, program in before.values()}
    assert copies(world) == {1}
    knocked = knocks.stop()
    assert (knocked.refused, knocked.unanswered) == (0, 0), knocked
    assert knocked.answered > 10


# -- means ------------------------------------------------------------------------------------------------------------


def test_a_host_without_cgroups_is_served_by_nft(sandbox: Sandbox, tmp_path: Path) -> None:
    """An ADD does not fail; 127.0.0.1 works by route_localnet, [::1] does not, and dpctl status says why."""
    hide_cgroups(sandbox)
    world = World(sandbox, tmp_path)
    start(world)
    assert answers(world)
    assert not answers(world, "::1")
    assert sandbox.call(route_localnet) == [plan.FRONT.device]
    found = means(world)
    assert found["by"] == "nft"
    assert found["why"] == (
        "could not find the root of the cgroups: no cgroup2 is mounted; mount -t cgroup2 none /sys/fs/cgroup/unified"
    )
    assert found["why"] in world.dpctl("status")
    # It is mounted now, wherever: the next look takes it.
    mount_cgroups(sandbox)
    assert root_of(sandbox) == MOUNTED
    world.dpctl("reconcile")
    assert means(world) == {"by": "cgroups", "why": ""}
    assert answers(world)
    assert answers(world, "::1")
    assert sandbox.call(route_localnet) == []


def test_route_localnet_that_is_turned_back(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where localhost is served by nftables, the agent sets it again."""
    hide_cgroups(sandbox)
    world = World(sandbox, tmp_path)
    start(world)
    resident = Resident(world)
    sandbox.sysctl(f"net/ipv4/conf/{plan.FRONT.device}/route_localnet", 0)
    wait_until(lambda: sandbox.call(route_localnet) == [plan.FRONT.device], 20, "route_localnet is set again")
    resident.settle()
    assert answers(world)


def test_a_read_only_root_is_enough(sandbox: Sandbox, tmp_path: Path) -> None:
    """systemd shows it so to the agent (ProtectControlGroups): programs are attached all the same."""
    with_cgroups(sandbox)
    root = root_of(sandbox)
    sandbox.run("mount", "--bind", root, root)
    sandbox.run("mount", "-o", "remount,bind,ro", root)
    assert sandbox.run("mkdir", f"{root}/refused", check=False).returncode
    world = World(sandbox, tmp_path)
    start(world)
    assert answers(world)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of the machine, with nothing in it."""
    made = Cgroup("localhost")
    with Sandbox() as outside:
        with_cgroups(outside)
        root = root_of(outside)
        outside.run("mkdir", f"{root}/{made.name}")
        try:
            yield Path(made.name)
        finally:
            outside.run("rmdir", f"{root}/{made.name}")


def test_the_cgroup_of_a_container_is_no_root(sandbox: Sandbox, cgroup: Path) -> None:
    """What a cgroup namespace shows as the root is refused: the processes of the host need not be in it."""
    with_cgroups(sandbox)
    root = root_of(sandbox)
    sandbox.run("mkdir", "-p", "/run/part")
    sandbox.run("mount", "--bind", f"{root}/{cgroup}", "/run/part")
    hide_cgroups(sandbox)
    if root == MOUNTED:
        sandbox.run("umount", MOUNTED)
    assert root_of(sandbox) == (
        "could not find the root of the cgroups: /run/part is the cgroup of a container, not the root"
    )


def test_settings_choose_the_means(world: World) -> None:
    """By turns: each leaves nothing of the others, and the sysctl has its former value."""
    device = f"net/ipv4/conf/{plan.FRONT.device}/route_localnet"
    for chosen, found, localnet, attached in (
        ("nft", "nft", "1", 0),
        ("auto", "cgroups", "0", HOOKS),
        ("off", "off", "0", 0),
        ("nft", "nft", "1", 0),
        ("off", "off", "0", 0),
        ("auto", "cgroups", "0", HOOKS),
    ):
        choose(world, f'localhost = "{chosen}"')
        assert "published ports answer on localhost by other means" in world.dpctl("status", check=False)
        world.dpctl("reconcile")
        assert means(world) == {"by": found, "why": ""}
        assert world.host.run("cat", f"/proc/sys/{device}").stdout.strip() == localnet, chosen
        assert world.host.call(ours) == attached, chosen
        assert answers(world) == (chosen != "off"), chosen
        assert answers(world, "::1") == (chosen == "auto"), chosen
        assert "PROBLEM" not in world.dpctl("status"), chosen
    world.detach("web")
    assert world.host.run("cat", f"/proc/sys/{device}").stdout.strip() == "0"


def test_an_agent_takes_the_means_of_its_settings(world: World) -> None:
    """What an earlier version, or other settings, left is put right as it starts."""
    choose(world, 'localhost = "nft"')
    resident = Resident(world)
    assert answers(world)
    assert world.host.call(route_localnet) == [plan.FRONT.device]
    choose(world, "")
    resident.again(signal.SIGTERM)
    assert world.host.call(route_localnet) == []
    assert answers(world, "::1")


def test_a_program_that_went_while_it_was_looked_at_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of other namespaces on the same root come and go, and their maps with them."""
    needs.root()
    gone = syscall.ProgramInfo(0, "", Program.CONNECT4.function, 0, 0, 0, map_ids=(2**31 - 1,))
    monkeypatch.setattr(cgroups, "program_of", lambda _number: gone)
    assert not CgroupHooks(LINKS).serves_us(0, Program.CONNECT4)
