"""The engine's thread: who came first is served first, and what takes long can see that others wait."""

from __future__ import annotations

import threading

import pytest

from control.agent.turns import Turns


def test_what_waits_is_known_and_comes_before_what_is_submitted_later() -> None:
    """A piece of work that stops because somebody waits, and submits the rest of itself, goes on after them."""
    turns, order, begun, may_end = Turns("test"), [], threading.Event(), threading.Event()

    def piece() -> bool:
        begun.set()
        assert may_end.wait(30)
        order.append("first piece")
        return turns.is_awaited

    first = turns.submit(piece)
    assert begun.wait(30)
    assert not turns.is_awaited, "nobody waits for what has begun"
    request = turns.submit(lambda: order.append("request"))
    may_end.set()
    assert first.result(30), "the piece has seen that a request waits"
    rest = turns.submit(lambda: order.append("rest"))
    request.result(30)
    rest.result(30)
    assert order == ["first piece", "request", "rest"]
    assert not turns.is_awaited
    turns.close()
    assert turns.is_awaited, "what goes on by itself would never end"


def test_what_fails_keeps_nobody_waiting() -> None:
    """An error is its caller's, and is not counted as somebody who waits; neither is who comes too late."""
    turns = Turns("test")
    with pytest.raises(ZeroDivisionError):
        turns.submit(lambda: 1 // 0).result(30)
    assert not turns.is_awaited
    turns.close()
    with pytest.raises(RuntimeError):
        turns.submit(lambda: None)
