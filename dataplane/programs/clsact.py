"""tc filters of kind ``bpf`` on the clsact hook, over rtnetlink: how programs are attached where the kernel has no tcx.

A device has one qdisc for both hooks, ``clsact``, or one of kind ``ingress`` in its place, as the bandwidth plugin
makes it. That has one hook, and takes every filter to it whichever was asked for; so ours for egress keep off.

Be aware: filters run in the order of their priorities, and one of somebody else's may take a packet away before ours
sees it, for good: what the bandwidth plugin redirects to its ifb device comes back with all filters skipped.

Source: include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h.
"""

from __future__ import annotations

import errno as errnos
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from dataplane.errors import BpfError
from dataplane.netlink import CREATE, DUMP, EXCLUSIVE, REPLACE, attribute, attributes, exchange, text, text_attribute
from dataplane.types import DEVICE_PROGRAMS, Hook, IfIndex, Program

PRIORITIES = {program: 101 + place for place, program in enumerate(DEVICE_PROGRAMS)}
"""Our filters' priorities: before those that ``tc`` chooses by itself (49152), isolation first."""

HANDLE = 0xD9
"""Our filters' handle, so that replacing never makes a second one."""

_PARENTS = {Hook.EGRESS: 0xFFFFFFF3, Hook.INGRESS: 0xFFFFFFF2}  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS, _INGRESS)
_QDISC_PARENT = 0xFFFFFFF1  # TC_H_CLSACT
_QDISC_HANDLE = 0xFFFF0000
_ETH_P_ALL = socket.htons(0x0003)

_BY_FUNCTION = {program.function: program for program in DEVICE_PROGRAMS}

_NEWQDISC, _DELQDISC, _NEWTFILTER, _DELTFILTER, _GETTFILTER = 36, 37, 44, 45, 46
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


def make(ifindex: IfIndex) -> bool:
    """Make the qdisc, without filters; False where there is one, whosever it is. Raises ``BpfError``."""
    try:
        _send(_NEWQDISC, CREATE | EXCLUSIVE, _qdisc(ifindex), ifindex)
    except BpfError as error:
        if error.errno != errnos.EEXIST:
            raise
        return False
    return True


def is_ours_alone(ifindex: IfIndex) -> bool:
    """Whether the qdisc that is there is of kind clsact, and has no filters of somebody else. Raises ``BpfError``."""
    return _is_clsact(ifindex) and not any(map(_is_foreign, everything(ifindex)))


def attach(program: Program, fd: int, ifindex: IfIndex, *, made: bool) -> None:
    """Add or replace our filter on the program's hook, in direct-action mode, of a qdisc that was ``made`` for it or is
    somebody's. Raises ``BpfError``: ``EEXIST`` where somebody else's has no such hook."""
    if not made and program.hook is Hook.EGRESS and not _is_clsact(ifindex):
        raise BpfError(
            "attach",
            f'"{program}" to the egress of link {ifindex}',
            "a qdisc of kind ingress is there, which has no such hook",
            errnos.EEXIST,
            "remove it, or attach by tcx",
        )
    options = (
        attribute(_BPF_FD, struct.pack("=I", fd))
        + text_attribute(_BPF_NAME, program.function)
        + attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
    )
    body = _tc(ifindex, HANDLE, _PARENTS[program.hook], PRIORITIES[program])
    body += text_attribute(_KIND, "bpf") + attribute(_OPTIONS, options)
    _send(_NEWTFILTER, CREATE | REPLACE, body, ifindex)


def detach(found: Filter, ifindex: IfIndex, there: Collection[Filter]) -> None:
    """Remove one filter of ours, where these are ``there``; the clsact qdisc, with the last filter. Raises
    ``BpfError``."""
    # With the qdisc goes what is on it, after one wait for packets under way instead of two.
    if set(there) == {found} and _remove_qdisc(ifindex):
        return
    body = _tc(ifindex, found.handle, _PARENTS[found.hook], found.priority) + text_attribute(_KIND, found.kind)
    _send(_DELTFILTER, 0, body, ifindex)


def _remove_qdisc(ifindex: IfIndex) -> bool:
    """Remove clsact; False where a qdisc of kind ingress is in its place, which is somebody else's."""
    try:
        _send(_DELQDISC, 0, _qdisc(ifindex), ifindex)
    except BpfError as error:
        if error.errno != errnos.EINVAL:
            raise
        return False
    return True


def filters(ifindex: IfIndex) -> tuple[Filter, ...]:
    """The bpf filters on both hooks, as ``everything`` has them. Raises ``BpfError`` (``ENODEV``)."""
    return tuple(found for found in everything(ifindex) if found.program_id)


def everything(ifindex: IfIndex) -> tuple[Filter, ...]:
    """The filters on both hooks, of whatever kind: those of an ingress qdisc on each, but ours where they belong.
    Raises ``BpfError`` (``ENODEV``)."""
    found = [one for hook in _PARENTS for one in _dump(ifindex, hook)]
    return tuple(one for one in found if _is_foreign(one) or _BY_FUNCTION[one.name].hook is one.hook)


def _is_foreign(found: Filter) -> bool:
    return found.name not in _BY_FUNCTION


def _is_clsact(ifindex: IfIndex) -> bool:
    """Whether the qdisc that is there is of kind clsact: a change that changes nothing is refused to other kinds."""
    try:
        _send(_NEWQDISC, 0, _qdisc(ifindex), ifindex)
    except BpfError as error:
        if error.errno != errnos.EINVAL:
            raise
        return False
    return True


def _dump(ifindex: IfIndex, hook: Hook) -> Iterator[Filter]:
    for body in _send(_GETTFILTER, DUMP, _tc(ifindex, 0, _PARENTS[hook]), ifindex):
        _, index, handle, _, about = _TC.unpack_from(body)
        if index != ifindex or not handle:  # without: a priority, whose filters follow
            continue
        outer = attributes(body[_TC.size :])
        kind = text(outer.get(_KIND, b""))
        inner = attributes(outer.get(_OPTIONS, b"")) if kind == "bpf" else {}
        yield Filter(
            hook=hook,
            kind=kind,
            priority=about >> 16,
            handle=handle,
            name=text(inner.get(_BPF_NAME, b"")),
            program_id=int.from_bytes(inner.get(_BPF_ID, b""), sys.byteorder),
            tag=inner.get(_BPF_TAG, b"").hex(),
        )


def _send(kind: int, flags: int, body: bytes, ifindex: IfIndex) -> list[bytes]:
    """One request; the bodies of its answers."""
    try:
        return exchange(socket.NETLINK_ROUTE, kind, flags, body)
    except OSError as error:
        verb = "change" if kind != _GETTFILTER else "list"
        raise BpfError.from_errno(verb, f"tc of link {ifindex}", error.errno or 0) from error


def _qdisc(ifindex: IfIndex) -> bytes:
    return _tc(ifindex, _QDISC_HANDLE, _QDISC_PARENT) + text_attribute(_KIND, "clsact")


def _tc(ifindex: IfIndex, handle: int, parent: int, priority: int = 0) -> bytes:
    return _TC.pack(socket.AF_UNSPEC, ifindex, handle, parent, (priority << 16 | _ETH_P_ALL) if priority else 0)
