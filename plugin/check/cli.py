"""``dpctl config check``: what a conflist will do here, key by key; nothing is changed, and no kernel is asked.

dpctl config check /etc/cni/net.d/87-podman-bridge.conflist

Exit status: 0 nothing is wrong, 1 no conflist or not to be read, 2 used wrongly, 3 a problem was found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from control.cli.findings import note
from control.cli.output import EXIT_PROBLEM, json_option, print_json, print_table
from plugin.check.chainrules import Finding
from plugin.check.report import EntryReport, NoConflistError, Report, Standing, check
from plugin.errors import CniError
from plugin.jsontext import Json, JsonObject, parse_object
from plugin.runtime.conflist import ConfList, ConfListError

_STANDINGS = {
    Standing.OURS: "ours",
    Standing.DROP_IN: "served by ours where dpctl install --drop-in put it under this name",
    Standing.FOREIGN: "stays what it is: no plugin of ours does that",
}


@click.group()
def config() -> None:
    """Look at network configurations."""


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def check_command(ctx: click.Context, file: Path, *, as_json: bool) -> None:
    """Say what each key of FILE, a conflist or a .conf, does here, what is wrong, and what one entry does the same."""
    report = _read(file)
    if as_json:
        print_json({"file": str(file), **_fields(report)})
    else:
        _print(report)
    ctx.exit(EXIT_PROBLEM if report.problems else 0)


def _read(file: Path) -> Report:
    try:
        return check(_with_plugins_beside(file, parse_object(file.read_bytes())))
    except OSError as error:
        raise NoConflistError(f"could not read {file}: {error.strerror or error}") from error
    except CniError as error:
        raise NoConflistError(f"could not read {file}: {error.details}") from error
    except NoConflistError as error:
        raise NoConflistError(f"could not read {file}: {error}") from error


def _with_plugins_beside(file: Path, document: JsonObject) -> JsonObject:
    """A list with the plugins that libcni takes from the directory of its name (CNI 1.1), as if they were in it."""
    if "type" in document:
        return document
    try:
        plugins: list[Json] = [*ConfList.load(file).plugins]
    except ConfListError:
        return document  # and the check says what is wrong with it
    return {**document, "plugins": plugins}


def _print(report: Report) -> None:
    click.echo(f'network "{report.name}", CNI {report.cni_version or "0.1.0"}')
    for number, entry in enumerate(report.entries, 1):
        click.echo(f"\n{number}. {entry.type}: {_STANDINGS[entry.standing]}")
        # That there is a type is told by the line above.
        rows = [(f"   {key.path}", key.effect or "-", key.text) for key in entry.keys if key.path != "type"]
        if rows:
            print_table(("   KEY", "EFFECT", "HERE"), rows)
        for text in entry.notes:
            click.echo(note("note", text))
    _print_findings("problems", report.problems)
    _print_findings("remarks", report.remarks)
    click.echo()
    if report.single.entry is None:
        click.echo("no single entry does the same:")
        _print_lines(report.single.obstacles)
    else:
        stays = report.single.stays
        rest = f", followed by {' and '.join(stays)} as {'it is' if len(stays) == 1 else 'they are'}" if stays else ""
        click.echo(f"one entry that does the same{rest}:")
        click.echo(json.dumps(report.single.entry, indent=2))


def _print_findings(title: str, findings: Sequence[Finding]) -> None:
    if findings:
        click.echo(f"\n{title}:")
        _print_lines(map(str, findings))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(f"  - {line}")


def _fields(report: Report) -> dict[str, object]:
    return {
        "network": report.name,
        "cni_version": report.cni_version,
        "plugins": [_entry_fields(entry) for entry in report.entries],
        "problems": [{"path": one.path, "text": one.text} for one in report.problems],
        "remarks": [{"path": one.path, "text": one.text} for one in report.remarks],
        "single_entry": report.single.entry,
        "stays": list(report.single.stays),
        "obstacles": list(report.single.obstacles),
    }


def _entry_fields(entry: EntryReport) -> dict[str, object]:
    return {
        "path": entry.path,
        "type": entry.type,
        "standing": entry.standing,
        "keys": [{"path": key.path, "effect": key.effect, "text": key.text} for key in entry.keys],
        "notes": list(entry.notes),
    }
