"""The MAC spoof check as transactions: what one change does to the bridge table, and that it can be taken back."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.desired import ruleset, spoofcheck
from control.desired.spoofcheck import GuardedPort
from dataplane.errors import NftError
from dataplane.fakes import FakeNft
from dataplane.nft.client import explained
from dataplane.nft.objects import BaseChain, Comment, EtherAddress, Rule, Table
from dataplane.nft.transaction import Transaction, add
from dataplane.types import IfIndex


def port(index: int, last: int = 1) -> GuardedPort:
    """A guarded port whose MAC ends in ``last``."""
    return GuardedPort(IfIndex(index), EtherAddress(bytes([2, 0x42, 0xAC, 0x11, 0, last])), Comment("front/web/eth0"))


WEB, DB = port(7, 1), port(8, 2)


def test_the_first_port_brings_the_table() -> None:
    """The first guarded port of a host makes the table, one rule, and two elements."""
    lines = spoofcheck.change((), (WEB,), elsewhere=False).text().splitlines()
    schema = next(line for line in lines if "schema_" in line).split()[4]
    assert lines == [
        "add table bridge dataplane",
        "delete table bridge dataplane",
        "add table bridge dataplane",
        "add set bridge dataplane guarded { type iface_index; }",
        "add set bridge dataplane permitted { type iface_index . ether_addr; }",
        f"add set bridge dataplane {schema} {{ type mark; }}",
        "add chain bridge dataplane spoofcheck { type filter hook prerouting priority -300; policy accept; }",
        "add rule bridge dataplane spoofcheck iif @guarded iif . ether saddr != @permitted counter drop",
        'add element bridge dataplane guarded { "0000000000000007" comment "front/web/eth0" }',
        'add element bridge dataplane permitted { "0000000000000007" . 02:42:ac:11:00:01 comment "front/web/eth0" }',
    ]


def test_a_further_port_is_two_elements() -> None:
    """Where others are guarded already, a port adds elements and no rule."""
    lines = spoofcheck.change((), (DB,), elsewhere=True).text().splitlines()
    assert [line.split()[:2] for line in lines] == [["flush", "set"], ["add", "element"], ["add", "element"]]
    assert "schema_" in lines[0]


def test_the_last_port_takes_the_table_with_it() -> None:
    """With nobody left to guard, no table is left either, and that it is gone already is fine."""
    nft = FakeNft()
    nft.run(spoofcheck.change((), (WEB,), elsewhere=False))
    last = spoofcheck.change((WEB,), (), elsewhere=False)
    nft.run(last)
    assert nft.table_text(Table.BRIDGE) == ""
    nft.run(last)


def test_a_port_that_leaves_others_behind_deletes_its_elements() -> None:
    """DEL of one port keeps the table and the other's elements."""
    nft = FakeNft()
    nft.run(spoofcheck.rebuild((WEB, DB), there=False))
    nft.run(spoofcheck.change((WEB,), (), elsewhere=True))
    assert list(spoofcheck.differences(nft, (DB,))) == []
    assert len(list(spoofcheck.differences(nft, (WEB,)))) == 2


def test_another_mac_is_permitted_in_place_of_the_former() -> None:
    """A port that changes its MAC stays guarded; only the permitted pair is exchanged."""
    text = spoofcheck.change((port(7, 1),), (port(7, 9),), elsewhere=False).text()
    assert "guarded" not in text
    assert 'delete element bridge dataplane permitted { "0000000000000007" . 02:42:ac:11:00:01 }' in text
    assert 'add element bridge dataplane permitted { "0000000000000007" . 02:42:ac:11:00:09 comment' in text


def test_no_change_is_no_transaction() -> None:
    """Nothing is run where nothing changes; parts of one interface that guard the same port are one."""
    other_owner = GuardedPort(WEB.index, WEB.address, Comment("front/web/eth0, firewall"))
    assert not spoofcheck.change((), (), elsewhere=False)
    assert not spoofcheck.change((WEB,), (other_owner,), elsewhere=True)
    assert not spoofcheck.rebuild((), there=False)


def test_a_table_that_is_gone_refuses_a_change() -> None:
    """Where others were guarded and the table was wiped, a change is ENOENT, which makes the engine rebuild."""
    with pytest.raises(NftError) as error:
        FakeNft().run(spoofcheck.change((), (WEB,), elsewhere=True))
    assert error.value.errno == errno.ENOENT


ports = st.sets(st.builds(port, st.integers(1, 4), st.integers(1, 3)), max_size=5)


