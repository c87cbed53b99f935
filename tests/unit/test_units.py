"""The units for systemd: put in place, upgraded, kept where somebody edited them, and taken away."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plugin import units
from plugin.install import InstallError, Outcome
from plugin.units import SERVICE, SOCKET, UNITS, UnitError, install_units, own_dpctl, remove_units, unit_text
from support import needs

DPCTL = Path("/opt/venv/bin/dpctl")


def outcomes(directory: Path, dpctl: Path = DPCTL, **options: bool) -> list[Outcome]:
    """What becomes of socket and service."""
    return [one.outcome for one in install_units(directory, dpctl, **options)]


def test_both_units_appear_and_go(tmp_path: Path) -> None:
    """Installed, then unchanged, then removed, then absent; anybody may read them, and nothing else is left."""
    assert outcomes(tmp_path) == [Outcome.INSTALLED, Outcome.INSTALLED]
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(UNITS)
    assert {one.stat().st_mode & 0o7777 for one in tmp_path.iterdir()} == {0o644}
    assert outcomes(tmp_path) == [Outcome.UNCHANGED, Outcome.UNCHANGED]
    assert [one.outcome for one in remove_units(tmp_path)] == [Outcome.REMOVED, Outcome.REMOVED]
    assert list(tmp_path.iterdir()) == []
    assert [one.outcome for one in remove_units(tmp_path)] == [Outcome.ABSENT, Outcome.ABSENT]


def test_to_install_again_is_to_upgrade(tmp_path: Path) -> None:
    """A unit of another version, or of another interpreter, that nobody edited is replaced."""
    outcomes(tmp_path)
    assert outcomes(tmp_path, Path("/opt/newer/bin/dpctl")) == [Outcome.UNCHANGED, Outcome.UPGRADED]
    assert "ExecStart=/opt/newer/bin/dpctl agent\n" in (tmp_path / SERVICE).read_text()


def test_an_edited_unit_is_kept(tmp_path: Path) -> None:
    """By install and by uninstall; with force it is replaced, and a copy is kept."""
    outcomes(tmp_path)
    edited = tmp_path / SERVICE
    edited.write_text(text := edited.read_text().replace("WatchdogSec=30", "WatchdogSec=300"))
    _, kept = install_units(tmp_path, DPCTL)
    assert (kept.outcome, edited.read_text()) == (Outcome.KEPT, text)
    assert "--force" in kept.note
    assert [one.outcome for one in remove_units(tmp_path)] == [Outcome.REMOVED, Outcome.KEPT]
    assert outcomes(tmp_path, force=True) == [Outcome.INSTALLED, Outcome.REPLACED]
    assert edited.with_name(f"{SERVICE}.bak").read_text() == text


def test_somebody_elses_unit_is_kept(tmp_path: Path) -> None:
    """A unit by that name that we did not write is not ours to replace, remove or stop."""
    (tmp_path / SERVICE).write_text("[Service]\nExecStart=/bin/true\n")
    assert outcomes(tmp_path)[1] is Outcome.KEPT
    assert remove_units(tmp_path)[1].outcome is Outcome.KEPT
    assert units.stop(tmp_path) == ()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """It only says what would become of them."""
    assert outcomes(tmp_path, dry_run=True) == [Outcome.INSTALLED, Outcome.INSTALLED]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_our_own_is_not_systemds(tmp_path: Path) -> None:
    """Where systemd does not look for units, it is not told about them."""
    assert not units.systemd_reads(tmp_path)


def test_the_units_start_the_dpctl_of_this_interpreter() -> None:
    """The one that installs them, and the one that systemd starts, are the same version."""
    assert own_dpctl() == Path(sys.executable).with_name("dpctl")


def test_without_dpctl_there_is_nothing_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter without a dpctl beside it gets no unit."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(InstallError, match="could not find /nowhere/dpctl"):
        own_dpctl()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/opt/venv/bin/dpctl", "/opt/venv/bin/dpctl"),
        ("/my venv/bin/dpctl", '"/my venv/bin/dpctl"'),
        ('/a"b/dpctl', '"/a\\"b/dpctl"'),
        ("/100%/$HOME/dpctl", '"/100%%/$$HOME/dpctl"'),
    ],
)
def test_the_path_is_one_word_to_systemd(path: str, words: str) -> None:
    """Spaces, quotes, specifiers and variables in it mean themselves."""
    assert f"ExecStart={words} agent\n" in unit_text(SERVICE, Path(path))


def test_what_systemctl_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The text has the command and systemd's words, and the commands before it are the ones that were run."""
    fake = tmp_path / "systemctl"
    fake.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/told\n[ "$1" != restart ] || {{ echo no such unit >&2; exit 5; }}\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{needs.SYSTEM_PATH}")
    with pytest.raises(UnitError, match=r"could not restart dataplane.service: no such unit; see journalctl -u"):
        units.start()
    assert (tmp_path / "told").read_text().splitlines() == [
        "daemon-reload",
        "enable --now dataplane.socket",
        "enable dataplane.service",
        "restart dataplane.service",
    ]
    outcomes(tmp_path / "units")
    assert units.stop(tmp_path / "units") == (
        "systemctl disable --now dataplane.socket",
        "systemctl disable --now dataplane.service",
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory with both units, for this interpreter."""
    install_units(tmp_path, own_dpctl())
    return tmp_path


def test_systemd_understands_every_line(installed: Path) -> None:
    """systemd-analyze verify has nothing to complain about."""
    analyze = needs.command("systemd-analyze", package="systemd")
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", *(installed / name for name in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_service_is_hardened(installed: Path) -> None:
    """systemd's own score of what it leaves the agent is below 4.0 ("OK"; a service without settings has 9.6)."""
    analyze = needs.command("systemd-analyze", package="systemd")
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=40", "--no-pager", installed / SERVICE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr


def test_the_socket_is_the_one_that_plugins_ask(installed: Path) -> None:
    """Path, mode and the directory's mode are those that the agent would make itself."""
    text = (installed / SOCKET).read_text()
    assert "ListenStream=/run/dataplane/agent.sock\nSocketMode=0600\nDirectoryMode=0750\n" in text


def test_the_units_come_with_the_package() -> None:
    """No unit has a line for this machine, and none is missing from the wheel."""
    from importlib.resources import files

    for name in UNITS:
        text = (files("plugin") / "systemd" / name).read_text(encoding="utf-8")
        assert not re.search(r"/root|/home|/work|\.venv", text)
    assert shutil.which("systemctl", path=needs.SYSTEM_PATH) is None or not units.systemd_reads(Path("/nowhere"))
