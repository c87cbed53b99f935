"""What does the agent cost while nothing happens, and how long is it away when it starts?

On a host with 100 containers and 1,000 ports: from exec to the first answer on its socket, with the programs pinned;
then memory and processor time while nobody calls and nothing changes.

Peers      ``dpctl --version`` (interpreter and command line alone) as the floor of a start
Unit       seconds; MiB of resident memory (RSS), and of it what is not shared with others (PSS counts shared pages in
           proportion); milliseconds of processor time a second; wakes a second (voluntary context switches)
Fair       a start is over when a call is answered, not when the process says so
Falsified  by more than 0.5 s, by more than 40 MiB, or by more than 1 ms of processor time a second when idle
"""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from pathlib import Path

from bench.figures import Figure, Results, control_figure, median_figure
from bench.hosts.ours import DPCTL, Agent, Ours
from bench.instruments.starter import Starter
from bench.place import end
from bench.stage import Stage, containers

START, AGAIN, FIRST, FLOOR, IDLE = "start", "start again", "first start", "dpctl --version", "idle"
MOST_SECONDS, MOST_MEMORY, MOST_CPU = 0.5, 40.0, 1.0

SECONDS = (75, 55)

_SETTLE = 3.0  # seconds: what a start leaves to be done is no idling
_MIB = 1024.0


def run(stage: Stage) -> None:
    """Measure."""
    with ExitStack() as stack:
        host = stack.enter_context(stage.host("ours"))
        ours = Ours(host, on_root=True)
        starter = stack.enter_context(Starter(host, stage.native))
        fleet = containers(host, stage.amount(100, 100, 3), 10)
        agent = ours.start()
        stage.log.sample("seconds", FIRST, agent.seconds)
        for container in fleet:
            ours.call(starter, "ADD", container)
        for turn in stage.turns((START, AGAIN, FLOOR), stage.amount(30, 15, 1)):
            if turn.variant == FLOOR:
                spent = starter.run(Path(DPCTL[0]), ours.settings, words=(*DPCTL[1:], "--version")).milliseconds / 1000
            else:
                end(agent.process, signal.SIGTERM)
                agent = ours.start()
                spent = agent.seconds
            stage.log.sample("seconds", turn.variant, spent, block=turn.block)
        _idle(stage, agent)
        end(agent.process)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    start = results.of("seconds", START)
    return [
        median_figure("start to first answer, programs pinned", start, "s", MOST_SECONDS),
        median_figure("start to first answer, nothing pinned (compiles)", results.of("seconds", FIRST), "s"),
        median_figure("floor: dpctl --version", results.of("seconds", FLOOR), "s"),
        control_figure(results.of("seconds", AGAIN), start),
        median_figure("idle: resident memory (RSS)", results.of("rss", IDLE), "MiB", MOST_MEMORY),
        median_figure("idle: proportional share (PSS)", results.of("pss", IDLE), "MiB"),
        median_figure("idle: processor time a second", results.of("cpu", IDLE), "ms", MOST_CPU),
        median_figure("idle: wakes a second", results.of("wakes", IDLE), "1/s"),
        median_figure("idle: threads", results.of("threads", IDLE), ""),
    ]


def _idle(stage: Stage, agent: Agent) -> None:
    time.sleep(_SETTLE)
    tasks = Path(f"/proc/{agent.pid}/task")
    began, before = time.monotonic(), _spent(tasks)
    time.sleep(stage.amount(30, 30, 1))
    after, seconds = _spent(tasks), time.monotonic() - began
    memory = _fields(Path(f"/proc/{agent.pid}/smaps_rollup"))
    stage.log.sample("rss", IDLE, memory["Rss"] / _MIB)
    stage.log.sample("pss", IDLE, memory["Pss"] / _MIB)
    stage.log.sample("cpu", IDLE, (after[0] - before[0]) / 1e6 / seconds)
    stage.log.sample("wakes", IDLE, (after[1] - before[1]) / seconds)
    stage.log.sample("threads", IDLE, len(list(tasks.iterdir())))


def _spent(tasks: Path) -> tuple[int, int]:
    """Nanoseconds on a processor, and voluntary context switches, of all threads."""
    threads = list(tasks.iterdir())
    nanoseconds = sum(int((one / "schedstat").read_text(encoding="ascii").split()[0]) for one in threads)
    return nanoseconds, sum(_fields(one / "status")["voluntary_ctxt_switches"] for one in threads)


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of /proc, by name; sizes are in KiB there."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            found[name] = int(words[0])
    return found
