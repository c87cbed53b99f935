"""Runs scenarios one after the other, each into a file of its own: what was measured stays, however a run ends.

with stoppable(progress.tell):
    done = run_all(find_all(["packet"]), out, options, progress)
done.ended      those that wrote results, whole or in part
done.failed     {"cni_latency": "could not find portmap in ..."}
done.stopped    whether somebody stopped it (Ctrl-C, SIGTERM)
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from bench.figures import Log
from bench.machine import describe, steal_of
from bench.native import build
from bench.progress import Progress
from bench.scenarios import Scenario
from bench.stage import PEERS, Extent, Stage
from dataplane.errors import DataplaneError

STOPPED = "stopped before its end: what was measured until then counts"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is asked for, besides which scenarios."""

    extent: Extent = Extent.FULL
    seed: int = 1
    cpu: int | None = None
    many: bool = False
    peers: tuple[Path, ...] = PEERS


@dataclass(slots=True)
class Done:
    """How a run ended."""

    ended: list[Scenario] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False


def run_all(scenarios: Sequence[Scenario], out: Path, options: Options, progress: Progress) -> Done:
    """Measure; results are lines in ``out``, in place of former ones of these scenarios. Raises ``BenchError`` where
    nothing could be measured at all, and ``OSError`` where ``out`` cannot be written."""
    done = Done()
    asked = {"extent": options.extent.name.lower(), "seed": options.seed, "pinned": options.cpu}
    facts = {**describe(), **asked, "steal_of": steal_of(options.cpu)}
    # Not TMPDIR: where that is below /run or /var/lib, the hosts would not see it.
    with tempfile.TemporaryDirectory(prefix="dataplane-bench-", dir="/tmp") as temporary:
        directory = Path(temporary)
        (directory / "native").mkdir()
        try:
            native = build(directory / "native")
            for scenario in scenarios:
                progress.begin(scenario.name)
                with (out / f"{scenario.name}.jsonl").open("w", encoding="utf-8") as file:
                    log = Log(file, {**facts, "scenario": scenario.name}, progress.tell)
                    done.ended.append(scenario)
                    stage = Stage(directory / scenario.name, native, log, **asdict(options), advance=progress.at)
                    _measure(scenario, stage, done)
                    if scenario.name not in done.failed:
                        log.end()
                progress.end()
        except KeyboardInterrupt:
            done.stopped = True
    return done


@contextmanager
def stoppable(tell: Callable[[str], None]) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP raises ``KeyboardInterrupt``, so that hosts, programs and processes go as
    they do when a scenario ends by itself; whoever sends more is told to wait."""
    told = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal told
        if told:
            tell("still taking down what was made: a moment")
            return
        told = True
        tell(f"{signal.Signals(number).name}: taking down what was made")
        raise KeyboardInterrupt

    former = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


def _measure(scenario: Scenario, stage: Stage, done: Done) -> None:
    try:
        scenario.run(stage)
    except KeyboardInterrupt:
        stage.log.note(STOPPED)
        raise
    except DataplaneError as error:
        done.failed[scenario.name] = str(error)
        stage.log.note(f"not measured to its end: {error}")
