"""Does anything fail, or is anything given away twice, when many containers come and go at once?

Two storms on one host, by ``dataplane-bridge`` with a port each: 32 ADDs that begin together, round after round; and
32 workers that add and delete 1,000 containers, each of which lives for 20 ms.

Peers      none: failures and duplicates must be none; throughput and latency are told, not judged
Unit       calls, calls a second, milliseconds from exec to exit
Fair       32 processes start at a time on however many processors there are: latency is mostly waiting for them
Falsified  by one failed call, by one address or port that two containers held at the same time, or by anything that is
           left behind: leases, ports, attachments
"""

from __future__ import annotations

import json
import queue
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Barrier

from bench.cni import Container, configuration, port
from bench.figures import Figure, Results, count_figure, percentile_figure, tail_figure
from bench.hosts.ours import Ours
from bench.instruments.starter import Starter
from bench.machine import Meter
from bench.making import workers
from bench.peers.plugins import NETWORK
from bench.stage import Stage

WORKERS = 32
AT_ONCE, STORM = "32 at once", "storm"

SECONDS = (40, 28)

_NAME = "dataplane-bridge"
_FIRST_PORT = 20000
_LIFE = 0.02
"""Seconds between the answer to an ADD and the DEL of a storm: what two hold at once is seen only while they live."""


