"""Several plugins of ours on one interface: each has its part, and the kernel what all parts ask for."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from control.errors import DeviceNotFoundError, DifferenceError, PortConflictError
from control.model import (
    AttachmentKey,
    ChecksumPolicy,
    ForeignChain,
    GuardPolicy,
    IngressPolicy,
    Options,
    PortMapping,
    Request,
)
from control.repair.reconciler import EVERYTHING, Outcome
from dataplane.abi import U32, Port
from dataplane.doors import PortFlags
from dataplane.nft.objects import ChainRef, Table
from dataplane.types import GuardLevel, Program
from support.attachments import port
from support.fakeworld import World

KEYS = {plugin: AttachmentKey("front", "web", "eth0", plugin) for plugin in ("bridge", "portmap", "firewall")}
OPEN = Options(ingress_policy=IngressPolicy.OPEN, guard=GuardPolicy.OFF)
MAC = "02:00:00:00:00:01"


def part(plugin: str, options: Options, *mappings: PortMapping) -> Request:
    """What one plugin of the chain asks for."""
    addresses = (IPv4Address("10.11.0.2"),)
    return Request(KEYS[plugin], addresses, ("br-front", "vethweb"), mappings, options)  # the same interface for all


@pytest.fixture
def chain(world: World) -> list[Request]:
    """A stock chain: bridge with ipMasq, portmap with a port, firewall with isolation."""
    world.doors.links.link("vethweb", "veth", world.bridge.index)
    parts = [
        part("bridge", replace(OPEN, ip_masq=True)),
        part("portmap", OPEN, port(8080)),
        part("firewall", replace(OPEN, ingress_policy=IngressPolicy.ISOLATED)),
    ]
    for one in parts:
        world.engine.add(one)
    return parts


def flags(world: World) -> PortFlags:
    """Of the container's bridge port."""
    veth = world.doors.links.find("vethweb")
    assert veth is not None
    return world.doors.links.port_flags(veth.index)


def test_the_kernel_has_what_all_parts_ask_for(world: World, chain: list[Request]) -> None:
    """Each part's CHECK passes, and the port has the flags of two of them."""
    for one in chain:
        world.engine.check(one)
    assert world.published(8080, "10.11.0.2")
    assert flags(world) == PortFlags(hairpin=True, isolated=True)


@pytest.mark.parametrize("order", [("firewall", "portmap", "bridge"), ("bridge", "portmap", "firewall")])
def test_a_delete_takes_one_part(world: World, chain: list[Request], order: tuple[str, ...]) -> None:
    """DEL of one part leaves those of the others as they are; with the last one nothing is left, in whatever order."""
    parts = {one.key.plugin: one for one in chain}
    for plugin in order:
        world.engine.delete(KEYS[plugin])
        del parts[plugin]
        for one in parts.values():
            world.engine.check(one)
        assert world.published(8080, "10.11.0.2") == ("portmap" in parts)
        assert flags(world) == PortFlags(hairpin="portmap" in parts, isolated="firewall" in parts)
    assert world.engine.attachments() == []
    assert "10.11.0.2" not in world.doors.nft.table_text()


def test_a_repeated_part_is_one(world: World, chain: list[Request]) -> None:
    """ADD of one part again changes nothing, and its DEL gives the port the flags that it had before all parts."""
    for one in chain:
        world.engine.add(one)
    assert len(world.engine.attachments()) == len(chain)
    for one in chain:
        world.engine.delete(one.key)
    assert flags(world) == PortFlags(hairpin=False, isolated=False)


def test_gc_takes_all_parts(world: World, chain: list[Request]) -> None:
    """An interface that is no longer valid loses every part; one that is valid keeps all."""
    world.engine.collect("front", frozenset({("web", "eth0")}))
    assert len(world.engine.attachments()) == len(chain)
    world.engine.collect("front", frozenset())
    assert world.engine.attachments() == []


def test_two_parts_publish_the_same_port(world: World, chain: list[Request]) -> None:
    """A conflist that publishes twice is told which of its own plugins did so first."""
    with pytest.raises(PortConflictError, match="plugin portmap of the same conflist has done so"):
        world.engine.add(part("bridge", OPEN, port(8080)))


def test_a_lost_part_is_rebuilt_with_the_others(world: World, chain: list[Request]) -> None:
    """A flushed ruleset comes back whole with the next ADD of one part."""
    world.doors.nft.flush_ruleset()
    world.engine.add(chain[2])
    for one in chain:
        world.engine.check(one)


