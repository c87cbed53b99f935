"""The figures, plots and answers of ``rule_updates``: who took how long, beside whom, and how that grows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from bench.figures import (
    Better,
    Figure,
    Results,
    count_figure,
    grid,
    median_figure,
    number,
    ratio_figure,
    size_controls,
    tail_figure,
)
from bench.figures.answers import Answer, Beside, Growth, Kind
from bench.figures.measure import Interval, Sample, block_medians, interval, paired
from bench.figures.plots import Axis, Bars, Curves, Line, Plot, Role, bar, line
from bench.figures.rows import doubt_of
from bench.scenarios.rule_updates.listings import OF_PORTMAP, RULESET
from bench.scenarios.rule_updates.updates import ONE, UPDATES, Update, Verb

OURS, AGAIN, ENGINE = "dataplane", "dataplane again", "dataplane engine"
NFT, LIBRARY, PORTMAP = "nft -f -, a map", "libnftables, a map", "portmap 1.9.1, nftables"
FLOOR = "a static program"
START, LISTING, UNPROVED, PROVED = "start", "listing", "unproved", "asked for proof"
ALONE, DISTURBED = "alone", "during a listing"

FLAT = 1.2
AT_LEAST = 1.0
SURE = 0.1
"""How far controls may be from 1: what is judged here are factors, and a fifth."""

ROLES = {
    OURS: Role.OURS,
    ENGINE: Role.OURS_TOO,
    NFT: Role.PURE,
    LIBRARY: Role.FLOOR,
    PORTMAP: Role.TODAY,
}
"""libnftables in process is the least that anybody who uses it can take, and nobody's way to publish a port."""

LISTINGS = (
    (RULESET.name, Role.PURE),
    ("nft -j list ruleset", Role.PURE),
    ("nft -t list ruleset", Role.FLOOR),
    ("nft list map publish4", Role.PURE),
    ("dpctl ports", Role.OURS),
    ("dpctl status", Role.OURS_TOO),
    (OF_PORTMAP[0].name, Role.TODAY_TOO),
    (OF_PORTMAP[1].name, Role.TODAY),
)
_ONES = tuple(update for update in UPDATES if update.ports is ONE)
_PORTS = "ports published already"
_DRAWN = (
    (_ONES[0], "To publish one more port"),
    (_ONES[-1], "To take one port back"),
)
_HIDDEN = frozenset({"nft list map publish4", OF_PORTMAP[0].name})
"""Listings that would hide others in a plot."""


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = list[Figure]()
    for update in UPDATES:
        rows += _of_update(results, update)
    rows.append(median_figure("floor: a static program that does nothing", results.of(START, FLOOR), "ms"))
    rows += _controls(results)
    for name, _ in LISTINGS:
        for size in results.sizes(LISTING, name):
            rows.append(median_figure(f"{name}, {size:,} present", results.of(LISTING, name, size), "ms"))
    rows += _of_disturbed(results)
    unproved = sum(one.value for one in results.samples if one.measure == UNPROVED)
    asked = int(sum(one.value for one in results.samples if one.measure == PROVED))
    what = "updates and listings that were not proved"
    rows.append(count_figure(what, unproved if asked else None, at_most=0, note=f"of {asked:,}"))
    return rows


def tables(results: Results) -> list[str]:
    """Medians of every update by size, in milliseconds."""
    sizes = _sizes(results)
    rows = [
        (update.name, variant, *(_cell(results.of(update.name, variant, size)) for size in sizes))
        for update in UPDATES
        for variant in ROLES
        if any(results.of(update.name, variant, size) for size in sizes)
    ]
    return [grid("rule_updates: medians, ms", ("update", "by", *(f"{size:,} present" for size in sizes)), rows)]


def plots(results: Results) -> list[Plot]:
    """One port comes and goes, and all are listed, against how many there are; updates during a listing."""
    drawn: list[Plot] = [
        _curves(results, f"update_{update.verb.lower()}", title, _PORTS, update.name, ROLES.items())
        for update, title in _DRAWN
    ]
    listings = [(name, role) for name, role in LISTINGS if name not in _HIDDEN]
    drawn.append(_curves(results, "listings", "To list what is published", "published ports", LISTING, listings))
    bars = [
        bar(f"{variant}, {update.verb} {when}", ROLES[variant], interval(list(block_medians(found).values())))
        for variant in (OURS, NFT)
        for update in _disturbed()
        for when in (ALONE, DISTURBED)
        if (found := results.of(f"{update.name}, {when}", variant))
    ]
    if bars:
        (largest, *_) = results.sizes(f"{_disturbed()[0].name}, {ALONE}", OURS) or [0]
        title = f"One port comes or goes while {largest:,} are listed"
        drawn.append(Bars("updates_during_a_listing", title, Axis("p50, ms"), tuple(bars)))
    return [one for one in drawn if not isinstance(one, Curves) or one.lines]


def answers(results: Results) -> list[Answer]:
    """One port: end to end beside processes, and the engine beside libnftables, at the largest size of each."""
    made = [_answer(results, update, OURS, (NFT, PORTMAP)) for update in _ONES]
    made.append(_answer(results, _ONES[0], ENGINE, (LIBRARY,)))
    return [one for one in made if one is not None]


