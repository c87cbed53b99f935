"""The lease store: host-local's files, one owner an address, and nothing half done."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from control.errors import DifferenceError, NoAddressError, NotReadyError
from control.ipam.leases import LeaseStore, Owner
from control.ipam.ranges import Range, RangeSet

FOUR = RangeSet((Range.of(ip_network("10.11.0.0/29")),))  # .2 to .6
SIX = RangeSet((Range.of(ip_network("fd00:11::/64")),))
WEB, DB = Owner("web", "eth0"), Owner("db", "eth0")


class Disk:
    """The directory of network front, and a store on it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "front"
        self.store = LeaseStore("front", directory)

    def write(self, name: str, text: str) -> None:
        self.path.mkdir(exist_ok=True)
        (self.path / name).write_bytes(text.encode())

    def leases(self) -> dict[str, str]:
        """Address -> who holds it."""
        known = {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}
        return {one.name: one.read_bytes().decode() for one in self.path.iterdir() if one.name not in known}

    def add(self, owner: Owner, *sets: RangeSet, **requested: str) -> list[str]:
        asked = {int(index[1:]): ip_address(text) for index, text in requested.items()}
        return [str(lease.address.ip) for lease in self.store.lease(owner, sets or (FOUR,), asked).leases]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def killed(function: Callable[[], object]) -> None:
    """Run a function that ends with SIGKILL, in a child."""
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_lease_is_host_locals_file(disk: Disk) -> None:
    """A lease is a file named as its address with container and interface in it; the last one of each set is noted."""
    assert disk.add(WEB, FOUR, SIX) == ["10.11.0.2", "fd00:11::2"]
    assert disk.leases() == {"10.11.0.2": "web\r\neth0", "fd00:11::2": "web\r\neth0"}
    assert (disk.path / "last_reserved_ip.0").read_text() == "10.11.0.2"
    assert (disk.path / "last_reserved_ip.1").read_text() == "fd00:11::2"


def test_a_released_address_is_the_last_to_be_used_again(disk: Disk) -> None:
    """Addresses go round: what was just released comes after all others."""
    seen = []
    for number in range(7):
        seen += disk.add(Owner(f"c{number}", "eth0"))
        disk.store.release(Owner(f"c{number}", "eth0"))
    assert [one.rpartition(".")[2] for one in seen] == ["2", "3", "4", "5", "6", "2", "3"]


@pytest.mark.parametrize("last", ["", "10.11", "192.0.2.9", "fd00::1"])
def test_a_useless_note_of_the_last_address_starts_anew(disk: Disk, last: str) -> None:
    """A note that a crash cut short, or of other ranges, only loses the place in the circle."""
    disk.write("last_reserved_ip.0", last)
    assert disk.add(WEB) == ["10.11.0.2"]


def test_a_repeated_add_gives_the_same_addresses(disk: Disk) -> None:
    """An attachment that asks again gets what it holds, is told so, and nothing is leased twice."""
    first = disk.store.lease(WEB, (FOUR, SIX))
    again = disk.store.lease(WEB, (FOUR, SIX))
    assert (first.fresh, again.fresh) == (True, False)
    assert first.leases == again.leases
    assert len(disk.leases()) == 2
    assert disk.add(WEB, FOUR, SIX, _0="10.11.0.2") == ["10.11.0.2", "fd00:11::2"]


def test_each_interface_has_a_lease_of_its_own(disk: Disk) -> None:
    """Two interfaces of one container hold two addresses, and one of them leaves alone."""
    assert disk.add(WEB) + disk.add(Owner("web", "eth1")) == ["10.11.0.2", "10.11.0.3"]
    disk.store.release(WEB)
    assert disk.leases() == {"10.11.0.3": "web\r\neth1"}


def test_a_requested_address_is_leased_or_its_holder_named(disk: Disk) -> None:
    """A request is served exactly; where another holds the address, the error says who."""
    assert disk.add(WEB, FOUR, SIX, _1="fd00:11::99") == ["10.11.0.2", "fd00:11::99"]
    with pytest.raises(NoAddressError, match=r'fd00:11::99 .* leased to container "web" \(interface eth0\)'):
        disk.add(DB, FOUR, SIX, _1="fd00:11::99")
    assert set(disk.leases()) == {"10.11.0.2", "fd00:11::99"}, "what was leased for the first set is released"


def test_an_exhausted_set_says_what_to_do(disk: Disk) -> None:
    """A full set is named with its number, its addresses, how many are leased, and what helps."""
    for number in range(5):
        disk.add(Owner(f"c{number}", "eth0"))
    before = disk.leases()
    with pytest.raises(NoAddressError) as refused:
        disk.add(DB, SIX, FOUR)
    for word in ("range set 1", "10.11.0.1-10.11.0.6", 'network "front"', "5 of 5 are leased", "GC"):
        assert word in str(refused.value)
    assert disk.leases() == before
    with pytest.raises(NotReadyError, match="no address is free in range set 1"):
        disk.store.status((SIX, FOUR))
    disk.store.release(Owner("c3", "eth0"))
    disk.store.status((SIX, FOUR))
    assert disk.add(DB, SIX, FOUR) == ["fd00:11::3", "10.11.0.5"]


