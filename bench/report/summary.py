"""A whole run: the figures of each scenario, its answers, what is to be drawn; and that as ``summary.json``. Pure.

    told = tell(find("storm"), read(path))
    summary = Summary((told, ...))
    Summary.from_json(summary.to_json()) == summary

``summary.json`` holds all that reports, pages, plots, comparisons and snippets are made of: raw results are not needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, assert_never

from bench.figures.answers import Answer, Kind
from bench.figures.measure import MOST_STEAL
from bench.figures.plots import Bars, Boxes, Curves, Plot
from bench.figures.results import Results
from bench.figures.rows import DISTURBED, Figure, why_not
from bench.report.shape import plain, shaped

if TYPE_CHECKING:
    from bench.scenarios import Scenario

VERSION = 2
"""Of ``summary.json``: raised when a field changes its meaning or goes; new fields may come without."""

SMOKE = "smoke"
"""The extent of a run that was made to see that it runs."""

_ONLY_SEEN = "smoke: only to see that it runs"

_NAME = re.compile(r"[A-Za-z0-9_-]+")

_PLOTS: dict[str, type[Plot]] = {"curves": Curves, "bars": Bars, "boxes": Boxes}


@dataclass(frozen=True, slots=True)
class Told:
    """What one scenario has to say."""

    name: str
    question: str
    run: Mapping[str, Any]
    figures: tuple[Figure, ...] = ()
    answers: tuple[Answer, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    steal: tuple[float, ...] = ()
    """Of each block: the share of a processor's time that the hypervisor gave to others; whose, says the run."""
    cut: str = ""
    """Why there is not all of it."""

    @property
    def disturbed(self) -> int:
        """Blocks with too much steal."""
        return sum(share > MOST_STEAL for share in self.steal)

    @property
    def kept(self) -> int:
        """Figures that are drawn of disturbed blocks, for they have no others."""
        return sum(one.disturbed for one in self.figures)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What makes all of it doubtful, or some of it."""
        found = [self.cut] if self.cut else []
        if self.smoke:
            return (*found, "run only to see that it runs: no figure says anything")
        found += [f"{one.what}: {one.note}" for one in self.figures if one.control and one.met is False]
        if self.steal and self.disturbed == len(self.steal):
            found.append(f"every block had more than {MOST_STEAL:.0%} steal: repeat it on a quiet machine")
        return tuple(dict.fromkeys(found))

    @property
    def smoke(self) -> bool:
        """Whether it was only to be seen that it runs."""
        return bool(self.run.get("extent") == SMOKE)

    def why_not(self, figure: Figure) -> str:
        """Why one of its figures says nothing; empty where it does."""
        return _ONLY_SEEN if self.smoke else why_not(figure, self.figures)

    def doubt(self, answer: Answer) -> str:
        """Why one of its answers says nothing; empty where it does."""
        return _ONLY_SEEN if self.smoke else answer.doubt


@dataclass(frozen=True, slots=True)
class Summary:
    """All scenarios of a run, in their order."""

    scenarios: tuple[Told, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Files that could not be read, and why."""

    def answers(self, kind: Kind) -> Iterator[tuple[Told, Answer]]:
        """The rows of the one table, of one kind."""
        for told in self.scenarios:
            yield from ((told, answer) for answer in told.answers if answer.kind is kind)

    def plots(self) -> Iterator[Plot]:
        """All that is to be drawn."""
        for told in self.scenarios:
            yield from told.plots

    def scenario(self, name: str) -> Told | None:
        """One of them."""
        return next((told for told in self.scenarios if told.name == name), None)

    def only(self, names: Collection[str]) -> Summary:
        """Some of the scenarios."""
        return Summary(tuple(told for told in self.scenarios if told.name in names), self.left_out)

    def to_json(self) -> dict[str, object]:
        """What ``summary.json`` holds."""
        scenarios = {told.name: _told(told) for told in self.scenarios}
        return {"version": VERSION, "scenarios": scenarios, "left_out": dict(self.left_out)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Summary:
        """The same again. Raises ``ValueError`` for something else, or another version of it."""
        if fields.get("version") != VERSION:
            found = fields.get("version")
            raise ValueError(f"its version is {found}, not {VERSION}: draw it anew by dpctl bench report")
        try:
            told = tuple(_shaped(name, one) for name, one in fields["scenarios"].items())
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"this is no summary: {error!r}") from None
        return cls(told, dict(fields.get("left_out", {})))


