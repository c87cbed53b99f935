"""Results on paper: raw samples as lines of JSON, and the figures that are drawn from them as JSON and as a table.

    DIRECTORY/cni_latency.jsonl      one object a line: the run, then samples, blocks and notes as they came
    DIRECTORY/summary.json           the figures of all scenarios, with the run
    DIRECTORY/summary.md             the same as a table

Figures are always drawn from the lines that were written, so an old run can be read again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from bench.measure import (
    CONFIDENCE,
    CONTROL_BLOCKS,
    CONTROL_TOLERANCE,
    MOST_STEAL,
    Control,
    Interval,
    Sample,
    differences,
    interval,
    paired,
    percentile,
    undisturbed,
)

VERSION = 1
"""Of the lines and of ``summary.json``."""

_HEADERS = ("what", "measured", "95 %", "n", "must", "")
_MET = {True: "met", False: "not met", None: ""}


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table. ``value`` is None where nothing could be measured; the note says why."""

    what: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    count: int = 0
    must: str = ""
    met: bool | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often single values fell into each bucket, in one round."""

    measure: str
    variant: str
    buckets: tuple[tuple[float, int], ...]
    """(value, how often); buckets are at most 1 % wide."""
    size: int = 0
    block: int = 0


@dataclass(frozen=True, slots=True)
class Results:
    """What one scenario wrote."""

    run: Mapping[str, Any]
    samples: tuple[Sample, ...] = ()
    steal: Mapping[int, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    histograms: tuple[Histogram, ...] = ()

    def of(self, measure: str, variant: str, size: int | None = None) -> list[Sample]:
        """The samples of a variant, without those of disturbed blocks; with all where every block was."""
        found = [
            one for one in self.samples
            if one.measure == measure and one.variant == variant and (size is None or one.size == size)
        ]  # fmt: skip
        return undisturbed(found, dict(self.steal)) or found

    def spread(self, measure: str, variant: str, size: int | None = None) -> dict[float, int]:
        """The histograms of all undisturbed rounds of a variant, as one; with all where every block was disturbed."""
        mine = [
            one for one in self.histograms
            if one.measure == measure and one.variant == variant and (size is None or one.size == size)
        ]  # fmt: skip
        calm = [one for one in mine if self.steal.get(one.block, 0.0) <= MOST_STEAL] or mine
        merged: Counter[float] = Counter()
        for one in calm:
            for value, count in one.buckets:
                merged[value] += count
        return dict(merged)

    def sizes(self, measure: str, variant: str) -> list[int]:
        """The numbers of ports that were present while a variant was measured."""
        return sorted({one.size for one in self.samples if one.measure == measure and one.variant == variant})


class Log:
    """Writes the lines of one scenario."""

    def __init__(self, file: IO[str], run: Mapping[str, Any], tell: Callable[[str], None]) -> None:
        self._file, self._tell = file, tell
        self._line("run", run)

    def sample(self, measure: str, variant: str, value: float, *, size: int = 0, block: int = 0) -> None:
        """One measured value."""
        self._line("sample", asdict(Sample(measure, variant, value, size, block)))

    def histogram(
        self, measure: str, variant: str, buckets: Iterable[tuple[float, int]], *, size: int = 0, block: int = 0
    ) -> None:
        """How single values of one round were distributed."""
        self._line("histogram", asdict(Histogram(measure, variant, tuple(buckets), size, block)))

    def block(self, block: int, steal: float, load: float) -> None:
        """What the machine did besides, during a block."""
        self._line("block", {"block": block, "steal": round(steal, 5), "load": load})

    def note(self, text: str) -> None:
        """Something a reader of the figures must know."""
        self._line("note", {"text": text})
        self._tell(text)

    def progress(self, text: str) -> None:
        """For whoever waits; not kept."""
        self._tell(text)

    def _line(self, kind: str, fields: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"kind": kind, **fields}) + "\n")
        self._file.flush()


def read(path: Path) -> Results:
    """What ``Log`` wrote. Raises ``OSError``, and ``ValueError`` for something else."""
    run: Mapping[str, Any] = {}
    samples, steal, notes = list[Sample](), dict[int, float](), list[str]()
    histograms = list[Histogram]()
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        match fields.pop("kind"):
            case "run":
                run = fields
            case "sample":
                samples.append(Sample(**fields))
            case "histogram":
                buckets = tuple((value, count) for value, count in fields.pop("buckets"))
                histograms.append(Histogram(buckets=buckets, **fields))
            case "block":
                steal[fields["block"]] = fields["steal"]
            case "note":
                notes.append(fields["text"])
    return Results(run, tuple(samples), steal, tuple(notes), tuple(histograms))


def median_figure(
    what: str, samples: Sequence[Sample], unit: str, at_most: float | None = None, note: str = ""
) -> Figure:
    """The median of all samples; its interval is that of the medians of the blocks, and one block has none."""
    must = "" if at_most is None else f"<= {number(at_most)} {unit}"
    if not samples:
        return Figure(what, None, unit, must=must, met=None if at_most is None else False, note=note or "not measured")
    blocks: dict[int, list[float]] = {}
    for sample in samples:
        blocks.setdefault(sample.block, []).append(sample.value)
    spread = interval([percentile(values, 0.5) for values in blocks.values()])
    middle = percentile([sample.value for sample in samples], 0.5)
    met = None if at_most is None else middle <= at_most
    low, high = (spread.low, spread.high) if spread.count > 1 else (None, None)
    return Figure(what, middle, unit, low, high, len(samples), must, met, note)


def percentile_figure(what: str, samples: Sequence[Sample], share: float, unit: str) -> Figure:
    """A percentile of all samples, without an interval."""
    if not samples:
        return Figure(what, None, unit, note="not measured")
    return Figure(what, percentile([one.value for one in samples], share), unit, count=len(samples))


def ratio_figure(
    what: str,
    above: Sequence[Sample],
    below: Sequence[Sample],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Figure:
    """The median over blocks of the ratio within a block. A limit is held against the median."""
    bounds = ((">=", at_least), ("<=", at_most))
    must = ", ".join(f"{sign} {number(limit)} x" for sign, limit in bounds if limit is not None)
    ratios = paired(above, below)
    if not ratios:
        return Figure(what, None, "x", must=must, met=False if must else None, note=note or "not measured")
    spread = interval(ratios)
    met = None
    if must:
        met = (at_least is None or spread.middle >= at_least) and (at_most is None or spread.middle <= at_most)
    return Figure(what, spread.middle, "x", spread.low, spread.high, spread.count, must, met, note)


def difference_figure(
    what: str, above: Sequence[Sample], below: Sequence[Sample], unit: str, *, note: str = ""
) -> Figure:
    """The median over blocks of the difference within a block: what one costs beyond the other."""
    apart = differences(above, below)
    if not apart:
        return Figure(what, None, unit, note=note or "not measured")
    spread = interval(apart)
    return Figure(what, spread.middle, unit, spread.low, spread.high, spread.count, note=note)


def control_figure(
    above: Sequence[Sample],
    below: Sequence[Sample],
    what: str = "control: the same twice",
    *,
    of: int = 1,
    within: float = CONTROL_TOLERANCE,
) -> Figure:
    """A variant against itself: where this is not met, the run is invalid, and says so.

    Of several controls in one run some find by chance what is not there: so each is one ``of`` so many, and has a wider
    interval (Bonferroni), that all of them together are as sure as one alone.
    """
    ratios = paired(above, below)
    if not ratios:
        return Figure(what, None, "x", note="not measured")
    spread: Interval = interval(ratios, confidence=1 - (1 - CONFIDENCE) / of)
    valid = Control(spread, within).valid
    apart = max(abs(spread.low - 1), abs(spread.high - 1))
    few = spread.count < CONTROL_BLOCKS
    why = f"blocks are too few: {spread.count}" if few else f"the machine differs from itself by up to {apart:.0%}"
    note = "" if valid else f"RUN INVALID: {why}"
    must = f"1 within {within:.0%}"
    return Figure(what, spread.middle, "x", spread.low, spread.high, spread.count, must, valid, note)


def count_figure(
    what: str, value: float | None, unit: str = "", at_most: float | None = None, note: str = ""
) -> Figure:
    """A plain number, held against a limit where there is one."""
    must = "" if at_most is None else f"{'<= ' if at_most else ''}{number(at_most)} {unit}".rstrip()
    met = None if at_most is None else value is not None and value <= at_most
    return Figure(what, value, unit, count=0 if value is None else 1, must=must, met=met, note=note)


def markdown(title: str, figures: Iterable[Figure], notes: Iterable[str]) -> str:
    """A scenario's table, and what is to be known about it."""
    rows = [_HEADERS, tuple("---" for _ in _HEADERS), *(_cells(figure) for figure in figures)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([f"### {title}", "", *lines, "", *(f"* {note}" for note in notes)]).rstrip() + "\n"


def grid(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of its own, beside that of the figures."""
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([f"### {title}", "", *lines]) + "\n"


def surroundings(results: Results) -> list[str]:
    """Where and when it was measured, and what disturbed it, as notes below a table."""
    run = results.run
    words = [str(run.get(name, "")) for name in ("run", "commit", "time", "extent")]
    where = f"{run.get('cpu')} x {run.get('cpus')}, Linux {run.get('kernel')}, Python {run.get('python')}"
    notes = [f"run {words[0]} of commit {words[1]} at {words[2]} ({words[3]}): {where}"]
    disturbed = sum(share > MOST_STEAL for share in results.steal.values())
    if disturbed:
        total = len(results.steal)
        left_out = "left out" if disturbed < total else "kept, for there are no others: repeat it on a quiet machine"
        notes.append(f"{disturbed} of {total} blocks had more than {MOST_STEAL:.0%} steal: {left_out}")
    return notes


def number(value: float) -> str:
    """Three significant digits, more before the point."""
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cells(figure: Figure) -> tuple[str, ...]:
    value = "-" if figure.value is None else f"{_shown(figure.value, figure.unit)} {figure.unit}".rstrip()
    spread = ""
    if figure.low is not None and figure.high is not None:
        spread = f"{_shown(figure.low, figure.unit)} - {_shown(figure.high, figure.unit)}"
    verdict = ". ".join(part for part in (_MET[figure.met], figure.note) if part)
    return figure.what, value, spread, f"{figure.count:,}" if figure.count else "", figure.must, verdict


def _shown(value: float, unit: str) -> str:
    """As ``number``, and ratios near 1 in thousandths: they are held against limits in hundredths."""
    return f"{value:.3f}" if unit == "x" and 0.9 <= value < 2 else number(value)
