"""Runs scenarios one after the other, each into a file of its own: what was measured stays, however a run ends.

with stoppable(progress.interject) as signals:
    done = run_all(find_all(["packet"]), out, options, progress, signals)
    signals.phase = Phase.DRAWING
done.ended      those that wrote results, whole or in part
done.failed     {"cni_latency": "could not find portmap in ..."}
done.stopped    whether somebody stopped it (Ctrl-C, SIGTERM)

Former results of a scenario stay until the first block of new ones is whole: they are written beside them.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import Enum, auto
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from bench.figures import Log
from bench.figures.results import find_results
from bench.machine import describe, steal_of
from bench.native import Native, build
from bench.progress import Progress
from bench.scenarios import Scenario
from bench.stage import PEERS, Extent, Stage
from dataplane.errors import DataplaneError

STOPPED = "stopped before its end: what was measured until then counts"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BESIDE = ".part"


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


class Phase(Enum):
    """What a signal would interrupt."""

    MEASURING = auto()
    TAKING_DOWN = auto()
    """Nobody stops this, or something would stay behind."""
    DRAWING = auto()
    """All is taken down, and what was measured is kept; the report can be drawn again."""
    ENDING = auto()
    """The same, and somebody asked for it: the next signal ends it."""


@dataclass(slots=True)
class Signals:
    """What SIGINT, SIGTERM and SIGHUP mean now."""

    tell: Callable[[str], None]
    phase: Phase = Phase.MEASURING

    def is_stopped(self) -> bool:
        """Whether nothing more is to be measured."""
        return self.phase is not Phase.MEASURING

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Hear one. Raises ``KeyboardInterrupt`` where it is to end what is done."""
        name = signal.Signals(number).name
        match self.phase:
            case Phase.MEASURING:
                self.phase = Phase.TAKING_DOWN
                self.tell(f"{name}: taking down what was made")
                raise KeyboardInterrupt
            case Phase.TAKING_DOWN:
                self.tell("still taking down what was made: a moment")
            case Phase.DRAWING:
                self.phase = Phase.ENDING
                self.tell(f"{name}: everything is taken down, and the report is being drawn; once more ends that")
            case Phase.ENDING:
                raise KeyboardInterrupt


class Beside:
    """A file for the raw results of a scenario, beside former ones, until it is ``kept`` in their place."""

    def __init__(self, out: Path, name: str) -> None:
        self._former, self._path = find_results(out, name), out / f"{name}.jsonl"
        self._part = out / f"{name}{_BESIDE}"
        self.kept = False

    def __enter__(self) -> Self:
        self.file = self._part.open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()
        if self._former is None:
            self.keep()  # little as it may be, it takes nobody's place
        elif not self.kept:
            self._part.unlink()

    def keep(self) -> None:
        """Put it in the place of the former ones; it is written on."""
        if not self.kept:
            self._part.replace(self._path)
            self.kept = True


def run_all(scenarios: Sequence[Scenario], out: Path, options: Options, progress: Progress, signals: Signals) -> Done:
    """Measure; results are lines in ``out``, in place of former ones of these scenarios, but for a scenario that did
    not come to the end of a block. Raises ``BenchError`` where nothing could be measured at all, and ``OSError`` where
    ``out`` cannot be written."""
    done = Done()
    asked = {"extent": options.extent.name.lower(), "seed": options.seed, "pinned": options.cpu}
    facts = {**describe(), **asked, "steal_of": steal_of(options.cpu)}
    try:
        # Not TMPDIR: where that is below /run or /var/lib, the hosts would not see it.
        with tempfile.TemporaryDirectory(prefix="dataplane-bench-", dir="/tmp") as temporary:
            directory = Path(temporary)
            (directory / "native").mkdir()
            native = build(directory / "native")
            for scenario in scenarios:
                progress.begin(scenario.name)
                _run_one(
                    scenario, _Place(directory / scenario.name, native, out, facts, signals), options, progress, done
                )
                progress.end()
    except KeyboardInterrupt:
        done.stopped = True
    return done


@contextmanager
def stoppable(tell: Callable[[str], None]) -> Iterator[Signals]:
    """While measuring, the first SIGINT, SIGTERM or SIGHUP raises ``KeyboardInterrupt``, so that hosts, programs and
    processes go as they do when a scenario ends by itself; whoever sends more is told to wait. In a phase that only
    draws, the second does."""
    signals = Signals(tell)
    former = {number: signal.signal(number, signals) for number in _SIGNALS}
    try:
        yield signals
    finally:
        for number, before in former.items():
            signal.signal(number, before)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a scenario works, by what, where its results go, what is said of the run in them, and who may stop it."""

    directory: Path
    native: Native
    out: Path
    facts: Mapping[str, object]
    signals: Signals


def _run_one(scenario: Scenario, place: _Place, options: Options, progress: Progress, done: Done) -> None:
    beside = Beside(place.out, scenario.name)

    def advance(blocks: int, of: int) -> None:
        if blocks:
            beside.keep()
        progress.at(blocks, of)

    try:
        with beside:
            log = Log(beside.file, {**place.facts, "scenario": scenario.name}, progress.tell)
            stage = Stage(
                place.directory, place.native, log, **asdict(options), advance=advance, stopped=place.signals.is_stopped
            )
            _measure(scenario, stage, done)
            if scenario.name not in done.failed:
                log.end()
                beside.keep()
    finally:
        if beside.kept:
            done.ended.append(scenario)
        else:
            progress.tell("not one block was measured: the former results stay")


def _measure(scenario: Scenario, stage: Stage, done: Done) -> None:
    try:
        scenario.run(stage)
    except KeyboardInterrupt:
        stage.log.note(STOPPED)
        raise
    except DataplaneError as error:
        done.failed[scenario.name] = str(error)
        stage.log.note(f"not measured to its end: {error}")
