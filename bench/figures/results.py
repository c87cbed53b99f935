"""Raw results: lines of JSON that a scenario writes while it runs, and what is read from them again.

    DIRECTORY/cni_latency.jsonl      one object a line: the run, then samples, blocks, notes as they came, and the end
    DIRECTORY/cni_latency.jsonl.xz   the same, as it is kept

All else is drawn from these lines, so an old run can be read again, and one that was interrupted as far as it came.
"""

from __future__ import annotations

import json
import lzma
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from bench.figures.measure import MOST_STEAL, Sample, undisturbed

VERSION = 2
"""Of the lines. 2: those of a run that came to its end end with a line that says so."""

ENDINGS = (".jsonl", ".jsonl.xz")


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
    cut: str = ""
    """Why there is not all of it; empty where there is."""

    def of(self, measure: str, variant: str, size: int | None = None) -> list[Sample]:
        """The samples of a variant, without those of disturbed blocks; with all where every block was: what is drawn of
        these is told and says nothing (``bench.report.summary.tell``)."""
        found = self.every(measure, variant, size)
        return undisturbed(found, self.steal) or found

    def every(self, measure: str, variant: str, size: int | None = None) -> list[Sample]:
        """The samples of a variant, of all blocks: a call that failed did so in a disturbed one, too."""
        return [
            one for one in self.samples
            if one.measure == measure and one.variant == variant and (size is None or one.size == size)
        ]  # fmt: skip

    @property
    def disturbed(self) -> frozenset[int]:
        """Blocks with more than ``MOST_STEAL``."""
        return frozenset(block for block, share in self.steal.items() if share > MOST_STEAL)

    def calm(self) -> Results:
        """The same without all that was measured in disturbed blocks."""
        samples = tuple(undisturbed(self.samples, self.steal))
        return replace(
            self, samples=samples, histograms=tuple(one for one in self.histograms if one.block not in self.disturbed)
        )

    def spread(self, measure: str, variant: str, size: int | None = None) -> dict[float, int]:
        """The histograms of all undisturbed rounds of a variant, as one; with all where every block was disturbed."""
        mine = [
            one for one in self.histograms
            if one.measure == measure and one.variant == variant and (size is None or one.size == size)
        ]  # fmt: skip
        calm = [one for one in mine if one.block not in self.disturbed] or mine
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

    def end(self) -> None:
        """All that was to be measured was."""
        self._line("end", {})

    def _line(self, kind: str, fields: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"kind": kind, **fields}) + "\n")
        self._file.flush()


def find_results(directory: Path, name: str) -> Path | None:
    """The raw results of a scenario, where there are any; those that are not packed first."""
    return next((path for ending in ENDINGS if (path := directory / f"{name}{ending}").exists()), None)


def read(path: Path) -> Results:
    """What ``Log`` wrote. A last line that is not whole is left out, and said.

    Raises ``OSError``, and ``ValueError`` for what is damaged, empty, or something else than results.
    """
    run: Mapping[str, Any] = {}
    samples, steal, notes = list[Sample](), dict[int, float](), list[str]()
    histograms = list[Histogram]()
    ended, whole = False, True
    for fields in _objects(path):
        match fields.pop("kind", "cut"):
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
            case "end":
                ended = True
            case "cut":
                whole = False
            case kind:
                raise ValueError(f'could not read {path}: there is a line of the kind "{kind}"')
    if not run:
        raise ValueError(f"could not read {path}: it does not begin with a run")
    return Results(run, tuple(samples), steal, tuple(notes), tuple(histograms), _cut(run, ended=ended, whole=whole))


def _cut(run: Mapping[str, Any], *, ended: bool, whole: bool) -> str:
    if not whole:
        return "interrupted within a line: only what was measured before is here"
    if run.get("version", 1) >= VERSION and not ended:
        return "interrupted: only what was measured before is here"
    return ""


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The lines; an empty object stands for a last one that is cut off."""
    packed = path.suffix == ".xz"
    with lzma.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, 1):
                yield _object(path, number, line)
        except (EOFError, lzma.LZMAError) as error:
            raise ValueError(f"could not read {path}: {error}") from None


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError as error:
        if not line.endswith("\n"):
            return {}
        raise ValueError(f"could not read {path}: line {number} is no JSON: {error}") from None
    return fields
