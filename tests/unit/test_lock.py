"""Locks of attachments: one after the other for the same, side by side for others, between threads as well."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from control.errors import BusyError
from control.lock import locked_attachment


def test_the_same_attachment_waits(tmp_path: Path) -> None:
    """Whoever comes second is told who is waited for; once the first has ended it is free."""
    with locked_attachment(tmp_path, "front/web/eth0"):
        busy = pytest.raises(BusyError, match="attachment front/web/eth0 within 0 s: another request holds it")
        with busy, locked_attachment(tmp_path, "front/web/eth0", timeout=0.05):
            pass
        with locked_attachment(tmp_path, "front/web/eth1", timeout=0.05):
            pass
    with locked_attachment(tmp_path, "front/web/eth0", timeout=0.05):
        pass


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    """The agent serves each call in a thread: two about one attachment are never inside together."""
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with locked_attachment(tmp_path, "front/web/eth0"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) == 160


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """However many attachments there were, there is one file."""
    for number in range(50):
        with locked_attachment(tmp_path, f"front/web/eth{number}"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["attachments.lock"]
