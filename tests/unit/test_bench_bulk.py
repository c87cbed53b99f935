"""What bulk and updates_under_load draw from samples, and what they take for a proof."""

from __future__ import annotations

import threading

import pytest

from bench.figures import Histogram, Results
from bench.figures.measure import Sample
from bench.figures.plots import Axis, Bars, Boxes, Role
from bench.figures.rows import UNPROVED
from bench.hosts.sites import AGAIN, MAP, NFT, OURS, PUBLISHERS, RULE, RULES, VETH, Publisher, Seen, doubts
from bench.instruments.stackcounts import parsed, risen
from bench.instruments.streams import Arrivals, Direction, Transfer
from bench.native import BenchError
from bench.scenarios import bulk, updates_under_load
from bench.scenarios.bulk.drawn import (
    AMISS,
    INFO,
    LOST,
    PACES,
    PHASES,
    SENT,
    TRANSFERRED,
    WHOLE,
    WIRE,
    counted_of,
    packet,
    trouble,
)
from bench.scenarios.updates_under_load import (
    LOADS,
    NOOP,
    OURS_LOAD,
    P50,
    P99,
    QUIET,
    QUIET_AGAIN,
    QUIET_MAP,
    RATE,
    RULE_LOAD,
    VARIANTS,
)
from bench.scenarios.updates_under_load.churn import Updates
from dataplane.types import Program

BLOCKS = 12
COSTS = {VETH: 1000.0, MAP: 2000.0, RULE: 2100.0, RULES: 2100.0, NFT: 2200.0, OURS: 2500.0, AGAIN: 2500.0}
"""Nanoseconds, of each publisher: the machine is as slow as the number of the block says."""
REACHED = "10.77.1.2:9000"


def results(*more: Sample, without: Publisher | None = None) -> Results:
    """A run in which each costs what the table above says."""
    samples = [
        Sample(measure, one.name, cost * (1 + block), block=block)
        for block in range(BLOCKS)
        for one, cost in COSTS.items()
        if one != without
        for measure in (
            *(WIRE.measure(way) for way in Direction),
            WHOLE.measure(Direction.TO_CONTAINER),
            packet(PACES[0]),
        )
    ]
    samples += [Sample(TRANSFERRED, one.name, 1 << 30) for one in PUBLISHERS]
    samples += [Sample(SENT, one.name, 1000) for one in PUBLISHERS]
    spread = tuple(Histogram(packet(PACES[0]), one.name, ((20.0, 98), (90.0, 2))) for one in PUBLISHERS)
    return Results({}, (*samples, *more), histograms=spread)


def test_costs_are_compared_within_a_block() -> None:
    """Ratios are of processor time, however fast the machine was; what a machine moves is told in Gb/s."""
    rows = {one.what: one for one in bulk.figures(results())}
    measure = WIRE.measure(Direction.FROM_CONTAINER)
    assert rows[f"{measure}: time a KiB, dataplane / nft map"].value == pytest.approx(1.25)
    assert rows[f"{measure}: time a KiB, dataplane / raw veth"].value == pytest.approx(2.5)
    control = rows[f"control: {measure}, ours twice"]
    assert (control.value, control.met) == (1.0, True)
    fastest = 8 * 1024 / COSTS[VETH]
    veth = rows[f"{measure}: raw veth"]
    assert veth.unit == "Gb/s"
    assert veth.value is not None
    assert fastest / BLOCKS < veth.value < fastest
    assert rows[f"{packet(PACES[0])}: processor time, dataplane / portmap, nftables, 1 port"].value == pytest.approx(
        2500 / 2100
    )
    assert rows[f"{packet(PACES[0])}: 50 % of them came within, dataplane"].value == 20.0
    assert rows[f"{packet(PACES[0])}: 99 % of them came within, dataplane"].value == 90.0


def test_what_was_sent_again_is_told_beside_others() -> None:
    """Retransmissions of both of ours are one number, those of each other a range."""
    again = trouble(WIRE, INFO[0])
    counted = [Sample(again, one.name, number) for number, one in enumerate(PUBLISHERS)]
    rows = {one.what: one for one in bulk.figures(results(*counted))}
    row = rows[f"TCP {WIRE.name}: {INFO[0]}, dataplane, twice"]
    assert (row.value, row.note) == (5 + 6, "others 0 to 4 each")


@pytest.mark.parametrize(
    ("measure", "doubted"), [(AMISS, [True, True, True, False]), (LOST, [False, False, False, True])]
)
def test_a_byte_amiss_is_a_row_and_a_doubt(measure: str, doubted: list[bool]) -> None:
    """Nothing is said of costs where a byte or a packet of one that stands there was lost or damaged."""
    found = results(Sample(measure, MAP.name, 1))
    assert [one for one in bulk.figures(found) if one.met is False]
    assert [bool(answer.doubt) for answer in bulk.answers(found)] == doubted
    elsewhere = results(Sample(measure, RULES.name, 1))
    assert [one for one in bulk.figures(elsewhere) if one.met is False]
    assert not any(answer.doubt for answer in bulk.answers(elsewhere))


