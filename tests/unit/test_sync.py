"""Syncs on fake doors: one part is looked at, what is wrong about it is put right, and nothing else is touched."""

from __future__ import annotations

import errno
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, ip_interface
from pathlib import Path
from unittest.mock import patch

import pytest

from control.desired.ruleset import chain_ref
from control.engine import Engine, Watched
from control.errors import BusyError
from control.model import ForeignChain, IngressPolicy, Options, Request
from control.repair.reconciler import ALL, EVERYTHING, UNANNOUNCED, Outcome, Part
from dataplane.abi import U32
from dataplane.doors import PortFlags
from dataplane.errors import BpfError, NftError
from dataplane.nft.objects import Element, Port, Table
from dataplane.nft.transaction import Transaction, add, delete
from dataplane.types import NETWORK_PROGRAMS, IfIndex, Program, Protocol
from support.attachments import key, port, request
from support.fakeworld import World

ISOLATED = Options(ingress_policy=IngressPolicy.ISOLATED)
PORT_8080 = Element("publish4", (Protocol.TCP, Port(8080)), (IPv4Address("10.11.0.2"), Port(80)))


def sync(world: World, *parts: Part) -> dict[Part, tuple[str, ...]]:
    """What a sync found and put right; afterwards the same finds nothing."""
    outcome = world.engine.sync(frozenset(parts))
    assert not outcome.failed
    again = world.engine.sync(frozenset(parts))
    assert not again.found
    return dict(outcome.found)


def test_a_host_that_is_well_is_left_alone(world: World) -> None:
    """A look at everything writes nothing."""
    world.attach("web", "10.11.0.2", port(8080), options=ISOLATED)
    before = len(world.doors.nft.log)
    assert world.engine.sync(ALL) == Outcome()
    assert len(world.doors.nft.log) == before


def test_a_host_without_attachments_gets_no_table(world: World) -> None:
    """The agent of an idle host leaves no trace in nftables."""
    assert world.engine.sync(ALL) == Outcome()
    assert world.doors.nft.table_text() == ""


def test_a_wiped_table_is_replaced_in_one_transaction(world: World) -> None:
    """After a flush all elements are back at once."""
    world.attach("web", "10.11.0.2", port(8080))
    world.attach("late", "10.11.0.3", port(8081))
    world.doors.nft.flush_ruleset()
    before = len(world.doors.nft.log)
    assert sync(world, Part.TABLES) == {Part.TABLES: ("table inet dataplane was wiped",)}
    assert len(world.doors.nft.log) == before + 1
    assert world.published(8080, "10.11.0.2")
    assert world.published(8081, "10.11.0.3")


def test_rules_that_were_flushed_have_the_table_replaced(world: World) -> None:
    """A chain without its rules is no chain of ours."""
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.nft.flush_table()
    assert sync(world, Part.TABLES) == {Part.TABLES: ("chains or rules of table inet dataplane were altered",)}


def test_a_single_element_is_put_back_alone(world: World) -> None:
    """Of a table in which one element is missing, one element is written."""
    world.attach("web", "10.11.0.2", port(8080), port(8081))
    world.doors.nft.run(Transaction((delete(PORT_8080),)))
    found = sync(world, Part.TABLES)
    assert found == {Part.TABLES: ("element publish4 { tcp . 8080 : 10.11.0.2 . 80 } is missing",)}
    assert "8081" not in world.doors.nft.log[-1]
    assert world.published(8080, "10.11.0.2")


def test_an_element_that_leads_elsewhere_leads_home_again(world: World) -> None:
    """Whoever bends a published port to another container is undone, and so is who publishes one by hand."""
    world.attach("web", "10.11.0.2", port(8080))
    bent = replace(PORT_8080, value=(IPv4Address("10.66.6.6"), Port(80)))
    extra = replace(PORT_8080, key=(Protocol.TCP, Port(9090)))
    world.doors.nft.run(Transaction((delete(PORT_8080), add(bent), add(extra))))
    assert len(sync(world, Part.TABLES)[Part.TABLES]) == 3
    assert world.published(8080, "10.11.0.2")
    assert not world.doors.nft.contains(extra)


