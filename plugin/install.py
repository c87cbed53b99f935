"""Puts executables and an example conflist where runtimes look for them, and takes them away again.

    install(Path("/opt/cni/bin"), Path("/etc/cni/net.d"))   -> changes, the conflist's last
    remove_conflist(Path("/etc/cni/net.d"))                 -> change; nothing new is attached from then on
    remove_executables(Path("/opt/cni/bin"), DROP_IN_BIN)   -> changes; no runtime can send a DEL from then on

    DIR/dataplane, DIR/dataplane-bridge    a script of a few lines each, that starts plugin.shim with this interpreter
    DIR/10-dataplane.conflist              one entry that does everything

``drop_in`` names a directory for the same script under the names of plugins that it stands in for (portmap, bridge
...): beside theirs, never over them. The others that a runtime may need are linked there, so that it is a whole
directory of plugins, for runtimes that know only one.

All is looked at before anything is written. A file appears whole or not at all (temporary file, fsync, rename), and
the conflist last: from then on a runtime may call. A conflist that somebody changed, or wrote, is theirs: it is kept,
and the executable is installed or upgraded all the same. An executable that is not ours is in the way, and nothing is
installed. With ``force`` either is replaced, and kept beside as ``*.bak``, which no runtime reads.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from dataplane.errors import DataplaneError

EXECUTABLE = "dataplane"
EXECUTABLES = (EXECUTABLE, "dataplane-bridge")
DROP_INS = (
    "bridge", "cni-nftables-firewall", "cni-nftables-portmap", "firewall", "host-local", "isolation", "portmap",
)  # fmt: skip
DROP_IN_BIN = Path("/opt/cni/dataplane")
DISTRIBUTIONS_BIN = Path("/usr/lib/cni")
"""Where Debian and Ubuntu put plugins."""
CONFLIST = "10-dataplane.conflist"

_MARKER = "# The CNI plugin dataplane, installed by dpctl."
"""Tells our executable, of any version, from somebody else's."""
_MAX_SHEBANG = 127
"""Bytes of a first line that every kernel reads whole (BINPRM_BUF_SIZE was 128 until Linux 5.1)."""
_MARKER_WITHIN = 1024  # bytes


class InstallError(DataplaneError):
    """A file that cannot be installed, and why; nothing was changed."""


class Outcome(StrEnum):
    """What became of a file."""

    INSTALLED = "installed"
    UNCHANGED = "unchanged"
    UPGRADED = "upgraded"
    REPLACED = "replaced"
    LINKED = "linked"
    REMOVED = "removed"
    KEPT = "kept"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Change:
    """One file and what became of it, or would."""

    path: Path
    outcome: Outcome
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Planned:
    change: Change
    content: bytes
    mode: int
    backup: Path | None = None


def install(
    cni_bin: Path, conf: Path, *, drop_in: Path | None = None, force: bool = False, dry_run: bool = False
) -> tuple[Change, ...]:
    """Install the executables, with those that stand in for others in ``drop_in``, and the conflist unless there is
    another one.

    Raises ``InstallError`` naming what is in the way, and ``OSError``.
    """
    # Absolute paths: the conflist is read by processes that stand elsewhere.
    paths = [cni_bin.absolute() / name for name in EXECUTABLES]
    if drop_in is not None:
        if drop_in.resolve() == cni_bin.resolve():
            raise InstallError(f"could not install in {drop_in}: drop-ins need a directory of their own")
        paths += [drop_in.absolute() / name for name in DROP_INS]
    executables = [_plan(path, executable_text().encode(), 0o755, force=force) for path in paths]
    conflist = _plan(conf.absolute() / CONFLIST, conflist_text().encode(), 0o644, force=force)
    for executable in executables:
        if executable.change.outcome is Outcome.KEPT:
            raise InstallError(
                f"could not install {executable.change.path}: another file is there; "
                "move it away, or use --force, which keeps a copy"
            )
    if conflist.change.outcome is Outcome.KEPT:
        note = "it is not the example as it comes; dpctl install --force puts that there, and keeps a copy of this one"
        conflist = replace(conflist, change=replace(conflist.change, note=note))
    links = [] if drop_in is None else list(_missing_links(cni_bin.absolute(), drop_in.absolute()))
    if not dry_run:
        for one in executables:
            _write_changed(one)
        for link, target in links:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        _write_changed(conflist)
    linked = (Change(link, Outcome.LINKED, f"to {target}") for link, target in links)
    return (*(one.change for one in executables), *linked, conflist.change)


def remove_conflist(conf: Path) -> Change:
    """Remove the example conflist, if it is as ``install`` made it. Raises ``OSError``."""
    return _remove(conf.absolute() / CONFLIST, ours=_is_our_conflist)


def remove_executables(cni_bin: Path, drop_in: Path = DROP_IN_BIN) -> tuple[Change, ...]:
    """Remove the executables that are ours, of whatever version, and links and directory of the drop-ins. Raises
    ``OSError``."""
    found = [_remove(cni_bin.absolute() / name, ours=_is_our_executable) for name in EXECUTABLES]
    if not drop_in.is_dir():
        return tuple(found)
    found += [_remove(drop_in.absolute() / name, ours=_is_our_executable) for name in DROP_INS]
    linked = {cni_bin.absolute(), DISTRIBUTIONS_BIN}
    for link in sorted(drop_in.absolute().iterdir()):
        if link.is_symlink() and (target := link.readlink()).name == link.name and target.parent in linked:
            link.unlink()
            found.append(Change(link, Outcome.REMOVED))
    if not any(drop_in.iterdir()):
        drop_in.rmdir()
    return tuple(found)


