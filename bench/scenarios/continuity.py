"""Does traffic through a published port notice that the agent is restarted, killed or upgraded?

100,000 numbered UDP packets at 20,000 a second go through a published port, and a new TCP connection is made every five
milliseconds, while a second in the agent is stopped and started (``restart``), killed with SIGKILL and started
(``kill``), or replaced by one with other BPF programs (``upgrade``: the installed package, copied, a comment in
``bpf/isolation.c`` changed). ``nothing`` is the baseline: what this machine loses by itself.

Peers      the baseline
Unit       packets that were sent and did not arrive; connections that were not made (refused, or not within a second)
Fair       a round counts only where the event was over before the last packet was sent; the sender's own refusals are
           not losses; upgrades are looked for in the kernel: other program IDs at the hooks
Falsified  by one lost packet or one refused connection, beyond what the baseline loses
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import dataplane
from bench.figures import Figure, Results, count_figure, median_figure
from bench.hosts.ours import DPCTL, Agent
from bench.hosts.traffic import World
from bench.place import end, wait_for
from bench.stage import Stage

EVENTS = ("nothing", "restart", "kill", "upgrade")
RATE = 20_000

SECONDS = (260, 105)

_PRESENT = 100  # ports
_PACE = 5000  # microseconds between two attempts to connect
_BEFORE = 1.0  # seconds of traffic before the event
_PARTS = ("dataplane", "control", "plugin", "bpf")
_REPLACED = 10.0
"""Seconds after its first answer in which an upgraded agent may have replaced the programs."""


class _Scene:
    """The host, and whoever is its agent now."""

    def __init__(self, stage: Stage, world: World) -> None:
        self._stage, self._world = stage, world
        self._command = DPCTL
        self._copies = 0
        self.agent: Agent = world.ours.start()

    def nothing(self) -> None:
        """No event."""

    def restart(self) -> None:
        """Stop it as an init does, start it."""
        self._again(signal.SIGTERM, self._command)

    def kill(self) -> None:
        """Kill it, start it."""
        self._again(signal.SIGKILL, self._command)

    def upgrade(self) -> None:
        """Stop it, start one whose BPF source is another."""
        former = self._programs()
        self._copies += 1
        root = _changed_copy(self._world.host.directory / f"copy-{self._copies}", self._copies)
        start = f"import sys; sys.path.insert(0, {str(root)!r}); from control.cli.root import main; main()"
        self._command = (sys.executable, "-I", "-c", start)
        self._again(signal.SIGTERM, self._command)
        if not wait_for(lambda: self._replaced(former), _REPLACED, 0.1):
            self._stage.log.note("upgrade: the new agent did not replace the programs; its dpctl reconcile was run")
            self._world.host.run(*self._command, "reconcile", env=self._world.ours.settings, check=False)
        self._stage.log.sample("replaced", "upgrade", float(self._replaced(former)))

    def end(self) -> None:
        """End the agent."""
        end(self.agent.process)

    def _again(self, number: signal.Signals, command: tuple[str, ...]) -> None:
        end(self.agent.process, number)
        self.agent = self._world.ours.start(command)

    def _replaced(self, former: set[int]) -> bool:
        programs = self._programs()
        return bool(programs) and not programs & former

    def _programs(self) -> set[int]:
        """The IDs of the programs that are attached."""
        listed = json.loads(self._world.host.run(*self._command, "bpf", "ls", "--json", env=self._world.ours.settings))
        return {int(one["program_id"]) for one in listed["attached"]}


def run(stage: Stage) -> None:
    """Measure."""
    with ExitStack() as stack:
        world = World(stack.enter_context(stage.host("ours")), stage.native, _PRESENT, on_root=True)
        scene = _Scene(stage, world)
        stack.callback(scene.end)
        stack.enter_context(world.server())
        world.publish()
        events: dict[str, Callable[[], None]] = {
            "nothing": scene.nothing, "restart": scene.restart, "kill": scene.kill, "upgrade": scene.upgrade,
        }  # fmt: skip
        for turn in stage.turns(EVENTS, stage.amount(10, 4, 1)):
            stage.log.progress(f"{turn.variant}, round {turn.block + 1}")
            _round(stage, world, turn.variant, events[turn.variant], turn.block)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = []
    for event in EVENTS:
        for measure, what in (("lost", "packets lost"), ("refused", "connections not made")):
            found = results.every(measure, event)
            value = sum(one.value for one in found) if found else None
            sent = sum(one.value for one in results.every("sent" if measure == "lost" else "tries", event))
            rows.append(count_figure(f"{event}: {what}, of {sent:,.0f}", value, at_most=0))
        rows.append(median_figure(f"{event}: longest time without a packet", results.of("silence", event), "ms"))
        if event != "nothing":
            rows.append(median_figure(f"{event}: until it was over", results.of("away", event), "s"))
    replaced = results.every("replaced", "upgrade")
    missed = len(replaced) - sum(one.value for one in replaced) if replaced else None
    rows.append(count_figure("upgrades that left the former programs attached", missed, at_most=0))
    return rows


def _round(stage: Stage, world: World, name: str, event: Callable[[], None], block: int) -> None:
    count = stage.amount(100_000, 100_000, 20_000)
    seconds = count // RATE
    knocks = world.knock(_PACE, seconds)
    packets = world.flow(count, RATE)
    time.sleep(min(_BEFORE, seconds / 4))
    began = time.monotonic()
    event()
    away = time.monotonic() - began
    if not packets.sending:
        stage.log.note(f"{name}: it took {away:.1f} s, longer than packets were sent: this round says too little")
    arrived, tries = packets.result(), knocks.result()
    measured = {
        "sent": arrived.sent,
        "lost": arrived.lost,
        "twice": arrived.twice,
        "late": arrived.late,
        "gap": arrived.gap,
        "silence": arrived.silence / 1e6,
        "tries": len(tries),
        "refused": sum(bool(one.errno) for one in tries),
        "away": away,
    }
    for measure, value in measured.items():
        stage.log.sample(measure, name, value, block=block)


def _changed_copy(directory: Path, number: int) -> Path:
    """The installed package with other BPF sources, in a directory of its own."""
    root = Path(dataplane.__file__).resolve().parent.parent
    for part in _PARTS:
        shutil.copytree(root / part, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
    with (directory / "bpf" / "isolation.c").open("a", encoding="utf-8") as source:
        source.write(f"\n/* Upgrade {number}: another source, and so another digest. */\n")
    return directory