def test_programs_sysctls_and_flags_come_back(world: World) -> None:
    """Each part puts back its own."""
    web = world.attach("web", "10.11.0.2", port(8080), options=ISOLATED)
    veth = world.doors.links.find(web.host_interfaces[1])
    assert veth is not None
    doors = world.doors
    doors.programs.detach(Program.ISOLATION, world.bridge.index)
    doors.programs.drop("networks", U32.pack(world.bridge.index))
    doors.sysctls.values["net/ipv4/ip_forward"] = "0"
    doors.links.set_port_flags(veth.index, PortFlags(hairpin=False, isolated=False))
    assert set(sync(world, Part.PROGRAMS)) == {Part.PROGRAMS}
    assert {one.program for one in doors.programs.hooked(world.bridge.index)} == set(NETWORK_PROGRAMS)
    assert doors.sysctls.values["net/ipv4/ip_forward"] == "0", "that is another part"
    assert sync(world, Part.SYSCTLS) == {Part.SYSCTLS: ("sysctl net/ipv4/ip_forward is 0, not 1",)}
    assert len(sync(world, Part.LINKS)[Part.LINKS]) == 2
    assert doors.links.port_flags(veth.index) == PortFlags(hairpin=True, isolated=True)
    assert not world.engine.problems()


def veth_of(world: World, made: Request) -> IfIndex:
    """A container's host veth."""
    link = world.doors.links.find(made.host_interfaces[1])
    assert link is not None
    return link.index


def test_the_guard_of_one_container_comes_back(world: World) -> None:
    """Program and entries of the veth that was heard of, and nothing is asked of any other."""
    web, other = world.attach("web", "10.11.0.2"), world.attach("db", "10.11.0.3")
    veths = [veth_of(world, one) for one in (web, other)]
    for veth in veths:
        world.doors.programs.detach(Program.GUARD, veth)
        world.doors.programs.drop("ports", U32.pack(veth))
    link = world.doors.links.get(veths[0])
    assert link is not None
    name = link.name
    found = world.engine.sync(frozenset({Part.VETHS}), frozenset(veths[:1])).found
    assert found == {
        Part.VETHS: (
            f"program guard is not attached to device {veths[0]} ({name})",
            f"BPF map ports: entry {U32.pack(veths[0]).hex()} is wiped",
        )
    }
    assert [bool(world.doors.programs.hooked(veth)) for veth in veths] == [True, False]
    assert sync(world, Part.VETHS)
    assert not world.engine.problems()


def test_a_look_that_is_merely_due_is_at_some_in_turn(world: World) -> None:
    """However many containers there are, it takes as long; and in the end each was looked at."""
    veths = [veth_of(world, world.attach(f"c{number}", f"10.11.0.{number}")) for number in range(2, 102)]
    for veth in veths:
        world.doors.programs.detach(Program.GUARD, veth)
    found = [len(world.engine.sync(UNANNOUNCED, frozenset()).found.get(Part.VETHS, ())) for _ in range(8)]
    assert found == [16, 16, 16, 16, 16, 16, 4, 0]
    assert not world.engine.problems()


