"""The command ``dpctl bpf``, and what its commands share."""

from __future__ import annotations

import socket

import click

from control.errors import EngineError
from dataplane.errors import BpfError
from dataplane.programs.door import KernelPrograms
from dataplane.types import IfIndex


@click.group()
def bpf() -> None:
    """BPF programs and maps: list, show, attach, count, try out."""


def loaded(verb: str) -> KernelPrograms:
    """The door to programs that are loaded. Raises ``EngineError`` where they are not; ``verb`` is what was wanted."""
    programs = KernelPrograms()
    if not programs.loaded():
        raise EngineError(
            f"could not {verb}: the programs are not loaded; the first container's ADD does that, or dpctl bpf attach"
        )
    return programs


def index_of(device: str) -> IfIndex:
    """The number of a device. Raises ``BpfError``."""
    try:
        return IfIndex(socket.if_nametoindex(device))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such device"
        raise BpfError("find", f'device "{device}"', reason) from error