def test_answers_stand_beside_veth_map_and_portmap() -> None:
    """Each row has the least there is, the best pure nft and what people run, and how the last grows with ports."""
    answers = bulk.answers(results())
    assert len(answers) == 4
    for answer in answers:
        assert not answer.doubt
        ratios = {beside.role: beside.ratio.middle for beside in answer.besides}
        ours = COSTS[NFT] if "without programs" in answer.what else COSTS[OURS]
        wanted = {Role.PURE: ours / COSTS[MAP], Role.TODAY: ours / COSTS[RULE], Role.FLOOR: ours / COSTS[VETH]}
        assert ratios == pytest.approx(wanted)
        (growth,) = (beside.growth for beside in answer.besides if beside.growth)
        assert growth.ratio.middle == pytest.approx(1.0)


def test_what_is_not_proved_is_doubted() -> None:
    """A way that is not what its name says is counted, and takes the answers with it."""
    found = results(
        Sample("unproved", "nft map, as from a wire", 1.0), Sample("unproved", "raw veth, as from a wire", 0.0)
    )
    (row,) = (one for one in bulk.figures(found) if one.what.startswith("ways that were not"))
    assert (row.value, row.met) == (1, False)
    assert {answer.doubt for answer in bulk.answers(found)} == {"not proved: nft map, as from a wire"}


def test_a_control_that_differs_takes_the_answers_with_it() -> None:
    """Ours against itself, by a tenth: the run says nothing."""
    slower = [
        Sample(WIRE.measure(Direction.TO_CONTAINER), AGAIN.name, COSTS[OURS] * 1.1 * (1 + block), block=block)
        for block in range(BLOCKS)
    ]
    first, second, *_ = bulk.answers(results(*slower, without=AGAIN))
    assert "RUN INVALID" in first.doubt
    assert "RUN INVALID" in second.doubt


def test_plots_have_units() -> None:
    """Bars and boxes of all but the control, each axis with what it is in."""
    plots = bulk.plots(results())
    assert len({plot.name for plot in plots}) == len(plots) == 4
    for plot in plots:
        assert isinstance(plot, Bars | Boxes)
        assert isinstance(plot.y, Axis)
        names = [one.name for one in (plot.bars if isinstance(plot, Bars) else plot.boxes)]
        assert names == [one.name for one in PUBLISHERS if one != AGAIN]
        assert "Gb/s" in plot.y.label or "ns" in plot.y.label or "us" in plot.y.label


def test_nothing_measured_says_so() -> None:
    """Where a run was interrupted early there are rows without numbers, no plot, no answer, no table."""
    for scenario in (bulk, updates_under_load):
        assert scenario.plots(Results({})) == scenario.tables(Results({})) == scenario.answers(Results({})) == []
        rows = scenario.figures(Results({}))
        assert rows
        assert all(one.value is None for one in rows)


def test_all_phases_have_names_of_their_own() -> None:
    """No two phases or directions share a name, or their samples would be one."""
    names = [phase.measure(way) for phase in PHASES for way in Direction]
    assert len(set(names)) == len(names)


GOOD = {
    VETH: Seen("10.0.2.15:9000", frozenset()),
    MAP: Seen(REACHED, frozenset({"ip published"})),
    RULES: Seen(REACHED, frozenset({"ip cni_hostport"})),
    NFT: Seen(REACHED, frozenset({"inet dataplane", "inet dataplane_anchor"}), {Program.GUARD: 1}),
    OURS: Seen(REACHED, frozenset({"inet dataplane"}), dict.fromkeys((*OURS.programs,), 100)),
}


@pytest.mark.parametrize("publisher", GOOD, ids=lambda one: one.name)
def test_a_way_is_proved(publisher: Publisher) -> None:
    """Nothing is doubted where address, tables and programs are what the name says; everything of another way is."""
    reached = GOOD[publisher].reached
    assert list(doubts(publisher, reached, GOOD[publisher], to_container=100)) == []
    for other, seen in GOOD.items():
        if other != publisher:
            assert list(doubts(publisher, reached, seen, to_container=100)), other.name


def test_programs_must_have_seen_the_packets() -> None:
    """Attached is not enough: each ran for each packet that went its way."""
    seen = Seen(REACHED, frozenset({"inet dataplane"}), dict.fromkeys(OURS.programs, 99))
    assert {one.split()[0] for one in doubts(OURS, REACHED, seen, to_container=100)} == {"isolation", "checksum"}
    assert {one.split()[0] for one in doubts(OURS, REACHED, seen, from_container=100)} == {"guard"}


def test_counters_of_the_stack_are_read_by_name() -> None:
    """Names and numbers are lines of their own, for each protocol; a counter that is not there has not risen."""
    before = parsed("TcpExt: TCPDSACKRecv TCPOFOQueue\nTcpExt: 3 1\nUdp: InCsumErrors\nUdp: 0\n")
    assert before == {"TcpExt TCPDSACKRecv": 3, "TcpExt TCPOFOQueue": 1, "Udp InCsumErrors": 0}
    up = risen(before, before | {"TcpExt TCPDSACKRecv": 5})
    assert up["DSACKs received"] == 2
    assert sum(up.values()) == 2


