"""Admin chains: empty chains that users fill with rules of their own, and that no repair of ours touches.

    packet -> inet dataplane_admin, CNI-ADMIN (forward, -1) -> inet dataplane, forward (0) -> other filters

What users do, once a network asked for the chain:

    nft add rule inet dataplane_admin CNI-ADMIN ip saddr 203.0.113.0/24 drop
    nft add rule inet dataplane_admin CNI-ADMIN meta l4proto tcp ct original proto-dst 8080 drop

Each chain is a base chain of the forward hook just before ours, in a table that a resync does not replace. It sees what
is forwarded, after DNAT: the port that a client asked for is ``ct original proto-dst``. What it drops is gone; what it
accepts has only left this one chain, so our forward chain and the isolation between networks still decide.

Be aware: the rules live in the ruleset alone. ``nft flush ruleset`` takes them as well, and then only the empty chain
comes back; to keep rules, load them from a file of your own after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dataplane.doors import Nft
from dataplane.nft.objects import BaseChain, Table
from dataplane.nft.transaction import Transaction, add, delete

_PRIORITY = -1  # ours decides at 0


def chain(name: str) -> BaseChain:
    """The admin chain of this name. Raises ``ValueError`` for what can be no name of a chain."""
    return BaseChain(name, "filter", "forward", _PRIORITY, table=Table.ADMIN)


def transaction(names: Iterable[str]) -> Transaction:
    """Have these chains there; those that are there already keep their rules. Empty for no names."""
    chains = [chain(name) for name in sorted(set(names))]
    return Transaction((add(Table.ADMIN), *map(add, chains))) if chains else Transaction()


def removal() -> Transaction:
    """No admin table, whether there is one or not, rules and all: see ``filled`` before."""
    return Transaction((add(Table.ADMIN), delete(Table.ADMIN)))


def filled(chains: Mapping[str, int]) -> tuple[str, ...]:
    """Of chains and how many rules each holds (``Nft.chains``), those that hold any: these are somebody's work."""
    return tuple(sorted(name for name, rules in chains.items() if rules))


def differences(nft: Nft, wanted: Iterable[str]) -> Iterator[str]:
    """The chains that are missing, a sentence each. One question, and none where no chain is wanted."""
    names = sorted(set(wanted))
    if not names:
        return
    there = nft.chains(Table.ADMIN)
    yield from (f"chain {Table.ADMIN} {name} is missing" for name in names if name not in there)
