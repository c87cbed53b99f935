"""What is drawn from first packets: figures, table, plots, answers. Pure."""

from __future__ import annotations

from collections.abc import Iterator
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
from bench.scenarios.first_packet.ways import PROTOCOLS, Place, Way
from dataplane.types import Protocol

FLAT = 1.05
NEAR_MAP = 1.03

CONTROLLED = 1_000
"""Where the control is, and where ratios are told besides the least and the most ports."""
SPREAD = 10_000
"""Where single flows are kept, for their distribution."""

WHAT = {Protocol.UDP: "UDP, first packet and answer", Protocol.TCP: "TCP connect()"}

_LINEAR = tuple(way for way in Way if way.linear)
_SHOWN = (Way.OURS, Way.NFT_ONLY, Way.MAP, *_LINEAR)
_BESIDE = (Way.VETH, Way.MAP, *_LINEAR)


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
            yield ratio_figure(f"{what}: {way} / {Way.OURS}", found, own, better=Better.MORE, peer=way is not Way.VETH)
    above, below = (results.of(protocol, way, size) for way in (Way.NFT_ONLY, Way.MAP))
    yield ratio_figure(f"{what}: {Way.NFT_ONLY} / {Way.MAP}", above, below, at_most=NEAR_MAP, peer=True)


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
