"""What does the first packet of a flow to a published port pay for the other ports that are published?

New UDP flows, a datagram there and its answer, and TCP connections, ``connect()`` alone, to one port of the host while
1 to 60,000 are published (of TCP and UDP by halves; 1 is one number of each), by us and by others. What a flow is
looked up in, conntrack remembers, so only first packets pay for it; and each flow here is new: it has a source address
and port that no flow had before, of which there are plenty, and conntrack is emptied before each round.

Peers      a map as who knows nft well writes it; portmap of containernetworking/plugins as it is: 1.9.1 with its
           nftables backend, a rule a port and two a container, and 1.1.1 with iptables, a chain a container of ten
           ports, by iptables-nft and iptables-legacy; and a bare veth, for which there is no host to pass
Unit       microseconds, medians of rounds; ratios are of medians within a block
Fair       client, container and softirq on one processor, before all others there (SCHED_FIFO), both ends in one
           process: nobody is woken; a host for each way and size, all there at once, in an order shuffled in each
           block; peers' rules are what ADDs leave, rule for rule, without any firewall's; the port that is measured is
           in the middle of them, at the largest size also the first and the last; ours as an ADD leaves it, at its
           defaults, and once without its programs; those of the cgroups are on one that both ends are in
Falsified  by more than 1.05 between the least and the most ports for ours, by ours without programs more than 3 % above
           the map, or by a control, which is another host made in the same way, that differs
Proved     beforehand: two ADDs by each portmap in the given directories leave just such rules; ports are counted in the
           kernel, with their order; counters (of rules, or before and behind them) take each flow; how often our
           programs ran. In each round: answers compared bit by bit, and as many entries in conntrack as flows

Be aware: a port that is asked for again and again is in the processor's caches, and so are the rules before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from bench.instruments.newflows import NewFlows, Round
from bench.making import work_on
from bench.scenarios.first_packet.drawn import CONTROLLED, SPREAD, answers, figures, plots, tables
from bench.scenarios.first_packet.publishing import Site, refusal
from bench.scenarios.first_packet.verbatim import compare
from bench.scenarios.first_packet.ways import PROTOCOLS, Place, Way
from bench.stage import Stage
from dataplane.types import Protocol

__all__ = ["answers", "figures", "plots", "run", "tables"]

SIZES = ((1, 10, 100, 1_000, 10_000, 60_000), (1, 1_000, 10_000), (100,))
"""Published ports, by extent."""
SECONDS = (120, 16)

_WARM = 1  # milliseconds before a round that counts
_LEAST = 10  # flows of a round, however long they take


def run(stage: Stage) -> None:
    """Measure."""
    cpu = stage.cpu if stage.cpu is not None else max(os.sched_getaffinity(0))
    sizes = SIZES[stage.extent]
    with ExitStack() as stack:
        sites = {site.name: (size, site) for size, site in _sites(stage, stack, sizes)}
        stage.log.progress(f"publishing ports on {len(sites)} hosts")
        _publish(stage, [site for _, site in sites.values()])
        for _, site in sites.values():
            site.lead(stack, stage.log)
        flows = {name: stack.enter_context(site.flows(stage.native, cpu)) for name, (_, site) in sites.items()}
        stage.log.progress("proving which way flows go")
        _compare_forms(stage)
        for name, (size, site) in sites.items():
            found = site.prove(flows[name])
            stage.log.sample("unproved", site.way, float(bool(found)), size=size)
            for text in found:
                stage.log.note(text)
        stage.log.progress("measuring")
        turns = {
            f"{name}, {place}": (size, site, place, flows[name])
            for name, (size, site) in sites.items()
            for place in (Place if site.way.linear and size == sizes[-1] else (Place.MIDDLE,))
        }
        for turn in stage.turns(list(turns), stage.amount(40, 14, 2)):
            _round(stage, turn.block, *turns[turn.variant])


def _sites(stage: Stage, stack: ExitStack, sizes: Sequence[int]) -> Iterator[tuple[int, Site]]:
    """A host for each way and size, and one with nothing between client and container."""
    refused = set[Way]()
    for size in sizes:
        for way in Way:
            if way in refused or (way is Way.AGAIN and size != min(CONTROLLED, sizes[-1])):
                continue
            if way is Way.VETH and size != sizes[0]:
                continue
            host = stack.enter_context(stage.host(f"{way.name.lower()}-{size}"))
            why = refusal(host, way)
            if why:
                refused.add(way)
                stage.log.note(f"{way}: not measured, for this machine refuses it: {why}")
                continue
            yield size, Site(host, way, size)


def _compare_forms(stage: Stage) -> None:
    """Say of each portmap at hand whether its rules are the ones that are measured."""
    portmaps = [directory / "portmap" for directory in stage.peers if (directory / "portmap").exists()]
    for one, portmap in enumerate(portmaps):
        with stage.host(f"form-{one}") as host:
            form = compare(host, portmap)
        stage.log.sample("unproved", form.way, float(not form.same))
        stage.log.note(str(form))


def _publish(stage: Stage, sites: Sequence[Site]) -> None:
    """All at once, as far as there are processors: it is other processes that do it."""
    # The largest first, so that they do not come when all else is done.
    largest = sorted(sites, key=lambda site: -site.ports)
    work_on({site.host: partial(site.publish, stage.native) for site in largest}, len(os.sched_getaffinity(0)))


def _round(stage: Stage, block: int, size: int, site: Site, place: Place, flows: NewFlows) -> None:
    variant = site.way if place is Place.MIDDLE else f"{site.way}, {place}"
    for protocol in PROTOCOLS:
        target = site.number(protocol, place)
        warm = flows.measure(target, _WARM, 0)
        made = flows.measure(target, stage.amount(8, 3, 2), _LEAST)
        if made.count:
            stage.log.sample(protocol, variant, made.p50 / 1e3, size=size, block=block)
            stage.log.sample(f"{protocol}, p99", variant, made.p99 / 1e3, size=size, block=block)
        if size == SPREAD and place is Place.MIDDLE and protocol is Protocol.UDP:
            spread = [(least / 1e3, count) for least, count in made.spread]
            stage.log.histogram(protocol, variant, spread, size=size, block=block)
        for one in (warm, made):
            stage.log.sample("flows", variant, one.made, size=size, block=block)
            stage.log.sample("lost", variant, one.lost + one.wrong, size=size, block=block)
            stage.log.sample("known", variant, _known(site, one), size=size, block=block)


def _known(site: Site, made: Round) -> int:
    """Flows that conntrack has no entry of their own for; of a bare veth those that it has one for."""
    return made.tracked if site.way is Way.VETH else abs(made.made - made.tracked)
