"""The scenarios, by name. Each is a module: its docstring is the question, ``run`` measures, ``figures`` is pure.

scenario = find("storm")
scenario.run(stage)
scenario.figures(read(path))

``plots``, ``tables`` and ``answers`` are there where a module has them; they are pure, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.figures import Figure, Results
from bench.figures.answers import Answer
from bench.figures.plots import Plot
from bench.native import BenchError
from bench.stage import Stage

SUITES: dict[str, tuple[str, ...]] = {
    "packet": (
        "layers",
        "published",
        "program_cost",
        "first_packet",
        "isolation",
        "bulk",
        "updates_under_load",
    ),
    "rules": (
        "rule_updates",
        "repair",
    ),
    "cni": (
        "cni_latency",
        "single_entry",
        "concurrency",
    ),
    "host": (
        "storm",
        "agent_cost",
        "continuity",
    ),
}  # fmt: skip
"""Scenarios by what they are about, in the order in which they run."""

NAMES = tuple(name for names in SUITES.values() for name in names)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question, how it is measured, and what is drawn from that."""

    name: str
    question: str
    text: str
    run: Callable[[Stage], None]
    figures: Callable[[Results], Sequence[Figure]]
    tables: Callable[[Results], Sequence[str]]
    """More of them, in Markdown, where the rows of figures are not easy to survey."""
    plots: Callable[[Results], Sequence[Plot]]
    answers: Callable[[Results], Sequence[Answer]]
    """Rows of the one table that a whole run is made for."""
    seconds: tuple[int, int]
    """About how long it takes in full and quickly, on two processors; 0 where nobody says."""


def find(name: str) -> Scenario:
    """A scenario. Raises ``BenchError`` for a name that there is not."""
    if name not in NAMES:
        raise BenchError(
            f'could not find the scenario "{name}": there are {", ".join(NAMES)}, and the suites {", ".join(SUITES)}'
        )
    module = importlib.import_module(f"bench.scenarios.{name}")
    text = str(module.__doc__)
    tables, plots, answers = (getattr(module, part, _none) for part in ("tables", "plots", "answers"))
    seconds = getattr(module, "SECONDS", (0, 0))
    question = text.partition("\n")[0]
    return Scenario(name, question, text, module.run, module.figures, tables, plots, answers, seconds)


def find_all(names: Sequence[str]) -> list[Scenario]:
    """Scenarios by their names and those of suites, each once, in the order of the suites; without any, all. Raises
    ``BenchError`` for a name that there is not."""
    wanted = {one for name in names or NAMES for one in SUITES.get(name, (name,))}
    return [find(name) for name in sorted(wanted, key=lambda one: NAMES.index(one) if one in NAMES else -1)]


def _none(_: Results) -> Sequence[Any]:
    return ()
