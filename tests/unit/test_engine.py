"""The engine on fake doors: what state and kernel hold after each request, and after each failure."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from control.conditions import parse
from control.desired import ruleset
from control.engine import Engine
from control.errors import BusyError, DeviceNotFoundError, DifferenceError, EngineError, PortConflictError
from control.lock import locked
from control.model import ChecksumPolicy, ForeignChain, IngressPolicy, Options, Request
from control.settings import SettingsError
from dataplane.abi import host_address_key, pack_address
from dataplane.doors import PortFlags
from dataplane.errors import BpfError, NftError
from dataplane.fakes import FakeDoors
from dataplane.nft.objects import Element, Port
from dataplane.nft.transaction import Transaction, create, delete
from dataplane.types import NETWORK_PROGRAMS, Program, Protocol
from support.attachments import key, port, request
from support.fakeworld import World


def test_add_publishes_and_check_agrees(world: World) -> None:
    """After ADD the port leads to the container, the programs are hooked, and CHECK finds no difference."""
    web = world.attach("web", "10.11.0.2", port(8080))
    assert world.published(8080, "10.11.0.2")
    assert {hooked.program for hooked in world.doors.programs.hooked(world.bridge.index)} == set(NETWORK_PROGRAMS)
    world.engine.check(web)


def test_a_repeated_add_leaves_one_copy(world: World) -> None:
    """ADD again, the same or changed: the kernel holds what was asked for last, once."""
    web = world.attach("web", "10.11.0.2", port(8080))
    transactions = len(world.doors.nft.log)
    world.engine.add(web)
    assert len(world.doors.nft.log) == transactions
    world.engine.add(Request(web.key, web.addresses, web.host_interfaces, (port(9090),), web.options))
    assert not world.published(8080, "10.11.0.2")
    assert world.published(9090, "10.11.0.2")
    assert len(world.engine.attachments()) == 1


def test_delete_leaves_nothing_and_may_be_repeated(world: World) -> None:
    """DEL takes back all that ADD did, and succeeds again, and for what never was."""
    empty = world.doors.nft.table_text()
    world.attach("web", "10.11.0.2", port(8080))
    world.engine.delete(key("web"))
    world.engine.delete(key("web"))
    world.engine.delete(key("never"))
    world.engine.add(request("probe", "10.11.0.9", interfaces=("br-front",)))
    world.engine.delete(key("probe"))
    assert world.doors.nft.table_text().count("10.11.0.") == 0 == empty.count("10.11.0.")
    assert not world.doors.programs.hooked(world.bridge.index)
    assert not list(world.doors.programs.entries("networks"))
    assert world.doors.sysctls.values["net/ipv4/conf/br-front/route_localnet"] == "0"


def test_removing_on_a_host_without_attachments_makes_nothing(world: World) -> None:
    """DEL and gc of what never was leave a host without a table as it is."""
    world.engine.delete(key("never"))
    world.engine.collect("front", frozenset())
    assert world.engine.collect_stale() == []
    assert world.doors.nft.table_text() == ""


def test_two_interfaces_of_one_container_are_two_attachments(world: World) -> None:
    """The key is (network, container, ifname): deleting one interface leaves the other's ports."""
    world.attach("web", "10.11.0.2", port(8080))
    second = request("web", "10.11.0.3", port(8081), interfaces=("br-front",))
    second = Request(key("web", ifname="eth1"), second.addresses, second.host_interfaces, second.mappings, Options())
    world.engine.add(second)
    world.engine.delete(key("web"))
    assert world.published(8081, "10.11.0.3")
    assert not world.published(8080, "10.11.0.2")


def test_a_port_that_is_taken_is_refused_by_its_holders_name(world: World) -> None:
    """The error of a conflict names the container that holds the port, and nothing changes."""
    world.attach("web", "10.11.0.2", port(8080))
    before = world.doors.nft.table_text()
    with pytest.raises(PortConflictError, match=r'8080/tcp: already published by container "web" \(network "front"\)'):
        world.attach("other", "10.11.0.3", port(8080))
    assert world.doors.nft.table_text() == before
    assert [one.key.container for one in world.engine.attachments()] == ["web"]


