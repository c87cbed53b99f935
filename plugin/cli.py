"""``dpctl install`` and ``dpctl uninstall``.

    dpctl install [--cni-bin DIR] [--conf DIR] [--force] [--dry-run]
    dpctl uninstall [--cni-bin DIR] [--conf DIR]

Be aware: uninstall removes the state of the kernel, too: published ports and isolation of containers that still run.
Remove these containers first; their runtime can no longer send a DEL once the executable is gone.
"""

from __future__ import annotations

from pathlib import Path

import click

from control.cli.output import json_option, print_json, print_table
from plugin.install import Change, Outcome, other_configurations
from plugin.install import install as install_files
from plugin.install import uninstall as uninstall_files

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_cni_bin = click.option(
    "--cni-bin", type=_DIRECTORY, default=Path("/opt/cni/bin"), show_default=True, help="Where plugins are."
)
_conf = click.option(
    "--conf", type=_DIRECTORY, default=Path("/etc/cni/net.d"), show_default=True, help="Where conflists are."
)


@click.command()
@_cni_bin
@_conf
@click.option("--force", is_flag=True, help="Replace files of others, too; a copy of each is kept as *.bak.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
def install(cni_bin: Path, conf: Path, *, force: bool, dry_run: bool, as_json: bool) -> None:
    """Install the CNI plugin and an example conflist."""
    changes = install_files(cni_bin, conf, force=force, dry_run=dry_run)
    others = other_configurations(conf)
    if as_json:
        print_json({"dry_run": dry_run, "files": _fields(changes), "other_configurations": others})
        return
    _print(changes, would=dry_run)
    if others:
        click.echo(f"note: {conf} also holds {', '.join(others)}; containerd and CRI-O use the first file by name")


@click.command()
@_cni_bin
@_conf
@json_option
def uninstall(cni_bin: Path, conf: Path, *, as_json: bool) -> None:
    """Remove plugin, example conflist, and everything of ours from the kernel."""
    from control.engine import open_engine  # noqa: PLC0415 - install and --help need no kernel

    changes = uninstall_files(cni_bin, conf)
    with open_engine() as engine:
        removed = engine.teardown()
    if as_json:
        print_json({"files": _fields(changes), "kernel": removed})
        return
    _print(changes)
    for line in removed or ["nothing of ours was in the kernel"]:
        click.echo(f"kernel: {line}")


def _fields(changes: tuple[Change, ...]) -> list[dict[str, str]]:
    return [{"path": str(one.path), "outcome": one.outcome, "note": one.note} for one in changes]


def _print(changes: tuple[Change, ...], *, would: bool = False) -> None:
    rows = []
    for one in changes:
        outcome = f"would be {one.outcome}" if would and one.outcome is not Outcome.UNCHANGED else str(one.outcome)
        rows.append((one.path, outcome, one.note))
    print_table(("FILE", "OUTCOME", "NOTE"), rows)
