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
           defaults, and once without its programs
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

from bench.figures import (
    Better,
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
from bench.figures.answers import Answer, Beside, Growth, Kind
from bench.figures.measure import Sample, block_medians, interval, paired
from bench.figures.plots import Axis, Boxes, Curves, Plot, box, line
from bench.instruments.newflows import NewFlows, Round
from bench.scenarios.first_packet.publishing import Site, refusal
from bench.scenarios.first_packet.verbatim import compare
from bench.scenarios.first_packet.ways import PROTOCOLS, Place, Way
from bench.stage import Stage
from dataplane.types import Protocol

SIZES = ((1, 10, 100, 1_000, 10_000, 60_000), (1, 1_000, 10_000), (100,))
"""Published ports, by extent."""
FLAT = 1.05
NEAR_MAP = 1.03
SECONDS = (120, 16)

CONTROLLED = 1_000
"""Where the control is, and where ratios are told besides the least and the most ports."""
SPREAD = 10_000
"""Where single flows are kept, for their distribution."""

WHAT = {Protocol.UDP: "UDP, first packet and answer", Protocol.TCP: "TCP connect()"}

_LINEAR = tuple(way for way in Way if way.linear)
_SHOWN = (Way.OURS, Way.NFT_ONLY, Way.MAP, *_LINEAR)
_BESIDE = (Way.VETH, Way.MAP, *_LINEAR)
_WARM = 1  # milliseconds before a round that counts
_LEAST = 10  # flows of a round, however long they take


def run(stage: Stage) -> None:
    """Measure."""
    cpu = stage.cpu if stage.cpu is not None else max(os.sched_getaffinity(0))
    sizes = SIZES[stage.extent]
    with ExitStack() as stack:
        sites = {site.name: (size, site) for size, site in _sites(stage, stack, sizes)}
        stage.log.progress(f"first_packet: publishing ports on {len(sites)} hosts")
        _publish(stage, [site for _, site in sites.values()])
        flows = {name: stack.enter_context(site.flows(stage.native, cpu)) for name, (_, site) in sites.items()}
        stage.log.progress("first_packet: proving which way flows go")
        _compare_forms(stage)
        for name, (size, site) in sites.items():
            found = site.prove(flows[name])
            stage.log.sample("unproved", site.way, float(bool(found)), size=size)
            for text in found:
                stage.log.note(text)
        stage.log.progress("first_packet: measuring")
        turns = {
            f"{name}, {place}": (size, site, place, flows[name])
            for name, (size, site) in sites.items()
            for place in (Place if site.way.linear and size == sizes[-1] else (Place.MIDDLE,))
        }
        for turn in stage.turns(list(turns), stage.amount(40, 14, 2)):
            _round(stage, turn.block, *turns[turn.variant])


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = [row for protocol in PROTOCOLS for row in _rows(results, protocol)]
    made = _total(results, "flows")
    rows.append(
        count_figure(f"flows lost or damaged, of {made:,.0f}", _total(results, "lost") if made else None, at_most=0)
    )
    known = _total(results, "known") if made else None
    rows.append(
        count_figure("flows that were not new to conntrack, or passed it where they should not", known, at_most=0)
    )
    proofs = [one for one in results.samples if one.measure == "unproved"]
    what = f"hosts and rules that are not what their names say, of {len(proofs)}"
    rows.append(count_figure(what, _total(results, "unproved") if proofs else None, at_most=0))
    return rows


def tables(results: Results) -> list[str]:
    """Medians, ways by sizes, and how many times ours."""
    found = []
    for protocol in PROTOCOLS:
        sizes = results.sizes(protocol, Way.OURS)
        rows = [(way, *(_cell(results, protocol, way, size) for size in sizes)) for way in _SHOWN]
        if any(any(row[1:]) for row in rows):
            title = f"first_packet: {WHAT[protocol]}, us, and as ratio to {Way.OURS}"
            found.append(grid(title, ("published ports", *(number(size) for size in sizes)), rows))
    return found


def plots(results: Results) -> list[Plot]:
    """Latency against ports for each protocol, and how single flows are distributed."""
    found: list[Plot] = []
    ports = Axis("published ports", log=True)
    for protocol in PROTOCOLS:
        sizes = results.sizes(protocol, Way.OURS)
        lines = [line(way, way.role, {size: results.of(protocol, way, size) for size in sizes}) for way in _SHOWN]
        # The floor is no host's, and the same at every size.
        lines.append(line(Way.VETH, Way.VETH.role, dict.fromkeys(sizes, results.of(protocol, Way.VETH))))
        drawn = tuple(one for one in lines if one.points)
        if drawn:
            remark = (
                "The port that is asked for is in the middle of the others. Client, container and softirq on one CPU."
            )
            title = f"New flow to a published port: {WHAT[protocol]}"
            found.append(Curves(f"first_packet_{protocol}", title, ports, Axis("p50, us", log=True), drawn, remark))
    spreads = {way: results.spread(Protocol.UDP, way, SPREAD) for way in _SHOWN}
    boxes = tuple(box(way, way.role, spread) for way, spread in spreads.items() if spread)
    if boxes:
        title = f"New UDP flows at {SPREAD:,} published ports: first packet and answer"
        found.append(Boxes("first_packet_spread", title, Axis("us", log=True), boxes))
    return found


def answers(results: Results) -> list[Answer]:
    """At the least and at the most ports, for each protocol; how it grew between them."""
    found = []
    for protocol in PROTOCOLS:
        sizes, doubt = results.sizes(protocol, Way.OURS), _doubt(results, protocol)
        for size in dict.fromkeys((sizes[0], sizes[-1]) if sizes else ()):
            own = results.of(protocol, Way.OURS, size)
            besides = []
            for way in _BESIDE:
                ratios = paired(own, _of(results, protocol, way, size))
                if ratios:
                    growth = None if way is Way.VETH else _growth(results, protocol, way, size)
                    besides.append(Beside(way.role, way, interval(ratios), growth))
            what = f"{WHAT[protocol]}, {_ports(size)}"
            ours = interval(list(block_medians(own).values()))
            growth = _growth(results, protocol, Way.OURS, size)
            found.append(Answer(Kind.PACKET, what, "us", ours, tuple(besides), growth, doubt))
    return found


# -- measuring --------------------------------------------------------------------------------------------------------


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
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        # The largest first, so that they do not come when all else is done.
        list(pool.map(lambda site: site.publish(stage.native), sorted(sites, key=lambda site: -site.ports)))
    finally:
        pool.shutdown(cancel_futures=True)


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


# -- drawing ----------------------------------------------------------------------------------------------------------


def _of(results: Results, protocol: Protocol, way: Way | str, size: int) -> list[Sample]:
    """Samples at a size; the veth has but one."""
    return results.of(protocol, way, None if way is Way.VETH else size)


def _rows(results: Results, protocol: Protocol) -> Iterator[Figure]:
    sizes = results.sizes(protocol, Way.OURS)
    if not sizes:
        return
    what, last = WHAT[protocol], sizes[-1]
    unproved = {(one.variant, one.size) for one in results.samples if one.measure == "unproved" and one.value}
    yield median_figure(f"{what}: {Way.VETH}", results.of(protocol, Way.VETH), "us")
    for way in _SHOWN:
        for size in sizes:
            found = results.of(protocol, way, size)
            if found:
                note = "NOT PROVED: see below" if (way, size) in unproved else ""
                yield median_figure(f"{what}: {way}, {_ports(size)}", found, "us", note=note)
        if way.linear:
            yield from _places(results, protocol, way, last)
    for way in _SHOWN if len(sizes) > 1 else ():
        above, below = results.of(protocol, way, last), results.of(protocol, way, sizes[0])
        name = f"{what}: {way}, {_ports(last)} / {number(sizes[0])}"
        if above:
            yield ratio_figure(name, above, below, at_most=FLAT if way.ours else None)
    for size in dict.fromkeys((sizes[0], *(one for one in sizes if one == CONTROLLED), last)):
        yield from _ratios(results, protocol, size)
    yield _control(results, protocol)


def _control(results: Results, protocol: Protocol) -> Figure:
    again = results.of(protocol, Way.AGAIN)
    own = results.of(protocol, Way.OURS, again[0].size) if again else []
    name = f"control: {WHAT[protocol]}, two hosts made in the same way"
    return control_figure(again, own, name, of=len(PROTOCOLS))


def _places(results: Results, protocol: Protocol, way: Way, size: int) -> Iterator[Figure]:
    """The first and the last of all ports, and what each port between them costs whoever comes after it."""
    ends = {place: results.of(protocol, f"{way}, {place}", size) for place in (Place.FIRST, Place.LAST)}
    for place, found in ends.items():
        if found:
            yield median_figure(f"{WHAT[protocol]}: {way}, the {place} of {_ports(size)}", found, "us")
    scaled = [[replace(one, value=one.value * 1e3 / size) for one in found] for found in ends.values()]
    if all(scaled):
        yield difference_figure(f"{WHAT[protocol]}: {way}, for each port before", scaled[1], scaled[0], "ns")


def _ratios(results: Results, protocol: Protocol, size: int) -> Iterator[Figure]:
    """Others beside ours, and ours without programs beside the map."""
    what, own = f"{WHAT[protocol]}, {_ports(size)}", results.of(protocol, Way.OURS, size)
    for way in _BESIDE:
        found = _of(results, protocol, way, size)
        if found:
            yield ratio_figure(f"{what}: {way} / {Way.OURS}", found, own, better=Better.MORE)
    above, below = (results.of(protocol, way, size) for way in (Way.NFT_ONLY, Way.MAP))
    yield ratio_figure(f"{what}: {Way.NFT_ONLY} / {Way.MAP}", above, below, at_most=NEAR_MAP)


def _cell(results: Results, protocol: Protocol, way: Way, size: int) -> str:
    """ "21.3 (1.33)"; empty where it was not measured."""
    found = results.of(protocol, way, size)
    if not found:
        return ""
    middle, ratios = median(block_medians(found).values()), paired(found, results.of(protocol, Way.OURS, size))
    return f"{number(middle)} ({median(ratios):.2f})" if ratios else number(middle)


def _growth(results: Results, protocol: Protocol, way: Way, size: int) -> Growth | None:
    """From the least ports to so many; None where that is the same."""
    least = results.sizes(protocol, way)[0]
    ratios = paired(results.of(protocol, way, size), results.of(protocol, way, least))
    return Growth(interval(ratios), least, size, "published ports") if ratios and least != size else None


def _doubt(results: Results, protocol: Protocol) -> str:
    """Why rows of this protocol would say nothing."""
    control = _control(results, protocol)
    if not control.met:
        return control.note
    for measure, why in (("unproved", "a host or its rules are not what the name says"), ("lost", "flows were lost")):
        if _total(results, measure):
            return why
    return ""


def _ports(size: int) -> str:
    return "1 port" if size == 1 else f"{number(size)} ports"


def _total(results: Results, measure: str) -> float:
    return sum(one.value for one in results.samples if one.measure == measure)
