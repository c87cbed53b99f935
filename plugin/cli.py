"""``dpctl install`` and ``dpctl uninstall``.

    dpctl install [--cni-bin DIR] [--conf DIR] [--force] [--dry-run]
    dpctl uninstall [--cni-bin DIR] [--conf DIR]

An uninstall goes from what starts things to what ends them:

    the conflist      nothing new is attached
    the kernel        where that fails the executable stays, so that a DEL still works, and a second uninstall goes on
    the executable

Be aware: uninstall removes published ports and isolation of containers that still run, too. Remove these containers
first; their runtime can no longer send a DEL once the executable is gone.
"""

from __future__ import annotations

from pathlib import Path

import click

from control.cli.output import json_option, print_json, print_table
from dataplane.errors import DataplaneError
from plugin.install import EXECUTABLE, Change, Outcome, other_configurations, remove_conflist, remove_executable
from plugin.install import install as install_files


class UninstallError(DataplaneError):
    """The kernel is not rid of us yet; the text says what is left and what to do."""


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
@click.option("--force", is_flag=True, help="Replace other files by these names; a copy of each is kept as *.bak.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
def install(cni_bin: Path, conf: Path, *, force: bool, dry_run: bool, as_json: bool) -> None:
    """Install the CNI plugin and an example conflist; a conflist that was edited is kept."""
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
    """Remove example conflist, everything of ours from the kernel, and the plugin."""
    from control.engine import open_engine  # noqa: PLC0415 - install and --help need no kernel

    conflist = remove_conflist(conf)
    try:
        with open_engine() as engine:
            removed = engine.teardown()
    except (DataplaneError, OSError) as error:
        raise UninstallError(
            f"could not remove everything from the kernel: {error}; the conflist is {conflist.outcome}, and "
            f"{cni_bin.absolute() / EXECUTABLE} stays until that is done: run dpctl uninstall again"
        ) from error
    changes = (conflist, remove_executable(cni_bin))
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
        changed = one.outcome not in {Outcome.UNCHANGED, Outcome.KEPT}
        outcome = f"would be {one.outcome}" if would and changed else str(one.outcome)
        rows.append((one.path, outcome, one.note))
    print_table(("FILE", "OUTCOME", "NOTE"), rows)
