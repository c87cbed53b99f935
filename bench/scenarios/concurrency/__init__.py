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
from bench.hosts.chains import SINGLE, Called, Chain, go_chain, single
from bench.hosts.ours import Agent, Ours
from bench.instruments.starter import Starter
from bench.making import workers
from bench.peers.plugins import NETWORK, GoPlugins, Peer, found
from bench.place import Host
from bench.scenarios.concurrency.drawn import AGAIN, answers, cpu, figures, plots, rate
from bench.stage import Stage

__all__ = ["AGAIN", "answers", "duplicates", "figures", "plots", "run"]

AT_ONCE = (1, 2, 4, 8, 16, 32)
QUICK_AT_ONCE = (1, 8)
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
        pool = stack.enter_context(workers([network.host for network in networks], levels[-1]))
        seconds = {network.chain.name: _alone(network) for network in networks}
        by_name = {network.chain.name: network for network in networks} | {AGAIN: networks[0]}
        turns = {f"{name}, {level} at once": (name, level) for name in by_name for level in levels}
        blocks, theirs, few = stage.amount(15, 10, 2), stage.amount(15, 6, 2), stage.amount(6, 5, 1)
        stage.log.progress(f"measuring {', '.join(map(str, levels))} at once")
        for turn in stage.turns(list(turns), blocks):
            name, level = turns[turn.variant]
            expected = seconds[by_name[name].chain.name] * level
            if turn.block >= (few if expected > _SLOW else blocks if name in (SINGLE, AGAIN) else theirs):
                continue
            _round(stage, by_name[name], name, pool, level, turn.block)
        for network in networks:
            stage.log.sample("left behind", network.chain.name, network.left())


def duplicates(called: Sequence[Called]) -> int:
    """How many addresses more were given out than there are different ones."""
    given = [str(one["address"]) for call in called for one in call.result.get("ips", ()) if not call.failure]
    return len(given) - len(set(given))


def _theirs(peer: Peer, host: Host) -> Chain:
    return go_chain(GoPlugins(host, peer))


def _ours(stage: Stage, stack: ExitStack, most: int) -> _Network:
    installed = list[Ours]()

    def chain(host: Host) -> Chain:
        installed.append(Ours(host, on_root=True))
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
    stage.log.sample(rate(verb), name, level / seconds, size=level, block=block)
    spent_on = sum(each.cpu_milliseconds for each in called) + agents
    stage.log.sample(cpu(verb), name, spent_on / level, size=level, block=block)
    return called
