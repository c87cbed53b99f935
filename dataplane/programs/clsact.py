"""tc filters of kind ``bpf`` on the clsact hook, over rtnetlink: how programs are attached where the kernel has no tcx.

Source: include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h.
"""

from __future__ import annotations

import errno as errnos
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from dataplane.errors import BpfError
from dataplane.netlink import CREATE, DUMP, EXCLUSIVE, REPLACE, attribute, attributes, exchange, text, text_attribute
from dataplane.types import DEVICE_PROGRAMS, Hook, IfIndex, Program

PRIORITIES = {program: 101 + place for place, program in enumerate(DEVICE_PROGRAMS)}
"""Our filters' priorities: before those that ``tc`` chooses by itself (49152), isolation first."""

_FUNCTIONS = frozenset(program.function for program in DEVICE_PROGRAMS)

HANDLE = 0xD9
"""Our filters' handle, so that replacing never makes a second one."""

_PARENTS = {Hook.EGRESS: 0xFFFFFFF3, Hook.INGRESS: 0xFFFFFFF2}  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS, _INGRESS)
_QDISC_PARENT = 0xFFFFFFF1  # TC_H_CLSACT
_QDISC_HANDLE = 0xFFFF0000
_ETH_P_ALL = socket.htons(0x0003)

_NEWQDISC, _DELQDISC, _GETQDISC, _NEWTFILTER, _DELTFILTER, _GETTFILTER = 36, 37, 38, 44, 45, 46
_TC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, ifindex, handle, parent, info

_KIND, _OPTIONS = 1, 2  # TCA_*
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_TAG, _BPF_ID = 6, 7, 8, 10, 11  # TCA_BPF_*
_DIRECT_ACTION = 1


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter on a clsact hook."""

    hook: Hook
    kind: str
    priority: int
    handle: int
    name: str = ""
    program_id: int = 0
    tag: str = ""


def place_of(program: Program) -> tuple[int, int]:
    """Priority and handle of our filter."""
    return PRIORITIES[program], HANDLE


def make_hooks(ifindex: IfIndex) -> bool:
    """Have both hooks on a device; whether they were made now, and are empty. Raises ``BpfError``."""
    try:
        _send(_NEWQDISC, CREATE | EXCLUSIVE, _qdisc(ifindex), ifindex)
    except BpfError as error:
        # An ingress qdisc, such as that of the bandwidth plugin, serves as well, for its one hook.
        if error.errno != errnos.EEXIST:
            raise
        return False
    return True


def comes_late(program: Program, ifindex: IfIndex) -> bool:
    """Whether our filter would see a packet after one of somebody else, which may take it away (that of the bandwidth
    plugin redirects all that comes), or would never see one. Raises ``BpfError``."""
    before = (one for one in _dump(ifindex, program.hook) if one.priority < PRIORITIES[program])
    return not _has_hook(program, ifindex) or any(one.handle and one.name not in _FUNCTIONS for one in before)


def attach(program: Program, fd: int, ifindex: IfIndex) -> None:
    """Add or replace our filter on the program's hook, in direct-action mode. The device has hooks, made by us or by
    somebody else. Raises ``BpfError``."""
    if not _has_hook(program, ifindex):
        raise BpfError(
            "attach",
            f"program {program} to link {ifindex}",
            "its qdisc is of kind ingress, and has no hook for egress",
            hint='have attach = "tcx" in the settings, or make it one of kind clsact',
        )
    options = (
        attribute(_BPF_FD, struct.pack("=I", fd))
        + text_attribute(_BPF_NAME, program.function)
        + attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
    )
    body = _tc(ifindex, HANDLE, _PARENTS[program.hook], PRIORITIES[program])
    body += text_attribute(_KIND, "bpf") + attribute(_OPTIONS, options)
    _send(_NEWTFILTER, CREATE | REPLACE, body, ifindex)


def detach(found: Filter, ifindex: IfIndex) -> None:
    """Remove one filter of ours; the clsact qdisc, with the last filter. Raises ``BpfError``."""
    body = _tc(ifindex, found.handle, _PARENTS[found.hook], found.priority) + text_attribute(_KIND, found.kind)
    _send(_DELTFILTER, 0, body, ifindex)
    if any(list(_dump(ifindex, hook)) for hook in _PARENTS):
        return
    try:
        _send(_DELQDISC, 0, _qdisc(ifindex), ifindex)
    except BpfError as error:
        if error.errno != errnos.EINVAL:  # an ingress qdisc in its place: somebody else's
            raise


def filters(ifindex: IfIndex) -> tuple[Filter, ...]:
    """The bpf filters on both hooks. Raises ``BpfError`` (``ENODEV``).

    Be aware: an ingress qdisc, which has but one hook, lists its filters for both.
    """
    return tuple(found for hook in _PARENTS for found in _dump(ifindex, hook) if found.program_id)


def _dump(ifindex: IfIndex, hook: Hook) -> Iterator[Filter]:
    for body in _send(_GETTFILTER, DUMP, _tc(ifindex, 0, _PARENTS[hook]), ifindex):
        _, index, handle, _, about = _TC.unpack_from(body)
        if index != ifindex:
            continue
        outer = attributes(body[_TC.size :])
        inner = attributes(outer.get(_OPTIONS, b""))
        yield Filter(
            hook=hook,
            kind=text(outer.get(_KIND, b"")),
            priority=about >> 16,
            handle=handle,
            name=text(inner.get(_BPF_NAME, b"")),
            program_id=int.from_bytes(inner.get(_BPF_ID, b""), sys.byteorder),
            tag=inner.get(_BPF_TAG, b"").hex(),
        )


def _has_hook(program: Program, ifindex: IfIndex) -> bool:
    """Whether the qdisc of a device has the program's hook. One of kind ingress takes filters for the other, too, and
    runs them on ingress."""
    if program.hook is Hook.INGRESS:
        return True
    found = _send(_GETQDISC, 0, _tc(ifindex, 0, _QDISC_PARENT), ifindex)
    return all(text(attributes(body[_TC.size :]).get(_KIND, b"")) == "clsact" for body in found)


def _send(kind: int, flags: int, body: bytes, ifindex: IfIndex) -> list[bytes]:
    """One request; the bodies of its answers."""
    try:
        return exchange(socket.NETLINK_ROUTE, kind, flags, body)
    except OSError as error:
        verb = "list" if kind in {_GETTFILTER, _GETQDISC} else "change"
        raise BpfError.from_errno(verb, f"tc of link {ifindex}", error.errno or 0) from error


def _qdisc(ifindex: IfIndex) -> bytes:
    return _tc(ifindex, _QDISC_HANDLE, _QDISC_PARENT) + text_attribute(_KIND, "clsact")


def _tc(ifindex: IfIndex, handle: int, parent: int, priority: int = 0) -> bytes:
    return _TC.pack(socket.AF_UNSPEC, ifindex, handle, parent, (priority << 16 | _ETH_P_ALL) if priority else 0)
