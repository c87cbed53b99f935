"""``dpctl reconcile``: put back what others took away."""

from __future__ import annotations

import click

from control.cli.output import EXIT_PROBLEM, json_option, print_json
from control.engine import open_engine
from control.errors import EngineError
from control.protocol.client import AgentClient, AgentUnreachableError
from control.protocol.wire import WireError


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what is wrong.")
@json_option
def reconcile(dry_run: bool, as_json: bool) -> int:
    """Make the kernel what the attachments ask for, and say what was wrong.

    Table, programs, sysctls and bridge port flags are written anew, from the state; connections go on. Exit status 3
    when something is wrong still: an attachment whose device is gone (dpctl gc removes it), a foreign chain that is
    not there.
    """
    found, left = _problems() if dry_run else _reconciled()
    if as_json:
        print_json({"found": found, "left": left, "dry_run": dry_run})
        return EXIT_PROBLEM if left else 0
    for problem in found:
        click.echo(f"{'PROBLEM ' if problem in left else 'repaired'}  {problem}")
    for problem in left:
        if problem not in found:
            click.echo(f"PROBLEM   {problem}")
    if not found and not left:
        click.echo("the kernel is what the attachments ask for")
    return EXIT_PROBLEM if left else 0


def _problems() -> tuple[list[str], list[str]]:
    with open_engine() as engine:
        problems = engine.problems()
    return problems, problems


def _reconciled() -> tuple[list[str], list[str]]:
    """By the agent, where one runs: it knows then that this was no stranger's work."""
    try:
        done = AgentClient().reconcile()
    except (AgentUnreachableError, WireError):
        with open_engine() as engine:
            return engine.reconcile()
    if done.error:
        raise EngineError(done.error)
    return list(done.found), list(done.left)
