"""A cgroup of a bench's own, with our programs in the place of the root's: for the processes in it alone.

    with own_cgroup(root) as cgroup, ExitStack() as links:
        host.inside(lambda: [links.enter_context(one) for one in attach(KernelPrograms(), cgroup)])
        RoundTrips(host, native, cpu, ends, cgroup)

What an ADD attaches to the root of the cgroups every process of the machine runs, peers' and floors' as well. Here, who
is measured without them does not.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from bench.native import BenchError
from bench.place import wait_for
from control.desired.ruleset import DEFAULT_MARK
from dataplane import abi
from dataplane.programs import syscall
from dataplane.programs.cgroups import netns_cookie
from dataplane.programs.compile import ATTACH_TYPES
from dataplane.programs.door import KernelPrograms
from dataplane.programs.syscall import Fd
from dataplane.types import LOCALHOST_PROGRAMS

_PATIENCE = 10.0  # seconds
_NUMBERS = count()


def cgroup_root() -> Path | None:
    """Where cgroup v2 is mounted; None where it is not."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


@contextmanager
def own_cgroup(root: Path) -> Iterator[Path]:
    """A cgroup below the root, until the block ends. Raises ``BenchError`` where processes stay in it."""
    made = root / f"dataplane-bench-{os.getpid()}-{next(_NUMBERS)}"
    made.mkdir()
    try:
        yield made
    finally:
        # Whoever was in it has ended, and is not out of it in the same moment.
        if not wait_for(lambda: _removed(made), _PATIENCE):
            raise BenchError(f"could not remove the cgroup {made}: processes stay in it")


def attach(door: KernelPrograms, cgroup: Path) -> Iterator[Fd]:
    """Attach all that an ADD may attach to the root; each is attached until its link is closed. Raises ``BpfError``."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for program in LOCALHOST_PROGRAMS:
            with syscall.obj_get(door.directory / program.function) as pinned:
                yield syscall.cgroup_link_create(pinned.number, directory, ATTACH_TYPES[program.hook])
    finally:
        os.close(directory)


def serve(door: KernelPrograms) -> None:
    """Have the programs serve the processes of the network namespace of this thread. Raises ``BpfError``."""
    door.put("settings", abi.U32.pack(0), abi.HostSettings(DEFAULT_MARK, netns_cookie()).pack())


def _removed(cgroup: Path) -> bool:
    try:
        cgroup.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