def test_a_port_whose_holder_is_gone_can_be_freed(world: World) -> None:
    """Where a runtime never sent the DEL, the error of the next ADD names the command that does its work."""
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.links.remove(world.bridge.index)
    world.bridge = world.doors.links.link("br-front", "bridge")
    with pytest.raises(PortConflictError, match="that container is gone: dpctl gc frees the port"):
        world.attach("other", "10.11.0.3", port(8080))
    world.engine.collect_stale()
    world.attach("other", "10.11.0.3", port(8080))


@pytest.mark.parametrize("container", ["web", "next"])
def test_a_bridge_port_that_went_without_a_del_keeps_nobody_waiting(world: World, container: str) -> None:
    """Neither its own container's other interface, nor whoever has its address now."""
    gone = world.attach("web", "10.11.0.2", port(8080))
    (stale,) = world.engine.attachments()
    world.doors.links.remove(stale.device.port)
    world.doors.links.link("vethnew", "veth", world.bridge.index)
    late = request(container, "10.11.0.2", port(9090), network="back", interfaces=("br-front", "vethnew"))
    world.engine.add(late)
    world.engine.check(late)
    assert world.published(9090, "10.11.0.2")
    for one in (late, gone):
        world.engine.delete(one.key)
    assert world.engine.problems() == []


def test_a_host_address_and_the_wildcard_do_not_conflict(world: World) -> None:
    """One host address may be published beside the wildcard, and each only once."""
    world.attach("web", "10.11.0.2", port(8080))
    world.attach("admin", "10.11.0.3", port(8080, address="192.0.2.1"))
    with pytest.raises(PortConflictError, match=r"on 192\.0\.2\.1: already published by container \"admin\""):
        world.attach("late", "10.11.0.4", port(8080, address="192.0.2.1"))


def test_after_a_flush_the_next_add_restores_everything(world: World) -> None:
    """``nft flush ruleset`` costs nobody their ports for longer than until the next request."""
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.nft.flush_ruleset()
    world.attach("db", "10.11.0.3", port(5432, 5432))
    assert world.published(8080, "10.11.0.2")
    assert world.published(5432, "10.11.0.3", 5432)


def test_after_a_flush_a_delete_succeeds_and_restores_the_others(world: World) -> None:
    """DEL is at peace with what is gone already."""
    world.attach("web", "10.11.0.2", port(8080))
    world.attach("db", "10.11.0.3", port(5432, 5432))
    world.doors.nft.flush_ruleset()
    world.engine.delete(key("web"))
    assert not world.published(8080, "10.11.0.2")
    assert world.published(5432, "10.11.0.3", 5432)


def test_a_failed_add_undoes_what_it_did(world: World) -> None:
    """When nftables refuses, programs, entries and sysctls are as before, and the error is nftables' own."""
    world.engine.add(request("warm", "10.11.0.9", interfaces=("br-front",)))
    world.engine.delete(key("warm"))
    world.doors.nft.fail = NftError.from_errno("change", "table inet dataplane", errno.EPERM)
    with pytest.raises(NftError, match="Operation not permitted"):
        world.attach("web", "10.11.0.2", port(8080))
    assert not world.doors.programs.hooked(world.bridge.index)
    assert not list(world.doors.programs.entries("origins"))
    assert world.doors.sysctls.values["net/ipv4/conf/br-front/route_localnet"] == "0"
    assert world.engine.attachments() == []


def test_an_attach_that_fails_leaves_no_port_published(world: World) -> None:
    """A network that cannot be isolated is not opened either."""
    world.doors.programs.fail = BpfError.from_errno("attach", "program isolation", errno.EPERM)
    with pytest.raises(BpfError):
        world.attach("web", "10.11.0.2", port(8080))
    assert not world.published(8080, "10.11.0.2")


