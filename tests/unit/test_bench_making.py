"""Things that are made several at a time."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from bench.making import at_once


def test_everything_is_made_and_unwound_with_the_stack() -> None:
    """By threads that live until what they made is gone."""
    gone, makers = list[str](), list[threading.Thread]()

    def make(name: str, stack: ExitStack) -> str:
        makers.append(threading.current_thread())
        stack.callback(lambda: gone.append(f"{name}, {all(one.is_alive() for one in makers)}"))
        return name.upper()

    with ExitStack() as stack:
        wanted = {name: lambda own, name=name: make(name, own) for name in ("a", "b", "c")}
        assert at_once(stack, wanted, threads=2) == {"a": "A", "b": "B", "c": "C"}
        assert not gone
    assert sorted(gone) == ["a, True", "b, True", "c, True"]
    assert not any(one.is_alive() for one in makers)


def test_where_one_fails_nobody_is_at_work_any_more() -> None:
    """What others have made by then is unwound, what has not begun never does."""
    failed, gone, begun = threading.Event(), list[str](), list[str]()

    def fail(_: ExitStack) -> None:
        failed.set()
        raise ValueError("no room")

    def slow(stack: ExitStack) -> None:
        failed.wait(10)
        stack.callback(gone.append, "slow")

    def late(_: ExitStack) -> None:
        begun.append("late")

    with ExitStack() as stack:
        with pytest.raises(ValueError, match="no room"):
            at_once(stack, {"slow": slow, "fail": fail, **{f"late {n}": late for n in range(50)}}, threads=2)
        assert len(begun) <= 50
        done = list(begun)
    assert gone == ["slow"]
    assert begun == done


def test_who_is_at_work_is_not_waited_for() -> None:
    """What it works with is taken from it, and it ends."""
    at_work, taken, ended = threading.Event(), threading.Event(), list[bool]()

    def long(stack: ExitStack) -> None:
        stack.callback(taken.set)
        at_work.set()
        ended.append(taken.wait(60))

    def fail(_: ExitStack) -> None:
        at_work.wait(60)
        raise ValueError("no room")

    with ExitStack() as stack, pytest.raises(ValueError, match="no room"):
        at_once(stack, {"fail": fail, "long": long}, threads=2)
    assert ended == [True]
