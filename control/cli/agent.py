"""``dpctl agent``: the resident engine, in the foreground."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from control.cli.output import json_option, print_json
from control.client import SOCKET_PATH


@click.command()
@json_option
def agent(as_json: bool) -> None:
    """Run the agent in the foreground.

    It keeps the engine loaded, so that plugins answer sooner; without it they do the same work in their own process.
    Stopping it (SIGTERM, SIGINT) leaves ports, policies and programs in place.
    """
    from control.agent import Agent, load_frontend  # noqa: PLC0415 - dpctl --help stays quick
    from control.engine import open_engine  # noqa: PLC0415

    with open_engine() as engine:
        engine.status()
        running = Agent(engine, Path(SOCKET_PATH), load_frontend())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: running.stop())
        _say(as_json, "listening", f"listening on {SOCKET_PATH}")
        running.serve()
    _say(as_json, "stopped", "stopped; the dataplane stays in place")


def _say(as_json: bool, event: str, text: str) -> None:
    if as_json:
        print_json({"event": event, "pid": os.getpid(), "socket": SOCKET_PATH}, line=True)
    else:
        click.echo(f"dataplane agent: {text}", err=True)