def test_a_guard_is_the_strictest_of_all_parts(world: World, chain: list[Request]) -> None:
    """Each part may ask for it, and it stays until the last that does is gone; CHECK tells what others took away."""
    veth = world.doors.links.find("vethweb")
    assert veth is not None

    def level() -> GuardLevel | None:
        found = dict(world.doors.programs.entries("ports"))
        hooked = [one.program for one in world.doors.programs.hooked(veth.index)]
        assert hooked == [Program.GUARD] * len(found)
        return Port.unpack(found[U32.pack(veth.index)]).guard if found else None

    assert level() is None
    checked = replace(chain[0], mac=MAC, options=replace(chain[0].options, guard=GuardPolicy.MAC))
    guarded = replace(chain[2], mac=MAC, options=replace(chain[2].options, guard=GuardPolicy.FULL))
    for one, expected in ((checked, GuardLevel.MAC), (guarded, GuardLevel.FULL)):
        world.engine.add(one)
        assert level() is expected
    world.doors.programs.detach(Program.GUARD, veth.index)
    with pytest.raises(DifferenceError, match=f"program guard is not attached to device {veth.index}"):
        world.engine.check(chain[1])
    assert world.engine.reconcile()[1] == []
    world.engine.delete(guarded.key)
    assert level() is GuardLevel.MAC
    world.engine.delete(checked.key)
    assert level() is None


def test_a_container_that_is_there_again_without_a_del(world: World, chain: list[Request]) -> None:
    """Its parts are asked for one by one, while those that were not yet have the port that is gone."""
    former = world.doors.links.find("vethweb")
    assert former is not None
    world.doors.links.remove(former.index)
    world.doors.links.link("vethweb", "veth", world.bridge.index)
    for one in chain:
        world.engine.add(one)
    for one in chain:
        world.engine.check(one)
    assert flags(world) == PortFlags(hairpin=True, isolated=True)
    assert world.engine.problems() == []


def test_addresses_that_a_later_part_knows(world: World, chain: list[Request]) -> None:
    """Whichever part was asked for last: what any of them has is on this interface."""
    later = replace(chain[1], addresses=(*chain[1].addresses, IPv4Address("10.11.0.77")))
    first = replace(chain[0], options=replace(OPEN, guard=GuardPolicy.FULL))
    for one in (later, first):
        world.engine.add(one)
        world.engine.check(one)
    assert set(dict(world.doors.programs.entries("port_addresses")).values()) == {U32.pack(1)}
    assert world.engine.problems() == []


def test_admin_chains(world: World, chain: list[Request]) -> None:
    """An admin chain comes with the first network that names it and stays; uninstall takes it while it is empty."""
    asked = replace(chain[2], options=replace(chain[2].options, admin_chain="CNI-ADMIN"))
    world.engine.add(asked)
    assert world.doors.nft.chains(Table.ADMIN) == {"CNI-ADMIN": 0}
    world.engine.check(asked)
    world.doors.nft.flush_ruleset()
    with pytest.raises(DifferenceError, match="chain inet dataplane_admin CNI-ADMIN is missing"):
        world.engine.check(asked)
    world.engine.reconcile()
    world.engine.delete(asked.key)
    assert world.doors.nft.chains(Table.ADMIN) == {"CNI-ADMIN": 0}
    assert f"table {Table.ADMIN}" in world.engine.teardown()
    assert not world.doors.nft.chains(Table.ADMIN)


def test_zones_of_firewalld(world: World, chain: list[Request]) -> None:
    """Where firewalld runs, addresses are in the zone that is asked for, are missed by CHECK, put back, taken out."""
    asked = replace(chain[2], options=replace(chain[2].options, firewalld_zone="trusted"))
    address = chain[2].addresses[0]
    world.engine.add(asked)
    world.engine.check(asked)
    firewalld = world.doors.firewalld
    firewalld.start("trusted")
    with pytest.raises(DifferenceError, match=f"address {address} is not in firewalld zone trusted"):
        world.engine.check(asked)
    world.engine.reconcile()
    assert firewalld.sources("trusted") == {address}
    world.engine.check(asked)
    world.engine.delete(asked.key)
    assert firewalld.sources("trusted") == frozenset()


