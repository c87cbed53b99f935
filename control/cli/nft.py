"""``dpctl nft``: the ruleset, as the kernel holds it."""

from __future__ import annotations

import click

from control.cli.output import json_option, print_json
from control.engine import open_engine


@click.group()
def nft() -> None:
    """Look at our nftables table."""


@nft.command()
@json_option
def show(as_json: bool) -> None:
    """Print table inet dataplane as nft lists it."""
    with open_engine() as engine:
        text = engine.kernel.nft.table_text()
    if as_json:
        print_json({"table": "inet dataplane", "exists": bool(text), "text": text})
    else:
        click.echo(text or "There is no table inet dataplane: it comes with the first attachment.", nl=not text)
