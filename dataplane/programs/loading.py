"""Pinned programs and maps: made once for each digest, by one process at a time, and complete as soon as visible.

    /sys/fs/bpf/dataplane/             0700, locked (flock) while programs are made
        <digest>/                      dp_isolation dp_checksum networks settings ...
        <digest>-unfinished/           being made; a leftover is removed by the next to hold the lock
        links/                         tcx links, see attach.py

A directory is filled under another name and renamed, so a process that is killed leaves nothing that looks finished;
two that start together make it once, for the second finds it when it gets the lock. The lock is on the directory
itself: it belongs to this bpffs, whatever else is mounted where. The child that compiles holds it, too: where its
parent is killed, nobody else begins before it has ended.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib.util
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import dataplane
from dataplane.crashpoints import Point, reached
from dataplane.errors import BpfError, MissingDependencyError
from dataplane.netns import scoped
from dataplane.programs import syscall
from dataplane.programs.compile import MISSING
from dataplane.programs.source import MAPS, read_source
from dataplane.types import Program

BPFFS = Path("/sys/fs/bpf")
BASE = Path(scoped(str(BPFFS / "dataplane")))
LINKS = BASE / "links"

_BPF_FS_MAGIC = 0xCAFE4A11
PINS = frozenset({program.function for program in Program} | set(MAPS))
"""What a complete directory holds."""

_COMPILE_TIMEOUT = 60.0
_LOG_LINES = 40


def digest() -> str:
    """Of the sources as they are now, and of the compiler that is installed."""
    return read_source().digest(compiler())


@dataclass(frozen=True, slots=True)
class Identity:
    """Of a directory of a bpffs: one that is made anew under the same name is another."""

    device: int
    inode: int


def finished(name: str) -> Identity | None:
    """The directory of this digest, where everything is pinned. Raises ``BpfError``."""
    path = f"{BASE}/{name}"
    with _refusals("list", BASE / name):
        try:
            if not PINS.issubset(os.listdir(path)):  # noqa: PTH208 - asked several times in each request
                return None
            about = os.stat(path)  # noqa: PTH116 - one that has taken its place since is complete as well
        except FileNotFoundError:
            return None
        return Identity(about.st_dev, about.st_ino)


def require_compiler() -> None:
    """See that programs could be compiled. Raises ``BpfError``."""
    if compiler() == "none":
        raise BpfError("load", "the BPF programs", "bcc is not installed", hint="apt-get install python3-bpfcc")


def load(name: str) -> bool:
    """Compile and pin unless that is done; whether it was done now. Raises ``BpfError``, ``MissingDependencyError``."""
    if finished(name) is not None:
        return False
    ensure_bpffs()
    with _refusals("make", BASE):
        BASE.mkdir(mode=0o700, exist_ok=True)
    with _refusals("write", BASE), _locked() as lock:
        if finished(name) is not None:
            return False
        unfinished = BASE / f"{name}-unfinished"
        for leftover in (unfinished, BASE / name):
            _remove(leftover)
        unfinished.mkdir(mode=0o700)
        reached(Point.PROGRAMS_BEGUN)
        try:
            _compile(unfinished, lock)
        except (BpfError, MissingDependencyError):
            _remove(unfinished)
            raise
        reached(Point.PROGRAMS_COMPILED)
        unfinished.rename(BASE / name)
        reached(Point.PROGRAMS_RENAMED)
    return True


def unload() -> list[str]:
    """Unpin everything: programs, maps and links; which directories went. It detaches what is attached by tcx."""
    with _refusals("remove", BASE):
        if not BASE.is_dir():
            return []
        with _locked():
            directories = sorted(BASE.iterdir())
            for directory in directories:
                _remove(directory)
                reached(Point.PINS_REMOVED)
            BASE.rmdir()
        return [str(directory) for directory in directories]


def prune(name: str, in_use: Collection[int]) -> list[str]:
    """Unpin what belongs to other digests than this one, except of programs whose ids are in use; which went."""
    if finished(name) is None:
        return []
    with _refusals("remove", BASE), _locked():
        others = [one for one in sorted(BASE.iterdir()) if one.name not in {name, LINKS.name}]
        unused = [one for one in others if not _program_ids(one) & set(in_use)]
        for directory in unused:
            _remove(directory)
    return [str(one) for one in unused]


def _program_ids(directory: Path) -> set[int]:
    ids = set()
    for program in Program:
        with suppress(BpfError), syscall.obj_get(directory / program.function) as pinned:
            ids.add(syscall.program_info(pinned.number).id)
    return ids


def ensure_bpffs() -> None:
    """Have a bpffs at ``BPFFS``: mount one where there is none. Raises ``MissingDependencyError``."""
    if _is_bpffs(BPFFS):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(BPFFS), b"bpf", ctypes.c_ulong(0), b"mode=0700"):
        reason = os.strerror(ctypes.get_errno())
        raise MissingDependencyError(f"could not mount a bpffs on {BPFFS}: {reason}; as root: mount -t bpf bpf {BPFFS}")


def _is_bpffs(path: Path) -> bool:
    buffer = (ctypes.c_long * 32)()  # struct statfs starts with f_type, a long
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.statfs(os.fsencode(path), buffer) == 0 and buffer[0] & 0xFFFFFFFF == _BPF_FS_MAGIC


@contextmanager
def _refusals(verb: str, path: Path) -> Iterator[None]:
    """What the bpffs refuses, as a ``BpfError``."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        hint = "run it as root" if number in {errno.EACCES, errno.EPERM} else ""
        raise BpfError.from_errno(verb, str(path), number, hint) from error


@contextmanager
def _locked() -> Iterator[int]:
    directory = os.open(BASE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(directory)


def _remove(directory: Path) -> None:
    if directory.is_dir():
        for pin in directory.iterdir():
            pin.unlink(missing_ok=True)
        directory.rmdir()


def _compile(directory: Path, lock: int) -> None:
    """Run the child, which inherits the lock. Raises ``BpfError`` or ``MissingDependencyError``."""
    root = str(Path(dataplane.__file__).resolve().parent.parent)
    # -P: a runtime starts us in directories of its own choice, and no module is to come from there.
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "dataplane.programs.compile", str(directory)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(lock,),
        text=True,
        errors="replace",
    )
    try:
        _, said = child.communicate(timeout=_COMPILE_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        child.kill()
        child.communicate()
        raise BpfError("compile", "the BPF programs", f"not done within {_COMPILE_TIMEOUT:.0f} s") from error
    if child.returncode == MISSING:
        raise MissingDependencyError(said.strip())
    if child.returncode:
        raise BpfError("compile", "the BPF programs", tail(said) or f"the compiler ended with {child.returncode}")


def tail(log: str, lines: int = _LOG_LINES) -> str:
    """The end of what compiler or verifier said, where the reason stands, and how much came before."""
    said = [line for line in log.splitlines() if line.strip()]
    omitted = len(said) - lines
    return "\n".join(([f"{omitted} lines omitted"] if omitted > 0 else []) + said[-lines:])


def compiler() -> str:
    """Version of bcc, read without importing it; "none" where there is none, which ``compile`` explains."""
    found = importlib.util.find_spec("bcc")
    if found is None or not found.submodule_search_locations:
        return "none"
    for directory in found.submodule_search_locations:
        version = Path(directory) / "version.py"
        if version.is_file():
            return version.read_text().strip()
    return "unknown"