def other_configurations(conf: Path) -> tuple[str, ...]:
    """Names of other network configurations in a directory; runtimes that use only one take the first by name."""
    kinds = {".conf", ".conflist", ".json"}
    found = (path.name for path in conf.glob("*") if path.suffix in kinds and path.name != CONFLIST)
    return tuple(sorted(found))


def executable_text() -> str:
    """The script: isolated from the environment's PYTHON*, and without ``site``, which costs a third of the start."""
    package = str(Path(__file__).absolute().parent.parent)
    shebang = f"#!{sys.executable} -IS"
    body = f"sys.path.append({package!r})\n\nfrom plugin.shim import main\n\nmain()\n"
    if len(shebang.encode()) <= _MAX_SHEBANG and not any(character.isspace() for character in sys.executable):
        return f"{shebang}\n{_MARKER}\nimport sys\n\n{body}"
    # Which plugin it is, the name of the script tells: Python would see "-c" in its place.
    body = f"import sys\n\ndel sys.argv[0]\n{body}"
    return f'#!/bin/sh\n{_MARKER}\nexec {shlex.quote(sys.executable)} -IS -c {shlex.quote(body)} "$0"\n'


def conflist_text() -> str:
    """The example: a network that podman, nerdctl and containerd can use as it is.

    CNI 1.0.0 is the newest version that podman 4 reads. 10.87.0.0/16 lies outside what podman (10.88.0.0/13 and above),
    nerdctl (10.4.0.0/16) and docker (172.17.0.0/12) hand out.
    """
    plugins = [
        {
            "type": "dataplane-bridge",
            "bridge": "dataplane0",
            "isGateway": True,
            "ipMasq": True,
            "ingressPolicy": "same-bridge",
            "checksum": "repair",
            "capabilities": {"portMappings": True, "ips": True, "mac": True},
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.87.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": "dataplane", "plugins": plugins}, indent=2) + "\n"


def _plan(path: Path, content: bytes, mode: int, *, force: bool) -> _Planned:
    if path.is_dir() and not path.is_symlink():  # a link to one is replaced like any other link
        raise InstallError(f"could not install {path}: a directory is there")
    found = _read(path)
    if found is None:
        return _Planned(Change(path, Outcome.INSTALLED), content, mode)
    if found == content and stat.S_IMODE(path.stat().st_mode) == mode:
        return _Planned(Change(path, Outcome.UNCHANGED), content, mode)
    if found == content or (mode & stat.S_IXUSR and _is_our_executable(found)):
        return _Planned(Change(path, Outcome.UPGRADED), content, mode)
    if force:
        backup = _free_backup(path)
        return _Planned(Change(path, Outcome.REPLACED, f"the former one is {backup}"), content, mode, backup)
    return _Planned(Change(path, Outcome.KEPT), content, mode)


def _read(path: Path) -> bytes | None:
    """The content of a file; None where there is none. What is no plain file reads as empty: never ours."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return path.read_bytes() if stat.S_ISREG(status.st_mode) else b""


def _free_backup(path: Path) -> Path:
    candidates = (path.with_name(f"{path.name}{suffix}") for suffix in (".bak", *(f".{n}.bak" for n in range(1, 1000))))
    for candidate in candidates:
        if not os.path.lexists(candidate):
            return candidate
    raise InstallError(f"could not keep a copy of {path}: there are too many")


def _missing_links(cni_bin: Path, drop_in: Path) -> Iterator[tuple[Path, Path]]:
    """Links for the plugins that we do not stand in for, ours and those that are found, from where they are first."""
    found = {name: cni_bin / name for name in EXECUTABLES}
    for directory in (cni_bin, DISTRIBUTIONS_BIN):
        for plugin in sorted(directory.iterdir()) if directory.is_dir() else ():
            if plugin.is_file() and os.access(plugin, os.X_OK):
                found.setdefault(plugin.name, plugin)
    for name, plugin in found.items():
        link = drop_in / name
        # One that leads nowhere any more is as good as none.
        if name not in DROP_INS and (not os.path.lexists(link) or (link.is_symlink() and not link.exists())):
            yield link, plugin


def _write_changed(planned: _Planned) -> None:
    if planned.change.outcome not in {Outcome.UNCHANGED, Outcome.KEPT}:
        _write(planned)


def _write(planned: _Planned) -> None:
    path = planned.change.path
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if planned.backup is not None:
        # A second link, so that there is a file by this name at every moment.
        os.link(path, planned.backup, follow_symlinks=False)
    # In the same directory, so that the rename is atomic; a dot and no suffix, so that no runtime reads it.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{EXECUTABLE}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(planned.content)
            os.fchmod(file.fileno(), planned.mode)
            file.flush()
            os.fsync(file.fileno())
        # A rename, because writing into an executable that runs fails ("text file busy").
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove(path: Path, ours: Callable[[bytes], bool]) -> Change:
    found = _read(path)
    if found is None:
        return Change(path, Outcome.ABSENT)
    if not ours(found):
        return Change(path, Outcome.KEPT, "it is not as dpctl installed it")
    path.unlink()
    return Change(path, Outcome.REMOVED)


def _is_our_executable(content: bytes) -> bool:
    return _MARKER.encode() in content[:_MARKER_WITHIN].splitlines()


def _is_our_conflist(content: bytes) -> bool:
    return content == conflist_text().encode()
