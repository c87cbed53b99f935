"""The ladder of layers and the published port in use: what proves a path, what is asked, and what is drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address

import pytest

from bench.figures import Better, Histogram, Results
from bench.figures.answers import Kind
from bench.figures.measure import Sample
from bench.figures.plots import Bars, Boxes, Role
from bench.hosts.ladder import (
    AGAIN,
    BRIDGE,
    BRIDGE_FILTERED,
    BRIDGE_TRACKED,
    CHAIN,
    LOOPBACK,
    MAP,
    OURS,
    PROGRAMS,
    PUBLISHED,
    ROUTED,
    ROUTED_TRACKED,
    RUNGS,
    TABLES,
    TABLES_ALONE,
    TWIN,
    VETH,
    Passed,
    Rung,
    doubts,
)
from bench.scenarios import layers, published
from bench.scenarios.published.shapes import APART, FULL, MANY, QUICK, SIX, TCP, UDP, shapes
from dataplane.types import Program

TRIPS = 100
BLOCKS = 12
CONTAINER = ip_address("10.77.1.2")


def passed(rung: Rung, **others: object) -> Passed:
    """What is seen where packets of ``TRIPS`` round trips went as far as the rung's name says."""
    both = 2 * TRIPS
    hooks = rung.name.startswith(("routed", "published")) or rung in {BRIDGE_FILTERED, BRIDGE_TRACKED}
    seen = Passed(
        delivered=TRIPS,
        bridged=both if rung in {BRIDGE, BRIDGE_FILTERED, BRIDGE_TRACKED} else 0,
        forwarded=both if hooks else 0,
        tracked=both if rung.tracked else 0,
        translated=both if rung.rules.publish else 0,
        connections=1 if rung.tracked else 0,
        tables=TABLES[rung.rules],
        runs=dict.fromkeys(PROGRAMS, TRIPS) if rung in {OURS, TWIN} else {},
        led=both if rung in {OURS, TWIN} else 0,
    )
    return replace(seen, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("rung", [*RUNGS, TWIN], ids=lambda rung: rung.name)
def test_a_packet_that_went_its_way_leaves_no_doubt(rung: Rung) -> None:
    """Each rung is satisfied by what its layers count, and by no fewer packets."""
    assert list(doubts(rung, TRIPS, passed(rung))) == []
    assert list(doubts(rung, TRIPS + 1, passed(rung)))


@pytest.mark.parametrize(
    ("rung", "others", "reason"),
    [
        (LOOPBACK, {"delivered": 99}, "device received 99 packets"),
        (BRIDGE, {"bridged": 0}, "the bridge forwarded 0"),
        (BRIDGE, {"forwarded": 1}, "none should have been"),
        (BRIDGE_FILTERED, {"forwarded": 0}, "0 packets were seen when forwarded"),
        (BRIDGE_FILTERED, {"connections": 1}, "conntrack knows 1 connections"),
        (ROUTED, {"connections": 1}, "conntrack knows 1 connections"),
        (ROUTED_TRACKED, {"tracked": 0}, "0 packets were tracked"),
        (ROUTED_TRACKED, {"translated": 2}, "none should have been"),
        (MAP, {"translated": 100}, "100 packets were translated in 100 round trips"),
        (MAP, {"tables": frozenset({"ip published", "ip nat"})}, "there are the tables ip nat, ip published"),
        (TABLES_ALONE, {"runs": {Program.GUARD: 100}}, "attached are guard"),
        (OURS, {"runs": {Program.GUARD: 100}}, "attached are guard"),
        (OURS, {"runs": dict.fromkeys(PROGRAMS, 99)}, "ran 99 times in 100 round trips"),
        (OURS, {"led": 199}, "of the cgroups ran 199 times"),
        (TABLES_ALONE, {"led": 1}, "of the cgroups ran 1 times"),
    ],
)
def test_what_is_not_as_the_name_says_is_told(rung: Rung, others: Mapping[str, object], reason: str) -> None:
    """One layer less, one more, another's table, a program too many or too few."""
    assert any(reason in text for text in doubts(rung, TRIPS, passed(rung, **others)))


def test_no_round_trip_proves_nothing() -> None:
    """A rung on which nothing came back is no rung."""
    assert list(doubts(LOOPBACK, 0, Passed()))


def test_counters_are_compared_with_those_before() -> None:
    """``since`` is what came in between; what is there stays as it is now."""
    before, after = passed(OURS), passed(OURS, delivered=3 * TRIPS, runs=dict.fromkeys(PROGRAMS, 5 * TRIPS))
    between = after.since(before)
    assert (between.delivered, between.forwarded, between.connections) == (2 * TRIPS, 0, 1)
    assert between.runs == dict.fromkeys(PROGRAMS, 4 * TRIPS)
    assert between.tables == TABLES[OURS.rules]


def test_what_is_asked_of_whom() -> None:
    """Everybody is asked the usual; IPv6 and other processors of some; the crowded hosts a few."""
    assert set(QUICK) <= set(FULL)
    assert len({shape.name for shape in (*FULL, SIX, APART)}) == len(FULL) + 2
    assert UDP.name == "UDP, 64 bytes, 1 flow"
    assert SIX.name == "UDP by IPv6, 64 bytes, 1 flow"
    assert shapes(CHAIN, 0, every=False) == QUICK
    assert {SIX, APART} <= set(shapes(OURS, 0, every=True))
    assert shapes(OURS, 10_000, every=True) == (UDP, MANY, TCP)


def samples(measure: str, variant: str, value: float, size: int = 0) -> list[Sample]:
    """As many blocks as an interval takes, all the same."""
    return [Sample(measure, variant, value, size, block) for block in range(BLOCKS)]


def ladder_run(again: float = 10.0, unproved: tuple[str, ...] = (), lost: int = 0, twin: float = 10.2) -> Results:
    """Ours takes 10 us, a veth pair 5, everybody else 8."""
    values = {rung.name: 8.0 for rung in RUNGS} | {VETH.name: 5.0, OURS.name: 10.0, AGAIN: again, TWIN.name: twin}
    made = [one for name, value in values.items() for one in samples("udp", name, value)]
    made += [Sample("unproved", rung.name, float(rung.name in unproved)) for rung in RUNGS]
    made += [Sample("round trips", OURS.name, 1000.0), Sample("lost", OURS.name, lost)]
    histograms = tuple(
        Histogram("udp", rung.name, ((values[rung.name], 90), (20.0, 10)), block=block)
        for rung in RUNGS
        for block in range(BLOCKS)
    )
    return Results({}, tuple(made), histograms=histograms)


def test_the_ladder_stands_beside_veth_and_the_map() -> None:
    """Ratios of each rung, the tail of the published ones, and no row for what was not measured."""
    rows = {figure.what: figure for figure in layers.figures(ladder_run())}
    assert rows["UDP, published: dataplane / raw veth"].value == pytest.approx(2.0)
    assert rows["UDP, published: dataplane / nft map"].value == pytest.approx(1.25)
    assert rows["UDP, published: nft map / raw veth"].value == pytest.approx(1.6)
    assert rows["UDP, published: dataplane, p99"].value == pytest.approx(20.0)
    assert rows["control: UDP, the same twice"].met is True
    alike = rows["control: UDP, two hosts of ours, alike"]
    assert alike.value == pytest.approx(1.02)
    assert alike.control
    assert alike.met
    assert rows["UDP, bridge, br_netfilter, conntrack / bridge, br_netfilter"].value == pytest.approx(1.0)
    assert rows["UDP, bridge, br_netfilter / bridge"].better is None
    assert not any(what.startswith("TCP") for what in rows)
    assert "UDP, raw veth / raw veth" not in rows


def test_the_ladder_says_what_it_is_not_sure_of() -> None:
    """A loss, a rung that was not proved, and a second host that differs are told, and in the answer as well."""
    table = layers.figures(ladder_run(lost=1, unproved=("bridge",)))
    rows = {figure.what: figure for figure in table}
    assert rows["UDP round trip, bridge"].note.startswith("NOT PROVED")
    assert [figure.met for figure in table[-2:]] == [False, False]
    (answer,) = layers.answers(ladder_run(unproved=("bridge",)))
    assert answer.doubt == "not proved: bridge"
    (answer,) = layers.answers(ladder_run(again=10.5))
    assert answer.doubt.startswith("control: UDP, the same twice: RUN INVALID")
    (answer,) = layers.answers(ladder_run(twin=10.6))
    assert answer.doubt.startswith("control: UDP, two hosts of ours, alike: RUN INVALID")
    (answer,) = layers.answers(ladder_run())
    assert answer.doubt == ""
    assert (answer.kind, answer.unit) == (Kind.PACKET, "us")


def test_the_ladder_is_drawn_with_each_rung() -> None:
    """A bar and a box for each, ours in its colour; nothing at all of a run without samples."""
    bars, boxes = layers.plots(ladder_run())
    assert isinstance(bars, Bars)
    assert isinstance(boxes, Boxes)
    assert [bar.name for bar in bars.bars] == [box.name for box in boxes.boxes] == [rung.name for rung in RUNGS]
    assert bars.bars[-1].role is Role.OURS
    assert boxes.boxes[-1].p99 == 20.0
    (grid,) = layers.tables(ladder_run())
    assert "| published: dataplane | 10.00 | 10.00 | 20.00 | 2.000 (2.000 - 2.000) | 1.250 (1.250 - 1.250) |" in grid
    empty = Results({})
    assert (layers.plots(empty), layers.answers(empty), layers.tables(empty)) == ([], [], [])


def published_run(crowded: float = 10.0, again: float = 10.0, twin: float = 9.8) -> Results:
    """Ours takes 10 us, with many ports ``crowded``; a veth pair 5, everybody else 8."""
    made = []
    for shape in (UDP, TCP, SIX):
        for rung in (VETH, *PUBLISHED):
            if shape is not SIX or rung is not VETH:
                value = {VETH: 5.0, OURS: 10.0}.get(rung, 8.0)
                made += samples(shape.name, rung.name, value)
        made += samples(shape.name, AGAIN, again) + samples(shape.name, OURS.name, crowded, 10_000)
        made += samples(shape.name, TWIN.name, twin)
        made += samples(shape.name, MAP.name, 8.8, 10_000)
    made += [Sample("unproved", rung.name, 0.0) for rung in PUBLISHED]
    made += [Sample("round trips", OURS.name, 1000.0), Sample("lost", OURS.name, 0.0)]
    return Results({}, tuple(made))


@pytest.mark.parametrize(("crowded", "met"), [(10.5, True), (10.6, False)])
def test_a_port_in_use_must_not_notice_others(crowded: float, met: bool) -> None:
    """Up to 1.05 times as long with 10,000 ports more is met; others are told, and not judged."""
    rows = {figure.what: figure for figure in published.figures(published_run(crowded))}
    assert rows["UDP, 64 bytes, 1 flow: dataplane, 10,000 ports more / none"].met is met
    assert rows["UDP, 64 bytes, 1 flow: nft map, 10,000 ports more / none"].met is None
    assert rows["TCP, 64 bytes, 1 flow: dataplane / raw veth"].value == pytest.approx(2.0)
    assert "UDP by IPv6, 64 bytes, 1 flow: dataplane / raw veth" not in rows


def test_the_answers_are_ours_beside_others_and_how_both_grow() -> None:
    """UDP, TCP and IPv6: the ratio to each who was measured, and growth of ours and of theirs."""
    udp, tcp, six = published.answers(published_run(crowded=11.0))
    assert udp.what == "UDP round trip, established, published port"
    assert udp.ours.middle == 10.0
    assert {one.name: one.ratio.middle for one in udp.besides} == {
        "raw veth": 2.0, "nft map": 1.25, "portmap, nftables": 1.25, "portmap and firewall, iptables": 1.25,
    }  # fmt: skip
    assert udp.growth is not None
    assert udp.growth.ratio.middle == pytest.approx(1.1)
    assert (udp.growth.smaller, udp.growth.larger) == (1, 10_000)
    (pure,) = (one for one in udp.besides if one.role is Role.PURE)
    assert pure.growth is not None
    assert pure.growth.ratio.middle == pytest.approx(1.1)
    assert six.besides[0].name == "nft map"
    assert tcp.doubt == ""
    assert "RUN INVALID" in published.answers(published_run(again=11.0))[0].doubt
    doubts = [one.doubt for one in published.answers(published_run(twin=9.4))]
    assert ["alike: RUN INVALID" in doubt for doubt in doubts] == [True] * 3


def test_the_published_port_is_drawn() -> None:
    """A plot for each protocol, and one of all shapes beside the map."""
    udp, tcp, beside = published.plots(published_run())
    assert [udp.name, tcp.name, beside.name] == ["published_udp", "published_tcp", "published_shapes"]
    assert isinstance(udp, Bars)
    assert "dataplane, 10,000 ports" in {bar.name for bar in udp.bars}
    assert isinstance(beside, Bars)
    assert [bar.value for bar in beside.bars] == [1.25, 1.25, 1.25]
    assert published.plots(Results({})) == []


def test_ratios_of_ours_say_that_less_is_better() -> None:
    """So that a comparison of two runs judges them; those of others among themselves are nobody's concern."""
    ladder = {one.what: one.better for one in layers.figures(ladder_run()) if one.unit == "x" and not one.control}
    assert ladder["UDP, published: dataplane / raw veth"] is Better.LESS
    assert ladder["UDP, published: nft map / raw veth"] is None
    asked = [one for one in published.figures(published_run()) if one.what.rpartition(": ")[2].startswith("dataplane")]
    ratios = [one for one in asked if one.unit == "x"]
    assert ratios
    assert {one.better for one in ratios} == {Better.LESS}
