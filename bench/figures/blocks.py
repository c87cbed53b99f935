"""What a report consists of, as values: headings, texts, lists, tables, pictures. Pure.

Written as Markdown by ``bench.report.markdown``, as a page by ``bench.report.html``. Texts may hold **bold** and
`code`; lines of a cell are apart by a newline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heading:
    """Level 1 is the title of all."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as long as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot, by its name. Title and remark are in the drawing; here they are for who does not see it."""

    name: str
    title: str
    remark: str = ""


Block = Heading | Text | Items | Table | Picture


def grid(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of a scenario's own, beside that of its figures, in Markdown."""
    lines = ["| " + " | ".join(_cell(one) for one in row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([f"### {title}", "", *lines]) + "\n"


def parse(markdown: str) -> Iterator[Block]:
    """The blocks of what ``grid`` made; a line that is none of its own is a paragraph."""
    lines = [line.strip() for line in markdown.splitlines()]
    rows: list[tuple[str, ...]] = []
    for line in [*lines, ""]:
        if line.startswith("|"):
            rows.append(_cells(line))
            continue
        if rows:
            yield _table(rows)
            rows = []
        if line.startswith("#"):
            level, _, text = line.partition(" ")
            yield Heading(len(level), text)
        elif line:
            yield Text(line)


def _table(rows: Sequence[tuple[str, ...]]) -> Table:
    header, *rest = rows
    return Table(header, tuple(row for row in rest if not all(cell.strip(":-") == "" and cell for cell in row)))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def _cells(line: str) -> tuple[str, ...]:
    apart = line.replace("\\|", "\0").strip().strip("|").split("|")
    return tuple(cell.strip().replace("\0", "|").replace("<br>", "\n") for cell in apart)
