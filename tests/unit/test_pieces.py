"""A look at everything in pieces: requests and faults of others between any two of them, on fake doors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from control.desired import ruleset
from control.engine import Engine
from control.model import IngressPolicy, Options
from control.repair.reconciler import ALL, Outcome, merged
from control.state import mirror
from dataplane.nft.elements import pack
from dataplane.types import Program
from support.attachments import key, port
from support.fakeworld import World, fake_world

ISOLATED = Options(ingress_policy=IngressPolicy.ISOLATED)
CONTAINERS = 4
HOST = "192.0.2.1"


def populated(world: World) -> Engine:
    """Another engine of a host with a few containers, which has looked at nothing yet: an agent that has started."""
    for number in range(CONTAINERS):
        mappings = [port(8000 + 100 * number + place) for place in range(3)]
        world.attach(f"c{number}", f"10.11.0.{number + 2}", *mappings, options=ISOLATED)
    return Engine(world.doors.kernel(), world.directory)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each attachment in a piece of its own."""
    monkeypatch.setattr(mirror, "_AT_ONCE", 1)


def pieces(directory: Path) -> int:
    """How many there are."""
    with fake_world(directory) as world:
        return len(list(populated(world).looks(ALL)))


def before_each_piece(directory: Path) -> Iterator[tuple[World, Engine, Iterator[Outcome]]]:
    """A host whose look has come to that piece, and the looks that are to come: once for each."""
    for before in range(pieces(directory / "counted")):
        with fake_world(directory / str(before)) as world:
            engine = populated(world)
            looks = engine.looks(ALL)
            for _ in range(before):
                next(looks)
            yield world, engine, looks


@pytest.mark.parametrize("stranger", [False, True])
def test_requests_between_any_two_pieces(tmp_path: Path, *, stranger: bool) -> None:
    """ADD and DEL, and perhaps a DEL by another process, before each piece: they are served, and the look finds nothing
    wrong."""
    count = pieces(tmp_path / "counted")
    assert count > CONTAINERS
    for before in range(count):
        with fake_world(tmp_path / str(before)) as world:
            engine = populated(world)
            other, world.engine = world.engine, engine
            looks = engine.looks(ALL)
            outcomes = [next(looks) for _ in range(before)]
            world.attach("late", "10.11.0.100", port(9000))
            engine.delete(key("c1"))
            engine.delete(key("c2"))
            if stranger:
                other.delete(key("c3"))
            outcomes += looks
            assert merged(outcomes) == Outcome()
            assert world.published(9000, "10.11.0.100")
            assert not world.published(8100, "10.11.0.3")
            assert not engine.problems()
            assert engine.sync(ALL) == Outcome()
            other.close()


def test_a_change_that_was_interrupted_is_repaired_before_the_next(tmp_path: Path) -> None:
    """Whichever piece comes next: what the killed process left in the kernel is right before another ADD changes it."""
    for world, engine, looks in before_each_piece(tmp_path):
        world.engine.store.begin(())
        world.doors.nft.flush_ruleset()
        world.doors.programs.detach(Program.ISOLATION, world.bridge.index)
        world.attach("late", "10.11.0.100", port(9000))
        assert world.published(8000, "10.11.0.2")
        assert not engine.problems()
        assert not merged(looks).failed
        assert not engine.problems()


def test_what_is_broken_between_two_pieces_is_found_by_the_next_look(tmp_path: Path) -> None:
    """A part that was looked at already is looked at again as soon as that is asked for, and so are all maps."""
    for world, engine, looks in before_each_piece(tmp_path):
        for name in ("networks", "origins", "published", "containers", "ports"):
            for entry, _ in list(world.doors.programs.entries(name)):
                world.doors.programs.drop(name, entry)
        assert not merged(looks).failed
        engine.sync(ALL)
        assert not engine.problems()


@pytest.mark.parametrize("at_most_behind", [0, 3, 32])
def test_the_mirror_is_right_whatever_changes_between_its_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_most_behind: int
) -> None:
    """An address of the host that containers share stays for whoever has it last, though the one was packed before and
    the other is only after it: no change is lost, and none counts twice."""
    monkeypatch.setattr(mirror, "_MAX_BEHIND", at_most_behind)

    def on_host(world: World, name: str, number: int) -> None:
        world.attach(name, "10.11.0." + str(number + 2), port(8000 + 100 * number, address=HOST), options=ISOLATED)

    for before in range(CONTAINERS + 3):
        with fake_world(tmp_path / str(before)) as world:
            engine = populated(world)
            on_host(world, "c0", 0)
            world.engine = engine
            for _ in range(before):
                engine.mirror.read_on()
            engine.delete(key("c0"))
            for number in (3, 1):
                on_host(world, f"c{number}", number)
            engine.delete(key("c1"))
            on_host(world, "c1", 1)
            engine.delete(key("c3"))
            found = {
                (name, *one.held.packed)
                for name, wanted in engine.mirror.sets().items()
                for one in wanted.printed.values()
            }
            elements = (one for attached in engine.attachments() for one in ruleset.elements(attached))
            assert found == {(one.set_name, *pack(one)) for one in elements}
            assert engine.mirror.readings == 1
            assert not engine.problems()
