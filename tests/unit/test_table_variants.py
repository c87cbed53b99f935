"""One table for one way to serve localhost, and one version: what is written for another replaces it whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path
from unittest.mock import patch

import pytest

from control.desired import ruleset
from control.desired.ruleset import Variant
from control.engine import Engine
from control.repair.reconciler import EVERYTHING, Part
from control.settings import LocalhostMode, Settings
from dataplane.errors import BpfError, KernelError
from dataplane.fakes import FakeDoors
from support.attachments import key, port
from support.fakeworld import World

GUARD, ROUTE_LOCALNET = "chain inet dataplane loopback_guard", "net/ipv4/conf/br-front/route_localnet"
HOST4 = IPv4Address("192.0.2.1")


@pytest.fixture
def doors() -> FakeDoors:
    """A host with cgroups and a bridge."""
    made = FakeDoors()
    made.programs.cookie = 4711
    made.links.link("br-front", "bridge")
    made.links.addresses = (HOST4,)
    return made


def guarded_against(doors: FakeDoors) -> bool:
    """Whether 127.0.0.0/8 from elsewhere is dropped."""
    return GUARD in doors.nft.table_text()


def test_the_guard_is_there_before_route_localnet_and_stays_until_after(tmp_path: Path, doors: FakeDoors) -> None:
    """However the means change, never are there packets of 127.0.0.0/8 to be routed without it."""
    seen: list[tuple[str, bool]] = []
    write = doors.sysctls.write

    def watched(name: str, value: str) -> None:
        if name == ROUTE_LOCALNET:
            seen.append((value, guarded_against(doors)))
        write(name, value)

    doors.sysctls.write = watched  # type: ignore[method-assign]
    doors.sysctls.values[ROUTE_LOCALNET] = "0"
    for mode in (LocalhostMode.AUTO, LocalhostMode.NFT, LocalhostMode.AUTO, LocalhostMode.NFT, LocalhostMode.OFF):
        with closing(Engine(doors.kernel(), tmp_path, Settings(localhost=mode))) as engine:
            world = World(engine, doors, doors.links.all_links()[0], tmp_path)
            if not any(engine.attachments()):
                world.attach("web", "10.11.0.2", port(8080))
            engine.reconcile()
            assert engine.problems() == []
            assert guarded_against(doors) == (mode is LocalhostMode.NFT)
    assert seen == [("1", True), ("0", True), ("1", True), ("0", True)]


def test_means_that_change_while_nobody_is_attached(tmp_path: Path, doors: FakeDoors) -> None:
    """The first container finds the table that belongs to the means, guard and all, and not the one that was left."""
    for mode in (LocalhostMode.AUTO, LocalhostMode.NFT, LocalhostMode.AUTO):
        with closing(Engine(doors.kernel(), tmp_path, Settings(localhost=mode))) as engine:
            world = World(engine, doors, doors.links.all_links()[0], tmp_path)
            world.attach("web", "10.11.0.2", port(8080))
            assert guarded_against(doors) == (mode is LocalhostMode.NFT)
            assert world.published(8080, "10.11.0.2")
            engine.delete(key("web"))


def changed_over(tmp_path: Path, doors: FakeDoors) -> Engine:
    """A host whose localhost nftables served, and an engine that is to serve it by programs."""
    doors.sysctls.values[ROUTE_LOCALNET] = "0"
    with closing(Engine(doors.kernel(), tmp_path, Settings(localhost=LocalhostMode.NFT))) as engine:
        World(engine, doors, doors.links.all_links()[0], tmp_path).attach("web", "10.11.0.2", port(8080))
    assert doors.sysctls.values[ROUTE_LOCALNET] == "1"
    return Engine(doors.kernel(), tmp_path, Settings(localhost=LocalhostMode.AUTO))


def by_a_look(engine: Engine) -> None:
    assert Part.STATE in engine.sync(EVERYTHING).failed


def by_the_owner(engine: Engine) -> None:
    with patch.object(engine.kernel.nft, "become_owner", return_value=True):
        engine.own_table()


@pytest.mark.parametrize("write", [by_a_look, by_the_owner])
def test_the_guard_stays_until_route_localnet_is_back_whoever_writes(
    tmp_path: Path, doors: FakeDoors, write: Callable[[Engine], None]
) -> None:
    """Also where programs cannot be loaded, so that localhost is served by nobody."""
    with (
        closing(changed_over(tmp_path, doors)) as engine,
        patch.object(doors.programs, "load", side_effect=BpfError.from_errno("load", "programs", 1)),
    ):
        write(engine)
        assert guarded_against(doors) or doors.sysctls.values[ROUTE_LOCALNET] == "0"
    assert "map publish4" in doors.nft.table_text()


def test_ports_are_published_though_no_sysctl_can_be_written(tmp_path: Path, doors: FakeDoors) -> None:
    """Behind the guard, and it is said what is wrong; once it can be written, all is as it should be."""
    with closing(changed_over(tmp_path, doors)) as engine:
        doors.nft.flush_ruleset()
        with patch.object(doors.sysctls, "write", side_effect=KernelError("write", "sysctl", "read-only")):
            with pytest.raises(KernelError, match="read-only"):
                engine.reconcile()
            assert guarded_against(doors)
            assert World(engine, doors, doors.links.all_links()[0], tmp_path).published(8080, "10.11.0.2")
        engine.reconcile()
        assert engine.problems() == []
        assert not guarded_against(doors)
        assert doors.sysctls.values[ROUTE_LOCALNET] == "0"


def add(world: World) -> None:
    world.attach("late", "10.11.0.3", port(8081))
    assert world.published(8081, "10.11.0.3")


def sync(world: World) -> None:
    (text,) = world.engine.sync(frozenset({Part.TABLES})).found[Part.TABLES]
    assert "another version's" in text


def delete(world: World) -> None:
    world.attach("late", "10.11.0.3", port(8081))
    world.engine.delete(key("late"))
    assert not world.published(8081, "10.11.0.3")


def as_written(world: World) -> None:
    """Have the state say of the table that is there that it was found right."""
    other = ruleset.schema(Variant(1)).name
    world.engine.store.keep_fact("fingerprint", world.doors.nft.fingerprint())
    world.engine.store.keep_fact("generation", f"{world.doors.nft.generation()} {other}")


@pytest.mark.parametrize("request_of", [add, sync, delete])
def test_a_table_of_another_version_is_replaced(world: World, request_of: Callable[[World], None]) -> None:
    """Whatever comes first, though the state says that the table is as it was written: nothing published is lost. In
    one transaction, and once."""
    world.attach("web", "10.11.0.2", port(8080))
    other = ruleset.schema(Variant(1)).name
    world.doors.nft.run(ruleset.skeleton(Variant(1), ()))
    as_written(world)
    before = len(world.doors.nft.log)
    request_of(world)
    assert other not in world.doors.nft.table_text()
    assert world.published(8080, "10.11.0.2")
    assert world.engine.problems() == []
    assert sum("delete table inet dataplane\n" in text for text in world.doors.nft.log[before:]) == 1


def test_an_address_is_asked_for_as_long_as_anybody_publishes_on_it(world: World) -> None:
    """Two containers on one address of the host: the last one takes it away, whichever that is."""
    element = ruleset.specific(HOST4)
    for first, last in (("web", "shop"), ("shop", "web")):
        world.attach("web", "10.11.0.2", port(8080, address=str(HOST4)))
        world.attach("shop", "10.11.0.3", port(8081, address=str(HOST4)))
        world.engine.delete(key(first))
        assert world.doors.nft.contains(element)
        assert world.engine.problems() == []
        world.engine.delete(key(last))
        assert not world.doors.nft.contains(element)
