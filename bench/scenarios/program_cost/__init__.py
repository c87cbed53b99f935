"""What does a packet pay for each eBPF program: attached and idle, and at work?

First each program alone runs on one packet, many thousand times, by ``BPF_PROG_TEST_RUN``: nanoseconds beyond those of
an empty program, for each way through it. Then UDP round trips between a client and a container on a bridge: routed
without any nftables (in full), routed and through a published port with our tables, and from the host itself; with no
program attached, with each attached and no entry for its device (``idle``), and with each at work (``hit``). Last
``connect()`` of the host's processes, with and without the programs of the cgroups.

Peers      the same path with nothing attached, in the same block
Unit       nanoseconds a run, median over blocks of the difference to the empty program; ratio of round trips' p50
Fair       client, container and softirq on one processor, before all others there (SCHED_FIFO), in one process that
           nobody has to wake: nothing dilutes a ratio, which a path with wakes or a wire would; order shuffled in each
           block; programs attached and detached in turn on the same devices; payload compared, loss counted; how often
           each program ran is asked of the kernel, before and after; cases whose verdict, packet or counters are others
           say so and are not measured
Falsified  by an idle program above 1.03 of none attached, by isolation that costs more at 1,000 networks than at 2, or
           by a control that differs from itself
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TypeVar

from bench.figures import (
    Better,
    Figure,
    Results,
    control_figure,
    count_figure,
    difference_figure,
    grid,
    median_figure,
    ratio_figure,
)
from bench.figures.measure import Turn, interval, paired
from bench.hosts.hooked import Scene
from bench.hosts.variants import (
    AGAIN,
    BARE,
    FROM_HOST,
    NONE,
    PATHS,
    PUBLISHED,
    ROUTED,
    STREAM,
    WOKEN,
    Path,
    Variant,
    doubts,
    variants,
)
from bench.instruments.precedence import first_in_line, rest
from bench.instruments.roundtrips import RoundTrips
from bench.scenarios.program_cost import connects
from bench.scenarios.program_cost.cases import CROWD, DEVICES, Case, Devices, cases, ready
from bench.scenarios.program_cost.testruns import FLOOR, FLOOR_AGAIN, FLOOR_BEFORE, Runner, Unproved
from bench.stage import Extent, Stage
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.types import IfIndex

T = TypeVar("T")

IDLE_AT_MOST = 1.03
FLAT = 1.05
NEAR = 0.02
"""How surely a path must be as slow as itself, where 1.03 is held against it."""

_FULL_BLOCKS, _QUICK_BLOCKS = 32, 14
SECONDS = (250, 18)

_TIMES = 3
"""How often each case runs in a turn: the median of them counts."""
_CALIBRATE = 2_000
_DISCARDED = 2  # milliseconds at the start of a round


def run(stage: Stage) -> None:
    """Measure."""
    cpu = stage.cpu if stage.cpu is not None else max(os.sched_getaffinity(0))
    blocks = stage.amount(_FULL_BLOCKS, _QUICK_BLOCKS, 2)
    with ExitStack() as stack:
        scene = Scene(stack.enter_context(stage.host("ours")), stage.native)
        for device in DEVICES:
            scene.host.run("ip", "link", "add", device, "type", "bridge")
        stage.log.progress("each program on one packet")
        _test_runs(stage, scene, cpu, blocks)
        scene.forget()
        wanted = variants(every=not stage.extent)
        if stage.extent is not Extent.QUICK:
            _round_trips(stage, scene, cpu, wanted, [BARE], first=blocks)
        scene.publish()
        paths = [ROUTED, PUBLISHED, FROM_HOST, *([] if stage.extent else [STREAM, WOKEN])]
        _round_trips(stage, scene, cpu, wanted, paths, first=2 * blocks)
        stage.log.progress("connect() of the host's processes")
        connects.measure(stage, scene, cpu, first=3 * blocks)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    paths = [path for path in PATHS if results.of(path.name, NONE)]
    controls = 1 + len(paths) + len(connects.PROTOCOLS)
    proofs = [one for one in results.samples if one.measure == "unproved"]
    unproved = {one.variant for one in proofs if one.value}
    rows = _test_run_figures(results, unproved, controls)
    for path in paths:
        base, again = results.of(path.name, NONE), results.of(path.name, AGAIN)
        rows.append(median_figure(f"{path.name}: round trip, {NONE}", base, "us"))
        rows.append(control_figure(again, base, f"control: {path.name}, the same twice", of=controls, within=NEAR))
        for variant in variants(every=True):
            found = results.of(path.name, variant.name)
            if found and variant.programs and variant.says_something_of(path):
                at_most = IDLE_AT_MOST if variant.judged else None
                note = "NOT PROVED: see below" if _place(variant, path) in unproved else ""
                better = None if variant.empty else Better.LESS
                what = f"{path.name}: {variant.name}"
                rows.append(ratio_figure(what, found, base, at_most=at_most, better=better, note=note))
    rows.append(_filled(results))
    rows += connects.figures(results, controls)
    made = sum(one.value for one in results.samples if one.measure == "round trips")
    lost = sum(one.value for one in results.samples if one.measure == "lost")
    what = f"round trips and connections lost or damaged, of {made:,.0f}"
    rows.append(count_figure(what, lost if made else None, at_most=0))
    what = f"programs or paths that were not what their name says, of {len({one.variant for one in proofs}):,}"
    rows.append(count_figure(what, len(unproved) if proofs else None, at_most=0))
    return rows


def tables(results: Results) -> list[str]:
    """The same ratios, paths side by side."""
    paths = [path for path in PATHS if results.of(path.name, NONE)]
    rows = []
    for variant in variants(every=True):
        cells = [_cell(results, variant, path) for path in paths]
        if any(cells):
            rows.append((variant.name, *cells))
    if not rows:
        return []
    title = f"program_cost: round trips, as ratio to {NONE} (95 %)"
    return [grid(title, ("", *(path.name for path in paths)), rows)]


def _cell(results: Results, variant: Variant, path: Path) -> str:
    """ "1.011 (1.006 - 1.022)", with a mark where an idle program costs too much; empty where there is no ratio."""
    ratios = paired(results.of(path.name, variant.name), results.of(path.name, NONE))
    if variant.name == NONE or not ratios or not variant.says_something_of(path):
        return ""
    spread = interval(ratios)
    mark = " **!**" if variant.judged and spread.middle > IDLE_AT_MOST else ""
    return f"{spread.middle:.3f} ({spread.low:.3f} - {spread.high:.3f}){mark}"


def _filled(results: Results) -> Figure:
    """What it takes to complete a sum, of round trips: no packet that is made up needs it."""
    hit, idle = ([replace(one, value=one.value * 1e3) for one in results.of(FROM_HOST.name, f"fill {how}")]
                 for how in ("hit", "idle"))  # fmt: skip
    note = "of round trips, for no packet of TEST_RUN is partial"
    return difference_figure("fill: a sum completed; hit beyond idle", hit, idle, "ns", note=note)


def _test_runs(stage: Stage, scene: Scene, cpu: int, blocks: int) -> None:
    """The host is entered anew for each turn: who waits for what is done there does not hear that he is to stop."""
    devices = scene.inside(_devices)
    todo = {_label(case): case for case in cases(devices)}
    with ExitStack() as stack:
        runner = scene.inside(lambda door: stack.enter_context(Runner(door, devices)))

        def on_host(work: Callable[[], T]) -> T:
            def there(_: KernelPrograms) -> T:
                os.sched_setaffinity(0, {cpu})  # of a thread that ends with this
                return work()

            return scene.inside(there)

        def one_turn(turn: Turn) -> None:
            made = list[float]()
            try:
                with first_in_line():
                    for _ in range(_TIMES):
                        if turn.variant in counts:
                            made.append(runner.measure(todo[turn.variant], counts[turn.variant]))
                        else:
                            made.append(runner.floor(span // 40, store=turn.variant == FLOOR_BEFORE))
            except Unproved as error:
                _tell(stage, turn.variant, error)
            for spent in made:
                stage.log.sample("test run", turn.variant, spent, block=turn.block)
            if turn.variant == FLOOR:
                stage.log.sample("test run", "constant", runner.constant(), block=turn.block)

        span = stage.amount(10_000_000, 2_000_000, 100_000)  # nanoseconds
        counts = {
            name: runs
            for name, case in todo.items()
            if (runs := on_host(partial(_calibrated, stage, runner, case, span)))
        }
        for turn in stage.turns([FLOOR, FLOOR_AGAIN, FLOOR_BEFORE, *counts], blocks):
            on_host(partial(one_turn, turn))
            rest(_TIMES * span / 1e6)


def _devices(door: KernelPrograms) -> Devices:
    """What cases are about, with the programs loaded for it."""
    door.load()
    devices = Devices({name: IfIndex(socket.if_nametoindex(name)) for name in DEVICES})
    ready(door, devices)
    return devices


def _calibrated(stage: Stage, runner: Runner, case: Case, span: int) -> int:
    """How many runs take so long; 0 where they are not what the case is about, of which there is a note."""
    try:
        each = runner.measure(case, _CALIBRATE)
    except Unproved as error:
        _tell(stage, _label(case), error)
        return 0
    stage.log.sample("unproved", _label(case), 0)
    return max(int(span / max(each, 1.0)), _CALIBRATE)


def _tell(stage: Stage, name: str, error: Unproved) -> None:
    stage.log.note(f"not measured: {error}")
    stage.log.sample("unproved", name, 1)


def _label(case: Case) -> str:
    return f"{case.name}, {case.networks:,} networks" if case.networks != 2 else case.name


def _place(variant: Variant, path: Path) -> str:
    return f"{variant.name}, {path.name}"


def _test_run_figures(results: Results, unproved: Collection[str], controls: int) -> list[Figure]:
    measure = "test run"
    floor, behind = results.of(measure, FLOOR), results.of(measure, FLOOR_BEFORE)
    rows = [
        median_figure("TEST_RUN: a call of it, besides the runs", results.of(measure, "constant"), "ns"),
        median_figure(f"TEST_RUN: {FLOOR}", floor, "ns"),
        control_figure(results.of(measure, FLOOR_AGAIN), floor, f"control: {FLOOR}, the same twice", of=controls),
    ]
    labels = {_label(case): case for case in cases(Devices(dict.fromkeys(DEVICES, IfIndex(0))))}
    for name, case in labels.items():
        found = results.of(measure, name)
        if found or name in unproved:
            note = "NOT PROVED: see below" if name in unproved else ""
            below = behind if case.restore else floor
            rows.append(difference_figure(f"{name}; beyond empty", found, below, "ns", note=note))
    few = "isolation: other network, open"
    many = f"{few}, {CROWD:,} networks"
    what = f"{few}, {CROWD:,} / 2 networks"
    rows.append(ratio_figure(what, results.of(measure, many), results.of(measure, few), at_most=FLAT))
    return rows


def _round_trips(
    stage: Stage, scene: Scene, cpu: int, wanted: Sequence[Variant], paths: Sequence[Path], first: int
) -> None:
    by_name = {variant.name: variant for variant in wanted}
    span = stage.amount(20, 7, 2)
    with ExitStack() as stack:
        trips = {
            path: stack.enter_context(RoundTrips(scene.host, stage.native, cpu, scene.ends(path))) for path in paths
        }
        names = ", ".join(path.name for path in paths)
        stage.log.progress(f"round trips {names}: proving {len(wanted)} variants")
        _prove(stage, scene, wanted, trips)
        stage.log.progress(f"round trips {names}: measuring")
        for turn in stage.turns(list(by_name), stage.amount(_FULL_BLOCKS, _QUICK_BLOCKS, 2), first):
            scene.take(by_name[turn.variant])
            for path, way in trips.items():
                scene.passes(path)
                way.measure(_DISCARDED)
                made = way.measure(span)
                stage.log.sample(path.name, turn.variant, made.p50 / 1e3, block=turn.block)
                stage.log.sample(f"{path.name}, p99", turn.variant, made.p99 / 1e3, block=turn.block)
                stage.log.sample("round trips", turn.variant, made.count, block=turn.block)
                stage.log.sample("lost", turn.variant, made.lost + made.wrong, block=turn.block)
        _prove(stage, scene, wanted, trips)
        scene.take(Variant(NONE))


def _prove(stage: Stage, scene: Scene, wanted: Iterable[Variant], trips: Mapping[Path, RoundTrips]) -> None:
    """Look whether each variant's programs see each path's packets, and do with them what its name says."""
    with syscall.enable_stats():
        for variant in wanted:
            scene.take(variant)
            for path, way in trips.items():
                scene.passes(path)
                way.measure(_DISCARDED)
                before, made, after = scene.seen(), way.measure(stage.amount(10, 5, 2)), scene.seen()
                found = list(doubts(variant, path, made.count, after.since(before)))
                stage.log.sample("unproved", _place(variant, path), float(bool(found)))
                for text in found:
                    stage.log.note(f"{path.name}, {variant.name}: {text}")
