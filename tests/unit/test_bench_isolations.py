"""The rules that networks are kept apart by when it is measured, what proves them, and what is made of the rounds."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from itertools import product

import pytest

from bench.figures import Better, Figure, Results
from bench.figures.measure import Sample
from bench.figures.plots import Role
from bench.peers.firewall import Network, accepts, forward, stages
from bench.scenarios.isolation.drawn import DENIED, DENIED_FLOWS, SIZES, answers, figures, place, plots, tables
from bench.scenarios.isolation.rules import (
    DROPS,
    FILTER,
    HERE,
    HERE_NETWORK,
    OPEN_NETWORKS,
    PATHS,
    THERE,
    THERE_NETWORK,
    Denied,
    Passed,
    Variant,
    asleep,
    crowd,
    doubts,
    dropping,
    leaks,
    linear,
    programs,
    restored,
    scanning,
    sets,
    table,
    turn,
)
from dataplane.types import Program

COMMENT = '-m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge)"'
PAIR = (Network("br-a", IPv4Address("10.1.0.2")), Network("br-b", IPv4Address("10.2.0.2")))


@pytest.mark.parametrize("size", SIZES)
def test_a_crowd_has_its_pair_in_the_middle(size: int) -> None:
    """So many networks, each once, and as many before those that packets go between as behind them."""
    given = crowd(size)
    assert len({network.bridge for network in given}) == len({network.container for network in given}) == size
    assert given[(size - 1) // 2 : size // 2 + 1] == [HERE_NETWORK, THERE_NETWORK][:size]
    assert not set(given) & set(OPEN_NETWORKS)
    assert all(len(network.bridge) <= 15 for network in given)


def test_rules_of_ingress_policy() -> None:
    """What setupIsolationChains writes for two bridges: the newest first, in both stages, and a RETURN behind them."""
    assert forward()[0] == f"-A FORWARD {COMMENT} -j CNI-ISOLATION-STAGE-1"
    assert stages(PAIR) == [
        f"-A CNI-ISOLATION-STAGE-1 -i br-b ! -o br-b {COMMENT} -j CNI-ISOLATION-STAGE-2",
        f"-A CNI-ISOLATION-STAGE-1 -i br-a ! -o br-a {COMMENT} -j CNI-ISOLATION-STAGE-2",
        f"-A CNI-ISOLATION-STAGE-1 {COMMENT} -j RETURN",
        f"-A CNI-ISOLATION-STAGE-2 -o br-b {COMMENT} -j DROP",
        f"-A CNI-ISOLATION-STAGE-2 -o br-a {COMMENT} -j DROP",
        f"-A CNI-ISOLATION-STAGE-2 {COMMENT} -j RETURN",
    ]
    assert accepts(PAIR)[1:3] == [
        "-A CNI-FORWARD -d 10.1.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A CNI-FORWARD -s 10.1.0.2/32 -j ACCEPT",
    ]


def test_each_size_has_chains_of_its_own() -> None:
    """Every rule is of a chain that is declared, with the size in its name; an open network is in no stage."""
    lines = restored({size: crowd(size) for size in (2, 10)}).splitlines()
    declared = {line.split()[0].removeprefix(":") for line in lines if line.startswith(":")}
    rules = [line.split() for line in lines if line.startswith("-A")]
    assert {rule[1] for rule in rules} <= declared
    for size in (2, 10):
        drops = [rule for rule in rules if rule[1] == f"CNI-ISOLATION-STAGE-2-{size}" and rule[-1] == "DROP"]
        assert len(drops) == size
    for network in OPEN_NETWORKS:
        about = [line for line in lines if str(network.container) in line or network.bridge in line]
        assert len(about) == 4
        assert all("CNI-FORWARD" in line for line in about)


def test_rules_of_nft() -> None:
    """As many rules a stage as networks; sets have one rule for any number, and an element a network in each."""
    few, many = linear(crowd(2)), linear(crowd(10))
    assert (few.count("jump stage2"), many.count("jump stage2")) == (2, 10)
    assert (few.count("counter drop"), many.count("counter drop")) == (2, 10)
    text = sets(crowd(10))
    assert text.count("drop") == 1
    assert text.count(f'"{HERE}"') == 3
    assert f'"{HERE}" . "{THERE}"' not in text
    assert linear(crowd(10)).startswith(f"table {table(Variant.LINEAR, 10)} {{\n\tflags dormant;")


def test_a_turn_wakes_one_table_and_no_other() -> None:
    """What was in force is put to sleep, unless it is the same table: the kernel takes one flag a transaction."""
    sleep = asleep([table(Variant.SETS, 2)])
    assert turn(None, (Variant.SETS, 2)) == f"add table {table(Variant.SETS, 2)}\n"
    assert turn((Variant.SETS, 2), (Variant.LINEAR, 10)) == f"{sleep}add table {table(Variant.LINEAR, 10)}\n"
    assert turn((Variant.SETS, 2), (Variant.ALONE, 10)) == sleep
    assert turn((Variant.SETS, 2), (Variant.SETS, 2)) == ""
    assert turn((Variant.ALONE, 2), (Variant.NOTHING, 10)) == ""
    assert turn((Variant.STAGES, 2), (Variant.PLUGIN, 10)) == (
        f"flush chain {FILTER} FORWARD\n"
        f"add rule {FILTER} FORWARD counter jump CNI-ISOLATION-STAGE-1-10\n"
        f"add rule {FILTER} FORWARD counter jump CNI-FORWARD-10\n"
    )
    assert turn((Variant.DEFAULTS, 2), (Variant.STAGES, 2)).endswith(
        f"{asleep([table(Variant.DEFAULTS, 2)])}add table {FILTER}\n"
    )


@pytest.mark.parametrize("variant", Variant)
def test_who_counts(variant: Variant) -> None:
    """Whoever drops has one place that counts it, one for each size where rules do it; only rules are scanned."""
    where = dropping(variant, 10)
    assert bool(where) == (variant is not Variant.NOTHING)
    if variant.of_ours:
        assert where == DROPS
        assert Program.ISOLATION in programs(variant)
    elif where:
        assert where != dropping(variant, 100)
        assert where.startswith(table(variant, 10))
        assert not programs(variant)
    assert bool(scanning(variant, 10)) == variant.scans


@pytest.mark.parametrize(
    ("variant", "denied", "said"),
    [
        (Variant.SETS, Denied(64, 0, 0, 64), ()),
        (Variant.SETS, Denied(64, 0, 1, 63), ("1 of 64 datagrams arrived, and none may", "63 drops were counted")),
        (Variant.ALONE, Denied(64, 0, 0, 0), ("0 drops were counted",)),
        (Variant.ALONE, Denied(64, 0, 0, 128), ("128 drops were counted",)),
        (Variant.ALONE, Denied(0, 2, 0, 0), ("refused 2 times",)),
        (Variant.NOTHING, Denied(64, 0, 64, 0), ()),
        (Variant.NOTHING, Denied(64, 0, 0, 0), ("nobody keeps them from it",)),
    ],
)
def test_what_must_not_arrive(variant: Variant, denied: Denied, said: tuple[str, ...]) -> None:
    """Nothing arrives and each drop is counted once; where nobody drops, everything arrives, or nothing was shown."""
    found = list(leaks(variant, denied))
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))


def test_what_may_pass_is_seen_by_whom_it_must_be() -> None:
    """Rules are scanned by both packets of a round trip; a program runs for each if it is attached, else never."""
    runs = {Program.ISOLATION: 100, Program.CHECKSUM: 0, Program.GUARD: 0}
    none = dict.fromkeys(runs, 0)
    assert not list(doubts(Variant.ALONE, Passed(100, 0, runs)))
    assert not list(doubts(Variant.LINEAR, Passed(100, 200, none)))
    assert not list(doubts(Variant.SETS, Passed(100, 0, none)))
    assert len(list(doubts(Variant.LINEAR, Passed(100, 199, none)))) == 1
    assert len(list(doubts(Variant.STAGES, Passed(0, 0, none)))) == 1
    assert len(list(doubts(Variant.ALONE, Passed(100, 0, none)))) == 1
    assert len(list(doubts(Variant.NOTHING, Passed(100, 0, runs)))) == 1
    assert len(list(doubts(Variant.DEFAULTS, Passed(100, 0, runs)))) == 2


def cost(variant: Variant, size: int) -> float:
    """Microseconds: rules cost 10 ns each, whatever there is else costs a little."""
    return 10 + (0.01 * 3 * size if variant.scans else 0.1 * (variant is not Variant.NOTHING))


def rounds(cost: Callable[[Variant, int], float] = cost, *more: Sample) -> Results:
    """What a run would have written: a machine is as slow in a block as it likes."""
    samples = list(more)
    for block, pace in enumerate((1.0, 0.8, 1.1, 0.9, 1.2, 1.0)):
        for variant, size in product(Variant, SIZES):
            spent, at = cost(variant, size) * pace, (size, block)
            samples += [Sample(path.name, variant, spent, *at) for path in PATHS]
            if variant is not Variant.NOTHING and size > 1:
                samples += [Sample(measure, variant, spent * 1e3, *at) for measure in (DENIED, DENIED_FLOWS)]
            samples += [Sample(measure, variant, 100, *at) for measure in ("round trips", "sent")]
            samples += [Sample(measure, variant, 0, *at) for measure in ("lost", "arrived")]
            samples.append(Sample("unproved", place(variant, size), 0))
    return Results({}, tuple(samples))


def row(rows: list[Figure], what: str) -> Figure:
    """The figure of that name."""
    (found,) = (one for one in rows if one.what == what)
    return found


def test_figures_say_who_grows() -> None:
    """Ours at 1,000 networks is as at 1, and held against 1.05; a rule has its price; ours is a fraction of rules."""
    rows, path = figures(rounds()), PATHS[0].name
    for own in (Variant.ALONE, Variant.DEFAULTS):
        flat = row(rows, f"{path}: {own}, 1,000 / 1 networks")
        assert flat.value == pytest.approx(1.0)
        assert flat.met is True
    steep = row(rows, f"{path}: {Variant.STAGES}, 1,000 / 1 networks")
    assert steep.value == pytest.approx(40 / 10.03)
    assert steep.met is None
    each = row(rows, f"{path}: {Variant.LINEAR}, each rule that a packet meets")
    assert each.value == pytest.approx(10)
    assert each.unit == "ns"
    beside = row(rows, f"{path}, 1,000 networks: {Variant.ALONE} / {Variant.STAGES}")
    assert beside.value == pytest.approx(10.1 / 40)
    assert beside.met is False
    whole = row(rows, f"{path}, 1,000 networks: {Variant.DEFAULTS} / {Variant.STAGES}")
    assert whole.value == pytest.approx(10.1 / 40)
    assert whole.met is None
    assert row(rows, f"control: {path}, 1,000 networks, the same twice").met is True


def test_isolation_that_grows_is_not_met() -> None:
    """Ours a tenth slower at the most networks: the row says so, for each way."""
    results = rounds(lambda variant, size: 11.1 if variant.of_ours and size == SIZES[-1] else 10.0)
    for own in (Variant.ALONE, Variant.DEFAULTS):
        found = [one for one in figures(results) if f": {own}, 1,000 / " in one.what and one.unit == "x"]
        assert [one.met for one in found] == [False] * 5


def test_what_leaks_or_is_not_proved_is_said() -> None:
    """One datagram that arrives, and one variant that is not what its name says: counted, marked, and doubted."""
    where = place(Variant.SETS, 1_000)
    results = rounds(cost, Sample("arrived", Variant.ALONE, 1, 2, 0), Sample("unproved", where, 1))
    rows = figures(results)
    met = {one.what.partition(",")[0]: one.met for one in rows[-3:]}
    assert met == {
        "round trips lost or damaged": True,
        "denied datagrams that arrived": False,
        "variants and sizes that were not what their name says": False,
    }
    marked = {one.what for one in rows if "NOT PROVED" in one.note}
    assert f"{DENIED}, 1,000 networks: {Variant.ALONE} / {Variant.SETS}" in marked
    assert all(str(Variant.SETS) in what for what in marked)
    assert {one.doubt for one in answers(results)} == {f"not proved: {where}"}


def test_answers_are_ours_beside_others_at_the_most_networks() -> None:
    """A ratio is of all that an ADD leaves to theirs; each side says how it grows; what is denied has no peer that lets
    it through. Isolation alone is told from it: ours, by another name."""
    rows = answers(rounds(lambda variant, size: 12.0 if variant is Variant.DEFAULTS else cost(variant, size)))
    assert len({one.what for one in rows}) == len(rows) == 4
    assert not any(one.doubt for one in rows)
    besides = {one.name: one for one in rows[0].besides}
    assert besides[Variant.STAGES].ratio.middle == pytest.approx(12 / 40)
    assert besides[Variant.ALONE].ratio.middle == pytest.approx(12 / 10.1)
    assert (rows[0].ours.middle, besides[Variant.ALONE].role) == (12, Role.OURS_TOO)
    growth = besides[Variant.STAGES].growth
    assert growth is not None
    assert growth.ratio.middle == pytest.approx(40 / 10.03)
    assert (growth.smaller, growth.larger) == (1, 1_000)
    assert [one.name for one in rows[-1].besides] == [Variant.SETS, Variant.STAGES, Variant.LINEAR, Variant.ALONE]
    assert rows[-1].growth is not None
    assert rows[-1].growth.smaller == 2


def test_a_control_that_differs_makes_answers_doubtful() -> None:
    """Ours a tenth slower than itself: no row claims anything."""
    results = rounds(lambda variant, _: 11.0 if variant is Variant.AGAIN else 10.0)
    assert all(one.doubt.startswith("the same twice differs: 1.1") for one in answers(results))


def test_plots_show_each_variant_at_each_size() -> None:
    """Four plots with names of their own, a line a variant and no two of a colour, no value that has no logarithm."""
    drawn = plots(rounds())
    assert len({one.name for one in drawn}) == len(PATHS) + 1
    for one in drawn:
        assert len({line.role for line in one.lines}) == len(one.lines) >= 5
        there = [size for size in SIZES if size > 1 or not one.name.endswith("denied")]
        assert all([point.x for point in line.points] == there for line in one.lines)
        assert all(point.y > 0 for line in one.lines for point in line.points)


def test_nothing_measured_is_no_error() -> None:
    """Results without a round have rows that say so, and neither tables, plots nor answers."""
    empty = Results({})
    assert {one.met for one in figures(empty)} == {False}
    assert not [*tables(empty), *plots(empty), *answers(empty)]


def test_ratios_of_ours_say_that_less_is_better() -> None:
    """So that a comparison of two runs judges them; how others grow is nobody's concern."""
    ratios = [one for one in figures(rounds()) if one.unit == "x" and not one.control]
    ours = [one for one in ratios if one.what.rpartition(": ")[2].startswith("dataplane")]
    assert {one.better for one in ours} == {Better.LESS}
    assert {one.better for one in ratios if one not in ours} == {None}