def test_a_container_that_died_is_no_trouble_to_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A veth that is gone, or goes while it is looked at, stops no repair, and no ADD of another container."""
    gone, going = world.attach("gone", "10.11.0.2"), world.attach("going", "10.11.0.3")
    world.doors.links.remove(veth_of(world, gone))
    assert world.engine.sync(ALL) == Outcome()
    veth = veth_of(world, going)
    attach = world.doors.programs.attach

    def refuse(program: Program, ifindex: IfIndex) -> bool:
        if ifindex == veth:
            world.doors.links.remove(veth)
            raise BpfError.from_errno("attach", "program guard", errno.ENODEV)
        return attach(program, ifindex)

    monkeypatch.setattr(world.doors.programs, "attach", refuse)
    world.doors.programs.unload()
    late = world.attach("late", "10.11.0.4", port(8080))
    assert [one.program for one in world.doors.programs.hooked(veth_of(world, late))] == [Program.GUARD]
    assert not world.engine.problems()
    for one in (gone, going, late):
        world.engine.delete(one.key)
    assert not world.engine.problems()


def test_the_table_of_earlier_versions_goes_once_the_guard_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is upgraded has its MAC addresses guarded by one or the other all the time."""
    web = world.attach("web", "10.11.0.2")
    world.doors.programs.unload()
    world.doors.nft.run(Transaction((add(Table.BRIDGE),)))
    with monkeypatch.context() as patched:
        attach = world.doors.programs.attach

        def refuse(program: Program, ifindex: IfIndex) -> bool:
            if program is Program.GUARD:
                raise BpfError.from_errno("attach", "program guard", errno.ENOMEM)
            return attach(program, ifindex)

        patched.setattr(world.doors.programs, "attach", refuse)
        assert world.engine.sync(EVERYTHING).failed
    assert Table.BRIDGE in world.doors.nft.tables()
    assert world.engine.sync(EVERYTHING).found
    assert Table.BRIDGE not in world.doors.nft.tables()
    world.doors.nft.run(Transaction((add(Table.BRIDGE),)))
    world.doors.programs.unload()
    world.engine.add(web)
    assert Table.BRIDGE not in world.doors.nft.tables()
    assert not world.engine.problems()


def test_lost_programs_are_loaded_with_all_their_entries(world: World) -> None:
    """Without pins everything that the programs read is written anew."""
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.programs.unload()
    assert set(sync(world, Part.PROGRAMS)) == {Part.PROGRAMS}
    assert not world.engine.problems()


def test_pins_that_go_while_they_are_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that are loaded anew by the repair of something smaller get all entries, too."""
    web = world.attach("web", "10.11.0.2", port(8080))
    names = ("networks", "origins", "published", "containers")
    before = {name: dict(world.doors.programs.entries(name)) for name in names}
    world.doors.programs.detach(Program.CHECKSUM, world.bridge.index)
    load, unload = world.doors.programs.load, world.doors.programs.unload

    def load_anew() -> None:
        monkeypatch.setattr(world.doors.programs, "load", load)
        unload()
        load()

    monkeypatch.setattr(world.doors.programs, "load", load_anew)
    assert world.engine.sync(frozenset({Part.PROGRAMS})).found
    assert {name: dict(world.doors.programs.entries(name)) for name in names} == before
    world.engine.delete(web.key)


def test_entries_that_were_taken_out_come_back(world: World) -> None:
    """A look at everything is one at each entry that the programs read."""
    world.attach("web", "10.11.0.2", port(8080))
    before = {name: dict(world.doors.programs.entries(name)) for name in ("networks", "origins")}
    for name, held in before.items():
        assert held
        for entry in held:
            world.doors.programs.drop(name, entry)
    assert set(world.engine.sync(ALL).found) == {Part.PROGRAMS}
    assert {name: dict(world.doors.programs.entries(name)) for name in before} == before


def test_two_addresses_that_add_up_to_the_same_are_no_trouble(world: World) -> None:
    """Of 10.11.0.4 and 10.13.0.2 the checksum program keeps one; nobody complains of the other."""
    masqueraded = Options(ip_masq=True)
    both = [world.attach("web", "10.11.0.4", options=masqueraded), world.attach("db", "10.13.0.2", options=masqueraded)]
    for one in both:
        world.engine.check(one)
    assert not world.engine.problems()
    assert world.engine.sync(ALL) == Outcome()


def test_elements_that_were_put_back_are_no_reason_to_look_at_the_chains(world: World) -> None:
    """What a look repairs by one transaction of our own, no request after it takes for somebody else's."""
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.nft.run(Transaction((delete(PORT_8080),)))
    assert world.engine.sync(ALL).found
    with patch.object(world.doors.nft, "fingerprint", wraps=world.doors.nft.fingerprint) as asked:
        world.attach("late", "10.11.0.3", port(8081))
        assert asked.call_count == 0


