"""When the agent's loop listens to the kernel."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Iterator
from math import inf
from typing import BinaryIO

import pytest

from control.agent.attention import Events
from control.agent.watch import Reader

LONG = 3600.0
"""Seconds: a pause that does not end by itself while a test runs."""
SHORT = 0.2
"""Seconds."""


class Ear:
    """Listens to pipes, as the watch does to monitors."""

    def __init__(self, *pipes: BinaryIO) -> None:
        self.pipes: list[BinaryIO] = list(pipes)
        self.heard: list[bytes] = []

    def readers(self) -> list[Reader]:
        return list(self.pipes)

    def read(self, reader: Reader) -> None:
        self.heard.append(os.read(reader.fileno(), 100))


class Loop:
    """As much of the agent's loop as concerns events."""

    def __init__(self, ear: Ear, pause: float) -> None:
        self.events = Events(ear, pause)
        self.selector = selectors.DefaultSelector()

    def turn(self) -> float:
        """One turn, which waits for nothing; what it would have waited for at most on behalf of the events."""
        self.events.follow(self.selector)
        rest = self.events.rest()
        for key, _ in self.selector.select(0):
            key.data()
        return rest

    def close(self) -> None:
        self.selector.close()
        self.events.close()


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, int]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as reader:
        yield reader, writing
        os.close(writing)


@pytest.fixture
def loops() -> Iterator[list[Loop]]:
    made: list[Loop] = []
    yield made
    for loop in made:
        loop.close()


def test_events_are_heard_when_they_come(pipe: tuple[BinaryIO, int], loops: list[Loop]) -> None:
    """Without a call the loop waits for events, as long as it takes, and hears each."""
    ear = Ear(pipe[0])
    loops.append(loop := Loop(ear, LONG))
    assert loop.turn() == inf
    os.write(pipe[1], b"a qdisc")
    loop.turn()
    assert ear.heard == [b"a qdisc"]


def test_a_call_is_not_disturbed(pipe: tuple[BinaryIO, int], loops: list[Loop]) -> None:
    """After a call came nothing is heard for a while, and the loop knows when that is over."""
    ear = Ear(pipe[0])
    loops.append(loop := Loop(ear, LONG))
    loop.turn()
    loop.events.pause()
    os.write(pipe[1], b"a filter")
    assert 0 < loop.turn() <= LONG
    assert not ear.heard


def test_what_came_in_a_pause_is_heard_together(pipe: tuple[BinaryIO, int], loops: list[Loop]) -> None:
    """When a pause is over, all that came meanwhile is there to be read."""
    ear = Ear(pipe[0])
    loops.append(loop := Loop(ear, 0.0))
    loop.turn()
    loop.events.pause()
    os.write(pipe[1], b"a filter, ")
    os.write(pipe[1], b"an element")
    loop.turn()
    assert ear.heard == [b"a filter, an element"]


def test_calls_after_calls_do_not_silence_the_kernel(pipe: tuple[BinaryIO, int], loops: list[Loop]) -> None:
    """A call that comes after a pause, and before the loop has listened, does not begin the next one."""
    ear = Ear(pipe[0])
    loops.append(loop := Loop(ear, SHORT))
    while loop.turn() == inf:
        loop.events.pause()
    time.sleep(2 * SHORT)
    loop.events.pause()
    os.write(pipe[1], b"news")
    loop.turn()
    assert ear.heard == [b"news"]


def test_a_call_within_a_pause_does_not_make_it_longer(pipe: tuple[BinaryIO, int], loops: list[Loop]) -> None:
    """The end of a pause stays where it was when more calls come."""
    loops.append(loop := Loop(Ear(pipe[0]), LONG))
    loop.turn()
    loop.events.pause()
    first = loop.turn()
    loop.events.pause()
    assert loop.turn() <= first


def test_a_reader_that_went_is_waited_for_no_more(pipe: tuple[BinaryIO, int], loops: list[Loop]) -> None:
    """What the watch no longer names is not waited for, though it has something to say."""
    ear = Ear(pipe[0])
    loops.append(loop := Loop(ear, LONG))
    loop.turn()
    ear.pipes.clear()
    os.write(pipe[1], b"late")
    loop.turn()
    assert not ear.heard
