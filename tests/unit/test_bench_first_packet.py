"""What first_packet is made of, as far as it is pure: who publishes what, what proves it, and what is drawn from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.figures import Histogram, Results
from bench.figures.measure import Sample
from bench.figures.plots import Boxes, Curves, Role
from bench.peers.rulesets import portmap_iptables
from bench.scenarios.first_packet import SIZES
from bench.scenarios.first_packet.drawn import CONTROLLED, SPREAD, WHAT, answers, figures, plots, tables
from bench.scenarios.first_packet.publishing import saved
from bench.scenarios.first_packet.ways import PROTOCOLS, Place, Seen, Way, doubts, measured, places, publishers, targets
from bench.stage import Extent
from dataplane.types import Program, Protocol

BLOCKS = 6
DONE = SIZES[Extent.QUICK]
LEAST, MOST = DONE[0], DONE[-1]


@pytest.mark.parametrize("size", [10, 100, 60_000])
def test_as_many_ports_are_published_as_asked_for(size: int) -> None:
    """The measured ones among them: the first, one in the middle and the last container, each with both protocols."""
    there = publishers(size)
    assert sum(len(one.ports) for one in there) == size
    names = [one.name for one in there]
    first, middle, last = (names.index(place.container) for place in Place)
    assert (first, last) == (0, len(names) - 1)
    assert 0 < middle < last
    ports = {(one["protocol"], one["hostPort"]) for container in there for one in container.ports}
    assert len(ports) == size
    assert {(target.protocol, target.port) for target in targets(size).values()} <= ports


def test_the_least_is_one_number_for_each_protocol() -> None:
    """It is in the middle of nothing, and there is no first and no last."""
    assert publishers(1) == [measured(Place.MIDDLE)]
    assert list(places(1)) == [Place.MIDDLE]
    assert sorted(targets(1)) == sorted((protocol, Place.MIDDLE) for protocol in PROTOCOLS)


RULES = Seen(100, 84, [one.name for one in publishers(100) for _ in one.ports])
DEFAULT = Seen(100, 84, (), {Program.ISOLATION: 90, Program.CHECKSUM: 90, Program.GUARD: 84, Program.FILL: 0})


@pytest.mark.parametrize(
    ("way", "seen", "word"),
    [
        (Way.RULES, replace(RULES, present=99), "99 ports"),
        (Way.RULES, replace(RULES, decided=83), "83 of 84"),
        (Way.RULES, replace(RULES, order=RULES.order[10:]), "not the first"),
        (Way.RULES, replace(RULES, order=()), "not the first"),
        (Way.OURS, replace(DEFAULT, runs={Program.ISOLATION: 83}), "83 times"),
        (Way.OURS, replace(DEFAULT, runs={Program.FILL: 1}), "should not be there"),
        (Way.NFT_ONLY, DEFAULT, "should not be there"),
        (Way.MAP, replace(RULES, decided=0), "0 of 84"),
    ],
)
def test_what_was_not_as_its_name_says_is_doubted(way: Way, seen: Seen, word: str) -> None:
    """Ports that are missing, flows that something else decided, another order, programs that did not run or did."""
    assert any(word in text for text in doubts(way, 100, 84, seen))


@pytest.mark.parametrize(("way", "seen"), [(Way.RULES, RULES), (Way.OURS, DEFAULT), (Way.MAP, Seen(100, 84))])
def test_what_was_as_its_name_says_is_not_doubted(way: Way, seen: Seen) -> None:
    """Nothing to say of it."""
    assert not list(doubts(way, 100, 84, seen))


def test_rules_of_iptables_tell_how_many_flows_they_took() -> None:
    """Each DNAT rule is a port, and its packets are new flows; containers stand in the order of their jumps."""
    text = portmap_iptables(publishers(100), "bench").replace("-A ", "[2:120] -A ")
    seen = saved(text)
    assert (seen.present, seen.decided) == (100, 200)
    assert seen.order[0] == "web-first"
    assert seen.order[-1] == "web-last"
    assert not list(doubts(Way.IPTABLES_NFT, 100, 200, seen))


def results(*, growth: float = 1.0, again: float = 1.0, lost: int = 0, unproved: int = 0) -> Results:
    """A run in which linear ways take 1 us and 10 ns a port, and all others 1 us; ours grow by a factor."""
    made = list[Sample]()
    for block in range(BLOCKS):
        for protocol in PROTOCOLS:
            made.append(Sample(protocol, Way.VETH, 0.5, LEAST, block))
            made.append(Sample(protocol, Way.AGAIN, again, CONTROLLED, block))
            for size in DONE:
                for way in Way:
                    if way not in {Way.VETH, Way.AGAIN}:
                        value = 1.0 + size / 200 if way.linear else growth if way.ours and size == MOST else 1.0
                        made.append(Sample(protocol, way, value, size, block))
                    if way.linear and size == MOST:
                        made.append(Sample(protocol, f"{way}, first", 1.0, size, block))
                        made.append(Sample(protocol, f"{way}, last", 1.0 + size / 100, size, block))
    made += [Sample("flows", Way.OURS, 1000.0), Sample("lost", Way.OURS, float(lost)), Sample("known", Way.OURS, 0.0)]
    made.append(Sample("unproved", Way.RULES, float(unproved), MOST))
    histograms = (Histogram(Protocol.UDP, Way.OURS, ((1.0, 10), (2.0, 1)), SPREAD),)
    return Results({"run": "x"}, tuple(made), {}, (), histograms)


def test_what_each_port_before_costs_is_the_difference_between_last_and_first() -> None:
    """10 ns, by protocol and way."""
    rows = [row for row in figures(results()) if row.what.endswith("for each port before")]
    assert len(rows) == len(PROTOCOLS) * sum(way.linear for way in Way)
    assert all(row.value == pytest.approx(10.0) and row.unit == "ns" for row in rows)


def test_a_good_run_meets_all_its_limits() -> None:
    """Growth, the map's latency, controls, loss and proofs."""
    rows = figures(results())
    assert {row.met for row in rows} == {True, None}
    assert sum(row.met is True for row in rows) == len(PROTOCOLS) * (2 + 3 + 1) + 3


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (results(growth=1.1), f"{WHAT[Protocol.UDP]}: {Way.OURS}, 10,000 ports / 1"),
        (results(again=1.1), f"control: {WHAT[Protocol.TCP]}, two hosts made in the same way"),
        (results(lost=1), "flows lost or damaged, of 1,000"),
        (results(unproved=1), "hosts and rules that are not what their names say, of 1"),
    ],
)
def test_a_limit_that_is_missed_is_said(run: Results, what: str) -> None:
    """In the row that it belongs to."""
    (row,) = (row for row in figures(run) if row.what == what)
    assert row.met is False


