"""``dpctl``: the root of the command line. Commands come from the entry point group ``dpctl.commands``.

Exit status: 0 done, 1 failed, 2 used wrongly, 3 a problem was found, 4 the agent is unreachable. A failure is one line
on stderr; with ``DATAPLANE_DEBUG`` set it is a traceback.

Be aware: a command is imported when it is named, and all of them for ``--help``. One that cannot be imported is shown
as broken and keeps the others going.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version

import click

from dataplane.errors import DataplaneError
from dataplane.streams import open_standard_streams

GROUP = "dpctl.commands"
FAILED, UNREACHABLE = 1, 4


class BrokenCommand(click.Command):
    """Stands for a command that cannot be imported, and says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, help=f"(broken: {reason})", add_help_option=False, params=[])
        self._reason = reason
        self.ignore_unknown_options = self.allow_extra_args = True

    def invoke(self, _ctx: click.Context) -> None:
        """Fail with the reason."""
        raise click.ClickException(f"the command {self.name} is broken: {self._reason}")


class CommandMenu(click.Group):
    """A group whose commands are the entry points of ``GROUP``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, without importing any."""
        return sorted({*super().list_commands(ctx), *entry_points(group=GROUP).names})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command with this name, imported now."""
        for entry in entry_points(group=GROUP, name=name):
            return _load(entry)
        return super().get_command(ctx, name)


def _load(entry: EntryPoint) -> click.Command:
    try:
        command = entry.load()
    except Exception as error:  # whatever a module raises as it is imported must not break the menu
        if os.environ.get("DATAPLANE_DEBUG"):
            raise
        return BrokenCommand(entry.name, f"{type(error).__name__}: {error}")
    if not isinstance(command, click.Command):
        return BrokenCommand(entry.name, f"{entry.value} is no command")
    return command


@click.group(cls=CommandMenu, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("dataplane"), prog_name="dpctl", message="%(prog)s %(version)s")
def root() -> None:
    """Container dataplane: published ports, isolated networks, repaired checksums."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run dpctl and exit with its status."""
    open_standard_streams()
    sys.exit(run(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """Run dpctl; its exit status. What a user can cause ends here as one line on stderr."""
    try:
        status = root.main(args=argv, prog_name="dpctl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("dpctl: interrupted", err=True)
        return 130
    except DataplaneError as error:
        return _report(error)
    except OSError as error:
        if os.environ.get("DATAPLANE_DEBUG"):
            raise
        where = f"open {error.filename}" if error.filename else "complete the command"
        root_only = "; run it as root" if isinstance(error, PermissionError) and os.geteuid() else ""
        click.echo(f"dpctl: could not {where}: {error.strerror or error}{root_only}", err=True)
        return FAILED
    return status if isinstance(status, int) else 0


def _report(error: DataplaneError) -> int:
    from control.protocol.client import AgentUnreachableError  # noqa: PLC0415 - only a failure needs to know it

    if os.environ.get("DATAPLANE_DEBUG"):
        raise error
    click.echo(f"dpctl: {error}", err=True)
    return UNREACHABLE if isinstance(error, AgentUnreachableError) else FAILED
