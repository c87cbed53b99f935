"""What does it cost to keep 1 to 1,000 networks apart: packets that may pass, and those that may not?

A host has a thousand networks that are kept apart from each other, and two that are open. UDP round trips go from a
container to a machine outside, from there to a published port, and between the two open networks; and a container
sends datagrams as fast as it can to one of another network, where none may arrive: of one flow, and each of a flow of
its own. Turn by turn, somebody else keeps the networks apart, and 1, 2, 10, 100 or all 1,000 of them. Where it is 1,
packets have no other to go to, and none is denied.

Peers      nobody; iptables with the rules that ``ingressPolicy`` of the firewall plugin writes, alone and with those
           that it writes besides (whether they are the plugin's is asked of the plugin first); the same in nft, two
           rules a network; nft at its best: what is established passes first, then one rule with sets of devices
Unit       microseconds of a round trip (p50), and nanoseconds of the processor for a datagram, from sending it to its
           drop (the median batch of 8); medians over blocks, ratios within a block
Fair       client, server and softirq on one processor, before all others there (SCHED_FIFO), in one process that nobody
           has to wake; variants in an order that is shuffled in each block, and sizes in each turn; the same sockets,
           devices and containers for all, and connections tracked in all; what is denied meets half of a peer's rules,
           as it does on average; of ours, each drop finds room for its event; payload compared, loss counted; rules, or
           runs of programs, must have counted each packet, and as many drops as datagrams were sent; and where nobody
           keeps them apart, all arrive
Falsified  by ours that costs a packet more at 1,000 networks than at the fewest (above 1.05), alone or with all
           defaults; by isolation alone that takes more than 1.03 of nft's sets; by a datagram that arrives, or by a
           control that differs from itself

"all defaults" is what an ADD by our plugin leaves, and what the one table tells of: our nftables table, isolation and
checksum on the bridges, guard on the containers' veths, and the programs of the cgroups, on one that all ends are in.
"isolation alone" is that program and nothing else, which does what the peers do: limits beside them are of it. Programs
are attached where packets pass; those on a thousand other bridges would not be run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from bench.hosts.cgroups import own_cgroup_if_any
from bench.instruments.floods import Flood
from bench.instruments.roundtrips import RoundTrips
from bench.native import BenchError
from bench.scenarios.isolation import firewalls
from bench.scenarios.isolation import rules as isolations
from bench.scenarios.isolation.drawn import (
    DENIED,
    DENIED_FLOWS,
    QUICK_SIZES,
    SIZES,
    answers,
    figures,
    place,
    plots,
    tables,
)
from bench.scenarios.isolation.networks import Scene
from bench.scenarios.isolation.rules import OPEN_NETWORKS, PATHS, Passed, Path, Variant
from bench.stage import Stage
from dataplane.programs import syscall

__all__ = ["answers", "figures", "plots", "run", "tables"]

SECONDS = (190, 18)

_DISCARDED = 1  # milliseconds at the start of a round
_FLOWS = 1_024
"""As many as datagrams of a round, or more: each is of a flow that was not seen before."""


def run(stage: Stage) -> None:
    """Measure."""
    cpu = stage.cpu if stage.cpu is not None else max(os.sched_getaffinity(0))
    sizes = (SIZES, QUICK_SIZES, SIZES[:3])[stage.extent]
    variants = _variants(stage)
    with ExitStack() as stack:
        stage.log.progress(f"making {max(sizes) + len(OPEN_NETWORKS):,} networks")
        host = stack.enter_context(stage.host("networks"))
        cgroup = own_cgroup_if_any(stack, stage.log)
        scene = stack.enter_context(Scene(host, stage.native, sizes, variants, cgroup))
        trips = {
            path: stack.enter_context(RoundTrips(host, stage.native, cpu, scene.ends(path), cgroup)) for path in PATHS
        }
        flood = stack.enter_context(scene.flood(stage.native, cpu))
        stage.log.progress(f"proving {len(variants)} variants")
        _prove(stage, scene, variants, sizes, trips)
        stage.log.progress("measuring")
        leaky: set[str] = set()
        for turn in stage.turns(variants, stage.amount(40, 12, 2)):
            chance = random.Random(f"{stage.seed} {turn.block} {turn.variant}")  # noqa: S311 - an order, and no secret
            for size in chance.sample(sizes, len(sizes)):
                scene.take(Variant(turn.variant), size)
                _round_trips(stage, turn.variant, size, turn.block, trips)
                if size == 1:
                    continue  # nobody is there to be denied
                ends = size in {sizes[1], sizes[-1]}
                found = _denied(stage, scene, flood, Variant(turn.variant), size, turn.block, ends=ends)
                if found and place(turn.variant, size) not in leaky:  # said once is enough
                    leaky.add(place(turn.variant, size))
                    _tell(stage, Variant(turn.variant), size, found)
        _prove(stage, scene, variants, (max(sizes),), trips)


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
            stage.log.sample("unproved", place(variant, size), float(not same))
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


def _denied(
    stage: Stage, scene: Scene, flood: Flood, variant: Variant, size: int, block: int, *, ends: bool
) -> list[str]:
    """Send what must not arrive; why it was not denied as the variant's name says. ``ends``: this is the least or the
    largest size of those that have somebody to deny."""
    found = list[str]()
    for measure, batches, flows in _floods(stage, variant, ends=ends):
        denied, each = scene.denied(flood, batches, flows)
        found += isolations.leaks(variant, denied)
        if variant is not Variant.NOTHING:
            stage.log.sample(measure, variant, each, size=size, block=block)
            stage.log.sample("sent", variant, denied.sent, size=size, block=block)
            stage.log.sample("arrived", variant, denied.arrived, size=size, block=block)
    return found


def _floods(stage: Stage, variant: Variant, *, ends: bool) -> Iterator[tuple[str, int, int]]:
    """What is sent: its name, how many batches, and how many flows."""
    yield DENIED, stage.amount(128, 64, 8), 1  # where nobody denies it, it arrives: so the others could
    if ends and variant is not Variant.NOTHING:
        # No more in a full run: what ours drops stays in the table of connections for half a minute.
        yield DENIED_FLOWS, stage.amount(32, 32, 8), _FLOWS


def _tell(stage: Stage, variant: Variant, size: int, found: Sequence[str]) -> None:
    stage.log.sample("unproved", place(variant, size), float(bool(found)))
    for text in found:
        stage.log.note(f"{place(variant, size)}: {text}")
