"""``dpctl gc``: remove what runtimes left behind."""

from __future__ import annotations

import click

from control.cli.output import json_option, print_json
from control.engine import open_engine


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def gc(dry_run: bool, as_json: bool) -> None:
    """Remove attachments whose network namespace or device is gone.

    They are what a crash or a reboot of the runtime leaves when no DEL was sent. Attachments of running containers are
    never touched.
    """
    with open_engine() as engine:
        found = engine.stale() if dry_run else engine.collect_stale()
    if as_json:
        print_json({"removed": [str(one.key) for one in found], "dry_run": dry_run})
        return
    for one in found:
        click.echo(f"{'would remove' if dry_run else 'removed'} {one.key}")
    if not found:
        click.echo("nothing to remove")
