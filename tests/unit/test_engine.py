"""The engine on fake doors: what state and kernel hold after each request, and after each failure."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from control import ruleset
from control.engine import Engine
from control.errors import BusyError, DeviceNotFoundError, DifferenceError, EngineError, PortConflictError
from control.lock import locked
from control.model import ChecksumPolicy, ForeignChain, Options, Request
from dataplane.doors import Link
from dataplane.errors import BpfError, NftError
from dataplane.fakes import FakeDoors
from dataplane.nft.objects import Element, Port
from dataplane.types import Program, Protocol
from support.attachments import key, port, request


@dataclass
class World:
    """An engine, the fakes behind it, and the links they know."""

    engine: Engine
    doors: FakeDoors
    bridge: Link
    directory: Path

    def attach(self, container: str, address: str, *mappings: object, **more: object) -> Request:
        """ADD a container by a host veth of its own."""
        veth = self.doors.links.link(f"veth{container}", "veth", self.bridge.index)
        made = request(container, address, *mappings, interfaces=("br-front", veth.name), **more)  # type: ignore[arg-type]
        self.engine.add(made)
        return made

    def published(self, host_port: int, target: str, container_port: int = 80) -> bool:
        """Whether the kernel leads this TCP port to that target."""
        value = (IPv4Address(target), Port(container_port))
        return self.doors.nft.contains(Element("publish4", (Protocol.TCP, Port(host_port)), value))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """One bridge, no attachment."""
    doors = FakeDoors()
    bridge = doors.links.link("br-front", "bridge")
    doors.links.addresses = (IPv4Address("192.0.2.1"),)
    engine = Engine(doors.kernel(), tmp_path)
    yield World(engine, doors, bridge, tmp_path)
    engine.close()


def test_add_publishes_and_check_agrees(world: World) -> None:
    """After ADD the port leads to the container, the programs are hooked, and CHECK finds no difference."""
    web = world.attach("web", "10.11.0.2", port(8080))
    assert world.published(8080, "10.11.0.2")
    assert {hooked.program for hooked in world.doors.programs.hooked(world.bridge.index)} == set(Program)
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
    from dataplane.nft.transaction import Transaction, create

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


def test_a_lock_that_others_hold_is_a_request_to_try_again(world: World) -> None:
    """Whoever waits in vain for the lock is told to try again, not left waiting."""
    with (
        locked(world.directory / "lock"),
        pytest.raises(BusyError, match="try again"),
        locked(world.directory / "lock", timeout=0.05),
    ):
        pass
