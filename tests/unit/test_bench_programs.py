"""What program_cost is made of, as far as it is pure: frames, cases, variants, what proves them, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from bench.figures import Results
from bench.figures.measure import Sample
from bench.hosts.variants import (
    AGAIN,
    BARE,
    FROM_HOST,
    NONE,
    PATHS,
    PUBLISHED,
    ROUTED,
    Path,
    Seen,
    Variant,
    doubts,
    variants,
)
from bench.scenarios.program_cost import figures, tables
from bench.scenarios.program_cost.cases import CONTINUE, DEVICES, Devices, cases
from bench.scenarios.program_cost.frames import SYN, Flow, frame
from bench.scenarios.program_cost.testruns import FLOOR, FLOOR_AGAIN, FLOOR_BEFORE
from control.checksums.checksum import correct_sum, is_right, partial_sum
from control.checksums.frame import parse
from dataplane.abi import ChecksumCounts
from dataplane.types import DEVICE_PROGRAMS, AttachMode, IfIndex, Program, Protocol

BLOCKS = 12
BY_NAME = {variant.name: variant for variant in variants(every=True)}
INDEXES = Devices({name: IfIndex(10 + place) for place, name in enumerate(DEVICES)})


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
@pytest.mark.parametrize("length", [64, 65, 1500])
def test_frames_have_the_sum_that_they_say(protocol: Protocol, length: int) -> None:
    """Right as a sender's; right for another tuple where NAT forgot it; the pseudo header's where it is partial."""
    flow = Flow(protocol, "10.0.2.2", 4000, "10.77.1.2", 80)
    right = frame(flow, length, flags=SYN)
    assert len(right) == length
    assert is_right(parse(right))
    before = flow.to("10.0.2.15", 8080)
    stale, sent = parse(frame(flow, length, summed_for=before)), parse(frame(before, length))
    assert not is_right(stale)
    assert stale.stored == sent.stored == correct_sum(sent)
    partial = parse(frame(flow, length, partial=True))
    assert partial.stored == partial_sum(partial)


def test_where_the_sum_is() -> None:
    """``check_at`` are the two bytes that differ between a right sum and a stale one."""
    flow = Flow(Protocol.TCP, "10.0.2.2", 4000, "10.77.1.2", 80)
    right, stale = frame(flow, 64), frame(flow, 64, summed_for=flow.to("10.0.2.15", 8080))
    apart = {at for at in range(64) if right[at] != stale[at]}
    assert apart <= {flow.check_at, flow.check_at + 1}


def test_each_case_is_proved() -> None:
    """What counts nothing and drops nothing has a witness, unless there is no entry that could change anything."""
    all_cases = cases(INDEXES)
    assert {case.program for case in all_cases} == set(DEVICE_PROGRAMS)
    assert len({(case.name, case.networks) for case in all_cases}) == len(all_cases)
    for case in all_cases:
        proved = case.witness is not None or bool(case.watched[0])
        assert proved or case.device in {"t-none", "t-off"}, case.name
        assert case.verdict == CONTINUE or case.rises == (1,), case.name


def test_variants_have_names_of_their_own_and_the_quick_ones_are_among_all() -> None:
    """Both ways to attach are among them for each program, and nothing attached is there twice."""
    everything, quick = variants(every=True), variants(every=False)
    assert len(BY_NAME) == len(everything)
    assert set(quick) < set(everything)
    assert [variant.programs for variant in quick[:2]] == [frozenset(), frozenset()]
    for program in DEVICE_PROGRAMS:
        alone = [one for one in everything if one.programs == {program} and not one.empty]
        usual = AttachMode.CLSACT if program.of_port else AttachMode.TCX
        modes = {usual if one.mode is AttachMode.AUTO else one.mode for one in alone}
        assert modes == {AttachMode.TCX, AttachMode.CLSACT}
        assert {one.works for one in alone} == {True, False}


def test_paths_do_not_share_a_port() -> None:
    """Two servers on one port would answer for each other; the same path before and after our tables is never open
    twice."""
    ports = [(path.protocol, path.listen) for path in PATHS if path is not BARE]
    assert len(set(ports)) == len(ports)


def seen(
    runs: Mapping[Program, int], sums: ChecksumCounts | None = None, filled: int = 0
) -> Seen:  # fmt: skip
    """What the programs counted, those that are not named nothing."""
    return Seen({program: runs.get(program, 0) for program in DEVICE_PROGRAMS}, sums or ChecksumCounts(), filled)


ISOLATION, CHECKSUM, FILL = Program.ISOLATION, Program.CHECKSUM, Program.FILL


@pytest.mark.parametrize(
    ("name", "path", "found", "reasons"),
    [
        (NONE, ROUTED, seen({}), 0),
        (NONE, ROUTED, seen({ISOLATION: 1}), 1),
        ("isolation idle", ROUTED, seen({ISOLATION: 100}), 0),
        ("isolation idle", ROUTED, seen({ISOLATION: 99}), 1),
        ("isolation idle", ROUTED, seen({ISOLATION: 100, CHECKSUM: 100}), 1),
        ("an empty program, by tcx", ROUTED, seen({}), 0),
        ("an empty program, by tcx", ROUTED, seen({ISOLATION: 100}), 1),
        ("checksum hit", PUBLISHED, seen({CHECKSUM: 100}), 0),
        ("checksum hit", PUBLISHED, seen({CHECKSUM: 100}, ChecksumCounts(good=100)), 1),
        ("checksum idle", PUBLISHED, seen({CHECKSUM: 100}), 0),
        ("checksum hit", FROM_HOST, seen({CHECKSUM: 100}, ChecksumCounts(partial=100)), 0),
        ("checksum hit", FROM_HOST, seen({CHECKSUM: 100}), 1),
        ("fill hit", FROM_HOST, seen({FILL: 100}, filled=100), 0),
        ("fill hit", FROM_HOST, seen({FILL: 100}), 1),
        ("fill hit", ROUTED, seen({FILL: 100}), 0),
    ],
)
def test_what_proves_a_path(name: str, path: Path, found: Seen, reasons: int) -> None:
    """A program that is attached ran for each round trip and counted what its name says, others did not run."""
    assert len(list(doubts(BY_NAME[name], path, 100, found))) == reasons


def test_no_round_trip_proves_nothing() -> None:
    """A path on which nothing came back is no path."""
    assert list(doubts(BY_NAME["isolation idle"], ROUTED, 0, seen({})))


def test_counters_are_compared_with_those_before() -> None:
    """``since`` is what came in between."""
    before = seen({ISOLATION: 5}, ChecksumCounts(good=1), filled=2)
    after = seen({ISOLATION: 8}, ChecksumCounts(good=4), filled=2)
    assert after.since(before) == seen({ISOLATION: 3}, ChecksumCounts(good=3), filled=0)


def test_fill_has_nothing_to_do_where_sums_are_computed() -> None:
    """Such rows are not in the table."""
    assert BY_NAME["fill hit"].says_something_of(FROM_HOST)
    assert not BY_NAME["fill hit"].says_something_of(PUBLISHED)
    assert BY_NAME["fill idle"].says_something_of(PUBLISHED)


def results(slow: Mapping[str, float], unproved: tuple[str, ...] = (), lost: int = 0) -> Results:
    """A run in which every round trip took 10 us, or so many times that, and a program 50 ns beyond an empty one."""
    samples = []
    for block in range(BLOCKS):
        samples += [Sample("test run", floor, 20.0, block=block) for floor in (FLOOR, FLOOR_AGAIN)]
        samples.append(Sample("test run", FLOOR_BEFORE, 40.0, block=block))
        samples += [Sample("test run", case.name, 70.0, block=block) for case in cases(INDEXES) if case.networks == 2]
        samples.append(Sample("test run", "isolation: other network, open, 1,000 networks", 70.0, block=block))
        for variant in variants(every=False):
            value = 10.0 * slow.get(variant.name, 1.0)
            samples.append(Sample(ROUTED.name, variant.name, value, block=block))
    samples += [Sample("unproved", f"{name}, {ROUTED.name}", float(name in unproved)) for name in BY_NAME]
    samples += [Sample("round trips", NONE, 1000.0), Sample("lost", NONE, lost)]
    return Results({}, tuple(samples))


def test_the_table_judges_idle_programs_and_tells_of_others() -> None:
    """Up to 1.03 of nothing attached is met, above is not; a program at work is not judged, nor is an empty one."""
    slow = {"isolation idle": 1.03, "checksum idle": 1.031, "guard hit": 1.5, "an empty program, by clsact": 1.1}
    rows = {figure.what: figure for figure in figures(results(slow))}
    assert rows["routed: isolation idle"].met is True
    assert rows["routed: checksum idle"].met is False
    assert rows["routed: guard hit"].met is None
    assert rows["routed: guard hit"].value == pytest.approx(1.5)
    assert rows["routed: an empty program, by clsact"].met is None
    assert rows[f"control: {ROUTED.name}, the same twice"].met is True
    assert not any(what.startswith("published") for what in rows)


def test_only_a_program_that_is_alone_and_idle_is_judged() -> None:
    """The promise is one of each program."""
    judged = {variant.name for variant in variants(every=False) if variant.judged}
    assert judged == {f"{program} idle" for program in DEVICE_PROGRAMS}


def test_paths_stand_side_by_side() -> None:
    """A row a variant, a column a path, a mark where an idle program costs too much."""
    slow = {"isolation idle": 1.02, "checksum idle": 1.04, "all idle": 1.2}
    (table,) = tables(results(slow))
    lines = table.splitlines()
    assert lines[2] == "|  | routed |"
    assert "| isolation idle | 1.020 (1.020 - 1.020) |" in lines
    assert "| checksum idle | 1.040 (1.040 - 1.040) **!** |" in lines
    assert "| all idle | 1.200 (1.200 - 1.200) |" in lines
    assert not any(line.startswith(f"| {NONE} |") for line in lines)
    assert tables(Results({})) == []


def test_what_a_program_costs_is_beyond_its_own_floor() -> None:
    """Where each run begins with a store that restores the packet, the store is in the floor as well."""
    rows = {figure.what: figure.value for figure in figures(results({}))}
    assert rows["isolation: same network; beyond empty"] == pytest.approx(50.0)
    assert rows["checksum: stale, repaired, 64 bytes; beyond empty"] == pytest.approx(30.0)
    assert rows["isolation: other network, open, 1,000 / 2 networks"] == pytest.approx(1.0)


def test_what_is_not_proved_is_called_so_in_its_row() -> None:
    """And counted, as is what was lost."""
    table = figures(results({}, unproved=("guard hit",), lost=1))
    rows = {figure.what: figure for figure in table}
    assert rows["routed: guard hit"].note.startswith("NOT PROVED")
    assert rows["routed: guard idle"].note == ""
    *_, lost, unproved = table
    assert (lost.value, lost.met) == (1, False)
    assert (unproved.value, unproved.met) == (1, False)


def test_a_machine_that_differs_from_itself_invalidates_the_run() -> None:
    """The control of that path says so."""
    rows = {figure.what: figure for figure in figures(results({AGAIN: 1.2}))}
    assert "RUN INVALID" in rows[f"control: {ROUTED.name}, the same twice"].note


def test_a_variant_acts_where_it_has_entries() -> None:
    """Idle ones never do."""
    idle = Variant("x", frozenset({Program.GUARD}))
    assert not idle.acts(Program.GUARD)
    assert replace(idle, works=True).acts(Program.GUARD)
    assert not replace(idle, works=True).acts(Program.FILL)
