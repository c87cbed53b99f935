"""What others change behind the engine's back, and how it comes right again, on fake doors."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest

from control.desired import ruleset
from control.engine import Engine
from control.model import IngressPolicy, Options, Request
from control.repair.reconciler import ALL, Outcome
from control.settings import SettingsError
from dataplane.abi import U32
from dataplane.doors import PortFlags
from dataplane.nft.objects import Table
from dataplane.nft.transaction import Transaction, flush
from dataplane.types import IfIndex, Program
from support.attachments import key, port, request
from support.fakeworld import World

ISOLATED = Options(ingress_policy=IngressPolicy.ISOLATED)
FORWARDING, LOCALHOST = "net/ipv4/ip_forward", "net/ipv4/conf/br-front/route_localnet"


def port_of(world: World, made: Request) -> IfIndex:
    """The bridge port of a container."""
    link = world.doors.links.find(made.host_interfaces[1])
    assert link is not None
    return link.index


def test_a_repeated_add_isolates_the_port_again(world: World) -> None:
    """Whoever switched the port's flags off does not keep an isolated container open beyond the next ADD."""
    web = world.attach("web", "10.11.0.2", port(8080), options=ISOLATED)
    world.doors.links.set_port_flags(port_of(world, web), PortFlags(hairpin=False, isolated=False))
    world.engine.add(web)
    assert world.doors.links.port_flags(port_of(world, web)) == PortFlags(hairpin=True, isolated=True)


def test_a_resync_isolates_every_port_again(world: World) -> None:
    """After an interrupted change all ports are as their networks ask, and one that vanished is in nobody's way."""
    gone = world.attach("gone", "10.11.0.3", options=ISOLATED)
    web = world.attach("web", "10.11.0.2", options=ISOLATED)
    world.doors.links.remove(port_of(world, gone))
    world.doors.links.set_port_flags(port_of(world, web), PortFlags(isolated=False))
    world.engine.store.begin(())
    world.engine.delete(key("nobody"))
    assert world.doors.links.port_flags(port_of(world, web)).isolated
    assert not world.engine.store.interrupted()


@pytest.mark.parametrize("before", [False, True], ids=["off", "on"])
def test_delete_gives_a_port_its_former_flags_back(world: World, before: bool) -> None:
    """A container that lives on after its DEL is as isolated as the main plugin had made it, no more and no less."""
    veth = world.doors.links.link("vethweb", "veth", world.bridge.index)
    world.doors.links.set_port_flags(veth.index, PortFlags(hairpin=before, isolated=before))
    world.engine.add(request("web", "10.11.0.2", port(8080), interfaces=("br-front", veth.name), options=ISOLATED))
    assert world.doors.links.port_flags(veth.index) == PortFlags(hairpin=True, isolated=True)
    world.engine.delete(key("web"))
    assert world.doors.links.port_flags(veth.index) == PortFlags(hairpin=before, isolated=before)


def test_an_add_without_isolation_gives_it_back(world: World) -> None:
    """The ADD that takes a container out of isolation restores what its port was before the first one."""
    web = world.attach("web", "10.11.0.2", port(8080), options=ISOLATED)
    world.engine.add(Request(web.key, web.addresses, web.host_interfaces, (), Options()))
    assert world.doors.links.port_flags(port_of(world, web)) == PortFlags(hairpin=False, isolated=False)


def test_delete_succeeds_without_the_port(world: World) -> None:
    """The veth may be gone before DEL is called: that is no error, and leaves nothing due."""
    web = world.attach("web", "10.11.0.2", port(8080), options=ISOLATED)
    world.doors.links.remove(port_of(world, web))
    transactions = len(world.doors.nft.log)
    world.engine.delete(web.key)
    assert len(world.doors.nft.log) == transactions + 1, "the table was rebuilt"
    assert not world.engine.store.interrupted()


def test_an_add_sets_sysctls_again(world: World) -> None:
    """Somebody set forwarding and route_localnet back: the next container's ports work all the same."""
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.sysctls.values |= {FORWARDING: "0", LOCALHOST: "0"}
    late = world.attach("late", "10.11.0.3", port(8081))
    assert (world.doors.sysctls.values[FORWARDING], world.doors.sysctls.values[LOCALHOST]) == ("1", "1")
    world.engine.check(late)


def test_an_add_on_a_bridge_that_was_made_anew(world: World) -> None:
    """The new bridge has the old one's name and none of its settings: a repeated ADD sets them on the new one."""
    web = world.attach("web", "10.11.0.2", port(8080))
    world.doors.links.remove(port_of(world, web))
    world.doors.links.remove(world.bridge.index)
    world.doors.sysctls.values[LOCALHOST] = "0"
    bridge = world.doors.links.link("br-front", "bridge")
    world.doors.links.link("vethweb", "veth", bridge.index)
    world.engine.add(web)
    assert world.doors.sysctls.values[LOCALHOST] == "1"
    assert world.doors.links.port_flags(port_of(world, web)).hairpin
    world.engine.check(web)


def test_an_add_notices_rules_that_were_flushed(world: World) -> None:
    """``nft flush table`` leaves sets and elements there: the next ADD looks at the rules, too."""
    web = world.attach("web", "10.11.0.2", port(8080))
    world.doors.nft.flush_table()
    late = world.attach("late", "10.11.0.3", port(8081))
    world.engine.check(web)
    world.engine.check(late)


