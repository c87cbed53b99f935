"""What does a published port cost in bulk: processor time a KiB of TCP, and a UDP packet at a steady rate?

First bulk TCP through a published port, to the container and from it, with segments in three forms: as from a wire
(each of at most 1,500 bytes, summed by its sender), in whole (64 KiB at a time, sums left to a device: what neighbours
on one machine send each other), and from a wire and put together again by the host (GRO; full run only). Then 40,000
UDP packets a second, eight at a time, each due at a time that nothing moves.

Peers      raw veth, which is the least that there is; the best pure nft (one map); portmap's rules as its nftables
           backend writes them, alone and behind 1,000 others; ours without any program
Unit       nanoseconds of processor time for a KiB and for a packet, all included: both ends, the stack, softirqs. Gb/s
           are what one processor moves at that cost; in the full run also with an end on each of two, by the clock.
           Latency is from when a packet was due until its burst was read
Fair       both ends in one thread on one processor (``--cpu``, else the last), before all others there (SCHED_FIFO):
           nobody is woken, nothing waits for a wire; time in which somebody else had the processor all the same is not
           counted, nor is sleep: how much was is kept, and doubted below 95 %; order shuffled in each block; each round
           of TCP has a connection of its own, whose windows are open when it begins; bytes counted at both ends and
           compared with what was sent (of each 251 eight; all of them when a path is proved); the address that the
           server was reached at, the tables that are there and how often each program ran are asked of the kernel
           before and after
Falsified  by a byte or a packet that is lost or changed, or by a control that differs from itself: another container of
           ours, on another network
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from bench.figures.measure import Turn
from bench.hosts.sites import Sites, Way, doubts, watched
from bench.hosts.wiring import EDGE
from bench.instruments.precedence import first_in_line, rest
from bench.instruments.segments import Feature, switch
from bench.instruments.stackcounts import counted, risen
from bench.instruments.streams import Direction, Pace, Steady, Stream, Transfer
from bench.scenarios.bulk.drawn import (
    AGAIN_SENT,
    AMISS,
    IN_VAIN,
    LATE,
    LOST,
    PACES,
    PHASES,
    QUICK_PHASES,
    REORDERED,
    SENT,
    TRANSFERRED,
    WIRE,
    Form,
    Phase,
    answers,
    counted_of,
    figures,
    packet,
    plots,
    tables,
    trouble,
)
from bench.stage import Stage
from dataplane.programs import syscall
from dataplane.types import Protocol

__all__ = ["answers", "figures", "plots", "run", "tables"]

SECONDS = (110, 9)

_WARM = 1  # milliseconds at the start of a round of packets
_PROOF = 3  # milliseconds
_BLOCKS = (36, 18, 2)
_NOT_GRANTED = "shares its processor with whoever else runs there, for SCHED_FIFO was not granted"


def run(stage: Stage) -> None:
    """Measure."""
    cpu = stage.cpu if stage.cpu is not None else max(os.sched_getaffinity(0))
    others = sorted(os.sched_getaffinity(0) - {cpu})
    blocks = stage.amount(*_BLOCKS)
    with Sites(stage) as sites:
        stage.log.progress("making hosts")
        ways = {way.publisher.name: way for way in sites.ways()}
        for number, phase in enumerate(QUICK_PHASES if stage.extent else PHASES):
            if phase.apart and not others:
                stage.log.note(f"TCP {phase.name}: not measured, for there is one processor")
                continue
            stage.log.progress(f"TCP {phase.name}")
            for way in ways.values():
                _shape(way, phase.form)
            container_cpu = others[0] if phase.apart else cpu
            _streams(stage, ways, phase, (cpu, container_cpu), 3 * number * blocks)
            if phase == WIRE:
                _packets(stage, ways, cpu, (3 * number + 1) * blocks)


def _streams(stage: Stage, ways: Mapping[str, Way], phase: Phase, cpus: tuple[int, int], first: int) -> None:
    with ExitStack() as stack:
        with first_in_line() as granted:
            streams = {
                name: stack.enter_context(Stream(way.host, stage.native, cpus, way.ends(Protocol.TCP)))
                for name, way in ways.items()
            }
        if not granted:
            stage.log.note(f"TCP {phase.name}: {_NOT_GRANTED}")
        _prove_streams(stage, ways, phase, streams)
        span = stage.amount(20, 5, 2)
        for turn in stage.turns(list(ways), stage.amount(*_BLOCKS), first):
            way, stream = ways[turn.variant], streams[turn.variant]
            ends = [way.netns(way.client), way.netns(way.container)]
            before = [counted(end) for end in ends]
            for direction in Direction:
                made = stream.measure(direction, span)
                rest(span)
                spent = made.nanoseconds if phase.apart else made.busy
                measure = phase.measure(direction)
                stage.log.sample(measure, turn.variant, spent / made.received * 1024, block=turn.block)
                if not phase.apart:
                    stage.log.sample(counted_of(measure), turn.variant, made.counted, block=turn.block)
                _keep(stage, phase, turn, made)
            for end, then in zip(ends, before, strict=True):
                _keep_trouble(stage, phase, turn, risen(then, counted(end)))
        _prove_streams(stage, ways, phase, streams)


def _keep(stage: Stage, phase: Phase, turn: Turn, made: Transfer) -> None:
    """What a round is counted by, besides its time."""
    amiss = made.sent - made.received + made.wrong
    stage.log.sample(TRANSFERRED, turn.variant, made.received, block=turn.block)
    stage.log.sample(AMISS, turn.variant, amiss, block=turn.block)
    if amiss:
        told = f"{made.wrong:,} wrong of {made.received:,} received of {made.sent:,}"
        stage.log.note(f"{turn.variant}, TCP {phase.name}: {told}")
    counts = {AGAIN_SENT: made.retransmitted, IN_VAIN: made.in_vain, REORDERED: made.reordered}
    _keep_trouble(stage, phase, turn, counts)


def _keep_trouble(stage: Stage, phase: Phase, turn: Turn, counts: Mapping[str, int]) -> None:
    """What there was of it; mostly there is none."""
    for kind, count in counts.items():
        if count:
            stage.log.sample(trouble(phase, kind), turn.variant, count, block=turn.block)


def _packets(stage: Stage, ways: Mapping[str, Way], cpu: int, first: int) -> None:
    blocks, span = stage.amount(*_BLOCKS), stage.amount(40, 7, 2)
    for number, pace in enumerate(PACES[: stage.amount(2, 1, 1)]):
        measure = packet(pace)
        stage.log.progress(f"{measure}, {pace.rate:,} a second")
        with ExitStack() as stack:
            with first_in_line() as granted:
                flows = {
                    name: stack.enter_context(Steady(way.host, stage.native, cpu, way.ends(Protocol.UDP), pace))
                    for name, way in ways.items()
                }
            if not granted:
                stage.log.note(f"{measure}: {_NOT_GRANTED}")
            _prove_flows(stage, ways, pace, flows)
            for turn in stage.turns(list(ways), blocks, first + number * blocks):
                flow = flows[turn.variant]
                flow.measure(_WARM)
                made = flow.measure(span)
                rest(span)
                measured = {
                    measure: made.nanoseconds_per_packet,
                    counted_of(measure): made.share_counted,
                    f"{measure}, {SENT}": made.sent,
                    f"{measure}, {LATE}": made.late,
                    SENT: made.sent,
                    LOST: made.sent - made.received + made.wrong,
                }
                for what, value in measured.items():
                    stage.log.sample(what, turn.variant, value, block=turn.block)
                if measured[LOST]:
                    told = f"{made.wrong:,} wrong of {made.received:,} received of {made.sent:,}"
                    stage.log.note(f"{turn.variant}, {measure}: {told}")
                spread = [(value / 1e3, count) for value, count in made.latencies]
                stage.log.histogram(measure, turn.variant, spread, block=turn.block)
            _prove_flows(stage, ways, pace, flows)


def _prove_streams(stage: Stage, ways: Mapping[str, Way], phase: Phase, streams: Mapping[str, Stream]) -> None:
    """Look at every byte, there and back, and at what the kernel tells of them."""

    def there_and_back(stream: Stream) -> list[Transfer]:
        return [stream.measure(direction, _PROOF, every_byte=True) for direction in Direction]

    with syscall.enable_stats():
        for name, stream in streams.items():
            way = ways[name]
            made, seen = watched(way, stream.reached, partial(there_and_back, stream))
            found = list(doubts(way.publisher, way.reached, seen))
            if any(one.wrong for one in made):
                found.append("bytes are not those that were sent")
            _tell(stage, way, phase.name, found)


def _prove_flows(stage: Stage, ways: Mapping[str, Way], pace: Pace, flows: Mapping[str, Steady]) -> None:
    """Look at every packet, and at what the kernel tells of them."""
    with syscall.enable_stats():
        for name, flow in flows.items():
            way = ways[name]
            made, seen = watched(way, flow.reached, partial(flow.measure, _PROOF))
            found = list(doubts(way.publisher, way.reached, seen, to_container=made.received, from_container=0))
            _tell(stage, way, packet(pace), found)


def _tell(stage: Stage, way: Way, where: str, found: Sequence[str]) -> None:
    stage.log.sample("unproved", f"{way.publisher.name}, {where}", float(bool(found)))
    for text in found:
        stage.log.note(f"{way.publisher.name}, {where}: {text}")


def _shape(way: Way, form: Form) -> None:
    """Have the devices on a way treat segments like that."""
    sums = form is Form.WHOLE
    for namespace in (way.client, way.container):
        # Segmentation comes after the sums that it needs, and goes before them.
        segments = {Feature.TSO: sums, Feature.GSO: sums}
        wanted = {Feature.SUMS: True, **segments} if sums else {**segments, Feature.SUMS: False}
        switch(way.netns(namespace), EDGE, wanted)
    joining = {Feature.GRO: form is Form.JOINED}
    for device in way.between:
        switch(way.host.netns, device, joining)
    if not way.between:
        for namespace in (way.client, way.container):
            switch(way.netns(namespace), EDGE, joining)
