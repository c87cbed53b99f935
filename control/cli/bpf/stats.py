"""``dpctl bpf stats``: what the programs counted, by name; with ``--watch`` how much a second."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import click

from control.cli.bpf.contents import Row, heading, in_words
from control.cli.bpf.group import bpf, loaded
from control.cli.bpf.names import Names, known_names
from control.cli.bpf.show import map_rows
from control.cli.output import json_option, print_json, print_table
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.programs.inventory import take_inventory
from dataplane.types import Program

_COUNTERS = ("checksum_counts", "filled", "isolation_drops", "guard_drops")
_TITLES = {
    "checksum_counts": "checksums, in packets",
    "filled": "partial sums completed",
    "isolation_drops": "dropped by isolation",
    "guard_drops": "dropped by guard",
}
_KEYS = frozenset({"device", "ifindex", "container", "network", "from_network", "to_network", "reason"})
"""Fields that say what was counted; the others are counters."""


@dataclass(frozen=True, slots=True)
class Sample:
    """All counters at one time."""

    time: float
    """CLOCK_MONOTONIC, in seconds."""
    counters: Mapping[str, tuple[Row, ...]]
    runs: Mapping[Program, tuple[int, int]]
    """Runs and the nanoseconds they took, of all copies."""
    events_lost: int


@bpf.command()
@click.option("--watch", is_flag=True, help="Print what is counted a second, until interrupted; runs are counted, too.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Of --watch: seconds.")
@click.option("--count", type=click.IntRange(min=1), help="Of --watch: end after so many intervals.")
@json_option
def stats(watch: bool, interval: float, count: int | None, as_json: bool) -> None:
    """What the programs counted: checksums by device, drops by network, container and reason, runs, events lost.

    The kernel counts runs and their time, for all BPF programs of the machine, while --watch runs. It costs some 20 to
    50 ns each run. Without it, runs are those of earlier watches, and of sysctl kernel.bpf_stats_enabled.
    """
    if count is not None and not watch:
        raise click.UsageError("--count is of --watch")
    programs, names = loaded("read statistics"), known_names()
    if not watch:
        sample = _sample(programs, names)
        print_json(_json(sample)) if as_json else _print(sample, "PACKETS")
        return
    with ExitStack() as stack:
        stack.enter_context(syscall.enable_stats())
        before, printed = _sample(programs, names), 0
        while count is None or printed < count:
            time.sleep(interval)
            now = _sample(programs, names)
            rates = difference(before, now)
            if as_json:
                print_json({**_json(rates), "seconds": round(rates.time, 3), "total": _json(now)}, line=True)
            else:
                click.echo(f"{time.strftime('%H:%M:%S')}  a second, over {rates.time:.1f} s")
                _print(per_second(rates), "A SECOND")
            before, printed = now, printed + 1


def difference(before: Sample, now: Sample) -> Sample:
    """What was counted between two samples; its time is what passed. Pure.

    Maps that evict, and programs that were loaded anew, count from 0 again: what is less than before is all new.
    """
    return Sample(
        time=now.time - before.time,
        counters={
            name: tuple(_since(row, before.counters.get(name, ())) for row in rows)
            for name, rows in now.counters.items()
        },
        runs={program: _both_since(before.runs.get(program, (0, 0)), found) for program, found in now.runs.items()},
        events_lost=_more(before.events_lost, now.events_lost),
    )


def per_second(difference: Sample) -> Sample:
    """A difference as rates, rounded. Pure."""
    seconds = max(difference.time, 1e-9)

    def rate(number: object) -> object:
        return round(number / seconds) if isinstance(number, int) else number

    return Sample(
        time=1.0,
        counters={
            name: tuple(
                {field: value if field in _KEYS else rate(value) for field, value in row.items()} for row in rows
            )
            for name, rows in difference.counters.items()
        },
        runs={program: (round(runs / seconds), round(ns / seconds)) for program, (runs, ns) in difference.runs.items()},
        events_lost=round(difference.events_lost / seconds),
    )


def _since(row: Row, before: tuple[Row, ...]) -> Row:
    same = next((one for one in before if _key(one) == _key(row)), {})
    return {
        field: _more(same.get(field, 0), value) if field not in _KEYS and isinstance(value, int) else value
        for field, value in row.items()
    }


def _more(before: object, now: int) -> int:
    return now - before if isinstance(before, int) and before <= now else now


def _both_since(before: tuple[int, int], now: tuple[int, int]) -> tuple[int, int]:
    return (now[0] - before[0], now[1] - before[1]) if before[0] <= now[0] and before[1] <= now[1] else now


def _key(row: Row) -> tuple[object, ...]:
    return tuple(value for field, value in row.items() if field in _KEYS)


def _sample(programs: KernelPrograms, names: Names) -> Sample:
    """Ask the kernel."""
    return Sample(
        time=time.monotonic(),
        counters={name: tuple(row for _, _, row in map_rows(programs, name, names)) for name in _COUNTERS},
        runs=take_inventory(programs.digest).runs,
        events_lost=programs.events_lost(),
    )


def _json(sample: Sample) -> Row:
    return {
        **{("checksums" if name == "checksum_counts" else name): list(rows) for name, rows in sample.counters.items()},
        "programs": [
            {
                "program": program.value,
                "name": program.function,
                "runs": runs,
                "run_ns": ns,
                "ns_per_run": _each(runs, ns),
            }
            for program, (runs, ns) in sample.runs.items()
        ],
        "events_lost": sample.events_lost,
    }


def _each(runs: int, ns: int) -> float | None:
    return round(ns / runs, 1) if runs else None


def _print(sample: Sample, runs_head: str) -> None:
    quiet = []
    for name, rows in sample.counters.items():
        counted = [row for row in rows if any(row[field] for field in row if field not in _KEYS)]
        if not counted:
            quiet.append(_TITLES[name])
            continue
        shown = [field for field in counted[0] if field != "ifindex"]
        click.echo(_TITLES[name])
        print_table(
            [heading(f"  {shown[0]}"), *map(heading, shown[1:])],
            [[f"  {in_words(row[shown[0]])}", *(in_words(row[field]) for field in shown[1:])] for row in counted],
        )
        click.echo()
    ran = [(program, runs, ns) for program, (runs, ns) in sample.runs.items() if runs]
    if ran:
        click.echo("runs")
        head = "RUNS" if runs_head == "PACKETS" else runs_head
        print_table(
            ("  PROGRAM", head, "NS EACH"), [(f"  {program}", runs, f"{ns / runs:.0f}") for program, runs, ns in ran]
        )
        click.echo()
    else:
        quiet.append("runs (counted while --watch runs)")
    if quiet:
        click.echo(f"nothing counted: {'; '.join(quiet)}")
    lost = sample.events_lost
    click.echo(f"events lost: {lost}" + (", for nobody read them in time" if lost else ""))