def tell(scenario: Scenario, results: Results) -> Told:
    """What a scenario has to say of its results: a figure or an answer that is another one without the disturbed blocks
    is told, and says nothing. Raises ``ValueError`` for the name of a plot that is no file's."""
    plots = tuple(plot for plot in scenario.plots(results) if _something(plot))
    names = [plot.name for plot in plots]
    wrong = [name for name in names if not _NAME.fullmatch(name)]
    if wrong:
        raise ValueError(f'could not name a plot of "{scenario.name}" "{wrong[0]}": names are letters, digits, _ and -')
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f'could not name the plots of "{scenario.name}": there are two of {", ".join(sorted(twice))}')
    figures, answers = _marked(scenario, results)
    return Told(
        scenario.name,
        scenario.question,
        results.run,
        figures,
        answers,
        plots,
        tuple(scenario.tables(results)),
        results.notes,
        tuple(share for _, share in sorted(results.steal.items())),
        results.cut,
    )


def _marked(scenario: Scenario, results: Results) -> tuple[tuple[Figure, ...], tuple[Answer, ...]]:
    """Its figures and answers; those for which there are but disturbed blocks say so.

    A plain number stands: what was lost, or failed, was so in whichever block.
    """
    figures, answers = tuple(scenario.figures(results)), tuple(scenario.answers(results))
    if not results.disturbed:
        return figures, answers
    calm = results.calm()
    certain = _drawn(scenario.figures, calm) | _drawn(scenario.answers, calm)
    return (
        tuple(one if one in certain or one.counted is None else _disturbed(one) for one in figures),
        tuple(one if one in certain else replace(one, doubt=_and(one.doubt, DISTURBED)) for one in answers),
    )


def _drawn(
    draw: Callable[[Results], Sequence[Figure]] | Callable[[Results], Sequence[Answer]], results: Results
) -> frozenset[Figure | Answer]:
    """What is drawn; nothing where there is too little for it."""
    try:
        return frozenset(draw(results))
    except ValueError:
        return frozenset()


def _disturbed(figure: Figure) -> Figure:
    """A figure of disturbed blocks; a control of these is none that held."""
    if figure.control:
        return replace(figure, disturbed=True, met=False, note=_and(figure.note, f"RUN INVALID: {DISTURBED}"))
    return replace(figure, disturbed=True)


def _and(first: str, second: str) -> str:
    return ". ".join(part for part in (first, second) if part)


def _something(plot: Plot) -> bool:
    """Whether anything in it was measured."""
    match plot:
        case Curves():
            return any(line.points for line in plot.lines)
        case Bars():
            return bool(plot.bars)
        case Boxes():
            return bool(plot.boxes)
        case _:
            assert_never(plot)


def _told(told: Told) -> dict[str, object]:
    figures = []
    for figure in told.figures:
        why = told.why_not(figure)
        figures.append({**plain(figure), "valid": not why, "why": why})
    kinds = {kind: name for name, kind in _PLOTS.items()}
    return {
        "question": told.question,
        "run": dict(told.run),
        "doubts": list(told.doubts),
        "figures": figures,
        "answers": plain(told.answers),
        "plots": [{"kind": kinds[type(plot)], **plain(plot)} for plot in told.plots],
        "tables": list(told.tables),
        "notes": list(told.notes),
        "steal": list(told.steal),
        "cut": told.cut,
    }


def _shaped(name: str, fields: Mapping[str, Any]) -> Told:
    return Told(
        name,
        fields["question"],
        fields["run"],
        tuple(shaped(Figure, one) for one in fields["figures"]),
        tuple(shaped(Answer, one) for one in fields["answers"]),
        tuple(shaped(_PLOTS[one["kind"]], one) for one in fields["plots"]),
        tuple(fields["tables"]),
        tuple(fields["notes"]),
        tuple(fields["steal"]),
        fields["cut"],
    )
