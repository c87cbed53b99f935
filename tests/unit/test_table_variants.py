"""One table for one way to serve localhost, and one version: what is written for another replaces it whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from control.desired import ruleset
from control.desired.ruleset import Variant
from control.engine import Engine
from control.repair.reconciler import Part
from control.settings import LocalhostMode, Settings
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


def by_text(world: World) -> None:
    """As the state of a version that kept the skeleton's text, and a generation alone."""
    world.engine.store.keep_fact("skeleton", world.doors.nft.skeleton_text())
    world.engine.store.keep_fact("generation", str(world.doors.nft.generation()))
    with sqlite3.connect(world.directory / "state.db") as state:
        state.execute("DELETE FROM facts WHERE name = 'fingerprint'")
    state.close()


def by_fingerprint(world: World) -> None:
    """As the state of another version that keeps fingerprints, too."""
    other = ruleset.schema(Variant(1)).name
    world.engine.store.keep_fact("fingerprint", world.doors.nft.fingerprint())
    world.engine.store.keep_fact("generation", f"{world.doors.nft.generation()} {other}")


@pytest.mark.parametrize("kept", [by_text, by_fingerprint])
@pytest.mark.parametrize("request_of", [add, sync, delete])
def test_a_table_of_another_version_is_replaced(
    world: World, request_of: Callable[[World], None], kept: Callable[[World], None]
) -> None:
    """Whatever comes first, though the state says that the table is as it was written: nothing published is lost. In
    one transaction, and once."""
    world.attach("web", "10.11.0.2", port(8080))
    other = ruleset.schema(Variant(1)).name
    world.doors.nft.run(ruleset.skeleton(Variant(1), ()))
    kept(world)
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
