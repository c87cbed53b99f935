"""Figures in other texts: what stands between two marks is drawn from a summary, and never written by hand. Pure.

    <!-- bench: answers per packet -->
    | ... |
    <!-- /bench -->

    It takes <!-- bench: value storm: ADD, 32 at once -->4.2 ms<!-- /bench -->.

| name | what is put there |
|---|---|
| `answers`, `answers per packet`, `answers per update` | the one table |
| `not won` | where ours does not win, and what is doubtful |
| `machine` | what it was measured on |
| `figures SCENARIO` | a scenario's figures |
| `plot NAME` | a plot, from where the summary lies |
| `value SCENARIO: FIGURE` | one figure, with its interval |
| `value SCENARIO: ANSWER: PEER` | how ours compares with a peer in a row of the one table |
"""

from __future__ import annotations

import re

from bench.figures.answers import Kind
from bench.figures.blocks import Block
from bench.figures.rows import spread, value
from bench.figures.words import faster
from bench.report import contents, machines, standing
from bench.report.markdown import render
from bench.report.summary import Summary, Told

_MARKED = re.compile(r"(<!-- bench: (?P<name>[^\n]+?) -->)(?P<text>.*?)(<!-- /bench -->)", re.DOTALL)
_OPEN = re.compile(r"<!-- bench: [^\n]+? -->")


def fill(text: str, summary: Summary, plots: str) -> str:
    """The text with all snippets drawn anew; ``plots`` is the way from it to the directory of the plots.

    Raises ``ValueError`` for a name that there is no snippet for, and for a mark without its end.
    """
    _check(text)
    return _MARKED.sub(lambda found: _filled(found, summary, plots), text)


def names(text: str) -> list[str]:
    """The snippets that a text asks for, in order."""
    _check(text)
    return [found["name"] for found in _MARKED.finditer(text)]


def _check(text: str) -> None:
    """Every mark has an end before the next begins."""
    opened, whole = len(_OPEN.findall(text)), [found["text"] for found in _MARKED.finditer(text)]
    ended = text.count("<!-- /bench -->")
    if not opened == ended == len(whole) or any(_OPEN.search(inner) for inner in whole):
        raise ValueError(f"{opened} marks <!-- bench: NAME --> and {ended} <!-- /bench -->: each has an end of its own")


def _filled(found: re.Match[str], summary: Summary, plots: str) -> str:
    drawn = _drawn(found["name"].strip(), summary, plots)
    inner = f"\n{drawn}\n" if "\n" in found["text"] or "\n" in drawn else drawn
    return f"{found[1]}{inner}{found[4]}"


def _drawn(name: str, summary: Summary, plots: str) -> str:
    kind, _, rest = name.partition(" ")
    match kind, rest:
        case "answers", "":
            found: tuple[Block, ...] = tuple(standing.tables(summary))
        case "answers", _ if rest in tuple(Kind):
            found = (standing.table(summary, Kind(rest)),)
        case "not", "won":
            found = tuple(standing.reservations(summary))
        case "machine", "":
            found = (machines.facts(summary),)
        case "figures", _:
            found = (contents.figures(_scenario(summary, rest)),)
        case "plot", _:
            found = tuple(contents.picture(plot) for plot in summary.plots() if plot.name == rest)
        case "value", _:
            return _value(summary, rest)
        case _:
            found = ()
    if not found:
        raise ValueError(f'could not draw the snippet "{name}": the summary has none of that name')
    return render(found, plots).rstrip("\n")


def _value(summary: Summary, name: str) -> str:
    """A figure, or a comparison of the one table."""
    scenario, _, what = name.partition(": ")
    told = _scenario(summary, scenario)
    for figure in told.figures:
        if figure.what == what:
            if why := told.why_not(figure):
                raise ValueError(f'could not draw the value "{name}": {why}')
            bounds = spread(figure)
            return f"{value(figure)} ({bounds})" if bounds else value(figure)
    for answer in told.answers:
        for one in answer.besides:
            if what == f"{answer.what}: {one.name}":
                if why := told.doubt(answer):
                    raise ValueError(f'could not draw the value "{name}": {why}')
                return faster(one.ratio)
    raise ValueError(f'could not draw the value "{name}": the summary has none of that name')


def _scenario(summary: Summary, name: str) -> Told:
    told = summary.scenario(name)
    if told is None:
        raise ValueError(f'could not find the scenario "{name}" in the summary')
    return told
