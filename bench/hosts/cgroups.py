"""A cgroup of a bench's own, with our programs in the place of the root's: for the processes in it alone.

    cgroup = own_cgroup_if_any(stack, stage.log)     # None, and a note, where no cgroup v2 is mounted
    if cgroup:
        lead(stack, host, cgroup)                    # until the stack is unwound
    RoundTrips(host, native, cpu, ends, cgroup)

What an ADD attaches to the root of the cgroups every process of the machine runs, peers' and floors' as well. Here, who
is measured without them does not.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from bench.figures import Log
from bench.native import BenchError
from bench.place import Host, wait_for
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


def own_cgroup_if_any(stack: ExitStack, log: Log) -> Path | None:
    """A cgroup of its own, until the stack is unwound; None, and a note of it, where no cgroup v2 is mounted."""
    root = cgroup_root()
    if root is None:
        log.note("no cgroup v2 is mounted: an ADD attaches no programs to cgroups here, nor does this")
        return None
    return stack.enter_context(own_cgroup(root))


def lead(stack: ExitStack, host: Host, cgroup: Path) -> None:
    """Have a host's programs there, until the stack is unwound, and serve the processes of the host. Raises
    ``BpfError``."""

    def there() -> None:
        door = KernelPrograms()
        serve(door)
        for link in attach(door, cgroup):
            stack.enter_context(link)

    host.inside(there)


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
