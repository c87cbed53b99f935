"""What does it take when 1, 2, 4 ... 32 containers come at once, and then go at once?

Whole networks, as in ``single_entry``: so many ADDs begin together, each of a container with a port of its own; when
all have ended, so many DELs begin together.

Peers      the Go chain of every directory that is given, by each backend of its portmap (its firewall always uses
           iptables)
Unit       milliseconds of a call from exec to exit, as p50 and p99 of all calls; calls a second, from the first that
           begins to the last that ends; milliseconds of the processors for each call, for us with the agent's
Fair       another container is on the bridge throughout, for all; the same keys, numbers of calls and callers for all,
           on hosts of their own; calls are told as they are, waiting for locks and for processors included
Falsified  by a call that fails, by two containers that get the same address, or a port that is not published or
           not freed, by us; the peers' are told, not judged

Be aware: on a machine with few processors most of a call among many is waiting for them, and p99 is little more than
the time of a whole round. Calls begin within the fraction of a millisecond that Python takes to release its threads.
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from threading import Barrier

from bench.cni import Container, port
from bench.figures import (
    Better,
    Figure,
    Results,
    control_figure,
    count_figure,
    median_figure,
    percentile_figure,
    ratio_figure,
)
from bench.figures.answers import Answer, Beside, Growth, Kind
from bench.figures.measure import block_medians, by_turn, interval, paired, percentile
from bench.figures.plots import Axis, Curves, Line, Plot, Point, Role, line
from bench.figures.rows import doubt_of
from bench.hosts.chains import SINGLE, Called, Chain, go_chain, single
from bench.hosts.ours import Agent, Ours
from bench.instruments.starter import Starter
from bench.peers.plugins import NETWORK, GoPlugins, Peer, found
from bench.place import Host
from bench.stage import Stage

AT_ONCE = (1, 2, 4, 8, 16, 32)
QUICK_AT_ONCE = (1, 8)
AGAIN = f"{SINGLE} again"
VERBS = ("ADD", "DEL")
NEAR = 0.1
"""How surely a run must be as fast as itself: what is told here are multiples."""
SECONDS = (135, 10)

_FIRST_PORT = 5000
_SLOW = 0.6
"""Seconds that a round is expected to take from which it is repeated less often."""


class _Network:
    """A chain on a host of its own, and so many containers and callers as come at once at most."""

    def __init__(self, stage: Stage, stack: ExitStack, name: str, chain: Callable[[Host], Chain], most: int) -> None:
        self.host = stack.enter_context(stage.host(name))
        self.chain = chain(self.host)
        self.agent: Agent | None = None
        self.callers: queue.SimpleQueue[Starter] = queue.SimpleQueue()
        for _ in range(most):
            self.callers.put(stack.enter_context(Starter(self.host, stage.native, stage.cpu)))
        self.other, *self.containers = [
            Container(place.name, place.path, ports=(port(_FIRST_PORT + number, 80),))
            for number, place in enumerate(self.host.namespaces([f"c{number}" for number in range(most + 1)]))
        ]

    def call(self, verb: str, container: Container, added: Called | None = None, *, check: bool = False) -> Called:
        """By whichever caller is free."""
        caller = self.callers.get()
        try:
            return self.chain.call(caller, verb, container, added.result if added else None, check=check)
        finally:
            self.callers.put(caller)

    def published(self) -> int:
        """How many ports lead to a container, besides that of the one that stays."""
        return len(set(self.chain.published()) - {_FIRST_PORT})

    def left(self) -> int:
        """How many leases and ends of veths there are, besides those of the one that stays."""
        leases = self.host.run("find", f"/var/lib/cni/networks/{NETWORK}", "-name", "10.*").split()
        ends = self.host.run("ip", "-oneline", "link", "show", "type", "veth").splitlines()
        return len(leases) + len(ends) - 2


def run(stage: Stage) -> None:
    """Measure."""
    levels = (AT_ONCE, QUICK_AT_ONCE, (1, 2))[stage.extent]
    peers = found(stage.peers)
    with ExitStack() as stack:
        stage.log.progress(f"making hosts for {levels[-1]} callers each")
        networks = [_ours(stage, stack, levels[-1])]
        for place, peer in enumerate(peers):
            networks.append(_Network(stage, stack, f"peer{place}", partial(_theirs, peer), levels[-1]))
        pool = stack.enter_context(ThreadPoolExecutor(levels[-1]))
        seconds = {network.chain.name: _alone(network) for network in networks}
        by_name = {network.chain.name: network for network in networks} | {AGAIN: networks[0]}
        turns = {f"{name}, {level} at once": (name, level) for name in by_name for level in levels}
        blocks, theirs, few = stage.amount(15, 12, 2), stage.amount(15, 6, 2), stage.amount(6, 5, 1)
        stage.log.progress(f"measuring {', '.join(map(str, levels))} at once")
        for turn in stage.turns(list(turns), blocks):
            name, level = turns[turn.variant]
            expected = seconds[by_name[name].chain.name] * level
            if turn.block >= (few if expected > _SLOW else blocks if name in (SINGLE, AGAIN) else theirs):
                continue
            _round(stage, by_name[name], name, pool, level, turn.block)
        for network in networks:
            stage.log.sample("left behind", network.chain.name, network.left())


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = list[Figure]()
    names = (SINGLE, *_chains(results))
    for verb in VERBS:
        for level in results.sizes(verb, SINGLE):
            where = f"{verb}, {level} at once"
            for name in names:
                calls = results.of(verb, name, level)
                rows.append(median_figure(f"{name}: {where}", calls, "ms"))
                rows.append(percentile_figure(f"{name}: {where}, p99", calls, 0.99, "ms"))
                rows.append(median_figure(f"{name}: {where}, rate", results.of(_rate(verb), name, level), "calls/s"))
                rows.append(median_figure(f"{name}: {where}, CPU a call", results.of(_cpu(verb), name, level), "ms"))
            for name in names[1:]:
                theirs, own = (results.of(verb, who, level) for who in (name, SINGLE))
                rows.append(ratio_figure(f"{name} / {SINGLE}: {where}", theirs, own, better=Better.MORE))
        rows.append(_control(results, verb))
    for name in names:
        judged = 0 if name == SINGLE else None
        for what in ("failures", "duplicates", "not published", "not freed", "left behind"):
            seen = results.of(what, name) + (results.of(what, AGAIN) if name == SINGLE else [])
            rows.append(
                count_figure(f"{name}: {what}", sum(one.value for one in seen) if seen else None, at_most=judged)
            )
    return rows


def plots(results: Results) -> list[Plot]:
    """An ADD among so many: its median, and the slowest of a hundred; and how many a second."""
    roles = {SINGLE: Role.OURS, **_roles(results)}
    medians, slowest, rates = list[Line](), list[Line](), list[Line]()
    for name, role in roles.items():
        levels = results.sizes("ADD", name)
        if not levels:
            continue
        by_level = {level: results.of("ADD", name, level) for level in levels}
        medians.append(line(name, role, by_level))
        points = (Point(level, percentile([one.value for one in calls], 0.99)) for level, calls in by_level.items())
        slowest.append(Line(name, role, tuple(points)))
        rates.append(line(name, role, {level: results.of(_rate("ADD"), name, level) for level in levels}))
    if not medians:
        return []
    x = Axis("ADDs at once", log=True)
    title = "CNI ADD of a whole network among others at once"
    return [
        Curves("concurrency_p50", f"{title}: p50", x, Axis("p50, ms", log=True), tuple(medians)),
        Curves("concurrency_p99", f"{title}: p99", x, Axis("p99, ms", log=True), tuple(slowest)),
        Curves("concurrency_rate", "CNI ADDs of whole networks", x, Axis("calls a second", log=True), tuple(rates)),
    ]


def answers(results: Results) -> list[Answer]:
    """An ADD among most at once."""
    levels = results.sizes("ADD", SINGLE)
    own = results.of("ADD", SINGLE, levels[-1]) if levels else []
    besides = tuple(
        Beside(role, name, interval(ratios), _growth(results, name))
        for name, role in _roles(results).items()
        if own and (ratios := paired(own, results.of("ADD", name, levels[-1])))
    )
    if not besides:
        return []
    wrong = any(
        one.value
        for what in ("failures", "duplicates", "not published", "not freed", "left behind")
        for name in (SINGLE, AGAIN)
        for one in results.of(what, name)
    )
    unsure = doubt_of(_control(results, "ADD"), (one.ratio for one in besides))
    doubts = (unsure, "calls failed, or did not do what they should" if wrong else "")
    return [
        Answer(
            Kind.UPDATE,
            f"CNI ADD of a whole network, {levels[-1]} at once, p50",
            "ms",
            interval(list(block_medians(own).values())),
            besides,
            _growth(results, SINGLE),
            ". ".join(why for why in doubts if why),
        )
    ]


def duplicates(called: Sequence[Called]) -> int:
    """How many addresses more were given out than there are different ones."""
    given = [str(one["address"]) for call in called for one in call.result.get("ips", ()) if not call.failure]
    return len(given) - len(set(given))


def _theirs(peer: Peer, host: Host) -> Chain:
    return go_chain(GoPlugins(host, peer))


def _ours(stage: Stage, stack: ExitStack, most: int) -> _Network:
    installed = list[Ours]()

    def chain(host: Host) -> Chain:
        installed.append(Ours(host))
        return single(installed[0])

    network = _Network(stage, stack, "ours", chain, most)
    network.agent = stack.enter_context(installed[0].agent())
    return network


def _alone(network: _Network) -> float:
    """Seconds that a container takes to come and go where nobody else does; one comes, and stays."""
    network.call("ADD", network.other, check=True)
    began = time.monotonic()
    first = network.containers[0]
    network.call("DEL", first, network.call("ADD", first, check=True), check=True)
    return time.monotonic() - began


def _round(stage: Stage, network: _Network, name: str, pool: ThreadPoolExecutor, level: int, block: int) -> None:
    containers = network.containers[:level]
    added = _together(stage, network, name, pool, "ADD", containers, [None] * level, block)
    published = network.published()
    deleted = _together(stage, network, name, pool, "DEL", containers, added, block)
    failures = Counter(one.failure for one in (*added, *deleted) if one.failure)
    for failure, count in failures.most_common(2):
        stage.log.note(f"{name}, {level} at once: failed {count} times: {failure[:300]}")
    counts = {
        "failures": sum(failures.values()),
        "duplicates": duplicates(added),
        "not published": level - published,
        "not freed": network.published(),
    }
    for what, count in counts.items():
        stage.log.sample(what, name, count, size=level, block=block)


def _together(
    stage: Stage,
    network: _Network,
    name: str,
    pool: ThreadPoolExecutor,
    verb: str,
    containers: Sequence[Container],
    before: Sequence[Called | None],
    block: int,
) -> list[Called]:
    """So many calls that begin together."""
    gate = Barrier(len(containers) + 1)

    def one(container: Container, added: Called | None) -> Called:
        gate.wait()
        return network.call(verb, container, added)

    spent = network.agent.cpu_milliseconds if network.agent else 0.0
    try:
        waiting = [pool.submit(one, *each) for each in zip(containers, before, strict=True)]
        gate.wait()
        began = time.monotonic()
        called = [each.result() for each in waiting]
        seconds = time.monotonic() - began
    finally:
        gate.abort()  # whoever is interrupted would wait for those who wait for it
    agents = network.agent.cpu_milliseconds - spent if network.agent else 0.0
    level = len(containers)
    for each in called:
        stage.log.sample(verb, name, each.milliseconds, size=level, block=block)
    stage.log.sample(_rate(verb), name, level / seconds, size=level, block=block)
    cpu = sum(each.cpu_milliseconds for each in called) + agents
    stage.log.sample(_cpu(verb), name, cpu / level, size=level, block=block)
    return called


def _rate(verb: str) -> str:
    return f"{verb}, calls a second"


def _cpu(verb: str) -> str:
    return f"{verb}, CPU a call"


def _chains(results: Results) -> list[str]:
    return sorted({one.variant for one in results.samples if one.variant.startswith("Go chain ")})


def _roles(results: Results) -> dict[str, Role]:
    return {name: Role.TODAY_TOO if place else Role.TODAY for place, name in enumerate(_chains(results))}


def _control(results: Results, verb: str) -> Figure:
    above, below = (by_turn(results.of(verb, name)) for name in (AGAIN, SINGLE))
    return control_figure(above, below, f"control: {verb}, the same twice", of=len(VERBS), within=NEAR)


def _growth(results: Results, name: str) -> Growth | None:
    levels = results.sizes("ADD", name)
    ratios = paired(results.of("ADD", name, levels[-1]), results.of("ADD", name, levels[0])) if levels[1:] else []
    return Growth(interval(ratios), levels[0], levels[-1], "ADDs at once") if ratios else None
