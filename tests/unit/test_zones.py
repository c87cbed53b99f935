"""Addresses in the zones of a firewalld, as steps and as sentences."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from control.desired import zones
from dataplane.apply import apply
from dataplane.errors import FirewalldError, NftError
from dataplane.fakes import FakeDoors
from dataplane.nft.objects import Table
from dataplane.nft.transaction import Transaction, delete
from dataplane.steps import DistrustSource, RunNft, TrustSource
from dataplane.types import Address

WEB4: Address = IPv4Address("10.11.0.2")
WEB6: Address = IPv6Address("fd00:11::2")
DB4: Address = IPv4Address("10.11.0.3")
REFUSED = RunNft(Transaction((delete(Table.MAIN),)), Transaction())


@pytest.fixture
def doors() -> FakeDoors:
    """A host with a running firewalld."""
    made = FakeDoors()
    made.firewalld.start("public", "trusted")
    return made


def test_only_the_difference_is_changed() -> None:
    """What stays in its zone is not touched; what moves leaves the old zone before it enters the new one."""
    before = {("trusted", WEB4), ("trusted", DB4)}
    after = {("trusted", WEB4), ("public", DB4), ("public", WEB6)}
    assert list(zones.change(before, after)) == [
        DistrustSource("trusted", DB4),
        TrustSource("public", DB4),
        TrustSource("public", WEB6),
    ]
    assert list(zones.change(after, after)) == []


def test_there_and_back_again(doors: FakeDoors) -> None:
    """A change and its opposite leave firewalld as it was."""
    sources = {("trusted", WEB4), ("trusted", WEB6)}
    apply(zones.change((), sources), doors.kernel())
    assert doors.firewalld.sources("trusted") == {WEB4, WEB6}
    apply(zones.change(sources, ()), doors.kernel())
    assert doors.firewalld.sources("trusted") == frozenset()


def test_what_was_done_is_undone_when_a_later_step_fails(doors: FakeDoors) -> None:
    """Only what a step itself put in is taken out again."""
    doors.firewalld.add_source("trusted", DB4)
    steps = (*zones.change((), {("trusted", WEB4), ("trusted", DB4)}), REFUSED)
    with pytest.raises(NftError):
        apply(steps, doors.kernel())
    assert doors.firewalld.sources("trusted") == {DB4}


def test_an_address_that_is_in_another_zone_is_refused(doors: FakeDoors) -> None:
    """Somebody put it there: it is an error that names both, and stays where it is."""
    doors.firewalld.add_source("public", WEB4)
    with pytest.raises(
        FirewalldError, match=r'could not put 10\.11\.0\.2 into firewalld zone "trusted": ZONE_CONFLICT'
    ):
        apply(zones.change((), {("trusted", WEB4)}), doors.kernel())
    assert doors.firewalld.sources("public") == {WEB4}


def test_differences_name_what_is_missing(doors: FakeDoors) -> None:
    """After a reload every address is missing; a zone that is not there says so; without firewalld nothing is wrong."""
    wanted = {("trusted", WEB4), ("trusted", WEB6)}
    apply(zones.change((), wanted), doors.kernel())
    assert list(zones.differences(doors.firewalld, wanted)) == []
    doors.firewalld.start("public", "trusted")
    assert list(zones.differences(doors.firewalld, wanted)) == [
        "address 10.11.0.2 is not in firewalld zone trusted",
        "address fd00:11::2 is not in firewalld zone trusted",
    ]
    assert list(zones.differences(doors.firewalld, {("nowhere", WEB4)})) == [
        'could not list the sources of firewalld zone "nowhere": INVALID_ZONE: nowhere'
    ]
    doors.firewalld.stop()
    assert list(zones.differences(doors.firewalld, wanted)) == []


def test_without_firewalld_steps_do_nothing(doors: FakeDoors) -> None:
    """An ADD and a DEL succeed on a host whose firewalld is stopped."""
    doors.firewalld.stop()
    apply(zones.change((), {("trusted", WEB4)}), doors.kernel())
    apply(zones.change({("trusted", WEB4)}, ()), doors.kernel())
