"""Fixtures of all tests. A sandbox that is not given back as it was taken fails the test that used it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import needs
from support.netns import Sandbox, outer_state


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A host of its own for one test, and the proof that the machine outside is as it was."""
    needs.root()
    before = outer_state()
    with Sandbox() as host:
        yield host
    assert outer_state() == before, "the test left something on the machine it runs on"