def test_an_interrupted_change_is_repaired_by_the_next_request(world: World) -> None:
    """A note in the journal that outlived its request makes the kernel equal to the state again."""
    world.attach("web", "10.11.0.2", port(8080))
    world.engine.store.begin([])
    stray = Element("publish4", (Protocol.TCP, Port(6666)), (IPv4Address("10.11.0.6"), Port(80)))
    world.doors.nft.run(Transaction((create(stray),)))
    world.doors.programs.put("networks", (99).to_bytes(4, "little"), bytes(8))
    world.engine.delete(key("nobody"))
    assert not world.doors.nft.contains(stray)
    assert world.published(8080, "10.11.0.2")
    assert world.doors.programs.get("networks", (99).to_bytes(4, "little")) is None


def test_what_an_interrupted_add_left_is_taken_back(world: World) -> None:
    """Programs, sysctls and accepts of an ADD that died before its commit go with the next request."""
    chain = ForeignChain("inet", "filter", "forward")
    rules = world.doors.nft.foreign_chain(ruleset.chain_ref(chain))
    world.engine.add(request("warm", "10.11.0.9", interfaces=("br-front",)))
    world.engine.delete(key("warm"))
    world.doors.links.link("vethweb", "veth", world.bridge.index)
    dying = request(
        "web", "10.11.0.2", port(8080), interfaces=("br-front", "vethweb"), options=Options(forward_chains=(chain,))
    )
    commit = world.engine.store.commit
    world.engine.store.commit = _die  # type: ignore[assignment,method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.engine.add(dying)
    world.engine.store.commit = commit  # type: ignore[method-assign]
    assert world.published(8080, "10.11.0.2")
    assert rules
    world.engine.delete(key("nobody"))
    assert not world.published(8080, "10.11.0.2")
    assert not world.doors.programs.hooked(world.bridge.index)
    assert world.doors.sysctls.values["net/ipv4/conf/br-front/route_localnet"] == "0"
    assert not world.doors.nft.foreign_chain(ruleset.chain_ref(chain))
    assert world.engine.networks() == {}


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_check_names_what_was_wiped_and_what_was_altered(world: World) -> None:
    """CHECK tells a wiped table from a missing element, an unhooked program and a changed sysctl."""
    web = world.attach("web", "10.11.0.2", port(8080))
    world.doors.programs.detach(Program.CHECKSUM, world.bridge.index)
    world.doors.sysctls.values["net/ipv4/ip_forward"] = "0"
    with pytest.raises(DifferenceError) as found:
        world.engine.check(web)
    assert [text.split(" to device")[0] for text in found.value.differences] == [
        "program checksum is not attached",
        "sysctl net/ipv4/ip_forward is 0, not 1",
    ]
    world.doors.nft.flush_ruleset()
    with pytest.raises(DifferenceError, match="was wiped"):
        world.engine.check(web)


def test_collect_removes_only_what_is_not_valid(world: World) -> None:
    """GC keeps the valid attachments of its network, and everything of other networks."""
    for number, name in enumerate(("a", "b", "c"), 2):
        world.attach(name, f"10.11.0.{number}", port(8000 + number))
    world.attach("other", "10.12.0.2", port(9000), network="back")
    world.engine.collect("front", frozenset({("b", "eth0")}))
    assert [one.key.container for one in world.engine.attachments()] == ["other", "b"]


def test_stale_attachments_are_those_without_namespace_or_device(world: World, tmp_path: Path) -> None:
    """``dpctl gc`` finds what a runtime left behind: a namespace that is gone, or another one by the same path."""
    alive, gone = tmp_path / "alive", tmp_path / "gone"
    for path in (alive, gone):
        path.touch()
    for number, path in enumerate((alive, gone), 2):
        made = request(path.name, f"10.11.0.{number}", interfaces=("br-front",))
        inode = path.stat().st_ino
        world.engine.add(Request(made.key, made.addresses, made.host_interfaces, (), made.options, str(path), inode))
    gone.unlink()
    assert [one.key.container for one in world.engine.stale()] == ["gone"]
    assert [one.key.container for one in world.engine.collect_stale()] == ["gone"]
    assert [one.key.container for one in world.engine.attachments()] == ["alive"]


