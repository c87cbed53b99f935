"""Admin chains: made where they are missing, never emptied, kept when they hold somebody's rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from control.desired import adminchain, ruleset
from dataplane.fakes import FakeNft
from dataplane.nft.objects import Rule, Table
from dataplane.nft.transaction import Transaction, add

HOSTILE = json.loads((Path(__file__).parents[1] / "data" / "hostile_names.json").read_text())["names"]
USERS_RULE = Rule("CNI-ADMIN", "ip saddr 203.0.113.0/24 drop", table=Table.ADMIN)


@pytest.fixture
def nft() -> FakeNft:
    """A host with an admin chain that a user has put a rule into."""
    made = FakeNft()
    made.run(adminchain.transaction(["CNI-ADMIN"]) + Transaction((add(USERS_RULE),)))
    return made


def test_the_transaction_reads_as_nft() -> None:
    """The chains are base chains of the forward hook, just before ours."""
    assert adminchain.transaction({"CNI-ADMIN", "B.x"}).text().splitlines() == [
        "add table inet dataplane_admin",
        "add chain inet dataplane_admin B.x { type filter hook forward priority -1; policy accept; }",
        "add chain inet dataplane_admin CNI-ADMIN { type filter hook forward priority -1; policy accept; }",
    ]


def test_no_chain_is_no_transaction() -> None:
    """A host whose networks ask for no admin chain gets no admin table."""
    assert not adminchain.transaction(frozenset())


def test_a_chain_that_is_there_keeps_its_rules(nft: FakeNft) -> None:
    """Asking again, and for another chain as well, leaves the users' rules alone."""
    nft.run(adminchain.transaction(["CNI-ADMIN", "OTHER"]))
    assert nft.chains(Table.ADMIN) == {"CNI-ADMIN": 1, "OTHER": 0}


def test_rebuilding_our_table_leaves_the_admin_table(nft: FakeNft) -> None:
    """A resync replaces, and uninstalling removes, the one table and not the other."""
    before = nft.table_text(Table.ADMIN)
    nft.run(ruleset.skeleton(ruleset.Variant(), ()))
    nft.run(ruleset.removal())
    assert nft.table_text(Table.ADMIN) == before
    assert nft.table_text() == ""


def test_what_holds_rules_is_told(nft: FakeNft) -> None:
    """Only chains with rules are somebody's work."""
    nft.run(adminchain.transaction(["OTHER"]))
    assert adminchain.filled(nft.chains(Table.ADMIN)) == ("CNI-ADMIN",)
    assert adminchain.filled({}) == ()


def test_removal_is_complete_and_idempotent(nft: FakeNft) -> None:
    """Afterwards there is no admin table, also where there was none before."""
    nft.run(adminchain.removal())
    nft.run(adminchain.removal())
    assert nft.chains(Table.ADMIN) == {}
    assert nft.table_text(Table.ADMIN) == ""


def test_a_missing_chain_is_named(nft: FakeNft) -> None:
    """CHECK says which chain is missing, and nothing where all are there or none is wanted."""
    assert list(adminchain.differences(nft, ["CNI-ADMIN", "OTHER"])) == ["chain inet dataplane_admin OTHER is missing"]
    assert list(adminchain.differences(nft, ["CNI-ADMIN"])) == []
    assert list(adminchain.differences(FakeNft(), [])) == []


@pytest.mark.parametrize(
    "name", [*HOSTILE, "", "a b", "CNI-ADMIN;", "x\nflush ruleset", '"quoted"', "-x", "9", "a" * 65]
)
def test_a_name_that_is_more_than_a_name_is_refused(name: str) -> None:
    """Nothing that a conflist says can end a statement of ours and begin another."""
    if name not in {"accept", "drop", "x" * 16}:  # words that are names, whatever else nft takes them for
        with pytest.raises(ValueError, match="not the name of a chain"):
            adminchain.transaction([name])
