"""``dpctl agent``: the resident engine, in the foreground, by hand or as systemd starts it."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from control.agent.history import Kind
from control.cli.log import Level, Log
from control.cli.output import json_option
from control.protocol.client import SOCKET_PATH
from dataplane.crashpoints import Point, reached
from dataplane.errors import DataplaneError

if TYPE_CHECKING:
    from control.agent.agent import Agent
    from control.agent.history import Record
    from control.agent.metrics import Metrics
    from control.agent.notify import Supervisor
    from control.engine import Engine
    from dataplane.doors import Kernel

_SWITCH_EVERY = 0.0005
"""Seconds after which a thread that computes lets another go on that has something to do (the interpreter's 5 ms are
waited for at each system call of a call that is served during a look at everything)."""
_LEVELS = {
    Kind.REPAIRED: Level.WARNING,
    Kind.PROBLEM: Level.WARNING,
    Kind.LOST: Level.WARNING,
    Kind.FIGHT: Level.WARNING,
    Kind.FAILED: Level.ERROR,
}


@click.command()
@json_option
def agent(as_json: bool) -> None:
    """Run the agent in the foreground.

    It keeps the engine loaded, so that plugins answer sooner, and puts back what others break: see dpctl events.
    Stopping it (SIGTERM, SIGINT) leaves ports, policies and programs in place.
    """
    from control.agent.activation import take_listener  # noqa: PLC0415 - dpctl --help stays quick
    from control.agent.agent import Agent, load_frontend  # noqa: PLC0415
    from control.agent.exposition import SOCKET_NAME, Exposition, listen  # noqa: PLC0415
    from control.agent.history import History  # noqa: PLC0415
    from control.agent.metrics import Metrics  # noqa: PLC0415
    from control.agent.notify import Supervisor  # noqa: PLC0415
    from control.engine import RUN_DIRECTORY, open_engine, running_kernel  # noqa: PLC0415
    from control.errors import EngineError  # noqa: PLC0415
    from control.settings import Settings, SettingsError, read_settings  # noqa: PLC0415
    from dataplane.errors import NftError  # noqa: PLC0415
    from dataplane.memory import share_one_arena  # noqa: PLC0415
    from dataplane.nft.anchor import anchored  # noqa: PLC0415

    share_one_arena()
    sys.setswitchinterval(_SWITCH_EVERY)
    log, metrics, supervisor = Log.of_environment(as_json=as_json), Metrics(), Supervisor.of_environment()
    history = History(lambda record: _log(record, log))
    listener = take_listener(Path(SOCKET_PATH))
    try:
        settings = read_settings()
    except SettingsError:
        settings = Settings()
    with open_engine() as engine:
        try:
            engine.require_kernel()
        except EngineError as error:
            # It serves what it can, a DEL above all: where systemd holds the socket, an agent that does not come keeps
            # every caller waiting. Programs are tried again as any repair that fails; settings are read once.
            history.tell(Kind.PROBLEM, f"{error}; what needs it fails, and other settings need another start")
        if settings.owned and (why := _unowned(engine)):
            history.tell(Kind.PROBLEM, why)
        beat = _Heartbeat(supervisor)
        running = Agent(
            engine,
            Path(SOCKET_PATH),
            load_frontend(),
            history,
            metrics,
            listener=listener,
            collect_after=float(settings.collect_after),
            every_turn=lambda: beat.turn(settled=running.settled),
        )
        shown = listen(settings.metrics, RUN_DIRECTORY / SOCKET_NAME)
        sampled = running_kernel()  # a door is one thread's
        exposition = shown and Exposition(shown, lambda: _metrics(sampled, running, metrics))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: running.stop())
        history.tell(Kind.STARTED, f"listening on {SOCKET_PATH}", details={"pid": os.getpid(), "socket": SOCKET_PATH})
        with ExitStack() as held:
            try:
                held.enter_context(anchored())
            except NftError as error:
                history.tell(Kind.PROBLEM, f"a flush of the ruleset will cut established connections: {error}")
            running.serve()
        supervisor.stopping()
        if exposition:
            exposition.close()
    history.tell(Kind.STOPPING, "stopped; the dataplane stays in place", details={"pid": os.getpid()})
    log.close()


def _unowned(engine: Engine) -> str:
    """Why the kernel lets others change our table; nothing where it does not."""
    try:
        if engine.own_table():
            return ""
    except DataplaneError as error:
        return f"{error}; it is tried again"
    return "ownership is on in the settings, and needs Linux 6.9 and libnftables 1.1: the table has no owner"


class _Heartbeat:
    """What the supervisor hears: ready once everything was looked at, and from then on that the loop turns."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor, self._ready, self._next = supervisor, False, 0.0

    def turn(self, *, settled: bool) -> float:
        """Called in each turn of the loop; seconds until it should be called again."""
        if settled and not self._ready:
            self._ready = True
            self._supervisor.ready(f"listening on {SOCKET_PATH}")
            reached(Point.AGENT_READY)
        interval, now = self._supervisor.watchdog_interval, time.monotonic()
        if interval is None:
            return float("inf")
        if now >= self._next:
            self._next = now + interval
            self._supervisor.watchdog()
        return self._next - now


def _log(record: Record, log: Log) -> None:
    by = f" by {', '.join(record.by)}" if record.by else ""
    took = f" ms={record.milliseconds:.1f}" if record.milliseconds is not None else ""
    failed = record.kind is Kind.SERVED and record.details.get("exit_code")
    level = Level.WARNING if failed else _LEVELS.get(record.kind, Level.INFO)
    fields = {name: value for name, value in record.fields().items() if name != "details"}
    log(level, record.kind, f"{record.text}{by}{took}", **{**fields, **record.details})


def _metrics(kernel: Kernel, agent: Agent, metrics: Metrics) -> str:
    from control.agent import metrics as families  # noqa: PLC0415 - dpctl --help stays quick
    from control.agent.samples import sample  # noqa: PLC0415
    from dataplane import __version__  # noqa: PLC0415

    networks, sizes = agent.networks
    samples, remarks = sample(kernel, networks, sizes, queued=agent.queued)
    build = families.Sample(families.BUILD_INFO, (__version__,), 1)
    return metrics.text((build, *samples), remarks)