def test_an_accept_where_there_is_a_chain(world: World, chain: list[Request]) -> None:
    """An optional foreign chain gets our accept where it is, is no trouble where it is not, and gets it once it is."""
    foreign = ForeignChain("ip", "filter", "FORWARD", optional=True)
    asked = replace(chain[0], options=replace(chain[0].options, forward_chains=(foreign,)))
    world.engine.add(asked)
    world.engine.check(asked)
    rules = world.doors.nft.foreign_chain(ChainRef("ip", "filter", "FORWARD"))
    with pytest.raises(DifferenceError, match="chain ip filter FORWARD has 0 of the 3 accepts"):
        world.engine.check(asked)
    world.engine.reconcile()
    assert len(rules) == 3
    world.engine.delete(asked.key)
    assert rules == []


def test_a_container_without_an_end_on_the_host(world: World) -> None:
    """A result without host interfaces (macvlan, or of an old version) is served by whatever link leads there."""
    request = replace(part("portmap", OPEN, port(8080)), host_interfaces=())
    with pytest.raises(DeviceNotFoundError, match="and the host has no route to the container"):
        world.engine.add(request)
    world.doors.links.routes[request.addresses[0]] = world.bridge
    world.engine.add(request)
    assert world.published(8080, "10.11.0.2")
    world.engine.delete(request.key)


def test_nobody_is_guarded_whose_port_is_not_known(world: World) -> None:
    """A network that needs no program but the guard needs none, and no repair, where there is nothing to guard."""
    asked = part("portmap", replace(OPEN, guard=GuardPolicy.FULL, checksum=ChecksumPolicy.OFF), port(8080))
    world.doors.links.routes[asked.addresses[0]] = world.bridge
    request = replace(asked, host_interfaces=())
    world.engine.add(request)
    assert not world.doors.programs.loaded()
    before = len(world.doors.nft.log)
    world.engine.add(request)
    assert world.engine.sync(EVERYTHING) == Outcome()
    assert not world.doors.programs.loaded()
    assert len(world.doors.nft.log) == before


def on_second_network(*mappings: PortMapping, address: str = "10.12.0.2") -> Request:
    """The same container on another network, with the ports that its runtime hands to every network."""
    key = AttachmentKey("back", "web", "eth1", "portmap")
    return Request(key, (ip_address(address),), ("br-front", "vethback"), mappings, OPEN)


def test_a_port_of_two_networks(world: World, chain: list[Request]) -> None:
    """podman gives all ports of a container to each of its networks: the first publishes them, and with its DEL the
    second does."""
    world.doors.links.link("vethback", "veth", world.bridge.index)
    second = on_second_network(port(8080), port(9090))
    world.engine.add(second)
    world.engine.check(second)
    assert world.published(8080, "10.11.0.2")
    assert world.published(9090, "10.12.0.2")
    for one in chain:
        world.engine.check(one)
    world.engine.delete(KEYS["portmap"])
    assert world.published(8080, "10.12.0.2")
    world.engine.check(second)
    world.doors.nft.flush_ruleset()
    world.engine.reconcile()
    assert world.published(8080, "10.12.0.2")
    world.engine.delete(second.key)
    assert not world.published(8080, "10.12.0.2")
    assert [one.key.plugin for one in world.engine.attachments()] == ["bridge", "firewall"]


def test_each_family_goes_to_the_network_that_has_it(world: World, chain: list[Request]) -> None:
    """Where the first network has no IPv6, the second one publishes that, and leaves IPv4 alone."""
    world.doors.links.link("vethback", "veth", world.bridge.index)
    second = on_second_network(port(8080))
    second = replace(second, addresses=(*second.addresses, ip_address("fd00:12::2")))
    world.engine.add(second)
    world.engine.check(second)
    assert world.published(8080, "10.11.0.2")
    assert "fd00:12::2 . 80" in world.doors.nft.table_text()


def test_another_container_is_still_refused(world: World, chain: list[Request]) -> None:
    """Only the own container's other interfaces may ask for a port that is taken."""
    world.doors.links.link("vethback", "veth", world.bridge.index)
    other = replace(on_second_network(port(8080)), key=AttachmentKey("back", "db", "eth0", "portmap"))
    with pytest.raises(PortConflictError, match='already published by container "web"'):
        world.engine.add(other)


def test_a_port_that_the_first_network_gives_up(world: World, chain: list[Request]) -> None:
    """A repeated ADD without the port hands it over as well, and does not take it back."""
    world.doors.links.link("vethback", "veth", world.bridge.index)
    second = on_second_network(port(8080))
    world.engine.add(second)
    world.engine.add(replace(chain[1], mappings=(port(7070),)))
    assert world.published(8080, "10.12.0.2")
    world.engine.add(chain[1])
    assert world.published(8080, "10.12.0.2")
    world.engine.check(second)
