"""What does it cost to keep 2 to 1,000 networks apart: packets that may pass, and those that may not?

A host has 1,002 bridges: a thousand networks that are kept apart from each other, and two that are open. UDP round
trips go from a container to a machine outside, from there to a published port, and between the two open networks; and
a container sends datagrams as fast as it can to one of another network, where none may arrive. Turn by turn, somebody
else keeps the networks apart, and 2, 10, 100 or all 1,000 of them.

Peers      nobody; iptables with the rules that ``ingressPolicy`` of the firewall plugin writes, alone and with those
           that it writes besides (whether they are the plugin's is asked of the plugin first); the same in nft, two
           rules a network; nft at its best: what is established passes first, then one rule with sets of devices
Unit       microseconds of a round trip (p50), and nanoseconds of the processor for a datagram, from sending it to its
           drop (the median batch of 32); medians over blocks, ratios within a block
Fair       client, server and softirq on one processor, in one process that nobody has to wake; variants in an order
           that is shuffled in each block, and sizes in each turn; the same sockets, bridges and containers for all,
           and connections tracked in all; what is denied meets half of a peer's rules, as it does on average; of ours,
           each drop finds room for its event; payload compared, loss counted; rules, or runs of programs, must have
           counted each packet, and as many drops as datagrams were sent; and where nobody keeps them apart, all arrive
Falsified  by isolation of ours that costs a packet more at 1,000 networks than at 2 (above 1.05), by more than 1.03 of
           nft's sets, by a datagram that arrives, or by a control that differs from itself

"all defaults" is what an ADD by our plugin leaves: our nftables table, isolation and checksum on the bridges, guard on
the containers' veths. Programs are attached where packets pass; those on a thousand other bridges would not be run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from bench import firewalls, isolations
from bench.answers import Answer, Beside, Growth, Kind
from bench.floods import Flood
from bench.isolations import Passed, Variant
from bench.measure import CONFIDENCE, Control, Sample, block_medians, interval, paired
from bench.native import BenchError
from bench.networks import PATHS, Path, Scene
from bench.plots import Axis, Curves, line
from bench.report import (
    Figure,
    Results,
    control_figure,
    count_figure,
    difference_figure,
    grid,
    median_figure,
    number,
    ratio_figure,
)
from bench.roundtrips import RoundTrips
from bench.stage import Stage
from dataplane.programs import syscall

SIZES = (2, 10, 100, 1_000)
DENIED = "denied"
FLAT, AS_SETS, OF_TODAY = 1.05, 1.03, 0.25
NEAR = 0.03
"""How surely the same must be as fast as itself, where 1.05 and 1.03 are held against it."""

_DISCARDED = 1  # milliseconds at the start of a round
_PEERS = (Variant.NOTHING, Variant.SETS, Variant.LINEAR, Variant.STAGES, Variant.PLUGIN)
_ANSWERED = (Variant.NOTHING, Variant.SETS, Variant.STAGES)
_DRAWN = (Variant.NOTHING, Variant.STAGES, Variant.LINEAR, Variant.SETS, Variant.OURS, Variant.DEFAULTS)
_MEASURES = {**{path.name: "us" for path in PATHS}, DENIED: "ns"}
_RULES_MET = 3
"""Rules a network that a round trip meets where rules are scanned: of its packets two meet the first stage, and the one
that comes from a network that is kept apart meets the second stage as well."""


def run(stage: Stage) -> None:
    """Measure."""
    cpu = stage.cpu if stage.cpu is not None else max(os.sched_getaffinity(0))
    sizes = SIZES[: stage.amount(4, 4, 2)]
    with ExitStack() as stack:
        host = stack.enter_context(stage.host("networks"))
        variants = _variants(stage)
        stage.log.progress(f"isolation: making {max(sizes) + 2:,} networks")
        scene = stack.enter_context(Scene(host, stage.native, sizes, variants))
        trips = {path: stack.enter_context(RoundTrips(host, stage.native, cpu, scene.ends(path))) for path in PATHS}
        flood = stack.enter_context(scene.flood(stage.native, cpu))
        stage.log.progress(f"isolation: proving {len(variants)} variants")
        _prove(stage, scene, variants, sizes, trips)
        stage.log.progress("isolation: measuring")
        for turn in stage.turns(variants, stage.amount(60, 9, 2)):
            chance = random.Random(f"{stage.seed} {turn.block} {turn.variant}")  # noqa: S311 - an order, and no secret
            for size in chance.sample(sizes, len(sizes)):
                scene.take(Variant(turn.variant), size)
                _round_trips(stage, turn.variant, size, turn.block, trips)
                _denied(stage, scene, flood, Variant(turn.variant), size, turn.block)
        _prove(stage, scene, variants, (max(sizes),), trips)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = []
    unproved = _unproved(results)
    for measure, unit in _MEASURES.items():
        sizes = results.sizes(measure, Variant.OURS)
        if not sizes:
            rows.append(median_figure(f"{measure}: {Variant.OURS}", [], unit))
            continue
        rows += _of(results, measure, unit, sizes, unproved)
    rows.append(_total(results, "lost", "round trips", "round trips lost or damaged"))
    rows.append(_total(results, "arrived", "sent", "denied datagrams that arrived"))
    places = {one.variant for one in results.samples if one.measure == "unproved"}
    what = f"variants and sizes that were not what their name says, of {len(places):,}"
    rows.append(count_figure(what, len(unproved) if places else None, at_most=0))
    return rows


def tables(results: Results) -> list[str]:
    """Every variant at every size: medians."""
    made = []
    for measure, unit in _MEASURES.items():
        sizes = results.sizes(measure, Variant.OURS)
        rows = []
        for variant in Variant:
            cells = [_cell(results.of(measure, variant, size)) for size in sizes]
            if any(cells):
                rows.append((str(variant), *cells))
        if rows:
            title = f"isolation: {_said(measure)}, {unit} (95 %), by the number of networks"
            made.append(grid(title, ("", *(f"{size:,}" for size in sizes)), rows))
    return made


def plots(results: Results) -> list[Curves]:
    """A plot for each way, and one of what is denied."""
    drawn = []
    for number_, (measure, unit) in enumerate(_MEASURES.items()):
        found = [variant for variant in _DRAWN if results.sizes(measure, variant)]
        if not found:
            continue
        quantity = "processor time a datagram" if measure == DENIED else "round trip, p50"
        drawn.append(
            Curves(
                f"isolation_{('routed', 'published', 'open', 'denied')[number_]}",
                f"Networks kept apart: {_said(measure)}",
                Axis("networks", log=True),
                Axis(f"{quantity}, {unit}", log=True),
                tuple(
                    line(
                        variant,
                        variant.role,
                        {size: results.of(measure, variant, size) for size in results.sizes(measure, variant)},
                    )
                    for variant in found
                ),
                "Both ends and softirq on one processor. Rules of iptables are those of the CNI firewall plugin.",
            )
        )
    return drawn


def answers(results: Results) -> list[Answer]:
    """The rows of the one table: at the most networks, and how that grew."""
    made = []
    for measure, unit in _MEASURES.items():
        sizes = results.sizes(measure, Variant.OURS)
        if len(sizes) < 2:
            continue
        few, many = sizes[0], sizes[-1]
        ours = results.of(measure, Variant.OURS, many)
        besides = []
        for variant in _ANSWERED:
            ratios = paired(ours, results.of(measure, variant, many))
            if ratios:
                growth = _growth(results, measure, variant, few, many)
                besides.append(Beside(variant.role, variant, interval(ratios), growth))
        made.append(
            Answer(
                Kind.PACKET,
                f"{_said(measure)}, {many:,} networks kept apart",
                unit,
                interval(list(block_medians(ours).values())),
                tuple(besides),
                _growth(results, measure, Variant.OURS, few, many),
                _doubt(results, measure, many),
            )
        )
    return made


def _of(results: Results, measure: str, unit: str, sizes: Sequence[int], unproved: Iterable[str]) -> list[Figure]:
    """The rows of one way: ours beside each peer at the fewest and the most networks, and how each grows."""
    few, many = sizes[0], sizes[-1]
    doubtful = set(unproved)

    def noted(*places: tuple[Variant, int]) -> str:
        return "NOT PROVED: see below" if doubtful & {_place(*place) for place in places} else ""

    rows = [
        median_figure(f"{measure}, {size:,} networks: {Variant.OURS}", results.of(measure, Variant.OURS, size), unit)
        for size in (few, many)
    ]
    for size in (few, many):
        ours = results.of(measure, Variant.OURS, size)
        for peer in _PEERS:
            theirs = results.of(measure, peer, size)
            if not theirs:
                continue
            at_most = _limit(measure, peer) if size == SIZES[-1] else None
            what = f"{measure}, {size:,} networks: {Variant.OURS} / {peer}"
            note = noted((Variant.OURS, size), (peer, size))
            rows.append(ratio_figure(what, ours, theirs, at_most=at_most, note=note))
        base = Variant.OURS if measure == DENIED else Variant.NOTHING
        what = f"{measure}, {size:,} networks: {Variant.DEFAULTS} / {base}"
        defaults, below = results.of(measure, Variant.DEFAULTS, size), results.of(measure, base, size)
        rows.append(ratio_figure(what, defaults, below, note=noted((Variant.DEFAULTS, size), (base, size))))
    for variant in Variant:
        above, below = results.of(measure, variant, many), results.of(measure, variant, few)
        if above and variant is not Variant.AGAIN:
            at_most = FLAT if variant is Variant.OURS else None
            what = f"{measure}: {variant}, {many:,} / {few:,} networks"
            rows.append(ratio_figure(what, above, below, at_most=at_most, note=noted((variant, few), (variant, many))))
    rows += _slopes(results, measure, few, many)
    rows.append(
        control_figure(
            results.of(measure, Variant.AGAIN, many),
            results.of(measure, Variant.OURS, many),
            f"control: {measure}, {many:,} networks, the same twice",
            of=len(_MEASURES),
            within=NEAR,
        )
    )
    return rows


def _limit(measure: str, peer: Variant) -> float | None:
    if measure == DENIED:
        return None
    return {Variant.SETS: AS_SETS, Variant.STAGES: OF_TODAY}.get(peer)


def _slopes(results: Results, measure: str, few: int, many: int) -> list[Figure]:
    """What one more rule costs a packet, where rules are scanned."""
    # What is denied meets half of the rules of either stage. Between open networks only the first stage is met.
    met = {DENIED: 1, PATHS[2].name: 2}.get(measure, _RULES_MET)
    scale = (1 if measure == DENIED else 1e3) / (met * (many - few))
    rows = []
    for variant in (Variant.STAGES, Variant.LINEAR):
        above, below = (
            [replace(one, value=one.value * scale) for one in results.of(measure, variant, size)]
            for size in (many, few)
        )
        if above:
            rows.append(difference_figure(f"{measure}: {variant}, a rule that a packet meets", above, below, "ns"))
    return rows


def _growth(results: Results, measure: str, variant: Variant, few: int, many: int) -> Growth | None:
    ratios = paired(results.of(measure, variant, many), results.of(measure, variant, few))
    return Growth(interval(ratios), few, many, "networks") if ratios else None


def _doubt(results: Results, measure: str, size: int) -> str:
    """Why a row of answers says nothing."""
    places = {_place(variant, size) for variant in (Variant.OURS, *_ANSWERED)}
    if found := sorted(places & _unproved(results)):
        return f"not proved: {', '.join(found)}"
    ratios = paired(results.of(measure, Variant.AGAIN, size), results.of(measure, Variant.OURS, size))
    if not ratios:
        return "there is no control"
    spread = interval(ratios, confidence=1 - (1 - CONFIDENCE) / len(_MEASURES))
    if Control(spread, NEAR).valid:
        return ""
    return f"the same twice differs: {spread.low:.3f} - {spread.high:.3f}"


def _unproved(results: Results) -> set[str]:
    return {one.variant for one in results.samples if one.measure == "unproved" and one.value}


def _total(results: Results, what: str, of: str, said: str) -> Figure:
    made = sum(one.value for one in results.samples if one.measure == of)
    found = sum(one.value for one in results.samples if one.measure == what)
    return count_figure(f"{said}, of {made:,.0f}", found if made else None, at_most=0)


def _cell(samples: Sequence[Sample]) -> str:
    """ "11.5 (11.4 - 11.7)"; empty where there is nothing."""
    if not samples:
        return ""
    spread = interval(list(block_medians(samples).values()))
    return f"{number(spread.middle)} ({number(spread.low)} - {number(spread.high)})"


def _said(measure: str) -> str:
    return "a datagram that is denied" if measure == DENIED else f"UDP round trip, {measure}"


def _place(variant: str, size: int) -> str:
    return f"{variant}, {size:,} networks"


# Below: measuring.


def _variants(stage: Stage) -> list[Variant]:
    """Those that there can be on this machine; who is left out is noted, with the reason."""
    with stage.host("rules") as host:
        try:
            backend = firewalls.backend(host)
        except BenchError as error:
            stage.log.note(f"the rules of the firewall plugin are not compared: {error}")
            return [variant for variant in Variant if not variant.of_iptables]
        same, notes = firewalls.compared(host, stage.peers)
    for text in notes:
        stage.log.note(f"{text} ({backend})")
    for variant in (Variant.STAGES, Variant.PLUGIN):
        for size in SIZES:
            stage.log.sample("unproved", _place(variant, size), float(not same))
    return list(Variant)


def _prove(
    stage: Stage,
    scene: Scene,
    variants: Sequence[Variant],
    sizes: Sequence[int],
    trips: Mapping[Path, RoundTrips],
) -> None:
    """Look whether the packets of each path meet the rules, or run the programs, of each variant."""
    with syscall.enable_stats():
        for variant in variants:
            for size in sizes:
                scene.take(variant, size)
                found = []
                for path, way in trips.items():
                    before, made, after = scene.seen(), way.measure(_DISCARDED), scene.seen()
                    passed = Passed(
                        made.count,
                        after.scanned - before.scanned,
                        {program: count - before.runs[program] for program, count in after.runs.items()},
                    )
                    found += [f"{path.name}: {text}" for text in isolations.doubts(variant, passed)]
                _tell(stage, variant, size, found)


def _round_trips(stage: Stage, variant: str, size: int, block: int, trips: Mapping[Path, RoundTrips]) -> None:
    for path, way in trips.items():
        way.measure(_DISCARDED)
        made = way.measure(stage.amount(12, 4, 1))
        stage.log.sample(path.name, variant, made.p50 / 1e3, size=size, block=block)
        stage.log.sample("round trips", variant, made.count, size=size, block=block)
        stage.log.sample("lost", variant, made.lost + made.wrong, size=size, block=block)


def _denied(stage: Stage, scene: Scene, flood: Flood, variant: Variant, size: int, block: int) -> None:
    denied, each = scene.denied(flood, stage.amount(32, 16, 4))
    found = list(isolations.leaks(variant, denied))
    if found:
        _tell(stage, variant, size, found)
    if variant is Variant.NOTHING:
        return  # they arrive: that is what shows that the others could
    stage.log.sample(DENIED, variant, each, size=size, block=block)
    stage.log.sample("sent", variant, denied.sent, size=size, block=block)
    stage.log.sample("arrived", variant, denied.arrived, size=size, block=block)


def _tell(stage: Stage, variant: Variant, size: int, found: Sequence[str]) -> None:
    stage.log.sample("unproved", _place(variant, size), float(bool(found)))
    for text in found:
        stage.log.note(f"{_place(variant, size)}: {text}")
