"""Admin chains with real traffic: what users put there decides first, and nothing of ours takes it away."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.desired import adminchain, ruleset
from control.nftwords import KEYWORDS
from dataplane.doors import Nft
from dataplane.errors import NftError
from dataplane.fakes import FakeNft
from dataplane.nft.client import LibNftables
from dataplane.nft.objects import Rule, Table
from dataplane.nft.transaction import Transaction, add
from support import plan
from support.netns import Namespace, Sandbox
from support.traffic import ask
from support.world import World, publish

CHAIN = ("inet", "dataplane_admin", "CNI-ADMIN")


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with a published container, a container of another network, and an empty admin chain."""
    made = World(sandbox, tmp_path)
    made.network(plan.FRONT, ipMasq=True)
    made.network(plan.BACK)
    made.serve(made.attach("web", plan.FRONT, publish("8080:80"), publish("8081:80")))
    made.attach("shop", plan.BACK)
    run(sandbox, adminchain.transaction(["CNI-ADMIN"]))
    return made


def run(host: Sandbox, transaction: Transaction) -> None:
    """Run a transaction on the host."""
    host.call(_run, transaction)


def _run(transaction: Transaction) -> None:
    LibNftables().run(transaction)


def _chains() -> dict[str, int]:
    return LibNftables().chains(Table.ADMIN)


def rule(world: World, *words: object) -> None:
    """Do what a user would: put one rule into the chain, in place of what is in it."""
    world.host.run("nft", "flush", "chain", *CHAIN)
    world.host.run("nft", "add", "rule", *CHAIN, *words)


def reached(world: World, place: Namespace | Sandbox | None = None, port: int = 8080) -> bool:
    """Whether the published port answers, the client if nobody else is named."""
    return ask(place or world.client, plan.HOST4, port, timeout=0.5) is not None


def test_an_empty_chain_changes_nothing(world: World) -> None:
    """Published ports answer as they would without it."""
    assert reached(world)
    assert reached(world, world.host.namespace("shop"))


def test_a_drop_closes_published_ports(world: World) -> None:
    """By the client's address: it is cut off, and others are not."""
    rule(world, "ip saddr", plan.CLIENT4, "drop")
    assert not reached(world)
    assert reached(world, world.host.namespace("shop"))


def test_a_published_port_is_told_by_its_original_number(world: World) -> None:
    """The chain sees packets after DNAT, and conntrack knows which port they were sent to."""
    rule(world, "meta l4proto tcp ct original proto-dst 8080 drop")
    assert not reached(world)
    assert reached(world, port=8081)


def test_a_drop_of_new_connections_leaves_answers_alone(world: World) -> None:
    """``ct state`` works as anywhere: a container that may not be reached still reaches others."""
    rule(world, "ip daddr", plan.FRONT.subnet4, "ct state new drop")
    assert not reached(world)
    world.serve(world.attach("api", plan.BACK, publish("9090:80")))
    assert ask(world.host.namespace("web"), plan.HOST4, 9090) is not None


def test_an_accept_does_not_open_what_is_closed(world: World) -> None:
    """It ends this chain alone: published ports still work, and networks stay isolated from each other."""
    target = world.attach("target", plan.FRONT)
    world.serve(target)
    rule(world, "accept")
    assert reached(world)
    assert reached(world, world.host.namespace("shop"))
    assert ask(world.host.namespace("web"), target.address(4), 80) is not None
    assert ask(world.host.namespace("shop"), target.address(4), 80, timeout=0.5) is None


def test_rules_survive_whatever_happens_to_our_table(world: World) -> None:
    """A flushed table, ADD, DEL and ``dpctl reconcile`` leave the users' rules; asking for the chain again, too."""
    rule(world, "ip saddr", plan.CLIENT4, "drop")
    for breaks in (("flush", "table", "inet", "dataplane"), ("delete", "table", "inet", "dataplane")):
        world.host.run("nft", *breaks)
        world.dpctl("reconcile", check=False)
        assert world.host.call(_chains) == {"CNI-ADMIN": 1}
        assert not reached(world)
        assert reached(world, world.host.namespace("shop"))
    world.attach("late", plan.FRONT)
    world.detach("late")
    run(world.host, adminchain.transaction(["CNI-ADMIN", "OTHER"]) + ruleset.removal())
    assert world.host.call(_chains) == {"CNI-ADMIN": 1, "OTHER": 0}


def test_after_a_flush_of_the_ruleset_the_chain_is_made_again(world: World) -> None:
    """``nft flush ruleset`` takes the rules as well; the chain comes back, empty."""
    rule(world, "drop")
    world.host.run("nft", "flush", "ruleset")
    assert world.host.call(_chains) == {}
    run(world.host, adminchain.transaction(["CNI-ADMIN"]))
    assert world.host.call(_chains) == {"CNI-ADMIN": 0}


def test_removal(world: World) -> None:
    """The table goes whether it is there or not; who holds rules can be asked before."""
    rule(world, "accept")
    assert adminchain.filled(world.host.call(_chains)) == ("CNI-ADMIN",)
    for _ in range(2):
        run(world.host, adminchain.removal())
        assert world.host.run("nft", "list", "tables", "inet").stdout == "table inet dataplane\n"


def _refused(names: list[str]) -> list[str]:
    nft, refused = LibNftables(), []
    for name in names:
        try:
            nft.run(adminchain.transaction([name]))
        except NftError:
            refused.append(name)
    return refused


def test_which_names_nft_takes(sandbox: Sandbox) -> None:
    """Whatever is allow-listed and no keyword can be a chain; upper case, hyphens and dots included."""
    likely = [
        "CNI-ADMIN",
        "cni-admin",
        "admin",
        "ADMIN",
        "Drop",
        "a.b",
        "_x",
        "user_rules",
        "forward",
        "filter",
        "x" * 64,
    ]
    assert sandbox.call(_refused, likely) == []
    refused = sandbox.call(_refused, sorted(KEYWORDS))
    assert "drop" in refused
    assert len(refused) > len(KEYWORDS) * 0.9, "words of newer versions are on the list as well"


def counted(nft: Nft) -> None:
    """Chains are told with the number of their rules, jumps to them counted; those of other tables are not told."""
    for table in Table:
        assert nft.chains(table) == {}
    nft.run(ruleset.skeleton(ruleset.Variant(), ()) + adminchain.transaction(["CNI-ADMIN"]))
    main = nft.chains()
    assert (main["publish_in"], main["publish_host"], main["forward"]) == (8, 4 + 2 * 2, 3)
    assert main.keys() == {"loopback_guard", *(chain.name for chain in ruleset.CHAINS)}
    assert nft.chains(Table.ADMIN) == {"CNI-ADMIN": 0}
    assert nft.chains(Table.BRIDGE) == {}
    nft.run(Transaction((add(Rule("CNI-ADMIN", "ct state invalid drop", table=Table.ADMIN)),)))
    assert nft.chains(Table.ADMIN) == {"CNI-ADMIN": 1}


def test_chains_are_counted_by_the_fake() -> None:
    """The fake counts as the kernel does."""
    counted(FakeNft())


def _counted() -> None:
    counted(LibNftables())


def test_chains_are_counted_by_the_kernel(sandbox: Sandbox) -> None:
    """The kernel counts as the fake does."""
    sandbox.call(_counted)
