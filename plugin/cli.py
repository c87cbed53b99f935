"""``dpctl install`` and ``dpctl uninstall``.

    dpctl install [--cni-bin DIR] [--conf DIR] [--drop-in] [--drop-in-bin DIR] [--systemd] [--force] [--dry-run]
    dpctl uninstall [--cni-bin DIR] [--conf DIR] [--drop-in-bin DIR]

An uninstall goes from what starts things to what ends them:

    the conflist      nothing new is attached
    the agent         where systemd runs it: it would put back what is removed next
    the kernel        where that fails the executable stays, so that a DEL still works, and a second uninstall goes on
    the executables, and the units

Be aware: uninstall removes published ports and isolation of containers that still run, too. Remove these containers
first; their runtime can no longer send a DEL once the executable is gone.
"""

from __future__ import annotations

from pathlib import Path

import click

from control.cli.output import json_option, print_json, print_table
from dataplane.errors import DataplaneError
from plugin import units
from plugin.install import (
    DISTRIBUTIONS_BIN,
    EXECUTABLE,
    Change,
    Outcome,
    other_configurations,
    remove_conflist,
    remove_executables,
)
from plugin.install import install as install_files
from plugin.native.installed import DROP_IN_BIN


class UninstallError(DataplaneError):
    """The kernel is not rid of us yet; the text says what is left and what to do."""


_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_cni_bin = click.option(
    "--cni-bin", type=_DIRECTORY, default=Path("/opt/cni/bin"), show_default=True, help="Where plugins are."
)
_conf = click.option(
    "--conf", type=_DIRECTORY, default=Path("/etc/cni/net.d"), show_default=True, help="Where conflists are."
)
_drop_in_bin = click.option(
    "--drop-in-bin", type=_DIRECTORY, default=DROP_IN_BIN, show_default=True, help="Where drop-ins are."
)

_unit_dir = click.option(
    "--unit-dir", type=_DIRECTORY, default=units.UNIT_DIRECTORY, show_default=True, help="Where systemd's units are."
)


@click.command()
@_cni_bin
@_conf
@click.option("--drop-in", is_flag=True, help="Also install the plugin as bridge, portmap, firewall, host-local ...")
@_drop_in_bin
@click.option("--systemd", is_flag=True, help="Also install units for the agent; where systemd runs, start it.")
@_unit_dir
@click.option("--force", is_flag=True, help="Replace other files by these names; a copy of each is kept as *.bak.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
def install(
    cni_bin: Path,
    conf: Path,
    unit_dir: Path,
    *,
    drop_in: bool,
    drop_in_bin: Path,
    systemd: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Install the CNI plugin and an example conflist; a conflist that was edited is kept.

    With --drop-in it also stands in for the plugins that your conflists name already, from a directory of its own:
    theirs stay as they are, and the runtime decides by the order of its plugin directories.
    """
    dpctl = units.own_dpctl() if systemd else None
    changes = install_files(cni_bin, conf, drop_in=drop_in_bin if drop_in else None, force=force, dry_run=dry_run)
    started: tuple[str, ...] = ()
    if dpctl is not None:
        changes += units.install_units(unit_dir, dpctl, force=force, dry_run=dry_run)
        started = units.start() if units.systemd_reads(unit_dir) and not dry_run else ()
    others = other_configurations(conf)
    if as_json:
        print_json({"dry_run": dry_run, "files": _fields(changes), "other_configurations": others, "systemd": started})
        return
    _print(changes, would=dry_run)
    if systemd:
        _print_systemd(started, unit_dir, would=dry_run)
    if drop_in:
        click.echo(_how_to_use(drop_in_bin.absolute(), cni_bin.absolute()))
    if others:
        click.echo(f"note: {conf} also holds {', '.join(others)}; containerd and CRI-O use the first file by name")


@click.command()
@_cni_bin
@_conf
@_drop_in_bin
@_unit_dir
@json_option
def uninstall(cni_bin: Path, conf: Path, drop_in_bin: Path, unit_dir: Path, *, as_json: bool) -> None:
    """Remove example conflist, everything of ours from the kernel, the plugin with its drop-ins, and the units."""
    from control.engine import open_engine  # noqa: PLC0415 - install and --help need no kernel

    conflist = remove_conflist(conf)
    with_systemd = units.systemd_reads(unit_dir)
    done = units.stop(unit_dir) if with_systemd else ()
    try:
        with open_engine() as engine:
            removed = engine.teardown()
    except (DataplaneError, OSError) as error:
        raise UninstallError(
            f"could not remove everything from the kernel: {error}; the conflist is {conflist.outcome}, and "
            f"{cni_bin.absolute() / EXECUTABLE} stays until that is done: run dpctl uninstall again"
        ) from error
    changes = (conflist, *remove_executables(cni_bin, drop_in_bin), *units.remove_units(unit_dir))
    done += units.forget() if done else ()
    if as_json:
        print_json({"files": _fields(changes), "kernel": removed, "systemd": done})
        return
    _print(changes)
    for command in done:
        click.echo(f"systemd: {command}")
    for line in removed or ["nothing of ours was in the kernel"]:
        click.echo(f"kernel: {line}")


def _how_to_use(drop_in: Path, cni_bin: Path) -> str:
    directories = ", ".join(f'"{one}"' for one in (drop_in, cni_bin, DISTRIBUTIONS_BIN))
    return f"""
to use the drop-ins, let the runtime look there first; dpctl config check FILE says what your conflists will do
  podman      containers.conf, [network]:      cni_plugin_dirs = [{directories}]
  nerdctl     nerdctl.toml:                    cni_path = "{drop_in}"
  containerd  config.toml, [plugins."io.containerd.grpc.v1.cri".cni]:  bin_dir = "{drop_in}"
  CRI-O       crio.conf, [crio.network]:       plugin_dirs = [{directories}]
  buildkitd   buildkitd.toml, [worker.oci]:    cniBinaryPath = "{drop_in}"
  cnitool     CNI_PATH={drop_in}:{cni_bin}"""


def _print_systemd(started: tuple[str, ...], unit_dir: Path, *, would: bool) -> None:
    for command in started:
        click.echo(f"systemd: {command}")
    if not units.systemd_reads(unit_dir):
        click.echo(f"systemd: not told: it does not run this machine, or does not look for units in {unit_dir}")
    elif would:
        click.echo(f"systemd: would enable {' and '.join(units.UNITS)}, and start them")


def _fields(changes: tuple[Change, ...]) -> list[dict[str, str]]:
    return [{"path": str(one.path), "outcome": one.outcome, "note": one.note} for one in changes]


def _print(changes: tuple[Change, ...], *, would: bool = False) -> None:
    rows = []
    for one in changes:
        changed = one.outcome not in {Outcome.UNCHANGED, Outcome.KEPT}
        outcome = f"would be {one.outcome}" if would and changed else str(one.outcome)
        rows.append((one.path, outcome, one.note))
    print_table(("FILE", "OUTCOME", "NOTE"), rows)
