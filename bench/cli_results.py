"""What ``dpctl bench`` does with results: report, compare, and figures in other texts.

dpctl bench report DIR
dpctl bench compare A B [--fail-above 1.05]
dpctl bench readme DIR [FILES] [--check]
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from control.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from bench.report.compare import Comparison
    from bench.report.summary import Summary

OUT = Path("bench-results")

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_SUMMARY = click.Path(path_type=Path, exists=True)
_TEXTS = ("README.md", "bench/README.md", "docs/*.md")


@click.command()
@click.argument("directory", type=_DIRECTORY, default=OUT)
@json_option
def report(directory: Path, as_json: bool) -> None:
    """Draw the figures again from the raw results in DIRECTORY.

    Reads SCENARIO.jsonl and SCENARIO.jsonl.xz, also of a run that was interrupted. Where there are none, a summary.json
    is enough.
    """
    from bench.report.write import SUMMARY, of_results, stored  # noqa: PLC0415 - dpctl --help stays quick

    only_told = (directory / SUMMARY).exists() and not any(directory.glob("*.jsonl*"))
    _show(stored(directory) if only_told else of_results(directory), directory, as_json=as_json)


@click.command()
@click.argument("first", type=_SUMMARY)
@click.argument("second", type=_SUMMARY)
@click.option(
    "--fail-above",
    type=click.FloatRange(min=1, min_open=True),
    help="Exit with 1 where a ratio is worse by more than this factor, and its interval is sure of it. [e.g. 1.05]",
)
@json_option
def compare(first: Path, second: Path, fail_above: float | None, *, as_json: bool) -> None:
    """What the results in SECOND have beside those in FIRST.

    Each is a directory with results, or a summary.json. Ratios compare across machines; times do on one machine, and
    even there a machine drifts. So it is ratios that --fail-above judges: those of which it is known which way is
    better.
    """
    from bench.report.compare import compare as set_beside  # noqa: PLC0415 - dpctl --help stays quick
    from bench.report.shape import plain  # noqa: PLC0415

    found = set_beside(_summary(first), _summary(second))
    worse = found.worse(fail_above) if fail_above else ()
    if as_json:
        changes = [{**plain(change), "word": change.word} for change in found.changes]
        fields = {"apart": found.apart, "one_machine": found.one_machine, "changes": changes, "missing": found.missing}
        print_json({**fields, "unjudged": found.unjudged, "worse": [plain(change) for change in worse]})
    else:
        _print_comparison(found)
        if fail_above:
            click.echo(f"\nratios worse by more than {fail_above:g}: {len(worse)}")
            for one in worse:
                click.echo(f"  {one.scenario}, {one.what}")
            if found.unjudged:
                click.echo(f"not judged, for it is not known which way is better: {found.unjudged} ratios")
    if worse:
        click.get_current_context().exit(1)


def _summary(path: Path) -> Summary:
    """What a file or a directory has, drawn from raw results where it was not yet."""
    from bench.report.write import SUMMARY, of_results, stored  # noqa: PLC0415 - dpctl --help stays quick

    return of_results(path) if path.is_dir() and not (path / SUMMARY).exists() else stored(path)


def _print_comparison(found: Comparison) -> None:
    from bench.report.compare import table  # noqa: PLC0415 - dpctl --help stays quick

    for line in found.apart:
        click.echo(line)
    if not found.one_machine:
        click.echo("These are two machines: times are not comparable, ratios are.")
    elif found.apart:
        click.echo("This is one machine in two states: times may differ for that alone.")
    if found.apart:
        click.echo()
    rows = table(found)
    print_table(tuple(name.upper() for name in rows.header), rows.rows)
    for line in found.missing:
        click.echo(f"not compared: {line}")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 where a text differs from the summary.")
def readme(directory: Path, files: tuple[Path, ...], *, check: bool) -> None:
    """Draw the figures in FILES anew, from the summary.json in DIRECTORY.

    Without FILES, those in README.md, bench/README.md and docs/*.md. What is drawn stands between the marks
    <!-- bench: NAME --> and <!-- /bench -->.
    """
    from bench.report.snippets import fill  # noqa: PLC0415 - dpctl --help stays quick
    from bench.report.write import PLOTS, stored  # noqa: PLC0415

    summary = stored(directory)
    plots = (directory if directory.is_dir() else directory.parent) / PLOTS
    stale = []
    for file in files or [file for name in _TEXTS for file in sorted(Path().glob(name))]:
        text = file.read_text(encoding="utf-8")
        try:
            drawn = fill(text, summary, os.path.relpath(plots, file.parent))
        except ValueError as error:
            raise click.ClickException(f"could not draw the figures in {file}: {error}") from None
        if drawn == text:
            continue
        stale.append(file)
        if not check:
            file.write_text(drawn, encoding="utf-8")
            click.echo(f"{file}: figures drawn anew")
    if check and stale:
        named = ", ".join(map(str, stale))
        raise click.ClickException(f"figures in {named} are not those of {directory}: dpctl bench readme {directory}")


def draw_report(directory: Path, names: Collection[str], *, as_json: bool) -> None:
    """Write the report on all raw results in a directory, and print what it says of the scenarios named."""
    from bench.report.write import of_results  # noqa: PLC0415 - dpctl --help stays quick

    _show(of_results(directory), directory, names, as_json=as_json)


def _show(summary: Summary, directory: Path, names: Collection[str] | None = None, *, as_json: bool) -> None:
    from bench.report.contents import contents  # noqa: PLC0415 - dpctl --help stays quick
    from bench.report.markdown import render  # noqa: PLC0415
    from bench.report.write import PAGE, write  # noqa: PLC0415

    text = write(summary, directory, lambda line: click.echo(f"bench: {line}", err=True))
    asked = summary if names is None else summary.only(names)
    if as_json:
        print_json(asked.to_json())
    else:
        click.echo(text if asked == summary else render(contents(asked, drawn=())))
        click.echo(f"raw results, summary.json, report.md and plots: {directory}; all in one page: {directory / PAGE}")