def test_no_device_is_an_error_that_names_the_interfaces(world: World) -> None:
    """prevResult may name interfaces that are not there: the error says which."""
    with pytest.raises(DeviceNotFoundError, match="br-nowhere"):
        world.engine.add(request("web", "10.11.0.2", interfaces=("br-nowhere",)))


def test_a_routed_network_is_hooked_at_the_host_veth(world: World) -> None:
    """Without a bridge the container-facing device is the host veth."""
    veth = world.doors.links.link("vethptp")
    world.engine.add(request("web", "10.11.0.2", port(8080), interfaces=("vethptp",)))
    assert world.doors.programs.hooked(veth.index)


def test_the_checksum_mode_of_a_network_changes_at_once(world: World) -> None:
    """The operator's mode is in the map when the command returns, and dies with the network."""
    world.attach("web", "10.11.0.2", port(8080))
    world.engine.set_checksum_mode("front", ChecksumPolicy.OBSERVE)
    ((_, entry),) = world.doors.programs.entries("networks")
    assert entry[5] == 1
    with pytest.raises(EngineError, match="no attachment on network"):
        world.engine.set_checksum_mode("nowhere", ChecksumPolicy.OFF)


def test_what_is_filled_on_a_routed_network_outlives_a_container(world: World) -> None:
    """Its containers have a device each, and the UDP ports together."""
    filled = Options(checksum=ChecksumPolicy.FILL)
    for number in (2, 3):
        veth = world.doors.links.link(f"ptp{number}")
        world.engine.add(request(f"c{number}", f"10.11.0.{number}", interfaces=(veth.name,), options=filled))
    before = dict(world.doors.programs.entries("fill_ports"))
    assert len(before) == 2
    world.engine.delete(key("c2"))
    assert dict(world.doors.programs.entries("fill_ports")) == before
    world.engine.delete(key("c3"))
    assert dict(world.doors.programs.entries("fill_ports")) == {}


def test_whose_address_is_shared_is_not_known_in_full(world: World) -> None:
    """Networks may have the same addresses: CHECK does not judge what others of these are published by, too."""
    world.attach("web", "10.11.0.2 fd00:11::2", port(8081))
    world.attach("shop", "fd00:11::2", port(8080))
    third = world.attach("third", "10.11.0.2")
    world.engine.check(third)
    world.engine.delete(third.key)
    assert world.engine.problems() == []


def test_teardown_leaves_nothing(world: World) -> None:
    """``dpctl uninstall`` removes table, programs, entries and state."""
    world.attach("web", "10.11.0.2", port(8080))
    removed = world.engine.teardown()
    assert "table inet dataplane" in removed
    assert world.doors.nft.table_text() == ""
    assert not world.doors.programs.hooked(world.bridge.index)
    assert world.engine.attachments() == []
    world.attach("web", "10.11.0.2", port(8080))
    assert world.published(8080, "10.11.0.2")


def test_a_teardown_that_the_kernel_refuses_can_be_repeated(world: World) -> None:
    """What can be removed is removed, the error says what could not, and the state lives until all is gone."""
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.nft.fail = NftError.from_errno("change", "table inet dataplane", errno.EPERM)
    with pytest.raises(EngineError, match="Operation not permitted"):
        world.engine.teardown()
    assert not world.doors.programs.hooked(world.bridge.index)
    assert [one.key.container for one in world.engine.attachments()] == ["web"]
    world.engine.teardown()
    assert world.doors.nft.table_text() == ""
    assert world.engine.attachments() == []


def test_a_lock_that_others_hold_is_a_request_to_try_again(world: World) -> None:
    """Whoever waits in vain for the lock is told to try again, not left waiting."""
    with (
        locked(world.directory / "lock"),
        pytest.raises(BusyError, match="try again"),
        locked(world.directory / "lock", timeout=0.05),
    ):
        pass