@given(ports, ports, ports)
def test_every_change_is_as_good_as_rebuilding(
    before: set[GuardedPort], after: set[GuardedPort], others: set[GuardedPort]
) -> None:
    """From any ports to any others the table ends as if built anew, and by its opposite as it was before."""
    indexes = {one.index for one in before | after}
    others = {one for one in others if one.index not in indexes}
    nft = FakeNft()
    nft.run(spoofcheck.rebuild(before | others, there=False))
    was = set(nft.table_text(Table.BRIDGE).splitlines())
    nft.run(spoofcheck.change(before, after, elsewhere=bool(others)))
    anew = FakeNft()
    anew.run(spoofcheck.rebuild(after | others, there=False))
    assert set(nft.table_text(Table.BRIDGE).splitlines()) == set(anew.table_text(Table.BRIDGE).splitlines())
    nft.run(spoofcheck.change(after, before, elsewhere=bool(others)))
    assert set(nft.table_text(Table.BRIDGE).splitlines()) == was


def test_rebuilding_repairs_whatever_is_there() -> None:
    """A table with other rules and elements becomes the one that is wanted, or none."""
    nft = FakeNft()
    nft.run(spoofcheck.rebuild((DB,), there=False))
    nft.flush_table(Table.BRIDGE)
    nft.run(spoofcheck.rebuild((WEB,), there=True))
    assert list(spoofcheck.differences(nft, (WEB,))) == []
    assert nft.sizes() == {}, "the main table is another one"
    nft.run(spoofcheck.rebuild((), there=True))
    assert nft.table_text(Table.BRIDGE) == ""


def test_differences_tell_wiped_from_altered_from_missing() -> None:
    """CHECK names the table that was wiped, rules that were altered, and each element that is missing."""
    nft = FakeNft()
    assert list(spoofcheck.differences(nft, ())) == []
    assert list(spoofcheck.differences(nft, (WEB,))) == ["table bridge dataplane was wiped"]
    nft.run(spoofcheck.rebuild((DB,), there=False))
    assert list(spoofcheck.differences(nft, (WEB, DB))) == [
        'element guarded { "0000000000000007" } of table bridge dataplane is missing',
        'element permitted { "0000000000000007" . 02:42:ac:11:00:01 } of table bridge dataplane is missing',
    ]
    nft.flush_table(Table.BRIDGE)
    assert list(spoofcheck.differences(nft, (DB,))) == ["chains or rules of table bridge dataplane were altered"]


@pytest.mark.parametrize(
    "foreign",
    [
        add(Rule("spoofcheck", "accept", table=Table.BRIDGE)),
        add(BaseChain("more", "filter", "prerouting", -301, table=Table.BRIDGE)),
    ],
    ids=["rule", "chain"],
)
def test_what_others_add_is_an_alteration(foreign: object) -> None:
    """A rule or a chain beside ours is told, too."""
    nft = FakeNft()
    nft.run(spoofcheck.rebuild((WEB,), there=False) + Transaction((foreign,)))  # type: ignore[arg-type]
    assert list(spoofcheck.differences(nft, (WEB,))) == ["chains or rules of table bridge dataplane were altered"]


def test_the_main_table_is_left_alone() -> None:
    """Neither table's repair touches the other."""
    nft = FakeNft()
    nft.run(ruleset.skeleton(ruleset.DEFAULT_MARK, ()))
    main = nft.table_text()
    nft.run(spoofcheck.rebuild((WEB,), there=False))
    nft.run(ruleset.skeleton(ruleset.DEFAULT_MARK, ()))
    assert list(spoofcheck.differences(nft, (WEB,))) == []
    nft.run(spoofcheck.rebuild((), there=True))
    assert nft.table_text() == main


def test_a_kernel_without_bridge_tables_is_named() -> None:
    """Where the kernel has no filters for bridges, the error says which option it lacks; any other stays as it is."""
    refused = NftError.from_errno("change", "table bridge dataplane", errno.EOPNOTSUPP)
    assert str(explained(refused, (Table.BRIDGE,))) == (
        "could not change table bridge dataplane: Operation not supported; "
        "checking the frames of a bridge needs a kernel with CONFIG_NF_TABLES_BRIDGE"
    )
    assert explained(refused, (Table.MAIN,)) is refused
    missing = NftError.from_errno("change", "table bridge dataplane", errno.ENOENT)
    assert explained(missing, (Table.BRIDGE,)) is missing


@pytest.mark.parametrize(
    "text", ["", "02:42", "02:42:ac:11:00:0g", "02-42-ac-11-00-01", "02:42:ac:11:00:01;", "0:1:2:3:4:5"]
)
def test_what_is_no_mac_is_refused(text: str) -> None:
    """Only six pairs of hexadecimal digits are a MAC address."""
    with pytest.raises(ValueError, match="not a MAC address"):
        EtherAddress.parse(text)


@given(st.binary(min_size=6, max_size=6))
def test_a_mac_is_written_as_nft_writes_it(octets: bytes) -> None:
    """In lower case with colons, and read back in either case."""
    address = EtherAddress(octets)
    assert EtherAddress.parse(str(address)) == EtherAddress.parse(str(address).upper()) == address
    assert str(address) == str(address).lower()
