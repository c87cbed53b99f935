"""Programs in C that open sockets, say that they are ready, and from then on answer each line with a line.

    class Flood(Answering):
        work = "send datagrams"                    # for what is said where it does not answer

        def measure(self, batches: int) -> list[int]:
            return [int(word) for word in self._ask(batches, 1)]

Standard error is the bench's own: why a program ended, it has said itself.
"""

from __future__ import annotations

import subprocess
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from bench.instruments.precedence import first_in_line
from bench.native import BenchError
from bench.place import Place, end

_PATIENCE = 10.0  # seconds


class Answering:
    """One of them, until the block ends. Raises ``BenchError`` where its sockets cannot be opened."""

    work: ClassVar[str]
    """What it does when it is asked."""

    def __init__(
        self, place: Place, where: str, *argv: object, first: bool = False, cgroup: Path | None = None
    ) -> None:
        """Start it, ``first`` of all on its processor or with everybody else (``precedence``), in a cgroup where that
        is given; ``where`` is what its sockets are to reach."""
        self._where = where
        # A socket is of the cgroup that its process was in when it opened it.
        joined = () if cgroup is None else ("sh", "-c", 'echo 0 > "$0" && exec "$@"', cgroup / "cgroup.procs")
        with first_in_line() if first else nullcontext():
            self._process = place.spawn(*joined, *argv, stdin=subprocess.PIPE)
        ready, *self._ready = self._answer() or [""]
        if ready != "ready":
            end(self._process)
            raise BenchError(f"could not open sockets to {where}: see above")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        if kind is None:
            # At the end of its input it ends by itself, and takes the process with it that it may have started. Where
            # somebody interrupts, the round is not waited for, and its host takes what is left.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
        end(self._process)

    def _ask(self, *words: object) -> list[str]:
        """The words of the answer to a line of these. Raises ``BenchError`` where there is none."""
        if self._process.stdin is None:
            raise AssertionError("made with pipes")
        self._process.stdin.write(f"{' '.join(map(str, words))}\n".encode())
        self._process.stdin.flush()
        answer = self._answer()
        if not answer:
            raise BenchError(f"could not {self.work} to {self._where}: see above")
        return answer

    def _answer(self) -> list[str]:
        """The words of the next line; none where the program ended before it was whole."""
        if self._process.stdout is None:
            raise AssertionError("made with pipes")
        line = self._process.stdout.readline()
        return line.decode("ascii").split() if line.endswith(b"\n") else []


def distribution(words: list[str]) -> tuple[tuple[int, int], ...]:
    """A distribution, of words like "VALUE:COUNT": (value, how often). Pure."""
    return tuple((int(value), int(count)) for value, _, count in (word.partition(":") for word in words))
