"""Benches in tests: what measures, hosts to measure on, and runs from the command to the figures.

    def test_bulk(tmp_path: Path) -> None:
        figures = smoke(tmp_path, "bulk")["bulk"]          # the machine outside is as it was
        assert figures["bytes lost or changed"]["met"] is True

Fixtures, for all of tests/kernel: ``native``, ``host``, ``told`` and ``stage``.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.figures import Log
from bench.native import Native, build
from bench.place import Host
from bench.stage import Extent, Stage
from support import needs
from support.netns import outer_state
from support.started import DPCTL

Rows = dict[str, dict[str, Any]]
"""Figures, by what they are of."""

NEWER = "DATAPLANE_TEST_PEER"
"""A variable of the environment: the directory of plugins of which portmap has the nftables backend."""


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    """The programs that measure, built once."""
    needs.root()
    needs.command("cc", package="gcc")
    return build(tmp_path_factory.mktemp("native"))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host of the bench, and the proof that the machine outside is as it was."""
    needs.root()
    with untouched(), Host("host", tmp_path) as made:
        yield made


@pytest.fixture
def told() -> io.StringIO:
    """What a bench wrote."""
    return io.StringIO()


@pytest.fixture
def stage(tmp_path: Path, native: Native, told: io.StringIO) -> Iterator[Stage]:
    """A bench that hardly measures, and the proof that the machine outside is as it was."""
    with untouched():
        yield Stage(tmp_path, native, Log(told, {}, lambda _: None), Extent.SMOKE)


@pytest.fixture
def newer() -> Path:
    """A portmap with the nftables backend, which Debian 12 does not have."""
    given = os.environ.get(NEWER)
    if given is None:
        pytest.skip(f"missing: a portmap with the nftables backend (1.6 or later), in a directory that {NEWER} names")
    return needs.file(Path(given) / "portmap", package="containernetworking-plugins")


@contextmanager
def untouched() -> Iterator[None]:
    """Nothing that was made meanwhile stays on the machine outside."""
    before, there = outer_state(), abandoned()
    yield
    assert outer_state() == before
    assert abandoned() <= there


def abandoned() -> set[str]:
    """Cgroups of benches that have ended, or are this one's: others may be measuring."""
    found = Path("/sys/fs/cgroup").glob("**/dataplane-bench-*")
    makers = ((path, path.name.split("-")[2]) for path in found)
    return {str(path) for path, pid in makers if int(pid) == os.getpid() or not Path(f"/proc/{pid}").exists()}


def lines(told: str, kind: str) -> list[dict[str, Any]]:
    """What a bench wrote of a kind."""
    return [line for line in map(json.loads, told.splitlines()) if line["kind"] == kind]


def run(directory: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """``dpctl bench run`` with hardly any rounds, results in a directory; the machine is as it was."""
    needs.root()
    needs.command("cc", package="gcc")
    with untouched():
        return subprocess.run(
            [DPCTL, "bench", "run", *map(str, words), "--smoke", "--out", directory],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


def smoke(directory: Path, *scenarios: str) -> dict[str, Rows]:
    """The figures of each scenario after a run that measured all of them."""
    done = run(directory, *scenarios, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)["scenarios"]
    return {name: {one["what"]: one for one in found[name]["figures"]} for name in scenarios}
