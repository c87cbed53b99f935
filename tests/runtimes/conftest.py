"""Fixtures of the runtimes' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.podmanhost import PodmanHost, Setup


@pytest.fixture(scope="module")
def podman_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodmanHost]:
    """A host with podman, of the ``Setup`` that is the parameter; one for all tests of a module."""
    setup: Setup = request.param
    with PodmanHost.started(setup, tmp_path_factory.mktemp(f"podman-{setup}")) as host:
        yield host
