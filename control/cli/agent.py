"""``dpctl agent``: the resident engine, in the foreground."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click


@click.command()
def agent() -> None:
    """Run the agent in the foreground.

    It keeps the engine loaded, so that plugins answer sooner; without it they do the same work in their own process.
    Stopping it (SIGTERM, SIGINT) leaves ports, policies and programs in place.
    """
    from control.agent import Agent, load_frontend  # noqa: PLC0415 - dpctl --help stays quick
    from control.client import SOCKET_PATH  # noqa: PLC0415
    from control.engine import open_engine  # noqa: PLC0415

    with open_engine() as engine:
        engine.status()
        running = Agent(engine, Path(SOCKET_PATH), load_frontend())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: running.stop())
        print(f"dataplane agent: listening on {SOCKET_PATH}", file=sys.stderr, flush=True)
        running.serve()
    print("dataplane agent: stopped; the dataplane stays in place", file=sys.stderr)