@dataclass(frozen=True, slots=True)
class Held:
    """A container's address and port, from the answer to its ADD until its DEL was begun."""

    names: tuple[str, ...]
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call."""

    verb: str
    milliseconds: float
    failure: str
    output: str


class _Network:
    """A host with a network of ours, and those who call its plugin."""

    def __init__(self, stage: Stage, stack: ExitStack) -> None:
        self.host = stack.enter_context(stage.host("storm"))
        self.ours = Ours(self.host, on_root=True)
        stack.enter_context(self.ours.agent())
        self.callers: queue.SimpleQueue[Starter] = queue.SimpleQueue()
        for _ in range(WORKERS):
            self.callers.put(stack.enter_context(Starter(self.host, stage.native)))
        places = self.host.namespaces([f"c{number}" for number in range(WORKERS)])
        self.containers = [
            Container(place.name, place.path, ports=(port(_FIRST_PORT + number, 80),))
            for number, place in enumerate(places)
        ]

    def call(self, verb: str, container: Container) -> Outcome:
        """Start the plugin, by whichever caller is free."""
        ipam = {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/16"}]]}
        text = configuration(_NAME, NETWORK, container.ports, bridge="br-bench", isGateway=True, ipam=ipam)
        caller = self.callers.get()
        try:
            done = caller.run(self.ours.plugin(_NAME), self.ours.environment(verb, container), text, check=False)
        finally:
            self.callers.put(caller)
        return Outcome(verb, done.milliseconds, done.output.strip() if done.status else "", done.output)

    def published(self) -> int:
        """How many different ports lead to different addresses, as nft lists them."""
        listed = json.loads(self.host.run("nft", "-j", "list", "map", "inet", "dataplane", "publish4"))["nftables"]
        elements = [element for one in listed for element in one.get("map", {}).get("elem", [])]
        return len({json.dumps(value) for _, value in elements})

    def left(self) -> int:
        """How many leases, ports and attachments there are still."""
        known = json.loads(self.ours.dpctl("ps", "--json"))["attachments"]
        published = json.loads(self.ours.dpctl("ports", "--json"))["ports"]
        leases = self.host.run("find", f"/var/lib/cni/networks/{NETWORK}", "-name", "10.*").split()
        return len(known) + len(published) + len(leases)


def run(stage: Stage) -> None:
    """Measure."""
    with ExitStack() as stack:
        network = _Network(stage, stack)
        first = network.call("ADD", network.containers[0])  # the bridge is made, what is loaded once is loaded
        _note(stage, AT_ONCE, [first, network.call("DEL", network.containers[0])])
        blocks, lives = stage.amount(20, 8, 1), stage.amount(1000, 1000, 64)
        parts = lives // WORKERS
        with workers([network.host], WORKERS) as pool:
            stage.log.progress(f"{WORKERS} at once, {blocks} times")
            for block in range(blocks):
                stage.advance(block, blocks + parts)
                _at_once(stage, network, pool, block)
            stage.log.progress(f"{lives:,} come and go, {WORKERS} at a time")
            for part in _storm(stage, network, pool, lives):
                stage.advance(blocks + min(part, parts), blocks + parts)
        stage.log.sample("left", STORM, network.left())


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = []
    for storm in (AT_ONCE, STORM):
        for what in ("failures", "duplicates"):
            found = results.every(what, storm)
            rows.append(count_figure(f"{storm}: {what}", sum(one.value for one in found) if found else None, at_most=0))
        for verb in ("ADD", "DEL"):
            calls = results.of(verb, storm)
            rows.append(percentile_figure(f"{storm}: {verb}, p50", calls, 0.5, "ms"))
            rows.append(tail_figure(f"{storm}: {verb}", calls, "ms"))
        rates = results.of("throughput", storm)
        rows.append(percentile_figure(f"{storm}: throughput, median", rates, 0.5, "calls/s"))
    missing = results.every("unpublished", AT_ONCE)
    rows.append(
        count_figure(
            f"{AT_ONCE}: ports that lead to no address of their own",
            sum(one.value for one in missing) if missing else None,
            at_most=0,
        )
    )
    left = results.every("left", STORM)
    rows.append(count_figure("left behind: leases, ports, attachments", left[0].value if left else None, at_most=0))
    return rows


def duplicates(held: Sequence[Held]) -> int:
    """How often a name was held by two at the same time."""
    ends: dict[str, float] = {}
    found = 0
    for one in sorted(held, key=lambda one: one.since):
        for name in one.names:
            found += one.since < ends.get(name, one.since)
            ends[name] = max(one.until, ends.get(name, one.until))
    return found


def _at_once(stage: Stage, network: _Network, pool: ThreadPoolExecutor, block: int) -> None:
    gate = Barrier(WORKERS)
    meter = Meter(stage.cpu)

    def add(container: Container) -> tuple[Outcome, float]:
        gate.wait()
        return network.call("ADD", container), time.monotonic()

    began = time.monotonic()
    try:
        added = list(pool.map(add, network.containers))
    finally:
        gate.abort()  # whoever is interrupted would wait for those who wait for it
    spent = time.monotonic() - began
    until = time.monotonic()
    unpublished = WORKERS - network.published()
    deleted = list(pool.map(lambda one: network.call("DEL", one), network.containers))
    held = [
        Held(tuple(_names(outcome, container)), since, until)
        for (outcome, since), container in zip(added, network.containers, strict=True)
        if not outcome.failure
    ]
    stage.log.block(block, *meter.read())
    _note(stage, AT_ONCE, [*(outcome for outcome, _ in added), *deleted], block)
    stage.log.sample("duplicates", AT_ONCE, duplicates(held), block=block)
    stage.log.sample("unpublished", AT_ONCE, unpublished, block=block)
    stage.log.sample("throughput", AT_ONCE, WORKERS / spent, block=block)


def _storm(stage: Stage, network: _Network, pool: ThreadPoolExecutor, lives: int) -> Iterator[int]:
    """Yields how many times as many lives as there are workers are over."""
    free: queue.SimpleQueue[Container] = queue.SimpleQueue()
    for container in network.containers:
        free.put(container)

    def live(_: int) -> tuple[list[Outcome], Held | None]:
        container = free.get()
        try:
            added = network.call("ADD", container)
            since = time.monotonic()
            time.sleep(_LIFE)
            until = time.monotonic()
            deleted = network.call("DEL", container)
        finally:
            free.put(container)
        held = None if added.failure else Held(tuple(_names(added, container)), since, until)
        return [added, deleted], held

    began = time.monotonic()
    lived = []
    for number, one in enumerate(pool.map(live, range(lives)), 1):
        lived.append(one)
        if number % WORKERS == 0:
            yield number // WORKERS
    spent = time.monotonic() - began
    _note(stage, STORM, [outcome for outcomes, _ in lived for outcome in outcomes])
    stage.log.sample("duplicates", STORM, duplicates([held for _, held in lived if held]))
    stage.log.sample("throughput", STORM, 2 * lives / spent)


def _note(stage: Stage, storm: str, outcomes: Sequence[Outcome], block: int = 0) -> None:
    for outcome in outcomes:
        stage.log.sample(outcome.verb, storm, outcome.milliseconds, block=block)
    stage.log.sample("failures", storm, sum(bool(outcome.failure) for outcome in outcomes), block=block)
    for failure, count in Counter(outcome.failure for outcome in outcomes if outcome.failure).most_common(3):
        stage.log.note(f"{storm}: failed {count} times: {failure[:300]}")


def _names(outcome: Outcome, container: Container) -> Iterator[str]:
    yield from (str(one["address"]) for one in json.loads(outcome.output)["ips"])
    yield from (f"port {one['hostPort']}" for one in container.ports)
