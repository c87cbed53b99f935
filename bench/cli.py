"""``dpctl bench``: the figures of this machine.

dpctl bench list
dpctl bench run [SCENARIO ...] [--quick] [--out DIR]
dpctl bench report DIR                               bench/cli_results.py: this, compare and readme
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import click

from bench.cli_results import OUT, compare, draw_report, readme, report
from control.cli.output import json_option, print_json, print_table

_DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.group()
def bench() -> None:
    """Measure what the project promises, beside others, on this machine."""


for command in (report, compare, readme):
    bench.add_command(command)


@bench.command("list")
@json_option
def list_scenarios(as_json: bool) -> None:
    """The scenarios, and what each asks."""
    from bench.scenarios import NAMES, find  # noqa: PLC0415 - dpctl --help stays quick

    rows = [(name, find(name).question) for name in NAMES]
    if as_json:
        print_json({"scenarios": [{"name": name, "question": question} for name, question in rows]})
    else:
        print_table(("SCENARIO", "QUESTION"), rows)


@bench.command()
@click.argument("scenarios", nargs=-1)
@click.option(
    "--quick", is_flag=True, help="Fewer rounds: wider intervals, all of it in less than a quarter of an hour."
)
@click.option("--smoke", is_flag=True, hidden=True, help="Only see that it runs; the figures say nothing.")
@click.option("--out", type=_DIRECTORY, default=OUT, show_default=True, help="Where results are written.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the order within blocks.")
@click.option("--cpu", type=int, help="Start executables on this processor only.")
@click.option(
    "--peer",
    "peers",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    help="A directory of other plugins to compare with; may be given more than once. [default: /usr/lib/cni]",
)
@click.option("--many", is_flag=True, help="cni_latency: 10,000 containers with a port each, not 100 with 100.")
@json_option
def run(
    scenarios: tuple[str, ...], out: Path, seed: int, cpu: int | None, peers: tuple[Path, ...], *,
    quick: bool, smoke: bool, many: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure SCENARIOs (all without any) in namespaces of their own, and print the figures.

    A figure that misses what it must be is shown as "not met", and is no failure of the command. Needs root.
    """
    from bench.machine import describe  # noqa: PLC0415 - dpctl --help stays quick
    from bench.native import build  # noqa: PLC0415
    from bench.report import Log  # noqa: PLC0415
    from bench.scenarios import NAMES, SUITES, find  # noqa: PLC0415
    from bench.stage import PEERS, Extent, Stage  # noqa: PLC0415

    if os.geteuid() != 0:
        raise click.ClickException("a bench makes network namespaces: run it as root")
    chosen = [find(one) for name in scenarios or NAMES for one in SUITES.get(name, (name,))]
    out.mkdir(parents=True, exist_ok=True)
    extent = Extent.SMOKE if smoke else Extent.QUICK if quick else Extent.FULL
    facts = {**describe(), "extent": extent.name.lower(), "seed": seed, "pinned": cpu}
    # Not TMPDIR: where that is below /run or /var/lib, the hosts would not see it.
    with tempfile.TemporaryDirectory(prefix="dataplane-bench-", dir="/tmp") as temporary:
        directory = Path(temporary)
        (directory / "native").mkdir()
        native = build(directory / "native")
        for scenario in chosen:
            began = time.monotonic()
            with (out / f"{scenario.name}.jsonl").open("w", encoding="utf-8") as file:
                log = Log(file, {**facts, "scenario": scenario.name}, _progress)
                scenario.run(Stage(directory / scenario.name, native, log, extent, seed, cpu, many, peers or PEERS))
                log.end()
            _progress(f"{scenario.name}: done in {time.monotonic() - began:.0f} s")
    draw_report(out, {scenario.name for scenario in chosen}, as_json=as_json)


def _progress(text: str) -> None:
    click.echo(f"bench: {text}", err=True)
