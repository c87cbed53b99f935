"""What a signal means to a bench, by what it would interrupt; and where raw results are until they count."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest

from bench.figures import Log
from bench.native import Native
from bench.running import Beside, Phase, Signals, stoppable
from bench.stage import Stage


def heard(signals: Signals) -> bool:
    """Whether SIGINT ends what is done."""
    try:
        signals(signal.SIGINT, None)
    except KeyboardInterrupt:
        return True
    return False


def test_measuring_ends_with_the_first_and_nobody_stops_taking_down() -> None:
    """The first signal ends the measurement; who sends more is told to wait."""
    told = list[str]()
    signals = Signals(told.append)
    assert [heard(signals) for _ in range(3)] == [True, False, False]
    assert told == ["SIGINT: taking down what was made", *["still taking down what was made: a moment"] * 2]


def test_who_asked_to_stop_is_heard_where_what_was_raised_is_lost() -> None:
    """No turn begins after a signal, also where a callback of a library swallowed what the signal raised."""
    signals = Signals(lambda _: None)
    log = Log(io.StringIO(), {}, lambda _: None)
    stage = Stage(Path(), Native(Path(), static=False), log, stopped=signals.is_stopped)
    turns = stage.turns(("one", "other"), blocks=2)
    next(turns)
    assert heard(signals)
    with pytest.raises(KeyboardInterrupt):
        next(turns)


def test_drawing_ends_with_the_second() -> None:
    """While the report is drawn nobody is told that something is taken down, and the second signal ends it."""
    told = list[str]()
    signals = Signals(told.append)
    assert heard(signals)
    signals.phase = Phase.DRAWING
    told.clear()
    assert [heard(signals) for _ in range(2)] == [False, True]
    (said,) = told
    assert "everything is taken down" in said


def test_signals_are_heard_within_the_block_alone() -> None:
    """A signal raises there; afterwards it means what it meant before."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stoppable(lambda _: None):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.xz"])
def test_former_results_stay_until_new_ones_are_kept(tmp_path: Path, ending: str) -> None:
    """Packed or not, former results are there as long as new ones are not kept, and those that never are leave none."""
    former = tmp_path / f"storm{ending}"
    former.write_text("former")
    with Beside(tmp_path, "storm") as beside:
        beside.file.write("new")
    assert [path.name for path in tmp_path.iterdir()] == [former.name]
    assert former.read_text() == "former"
    with Beside(tmp_path, "storm") as beside:
        beside.file.write("new ")
        beside.keep()
        beside.file.write("and more")
    assert (tmp_path / "storm.jsonl").read_text() == "new and more"


def test_results_that_take_nobodys_place_are_kept_however_little_they_are(tmp_path: Path) -> None:
    """A first run that was stopped at once still says so."""
    with Beside(tmp_path, "storm") as beside:
        beside.file.write("a note")
    assert (tmp_path / "storm.jsonl").read_text() == "a note"
