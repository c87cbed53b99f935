"""What a container is connected by: bridges and veth pairs, over rtnetlink, in the calling thread's network namespace.

    bridge = create_bridge("cni0", mtu=1500)
    port = create_veth(Veth("veth1a2b", "eth0", master=bridge.index), netns)     # eth0 is never seen out here
    change_link(port.index, up=True)

Source: include/uapi/linux/{if_link,veth}.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass, replace

from dataplane import rtnetlink
from dataplane.crashpoints import Point, reached
from dataplane.doors import Link
from dataplane.errors import LinkError
from dataplane.netlink import CREATE, DUMP, EXCLUSIVE, NESTED, attribute, text_attribute
from dataplane.rtnetlink import LINK, PROMISCUOUS, U32, UP
from dataplane.types import IfIndex

_U8 = struct.Struct("=B")
_VLAN_FILTERING = 7  # IFLA_BR_VLAN_FILTERING
_PEER = 1  # VETH_INFO_PEER
_NO_LINK = IfIndex(0)


@dataclass(frozen=True, slots=True)
class Veth:
    """A veth pair that is to be made: this end here, the other end in another network namespace."""

    name: str
    peer: str
    """The other end's name in its namespace."""
    mac: str = ""
    """Empty: one that the kernel makes up."""
    peer_mac: str = ""
    mtu: int = 0
    """Of both ends; 0 is the kernel's default."""
    master: IfIndex = _NO_LINK
    """The bridge that this end is to be a port of, or 0."""
    up: bool = False
    """Whether this end is to be up at once. Not where sysctls must be set before: accept_ra, for one."""
    alias: str = ""


def links() -> tuple[Link, ...]:
    """All links of this namespace. Raises ``LinkError``."""
    body = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + rtnetlink.WITHOUT_STATISTICS
    return tuple(map(rtnetlink.link_of, rtnetlink.request("read", "the links", rtnetlink.GETLINK, DUMP, body)))


def create_bridge(name: str, *, mac: str = "", mtu: int = 0, vlan_filtering: bool = False) -> Link:
    """Make a bridge, down. Raises ``LinkError``; ``EEXIST`` where a link has the name.

    Without a MAC it has the lowest of its ports'. One that is given stays, and is also what its bridge ID is made from.
    """
    about = text_attribute(rtnetlink.KIND, "bridge")
    if vlan_filtering:
        about += attribute(rtnetlink.KIND_DATA | NESTED, attribute(_VLAN_FILTERING, _U8.pack(1)))
    body = _new(name, mtu, mac) + attribute(rtnetlink.LINKINFO | NESTED, about)
    # A bridge that cannot be made as asked is not made at all.
    option = "CONFIG_BRIDGE_VLAN_FILTERING" if vlan_filtering else "CONFIG_BRIDGE"
    rtnetlink.request("create", f'bridge "{name}"', rtnetlink.NEWLINK, CREATE | EXCLUSIVE, body, _needs(option))
    reached(Point.BRIDGE_MADE)
    return _made(f'bridge "{name}"', name)


def create_veth(veth: Veth, netns: int) -> Link:
    """Make a veth pair, its other end in the network namespace of this descriptor, where it is down; this end.

    The kernel makes both ends in one go, or none: no other name, MAC, MTU or place of them is ever seen. Only the
    alias is set afterwards, because the kernel takes none before a link is there; where that fails, nothing is left.

    Raises ``LinkError``; ``EEXIST`` where one of the names is taken in its namespace.
    """
    peer = _new(veth.peer, veth.mtu, veth.peer_mac) + attribute(rtnetlink.NETNS_FD, U32.pack(netns))
    about = text_attribute(rtnetlink.KIND, "veth")
    about += attribute(rtnetlink.KIND_DATA | NESTED, attribute(_PEER | NESTED, peer))
    body = _new(veth.name, veth.mtu, veth.mac, UP if veth.up else 0) + attribute(rtnetlink.LINKINFO | NESTED, about)
    if veth.master:
        body += attribute(rtnetlink.MASTER, U32.pack(veth.master))
    thing = f'veth pair "{veth.name}" and "{veth.peer}"'
    try:
        rtnetlink.request("create", thing, rtnetlink.NEWLINK, CREATE | EXCLUSIVE, body, _needs("CONFIG_VETH"))
    except LinkError as error:
        reason = _reason(veth, error.errno)
        if not reason:
            raise
        raise LinkError(error.verb, error.thing, reason, error.errno) from error
    reached(Point.VETH_MADE)
    made = _made(thing, veth.name)
    if not veth.alias:
        return made
    try:
        change_link(made.index, alias=veth.alias)
    except LinkError:
        delete_link(made.index)
        raise
    reached(Point.VETH_NAMED)
    return replace(made, alias=veth.alias)


