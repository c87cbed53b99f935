"""What one CNI call took: on the clock, of the processors, and of those for the agent; and the names that samples have.

before = agent.cpu_milliseconds
timed = took("ADD", [starter.run(...)], agent, before)
note(log, timed, "dataplane", size=1000, block=3)     # "ADD", "ADD, CPU", "ADD, the agent's CPU", "ADD, CPU in all"
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures import Log
from bench.hosts.ours import Agent
from bench.instruments.starter import Done

VERBS = ("ADD", "CHECK", "DEL")
CPU, AGENT, BOTH = "CPU", "the agent's CPU", "CPU in all"

_SETTLES = 0.002
"""Seconds after each call, for everyone: what an agent still does for it then is part of its processor time."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One call, in milliseconds: from exec to exit, the sum over its executables; of the processors for what was
    started and all that it started; for the agent."""

    verb: str
    clock: float
    cpu: float | None = None
    agent: float = 0.0


def took(verb: str, done: Sequence[Done], agent: Agent | None = None, before: float = 0.0) -> Timed:
    """A call that was made just now; ``before`` is what the agent had taken of the processors until then."""
    rest()
    spent = agent.cpu_milliseconds - before if agent else 0.0
    return Timed(verb, sum(one.milliseconds for one in done), sum(one.cpu_microseconds for one in done) / 1e3, spent)


def rest() -> None:
    """After a call: everyone has the same."""
    time.sleep(_SETTLES)


def note(log: Log, timed: Timed, variant: str, *, size: int = 0, block: int = 0) -> None:
    """Write its samples."""
    values = {timed.verb: timed.clock}
    if timed.cpu is not None:
        values |= {f"{timed.verb}, {CPU}": timed.cpu, f"{timed.verb}, {BOTH}": timed.cpu + timed.agent}
    if timed.agent:
        values[f"{timed.verb}, {AGENT}"] = timed.agent
    for measure, value in values.items():
        log.sample(measure, variant, value, size=size, block=block)
