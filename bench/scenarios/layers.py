"""What does each layer between a client and a container cost a round trip, and what do ours add to it?

Thirteen hosts, one more layer on each: loopback, a veth pair, a bridge, br_netfilter, conntrack there, a host that
forwards, conntrack there, and a published port as several people write it: the best pure nft, portmap by nft and by
iptables, portmap with firewall, and ours with programs off and at the defaults. Round trips of 64 bytes by UDP; in
full by TCP, too.

Peers      a veth pair, below which no container on a veth can be; one nft map, the least that publishes a port; the
           rules that portmap and firewall write, from 1.9 (nft) and from Debian's 1.1 (iptables)
Unit       microseconds of one round trip, median (p50) of a round; ratios are of medians within a block
Fair       client, server and softirq on one processor, before all others there (SCHED_FIFO), in one process that nobody
           has to wake; a host for each layer, its sockets open throughout; every block runs all in an order of its own;
           the client computes its checksums, as what comes from a network has them; br_netfilter is on where routed, as
           the kernel brings it up; payload compared, losses counted. What proves that packets went where the name says:
           counters at the hooks of bridge and forwarding, conntrack's entries, how often each of our programs ran,
           before and after
Falsified  by our host that differs from itself, by another like it that differs by more than ratios are read with, by a
           lost answer, or by a layer that packets did not pass

Established flows alone are asked about: the rules that translate are asked once a connection, and so are no part of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from bench.figures import (
    Better,
    Counted,
    Figure,
    Results,
    control_figure,
    count_figure,
    grid,
    median_figure,
    ratio_figure,
)
from bench.figures.answers import Answer, Beside, Kind
from bench.figures.measure import Sample, interval, paired, spread_percentile
from bench.figures.plots import Axis, Bars, Boxes, Plot, bar, box
from bench.hosts.ladder import (
    AGAIN,
    BRIDGE,
    BRIDGE_FILTERED,
    BRIDGE_TRACKED,
    CHAIN,
    MAP,
    OURS,
    PORTMAP_NFT,
    PUBLISHED,
    ROUTED,
    ROUTED_TRACKED,
    RUNGS,
    TABLES_ALONE,
    TWIN,
    TWINS,
    VETH,
    Rung,
)
from bench.hosts.sightings import prove
from bench.hosts.testbed import Testbed
from bench.instruments.roundtrips import RoundTrips
from bench.stage import Stage
from dataplane.types import Protocol

SECONDS = (65, 8)
NEAR = 0.02
"""How surely our host must be as slow as itself."""

_PROTOCOLS = (Protocol.UDP, Protocol.TCP)
_DISCARDED = 1  # milliseconds at the start of a round
_BESIDE: tuple[tuple[Rung, tuple[Rung, ...]], ...] = (
    (VETH, RUNGS),
    (BRIDGE, (BRIDGE_FILTERED,)),
    (BRIDGE_FILTERED, (BRIDGE_TRACKED,)),
    (ROUTED, (ROUTED_TRACKED,)),
    (MAP, PUBLISHED),
)
"""What is set beside what: all beside a veth pair, a layer beside the one below it, who publishes beside the map."""


def run(stage: Stage) -> None:
    """Measure."""
    cpu = stage.cpu if stage.cpu is not None else max(os.sched_getaffinity(0))
    protocols = _PROTOCOLS[: stage.amount(2, 1, 1)]
    with ExitStack() as stack:
        stage.log.progress("making a host for each layer")
        beds = {rung.name: Testbed(stack, stage, rung) for rung in (*RUNGS, TWIN)}
        ways = {name: {str(one): bed.open(cpu, one) for one in protocols} for name, bed in beds.items()}
        stage.log.note(f"client, server and softirq on processor {cpu}")
        _prove(stage, beds, ways)
        stage.log.progress("measuring")
        ways[AGAIN] = ways[OURS.name]
        span = stage.amount(12, 6, 2)
        for turn in stage.turns(list(ways), stage.amount(120, 32, 2)):
            for name, trips in ways[turn.variant].items():
                before, made = trips.measure(_DISCARDED), trips.measure(span, spread=True)
                stage.log.sample(name, turn.variant, made.p50 / 1e3, block=turn.block)
                stage.log.histogram(
                    name, turn.variant, ((value / 1e3, count) for value, count in made.spread), block=turn.block
                )
                stage.log.sample("round trips", turn.variant, made.count, block=turn.block)
                stage.log.sample("lost", turn.variant, before.failed + made.failed, block=turn.block)
        _prove(stage, beds, ways)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    measured = _measured(results)
    unproved = _unproved(results)
    rows = []
    for name in measured:
        title = name.upper()
        for rung in RUNGS:
            note = "NOT PROVED: see below" if rung.name in unproved else ""
            found = results.of(name, rung.name)
            rows.append(median_figure(f"{title} round trip, {rung.name}", found, "us", note=note))
        for base, above in _BESIDE:
            below, beside = results.of(name, base.name), str(base.rules) if base.rules.publish else base.name
            rows += [
                ratio_figure(
                    f"{title}, {rung.name} / {beside}",
                    results.of(name, rung.name),
                    below,
                    better=Better.LESS if rung.rules.ours else None,
                    peer=rung.rules.ours and base is not VETH,
                )
                for rung in above
                if rung is not base
            ]
        for rung in PUBLISHED:
            spread = results.spread(name, rung.name)
            if spread:
                p99 = spread_percentile(spread, 0.99)
                rows.append(
                    Figure(f"{title}, {rung.name}, p99", p99, "us", count=sum(spread.values()), counted=Counted.SAMPLES)
                )
        rows += _controls(results, name)
    made = sum(one.value for one in results.samples if one.measure == "round trips")
    lost = sum(one.value for one in results.samples if one.measure == "lost")
    rows.append(count_figure(f"round trips lost or damaged, of {made:,.0f}", lost if made else None, at_most=0))
    proofs = {one.variant for one in results.samples if one.measure == "unproved"}
    what = f"layers that were not what their name says, of {len(proofs)}"
    rows.append(count_figure(what, len(unproved) if proofs else None, at_most=0))
    return rows


def tables(results: Results) -> list[str]:
    """The ladder at a glance."""
    made = []
    for name in _measured(results):
        rows = []
        for rung in RUNGS:
            spread, found = results.spread(name, rung.name), results.of(name, rung.name)
            if spread and found:
                percentiles = (f"{spread_percentile(spread, share):.2f}" for share in (0.5, 0.9, 0.99))
                ratios = (_cell(found, results.of(name, base.name)) for base in (VETH, MAP))
                rows.append((rung.name, *percentiles, *ratios))
        header = ("layer", "p50 us", "p90 us", "p99 us", "/ raw veth (95 %)", f"/ {MAP.rules} (95 %)")
        made.append(grid(f"layers: {name.upper()} round trips of 64 bytes", header, rows))
    return made


def plots(results: Results) -> list[Plot]:
    """How far each layer is from the least there is, and how its round trips are distributed."""
    made: list[Plot] = []
    for name in _measured(results):
        title = f"{name.upper()} round trip of 64 bytes"
        axis = Axis(f"{name.upper()} round trip, us")
        bars, boxes = [], []
        for rung in RUNGS:
            ratios = paired(results.of(name, rung.name), results.of(name, VETH.name))
            spread = results.spread(name, rung.name)
            if ratios and spread:
                bars.append(bar(rung.name, rung.role, interval(ratios)))
                boxes.append(box(rung.name, rung.role, spread))
        where = "Client, server and softirq on one processor; established flows."
        made.append(
            Bars(f"layers_{name}", f"{title}, beside a veth pair", Axis("ratio to a veth pair"), tuple(bars), where)
        )
        made.append(Boxes(f"layers_{name}_spread", f"{title}, distribution per layer", axis, tuple(boxes), where))
    return made


def answers(results: Results) -> list[Answer]:
    """Ours without any program: what the tables alone cost. (With them: ``published``.)"""
    made = []
    for name in _measured(results):
        own = results.of(name, TABLES_ALONE.name)
        besides = tuple(
            Beside(rung.role, str(rung.rules) if rung.rules.publish else rung.name, interval(ratios))
            for rung in (VETH, MAP, PORTMAP_NFT, CHAIN)
            if (ratios := paired(own, results.of(name, rung.name)))
        )
        if own and besides:
            what = f"{name.upper()} round trip, established, published port, nft only"
            middle = interval([one.value for one in own])
            made.append(Answer(Kind.PACKET, what, "us", middle, besides, doubt=_doubt(results, name)))
    return made


def _prove(stage: Stage, beds: Mapping[str, Testbed], ways: Mapping[str, Mapping[str, RoundTrips]]) -> None:
    stage.log.progress(f"proving {len(beds)} layers")
    for name, bed in beds.items():
        prove(stage, bed, ways[name])


def _measured(results: Results) -> list[str]:
    return [str(one) for one in _PROTOCOLS if results.of(str(one), OURS.name)]


def _unproved(results: Results) -> set[str]:
    return {one.variant for one in results.samples if one.measure == "unproved" and one.value}


def _doubt(results: Results, name: str) -> str:
    """Why a row of answers says nothing; empty where it does."""
    if failed := sorted(_unproved(results)):
        return f"not proved: {', '.join(failed)}"
    return ". ".join(f"{one.what}: {one.note}" for one in _controls(results, name) if not one.met)


def _controls(results: Results, name: str) -> list[Figure]:
    """The same sockets of the same host twice, and two hosts that are alike."""
    again, own, twin = (results.of(name, one) for one in (AGAIN, OURS.name, TWIN.name))
    what, of = f"control: {name.upper()}", 2 * len(_measured(results))
    return [
        control_figure(again, own, f"{what}, the same twice", of=of, within=NEAR),
        control_figure(twin, own, f"{what}, two hosts of ours, alike", of=of, within=TWINS, slight=TWINS),
    ]


def _cell(above: Sequence[Sample], below: Sequence[Sample]) -> str:
    """ "1.011 (1.006 - 1.022)"; empty where there is no ratio."""
    ratios = paired(above, below)
    if not ratios:
        return ""
    spread = interval(ratios)
    return f"{spread.middle:.3f} ({spread.low:.3f} - {spread.high:.3f})"
