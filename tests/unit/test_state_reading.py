"""The state, read beside the engine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from control.engine import STATE_FILE
from control.model import ChecksumPolicy
from control.state.database import StateError
from control.state.reading import Known, read
from support.attachments import port
from support.fakeworld import World, fake_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with fake_world(tmp_path) as made:
        yield made


def state_of(world: World) -> Path:
    return Path(world.engine.store._db.path)


def test_it_is_what_the_engine_says(world: World) -> None:
    """Attachments and networks are those of the engine, an operator's mode included, while the engine has it open."""
    world.attach("web", "10.88.0.3", port(8081))
    world.attach("shop", "10.88.0.4", port(8082))
    (network,) = world.engine.networks()
    world.engine.set_checksum_mode(network, ChecksumPolicy.OBSERVE)
    known = read(state_of(world))
    assert list(known.attachments) == world.engine.attachments()
    assert known.networks == world.engine.networks()
    assert known.networks[network].checksum is ChecksumPolicy.OBSERVE


def test_where_there_is_none_none_is_made(tmp_path: Path) -> None:
    """A host without state has nothing attached, and is left as it is."""
    assert read(tmp_path / STATE_FILE) == Known()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b""])
def test_what_cannot_be_read_is_said(tmp_path: Path, damage: bytes) -> None:
    """A file that is no state of this version is an error that names it, and what to do; it is not touched."""
    path = tmp_path / STATE_FILE
    path.write_bytes(damage)
    with pytest.raises(StateError, match=r"could not read the state .*dpctl status reads back"):
        read(path)
    assert path.read_bytes() == damage


def test_a_damaged_row_hides_no_other(world: World) -> None:
    """A row that is not as it was written is left out, and the rest is read."""
    world.attach("web", "10.88.0.3", port(8081))
    world.attach("shop", "10.88.0.4", port(8082))
    path = state_of(world)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE attachments SET document = replace(document, '8082', '8083') WHERE container = 'shop'")
        other.commit()
    assert [one.key.container for one in read(path).attachments] == ["web"]