def test_a_row_whose_host_was_not_proved_says_so() -> None:
    """Of that way and size, and of no other."""
    doubted = [row.what for row in figures(results(unproved=1)) if row.note.startswith("NOT PROVED")]
    assert doubted == [f"{WHAT[protocol]}: {Way.RULES}, 10,000 ports" for protocol in PROTOCOLS]


def test_answers_are_of_the_least_and_the_most_ports() -> None:
    """Ours beside raw veth, the map and portmap, and how each grew; four rows."""
    rows = answers(results())
    assert [row.growth is None for row in rows] == [True, False] * len(PROTOCOLS)
    many = rows[1]
    beside = {one.name: one for one in many.besides}
    assert [one.role for one in many.besides] == [
        Role.FLOOR, Role.PURE, Role.TODAY, Role.TODAY_TOO, Role.TODAY_TOO,
    ]  # fmt: skip
    assert beside[Way.VETH].ratio.middle == pytest.approx(2.0)
    assert beside[Way.RULES].ratio.middle == pytest.approx(1 / (1 + MOST / 200))
    grown = beside[Way.RULES].growth
    assert grown is not None
    assert grown.ratio.middle == pytest.approx((1 + MOST / 200) / (1 + LEAST / 200))
    assert not any(row.doubt for row in rows)


@pytest.mark.parametrize("run", [results(again=1.1), results(lost=1), results(unproved=1)])
def test_an_answer_that_says_nothing_says_why(run: Results) -> None:
    """A control that differs, flows that were lost, a host that was not what its name says."""
    assert all(row.doubt for row in answers(run))


def test_plots_show_every_way_at_every_size() -> None:
    """A curve for each protocol, raw veth as a level, and the distribution of single flows."""
    drawn = {plot.name: plot for plot in plots(results())}
    assert sorted(drawn) == ["first_packet_spread", "first_packet_tcp", "first_packet_udp"]
    curves = drawn["first_packet_udp"]
    assert isinstance(curves, Curves)
    assert {one.name for one in curves.lines} == {*Way} - {Way.AGAIN}
    assert all([point.x for point in one.points] == list(DONE) for one in curves.lines)
    spread = drawn["first_packet_spread"]
    assert isinstance(spread, Boxes)
    assert [one.name for one in spread.boxes] == [Way.OURS]


def test_tables_have_a_row_a_way_and_a_column_a_size() -> None:
    """Medians, and the ratio to ours."""
    first, second = tables(results())
    assert f"| {Way.MAP} | 1 (1.00) |" in first
    assert f"| {Way.RULES} |" in second
    assert "| 51 (51.00) |" in second


def test_nothing_measured_is_drawn_as_nothing() -> None:
    """Neither figures nor plots fail for a run that was interrupted before its first round."""
    empty = Results({})
    assert not plots(empty)
    assert not tables(empty)
    assert not answers(empty)
    assert all(row.value is None for row in figures(empty))
