"""Changes in a directory: every name that anybody touched, and a clear word where that cannot be told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.directories import DirectoryChanges
from dataplane.errors import KernelError


@pytest.fixture
def changes(tmp_path: Path) -> Iterator[DirectoryChanges]:
    watched = DirectoryChanges(tmp_path)
    yield watched
    watched.close()


def test_names_are_told_once(tmp_path: Path, changes: DirectoryChanges) -> None:
    """What was made, written, linked, renamed or removed has its name told, and only the first time one asks."""
    assert changes.taken() == frozenset()
    (tmp_path / "made").touch()
    assert changes.taken() == frozenset({"made"})
    (tmp_path / "made").write_text("more")
    assert changes.taken() == frozenset({"made"})
    (tmp_path / "linked").hardlink_to(tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / "renamed")
    assert changes.taken() == frozenset({"linked", "made", "renamed"})
    (tmp_path / "linked").unlink()
    assert changes.taken() == frozenset({"linked"})
    (tmp_path / "renamed").read_text()
    assert changes.taken() == frozenset()


def test_what_another_process_does_is_told(tmp_path: Path, changes: DirectoryChanges) -> None:
    """By the time that another process has done it."""
    child = os.fork()
    if child == 0:
        (tmp_path / "made").touch()
        os._exit(0)
    os.waitpid(child, 0)
    assert changes.taken() == frozenset({"made"})


def test_the_end_of_a_directory_is_told(tmp_path: Path) -> None:
    """One that was removed, or is elsewhere now, has no changes any more; and what is none cannot be watched."""
    for end in (Path.rmdir, lambda gone: gone.rename(tmp_path / "elsewhere")):
        gone = tmp_path / "gone"
        gone.mkdir()
        watched = DirectoryChanges(gone)
        end(gone)
        assert watched.taken() is None
        watched.close()
    with pytest.raises(KernelError, match="No such file"):
        DirectoryChanges(tmp_path / "gone")
    first = DirectoryChanges(tmp_path)
    with pytest.raises(KernelError, match="File exists"):
        DirectoryChanges(tmp_path)
    first.close()
    (tmp_path / "file").touch()
    with pytest.raises(KernelError, match="Not a directory"):
        DirectoryChanges(tmp_path / "file")


def test_more_changes_than_the_kernel_keeps_are_told(tmp_path: Path, changes: DirectoryChanges) -> None:
    """Where the kernel dropped some, nobody is told that these were all."""
    kept = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    names = [str(tmp_path / name) for name in ("one", "two")]
    for number in range(kept // 2 + 1):  # the same change twice in a row counts once
        os.close(os.open(names[number % 2], os.O_CREAT | os.O_WRONLY))
        os.unlink(names[number % 2])  # noqa: PTH108 - thousands of them
    assert changes.taken() is None


def test_a_child_takes_nothing_from_its_parent(tmp_path: Path, changes: DirectoryChanges) -> None:
    """A forked child cannot tell, may watch by itself, and leaves all changes to its parent."""
    (tmp_path / "made").touch()
    child = os.fork()
    if child == 0:
        known = changes.taken()
        changes.close()
        own = DirectoryChanges(tmp_path)
        (tmp_path / "by child").touch()
        os._exit(not (known is None and own.taken() == frozenset({"by child"})))
    assert os.waitpid(child, 0)[1] == 0
    assert changes.taken() == frozenset({"made", "by child"})