def test_the_mirror_is_not_behind_for_those_who_ask(world: World) -> None:
    """Changes that nobody has asked about are in the answer, unless the whole state was read after them."""
    assert not world.engine.mirror.sets().get("publish4")
    for number in range(40):
        world.attach(f"web{number}", f"10.11.0.{number + 2}", port(8080 + number))
        if number % 2:
            world.engine.delete(key(f"web{number}"))
    assert len(world.engine.mirror.sets()["publish4"].values) == 20
    world.attach("late", "10.11.0.99", port(9000))
    other = Engine(world.doors.kernel(), world.directory)
    other.delete(key("late"))
    other.close()
    assert len(world.engine.mirror.sets()["publish4"].values) == 20


def test_entries_that_could_not_be_written_are_looked_at_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins that are removed while their maps are filled leave nothing forgotten."""
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.programs.unload()
    with monkeypatch.context() as patched:
        put = world.doors.programs.put

        def refuse(map_name: str, entry: bytes, value: bytes) -> None:
            if map_name == "origins":
                raise BpfError.from_errno("open", map_name, errno.ENOENT)
            put(map_name, entry, value)

        patched.setattr(world.doors.programs, "put", refuse)
        assert set(world.engine.sync(frozenset({Part.PROGRAMS})).failed) == {Part.PROGRAMS}
    assert world.engine.problems()
    assert set(sync(world, Part.STATE, Part.PROGRAMS)) == {Part.STATE}
    assert not world.engine.problems()


def test_accepts_in_a_foreign_chain_come_back_and_a_chain_that_is_gone_is_told(world: World) -> None:
    """The firewall that was reloaded gets our accepts again; one that was removed is somebody's trouble, and told."""
    chain = ForeignChain("inet", "filter", "forward")
    rules = world.doors.nft.foreign_chain(chain_ref(chain))
    world.attach("web", "10.11.0.2", port(8080), options=Options(forward_chains=(chain,)))
    rules.clear()
    assert len(sync(world, Part.FOREIGN)[Part.FOREIGN]) == 1
    assert len(rules) == 3
    world.doors.nft.flush_ruleset()
    outcome = world.engine.sync(frozenset({Part.FOREIGN}))
    assert outcome.left == ("chain inet filter forward has 0 of the 3 accepts that it needs",)


def test_zones_of_a_reloaded_firewalld_get_their_addresses_back(world: World) -> None:
    """A reload of firewalld forgets the containers' addresses; they are its zone's again."""
    world.doors.firewalld.start("trusted")
    world.attach("web", "10.11.0.2", port(8080), options=Options(firewalld_zone="trusted"))
    world.doors.firewalld.start("trusted")
    assert len(sync(world, Part.FOREIGN)[Part.FOREIGN]) == 1
    assert world.doors.firewalld.sources("trusted") == {IPv4Address("10.11.0.2")}


def test_a_bridge_that_was_made_anew_is_the_attachments_bridge(world: World) -> None:
    """A bridge has its name again, and another index: programs, elements and ports follow."""
    web = world.attach("web", "10.11.0.2", port(8080), options=ISOLATED)
    veth = world.doors.links.find(web.host_interfaces[1])
    assert veth is not None
    world.doors.links.remove(world.bridge.index)
    assert world.engine.sync(frozenset({Part.LINKS})).left, "nobody made it anew yet"
    bridge = world.doors.links.link("br-front", "bridge")
    found = sync(world, Part.LINKS)[Part.LINKS]
    assert found[0] == "device br-front was deleted and made anew"
    again = world.doors.links.get(veth.index)
    assert again is not None
    assert again.master == bridge.index
    assert world.doors.links.port_flags(veth.index).isolated
    assert len(world.doors.programs.hooked(bridge.index)) == len(NETWORK_PROGRAMS)
    assert not world.engine.problems()
    world.engine.delete(web.key)
    assert not any(world.doors.nft.sizes().values())


