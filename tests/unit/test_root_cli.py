"""dpctl's root: its menu, its exit statuses, and what it says when something fails."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import click
import pytest

from control.cli import root
from control.protocol.client import AgentUnreachableError
from dataplane.errors import DataplaneError

DPCTL = Path(sys.executable).with_name("dpctl")


@click.command()
@click.argument("end")
def ending(end: str) -> None:
    """End in the way that is asked for."""
    match end:
        case "well":
            click.echo("done")
        case "problem":
            click.get_current_context().exit(3)
        case "exit":
            sys.exit(3)
        case "failed":
            raise DataplaneError('could not attach program "isolation": no such device')
        case "unreachable":
            raise AgentUnreachableError("could not reach the agent: connection refused")
        case "io":
            raise FileNotFoundError(2, "No such file or directory", "/nowhere")
        case "usage":
            raise click.UsageError("not like this")
        case "interrupt":
            raise KeyboardInterrupt
        case _:
            raise ZeroDivisionError


@pytest.fixture(autouse=True)
def menu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A menu of a sound command, a missing module and a thing that is no command."""
    here = Path(__file__)
    monkeypatch.syspath_prepend(here.parent)
    points = EntryPoints(
        [
            EntryPoint("ending", f"{here.stem}:ending", root.GROUP),
            EntryPoint("gone", "no_such_module:command", root.GROUP),
            EntryPoint("number", f"{here.stem}:NUMBER", root.GROUP),
        ]
    )
    monkeypatch.setitem(sys.modules, here.stem, sys.modules[__name__])
    monkeypatch.setattr(root, "entry_points", points.select)


NUMBER = 1


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("well", 0, ""),
        ("problem", 3, ""),
        ("failed", 1, 'dpctl: could not attach program "isolation": no such device\n'),
        ("unreachable", 4, "dpctl: could not reach the agent: connection refused\n"),
        ("io", 1, "dpctl: could not open /nowhere: No such file or directory\n"),
        ("interrupt", 130, "\ndpctl: interrupted\n"),
    ],
)
def test_exit_status(end: str, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every end of a command has its exit status, and a failure is one line on stderr."""
    assert root.run(["ending", end]) == status
    assert capsys.readouterr().err == said


def test_sys_exit_keeps_its_status() -> None:
    """A command that leaves by ``sys.exit`` keeps its status."""
    with pytest.raises(SystemExit) as left:
        root.run(["ending", "exit"])
    assert left.value.code == 3


@pytest.mark.parametrize("words", [["ending", "usage"], ["ending"], ["nothing"], ["--nothing"]])
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is exit status 2, with a hint, whoever notices it."""
    assert root.run(words) == 2
    assert "Error: " in capsys.readouterr().err


def test_a_mistake_of_ours_is_not_dressed_up() -> None:
    """An error that no user can cause stays the traceback that it is."""
    with pytest.raises(ZeroDivisionError):
        root.run(["ending", "mistake"])


def test_debugging_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """With DATAPLANE_DEBUG a failure keeps its traceback."""
    monkeypatch.setenv("DATAPLANE_DEBUG", "1")
    with pytest.raises(DataplaneError):
        root.run(["ending", "failed"])


def test_a_broken_command_does_not_break_the_menu(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists every command, and says of a broken one that it is."""
    assert root.run(["--help"]) == 0
    menu = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert "End in the way" in menu["ending"]
    assert "(broken: ModuleNotFoundError" in menu["gone"]
    assert "(broken: " in menu["number"]


def test_a_broken_command_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Calling a broken command fails with the reason, whatever its arguments."""
    assert root.run(["gone", "--json", "x"]) == 1
    assert "No module named 'no_such_module'" in capsys.readouterr().err


def test_the_installed_program() -> None:
    """The program that the wheel installs knows its version and every command of the menu, none of them broken."""
    assert subprocess.run([DPCTL, "--version"], capture_output=True, text=True, check=True).stdout == "dpctl 0.1.0\n"
    shown = subprocess.run([DPCTL, "--help"], capture_output=True, text=True, check=True).stdout
    for command in ("agent", "bpf", "checksum", "demo", "gc", "install", "nft", "ports", "ps", "status", "uninstall"):
        assert f"\n  {command} " in shown
    assert "broken" not in shown


def test_a_reader_that_leaves_is_no_failure() -> None:
    """``dpctl ... | head`` ends without a word."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([DPCTL, "--help"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""
