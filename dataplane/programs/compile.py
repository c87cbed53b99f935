"""The child that imports bcc: compiles the programs, loads them, pins them in a directory, and ends.

    python -m dataplane.programs.compile DIRECTORY
    python -m dataplane.programs.compile --measure      loads each program several times: what each costs, as JSON

The one module that imports bcc, and only ever in a process of its own: bcc costs 73 MB to import and 125 MB to compile.
Ends with 0, or with ``MISSING`` and one line on standard error where the host lacks something, or with ``REFUSED`` and
what compiler or verifier said.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataplane.errors import BpfError, DataplaneError, MissingDependencyError
from dataplane.programs import btf, syscall
from dataplane.programs.source import MAPS, read_source
from dataplane.types import Hook, Program

ATTACH_TYPES = {
    Hook.CONNECT4: 10,
    Hook.CONNECT6: 11,
    Hook.SENDMSG4: 14,
    Hook.SENDMSG6: 15,
    Hook.RECVMSG4: 19,
    Hook.RECVMSG6: 20,
    Hook.GETPEERNAME4: 29,
    Hook.GETPEERNAME6: 30,
}
"""``enum bpf_attach_type`` of the hooks of cgroups."""

MISSING = 4
REFUSED = 1
MEASURE = "--measure"
_TIME_LIMIT = 90  # seconds

_UAPI = Path("/usr/include/linux/bpf.h")


def compile_into(directory: Path) -> None:
    """Compile, load, and pin every program and map. Raises ``MissingDependencyError`` or ``BpfError``; what the
    compiler or the verifier has to say went to standard error."""
    with _bcc() as bcc:
        module = _compiled(bcc)
        programs = {program.function: _loaded(module, program) for program in Program}
    maps = {name: bcc.lib.bpf_table_fd(module.module, name.encode()) for name in MAPS}
    for name, fd in (programs | maps).items():
        syscall.obj_pin(fd, directory / name)
        (directory / name).chmod(0o600)


def measure() -> list[dict[str, str | float]]:
    """What each program costs, as ``Cost`` has it. Raises as ``compile_into``."""
    from dataplane.programs.cost import costs  # noqa: PLC0415 - who starts the child imports this module, too

    with _bcc() as bcc:
        module = _compiled(bcc)

        def load(program: Program) -> int:
            fd = _loaded(module, program)
            del module.funcs[program.function.encode()]  # else bcc hands it out the next time, and closes it
            return fd

        emitted = {
            program: bcc.lib.bpf_function_size(module.module, program.function.encode()) // 8 for program in Program
        }
        return [cost.fields() for cost in costs(load, emitted)]


@contextmanager
def _bcc() -> Iterator[Any]:
    """The module bcc, imported; what it raises as a ``BpfError``."""
    try:
        import bcc  # noqa: PLC0415  # see above: never in a process that lives on
    except ImportError as error:
        raise MissingDependencyError(
            f"could not import bcc with {sys.executable}: {error}; apt-get install python3-bpfcc, and use the system's"
            " python3 or a venv of it with --system-site-packages"
        ) from error
    try:
        yield bcc
    except DataplaneError:
        raise
    except Exception as error:  # what bcc raises is Exception itself
        raise BpfError("load", "the BPF programs", str(error)) from error


def _compiled(bcc: Any) -> Any:
    """The programs, compiled and not yet loaded; the maps are made."""
    source = read_source()
    if not _UAPI.exists():
        raise MissingDependencyError(f"could not find {_UAPI}; apt-get install linux-libc-dev")
    os.environ["BCC_KERNEL_SOURCE"] = str(source.headers)
    return bcc.BPF(text=source.text.encode(), cflags=[*source.flags, *btf.definitions()])


def _loaded(module: Any, program: Program) -> int:
    """The descriptor of a program that was loaded for its hook."""
    if program.hook.of_cgroup:
        attach_type = ATTACH_TYPES[program.hook]
        function = module.load_func(program.function.encode(), module.CGROUP_SOCK_ADDR, attach_type=attach_type)
    else:
        function = module.load_func(program.function.encode(), module.SCHED_CLS)
    return int(function.fd)


def main() -> int:
    """Do what the one argument says; the exit status."""
    # It holds the loaders' lock, and whoever would end it may be gone.
    signal.alarm(_TIME_LIMIT)
    try:
        if sys.argv[1] == MEASURE:
            import json  # noqa: PLC0415 - as in measure()

            print(json.dumps(measure()))
        else:
            compile_into(Path(sys.argv[1]))
    except MissingDependencyError as error:
        print(error, file=sys.stderr)
        return MISSING
    except BpfError as error:
        print(error, file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
