"""``dpctl events``: what happened, by whom, and what was done about it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime

import click

from control.cli.output import json_option, print_json
from control.protocol.client import AgentClient, AgentUnreachableError


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option("-n", "--last", type=click.IntRange(min=0), default=20, show_default=True, help="How many of the former.")
@click.option("--kind", "kinds", multiple=True, help="Only these kinds (repaired, served, dropped ...).")
@json_option
def events(follow: bool, last: int, kinds: tuple[str, ...], as_json: bool) -> None:
    """What the agent noticed and did: repairs, calls, drops, wrong checksums.

    Each line says who did it, where the kernel tells, and how long the repair took. The agent keeps the last thousand.
    Following ends with status 4 where the agent does, and where too many follow already.
    """
    client = AgentClient()
    former = list(client.events())
    shown = [record for record in former if _is_wanted(record, kinds)]
    for record in shown[len(shown) - min(last, len(shown)) :]:
        _show(record, as_json=as_json)
    if not follow:
        return
    newest = former[-1]["number"] if former else 0
    for record in client.events(newest if isinstance(newest, int) else 0, follow=True):
        if _is_wanted(record, kinds):
            _show(record, as_json=as_json)
    raise AgentUnreachableError("could not follow the events: the agent ended, or too many follow already")


def _is_wanted(record: Mapping[str, object], kinds: tuple[str, ...]) -> bool:
    return not kinds or record.get("kind") in kinds


def _show(record: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(record, line=True)
    else:
        click.echo(_line(record))
    sys.stdout.flush()


def _line(record: Mapping[str, object]) -> str:
    when, took, by = record.get("time"), record.get("milliseconds"), record.get("by")
    clock = datetime.fromtimestamp(when).astimezone().strftime("%H:%M:%S.%f")[:-3] if isinstance(when, float) else "?"
    parts = [f"{clock}  {record.get('kind')!s:9} {record.get('text')}"]
    if isinstance(by, list | tuple) and by:
        parts.append(f"by {', '.join(map(str, by))}")
    if isinstance(took, float):
        parts.append(f"{took:.1f} ms")
    return "  |  ".join(parts)
