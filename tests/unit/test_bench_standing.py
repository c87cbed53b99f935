"""The one table: ours beside others in words, what it does not flatter, and where it was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.figures import Better, Figure
from bench.figures.answers import Kind
from bench.figures.measure import Interval
from bench.figures.words import Verdict, faster, times, verdict
from bench.report import machines, standing
from bench.report.contents import contents
from bench.report.markdown import render
from bench.report.summary import Summary
from support.plotted import BARS, CURVES
from support.summarized import PACKETS, PORTMAP, RUN, SUMMARY, TRIP, UPDATE, UPDATES, around

PLOTTED = {CURVES.name, BARS.name}


@pytest.mark.parametrize(
    ("low", "middle", "high", "text"),
    [
        (0.46, 0.48, 0.5, "2.1x faster (2.0 - 2.2)"),
        (1.2, 1.25, 1.4, "1.25x slower (1.20 - 1.40)"),
        (0.98, 1.0, 1.03, "same (0.980 - 1.030)"),
        (1.004, 1.01, 1.016, "same (1.004 - 1.016)"),
        (0.7, 1.0, 1.4, "not told apart (0.700 - 1.400)"),
        (0.009, 0.0096, 0.0101, "104x faster (99 - 111)"),
        (0.975, 0.996, 0.9999, "same (0.975 - 1.000)"),
        (0.97, 0.98, 0.995, "same (0.970 - 0.995)"),
        (0.9, 0.95, 0.985, "not told apart (0.900 - 0.985)"),
        (1.01, 1.04, 1.08, "not told apart (1.010 - 1.080)"),
        (0.95, 0.97, 0.979, "1.031x faster (1.021 - 1.053)"),
        (1.021, 1.03, 1.04, "1.030x slower (1.021 - 1.040)"),
        (0.0, 0.1, 0.2, "10x faster (5 - any)"),
    ],
)
def test_a_ratio_is_told_as_a_factor_above_1(low: float, middle: float, high: float, text: str) -> None:
    """Whichever way it goes, with its interval turned the same way; and "same" only where that is known."""
    assert faster(Interval(low, middle, high, 12)) == text


def test_what_comes_near_1_is_neither_faster_nor_slower() -> None:
    """However far its middle is from 1: no control is sure of less than two per cent."""
    assert verdict(Interval(0.5, 0.6, 1.0, 12)) is Verdict.UNSURE
    assert verdict(Interval(0.5, 0.6, 0.985, 12)) is Verdict.UNSURE
    assert verdict(Interval(0.5, 0.6, 0.979, 12)) is Verdict.FASTER
    assert verdict(Interval(1.015, 1.5, 2.0, 12)) is Verdict.UNSURE
    assert verdict(Interval(1.021, 1.5, 2.0, 12)) is Verdict.SLOWER


def test_factors_near_another_form_are_rounded_to_it() -> None:
    """9.96 is 10, and not 10.0."""
    assert [times(value) for value in (1.0996, 1.996, 9.96, 1234.5)] == ["1.10x", "2.0x", "10x", "1,234x"]


def test_the_one_table_sets_ours_beside_each() -> None:
    """A row an answer, a column for whom it is beside; words before numbers; growth of all that have it."""
    table = standing.table(SUMMARY, Kind.PACKET)
    assert table.header[:2] == ("", "ours")
    (row,) = table.rows
    grown = (
        "ours: same (0.980 - 1.020) from 1 to 60,000 published ports\n"
        f"{PORTMAP}: 7.5x slower (7.3 - 7.7) from 1 to 10,000 published ports"
    )
    assert row == (
        "UDP round trip, published port",
        "9.6 us (9.41 - 9.79)",
        "**1.50x slower (1.47 - 1.53)** than raw veth",
        "**same (0.980 - 1.020)** as nft map",
        f"**4.0x faster (3.9 - 4.1)** than {PORTMAP}",
        grown,
    )
    noted = Summary((replace(PACKETS, answers=(replace(TRIP, remark="at 40 a second"),)),))
    assert standing.table(noted, Kind.PACKET).rows[0][0] == "UDP round trip, published port\nat 40 a second"
    updates = standing.table(SUMMARY, Kind.UPDATE)
    assert "beside the least there is" in table.header
    assert "beside the least there is" not in updates.header
    (doubtful,) = updates.rows
    assert "doubtful" in doubtful[0]


def test_an_interval_of_few_blocks_is_said_to_be_one() -> None:
    """Of two blocks it is none, however narrow it is."""
    few = replace(TRIP, besides=(replace(TRIP.besides[0], ratio=around(1.5, count=2)), TRIP.besides[1]))
    (row,) = standing.table(Summary((replace(PACKETS, answers=(few,)),)), Kind.PACKET).rows
    assert row[2] == "**1.50x slower (1.47 - 1.53)** than raw veth, of 2 blocks only"
    assert "blocks" not in row[3]


def test_what_is_not_won_and_what_is_doubtful_is_said() -> None:
    """Everybody who is as fast or faster, growth, a limit that is missed, controls, what was cut off or left out."""
    missed = replace(PACKETS, figures=(*PACKETS.figures, Figure("lost", 3.0, "", count=1, must="0", met=False)))
    text = render(standing.reservations(Summary((missed, UPDATES), SUMMARY.left_out)))
    layers = (
        f"* layers, {TRIP.what}: 1.50x slower (1.47 - 1.53) than raw veth, the least there is; "
        "same (0.980 - 1.020) as nft map\n"
    )
    updates = "* updates, add one mapping | of many: not known: control: differs\n"
    surely = replace(UPDATES, answers=(replace(UPDATE, doubt=""),))
    assert (
        "* updates, add one mapping | of many: 1.40x slower (1.37 - 1.43) than libnftables; "
        "not told apart (0.630 - 1.170) from Go portmap; "
        "grows: 1.20x slower (1.18 - 1.22) from 1 to 60,000 published ports\n"
    ) in render(standing.reservations(Summary((surely,))))
    for line in (
        layers,
        updates,
        "layers, lost: 3, must be 0",
        "updates: control: the same twice: RUN INVALID",
        "updates, add one mapping | of many: control: differs",
        "updates: interrupted",
        "storm.jsonl: left out",
    ):
        assert line in text
    assert PORTMAP not in text


def test_where_all_is_won_the_report_says_so() -> None:
    """And does not say that nothing is slower where nothing was compared."""
    won = Summary((replace(PACKETS, answers=(replace(TRIP, besides=TRIP.besides[2:]),)),))
    assert "Nowhere: neither" in render(standing.reservations(won))
    unknown = Summary((replace(PACKETS, answers=(replace(TRIP, besides=TRIP.besides[2:], doubt="cold"),)),))
    said = render(standing.reservations(unknown))
    assert "Nowhere" not in said
    assert f"* layers, {TRIP.what}: not known: cold\n" in said
    nothing = Summary((replace(PACKETS, answers=()),))
    assert "win" not in render(standing.reservations(nothing))
    assert "None of these scenarios" in render(standing.tables(nothing))


def _beside(what: str, middle: float, better: Better = Better.LESS, *, peer: bool = True) -> Figure:
    spread = around(middle, 0.01)
    return Figure(what, middle, "x", spread.low, spread.high, 30, better=better, peer=peer)


def test_every_comparison_that_is_lost_is_counted_and_the_worst_are_named() -> None:
    """Whichever way it is told; not what is won, is too near, grows by itself, or is no peer's."""
    lost = (_beside("ours / a", 1.2), _beside("b / ours", 0.5, Better.MORE))
    others = (
        _beside("ours / c", 0.8),
        _beside("ours / d", 1.025),
        _beside("ours, many / few", 3.0, peer=False),
        replace(_beside("ours / e", 2.0), disturbed=True),
    )

    def line(*figures: Figure) -> str:
        return render(standing.reservations(Summary((replace(PACKETS, figures=figures, answers=()),))))

    assert (
        "* layers, of 5 comparisons surely slower in 2: b / ours: ours 2.0x slower (2.0 - 2.0); "
        "ours / a: ours 1.20x slower (1.19 - 1.21); not known: 1\n"
    ) in line(*lost, *others)
    many = line(*(_beside(f"ours / {number}", 2.0 + number) for number in range(9)))
    assert "of 9 comparisons surely slower in 9: ours / 8: ours 10x slower" in many
    assert "ours / 6: ours 8.0x slower (7.9 - 8.1); and 6 more below\n" in many
    assert "Nowhere: neither" in line(others[0])


