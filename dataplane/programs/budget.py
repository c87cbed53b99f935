"""The budget of the programs, ``bpf/budget.csv``: what each may cost, and whether it has grown. Pure but for the file.

    excesses(measured(), read_budget(), here())      -> a sentence for all that is above its budget

What is compared with what:

    emitted, stack        depend on the compiler      by the same compiler + 10 %, by another twice as much
    verified, xlated      and on the kernel           by both the same + 10 %, else twice as much
    load                  and on the machine          by both the same twice as much, else four times

So a program that grows fails where the budget was written, and one that explodes fails everywhere.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from dataplane.errors import DataplaneError
from dataplane.programs.cost import Cost
from dataplane.programs.loading import compiler
from dataplane.programs.source import source_directory
from dataplane.types import Program

FILE = "budget.csv"
WRITE = "dpctl bpf budget --write"
"""The command that makes the file anew."""

_GROWTH = 1.1
_ELSEWHERE = 2.0
_LOAD, _LOAD_ELSEWHERE = 2.0, 4.0
_NOTHING = 0.25
"""Load times are not told apart below this part of the reference's."""


class BudgetError(DataplaneError):
    """The file is not there, or is not a budget."""


@dataclass(frozen=True, slots=True)
class Where:
    """What costs depend on."""

    compiler: str
    """Version of bcc, which brings the compiler."""
    kernel: str
    """Major and minor version."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the file."""

    where: Where
    cost: Cost


_COLUMNS = ("program", "compiler", "kernel", "emitted", "verified", "xlated", "stack", "load")


def here() -> Where:
    """This machine."""
    version = re.search(r"[0-9][0-9.]*", compiler())
    return Where(version[0] if version else "unknown", ".".join(os.uname().release.split(".")[:2]))


def path() -> Path:
    """Where the file is. Raises ``MissingDependencyError``."""
    return source_directory() / FILE


def read_budget(file: Path | None = None) -> tuple[Row, ...]:
    """The rows of the file. Raises ``BudgetError``."""
    chosen = file or path()
    try:
        lines = csv.DictReader(io.StringIO(chosen.read_text(encoding="utf-8")))
        return tuple(_row(line) for line in lines)
    except OSError as error:
        raise BudgetError(f"could not read the budget {chosen}: {error.strerror}; {WRITE}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise BudgetError(f"could not read the budget {chosen}: {error}; {WRITE}") from error


def _row(line: dict[str, str]) -> Row:
    numbers = {name: int(line[name]) for name in ("emitted", "verified", "xlated", "stack")}
    return Row(
        Where(line["compiler"], line["kernel"]),
        Cost(program=line["program"], load=float(line["load"]), **numbers),
    )


def text_of(rows: Iterable[Row]) -> str:
    """The file that holds these rows."""
    printed = io.StringIO()
    writer = csv.writer(printed, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        cost = row.cost
        counts = (cost.emitted, cost.verified, cost.xlated, cost.stack, f"{cost.load:.3f}")
        writer.writerow((cost.program, row.where.compiler, row.where.kernel, *counts))
    return printed.getvalue()


def rewritten(budget: Iterable[Row], costs: Iterable[Cost], where: Where) -> tuple[Row, ...]:
    """The budget with what was measured here in place of what it held for here; rows of programs that there are no
    more go."""
    known = {program.value for program in Program}
    kept = [row for row in budget if row.where != where and row.cost.program in known]
    order = {program.value: place for place, program in enumerate(Program)}
    rows = [*kept, *(Row(where, cost) for cost in costs)]
    return tuple(sorted(rows, key=lambda row: (row.where.compiler, row.where.kernel, order[row.cost.program])))


def quickest(costs: Sequence[Cost], again: Sequence[Cost]) -> list[Cost]:
    """Of two measurements, each program with the shorter of its load times."""
    loads = {cost.program: cost.load for cost in again}
    return [replace(cost, load=min(cost.load, loads[cost.program])) for cost in costs]


def excesses(costs: Sequence[Cost], budget: Sequence[Row], where: Where) -> list[str]:
    """A sentence for each number that is above its budget, and for each program that has none."""
    return [sentence for cost in costs for sentence in _excesses(cost, budget, where)]


def _excesses(cost: Cost, budget: Sequence[Row], where: Where) -> Iterator[str]:
    row = row_for(cost.program, budget, where)
    if row is None:
        yield f"{cost.program} has no budget; {WRITE}"
        return
    same_compiler = row.where.compiler == where.compiler
    same_place = row.where == where
    for field in fields(Cost):
        if field.name == "program":
            continue
        found, allowed = getattr(cost, field.name), getattr(row.cost, field.name)
        if field.name == "load":
            limit = allowed * (_LOAD if same_place else _LOAD_ELSEWHERE) + _NOTHING
        elif field.name in {"emitted", "stack"}:
            limit = allowed * (_GROWTH if same_compiler else _ELSEWHERE)
        else:
            limit = allowed * (_GROWTH if same_place else _ELSEWHERE)
        if found > limit:
            of = "" if same_place else f", written by bcc {row.where.compiler} on Linux {row.where.kernel}"
            yield f"{cost.program}: {field.name} is {found}, the budget {allowed} (at most {limit:.5g}{of})"


def row_for(program: str, budget: Iterable[Row], where: Where) -> Row | None:
    """The row that a program is held against: of this compiler and kernel, else of this compiler, else any."""
    rows = [row for row in budget if row.cost.program == program]
    rows.sort(key=lambda row: (row.where != where, row.where.compiler != where.compiler))
    return rows[0] if rows else None