def forwarding(chain: str) -> Options:
    """A network that needs an accept in a foreign chain."""
    return Options(forward_chains=(ForeignChain("inet", "filter", chain),))


def test_a_foreign_chain_that_vanished_is_one_networks_trouble(world: World) -> None:
    """Without it, everybody else's ADD and DEL go on, and CHECK of the one network says what is missing."""
    world.doors.nft.foreign_chain(ruleset.chain_ref(ForeignChain("inet", "filter", "forward")))
    world.doors.links.link("br-back", "bridge")
    needy = request("needy", "10.12.0.2", network="back", interfaces=("br-back",), options=forwarding("forward"))
    world.engine.add(needy)
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.nft.flush_ruleset()
    world.engine.delete(key("web"))
    late = world.attach("late", "10.11.0.3", port(8081))
    world.engine.check(late)
    with pytest.raises(DifferenceError, match="chain inet filter forward has 0 of the 3 accepts"):
        world.engine.check(needy)


def test_a_wrong_foreign_chain_does_not_rebuild_the_table(world: World) -> None:
    """A typo in forwardChains is that ADD's error alone: our table is not touched."""
    world.attach("web", "10.11.0.2", port(8080))
    transactions = len(world.doors.nft.log)
    with pytest.raises(NftError, match="inet filter forwrad"):
        world.attach("typo", "10.12.0.2", network="back", options=forwarding("forwrad"))
    assert not [text for text in world.doors.nft.log[transactions:] if "add table" in text]


def test_a_device_that_vanished_with_its_conditions_keeps_nobody_waiting(world: World) -> None:
    """A deleted bridge whose network has conditions, then a flush: others are restored, and it can be deleted."""
    other = world.doors.links.link("br-back", "bridge")
    options = Options(conditions4=parse(["ip", "saddr", "!=", "10.0.0.0/8"], 4))
    world.engine.add(request("gone", "10.12.0.2", port(9090), network="back", interfaces=("br-back",), options=options))
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.links.remove(other.index)
    world.doors.nft.flush_ruleset()
    world.attach("late", "10.11.0.3", port(8081))
    assert world.published(8080, "10.11.0.2")
    world.engine.delete(key("gone", "back"))
    world.attach("last", "10.11.0.4", port(9090))


def test_a_repair_that_failed_stays_due(world: World) -> None:
    """A DEL that could not repair first removes its own; the next request repairs what was left."""
    world.attach("web", "10.11.0.2", port(8080))
    world.attach("other", "10.11.0.3", port(8081))
    world.doors.programs.detach(Program.ISOLATION, world.bridge.index)
    world.engine.store.begin(())
    world.doors.programs.fail = BpfError.from_errno("attach", "program isolation", errno.ENOMEM)
    world.engine.delete(key("other"))
    assert not world.published(8081, "10.11.0.3")
    world.engine.delete(key("nobody"))
    assert {hooked.program for hooked in world.doors.programs.hooked(world.bridge.index)} == set(NETWORK_PROGRAMS)


def test_a_repair_that_fails_within_an_add_stays_due(world: World) -> None:
    """The ADD after a flush whose repair failed half way fails, and the next one does not run without isolation."""
    web = world.attach("web", "10.11.0.2", port(8080))
    world.doors.nft.flush_ruleset()
    world.doors.programs.fail = BpfError.from_errno("attach", "program isolation", errno.ENOMEM)
    world.doors.programs.detach(Program.ISOLATION, world.bridge.index)
    with pytest.raises(BpfError):
        world.attach("late", "10.11.0.3", port(8081))
    world.attach("again", "10.11.0.4", port(8082))
    world.engine.check(web)


def test_conditions_of_one_container_do_not_fail_the_check_of_others(world: World) -> None:
    """CHECK compares chains with what was last written, also after condition groups came and went."""
    web = world.attach("web", "10.11.0.2", port(8080))
    options = Options(conditions4=parse(["ip", "saddr", "!=", "10.0.0.0/8"], 4))
    narrow = world.attach("narrow", "10.11.0.3", port(8080), options=options)
    world.engine.check(web)
    world.engine.check(narrow)
    world.engine.delete(narrow.key)
    world.engine.check(web)


