"""Fixtures of the pure tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fakeworld import World, fake_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A host in memory, with one bridge and no attachment."""
    with fake_world(tmp_path) as made:
        yield made
