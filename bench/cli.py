"""``dpctl bench``: the figures of this machine.

dpctl bench list
dpctl bench packet | rules | cni [--quick] [--peer DIR] [--out DIR]
dpctl bench run [SCENARIO ...]
dpctl bench report DIR                       bench/cli_results.py: this, compare and readme
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from bench.cli_results import OUT, compare, draw_report, readme, report
from control.cli.output import json_option, print_json, print_table

_DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.group()
def bench() -> None:
    """Measure what the project promises, beside others, on this machine."""


@bench.command("list")
@json_option
def list_scenarios(as_json: bool) -> None:
    """The scenarios, and what each asks."""
    from bench.scenarios import SUITES, find  # noqa: PLC0415 - dpctl --help stays quick

    rows = [(suite, name, find(name).question) for suite, names in SUITES.items() for name in names]
    if as_json:
        print_json({"scenarios": [dict(zip(("suite", "name", "question"), row, strict=True)) for row in rows]})
    else:
        print_table(("SUITE", "SCENARIO", "QUESTION"), rows)


F = TypeVar("F", bound=Callable[..., None])


def _measuring(command: F) -> F:
    """The options of all commands that measure."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--quick", is_flag=True, help="Fewer rounds: wider intervals, enough to see the shape."),
    click.option("--smoke", is_flag=True, hidden=True, help="Only see that it runs; the figures say nothing."),
    click.option("--out", type=_DIRECTORY, default=OUT, show_default=True, help="Where results are written."),
    click.option("--seed", type=int, default=1, show_default=True, help="Of the order within blocks."),
    click.option("--cpu", type=int, help="Measure on this processor only. [default: the last; plugins on any]"),
    click.option(
        "--peer",
        "peers",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        multiple=True,
        help="A directory of other plugins to compare with; may be given more than once. [default: /usr/lib/cni]",
    ),
    click.option("--many", is_flag=True, help="cni_latency: 10,000 containers with a port each, not 100 with 100."),
    json_option,
)


@bench.command()
@click.argument("scenarios", nargs=-1)
@_measuring
def run(scenarios: tuple[str, ...], out: Path, *, as_json: bool, **asked: Any) -> None:
    """Measure SCENARIOs or suites (packet, rules, cni, host; all without any), and print the figures.

    A figure that misses what it must be is shown as "not met", and is no failure of the command. Needs root; everything
    happens in namespaces of its own. Ctrl-C ends it at once, and what was measured is reported.
    """
    _run(scenarios, out, as_json=as_json, **asked)


@bench.command()
@_measuring
def packet(out: Path, *, as_json: bool, **asked: Any) -> None:
    """Measure what a packet pays, beside raw veth, pure nft, and what people run."""
    _run(("packet",), out, as_json=as_json, **asked)


@bench.command()
@_measuring
def rules(out: Path, *, as_json: bool, **asked: Any) -> None:
    """Measure what it takes to change, list and restore rules."""
    _run(("rules",), out, as_json=as_json, **asked)


@bench.command()
@_measuring
def cni(out: Path, *, as_json: bool, **asked: Any) -> None:
    """Measure ADD, DEL and CHECK, beside other plugins."""
    _run(("cni",), out, as_json=as_json, **asked)


def _run(
    names: Sequence[str], out: Path, *, as_json: bool, quick: bool, smoke: bool, seed: int, cpu: int | None,
    peers: tuple[Path, ...], many: bool,
) -> None:  # fmt: skip
    from bench.progress import Progress  # noqa: PLC0415 - dpctl --help stays quick
    from bench.running import Options, Phase, run_all, stoppable  # noqa: PLC0415
    from bench.scenarios import find_all  # noqa: PLC0415
    from bench.stage import PEERS, Extent  # noqa: PLC0415

    if os.geteuid() != 0:
        raise click.ClickException("a bench makes network namespaces: run it as root")
    chosen = find_all(names)
    out.mkdir(parents=True, exist_ok=True)
    extent = Extent.SMOKE if smoke else Extent.QUICK if quick else Extent.FULL
    plan = [(one.name, float((*one.seconds, 0)[extent])) for one in chosen]
    progress = Progress(plan, sys.stderr)
    with stoppable(progress.interject) as signals:
        done = run_all(chosen, out, Options(extent, seed, cpu, many, peers or PEERS), progress, signals)
        signals.phase = Phase.DRAWING
        try:
            if done.ended:
                draw_report(out, {one.name for one in done.ended}, as_json=as_json)
        except KeyboardInterrupt:
            click.echo(f"bench: the report is not whole: dpctl bench report {out} draws it", err=True)
            done.stopped = True
    for name, why in done.failed.items():
        click.echo(f"bench: {name} was not measured to its end: {why}", err=True)
    if done.stopped:
        sys.exit(130)
    if done.failed:
        sys.exit(1)


for _command in (report, compare, readme):
    bench.add_command(_command)