def test_a_bridge_of_ours_is_made_again_as_it_was(world: World) -> None:
    """Where our own main plugin made the bridge, nobody has to: it comes back with its MAC and its addresses."""
    links = world.doors.links
    links.remove(world.bridge.index)
    bridge = links.make_bridge("br-front", "02:00:00:00:00:07", 1400)
    links.add_address(bridge.index, ip_interface("10.11.0.1/24"))
    veth = links.link("vethweb", "veth", bridge.index)
    made = request("web", "10.11.0.2", port(8080), interfaces=("br-front", "vethweb"))
    world.engine.add(replace(made, key=replace(made.key, plugin="dataplane-bridge")))
    links.remove(bridge.index)
    assert sync(world, Part.LINKS)[Part.LINKS][0] == "bridge br-front was deleted"
    again = links.find("br-front")
    assert again is not None
    assert (again.mac, again.mtu, again.up) == ("02:00:00:00:00:07", 1400, True)
    assert links.addresses_of(again.index) == (ip_interface("10.11.0.1/24"),)
    port_now = links.get(veth.index)
    assert port_now is not None
    assert port_now.master == again.index


def test_a_port_that_was_taken_out_of_its_bridge_is_put_back(world: World) -> None:
    """``ip link set veth nomaster`` cuts a container off until it is noticed; another bridge's port is left there."""
    web = world.attach("web", "10.11.0.2", port(8080))
    veth = world.doors.links.find(web.host_interfaces[1])
    assert veth is not None
    world.doors.links.enslave(veth.index, type(veth.index)(0))
    assert sync(world, Part.LINKS)[Part.LINKS][0] == f"link {veth.name} was taken out of bridge br-front"
    other = world.doors.links.link("br-other", "bridge")
    world.doors.links.enslave(veth.index, other.index)
    outcome = world.engine.sync(frozenset({Part.LINKS}))
    assert outcome.left == (f"link {veth.name} was put into another bridge than br-front",)


def test_a_container_that_vanished_is_collected(world: World, tmp_path: Path) -> None:
    """Namespace and wire are gone: ports are free again; with one of both there the attachment stays."""
    netns = tmp_path / "netns"
    netns.touch()
    made = replace(
        request("web", "10.11.0.2", port(8080), interfaces=("br-front", "vethweb")),
        netns=str(netns),
        netns_inode=netns.stat().st_ino,
    )
    veth = world.doors.links.link("vethweb", "veth", world.bridge.index)
    world.engine.add(made)
    assert not world.engine.sync(frozenset({Part.CONTAINERS})).found
    netns.unlink()
    assert not world.engine.sync(frozenset({Part.CONTAINERS})).found, "its wire is there"
    world.doors.links.remove(veth.index)
    found = sync(world, Part.CONTAINERS)
    assert found == {Part.CONTAINERS: ("attachment front/web/eth0: its container is gone, and no DEL came",)}
    assert not world.published(8080, "10.11.0.2")


def test_what_fails_is_in_the_outcome(world: World) -> None:
    """A kernel that refuses ends a sync, and not the agent."""
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.nft.flush_ruleset()
    world.doors.nft.fail = NftError.from_errno("change", "table inet dataplane", 12)
    assert "could not change table inet dataplane" in world.engine.sync(frozenset({Part.TABLES})).failed[Part.TABLES]
    world.doors.programs.detach(Program.CHECKSUM, world.bridge.index)
    world.doors.programs.fail = BpfError.from_errno("attach", "program checksum", 12)
    outcome = world.engine.sync(frozenset({Part.PROGRAMS, Part.TABLES}))
    assert outcome.failed.keys() == {Part.PROGRAMS}
    assert outcome.found.keys() == {Part.TABLES}, "one that fails keeps no other from being repaired"
    assert sync(world, Part.TABLES, Part.PROGRAMS).keys() == {Part.PROGRAMS}


def test_an_interrupted_change_is_finished_by_the_next_sync(world: World) -> None:
    """An agent that was killed within a change begins with its repair."""
    world.attach("web", "10.11.0.2", port(8080))
    world.engine.store.begin(())
    assert sync(world, Part.STATE) == {Part.STATE: ("a change was interrupted",)}