def test_a_smoke_run_says_nothing_and_says_that_once() -> None:
    """Neither figures nor rows of the table are to be believed."""
    smoke = replace(PACKETS, run={**RUN, "extent": "smoke"})
    assert smoke.doubts == ("run only to see that it runs: no figure says anything",)
    assert smoke.doubt(TRIP)
    assert all(smoke.why_not(figure) for figure in smoke.figures)
    text = render(contents(Summary((smoke,)), drawn=()))
    assert text.count("only to see that it runs") == 2  # below the table, and with the scenario


def test_machine_facts_stand_beside_every_result() -> None:
    """Kernel, processor, nft, mitigations and steal: below each scenario, and once in all."""
    text = render(contents(SUMMARY, drawn=PLOTTED))
    facts = machines.facts(SUMMARY).rows
    assert ("kernel", "6.18.0") in facts
    assert ("mitigations", "spectre_v2: Mitigation: Retpolines") in facts
    for told in SUMMARY.scenarios:
        below = text.partition(f"## {told.name}: ")[2]
        assert "Some CPU x 2; Linux 6.18.0; nftables v1.0.6" in below
        assert "hypervisor kvm; mitigations: spectre_v2" in below
    assert (
        "steal 0.1% in the middle block, 5.0% in the worst of 3, of all processors together; "
        "1 had more than 2%: left out"
    ) in text


def test_scenarios_of_several_runs_have_the_facts_of_each() -> None:
    """A report of a directory where one scenario was repeated on another kernel shows both."""
    other = replace(UPDATES, run={**RUN, "kernel": "6.19.0"})
    assert ("kernel", "6.18.0\n6.19.0") in machines.facts(Summary((PACKETS, other))).rows
