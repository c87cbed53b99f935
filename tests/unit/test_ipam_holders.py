"""Who holds which lease, remembered: never another answer than the files themselves would give."""

from __future__ import annotations

import os
import shutil
from ipaddress import ip_network
from pathlib import Path

import pytest

from control.ipam import holders
from control.ipam.holders import Owner, held_in
from control.ipam.leases import LeaseStore
from control.ipam.ranges import Range, RangeSet
from dataplane.directories import DirectoryChanges
from dataplane.errors import KernelError

POOL = (RangeSet((Range.of(ip_network("10.11.0.0/16")),)),)
WEB, DB = Owner("web", "eth0"), Owner("db", "eth0")


def write(directory: Path, name: str, owner: Owner) -> None:
    """As host-local does: an empty file first, then its content."""
    with (directory / name).open("w", newline="") as file:
        file.write(f"{owner.container}\r\n{owner.ifname}")


def by_child(directory: Path, name: str, owner: Owner) -> None:
    """The same in another process, which asks who holds what, too."""
    child = os.fork()
    if child == 0:
        write(directory, name, owner)
        os._exit(held_in(directory).of(owner) != [name])
    assert os.waitpid(child, 0)[1] == 0


def test_what_others_do_is_known(tmp_path: Path) -> None:
    """Leases that other processes write, take over or remove are known at the next look."""
    for _ in range(3):
        assert held_in(tmp_path).of(WEB) == []
    by_child(tmp_path, "10.11.0.2", WEB)
    assert held_in(tmp_path).of(WEB) == ["10.11.0.2"]
    write(tmp_path, "10.11.0.2", DB)
    write(tmp_path, "10.11.0.3", DB)
    found = held_in(tmp_path)
    assert (found.of(WEB), found.of(DB), found.get("10.11.0.2")) == ([], ["10.11.0.2", "10.11.0.3"], DB)
    (tmp_path / "10.11.0.2").unlink()
    (tmp_path / "10.11.0.3").rename(tmp_path / "fd00:11::3")
    found = held_in(tmp_path)
    assert (found.of(DB), "10.11.0.2" in found, len(found)) == (["fd00:11::3"], False, 1)


def test_another_directory_by_the_same_name_is_another(tmp_path: Path) -> None:
    """Nothing is remembered of a directory that was removed or put aside."""
    front = tmp_path / "front"
    for end in (shutil.rmtree, lambda gone: gone.rename(tmp_path / "aside")):
        front.mkdir()
        write(front, "10.11.0.2", WEB)
        for _ in range(3):
            assert held_in(front).of(WEB) == ["10.11.0.2"]
        end(front)
        front.mkdir()
        assert list(held_in(front)) == []
        front.rmdir()


def test_where_changes_are_lost_everything_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where none can be watched in the first place."""
    for _ in range(2):
        held_in(tmp_path)
    write(tmp_path, "10.11.0.2", WEB)
    with monkeypatch.context() as patched:
        patched.setattr(DirectoryChanges, "taken", lambda _: None)
        assert held_in(tmp_path).of(WEB) == ["10.11.0.2"]
    (tmp_path / "10.11.0.2").unlink()
    assert held_in(tmp_path).of(WEB) == []

    def refuse(_: Path) -> DirectoryChanges:
        raise KernelError.from_errno("make", "an inotify instance", 24)

    holders._watched.clear()
    monkeypatch.setattr(holders, "DirectoryChanges", refuse)
    for name in ("10.11.0.2", "10.11.0.3"):
        write(tmp_path, name, WEB)
        assert name in held_in(tmp_path).of(WEB)


def test_only_so_many_directories_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are known, whichever are remembered; those that are not are not watched either."""
    monkeypatch.setattr(holders, "_MOST", 3)
    for number in [*range(5), *range(5), *range(5), 4, 3, 4, 3]:
        directory = tmp_path / str(number)
        directory.mkdir(exist_ok=True)
        write(directory, "10.11.0.2", Owner(f"c{number}", "eth0"))
        assert list(held_in(directory)) == ["10.11.0.2"]
    assert [key[0].name for key in holders._watched] == ["2", "4", "3"]
    DirectoryChanges(tmp_path / "1").close()
    with pytest.raises(KernelError, match="File exists"):
        DirectoryChanges(tmp_path / "3")


def test_an_add_among_many_leases_reads_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among a thousand leases, ADD and DEL read no more files than among none."""
    store = LeaseStore("front", tmp_path)
    reads: list[str] = []
    read_owner = holders.read_owner

    def counted(directory: Path, name: str) -> Owner | None:
        reads.append(name)
        return read_owner(directory, name)

    monkeypatch.setattr(holders, "read_owner", counted)

    def reads_of_a_round() -> int:
        store.lease(WEB, POOL)
        store.release(WEB)
        reads.clear()
        store.lease(WEB, POOL)
        store.release(WEB)
        return len(reads)

    few = reads_of_a_round()
    for number in range(1000):
        write(tmp_path / "front", f"10.11.{100 + number // 250}.{number % 250 + 1}", Owner(f"c{number}", "eth0"))
    assert reads_of_a_round() == few


def test_memory_alone_gives_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is remembered as a holder, and is not, is neither given the address nor takes it from its holder."""
    store = LeaseStore("front", tmp_path)
    store.lease(WEB, POOL)
    for _ in range(2):
        held_in(tmp_path / "front")
    with monkeypatch.context() as patched:
        patched.setattr(DirectoryChanges, "taken", lambda _: frozenset())  # as on a disk that hosts share
        write(tmp_path / "front", "10.11.0.2", DB)
        store.release(WEB)
        assert (tmp_path / "front" / "10.11.0.2").exists()
        assert [str(lease.address.ip) for lease in store.lease(WEB, POOL).leases] != ["10.11.0.2"]