def test_the_mirror_follows_each_change_and_changes_of_others(world: World) -> None:
    """What is in memory is what the state says, whoever changed that."""
    world.attach("web", "10.11.0.2", port(8080))
    assert world.engine.mirror.sets()["publish4"].values
    world.attach("late", "10.11.0.3", port(8081))
    assert len(world.engine.mirror.sets()["publish4"].values) == 2
    other = Engine(world.doors.kernel(), world.directory)
    other.delete(key("web"))
    other.close()
    assert [one.key.container for one in world.engine.mirror.attachments()] == ["late"]
    assert len(world.engine.mirror.sets()["publish4"].values) == 1
    world.engine.delete(key("late"))
    assert "publish4" not in world.engine.mirror.sets() or not world.engine.mirror.sets()["publish4"].values
    assert not world.engine.mirror.is_device(world.bridge.index, "br-front")
    assert world.engine.sync(ALL) == Outcome()


def test_what_an_agent_watches_follows_each_change(world: World, tmp_path: Path) -> None:
    """Whatever came, was replaced and went: it is what somebody would watch who has just read the state."""
    web = world.attach("web", "10.11.0.2", port(8080))

    def watched(engine: Engine) -> Watched:
        found = engine.watched(None)
        assert found is not None
        return replace(found, version=(0, 0), readings=0)

    def compared() -> Watched:
        with closing(Engine(world.doors.kernel(), world.directory)) as other:
            assert watched(other) == watched(world.engine)
        return watched(world.engine)

    compared()
    world.attach("late", "10.11.0.3", port(8081))
    world.engine.add(replace(web, netns="/run/netns/moved"))
    world.engine.add(replace(web, key=replace(web.key, plugin="other"), mappings=()))  # two parts of one interface
    both = compared()
    assert (both.sizes, sorted(both.containers.values())) == ({"front": 2}, ["late", "web"])
    for one in (web.key, key("late"), replace(web.key, plugin="other")):
        world.engine.delete(one)
        compared()
    assert not compared().containers


@pytest.mark.parametrize("part", [Part.TABLES, Part.PROGRAMS, Part.LINKS, Part.SYSCTLS, Part.FOREIGN, Part.ADDRESSES])
def test_a_device_that_is_gone_is_in_nobodys_way(world: World, part: Part) -> None:
    """What cannot be repaired because its device is gone neither fails a sync nor keeps it busy."""
    world.attach("web", "10.11.0.2", port(8080), options=ISOLATED)
    world.doors.links.remove(world.bridge.index)
    outcome = world.engine.sync(frozenset({part}))
    assert not outcome.failed
    assert not world.engine.sync(frozenset({part})).found


def test_a_bridge_of_ours_without_any_port_stays_removed(world: World) -> None:
    """Where attachments are all that is left of containers, whoever removes their bridge is not contradicted."""
    links = world.doors.links
    links.remove(world.bridge.index)
    bridge = links.make_bridge("br-front", "02:00:00:00:00:07", 1400)
    links.add_address(bridge.index, ip_interface("10.11.0.1/24"))
    veth = links.link("vethweb", "veth", bridge.index)
    made = request("web", "10.11.0.2", port(8080), interfaces=("br-front", "vethweb"))
    world.engine.add(replace(made, key=replace(made.key, plugin="dataplane-bridge")))
    links.remove(veth.index)
    links.remove(bridge.index)
    outcome = world.engine.sync(frozenset({Part.LINKS}))
    assert links.find("br-front") is None
    assert outcome.left == ("device br-front of network front is gone: its next ADD makes it",)


def test_a_part_that_takes_several_looks_fails_in_any_of_them(world: World) -> None:
    """Where a later one cannot even begin, the part has failed, and is looked at again."""
    world.attach("web", "10.11.0.2", port(8080))
    looks = world.engine.looks(frozenset({Part.PROGRAMS}))
    world.doors.programs.drop("origins", next(iter(dict(world.doors.programs.entries("origins")))))
    world.doors.programs.detach(Program.ISOLATION, world.bridge.index)
    found = next(looks)
    while Part.PROGRAMS not in found.found:
        found = next(looks)
    with patch.object(world.engine, "_held", side_effect=BusyError("the state is locked")):
        (last,) = looks
    assert last.failed == {Part.PROGRAMS: "the state is locked"}
