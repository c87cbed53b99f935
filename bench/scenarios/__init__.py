"""The scenarios, by name. Each is a module: its docstring is the question, ``run`` measures, ``figures`` is pure.

scenario = find("storm")
scenario.run(stage)
scenario.figures(read(path))
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.native import BenchError
from bench.report import Figure, Results
from bench.stage import Stage

NAMES = ("cni_latency", "single_entry", "storm", "agent_cost", "repair", "continuity", "program_cost")
"""In the order of the table that they are for."""


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


def find(name: str) -> Scenario:
    """A scenario. Raises ``BenchError`` for a name that there is not."""
    if name not in NAMES:
        raise BenchError(f'could not find the scenario "{name}": there are {", ".join(NAMES)}')
    module = importlib.import_module(f"bench.scenarios.{name}")
    text = str(module.__doc__)
    tables = getattr(module, "tables", _none)
    return Scenario(name, text.partition("\n")[0], text, module.run, module.figures, tables)


def _none(_: Results) -> Sequence[str]:
    return ()
