"""The budget of the programs: what is compared with what, and how the stack is found in code."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.programs.budget import BudgetError, Row, Where, excesses, quickest, read_budget, rewritten, text_of
from dataplane.programs.cost import Cost, stack_depth
from dataplane.programs.source import MAPS, ORDER, source_directory
from dataplane.programs.syscall import instruction
from dataplane.types import Program

HERE = Where("0.26.0", "6.18")
OTHER_KERNEL, OTHER_COMPILER = Where("0.26.0", "6.1"), Where("0.31.0", "6.18")
COST = Cost("checksum", emitted=1000, verified=10_000, xlated=1100, stack=400, load=4.0)
ROW = Row(HERE, COST)


@pytest.mark.parametrize(
    ("where", "grown", "too_much"),
    [
        (HERE, {"emitted": 1100, "verified": 11_000, "xlated": 1210, "stack": 440, "load": 8.25}, False),
        (HERE, {"emitted": 1101}, True),
        (HERE, {"verified": 11_001}, True),
        (HERE, {"xlated": 1211}, True),
        (HERE, {"stack": 441}, True),
        (HERE, {"load": 8.3}, True),
        (OTHER_KERNEL, {"verified": 20_000, "xlated": 2200, "load": 16.0}, False),
        (OTHER_KERNEL, {"verified": 20_001}, True),
        (OTHER_KERNEL, {"emitted": 1101}, True),  # the kernel does not change what the compiler makes
        (OTHER_COMPILER, {"emitted": 2000, "stack": 512}, False),
        (OTHER_COMPILER, {"emitted": 2001}, True),
    ],
)
def test_growth_is_found(where: Where, grown: dict[str, float], too_much: bool) -> None:
    """10 % by the same compiler and kernel, twice as much elsewhere: never nothing to compare with."""
    found = excesses([replace(COST, **grown)], [ROW], where)  # type: ignore[arg-type]  # by name
    assert len(found) == int(too_much), found


def test_the_nearest_row_counts() -> None:
    """That of this compiler and kernel, else of this compiler."""
    rows = [Row(OTHER_COMPILER, replace(COST, emitted=1)), Row(OTHER_KERNEL, replace(COST, emitted=900)), ROW]
    assert excesses([COST], rows, HERE) == []
    assert len(excesses([COST], rows[:2], HERE)) == 1
    assert "(at most 990, written by bcc 0.26.0 on Linux 6.1)" in excesses([COST], rows[:2], HERE)[0]


def test_a_program_without_a_row_has_no_budget() -> None:
    """Which is an excess, and says what to do."""
    assert excesses([COST], [], HERE) == ["checksum has no budget; dpctl bpf budget --write"]


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Other machines' rows stay, this one's are replaced, those of programs that are gone go."""
    file = tmp_path / "budget.csv"
    gone = Row(OTHER_KERNEL, replace(COST, program="gone"))
    rows = rewritten([ROW, Row(OTHER_KERNEL, COST), gone], [replace(COST, emitted=5)], HERE)
    file.write_text(text_of(rows))
    assert read_budget(file) == rows
    assert [(row.where.kernel, row.cost.emitted) for row in rows] == [("6.1", 1000), ("6.18", 5)]


@pytest.mark.parametrize(
    "text",
    [
        "program,compiler\nchecksum,1\n",
        "program,compiler,kernel,emitted,verified,xlated,stack,load\nchecksum,1,2,x,0,0,0,0\n",
    ],
)
def test_a_broken_file_says_so(tmp_path: Path, text: str) -> None:
    """And a missing one, with what makes it anew."""
    file = tmp_path / "budget.csv"
    with pytest.raises(BudgetError, match=r"could not read the budget .*: No such file.*; dpctl bpf budget --write"):
        read_budget(file)
    file.write_text(text)
    with pytest.raises(BudgetError, match="could not read the budget"):
        read_budget(file)


def test_of_two_measurements_the_quicker_counts() -> None:
    """Only of times: the rest does not vary."""
    assert quickest([COST], [replace(COST, load=3.0, emitted=7)]) == [replace(COST, load=3.0)]
    assert quickest([COST], [replace(COST, load=5.0)]) == [COST]


def test_the_committed_budget_has_every_program() -> None:
    """And no other."""
    assert {row.cost.program for row in read_budget()} == set(Program)


# -- stack ------------------------------------------------------------------------------------------------------------

MOV, ADD, STORE, LOAD, CALL, EXIT, JEQ = 0xBF, 0x07, 0x7B, 0x79, 0x85, 0x95, 0x15


@pytest.mark.parametrize(
    ("code", "depth"),
    [
        ([(EXIT, 0, 0, 0, 0)], 0),
        ([(STORE, 10, 1, -8, 0), (LOAD, 1, 10, -24, 0)], 24),  # *(r10 - 8) = r1; r1 = *(r10 - 24)
        ([(MOV, 2, 10, 0, 0), (ADD, 2, 0, 0, -40)], 40),  # r2 = r10; r2 += -40
        ([(MOV, 2, 10, 0, 0), (ADD, 2, 0, 0, -40), (STORE, 2, 1, -8, 0)], 48),
        ([(MOV, 2, 1, 0, 0), (ADD, 2, 0, 0, -400)], 0),  # of another pointer
        ([(MOV, 2, 10, 0, 0), (CALL, 0, 0, 0, 1), (ADD, 2, 0, 0, -400)], 0),  # a call takes r1 to r5 away
        ([(MOV, 6, 10, 0, 0), (CALL, 0, 0, 0, 1), (ADD, 6, 0, 0, -400)], 400),
        ([(MOV, 6, 1, 0, 0), (JEQ, 1, 0, 1, 0), (MOV, 6, 10, 0, 0), (ADD, 6, 0, 0, -400)], 0),  # from two places
        ([(MOV, 2, 10, 0, 0), (LOAD, 2, 1, 0, 0), (ADD, 2, 0, 0, -400)], 0),  # overwritten
    ],
)
def test_the_stack_is_what_is_reached_below_the_frame_pointer(
    code: list[tuple[int, int, int, int, int]], depth: int
) -> None:
    """Directly, or by what is computed from it."""
    assert stack_depth(b"".join(instruction(*one) for one in code)) == depth


# -- what is written about them ---------------------------------------------------------------------------------------

README = (source_directory() / "README.md").read_text()


def test_the_readme_names_every_program_map_and_file() -> None:
    """Each program and each map begins a row of its table, and each file is in the list of files."""
    heads = [line.split("|")[1] for line in README.splitlines() if line.startswith("| ")]
    named = [name for head in heads for name in re.findall(r"`([^`]+)`", head)]
    for name in (*(program.function for program in Program), *MAPS, *ORDER, "budget.csv"):
        assert named.count(name) == 1, name


def test_the_readme_gives_the_sizes_of_the_maps() -> None:
    """As ``maps.h`` has them."""
    source = (source_directory() / "maps.h").read_text()
    sizes = {name: int(size) for name, size in re.findall(r"^#define (MAX_\w+) (\d+)$", source, re.MULTILINE)}
    declared = re.findall(r'BPF_F?_?TABLE\("(\w+)", [^;]*?, (\w+), (MAX_\w+|1)[,)]', source)
    assert len(declared) == len(MAPS) - 1  # the ring is declared otherwise
    for kind, name, size in declared:
        words = kind.replace("percpu", "per-CPU").replace("lru_per-CPU", "per-CPU LRU").replace("lru", "LRU")
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.split("|")[2].strip() == f"{words.replace('_', ' ')}, {sizes.get(size, size)}", row
