"""Executables from exec to exit, timed in C: ``native/start.c``, which does the starting, and this, which asks it to.

    with Starter(host, native) as starter:
        done = starter.run(path, environment, text)        -> Done(nanoseconds, cpu_microseconds, status, output)

Python's part, handing over the job and taking the answer, is outside of what is timed.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.native import BenchError, Native
from bench.place import Place, end

_JOB = struct.Struct("=4I")
_ANSWER = struct.Struct("=QQiI")


@dataclass(frozen=True, slots=True)
class Done:
    """One executable that was started and reaped."""

    nanoseconds: int
    cpu_microseconds: int
    status: int
    output: str

    @property
    def milliseconds(self) -> float:
        return self.nanoseconds / 1e6


class Starter:
    """A process on a host that starts others; ``cpu`` pins it, and them, to one processor; ``stderr`` is theirs."""

    def __init__(self, place: Place, native: Native, cpu: int | None = None, stderr: int | None = None) -> None:
        where = "-" if cpu is None else str(cpu)
        self._process = place.spawn(native.start, where, stdin=subprocess.PIPE, stderr=stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        end(self._process)

    def run(
        self, path: Path, environment: Mapping[str, str], text: str = "", words: tuple[str, ...] = (), *,
        check: bool = True,
    ) -> Done:  # fmt: skip
        """Start an executable and wait for its end. Raises ``BenchError`` where it fails and is checked."""
        argv = [str(path), *words]
        variables = [f"{name}={value}" for name, value in environment.items()]
        strings = b"".join(word.encode() + b"\0" for word in (*argv, *variables))
        given = text.encode()
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("made with pipes")
        self._process.stdin.write(_JOB.pack(len(argv), len(variables), len(strings), len(given)) + strings + given)
        self._process.stdin.flush()
        answer = self._process.stdout.read(_ANSWER.size)
        if len(answer) < _ANSWER.size:
            raise BenchError(f"could not start {path}: see above")
        nanoseconds, cpu, status, length = _ANSWER.unpack(answer)
        output = self._process.stdout.read(length).decode(errors="replace")
        done = Done(nanoseconds, cpu, os.waitstatus_to_exitcode(status), output)
        if check and done.status:
            verb = environment.get("CNI_COMMAND", "")
            raise BenchError(f"could not run {path.name} {verb}: status {done.status}, it said {output.strip()[:500]}")
        return done
