"""The units by which systemd runs the agent: put in place and started, stopped and taken away.

    install_units(UNIT_DIRECTORY, dpctl, ...)   -> changes;  start() -> what was done
    stop() -> what was done;                       remove_units(UNIT_DIRECTORY) -> changes

    DIR/dataplane.socket      opens the agent's socket; the first call starts the agent, and while it is started
                              again calls wait
    DIR/dataplane.service     the agent, by this interpreter's dpctl, with few rights

The first line of a unit holds the digest of the rest. One that was edited no longer fits its digest, and is kept;
``systemctl edit`` puts changes beside it, where they outlive an upgrade.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from dataplane.errors import DataplaneError
from plugin.install import Change, InstallError, Outcome, plan, remove, write

UNIT_DIRECTORY = Path("/etc/systemd/system")
SERVICE, SOCKET = "dataplane.service", "dataplane.socket"
UNITS = (SOCKET, SERVICE)

_TEXTS = Path(__file__).with_name("systemd")
_BOOTED = Path("/run/systemd/system")
"""There where systemd runs this machine: sd_booted(3)."""
_HEADER = re.compile(r"# Installed by dpctl \(([0-9a-f]{16})\); to change it: systemctl edit [a-z.]+\n")
_TIMEOUT = 120.0  # seconds: a first start compiles
_PLAIN = re.compile(r"[A-Za-z0-9_./+,:@-]+")


class UnitError(DataplaneError):
    """systemd refused; the text says what it was asked."""


def unit_text(name: str, dpctl: Path) -> str:
    """A unit, for the ``dpctl`` that it is to start."""
    body = (_TEXTS / name).read_text(encoding="utf-8").replace("@DPCTL@", _quoted(str(dpctl)))
    return f"# Installed by dpctl ({_digest(body)}); to change it: systemctl edit {name}\n{body}"


def own_dpctl() -> Path:
    """The dpctl beside this interpreter. Raises ``InstallError`` where there is none."""
    found = Path(sys.executable).with_name("dpctl")
    if not found.is_file():
        raise InstallError(f"could not find {found}: the units start the dpctl that is installed with the interpreter")
    return found


def install_units(directory: Path, dpctl: Path, *, force: bool = False, dry_run: bool = False) -> tuple[Change, ...]:
    """Install or upgrade both units; one that was edited is kept. Raises ``InstallError``, ``OSError``."""
    planned = [
        plan(directory.absolute() / name, unit_text(name, dpctl).encode(), 0o644, ours=_is_unedited, force=force)
        for name in UNITS
    ]
    changes = []
    for one in planned:
        if not dry_run:
            write(one)
        changes.append(_explained(one.change))
    return tuple(changes)


def remove_units(directory: Path) -> tuple[Change, ...]:
    """Remove both units; one that was edited is kept. Raises ``OSError``."""
    return tuple(remove(directory.absolute() / name, ours=_is_unedited) for name in UNITS)


def systemd_reads(directory: Path) -> bool:
    """Whether systemd runs this machine, and looks for units in this directory."""
    return _BOOTED.is_dir() and directory.absolute() == UNIT_DIRECTORY


def start() -> tuple[str, ...]:
    """Have systemd listen now and at each boot, and run the agent of this version; the commands that were run.

    Raises ``UnitError``.
    """
    return _systemctl(
        ("daemon-reload",),
        ("enable", "--now", SOCKET),
        ("enable", SERVICE),
        # Also one that runs: it keeps the code that it was started with.
        ("restart", SERVICE),
    )


def stop(directory: Path) -> tuple[str, ...]:
    """Have systemd stop the agent, and not start it again, where units of ours are installed, edited or not; the
    commands that were run. Raises ``UnitError``."""
    if not any(_is_ours(directory.absolute() / name) for name in UNITS):
        return ()
    # One by one: with both in one command, a call that comes in between would start the agent again.
    return _systemctl(("disable", "--now", SOCKET), ("disable", "--now", SERVICE))


def forget() -> tuple[str, ...]:
    """Have systemd forget units that were removed; the commands that were run. Raises ``UnitError``."""
    return _systemctl(("daemon-reload",))


def _systemctl(*commands: tuple[str, ...]) -> tuple[str, ...]:
    done = []
    for words in commands:
        command = ("systemctl", *words)
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnitError(f"could not run {' '.join(command)}: {error}") from error
        if ended.returncode:
            cause = " ".join(ended.stderr.split()) or f"exit status {ended.returncode}"
            raise UnitError(f"could not {' '.join(words)}: {cause}; see journalctl -u {SERVICE}")
        done.append(" ".join(command))
    return tuple(done)


def _explained(change: Change) -> Change:
    if change.outcome is not Outcome.KEPT:
        return change
    return replace(change, note="it was edited; --force replaces it, and keeps a copy")


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _is_unedited(content: bytes) -> bool:
    header, _, body = content.decode("utf-8", "replace").partition("\n")
    found = _HEADER.fullmatch(f"{header}\n")
    return found is not None and found[1] == _digest(body)


def _is_ours(path: Path) -> bool:
    try:
        return _HEADER.match(path.read_text(encoding="utf-8", errors="replace")) is not None
    except OSError:
        return False


def _quoted(path: str) -> str:
    """A path as the first word of ExecStart: systemd.service(5), "Command lines"."""
    escaped = path.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(path):
        return escaped
    escaped = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
