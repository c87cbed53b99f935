"""``dpctl agent``: the resident engine, in the foreground."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from control.cli.output import json_option, print_json
from control.client import SOCKET_PATH

if TYPE_CHECKING:
    from control.agent import Served


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
        engine.require_kernel()
        running = Agent(engine, Path(SOCKET_PATH), load_frontend(), lambda served: _log(served, as_json=as_json))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: running.stop())
        _say(as_json, "listening", f"listening on {SOCKET_PATH}")
        running.serve()
    _say(as_json, "stopped", "stopped; the dataplane stays in place")


def _log(served: Served, *, as_json: bool) -> None:
    if as_json:
        print_json({"event": "served", **asdict(served)}, line=True)
        return
    trace = f" trace={served.trace}" if served.trace else ""
    error = f" error={served.error!r}" if served.error else ""
    click.echo(
        f"dataplane agent: {served.plugin!r} {served.verb!r} container={served.container!r} ifname={served.ifname!r} "
        f"ms={served.milliseconds:.1f} status={served.exit_code}{trace}{error}",
        err=True,
    )


def _say(as_json: bool, event: str, text: str) -> None:
    if as_json:
        print_json({"event": event, "pid": os.getpid(), "socket": SOCKET_PATH}, line=True)
    else:
        click.echo(f"dataplane agent: {text}", err=True)
