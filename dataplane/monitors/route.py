"""What rtnetlink tells: links, bridge ports, addresses, qdiscs and filters, forwarding.

Be aware: the kernel does not tell (seen on Linux 6.18) of programs that come and go by tcx, nor of flags of a bridge
port and the alias of a link while that link is down. Routes, rules and neighbours are not subscribed to.

Source: include/uapi/linux/{rtnetlink,if_link,if_addr,netconf}.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from dataplane import rtnetlink
from dataplane.events import (
    AddressChanged,
    Event,
    ForwardingChanged,
    HookChanged,
    LinkChanged,
    NotificationsLost,
    PortChanged,
)
from dataplane.monitors.subscription import (
    BUFFER,
    MalformedError,
    Subscription,
    messages,
    number,
    required,
    split,
)
from dataplane.netlink import attributes, text
from dataplane.types import IfIndex

SOURCE = "route"

# RTNLGRP_LINK, _TC, _IPV4_IFADDR, _IPV6_IFADDR, _IPV4_NETCONF, _IPV6_NETCONF
_GROUPS = (1, 4, 5, 9, 24, 25)
_NEWADDR, _DELADDR, _NEWNETCONF = 20, 21, 80  # RTM_*
_CHAINS = frozenset({100, 101})  # RTM_NEWCHAIN, _DELCHAIN
_HOOKS = frozenset({36, 37, 44, 45}) | _CHAINS  # RTM_NEWQDISC, _DELQDISC, _NEWTFILTER, _DELTFILTER

_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefixlen, flags, scope, index
_TC = struct.Struct("=Bxxxi")  # the beginning of tcmsg: family, index
_NETCONF = struct.Struct("=Bxxx")  # netconfmsg: family
_NETCONF_INDEX = 1  # NETCONFA_IFINDEX


class RouteMonitor:
    """A subscription to it, in the network namespace of the thread that opens it. Raises ``KernelError``."""

    def __init__(self, buffer: int = BUFFER) -> None:
        self._subscription = Subscription(SOURCE, socket.NETLINK_ROUTE, _GROUPS, buffer)

    def fileno(self) -> int:
        """Readable (epoll, select) while there is something to read."""
        return self._subscription.fileno()

    def read(self) -> tuple[Event, ...]:
        """What came, each event once, in the order in which they came last; never waits."""
        datagrams, lost = self._subscription.receive()
        found: dict[Event, None] = {}
        for datagram in datagrams:
            for event in decode(datagram):
                found.pop(event, None)
                found[event] = None
        if lost:
            found[NotificationsLost(SOURCE)] = None
        return tuple(found)

    def close(self) -> None:
        """Listen no more; a second time does nothing."""
        self._subscription.close()


def decode(datagram: bytes) -> Iterator[Event]:
    """The events in one datagram. What is malformed, and all behind it, counts as lost."""
    try:
        for kind, port, body in messages(datagram):
            event = _event(kind, port, body)
            if event is not None:
                yield event
    except MalformedError:
        yield NotificationsLost(SOURCE)


def _event(kind: int, port: int, body: bytes) -> Event | None:
    if kind in {rtnetlink.NEWLINK, rtnetlink.DELLINK}:
        return _link(body, gone=kind == rtnetlink.DELLINK)
    if kind in {_NEWADDR, _DELADDR}:
        (*_, index), _ = split(_ADDRESS, body)
        return AddressChanged(IfIndex(index), gone=kind == _DELADDR)
    if kind in _CHAINS and not port:
        return None  # empty, or it came or went with filters or a qdisc or a link, which are told as well
    if kind in _HOOKS:
        (_, index), _ = split(_TC, body)
        return HookChanged(IfIndex(max(index, 0)), port)  # a block that links share comes as -1
    if kind == _NEWNETCONF:
        _, found = split(_NETCONF, body)
        return ForwardingChanged(IfIndex(max(number(required(found, _NETCONF_INDEX)), 0)))
    return None


def _link(body: bytes, *, gone: bool) -> LinkChanged | PortChanged:
    (family, _, index, _, _), found = split(rtnetlink.LINK, body)
    master = IfIndex(number(found[rtnetlink.MASTER]) if rtnetlink.MASTER in found else 0)
    if family == rtnetlink.AF_BRIDGE:
        return PortChanged(IfIndex(index), master, gone)
    name = text(required(found, rtnetlink.NAME))
    kind = text(attributes(found.get(rtnetlink.LINKINFO, b"")).get(rtnetlink.KIND, b""))
    return LinkChanged(IfIndex(index), name, kind, master, gone)
