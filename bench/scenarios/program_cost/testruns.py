"""Each program on one packet, many times over, by ``BPF_PROG_TEST_RUN``.

    with Runner(door, devices) as runner:         # cases(devices), after ready(door, devices)
        runner.measure(case, runs=100_000)        -> nanoseconds of processor time a run; raises where it is no proof

Be aware: a million runs on one packet are a million with hot caches and a trained branch predictor. These are the least
that a program costs; what it costs among packets of others is what round trips tell.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

from bench.instruments import assembled
from bench.native import BenchError
from bench.scenarios.program_cost.cases import CONTINUE, PLAIN, Case, Devices, crowded
from dataplane import abi
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.programs.ringbuf import EventReader

FLOOR, FLOOR_AGAIN, FLOOR_BEFORE = "an empty program", "an empty program again", "an empty program behind a store"

_RING = 1500
"""Events that surely fit into the ring."""
_READS = 200


class Unproved(BenchError):  # noqa: N818 - no failure: a fact about a case
    """A case did not go the way that its name says."""


class Runner:
    """Runs cases, and measures them; on the host where the door is."""

    def __init__(self, door: KernelPrograms, devices: Devices) -> None:
        self._door, self._devices, self._stack = door, devices, ExitStack()
        self._events: EventReader | None = None
        self._crowded = 0

    def __enter__(self) -> Self:
        self._empty = self._stack.enter_context(assembled.nothing())
        self._events = self._stack.enter_context(self._door.events())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def constant(self) -> float:
        """Nanoseconds of processor time that a call takes, besides the runs."""
        return min(_spent(self._empty.number, PLAIN, self._devices, 1)[0] for _ in range(20))

    def floor(self, runs: int, *, store: bool = False) -> float:
        """Nanoseconds a run of the empty program, or of it behind the store that restores a packet."""
        if not store:
            return self._rate(self._empty.number, PLAIN, runs)[0]
        with assembled.before(self._empty.number, PLAIN.restore, bytes(2)) as program:
            return self._rate(program.number, PLAIN, runs)[0]

    def measure(self, case: Case, runs: int) -> float:
        """Nanoseconds a run. Raises ``Unproved``."""
        if case.ring == "read":
            runs = min(runs, _RING)
        self._crowded = crowded(self._door, self._crowded, case.networks)
        with self._program(case) as program:
            if case.first:
                self._run(program, replace(case, frame=case.first))
            self._run(program, case)  # what is found out once, or told once, is over
            self._prepare_ring(case, program)
            before, lost = self._counters(case), self._door.events_lost()
            rate, run = self._rate(program, case, runs)
            if case.ring == "read" and self._door.events_lost() != lost:
                raise Unproved(f"{case.name}: the ring of events was full")
            risen = tuple(after - former for after, former in zip(self._counters(case), before, strict=True))
        self._judge(case, run, risen, runs + 1)  # one more to find the constant
        return rate

    def _judge(self, case: Case, run: syscall.ProgramRun, risen: tuple[int, ...], runs: int) -> None:
        if run.verdict != case.verdict:
            raise Unproved(f"{case.name}: the verdict is {run.verdict}, not {case.verdict}")
        if case.verdict == CONTINUE and run.packet != (case.becomes or case.frame):
            raise Unproved(f"{case.name}: the packet is another afterwards than it must be")
        if any(each is not None and rise != each * runs for rise, each in zip(risen, case.rises, strict=True)):
            raise Unproved(f"{case.name}: {case.watched[0]} rose by {risen}, not by {case.rises} each of {runs:,} runs")
        if case.witness is not None:
            changed = replace(case, frame=case.witness.frame, ingress=case.witness.ingress, mark=0)
            with self._program(case) as program:
                verdict = self._run(program, changed).verdict
            if verdict != case.witness.verdict:
                raise Unproved(f"{case.name}: what must end with verdict {case.witness.verdict} ends with {verdict}")

    @contextmanager
    def _program(self, case: Case) -> Iterator[int]:
        with syscall.obj_get(self._door.directory / case.program.function) as pinned:
            if not case.restore:
                yield pinned.number
                return
            octets = case.frame[case.restore : case.restore + 2]
            with assembled.before(pinned.number, case.restore, octets) as program:
                yield program.number

    def _run(self, program: int, case: Case) -> syscall.ProgramRun:
        return _spent(program, case, self._devices, 1)[1]

    def _rate(self, program: int, case: Case, runs: int) -> tuple[float, syscall.ProgramRun]:
        """What runs take beyond one: the call itself is in both."""
        one, _ = _spent(program, case, self._devices, 1)
        many, run = _spent(program, case, self._devices, runs)
        return (many - one) / (runs - 1), run

    def _prepare_ring(self, case: Case, program: int) -> None:
        if case.ring == "full":
            _spent(program, case, self._devices, 4 * _RING)
        elif case.ring == "read" and self._events is not None:
            for _ in range(_READS):
                if not self._events.poll():
                    return

    def _counters(self, case: Case) -> tuple[int, ...]:
        name, key = case.watched
        if not name:
            return ()
        raw = self._door.get(name, key)
        return tuple(word for (word,) in abi.U64.iter_unpack(raw)) if raw else (0,) * len(case.rises)


def _spent(program: int, case: Case, devices: Devices, runs: int) -> tuple[int, syscall.ProgramRun]:
    """Nanoseconds of this thread's processor time, which leaves out what others had of it."""
    device = devices.indexes[case.device]
    began = time.thread_time_ns()
    run = syscall.run_program(
        program,
        case.frame,
        ifindex=device,
        ingress_ifindex=case.ingress,
        mark=case.mark,
        gso_size=case.gso_size,
        repeat=runs,
    )
    return time.thread_time_ns() - began, run
