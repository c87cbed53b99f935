"""Do packets notice that the ports of others are published and taken away meanwhile?

Round trips through a published port, with 1,000 others present, while another port comes and goes as often as whoever
does it manages, and at most once a millisecond: by our plugin and agent from exec to exit, by ``nft`` as a process that
adds a rule and deletes it, and by the same with one element of a map. Packets have one processor, whoever makes changes
the other.

Peers      the same path while nothing changes; while a static program that does nothing is started as often: what
           starting processes does to a neighbour
Unit       ratio of round trips' p99 and p50 to those of the same host while nothing changes, in the same block
Fair       all of them by processes, which is how runtimes make changes; round trips run before all others on their
           processor (SCHED_FIFO), for whoever loads the other one drives the rest of the machine to it; order shuffled
           in each block; how many transactions there were is asked of the kernel: none while nothing changes, at least
           one for each change; rates are told, for who makes fewer changes disturbs less: so these ratios are no
           race: the one table tells each with its rate and beside nobody, and none is judged between two runs
Falsified  by round trips that are lost, or by a control that differs from itself
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from statistics import median

from bench.figures import Figure, Results, control_figure, count_figure, grid, median_figure, number, ratio_figure
from bench.figures.answers import Answer, Kind
from bench.figures.measure import interval, paired
from bench.figures.plots import Axis, Bars, Plot, Role, bar
from bench.figures.words import bounds, times
from bench.hosts.sites import MAP, OTHERS, OURS, RULES, Sites, Way
from bench.instruments.roundtrips import RoundTrips
from bench.instruments.starter import Starter
from bench.scenarios.updates_under_load.churn import Change, Updates, by_element, by_noop, by_ours, by_rule
from bench.stage import Stage
from dataplane.namespaces import inside
from dataplane.nft.generation import generation
from dataplane.types import Protocol

PACE = 0.001
"""Seconds from one change to the next, at least."""
NEAR = 0.2
"""How surely p99 must be as large as itself: it is what few of the round trips of a round say."""
P50, P99, RATE = "p50", "p99", "changes a second"

SECONDS = (35, 6)

_WARM = 3  # milliseconds at the start of a round


@dataclass(frozen=True, slots=True)
class Load:
    """Whose host it is, and what goes on beside the round trips."""

    name: str
    role: Role
    quiet: str
    """The name of the same host while nothing changes."""
    commits: bool = True
    """Whether it makes transactions."""


QUIET, QUIET_AGAIN = "dataplane: nothing", "dataplane: nothing, again"
QUIET_MAP, QUIET_RULES = "nft map: nothing", "portmap's rules: nothing"
NOOP = Load("dataplane: noop", Role.FLOOR, QUIET, commits=False)
OURS_LOAD = Load("dataplane: ADD and DEL", Role.OURS, QUIET)
MAP_LOAD = Load("nft map: an element, by nft", Role.PURE, QUIET_MAP)
RULE_LOAD = Load("portmap's rules: a rule, by nft", Role.TODAY, QUIET_RULES)
LOADS = (NOOP, OURS_LOAD, MAP_LOAD, RULE_LOAD)
VARIANTS = (QUIET, QUIET_AGAIN, QUIET_MAP, QUIET_RULES, *(load.name for load in LOADS))


@dataclass(frozen=True, slots=True)
class _Scene:
    """One host: what is measured on it, and who makes changes."""

    way: Way
    trips: RoundTrips
    change: Change | None = None

    def generation(self) -> int:
        with self.way.host.netns.open("rb") as netns:
            return inside(netns.fileno(), generation)


def run(stage: Stage) -> None:
    """Measure; a note where there is one processor."""
    allowed = os.sched_getaffinity(0)
    cpu = stage.cpu if stage.cpu is not None else max(allowed)
    others = sorted(allowed - {cpu})
    if not others:
        stage.log.note("not measured, for there is one processor: changes would wait for packets, and they for changes")
        return
    stage.log.progress(f"making hosts with {OTHERS:,} ports")
    with _kept_to(others), Sites(stage) as sites, ExitStack() as stack:
        scenes = _scenes(stage, sites, stack, cpu, others[0])
        stage.log.progress("measuring")
        for turn in stage.turns(VARIANTS, stage.amount(24, 12, 2)):
            _round(stage, scenes[turn.variant], turn.variant, turn.block)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    quiet = results.of(P99, QUIET)
    rows = [
        median_figure(f"{QUIET}: p50 of a round trip", results.of(P50, QUIET), "us"),
        median_figure(f"{QUIET}: p99 of a round trip", quiet, "us"),
        control_figure(
            results.of(P99, QUIET_AGAIN), quiet, "control: p99 while nothing changes, twice", of=2, within=NEAR
        ),
        control_figure(results.of(P50, QUIET_AGAIN), results.of(P50, QUIET), "control: p50, the same twice", of=2),
    ]
    for load in LOADS:
        rows += [
            median_figure(f"{load.name}: made", results.of(RATE, load.name), "1/s"),
            median_figure(f"{load.name}: p99 of a round trip", results.of(P99, load.name), "us"),
        ]
        for measure in (P99, P50):
            above, below = (results.of(measure, name) for name in (load.name, load.quiet))
            rows.append(ratio_figure(f"{load.name}: {measure} / nothing", above, below))
    made, lost = (sum(one.value for one in results.samples if one.measure == what) for what in ("round trips", "lost"))
    rows.append(count_figure(f"round trips lost or damaged, of {made:,.0f}", lost if made else None, at_most=0))
    proofs = [one for one in results.samples if one.measure == "unproved"]
    what = f"rounds whose transactions were not those that their name says, of {len(proofs):,}"
    rows.append(count_figure(what, sum(one.value for one in proofs) if proofs else None, at_most=0))
    return rows


def tables(results: Results) -> list[str]:
    """What changes do to round trips, beside how many there were: one says nothing without the other."""
    rows = [
        (load.name, _rate(results, load), *(_grown(results, load, measure) for measure in (P50, P99)))
        for load in LOADS
        if results.of(P99, load.name)
    ]
    header = ("who makes changes", RATE, "p50 of round trips", "p99 of round trips")
    return [grid("updates_under_load: as ratio to no changes", header, rows)] if rows else []


def plots(results: Results) -> list[Plot]:
    """How much longer the slowest round trips take."""
    bars = []
    for load in LOADS:
        ratios = paired(results.of(P99, load.name), results.of(P99, load.quiet))
        if ratios:
            bars.append(bar(load.name, load.role, interval(ratios)))
    if not bars:
        return []
    rates = _rates(results)
    remark = f"Packets on one processor, changes on the other. {rates[0].upper()}{rates[1:]}."
    axis = Axis("p99 of round trips, as ratio to no changes")
    return [Bars("updates_under_load", "Round trips while ports of others come and go", axis, tuple(bars), remark)]


def answers(results: Results) -> list[Answer]:
    """How much p99 grows under our changes; what it does under those of others is told in words, with how many they
    were, and is no comparison."""
    ratios = paired(results.of(P99, OURS_LOAD.name), results.of(P99, OURS_LOAD.quiet))
    if not ratios:
        return []
    doubt = control_figure(results.of(P99, QUIET_AGAIN), results.of(P99, QUIET), of=2, within=NEAR).note
    if any(one.value for one in results.samples if one.measure == "unproved"):
        doubt = "transactions were not those that the names say"
    what = "p99 of round trips while other ports come and go as often as each can, as ratio to none that do"
    others = "; ".join(
        f"{load.name}: {grown} at {_rate(results, load)} changes a second"
        for load in LOADS
        if (grown := _grown(results, load, P99))
    )
    return [Answer(Kind.PACKET, what, "x", interval(ratios), (), doubt=doubt, remark=others)]


def _rates(results: Results) -> str:
    """Who makes fewer changes disturbs less."""
    return "changes a second: " + ", ".join(f"{load.name} {_rate(results, load)}" for load in LOADS)


def _rate(results: Results, load: Load) -> str:
    made = results.of(RATE, load.name)
    return number(round(median(one.value for one in made))) if made else "unknown"


def _scenes(stage: Stage, sites: Sites, stack: ExitStack, cpu: int, other: int) -> dict[str, _Scene]:
    def opened(way: Way) -> RoundTrips:
        return stack.enter_context(RoundTrips(way.host, stage.native, cpu, way.ends(Protocol.UDP)))

    def starter(way: Way) -> Starter:
        return stack.enter_context(Starter(way.host, stage.native, other))

    site = sites.ours()
    ours = site.way(replace(OURS, others=OTHERS))
    quiet = _Scene(ours, opened(ours))
    scenes = {
        QUIET: quiet,
        QUIET_AGAIN: quiet,
        NOOP.name: replace(quiet, change=by_noop(starter(ours), stage.native.noop)),
        OURS_LOAD.name: replace(quiet, change=by_ours(site, ours.published)),
    }
    for name, load, publisher, changes in (
        (QUIET_MAP, MAP_LOAD, replace(MAP, others=OTHERS), by_element),
        (QUIET_RULES, RULE_LOAD, RULES, by_rule),
    ):
        way = sites.ruled(publisher)
        scenes[name] = _Scene(way, opened(way))
        scenes[load.name] = replace(scenes[name], change=changes(starter(way)))
    return scenes


def _round(stage: Stage, scene: _Scene, name: str, block: int) -> None:
    span = stage.amount(120, 30, 5)
    before = scene.generation()
    updates = Updates(scene.change, PACE) if scene.change else nullcontext()
    with updates as under_way:
        scene.trips.measure(_WARM)
        made = scene.trips.measure(span)
    count = under_way.count if under_way else 0
    measured = {
        P50: made.p50 / 1e3,
        P99: made.p99 / 1e3,
        "round trips": made.count,
        "lost": made.lost + made.wrong,
    }
    if under_way:
        measured[RATE] = count / under_way.seconds if count else 0.0
    for measure, value in measured.items():
        stage.log.sample(measure, name, value, block=block)
    found = doubts(name, count, scene.generation() - before)
    stage.log.sample("unproved", name, float(bool(found)), block=block)
    if found:
        stage.log.note(f"{name}: {found}")


def doubts(name: str, changes: int, transactions: int) -> str:
    """Why so many transactions during so many changes are not what the name says; empty where they are. Pure."""
    commits = any(load.commits for load in LOADS if load.name == name)
    if not commits and transactions:
        return f"{transactions:,} transactions, where there should be none"
    if commits and (not changes or transactions < changes):
        return f"{transactions:,} transactions for {changes:,} changes"
    return ""


def _grown(results: Results, load: Load, measure: str) -> str:
    """ "1.24x (1.20 - 1.28)"; empty where it was not measured."""
    ratios = paired(results.of(measure, load.name), results.of(measure, load.quiet))
    if not ratios:
        return ""
    spread = interval(ratios)
    return f"{times(spread.middle)} ({bounds(spread)})"


@contextmanager
def _kept_to(cpus: Sequence[int]) -> Iterator[None]:
    """Have this thread, and what it starts, on these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