def test_an_add_among_strangers_looks_at_the_table_once(world: World) -> None:
    """The table is looked at after somebody else's transaction, and not after our own."""
    world.attach("web", "10.11.0.2", port(8080))
    with patch.object(world.doors.nft, "fingerprint", wraps=world.doors.nft.fingerprint) as listed:
        world.attach("b", "10.11.0.3", port(8081))
        world.engine.delete(key("b"))
        world.attach("c", "10.11.0.4", port(8082))
        assert listed.call_count == 0
        world.doors.nft.stranger()
        world.attach("d", "10.11.0.5", port(8083))
        world.attach("e", "10.11.0.6", port(8084))
        assert listed.call_count == 1


@pytest.mark.parametrize("times", [1, 2])
def test_a_stranger_who_writes_right_after_us_is_not_taken_for_us(world: World, times: int) -> None:
    """What he altered before our table was looked at is written once more, or as often as it takes."""
    fingerprint, nft, left = world.doors.nft.fingerprint, world.doors.nft, [times]

    def late(table: Table = Table.MAIN) -> str:
        if left[0] and nft.tables():
            left[0] -= 1
            nft.run(Transaction((flush(ruleset.CHAINS[0]),)))
        return fingerprint(table)

    world.attach("web", "10.11.0.2", port(8080))
    written = nft.skeleton_text()
    nft.flush_ruleset()
    with patch.object(nft, "fingerprint", side_effect=late):
        world.attach("late", "10.11.0.3", port(8081))
    assert left == [0]
    world.doors.nft.stranger()
    assert world.engine.sync(ALL) == Outcome()
    assert nft.skeleton_text() == written


def test_who_writes_all_the_time_does_not_keep_us_writing(world: World) -> None:
    """The table is written a few times, and then it is as good as it gets."""
    fingerprint, nft = world.doors.nft.fingerprint, world.doors.nft

    def busy(table: Table = Table.MAIN) -> str:
        nft.stranger()
        return fingerprint(table)

    with patch.object(nft, "fingerprint", side_effect=busy):
        world.attach("web", "10.11.0.2", port(8080))
    assert world.published(8080, "10.11.0.2")
    assert sum("add table" in text for text in world.doors.nft.log) <= 3


def test_reconcile_puts_back_and_says_what(world: World) -> None:
    """``dpctl reconcile`` names what was wrong, and afterwards nothing is."""
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.nft.flush_ruleset()
    world.doors.programs.detach(Program.ISOLATION, world.bridge.index)
    world.doors.programs.put("networks", U32.pack(99), bytes(8))
    found, left = world.engine.reconcile()
    assert "table inet dataplane was wiped" in found
    assert f"program isolation is not attached to device {world.bridge.index} ({world.bridge.name})" in found
    assert "BPF map networks: no attachment asks for entry 63000000" in found
    assert left == world.engine.problems() == []
    assert world.published(8080, "10.11.0.2")


def test_reconcile_makes_nothing_where_nothing_is_wrong(world: World) -> None:
    """A host without attachments gets no table, and one that is well no transaction."""
    assert world.engine.reconcile() == ([], [])
    assert world.doors.nft.table_text() == ""
    world.attach("web", "10.11.0.2", port(8080))
    generation = world.doors.nft.generation()
    assert world.engine.reconcile() == ([], [])
    assert world.doors.nft.generation() == generation


def test_problems_of_a_container_that_is_gone_name_the_remedy(world: World, tmp_path: Path) -> None:
    """What reconcile cannot put right, gc can: the problem says so and stays."""
    netns = tmp_path / "netns"
    netns.touch()
    made = request("web", "10.11.0.2", port(8080), interfaces=("br-front",))
    inode = netns.stat().st_ino
    world.engine.add(
        Request(made.key, made.addresses, made.host_interfaces, made.mappings, made.options, str(netns), inode)
    )
    netns.unlink()
    _, left = world.engine.reconcile()
    assert left == ["attachment front/web/eth0 is of a container that is gone; dpctl gc removes it"]
    world.engine.collect_stale()
    assert world.engine.problems() == []


def test_a_wrong_setting_is_a_problem(world: World) -> None:
    """A settings file that ADD would fail with does not look healthy in status."""
    broken = Engine(world.doors.kernel(), world.directory, SettingsError("dataplane.toml: unknown key 'atach'"))
    assert broken.problems() == ["dataplane.toml: unknown key 'atach'"]
    with pytest.raises(SettingsError):
        broken.reconcile()
    broken.close()


def test_a_lost_state_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """What the kernel serves is known again with the next question, a line says so, and the next ADD finds all well."""
    web = world.attach("web", "10.11.0.2", port(8080))
    (world.directory / "state.db").unlink()
    assert [one.key for one in world.engine.attachments()] == [web.key]
    assert "1 attachments were read back from the kernel" in capsys.readouterr().err
    assert "a change was interrupted" in world.engine.problems()
    world.attach("db", "10.11.0.3", port(8081))
    assert world.published(8080, "10.11.0.2")
    assert world.engine.problems() == []


def test_an_engine_follows_the_state_to_its_new_file(world: World) -> None:
    """An agent whose state file was deleted or replaced works on the file that plugins see."""
    world.attach("web", "10.11.0.2", port(8080))
    (world.directory / "state.db").unlink()
    other = Engine(world.doors.kernel(), world.directory)
    other.add(request("db", "10.11.0.3", port(8081), interfaces=("br-front",)))
    other.close()
    assert [one.key.container for one in world.engine.attachments()] == ["db", "web"]
