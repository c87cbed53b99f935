"""What the agent says to whoever watches it: lines on standard error, or JSON objects on standard output.

    log = Log.of_environment(as_json=False)
    log(Level.INFO, "served", "ADD container='web' ms=2.1", container="web", ms=2.1)
    log(Level.WARNING, "lost", "3 rules of ours were removed by nft (pid 4711)", by="nft", pid=4711)

    on a terminal     dataplane agent: ADD container='web' ms=2.1
    in the journal    <6>ADD container='web' ms=2.1
    with --json       {"version": 1, "event": "served", "level": "info", "container": "web", "ms": 2.1}

A line is one event, whatever text it holds: line breaks in it are escaped, so nobody can forge another one.

Source: sd-daemon(3) (priorities), systemd.exec(5) (JOURNAL_STREAM).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from threading import Lock
from typing import Self

import click

from control.cli.output import print_json

_WRITING = Lock()


class Level(IntEnum):
    """How much it matters: the number is syslog's."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


@dataclass(frozen=True, slots=True)
class Log:
    """Where lines go, and in which form."""

    as_json: bool = False
    in_journal: bool = False
    """Standard error is the journal: lines begin with a priority in place of our name, which it knows."""

    @classmethod
    def of_environment(cls, *, as_json: bool) -> Self:
        """As it suits where standard error leads to."""
        return cls(as_json, not as_json and leads_to_journal(os.environ, sys.stderr.fileno()))

    def __call__(self, level: Level, event: str, text: str, /, **fields: object) -> None:
        """Say that something happened: ``text`` to people; ``event`` and ``fields`` to programs.

        A full disk or a reader that went away loses the line and nothing else: repairs do not depend on who listens,
        and ``dpctl events`` has them still.
        """
        with _WRITING, suppress(OSError):
            if self.as_json:
                print_json({"event": event, "level": level.name.lower(), **fields}, line=True)
            else:
                click.echo(f"{f'<{level}>' if self.in_journal else 'dataplane agent: '}{one_line(text)}", err=True)

    def close(self) -> None:
        """Say no more: what could not be written is given up."""
        stream = sys.stdout if self.as_json else sys.stderr
        with _WRITING:
            try:
                stream.flush()
            except OSError:
                # Python writes once more as it ends, and has 120 as its exit status where it cannot.
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def leads_to_journal(environment: Mapping[str, str], descriptor: int) -> bool:
    """Whether a descriptor is the stream to the journal that systemd opened for this process."""
    try:
        about = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}"


def one_line(text: str) -> str:
    """A text with its control characters escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
