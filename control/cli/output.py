"""How commands print: tables for people, versioned JSON for programs.

print_table(("CONTAINER", "PORT"), rows)
print_json({"ports": [...]})                     {"version": 1, "ports": [...]}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

VERSION = 1
"""The version of all JSON output: raised when a field changes its meaning or goes; new fields may come without."""

WIDTH = 110
"""Columns that running text is wrapped to."""

EXIT_PROBLEM = 3
"""Exit status of a command that did its work and found something wrong."""

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Give a command the option ``--json``, as its argument ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON (stable, versioned).")(command)


def print_json(fields: Mapping[str, object], *, line: bool = False) -> None:
    """Print one JSON object, with the version first. As one line, where more of them follow."""
    click.echo(json.dumps({"version": VERSION, **fields}, indent=None if line else 2, default=str))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns, aligned on the left, with two spaces between them."""
    lines = [list(headers), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
