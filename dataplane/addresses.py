"""Addresses of links, over rtnetlink, in the network namespace of the calling thread.

Be aware: taking the first IPv4 address of a subnet from a link takes the others of that subnet with it, unless
net.ipv4.conf.<link>.promote_secondaries is set.

Source: include/uapi/linux/if_addr.h.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Interface, ip_address, ip_interface

from dataplane.errors import LinkError
from dataplane.netlink import CREATE, DUMP, EXCLUSIVE, attribute, attributes
from dataplane.rtnetlink import U32, request
from dataplane.types import Address, IfIndex, Interface

_MESSAGE = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22  # RTM_*
_ADDRESS, _LOCAL, _BROADCAST, _FLAGS = (
    1,
    2,
    4,
    8,
)  # IFA_*; without a peer the first two are equal, or the first is alone
_NODAD, _FAILED, _TENTATIVE = 0x02, 0x08, 0x40  # IFA_F_*
_IPV6_CHANGES = 0x100  # RTMGRP_IPV6_IFADDR
_EVERY_LINK = IfIndex(0)
_LINK_SCOPE = 253  # RT_SCOPE_LINK: of an IPv6 address the kernel derives it from the address
_FAMILIES = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
_IP = frozenset({socket.AF_INET, socket.AF_INET6})
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
    """What a link has, in the kernel's order; nothing for a link that is not there. Raises ``LinkError``.

    The kernel is asked for that link alone: a host has an address for each port of its bridges.
    """
    try:
        return tuple(held for at, held in _held(index) if at == index)
    except LinkError as error:
        if error.errno == errno.ENODEV:
            return ()
        raise


def everywhere() -> Iterator[tuple[IfIndex, HeldAddress]]:
    """The IPv4 and IPv6 addresses of all links. Raises ``LinkError``."""
    return _held(_EVERY_LINK)


def settled(index: IfIndex, timeout: float) -> tuple[HeldAddress, ...]:
    """What a link has, once duplicate address detection is done with all of it or has found a duplicate, or ``timeout``
    seconds have passed. Raises ``LinkError``."""
    end = time.monotonic() + timeout
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as changes:
        # Before the first look, so that no change is missed; what they are, the next look tells.
        changes.bind((0, _IPV6_CHANGES))
        while True:
            held = addresses(index)
            left = end - time.monotonic()
            if left <= 0 or any(one.failed for one in held) or not any(one.tentative for one in held):
                return held
            _wait(changes, left)


def _held(index: IfIndex) -> Iterator[tuple[IfIndex, HeldAddress]]:
    thing = f"the addresses of link {index}" if index else "the host's addresses"
    for answer in request("read", thing, _GETADDR, DUMP, _MESSAGE.pack(0, 0, 0, 0, index)):
        family, length, flags, _, index = _MESSAGE.unpack_from(answer)
        if family not in {socket.AF_INET, socket.AF_INET6}:  # MCTP, for one
            continue
        found = attributes(answer[_MESSAGE.size :])
        if _FLAGS in found:  # 32 bits of them, since 3.14
            (flags,) = U32.unpack(found[_FLAGS])
        address = ip_address(found.get(_LOCAL) or found[_ADDRESS])
        interface = ip_interface((address, length))
        yield IfIndex(index), HeldAddress(interface, bool(flags & _TENTATIVE), bool(flags & _FAILED))


def reachable(version: int = 0) -> Iterator[Address]:
    """The addresses of all links, of one IP version or of both, those of loopback and IPv6 link-local ones excluded.
    Raises ``LinkError``.

    Every port of a bridge has a link-local one: they are passed by without a look.
    """
    family = _FAMILIES[version]
    for answer in request("read", "the host's addresses", _GETADDR, DUMP, _MESSAGE.pack(family, 0, 0, 0, 0)):
        of, _, _, scope, _ = _MESSAGE.unpack_from(answer)
        # Where it knows no IPv6, the kernel tells of IPv4 in its place; and of all families, of others, too.
        if (of != family if family else of not in _IP) or (of == socket.AF_INET6 and scope == _LINK_SCOPE):
            continue
        address = _told(answer)
        if not address.is_loopback:
            yield address


@lru_cache(maxsize=256)
def _told(answer: bytes) -> Address:
    """The address that a message is about. The host's are asked for by each ADD, and seldom change."""
    found = attributes(answer[_MESSAGE.size :])
    return ip_address(found.get(_LOCAL) or found[_ADDRESS])


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


def _wait(changes: socket.socket, seconds: float) -> None:
    """Until something changes, or for so long. What it was is not read, nor whether some of it was lost: the caller
    looks at all there is."""
    poll = select.poll()
    poll.register(changes, select.POLLIN)
    poll.poll(seconds * 1000)
    try:
        while changes.recv(1, socket.MSG_DONTWAIT | socket.MSG_TRUNC):
            pass
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.ENOBUFS}:
            raise


def _message(index: IfIndex, interface: Interface, flags: int) -> bytes:
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    packed = interface.ip.packed
    return (
        _MESSAGE.pack(family, interface.network.prefixlen, flags, 0, index)
        + attribute(_LOCAL, packed)
        + attribute(_ADDRESS, packed)
    )
