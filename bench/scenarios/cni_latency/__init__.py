"""How long does a runtime wait for one published port, and does it matter how many there are?

One port is added, checked and deleted through the chained plugin, from exec to exit, while 0, 100, 1,000 and 10,000
ports are present (100 containers with 1, 10 or 100 each): with the agent, with an agent that was started just before,
and without one; in full also while 10,000 attachments are present, each with its port.

Peers      portmap of every directory that is given, on a host with as many ports of its own, by each of its backends:
           iptables, as it is installed, and nftables where the binary knows it; ``nft -f -`` and libnftables in
           process, which change one element of a map of that size, and nothing else; the start of a static program
           that does nothing
Unit       milliseconds on the clock, and of the processors: of what was started and whatever that starts, and for us
           of the agent too, from the start of a call until 2 ms after its end. Ratios are of medians within a block
Fair       our network has another container throughout, as a network usually has: to attach the programs to the first,
           and detach them from the last, takes the kernel two grace periods, which are told in rows of their own;
           every variant and size has a host of its own; the main plugin's work is done before, for all; the same 2 ms
           of rest after each call, for all; before and after, the kernel is asked which ports are published, of each
Falsified  by more than 3 ms, by a median at 10,000 ports that is 20 % above that at 0 or at 100, by less than ten times
           portmap, or by a control that differs from itself

Where none is present, it is the first port of the host, which takes us longer than a further one. That would hide
growth: the answer tells it from 100 ports on, where they were measured.

portmap's rules at 100 ports and more are put in place at once, in the form that one real ADD of it was checked to
write; its own ADDs of so many take the better part of an hour. With ``many``, from 1,000 ports on each is another
container's, and those that are not made so are left out. What takes long has fewer rounds: the column n says how
many. That page caches are cold, too, is measured for nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

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
from bench.figures.measure import Sample, block_medians, interval, paired, percentile
from bench.figures.plots import Axis, Bars, Curves, Plot, Role, bar, line
from bench.figures.rows import doubt_of
from bench.hosts.calls import AGENT, BOTH, CPU, VERBS, note
from bench.peers.plugins import PORTMAP, Peer, found
from bench.scenarios.cni_latency import oneport
from bench.scenarios.cni_latency.oneport import (
    AGAIN,
    ALONE,
    BY_ITSELF,
    COLD,
    CONTAINERS,
    CROWDED,
    FLOOR,
    LIBRARY,
    NFT,
    OURS,
    Subject,
)
from bench.stage import Extent, Stage

SIZES = (0, 100, 1_000, 10_000)
QUICK_SIZES = (0, 1_000)
AT_MOST = 3.0
FLAT = 1.2
AT_LEAST = 10.0
NEAR = 0.1
"""How surely ours must take as long as itself: what is judged are factors, and a fifth."""
SECONDS = (330, 20)

_SLOW = 0.5
"""Seconds of a round from which a variant has fewer of them."""
_OTHERWISE = (
    (COLD, ":", "its first call"),
    (BY_ITSELF, ":", ""),
    (NFT, " one element,", ""),
    (LIBRARY, " one element,", ""),
)
"""Rows of a size that has them: whose, how they go on, and what is noted."""
_REMARK = "nft -f - and libnftables change one element of a map, and nothing else; the others serve a whole CNI call."


def run(stage: Stage) -> None:
    """Measure."""
    peers = found(stage.peers, PORTMAP)
    names = {peer.name for peer in peers}
    if stage.many:
        stage.log.note(
            f"from {QUICK_SIZES[-1]:,} ports on, each is another container's; who has them otherwise is left out"
        )
    with ExitStack() as stack:
        subjects: dict[str, Subject] = {}
        for size in (SIZES, QUICK_SIZES, (0,))[stage.extent]:
            stage.log.progress(f"making hosts with {size:,} ports present")
            subjects |= {subject.label: subject for subject in _subjects(stage, stack, size, peers)}
        if stage.extent is Extent.FULL:
            stage.log.progress(f"making {SIZES[-1]:,} attachments, which takes a minute or two")
            crowd = oneport.crowded(stage, stack, SIZES[-1])
            subjects[crowd.label] = crowd
        stage.log.progress(f"proving {len(subjects)} variants")
        spent = _prove(stage, subjects.values())
        slow = {name for name, one in subjects.items() if one.name in (COLD, BY_ITSELF) or spent[name] > _SLOW}
        stage.log.progress(f"measuring {len(subjects)} variants")
        few = stage.amount(8, 2, 1)
        stage.log.note(f"{len(slow)} of {len(subjects)} variants are slow: {few} rounds of each")
        for turn in stage.turns(sorted(subjects), stage.amount(30, 8, 2)):
            subject = subjects[turn.variant]
            if turn.variant in slow and turn.block >= few:
                continue
            once = turn.variant in slow or subject.name in names
            usual = stage.amount(8, 8, 1) if subject.name in (OURS, AGAIN, CROWDED) else stage.amount(5, 3, 1)
            for _ in range(1 if once else usual):
                for timed in subject.round():
                    note(stage.log, timed, subject.name, size=subject.size, block=turn.block)
        _prove(stage, subjects.values())


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = list[Figure]()
    for verb in VERBS:
        rows += _own(results, verb)
        for name in _peers(results):
            rows += _theirs(results, verb, name)
        rows += _control(results, verb)
    rows.append(median_figure("floor: a static program that does nothing", results.of("ADD", FLOOR), "ms"))
    proved = {(one.variant, one.size) for one in results.samples if one.measure == "unproved"}
    what = f"variants that did not publish what they should, of {len(proved):,}"
    rows.append(count_figure(what, len(_wrong(results)) if proved else None, at_most=0))
    return rows


def tables(results: Results) -> list[str]:
    """The same medians, sizes side by side."""
    grids = []
    for verb in VERBS:
        sizes = results.sizes(verb, OURS)
        rows = []
        for name in (OURS, CROWDED, COLD, BY_ITSELF, *_peers(results), NFT, LIBRARY):
            cells = [_cell(results, verb, name, size) for size in sizes]
            if any(cells):
                rows.append((name, *cells))
        if rows:
            title = f"cni_latency: {verb}, median of ms on the clock (of the processors), by ports present"
            grids.append(grid(title, ("", *(f"{size:,}" for size in sizes)), rows))
    return grids


def plots(results: Results) -> list[Plot]:
    """Latency against ports for each verb, and what an ADD takes of the processors."""
    drawn: list[Plot] = []
    for verb in VERBS:
        lines = []
        for name, role in _roles(results).items():
            # With the one that is measured: a logarithm needs it.
            by_size = {size + 1: results.of(verb, name, size) for size in results.sizes(verb, name)}
            if by_size and name != FLOOR:
                lines.append(line(name, role, by_size))
        if lines:
            title = f"CNI {verb} of one published port, from exec to exit"
            x, y = Axis("published ports, this one included", log=True), Axis("p50, ms", log=True)
            remark = _REMARK if any(one.name in (NFT, LIBRARY) for one in lines) else ""
            drawn.append(Curves(f"cni_{verb.lower()}", title, x, y, tuple(lines), remark))
    sizes = results.sizes("ADD", OURS)
    bars = []
    for name, role in _roles(results).items():
        spent = results.of(f"ADD, {BOTH}", name, sizes[-1]) if sizes else []
        if spent:
            bars.append(bar(name, role, interval(list(block_medians(spent).values()))))
    if bars:
        title = f"Processor time of a CNI ADD, {sizes[-1]:,} ports present"
        remark = "Of what was started and all that it starts; for dataplane, of the agent too."
        drawn.append(Bars("cni_cpu", title, Axis("ms of the processors", log=True), tuple(bars), remark))
    return drawn


def answers(results: Results) -> list[Answer]:
    """A published port comes, and goes, where most are present."""
    rows = list[Answer]()
    for verb in ("ADD", "DEL"):
        sizes = results.sizes(verb, OURS)
        own = results.of(verb, OURS, sizes[-1]) if sizes else []
        if not own:
            continue
        besides = []
        for name, role in _roles(results).items():
            theirs = results.of(verb, name, sizes[-1])
            if role in (Role.PURE, Role.TODAY, Role.TODAY_TOO) and (ratios := paired(own, theirs)):
                alone = f"{name}, one element of a map" if name in (NFT, LIBRARY) else name
                besides.append(Beside(role, alone, interval(ratios), _growth(results, verb, name)))
        doubts = [
            doubt_of(_control(results, verb), [one.ratio for one in besides]),
            "not all variants did what their names say" if _wrong(results) else "",
        ]
        what = f"CNI {verb} of a published port, {sizes[-1]:,} present, from exec to exit"
        rows.append(
            Answer(
                Kind.UPDATE,
                what,
                "ms",
                interval(list(block_medians(own).values())),
                tuple(besides),
                _growth(results, verb, OURS),
                ". ".join(why for why in doubts if why),
            )
        )
    return rows


def _subjects(stage: Stage, stack: ExitStack, size: int, peers: Sequence[Peer]) -> Iterator[Subject]:
    yield from oneport.ours(stage, stack, size)
    alike = not stage.many or size <= CONTAINERS  # else ours, and the first peer's, are in as many containers
    if alike:
        yield from oneport.without_agent(stage, stack, size)
    for place, peer in enumerate(peers if alike else peers[:1]):
        yield oneport.portmap(stage, stack, size, place, peer)
    yield oneport.nft(stage, stack, size)
    yield oneport.library(stage, stack, size)
    if not size:
        yield oneport.floor(stage, stack)
        if stage.extent is not Extent.QUICK:
            yield from oneport.ours(stage, stack, size, alone=True)


def _prove(stage: Stage, subjects: Iterable[Subject]) -> dict[str, float]:
    """Ask the kernel about a round of each. Seconds that it took, by label."""
    spent = {}
    for subject in subjects:
        proof = oneport.prove(subject)
        spent[subject.label] = proof.seconds
        stage.log.sample("unproved", subject.name, float(bool(proof.doubt)), size=subject.size)
        if proof.doubt:
            stage.log.note(f"{subject.label}: {proof.doubt}")
    return spent


def _own(results: Results, verb: str) -> Iterator[Figure]:
    """Ours: at each size, and beside none; the pure ways of nft at the same sizes."""
    sizes = results.sizes(verb, OURS)
    at_most = AT_MOST if verb != "CHECK" else None
    for size in sizes:
        where = f"{verb}, {size:,} ports present"
        samples = results.of(verb, OURS, size)
        yield median_figure(f"dataplane {where}", samples, "ms", at_most)
        yield tail_figure(f"dataplane {where}", samples, "ms")
        for what in (CPU, AGENT):
            yield median_figure(f"dataplane {where}: {what}", results.of(f"{verb}, {what}", OURS, size), "ms")
    for size in sizes[1:]:
        for less in sizes[: 1 if size == sizes[1] else 2]:
            what = f"dataplane {verb}, {size:,} ports / {less or 'none'}"
            yield ratio_figure(what, results.of(verb, OURS, size), results.of(verb, OURS, less), at_most=FLAT)
    for size in sizes:
        where = f"{verb}, {size:,} ports present"
        for name, what, remark in _OTHERWISE:
            if (name != COLD or verb == "ADD") and (there := results.of(verb, name, size)):
                yield median_figure(f"{name}{what} {where}", there, "ms", note=remark)
    for size in results.sizes(verb, CROWDED):
        where, crowded = f"{verb}, {size:,} attachments present", results.of(verb, CROWDED, size)
        yield median_figure(f"dataplane {where}", crowded, "ms", at_most)
        for what in (CPU, AGENT):
            yield median_figure(f"dataplane {where}: {what}", results.of(f"{verb}, {what}", CROWDED, size), "ms")
        yield ratio_figure(f"dataplane {where} / none", crowded, results.of(verb, OURS, 0), at_most=FLAT)
        alike = f"dataplane {where} / as many ports of {CONTAINERS}"
        yield ratio_figure(alike, crowded, results.of(verb, OURS, size), better=Better.LESS)
    alone = results.of(verb, ALONE)
    yield median_figure(f"{ALONE}: {verb}", alone, "ms", note="programs are attached and detached")


def _theirs(results: Results, verb: str, name: str) -> Iterator[Figure]:
    sizes = results.sizes(verb, name)
    for size in sizes:
        where = f"{verb}, {size:,} ports present"
        theirs, own = results.of(verb, name, size), results.of(verb, OURS, size)
        limit = AT_LEAST if verb != "CHECK" else None
        yield median_figure(f"{name}: {where}", theirs, "ms")
        yield ratio_figure(f"{name} / dataplane: {where}", theirs, own, at_least=limit, better=Better.MORE, peer=True)
        spent, ours_spent = (results.of(f"{verb}, {BOTH}", who, size) for who in (name, OURS))
        what = f"{name} / dataplane: {where}, {BOTH}"
        yield ratio_figure(what, spent, ours_spent, better=Better.MORE, peer=True)
    for size in sizes[1:]:
        what = f"{name}: {verb}, {size:,} ports / none"
        yield ratio_figure(what, results.of(verb, name, size), results.of(verb, name, 0))


def _control(results: Results, verb: str) -> list[Figure]:
    again, own = (results.of(verb, name) for name in (AGAIN, OURS))
    return size_controls(again, own, f"control: {verb}, the same twice", of=len(VERBS), within=NEAR)


def _peers(results: Results) -> list[str]:
    """Those who were measured besides us."""
    return sorted({one.variant for one in results.samples if one.variant.startswith("portmap ")})


def _roles(results: Results) -> dict[str, Role]:
    """Whose line is drawn how: the first portmap is what people run."""
    first, *others = _peers(results) or [""]
    roles = {OURS: Role.OURS, COLD: Role.OURS_TOO, BY_ITSELF: Role.OURS_TOO, first: Role.TODAY}
    return roles | dict.fromkeys(others, Role.TODAY_TOO) | {NFT: Role.PURE, LIBRARY: Role.PURE, FLOOR: Role.FLOOR}


def _growth(results: Results, verb: str, name: str) -> Growth | None:
    """From the least that is no host's first port, if that was measured."""
    sizes = results.sizes(verb, name)
    if len(sizes) < 2:
        return None
    least, most = sizes[min(1, len(sizes) - 2)], sizes[-1]
    ratios = paired(results.of(verb, name, most), results.of(verb, name, least))
    return Growth(interval(ratios), least, most, "published ports") if ratios else None


def _wrong(results: Results) -> set[tuple[str, int]]:
    """Variants, and at which size, that the kernel showed to be something else."""
    return {(one.variant, one.size) for one in results.samples if one.measure == "unproved" and one.value}


def _cell(results: Results, verb: str, name: str, size: int) -> str:
    """ "2.51 (3.02)"; empty where it was not measured."""
    clock, spent = results.of(verb, name, size), results.of(f"{verb}, {BOTH}", name, size)
    if not clock:
        return ""
    beside = f" ({_median(spent)})" if spent else ""
    return _median(clock) + beside


def _median(samples: Iterable[Sample]) -> str:
    return number(percentile([one.value for one in samples], 0.5))
