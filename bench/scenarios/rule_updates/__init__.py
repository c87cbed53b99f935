"""How long does it take to publish a port, to change it and to take it back, and does it matter how many there are?

One port, 32 ports and a range of 100 come, change and go, while 0 to 60,000 ports are present. Then everything is
listed, in each of the ways in which people do, and ports come and go while a listing is under way.

Peers      ``nft -f -`` and libnftables in process, an element of a map, for a range one of an interval map: the best
           that nftables has; the calls of nft that portmap 1.9.1 makes with its nftables backend, a rule a port, as it
           is shipped; the start of a static program that does nothing, as the floor
Unit       milliseconds: from exec to exit for what is started, of the one call for what lives; ratios are of medians
           within a block
Fair       every variant and size has a host of its own, with the same ports; no update begins before the kernel has
           freed what the last one removed: somebody's nft that ends, or our question, would make it wait for that; of
           portmap only nft is counted, not its own start and reading; where a turn of somebody takes more than a second
           it has fewer of them, and the column n says how many
Falsified  by an ADD or DEL of ours that takes 20 % longer at the largest size than at the smallest, or is slower than
           portmap's; by an update that the kernel does not show; or by a control that differs from itself

Ours writes more than a port: its state, on disk, and who is on the network. Where pure nftables is faster it says so.
After each update the kernel is asked whether all is there, or gone, and by how many transactions that came.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from bench.figures import Figure, Results
from bench.figures.answers import Answer
from bench.figures.plots import Plot
from bench.instruments.starter import Starter
from bench.making import at_once
from bench.scenarios.rule_updates import drawn as shown
from bench.scenarios.rule_updates.listings import OF_PORTMAP, RULESET, Lister, Listing, of_ours
from bench.scenarios.rule_updates.publishers import EndToEnd, InProcess, LibraryMap, NftMap, PortmapRules, Publisher
from bench.scenarios.rule_updates.updates import ONE, UPDATES, Update, Verb
from bench.stage import Extent, Stage

SECONDS = (220, 22)

_SIZES = {
    Extent.FULL: (0, 1, 100, 1_000, 10_000, 60_000),
    Extent.QUICK: (0, 10_000),
    Extent.SMOKE: (0, 100),
}
_MAKERS: dict[str, Callable[[Stage, ExitStack, int], Publisher]] = {
    shown.OURS: EndToEnd,
    shown.ENGINE: InProcess,
    shown.NFT: NftMap,
    shown.LIBRARY: LibraryMap,
    shown.PORTMAP: PortmapRules,
}
_AT_ONCE = 4  # hosts that are made at a time: half of it is waiting
_COME_AND_GO = (Update(Verb.ADD, ONE), Update(Verb.DEL, ONE))
_USUAL = (6, 3, 1)
_SINGLES = {shown.PORTMAP: (2, 1, 1), shown.OURS: (8, 8, 1), shown.AGAIN: (8, 8, 1)}
"""How often updates of one port are made in a turn, by extent; where a control is judged by them, they are many."""
_SLOW = 1500.0
"""Milliseconds of a turn from which a variant has fewer."""
_LISTED = 10_000  # first block of the listings: blocks of different questions do not share a number
_DISTURBED = 20_000


@dataclass(slots=True)
class _Doubts:
    """What was not proved."""

    stage: Stage
    made: Counter[str] = field(default_factory=Counter)
    told: set[str] = field(default_factory=set)

    def believed(self, variant: str, what: str, doubt: str, size: int, block: int) -> bool:
        """Whether there is no doubt. It is counted either way, and the first of a kind is told."""
        self.made[variant] += 1
        if doubt:
            self.stage.log.sample(shown.UNPROVED, variant, 1, size=size, block=block)
            if variant not in self.told:
                self.told.add(variant)
                self.stage.log.note(f"NOT PROVED: {variant}, {what}, {size:,} ports present: {doubt}")
        return not doubt


def run(stage: Stage) -> None:
    """Measure."""
    sizes = _SIZES[stage.extent]
    doubts = _Doubts(stage)
    with ExitStack() as stack:
        stage.log.progress(f"making hosts with {', '.join(f'{size:,}' for size in sizes)} ports present")
        publishers = _made(stage, stack, sizes)
        stage.log.progress("ports come, change and go")
        floor = stack.enter_context(Starter(publishers[shown.NFT, 0].host, stage.native, stage.cpu))
        _updates(stage, publishers, doubts, floor)
        stage.log.progress("listing what is there")
        _listings(stage, stack, publishers, doubts)
        stage.log.progress(f"updates while {max(sizes):,} ports are listed")
        _disturbed(stage, stack, publishers, max(sizes), doubts)
    for variant, count in doubts.made.items():
        stage.log.sample(shown.PROVED, variant, count)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    return shown.figures(results)


def tables(results: Results) -> list[str]:
    """Medians by size."""
    return shown.tables(results)


def plots(results: Results) -> list[Plot]:
    """Latency against ports that are present."""
    return shown.plots(results)


def answers(results: Results) -> list[Answer]:
    """One port, end to end and in process."""
    return shown.answers(results)


def _made(stage: Stage, stack: ExitStack, sizes: Sequence[int]) -> dict[tuple[str, int], Publisher]:
    """A publisher of each kind at each size; the largest first, for they take longest."""
    wanted = [(variant, size) for size in sorted(sizes, reverse=True) for variant in _MAKERS]
    return at_once(stack, {key: partial(_publisher, stage, *key) for key in wanted}, _AT_ONCE)


def _publisher(stage: Stage, variant: str, size: int, stack: ExitStack) -> Publisher:
    return _MAKERS[variant](stage, stack, size)


def _updates(stage: Stage, publishers: dict[tuple[str, int], Publisher], doubts: _Doubts, floor: Starter) -> None:
    for publisher in publishers.values():
        for update in _COME_AND_GO:  # what is loaded once is loaded
            publisher.proved(update)
    keys = {f"{variant} at {size}": (variant, size) for variant, size in publishers}
    for size in {size for variant, size in publishers if variant == shown.OURS}:
        keys[f"{shown.AGAIN} at {size}"] = (shown.AGAIN, size)
    keys[shown.FLOOR] = (shown.FLOOR, 0)
    blocks, least = stage.amount(10, 5, 1), stage.amount(6, 5, 1)
    often, most, few = stage.amount(10, 3, 1), stage.amount(6, 2, 1), stage.amount(2, 1, 1)
    slow = set[tuple[str, int]]()
    for turn in stage.turns(sorted(keys), blocks):
        variant, size = keys[turn.variant]
        if variant == shown.FLOOR:
            spent = floor.run(stage.native.noop, {}).milliseconds
            stage.log.sample(shown.START, shown.FLOOR, spent, block=turn.block)
            continue
        dear = (variant, size) in slow
        if turn.block >= (least if dear or variant == shown.PORTMAP else blocks):
            continue
        every = turn.block < (few if dear else most if variant == shown.PORTMAP else often)
        singles = 1 if dear else _SINGLES.get(variant, _USUAL)[stage.extent]
        made = _round(publishers[shown.OURS if variant == shown.AGAIN else variant, size], singles, every=every)
        for update, spent, doubt in made:
            if doubts.believed(variant, update.name, doubt, size, turn.block):
                stage.log.sample(update.name, variant, spent, size=size, block=turn.block)
        if sum(spent for _, spent, _ in made) > _SLOW:
            slow.add((variant, size))
    for variant, size in sorted(slow):
        stage.log.note(
            f"{variant}, {size:,} ports present: a turn takes more than {_SLOW / 1000:g} s, so there are {few} of "
            f"them, and {least} for one port"
        )


def _round(publisher: Publisher, singles: int, *, every: bool) -> list[tuple[Update, float, str]]:
    """All updates once, those of one port more often; or those alone."""
    ones = [update for update in UPDATES if update.ports is ONE]
    others = [update for update in UPDATES if update.ports is not ONE and every]
    return [(update, *publisher.proved(update)) for update in (*ones * singles, *others)]


def _listings(stage: Stage, stack: ExitStack, publishers: dict[tuple[str, int], Publisher], doubts: _Doubts) -> None:
    sizes = sorted({size for _, size in publishers})
    ways: dict[str, tuple[Lister, Listing, int]] = {}
    for size in sizes:
        for publisher in (publishers[shown.OURS, size], publishers[shown.PORTMAP, size]):
            lister = Lister(stack.enter_context(Starter(publisher.host, stage.native, stage.cpu)), size)
            listed = of_ours(publisher.ours) if isinstance(publisher, EndToEnd) else OF_PORTMAP
            ways |= {f"{one.name} at {size}": (lister, one, size) for one in listed}
    for turn in stage.turns(sorted(ways), stage.amount(3, 1, 1), _LISTED):
        lister, one, size = ways[turn.variant]
        spent, doubt = lister.listed(one)
        if doubts.believed(one.name, "listing", doubt, size, turn.block):
            stage.log.sample(shown.LISTING, one.name, spent, size=size, block=turn.block)


def _disturbed(
    stage: Stage, stack: ExitStack, publishers: dict[tuple[str, int], Publisher], size: int, doubts: _Doubts
) -> None:
    """Updates of one port, alone and while everything is listed on the same host. The listing, which begins anew when
    something changes, is given its peace after a second."""
    listers = {
        variant: Lister(stack.enter_context(Starter(publishers[variant, size].host, stage.native, stage.cpu)), size)
        for variant in (shown.OURS, shown.NFT)
    }
    seconds = stage.amount(10, 3, 1) / 10
    keys = {f"{variant}, {when}": (variant, when) for variant in listers for when in (shown.ALONE, shown.DISTURBED)}
    for turn in stage.turns(sorted(keys), stage.amount(5, 2, 1), _DISTURBED):
        variant, when = keys[turn.variant]
        publisher = publishers[variant, size]
        if when == shown.ALONE:
            made = list(_for_a_while(publisher, seconds))
        else:
            with listers[variant].listing(RULESET) as under_way:
                made = list(_for_a_while(publisher, seconds))
            made = [one for one in made if under_way.covers(one[0], one[1])]
            took = (under_way.ended - under_way.began) * 1000
            stage.log.sample(shown.LISTING, f"{RULESET.name}, {variant} updating", took, size=size, block=turn.block)
        for _, _, update, spent, doubt in made:
            if doubts.believed(variant, f"{update.name} {when}", doubt, size, turn.block):
                stage.log.sample(f"{update.name}, {when}", variant, spent, size=size, block=turn.block)


def _for_a_while(publisher: Publisher, seconds: float) -> Iterator[tuple[float, float, Update, float, str]]:
    """When each update of one port began and had ended, and what it took; the last is a DEL."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for update in _COME_AND_GO:
            began = time.monotonic()
            spent, doubt = publisher.proved(update)
            yield began, time.monotonic(), update, spent, doubt
