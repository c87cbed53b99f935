"""VLANs of a bridge and of its ports, over rtnetlink, in the network namespace of the calling thread.

Be aware: they mean nothing before the bridge filters by VLAN (``wires.create_bridge(vlan_filtering=True)``), and a
kernel built without CONFIG_BRIDGE_VLAN_FILTERING refuses both; it has none to remove, and says that this was done.

Source: include/uapi/linux/if_bridge.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dataplane import rtnetlink
from dataplane.netlink import DUMP, attribute, attributes, each_attribute
from dataplane.rtnetlink import AF_BRIDGE, LINK, U32
from dataplane.types import IfIndex

_FLAGS, _VLAN = 0, 2  # IFLA_BRIDGE_FLAGS, _VLAN_INFO
_SELF = 2  # BRIDGE_FLAGS_SELF: the bridge itself, not the bridge that it is a port of
_VLAN_INFO = struct.Struct("=HH")  # bridge_vlan_info: flags, VLAN ID
_PVID, _UNTAGGED, _BEGIN, _END = 0x02, 0x04, 0x08, 0x10  # BRIDGE_VLAN_INFO_*
_COMPRESSED = 4  # RTEXT_FILTER_BRVLAN_COMPRESSED: neighbours that are alike come as a range
_U16 = struct.Struct("=H")

_HINTS = {errno.EOPNOTSUPP: "the kernel needs CONFIG_BRIDGE_VLAN_FILTERING, and the link must be a bridge or its port"}


@dataclass(frozen=True, slots=True)
class VlanRange:
    """VLANs that a port lets through, ``first`` to ``last``."""

    first: int
    last: int
    untagged: bool = False
    """Their frames leave without a tag."""
    pvid: bool = False
    """Frames that come in without a tag belong to this one."""


def vlans(index: IfIndex) -> tuple[VlanRange, ...]:
    """What a bridge or a port lets through, in order; nothing where the kernel cannot filter. Raises ``LinkError``."""
    body = LINK.pack(AF_BRIDGE, 0, 0, 0, 0) + attribute(rtnetlink.EXT_MASK, U32.pack(_COMPRESSED))
    answers = rtnetlink.request("read", f"the VLANs of link {index}", rtnetlink.GETLINK, DUMP, body)
    return tuple(
        one
        for answer in answers
        if LINK.unpack_from(answer)[2] == index
        for one in _ranges(rtnetlink.link_attributes(answer).get(rtnetlink.AF_SPEC, b""))
    )


def add_vlan(
    index: IfIndex, first: int, last: int | None = None, *, untagged: bool = False, pvid: bool = False
) -> None:
    """Let a VLAN, or those from ``first`` to ``last``, through a port or to the bridge itself. Raises ``LinkError``.

    Only one can be the ``pvid``; it takes that from another.
    """
    flags = (_UNTAGGED if untagged else 0) | (_PVID if pvid else 0)
    _change("add", "to", rtnetlink.SETLINK, index, VlanRange(first, first if last is None else last), flags)


def remove_vlan(index: IfIndex, first: int, last: int | None = None) -> None:
    """No longer let a VLAN, or those from ``first`` to ``last``, through; not there is fine. Raises ``LinkError``."""
    _change("remove", "from", rtnetlink.DELLINK, index, VlanRange(first, first if last is None else last), 0)


def _change(verb: str, preposition: str, kind: int, index: IfIndex, vlan: VlanRange, flags: int) -> None:
    thing = f"VLAN {vlan.first}" + (f"-{vlan.last}" if vlan.last != vlan.first else "") + f" {preposition} link {index}"
    rtnetlink.request(verb, thing, kind, 0, _message(index, vlan, flags, itself=_is_bridge(index)), _HINTS)


def _is_bridge(index: IfIndex) -> bool:
    about = attributes(rtnetlink.link_attributes(rtnetlink.link_message(index)).get(rtnetlink.LINKINFO, b""))
    return about.get(rtnetlink.KIND) == b"bridge\0"


def _message(index: IfIndex, vlan: VlanRange, flags: int, *, itself: bool) -> bytes:
    wanted = attribute(_FLAGS, _U16.pack(_SELF)) if itself else b""
    if vlan.first == vlan.last:
        wanted += attribute(_VLAN, _VLAN_INFO.pack(flags, vlan.first))
    else:
        wanted += attribute(_VLAN, _VLAN_INFO.pack(flags | _BEGIN, vlan.first))
        wanted += attribute(_VLAN, _VLAN_INFO.pack(flags | _END, vlan.last))
    return LINK.pack(AF_BRIDGE, 0, index, 0, 0) + attribute(rtnetlink.AF_SPEC, wanted)


def _ranges(raw: bytes) -> Iterator[VlanRange]:
    first = 0
    for kind, value in each_attribute(raw):
        if kind != _VLAN:
            continue
        flags, number = _VLAN_INFO.unpack(value)
        if flags & _BEGIN:
            first = number
            continue
        yield VlanRange(first if flags & _END else number, number, bool(flags & _UNTAGGED), bool(flags & _PVID))