def test_a_bridge_that_was_made_anew_keeps_its_sysctl(world: World) -> None:
    """The late DEL of a container on the former bridge does not switch localhost off for those on the new one."""
    world.attach("old", "10.11.0.2", port(8080))
    world.doors.links.remove(world.bridge.index)
    world.bridge = world.doors.links.link("br-front", "bridge")
    new = world.attach("new", "10.11.0.3", port(8081))
    world.engine.delete(key("old"))
    assert world.doors.sysctls.values["net/ipv4/conf/br-front/route_localnet"] == "1"
    world.engine.check(new)


def test_host_addresses_come_with_a_mode_and_with_a_repair(world: World) -> None:
    """Whatever makes wildcard ports be proved also tells the program the addresses to prove them against."""
    address = world.doors.links.addresses[0]
    own = pack_address(address)

    def told() -> bytes | None:
        return (
            world.doors.programs.get("host_addresses", host_address_key(address))
            if world.doors.programs.loaded()
            else None
        )

    world.attach("web", "10.11.0.2", port(8080), options=Options(checksum=ChecksumPolicy.OFF))
    world.engine.set_checksum_mode("front", ChecksumPolicy.REPAIR)
    assert told() == own
    world.doors.programs.unload()
    world.engine.delete(key("nobody"))
    assert told() == own


def test_isolated_needs_the_bridge_port(world: World) -> None:
    """Where prevResult names no port of the bridge nothing could be isolated: ADD says so."""
    options = Options(ingress_policy=IngressPolicy.ISOLATED)
    with pytest.raises(DeviceNotFoundError, match="isolated needs"):
        world.engine.add(request("web", "10.11.0.2", interfaces=("br-front",), options=options))
    web = world.attach("web", "10.11.0.2", options=options)
    port_index = world.engine.attachments()[0].device.port
    world.doors.links.set_port_flags(port_index, PortFlags(isolated=False))
    with pytest.raises(DifferenceError, match="is not isolated"):
        world.engine.check(web)


def test_a_repeated_add_heals(world: World) -> None:
    """The same ADD again puts back what somebody took away, single elements included."""
    web = world.attach("web", "10.11.0.2", port(8080))
    world.doors.nft.run(Transaction((delete(published(8080)),)))
    world.engine.add(web)
    world.engine.check(web)
    world.doors.nft.flush_ruleset()
    world.engine.add(web)
    world.engine.check(web)


def published(host_port: int) -> Element:
    """The element of a published port of 10.11.0.2."""
    return Element("publish4", (Protocol.TCP, Port(host_port)), (IPv4Address("10.11.0.2"), Port(80)))


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\0" + bytes(200)], ids=["text", "truncated"])
def test_a_state_that_cannot_be_read_is_set_aside(
    tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is kept, a line says so, and requests work on."""
    (tmp_path / "state.db").write_bytes(damage)
    doors = FakeDoors()
    doors.links.link("br-front", "bridge")
    engine = Engine(doors.kernel(), tmp_path)
    engine.delete(key("web"))
    engine.add(request("web", "10.11.0.2", port(8080), interfaces=("br-front",)))
    engine.close()
    assert (tmp_path / "state.db.unreadable").read_bytes() == damage
    assert "cannot be read" in capsys.readouterr().err


def test_a_wrong_setting_fails_add_and_not_delete(world: World) -> None:
    """With a typo in the settings file containers can still be taken away."""
    web = world.attach("web", "10.11.0.2", port(8080))
    broken = Engine(world.doors.kernel(), world.directory, SettingsError("dataplane.toml: unknown key 'atach'"))
    with pytest.raises(SettingsError, match="atach"):
        broken.add(web)
    broken.delete(key("web"))
    broken.close()
    assert not world.published(8080, "10.11.0.2")
