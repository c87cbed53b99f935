"""``dpctl checksum watch``: what the checksum program finds, as it finds it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import islice

import click

from control.agent import sightings
from control.agent.history import Kind
from control.checksums import sighted
from control.checksums.rewrites import Knowledge
from control.cli.output import json_option, print_json
from control.errors import EngineError
from control.protocol.client import AgentClient, AgentUnreachableError

_POLL = 0.2  # seconds
_FRESH = 1.0  # seconds that what is known of the containers is believed

_Seen = tuple[dict[str, object], float]
"""A sighting's JSON fields, and when it was, in seconds since 1970."""


@click.command()
@click.option("--count", type=click.IntRange(min=1), help="End after so many findings.")
@click.option("--for", "seconds", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds.")
@json_option
def watch(count: int | None, seconds: float | None, as_json: bool) -> None:
    """Print wrong checksums as programs find them.

    Until interrupted, a line each: the flow, the sum it carries and the right one, what the sum lacks, which of our
    translations left it so (published: the way to a published port; reply: its way back; masquerade and unmasquerade;
    both: hairpin and localhost), whose it is, and what was done. A flow that is known to be stale is not told of again.

    An agent that runs reads the findings already: they come from it then, several at a time.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    names = _Names()
    begun = False
    for fields, when in islice(_sightings(deadline, names), count):
        whose = sighted.whose(fields, names.knowledge)
        if as_json:
            print_json({**fields, **sighted.fields(whose), "time": when}, line=True)
        else:
            if not begun:
                click.echo(sighted.heading())
            click.echo(sighted.line(fields, whose, when))
        begun = True
        sys.stdout.flush()


class _Names:
    """Who is attached, read again where it may have changed."""

    def __init__(self) -> None:
        self._read_at = 0.0
        self._knowledge, self._networks = Knowledge(), dict[int, str]()

    @property
    def knowledge(self) -> Knowledge:
        self._follow()
        return self._knowledge

    @property
    def networks(self) -> dict[int, str]:
        self._follow()
        return self._networks

    def _follow(self) -> None:
        from control.cli import state  # noqa: PLC0415 - "--help" needs none of it

        now = time.monotonic()
        if not self._read_at or now > self._read_at + _FRESH:
            known = state.attached()
            self._knowledge, self._read_at = state.knowledge(known), now
            self._networks = {facts.id: name for name, facts in known.networks.items()}


def _sightings(deadline: float | None, names: _Names) -> Iterator[_Seen]:
    client = AgentClient()
    try:
        newest = max((number for record in client.events() if isinstance(number := record["number"], int)), default=0)
    except AgentUnreachableError:
        yield from _own_sightings(deadline, names)
        return
    for record in client.events(newest, follow=True, deadline=deadline):
        details, when = record.get("details"), record.get("time")
        if record.get("kind") == Kind.CHECKSUM and isinstance(details, dict):
            yield details, when if isinstance(when, float) else time.time()
    if deadline is None or time.monotonic() < deadline:
        raise AgentUnreachableError("could not follow the findings: the agent ended, or too many follow already")


def _own_sightings(deadline: float | None, names: _Names) -> Iterator[_Seen]:
    from dataplane.programs.door import KernelPrograms  # noqa: PLC0415 - explain works without BPF

    programs = KernelPrograms()
    if not programs.loaded():
        raise EngineError("could not watch checksums: no programs are loaded; the first container's ADD does that")
    with programs.events() as events:
        while deadline is None or time.monotonic() < deadline:
            for event in events.poll(_POLL):
                if sightings.of_checksum(event):
                    yield sightings.fields(event, names.networks), time.time()
