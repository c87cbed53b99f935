"""The state's queries: as quick with ten thousand attachments as with a few, and right about who asks for what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from control.desired.hooks import use_of
from control.model import AttachmentKey, ChecksumPolicy
from support.attachments import port
from support.fakeworld import World, fake_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with fake_world(tmp_path) as made:
        yield made


def steps(world: World) -> int:
    """How many instructions SQLite runs for an ADD, its repetition and its DEL."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    database = world.engine.store._db._connection
    database.set_progress_handler(count, 1)
    world.attach("web", "10.88.0.3", port(8081))
    made = world.attach("web", "10.88.0.3", port(8081))
    world.engine.delete(made.key)
    database.set_progress_handler(None, 1)
    return counted


def test_a_request_takes_as_long_beside_many_as_beside_few(world: World) -> None:
    """No statement goes through the attachments, their addresses or their ports."""
    for number in range(1, 4):
        world.attach(f"c{number}", f"10.88.1.{number}", port(number))
    few = steps(world)
    for number in range(4, 250):
        world.attach(f"c{number}", f"10.88.1.{number}", port(number))
    assert steps(world) < few * 1.2


def test_each_distinct_use_is_found_once(world: World) -> None:
    """However many ask for the same of a device, and however many different things are asked of it."""
    alike = [world.attach(f"alike{number}", f"10.88.1.{number}") for number in range(1, 20)]
    others = [world.attach(f"other{number}", f"10.88.2.{number}", network=f"net{number}") for number in range(1, 5)]
    store = world.engine.store
    device = next(store.attachments()).device
    wanted = {use_of(one) for made in (*alike, *others) if (one := store.get(made.key))}
    assert len(wanted) == 5
    found = store.uses([device])
    assert (len(found), set(found)) == (5, wanted)
    alone = others[0].key
    assert {use.network for use in store.uses([device], alone)} == {use.network for use in wanted} - {alone.network}
    assert store.uses([device], AttachmentKey("front", "nobody", "eth0")) == found


def test_an_operators_mode_is_another_state(world: World) -> None:
    """Who has read the checksum modes, in another process as well, can tell that one was changed."""
    world.attach("web", "10.88.0.3")
    store = world.engine.store
    before = store.version
    store.set_checksum("front", ChecksumPolicy.OBSERVE)
    assert store.version != before