def test_what_a_round_came_to() -> None:
    """Nanoseconds by the processor, of the packets that were counted; a stream's time but for what it slept."""
    made = Transfer(2048, 2048, 0, nanoseconds=4096, busy=1024, slept=1024, retransmitted=0, in_vain=0, reordered=0)
    assert made.counted == 0.5
    assert Arrivals(10, 10, 0, busy=4000, counted=8, late=0, latencies=()).nanoseconds_per_packet == 500.0


def test_a_row_of_which_too_little_was_counted_is_doubted() -> None:
    """Where processor time is of less than 95 % of a round, its rows and the answer say so."""
    measure = WIRE.measure(Direction.TO_CONTAINER)
    for share, doubted in ((0.96, False), (0.9, True)):
        found = results(*(Sample(counted_of(measure), OURS.name, share, 0, block) for block in range(12)))
        row = next(one for one in bulk.figures(found) if one.what == f"{measure}: {OURS.name}")
        assert row.note.startswith(UNPROVED) is doubted
        answer = next(one for one in bulk.answers(found) if "1,448" in one.what and "without" not in one.what)
        assert ("only a part" in answer.doubt) is doubted


def test_changes_are_made_until_the_block_ends() -> None:
    """One after the other, each counted, none after the block."""
    made, enough = list[int](), threading.Event()

    def change() -> None:
        made.append(len(made))
        if len(made) == 3:
            enough.set()

    with Updates(change, pace=0.001) as updates:
        assert enough.wait(30)
    assert updates.count == len(made) >= 3
    assert updates.seconds > 0
    assert not [one for one in threading.enumerate() if one.name == "updates"]


def test_a_change_that_fails_fails_the_round() -> None:
    """What a change raised is raised where the block ends, and no further change is made."""
    failed = threading.Event()

    def change() -> None:
        failed.set()
        raise BenchError("could not change anything")

    updates = Updates(change, pace=0.001)
    with pytest.raises(BenchError, match="could not change anything"), updates:
        assert failed.wait(30)
    assert updates.count == 0


def loaded(*more: Sample) -> Results:
    """A run in which our changes make p99 half as long again, and those by rule twice."""
    longer = {OURS_LOAD.name: 1.5, RULE_LOAD.name: 2.0}
    samples = [
        Sample(measure, name, 10.0 * (1 + block) * (longer.get(name, 1.0) if measure == P99 else 1.0), block=block)
        for block in range(BLOCKS)
        for name in VARIANTS
        for measure in (P50, P99)
    ]
    return Results({}, (*samples, *more))


def test_the_tail_is_compared_with_the_same_host_at_rest() -> None:
    """p99 while others change / while nothing does, in the same block: told beside how many changes there were, and no
    comparison, for each makes as many as it can; so none is judged."""
    rows = {one.what: one for one in updates_under_load.figures(loaded())}
    assert rows[f"{OURS_LOAD.name}: p99 / nothing"].value == pytest.approx(1.5)
    assert rows[f"{OURS_LOAD.name}: p50 / nothing"].value == pytest.approx(1.0)
    assert not [one.what for one in rows.values() if one.better or one.peer]
    made = [Sample(RATE, OURS_LOAD.name, 250.0, block=block) for block in range(BLOCKS)]
    (text,) = updates_under_load.tables(loaded(*made))
    (answer,) = updates_under_load.answers(loaded(*made))
    assert (answer.doubt, answer.besides, answer.growth) == ("", (), None)
    assert answer.ours.middle == pytest.approx(1.5)
    assert f"{OURS_LOAD.name}: 1.50x (1.50 - 1.50) at 250 changes a second; " in answer.remark
    assert f"{RULE_LOAD.name}: 2.0x (2.0 - 2.0) at unknown changes a second" in answer.remark
    assert f"| {OURS_LOAD.name} | 250 | 1.000x (1.000 - 1.000) | 1.50x (1.50 - 1.50) |" in text
    (plot,) = updates_under_load.plots(loaded())
    assert isinstance(plot, Bars)
    assert [one.name for one in plot.bars] == [load.name for load in LOADS]


@pytest.mark.parametrize(
    ("name", "changes", "transactions", "good"),
    [
        (OURS_LOAD.name, 10, 10, True),
        (OURS_LOAD.name, 10, 14, True),
        (OURS_LOAD.name, 10, 9, False),
        (OURS_LOAD.name, 0, 0, False),
        (NOOP.name, 10, 0, True),
        (NOOP.name, 10, 1, False),
        (QUIET, 0, 0, True),
        (QUIET_AGAIN, 0, 1, False),
        (QUIET_MAP, 0, 1, False),
    ],
)
def test_transactions_prove_the_changes(name: str, changes: int, transactions: int, good: bool) -> None:
    """At least one for each change; none where nothing changes."""
    assert (updates_under_load.doubts(name, changes, transactions) == "") is good
