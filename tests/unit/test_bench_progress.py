"""What whoever waits for a bench is told."""

from __future__ import annotations

import io
import os
import signal
from contextlib import suppress
from threading import Thread

from bench.progress import Progress, clock


class Terminal(io.StringIO):
    """Where lines can be written over."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A time that is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(out: io.StringIO, time: Clock) -> Progress:
    """Of two scenarios."""
    return Progress([("layers", 20.0), ("bulk", 70.0)], out, time)


def test_what_how_far_and_how_long() -> None:
    """Each scenario says its place, and how long it and the rest may take."""
    out, time = io.StringIO(), Clock()
    told = progress(out, time)
    told.begin("layers")
    time.now += 5
    told.tell("making hosts")
    time.now += 15
    told.end()
    told.begin("bulk")
    assert out.getvalue().splitlines() == [
        "bench: 1/2 layers: begins, about 1:30 left",
        "bench: 1/2 layers: making hosts",
        "bench: 1/2 layers: done in 0:20",
        "bench: 2/2 bulk: begins, about 1:10 left",
    ]


def test_blocks_are_told_every_few_seconds_where_lines_stay() -> None:
    """In a log nobody wants a line a block; what is left is what these blocks take here, and the other scenarios."""
    out, time = io.StringIO(), Clock()
    told = progress(out, time)
    told.begin("layers")
    for block in range(21):
        told.at(block, 40)
        time.now += 1
    lines = out.getvalue().splitlines()[1:]
    assert lines == [
        "bench: 1/2 layers: 10 of 40 blocks, about 1:40 left",
        "bench: 1/2 layers: 20 of 40 blocks, about 1:30 left",
    ]


def test_blocks_are_counted_in_place_on_a_terminal() -> None:
    """One line is written over, and gone before the next that stays."""
    out, time = Terminal(), Clock()
    told = progress(out, time)
    told.begin("bulk")
    for block in (0, 1, 2):
        told.at(block, 4)
        time.now += 3
    told.tell("done with half")
    shown = out.getvalue().split("\r\x1b[K")
    assert shown[1:] == [
        "bench: 2/2 bulk: 0 of 4 blocks, about 1:10 left",
        "bench: 2/2 bulk: 1 of 4 blocks, about 0:09 left",
        "bench: 2/2 bulk: 2 of 4 blocks, about 0:06 left",
        "bench: 2/2 bulk: done with half\n",
    ]


def test_times_are_minutes_and_seconds() -> None:
    """Rounded, with two digits of seconds."""
    assert [clock(seconds) for seconds in (0.4, 59.6, 61, 3600)] == ["0:00", "1:00", "1:01", "60:00"]


def test_a_signal_speaks_while_a_line_is_written() -> None:
    """Its handler may run in the middle of one, which the stream would not have."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)  # until it is full: who writes now waits
    os.set_blocking(write, True)
    heard = bytearray()

    def drain() -> None:
        while piece := os.read(read, 4096):
            heard.extend(piece)

    drained = Thread(target=drain)
    with os.fdopen(write, "w") as out:
        told = Progress([("layers", 20.0)], out)

        def speak(*_: object) -> None:
            drained.start()
            told.interject("taking down")

        former = signal.signal(signal.SIGALRM, speak)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            told.tell("making hosts")
        finally:
            signal.signal(signal.SIGALRM, former)
    drained.join()
    os.close(read)
    assert b"bench: taking down\n" in heard
    assert heard.endswith(b"bench: making hosts\n")
