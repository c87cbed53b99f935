"""Puts executables and an example conflist where runtimes look for them, and takes them away again.

    install(Path("/opt/cni/bin"), Path("/etc/cni/net.d"))   -> changes, the conflist's last
    remove_conflist(Path("/etc/cni/net.d"))                 -> change; nothing new is attached from then on
    remove_executables(Path("/opt/cni/bin"), DROP_IN_BIN)   -> changes; no runtime can send a DEL from then on

    DIR/dataplane, DIR/dataplane-bridge    the executable (plugin.native.installed), once by each name
    DIR/10-dataplane.conflist              one entry that does everything

``drop_in`` names a directory for the same executable under the names of plugins that it stands in for (portmap,
bridge ...): beside theirs, never over them. The others that a runtime may need are linked there, so that it is a whole
directory of plugins, for runtimes that know only one.

All is looked at before anything is written. A file appears whole or not at all (temporary file, fsync, rename), and
the conflist last: from then on a runtime may call. A conflist that somebody changed, or wrote, is theirs: it is kept,
and the executable is installed or upgraded all the same. An executable that is not ours is in the way, and nothing is
installed. With ``force`` either is replaced, and kept beside as ``*.bak``, which no runtime reads.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from dataplane.crashpoints import Point, reached
from dataplane.errors import DataplaneError
from plugin.native.installed import DROP_IN_BIN, executable, is_ours

EXECUTABLE = "dataplane"
EXECUTABLES = (EXECUTABLE, "dataplane-bridge")
DROP_INS = (
    "bridge", "cni-nftables-firewall", "cni-nftables-portmap", "firewall", "host-local", "isolation", "portmap",
)  # fmt: skip
DISTRIBUTIONS_BIN = Path("/usr/lib/cni")
"""Where Debian and Ubuntu put plugins."""
CONFLIST = "10-dataplane.conflist"
_UNFINISHED = f".{EXECUTABLE}-"
"""What the names of files begin with that are being written; eight random characters follow."""


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
class Planned:
    """One file as it is to be."""

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
    content = executable()
    executables = [plan(path, content, 0o755, ours=is_ours, force=force) for path in paths]
    conflist = plan(conf.absolute() / CONFLIST, conflist_text().encode(), 0o644, force=force)
    for one in executables:
        if one.change.outcome is Outcome.KEPT:
            raise InstallError(
                f"could not install {one.change.path}: another file is there; "
                "move it away, or use --force, which keeps a copy"
            )
    if conflist.change.outcome is Outcome.KEPT:
        note = "it is not the example as it comes; dpctl install --force puts that there, and keeps a copy of this one"
        conflist = replace(conflist, change=replace(conflist.change, note=note))
    links = [] if drop_in is None else list(_missing_links(cni_bin.absolute(), drop_in.absolute()))
    if not dry_run:
        for one in executables:
            write(one)
        for link, target in links:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            reached(Point.INSTALL_LINKED)
        write(conflist)
    linked = (Change(link, Outcome.LINKED, f"to {target}") for link, target in links)
    return (*(one.change for one in executables), *linked, conflist.change)


def remove_conflist(conf: Path) -> Change:
    """Remove the example conflist, if it is as ``install`` made it. Raises ``OSError``."""
    return remove(conf.absolute() / CONFLIST, ours=_is_our_conflist)


def remove_executables(cni_bin: Path, drop_in: Path = DROP_IN_BIN) -> tuple[Change, ...]:
    """Remove the executables that are ours, of whatever version, and links and directory of the drop-ins. Raises
    ``OSError``."""
    found = [remove(cni_bin.absolute() / name, ours=is_ours) for name in EXECUTABLES]
    if not drop_in.is_dir():
        return tuple(found)
    found += [remove(drop_in.absolute() / name, ours=is_ours) for name in DROP_INS]
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


def plan(
    path: Path, content: bytes, mode: int, *, ours: Callable[[bytes], bool] = lambda _: False, force: bool
) -> Planned:
    """What would become of a file. One that is there and is ``ours`` is upgraded; another one is kept, unless
    ``force``. Raises ``InstallError``, ``OSError``."""
    if path.is_dir() and not path.is_symlink():  # a link to one is replaced like any other link
        raise InstallError(f"could not install {path}: a directory is there")
    found = _read(path)
    if found is None:
        return Planned(Change(path, Outcome.INSTALLED), content, mode)
    if found == content and stat.S_IMODE(path.stat().st_mode) == mode:
        return Planned(Change(path, Outcome.UNCHANGED), content, mode)
    if found == content or ours(found):
        return Planned(Change(path, Outcome.UPGRADED), content, mode)
    if force:
        backup = _free_backup(path)
        return Planned(Change(path, Outcome.REPLACED, f"the former one is {backup}"), content, mode, backup)
    return Planned(Change(path, Outcome.KEPT), content, mode)


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
            if plugin.is_file() and os.access(plugin, os.X_OK) and not plugin.name.startswith("."):
                found.setdefault(plugin.name, plugin)
    for name, plugin in found.items():
        link = drop_in / name
        # One that leads nowhere any more is as good as none.
        if name not in DROP_INS and (not os.path.lexists(link) or (link.is_symlink() and not link.exists())):
            yield link, plugin


def write(planned: Planned) -> None:
    """Write a file where its plan changes it: whole, or not at all. Raises ``OSError``."""
    if planned.change.outcome not in {Outcome.UNCHANGED, Outcome.KEPT}:
        _replace(planned)


def _replace(planned: Planned) -> None:
    planned.change.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _alone(planned.change.path.parent) as directory:
        _replace_in(directory, planned)


def _replace_in(directory: int, planned: Planned) -> None:
    path = planned.change.path
    if planned.backup is not None:
        # A second link, so that there is a file by this name at every moment.
        os.link(path, planned.backup, follow_symlinks=False)
        reached(Point.INSTALL_BACKED_UP)
    # In the same directory, so that the rename is atomic; a dot and no suffix, so that no runtime reads it.
    descriptor, temporary = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(planned.content)
            os.fchmod(file.fileno(), planned.mode)
            file.flush()
            os.fsync(file.fileno())
        reached(Point.INSTALL_WRITTEN)
        # A rename, because writing into an executable that runs fails ("text file busy").
        Path(temporary).rename(path)
        reached(Point.INSTALL_RENAMED)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    os.fsync(directory)


@contextmanager
def _alone(directory: Path) -> Iterator[int]:
    """Be the only one of us who writes in a directory, and sweep what a killed one left there; its descriptor."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for leftover in directory.glob(f"{_UNFINISHED}{'?' * 8}"):
            leftover.unlink(missing_ok=True)
        yield descriptor
    finally:
        os.close(descriptor)


def remove(path: Path, ours: Callable[[bytes], bool]) -> Change:
    """Remove a file if it is ``ours``. Raises ``OSError``."""
    if not path.parent.is_dir():
        return Change(path, Outcome.ABSENT)
    with _alone(path.parent):
        return _remove(path, ours)


def _remove(path: Path, ours: Callable[[bytes], bool]) -> Change:
    found = _read(path)
    if found is None:
        return Change(path, Outcome.ABSENT)
    if not ours(found):
        return Change(path, Outcome.KEPT, "it is not as dpctl installed it")
    path.unlink()
    reached(Point.INSTALL_REMOVED)
    return Change(path, Outcome.REMOVED)


def _is_our_conflist(content: bytes) -> bool:
    return content == conflist_text().encode()