def test_status_sees_where_nothing_can_be_written(tmp_path: Path) -> None:
    """STATUS is good before the first lease and makes no directory; a file in the way is no place for leases."""
    LeaseStore("front", tmp_path / "a" / "b").status((FOUR,))
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    with pytest.raises(NotReadyError, match="not writable"):
        LeaseStore("front", tmp_path / "file").status((FOUR,))


def test_releasing_nothing_is_fine(disk: Disk) -> None:
    """A DEL without leases, and even without the directory, makes and changes nothing."""
    disk.store.release(WEB)
    disk.store.collect(frozenset())
    assert not disk.path.exists()
    disk.add(DB)
    disk.store.release(WEB)
    assert set(disk.leases()) == {"10.11.0.2"}


def test_leases_of_the_old_form_are_released(disk: Disk) -> None:
    """A lease that names a container alone goes with that container, and only if nothing else of it went."""
    disk.write("10.11.0.2", "web\n")
    disk.write("10.11.0.3", "web\r\neth0")
    disk.store.release(WEB)
    assert set(disk.leases()) == {"10.11.0.2"}
    disk.store.check(WEB, [ip_address("10.11.0.2")])
    disk.store.release(WEB)
    assert disk.leases() == {}


def test_check_says_which_address_is_lost_and_to_whom(disk: Disk) -> None:
    """CHECK finds a lease that is missing, one that is another's, and an attachment that holds none."""
    held = [ip_address(one) for one in disk.add(WEB, FOUR, SIX)]
    disk.store.check(WEB, held)
    disk.write("10.11.0.2", "db\r\neth0")
    (disk.path / "fd00:11::2").unlink()
    with pytest.raises(DifferenceError) as found:
        disk.store.check(WEB, held)
    assert len(found.value.differences) == 2
    assert 'leased to container "db"' in found.value.differences[0]
    assert "fd00:11::2 is not leased" in found.value.differences[1]
    with pytest.raises(DifferenceError, match="holds no lease"):
        disk.store.check(WEB, [])


def test_collect_keeps_what_is_valid(disk: Disk) -> None:
    """GC releases every lease of a pair that is not valid, of the old form by its container, and what is empty."""
    disk.add(WEB, FOUR, SIX)
    disk.add(Owner("web", "eth1"))
    disk.add(DB)
    disk.write("10.11.0.77", "web")
    disk.write("10.11.0.78", "gone")
    disk.write("10.11.0.79", "")
    disk.store.collect(frozenset({("web", "eth0")}))
    assert set(disk.leases()) == {"10.11.0.2", "fd00:11::2", "10.11.0.77"}
    assert (disk.path / "last_reserved_ip.0").exists()


def test_collect_goes_on_after_an_error(disk: Disk) -> None:
    """What cannot be removed is reported at the end, after everything else was."""
    disk.add(WEB)
    (disk.path / "10.11.0.1").mkdir()
    disk.add(DB)
    with pytest.raises(ExceptionGroup) as failed:
        disk.store.collect(frozenset())
    assert [type(error) for error in failed.value.exceptions] == [IsADirectoryError]
    assert {one.name for one in disk.path.glob("10.*")} == {"10.11.0.1"}


def test_a_kill_between_two_addresses_leaves_nothing_for_ever(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ADD killed after its first address is completed by a second ADD, and undone by DEL or GC."""
    write = LeaseStore._write
    with monkeypatch.context() as patched:
        patched.setattr(LeaseStore, "_write", lambda *args: die() if ":" in args[1] else write(*args))
        killed(lambda: disk.add(WEB, FOUR, SIX))
    assert disk.leases() == {"10.11.0.2": "web\r\neth0"}
    assert disk.add(WEB, FOUR, SIX) == ["10.11.0.2", "fd00:11::2"]
    (disk.path / "fd00:11::2").unlink()
    disk.store.release(WEB)
    assert disk.leases() == {}


@pytest.mark.parametrize("step", ["link", "write"])
def test_a_kill_while_a_lease_is_written_shows_no_half_lease(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Who is killed before a lease has its name leaves none; a DEL tidies up, the next ADD takes the address."""
    with monkeypatch.context() as patched:
        patched.setattr(os, step, die)
        killed(lambda: disk.add(WEB))
    assert [name for name in disk.leases() if not name.startswith(".")] == []
    disk.store.release(WEB)
    assert disk.leases() == {}
    assert disk.add(DB) == ["10.11.0.2"]
    assert disk.leases() == {"10.11.0.2": "db\r\neth0"}


def test_a_failed_write_takes_everything_back(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that was leased before the disk was full is free again, and the error says what was being done."""
    disk.add(DB)
    (disk.path / "last_reserved_ip.1").mkdir()
    with pytest.raises(IsADirectoryError) as failed:
        disk.add(WEB, FOUR, SIX)
    assert any("could not lease" in note for note in failed.value.__notes__)
    (disk.path / "last_reserved_ip.1").rmdir()
    assert disk.leases() == {"10.11.0.2": "db\r\neth0"}
