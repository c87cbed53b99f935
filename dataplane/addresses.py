"""Addresses of links, over rtnetlink, in the network namespace of the calling thread.

Be aware: taking the first IPv4 address of a subnet from a link takes the others of that subnet with it, unless
net.ipv4.conf.<link>.promote_secondaries is set.

Source: include/uapi/linux/if_addr.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, ip_address, ip_interface

from dataplane.errors import LinkError
from dataplane.netlink import CREATE, DUMP, EXCLUSIVE, attribute, attributes
from dataplane.rtnetlink import U32, request
from dataplane.types import IfIndex, Interface

_MESSAGE = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22  # RTM_*
_ADDRESS, _LOCAL, _BROADCAST, _FLAGS = (
    1,
    2,
    4,
    8,
)  # IFA_*; without a peer the first two are equal, or the first is alone
_NODAD, _FAILED, _TENTATIVE = 0x02, 0x08, 0x40  # IFA_F_*
_BROADCASTING = 30  # the longest IPv4 prefix with a broadcast address (RFC 3021)

_HINTS = {
    errno.EACCES: "IPv6 is off for this link: sysctl net.ipv6.conf.<link>.disable_ipv6",
    errno.EEXIST: "the link has this address already",
}


@dataclass(frozen=True, slots=True)
class HeldAddress:
    """An address that a link has, and how far duplicate address detection (RFC 4862) is with it."""

    interface: Interface
    tentative: bool
    """Still being checked: connections from it are not possible yet."""
    failed: bool
    """Somebody else on the link has it."""


def addresses(index: IfIndex) -> tuple[HeldAddress, ...]:
    """What a link has, in the kernel's order; nothing for a link that is not there. Raises ``LinkError``."""
    return tuple(held for at, held in everywhere() if at == index)


def everywhere() -> Iterator[tuple[IfIndex, HeldAddress]]:
    """The IPv4 and IPv6 addresses of all links. Raises ``LinkError``."""
    for answer in request("read", "the host's addresses", _GETADDR, DUMP, _MESSAGE.pack(0, 0, 0, 0, 0)):
        family, length, flags, _, index = _MESSAGE.unpack_from(answer)
        if family not in {socket.AF_INET, socket.AF_INET6}:  # MCTP, for one
            continue
        found = attributes(answer[_MESSAGE.size :])
        if _FLAGS in found:  # 32 bits of them, since 3.14
            (flags,) = U32.unpack(found[_FLAGS])
        address = ip_address(found.get(_LOCAL) or found[_ADDRESS])
        interface = ip_interface((address, length))
        yield IfIndex(index), HeldAddress(interface, bool(flags & _TENTATIVE), bool(flags & _FAILED))


def add_address(index: IfIndex, interface: Interface, *, detect_duplicates: bool = True) -> None:
    """Give a link an address, an IPv4 one with the broadcast address of its subnet. Raises ``LinkError``; ``EEXIST``
    where the link has it.

    With ``detect_duplicates`` an IPv6 address is tentative first, for as long as the link's sysctls say. Without, it
    may still take the kernel a millisecond or two until the address is one that it answers to.
    """
    flags = 0 if detect_duplicates or interface.version == 4 else _NODAD
    body = _message(index, interface, flags)
    if isinstance(interface, IPv4Interface) and interface.network.prefixlen <= _BROADCASTING:
        body += attribute(_BROADCAST, interface.network.broadcast_address.packed)
    request("add", f"address {interface} to link {index}", _NEWADDR, CREATE | EXCLUSIVE, body, _HINTS)


def remove_address(index: IfIndex, interface: Interface) -> None:
    """Take an address from a link; not there, or no such link, is fine. Raises ``LinkError``."""
    try:
        request("remove", f"address {interface} from link {index}", _DELADDR, 0, _message(index, interface, 0))
    except LinkError as error:
        if error.errno not in {errno.EADDRNOTAVAIL, errno.ENODEV}:
            raise


def _message(index: IfIndex, interface: Interface, flags: int) -> bytes:
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    packed = interface.ip.packed
    return (
        _MESSAGE.pack(family, interface.network.prefixlen, flags, 0, index)
        + attribute(_LOCAL, packed)
        + attribute(_ADDRESS, packed)
    )