def _of_update(results: Results, update: Update) -> Iterator[Figure]:
    sizes = results.sizes(update.name, OURS)
    for variant in ROLES:
        for size in results.sizes(update.name, variant):
            samples, what = results.of(update.name, variant, size), f"{variant}, {update.name}, {size:,} present"
            yield median_figure(what, samples, "ms")
            if update.ports is ONE:
                yield tail_figure(what, samples, "ms")
    for size in sizes:
        own, engine = (results.of(update.name, variant, size) for variant in (OURS, ENGINE))
        where = f"{update.name}, {size:,} present"
        pure = results.of(update.name, NFT, size)
        yield ratio_figure(f"dataplane / {NFT}: {where}", own, pure, better=Better.LESS, peer=True)
        portmap = results.of(update.name, PORTMAP, size)
        yield ratio_figure(f"{PORTMAP} / dataplane: {where}", portmap, own, at_least=AT_LEAST, peer=True)
        if engine:
            library = results.of(update.name, LIBRARY, size)
            what = f"dataplane engine / {LIBRARY}: {where}"
            yield ratio_figure(what, engine, library, better=Better.LESS, peer=True)
    for variant in ROLES:
        there = results.sizes(update.name, variant)
        if len(there) > 1:
            most = FLAT if variant == OURS and update.ports is ONE else None
            few, many = (results.of(update.name, variant, there[place]) for place in (0, -1))
            what = f"{variant}, {update.name}: {there[-1]:,} present / {there[0]:,}"
            yield ratio_figure(what, many, few, at_most=most, better=_better(variant))


def _better(variant: str) -> Better | None:
    """Which way a ratio of one who is measured twice is for us."""
    return Better.LESS if variant in {OURS, ENGINE} else None


def _controls(results: Results) -> Iterator[Figure]:
    for update in _ONES:
        yield from _control(results, update)


def _control(results: Results, update: Update) -> list[Figure]:
    own, again = (results.of(update.name, variant) for variant in (OURS, AGAIN))
    return size_controls(again, own, f"control: {update.name}, the same twice", of=len(_ONES), within=SURE)


def _of_disturbed(results: Results) -> Iterator[Figure]:
    for variant in (OURS, NFT):
        for update in _disturbed():
            alone, during = (results.of(f"{update.name}, {when}", variant) for when in (ALONE, DISTURBED))
            for size in results.sizes(f"{update.name}, {ALONE}", variant):
                what = f"{variant}, {update.name}, {size:,} present"
                yield median_figure(f"{what}, {ALONE}", alone, "ms")
                yield median_figure(f"{what}, {DISTURBED}", during, "ms")
                yield tail_figure(f"{what}, {DISTURBED}", during, "ms")
                yield ratio_figure(f"{what}: {DISTURBED} / {ALONE}", during, alone, better=_better(variant))
        name = f"{RULESET.name}, {variant} updating"
        for size in results.sizes(LISTING, name):
            note = "it begins anew at each change, and is left alone after a while"
            yield median_figure(f"{name}, {size:,} present", results.of(LISTING, name, size), "ms", note=note)


def _disturbed() -> tuple[Update, Update]:
    return Update(Verb.ADD, ONE), Update(Verb.DEL, ONE)


def _sizes(results: Results) -> list[int]:
    return sorted({size for update in UPDATES for size in results.sizes(update.name, OURS)})


def _cell(samples: Sequence[Sample]) -> str:
    return number(median(block_medians(samples).values())) if samples else ""


def _curves(
    results: Results, name: str, title: str, x: str, measure: str, variants: Iterable[tuple[str, Role]]
) -> Curves:
    lines = tuple(_lines(results, measure, variants))
    smallest = {one.size for one in results.samples if one.measure == measure and one.size <= 1}
    remark = "What is drawn at 1 was measured with no port published." if smallest == {0} else ""
    return Curves(name, title, Axis(x, log=True), Axis("p50, ms", log=True), lines, remark)


def _lines(results: Results, measure: str, variants: Iterable[tuple[str, Role]]) -> Iterator[Line]:
    """What 0 present took is drawn at 1, for there is no 0 on the axis, unless 1 was measured."""
    for variant, role in variants:
        sizes = results.sizes(measure, variant)
        by_size = {size or 1: results.of(measure, variant, size) for size in sizes if size or 1 not in sizes}
        if by_size:
            yield line(variant, role, by_size)


def _answer(results: Results, update: Update, own: str, others: Sequence[str]) -> Answer | None:
    sizes = results.sizes(update.name, own)
    samples = results.of(update.name, own, sizes[-1]) if sizes else []
    if not samples:
        return None
    besides = []
    for other in others:
        common = sorted({*sizes} & {*results.sizes(update.name, other)})
        ratios = paired(samples, results.of(update.name, other, sizes[-1])) if sizes[-1] in common else []
        if ratios:
            role = Role.PURE if other == LIBRARY else ROLES[other]
            besides.append(Beside(role, other, interval(ratios), _growth(results, update, other)))
    what = f"{update.name}, {sizes[-1]:,} present, {'in process' if own == ENGINE else 'from exec to exit'}"
    spread = interval(list(block_medians(samples).values()))
    growth = _growth(results, update, own)
    why = _doubt(results, update, [one.ratio for one in besides])
    return Answer(Kind.UPDATE, what, "ms", spread, tuple(besides), growth, why)


def _growth(results: Results, update: Update, variant: str) -> Growth | None:
    sizes = results.sizes(update.name, variant)
    if len(sizes) < 2:
        return None
    ratios = paired(results.of(update.name, variant, sizes[-1]), results.of(update.name, variant, sizes[0]))
    return Growth(interval(ratios), sizes[0], sizes[-1], "published ports") if ratios else None


def _doubt(results: Results, update: Update, ratios: Sequence[Interval]) -> str:
    if any(one.measure == UNPROVED for one in results.samples):
        return "an update was not proved"
    return doubt_of(_control(results, update), ratios)
