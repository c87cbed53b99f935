"""What the agent says, on a terminal, in the journal and to programs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from control.cli.log import Level, Log, leads_to_journal, one_line


def say(log: Log) -> None:
    log(Level.WARNING, "served", "ADD failed\nby 'web'\x1b[31m", container="web", milliseconds=2.5)


def test_a_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, with our name; what is no text is escaped, so that one event is one line."""
    say(Log())
    assert capsys.readouterr() == ("", "dataplane agent: ADD failed\\nby 'web'\\x1b[31m\n")


def test_a_line_for_the_journal(capsys: pytest.CaptureFixture[str]) -> None:
    """The priority comes first, as sd-daemon(3) has it; the journal knows our name."""
    say(Log(in_journal=True))
    assert capsys.readouterr() == ("", "<4>ADD failed\\nby 'web'\\x1b[31m\n")


def test_an_object_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard output, a line each, versioned."""
    say(Log(as_json=True))
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "version": 1,
        "event": "served",
        "level": "warning",
        "container": "web",
        "milliseconds": 2.5,
    }
    assert out.count("\n") == 1


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    """JOURNAL_STREAM names the stream that systemd opened: a descriptor that was led elsewhere since is not it."""
    with (tmp_path / "stream").open("w") as stream, (tmp_path / "file").open("w") as file:
        about = os.fstat(stream.fileno())
        environment = {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}
        assert leads_to_journal(environment, stream.fileno())
        assert not leads_to_journal(environment, file.fileno())
        assert not leads_to_journal({}, stream.fileno())
        assert not leads_to_journal({"JOURNAL_STREAM": "nonsense"}, stream.fileno())


def test_json_is_never_prefixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where programs read standard output, the journal on standard error changes nothing."""
    about = os.fstat(sys.__stderr__.fileno())  # type: ignore[union-attr]
    monkeypatch.setenv("JOURNAL_STREAM", f"{about.st_dev}:{about.st_ino}")
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    assert Log.of_environment(as_json=True) == Log(as_json=True, in_journal=False)
    assert Log.of_environment(as_json=False) == Log(as_json=False, in_journal=True)


@pytest.mark.parametrize("text", ["a\u2028b", "a\x85b", "a\rb", "a\x00b", "a\udc80b"])
def test_every_line_break_is_escaped(text: str) -> None:
    """Also those that only some readers take for one, and bytes that are no text."""
    line = one_line(text)
    assert line.splitlines() == [line]
    assert line.isprintable()
