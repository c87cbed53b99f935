"""Programs of others on a device of ours: a tcx link and a clsact filter, which nothing that we do may touch.

host.call(foreign.hook, "br-front")
before = host.call(foreign.hooked, "br-front")
...
assert host.call(foreign.hooked, "br-front") == before
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from pathlib import Path

from dataplane.netlink import CREATE, attribute, text_attribute
from dataplane.programs import clsact, syscall
from dataplane.types import Hook, IfIndex

NAME = "foreign"
PIN = Path("/sys/fs/bpf/foreign")
"""Keeps the link, as whoever attached it would; hidden with the bpffs it is on, it lives on."""

_PRIORITY = 500


def load() -> int:
    """Load a program of somebody else, "go on"; its descriptor."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, -1) + struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 = -1; exit
    instructions, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attributes = ctypes.create_string_buffer(
        struct.pack(
            "=IIQQIIQII16s",
            *(3, 2, ctypes.addressof(instructions), ctypes.addressof(licence), 0, 0, 0, 0, 0, NAME.encode()),
        )
    )
    fd: int = ctypes.CDLL(None).syscall(321, 5, attributes, len(attributes) - 1)
    assert fd > 0
    return fd


def hook(device: str) -> None:
    """Inside a sandbox: attach it both ways, behind whatever is there."""
    index, program = IfIndex(socket.if_nametoindex(device)), load()
    with syscall.tcx_link_create(program, index) as link:
        syscall.obj_pin(link.number, PIN)
    filter_by_clsact(program, index)
    os.close(program)


def filter_by_clsact(program: int, index: IfIndex) -> None:
    """Inside a sandbox: attach a program as a filter at the egress hook; the qdisc is there."""
    body = clsact._tc(index, 1, clsact._PARENTS[Hook.EGRESS], _PRIORITY) + text_attribute(clsact._KIND, "bpf")
    options = attribute(clsact._BPF_FD, struct.pack("=I", program)) + text_attribute(clsact._BPF_NAME, NAME)
    clsact._send(clsact._NEWTFILTER, CREATE, body + attribute(clsact._OPTIONS, options), index)


def hooked(device: str) -> tuple[list[int], list[str]]:
    """Inside a sandbox: the foreign programs on its tcx hook by their IDs, and the names of its clsact filters."""
    index = IfIndex(socket.if_nametoindex(device))
    programs = []
    for one in syscall.tcx_query(index, syscall.TCX_EGRESS):
        with syscall.program_by_id(one.program_id) as program:
            if syscall.program_info(program.number).name == NAME:
                programs.append(one.program_id)
    return programs, [one.name for one in clsact.filters(index)]