def delete_link(index: IfIndex) -> None:
    """Remove a link, of a pair both ends; one that is gone is fine. Raises ``LinkError``."""
    try:
        body = LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)
        rtnetlink.request("delete", f"link {index}", rtnetlink.DELLINK, 0, body)
        reached(Point.LINK_DELETED)
    except LinkError as error:
        if error.errno != errno.ENODEV:
            raise


def change_link(
    index: IfIndex,
    *,
    up: bool | None = None,
    promiscuous: bool | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    master: IfIndex | None = None,
    name: str | None = None,
    alias: str | None = None,
) -> None:
    """Change what is not None; master 0 takes a link out of its bridge. Raises ``LinkError``.

    A MAC that was set stays: a bridge no longer takes over the lowest of its ports'.

    Be aware: the kernel makes the changes one after the other, and where it refuses one, those before it stay.
    """
    flags = change = 0
    for bit, wanted in ((UP, up), (PROMISCUOUS, promiscuous)):
        if wanted is not None:
            change |= bit
            flags |= bit if wanted else 0
    changes = b"" if mac is None else _mac(mac)
    changes += b"" if mtu is None else attribute(rtnetlink.MTU, U32.pack(mtu))
    changes += b"" if master is None else attribute(rtnetlink.MASTER, U32.pack(master))
    changes += b"" if name is None else text_attribute(rtnetlink.NAME, name)
    changes += b"" if alias is None else text_attribute(rtnetlink.ALIAS, alias)
    if changes or change:
        body = LINK.pack(socket.AF_UNSPEC, 0, index, flags, change) + changes
        rtnetlink.request("change", f"link {index}", rtnetlink.SETLINK, 0, body)


def _new(name: str, mtu: int, mac: str, flags: int = 0) -> bytes:
    """The beginning of what describes a link that is to be made."""
    body = LINK.pack(socket.AF_UNSPEC, 0, 0, flags, flags) + text_attribute(rtnetlink.NAME, name)
    body += attribute(rtnetlink.MTU, U32.pack(mtu)) if mtu else b""
    return body + (_mac(mac) if mac else b"")


def _mac(mac: str) -> bytes:
    return attribute(rtnetlink.ADDRESS, bytes.fromhex(mac.replace(":", "")))


def _made(thing: str, name: str) -> Link:
    message = rtnetlink.link_message(_NO_LINK, name)
    if message is None:
        raise LinkError("create", thing, "it was made, and at once deleted by somebody else", errno.ENODEV)
    return rtnetlink.link_of(message)


def _reason(veth: Veth, number: int) -> str:
    """What the kernel's errno means here, as far as it can be told; the kernel says no more."""
    if number == errno.EEXIST:
        here = rtnetlink.link_message(_NO_LINK, veth.name) is not None
        return f'there is a link "{veth.name}" already' if here else f'its namespace has a link "{veth.peer}" already'
    if number == errno.EINVAL and veth.master and rtnetlink.link_message(veth.master) is None:
        return f"there is no link {veth.master} to be a port of"
    return ""


def _needs(option: str) -> dict[int, str]:
    return {errno.EOPNOTSUPP: f"the kernel needs {option}"}
