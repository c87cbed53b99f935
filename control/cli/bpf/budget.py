"""``dpctl bpf budget``: what each program costs the verifier, held against ``bpf/budget.csv``."""

from __future__ import annotations

from pathlib import Path

import click

from control.cli.bpf.group import bpf
from control.cli.output import EXIT_PROBLEM, json_option, print_json, print_table
from dataplane.programs import budget as budgets
from dataplane.programs.cost import Cost, measured

_FIELDS = ("emitted", "verified", "xlated", "stack", "load")


@bpf.command("budget")
@click.option("--write", is_flag=True, help="Write what was measured into the budget: it is the budget from now on.")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="Another file than bpf/budget.csv.")
@json_option
def budget(write: bool, file: Path | None, as_json: bool) -> int:
    """Compile and load every program, and hold what that costs against the budget. Nothing stays loaded.

    Exit status 3: a program costs more than the budget allows, or has none.

    emitted: instructions that the compiler made; verified: those that the verifier walked through; xlated: those that
    it left; stack in bytes, of 512; load: time by that of a reference program.
    """
    chosen, where = file or budgets.path(), budgets.here()
    costs = measured()
    rows = () if write and not chosen.exists() else budgets.read_budget(chosen)
    if write:
        rows = budgets.rewritten(rows, costs, where)
        chosen.write_text(budgets.text_of(rows), encoding="utf-8")
    excesses = budgets.excesses(costs, rows, where)
    if as_json:
        print_json(
            {
                "compiler": where.compiler,
                "kernel": where.kernel,
                "file": str(chosen),
                "written": write,
                "programs": [cost.fields() for cost in costs],
                "excesses": excesses,
            }
        )
    else:
        click.echo(f"bcc {where.compiler}, Linux {where.kernel}\n")
        print_table(
            ("PROGRAM", *(name.upper() for name in _FIELDS)),
            [(cost.program, *(_shown(cost, rows, where, name) for name in _FIELDS)) for cost in costs],
        )
        click.echo(f"\nwritten to {chosen}" if write else "\nbehind a slash: the budget, where it is another number")
        for sentence in excesses:
            click.echo(f"PROBLEM      {sentence}")
    return EXIT_PROBLEM if excesses else 0


def _shown(cost: Cost, rows: tuple[budgets.Row, ...], where: budgets.Where, name: str) -> str:
    row = budgets.row_for(cost.program, rows, where)
    found = getattr(cost, name)
    allowed = getattr(row.cost, name) if row else None
    return str(found) if found == allowed else f"{found} / {'-' if allowed is None else allowed}"
