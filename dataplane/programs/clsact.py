"""tc filters of kind ``bpf`` on the clsact hook, over rtnetlink: how programs are attached where the kernel has no tcx.

Five small messages, spoken directly: importing pyroute2 takes 200 ms, which every ADD without an agent would pay just
to see that no filter of ours is left from another attach mode.
"""

from __future__ import annotations

import errno as errnos
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from dataplane.errors import BpfError
from dataplane.types import IfIndex, Program

PRIORITIES = {Program.ISOLATION: 101, Program.CHECKSUM: 102}
"""Our filters' priorities: before those that ``tc`` chooses by itself (49152), isolation first."""

HANDLE = 0xD9
"""Our filters' handle, so that replacing never makes a second one."""

_EGRESS = 0xFFFFFFF3  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)
_INGRESS = 0xFFFFFFF2
_QDISC_PARENT = 0xFFFFFFF1  # TC_H_CLSACT
_QDISC_HANDLE = 0xFFFF0000
_ETH_P_ALL = socket.htons(0x0003)

_NEWQDISC, _DELQDISC, _NEWTFILTER, _DELTFILTER, _GETTFILTER = 36, 37, 44, 45, 46
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_TC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, ifindex, handle, parent, info
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF

_KIND, _OPTIONS = 1, 2  # TCA_*
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_TAG, _BPF_ID = 6, 7, 8, 10, 11  # TCA_BPF_*
_DIRECT_ACTION = 1


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter on a clsact hook."""

    kind: str
    priority: int
    handle: int
    name: str = ""
    program_id: int = 0
    tag: str = ""


def place_of(program: Program) -> tuple[int, int]:
    """Priority and handle of our filter."""
    return PRIORITIES[program], HANDLE


def attach(program: Program, fd: int, ifindex: IfIndex) -> None:
    """Add or replace our filter on the egress hook, in direct-action mode. Raises ``BpfError``."""
    try:
        _send(_NEWQDISC, _CREATE | _EXCL, _tc(ifindex, _QDISC_HANDLE, _QDISC_PARENT) + _text(_KIND, "clsact"), ifindex)
    except BpfError as error:
        if error.errno != errnos.EEXIST:
            raise
    options = (
        _attribute(_BPF_FD, struct.pack("=I", fd))
        + _text(_BPF_NAME, program.function)
        + _attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
    )
    body = _tc(ifindex, HANDLE, _EGRESS, PRIORITIES[program])
    body += _text(_KIND, "bpf") + _attribute(_OPTIONS, options)
    _send(_NEWTFILTER, _CREATE | _REPLACE, body, ifindex)


def detach(found: Filter, ifindex: IfIndex) -> None:
    """Remove one filter of ours from the egress hook; the clsact qdisc, with the last filter. Raises ``BpfError``."""
    body = _tc(ifindex, found.handle, _EGRESS, found.priority) + _text(_KIND, found.kind)
    _send(_DELTFILTER, 0, body, ifindex)
    if not list(_dump(ifindex, _EGRESS)) and not list(_dump(ifindex, _INGRESS)):
        _send(_DELQDISC, 0, _tc(ifindex, _QDISC_HANDLE, _QDISC_PARENT) + _text(_KIND, "clsact"), ifindex)


def filters(ifindex: IfIndex) -> tuple[Filter, ...]:
    """The bpf filters on the egress hook. Raises ``BpfError`` (``ENODEV``)."""
    return tuple(found for found in _dump(ifindex, _EGRESS) if found.program_id)


def _dump(ifindex: IfIndex, parent: int) -> Iterator[Filter]:
    for body in _send(_GETTFILTER, _DUMP, _tc(ifindex, 0, parent), ifindex):
        _, index, handle, _, about = _TC.unpack_from(body)
        if index != ifindex:
            continue
        outer = dict(_attributes(body[_TC.size :]))
        inner = dict(_attributes(outer.get(_OPTIONS, b"")))
        yield Filter(
            kind=_word(outer.get(_KIND, b"")),
            priority=about >> 16,
            handle=handle,
            name=_word(inner.get(_BPF_NAME, b"")),
            program_id=int.from_bytes(inner.get(_BPF_ID, b""), sys.byteorder),
            tag=inner.get(_BPF_TAG, b"").hex(),
        )


def _send(kind: int, flags: int, body: bytes, ifindex: IfIndex) -> list[bytes]:
    """One request; the bodies of its answers."""
    answers: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        netlink.settimeout(5.0)
        wanted = flags | _REQUEST | (0 if flags & _DUMP == _DUMP else _ACK)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, wanted, 1, 0) + body)
        while True:
            for message, content in _messages(netlink.recv(65536)):
                if message == _DONE:
                    return answers
                if message != _ERROR:
                    answers.append(content)
                    continue
                (code,) = struct.unpack_from("=i", content)
                if code == 0:
                    return answers
                raise BpfError.from_errno("change" if kind != _GETTFILTER else "list", f"tc of link {ifindex}", -code)


def _messages(raw: bytes) -> Iterator[tuple[int, bytes]]:
    while len(raw) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(raw)
        yield kind, raw[_HEADER.size : length]
        raw = raw[_aligned(length) :]


def _attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    while len(raw) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(raw)
        yield kind & _TYPE_MASK, raw[_ATTRIBUTE.size : length]
        raw = raw[_aligned(max(length, _ATTRIBUTE.size)) :]


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _word(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _tc(ifindex: IfIndex, handle: int, parent: int, priority: int = 0) -> bytes:
    return _TC.pack(socket.AF_UNSPEC, ifindex, handle, parent, (priority << 16 | _ETH_P_ALL) if priority else 0)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
