"""Routes, over rtnetlink, in the network namespace of the calling thread.

Be aware: what the kernel fills in is what ``routes`` returns: table 254 (main), the metric 1024 of IPv6, the scope. And
an IPv6 route keeps no scope: the kernel reports 0 whatever was asked for.

Source: include/uapi/linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from dataplane.errors import LinkError
from dataplane.netlink import CREATE, DUMP, NESTED, attribute, attributes
from dataplane.rtnetlink import U32, request
from dataplane.types import Address, IfIndex, Network, Route

_MESSAGE = struct.Struct(
    "=BBBBBBBBI"
)  # rtmsg: family, dst length, src length, tos, table, protocol, scope, type, flags
_NEXTHOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, index
_NEWROUTE, _GETROUTE = 24, 26  # RTM_*
_DST, _OIF, _GATEWAY, _PRIORITY, _METRICS, _MULTIPATH, _TABLE, _VIA = 1, 4, 5, 6, 8, 9, 15, 18  # RTA_*
_MTU, _ADVMSS = 2, 8  # RTAX_*
_BOOT, _UNICAST = 3, 1  # RTPROT_BOOT: set by hand, as ip(8) and containernetworking's plugins do; RTN_UNICAST
_CLONED = 0x200  # RTM_F_CLONED: an entry of the cache
_MAIN, _LOCAL = 254, 255  # RT_TABLE_*
_UNIVERSE, _LINK = 0, 253  # RT_SCOPE_*
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})
"""No route, an unreachable one, a prohibited one, a black hole."""

_NO_WAY = "no address of the link has the gateway in its subnet"
_HINTS = {
    errno.ENETUNREACH: _NO_WAY,
    errno.EHOSTUNREACH: _NO_WAY,
    errno.EEXIST: "there is a route like that already",
}


def add_route(route: Route, index: IfIndex) -> None:
    """Add a route by a link that is up. Raises ``LinkError``; ``EEXIST`` where there is the same one.

    One with the same destination and metric but another gateway is no obstacle: for IPv4 the new one goes before it,
    for IPv6 they share the traffic. Without a scope, a route that has no gateway is of scope link.
    """
    thing = f"route to {route.destination}" + (f" via {route.gateway}" if route.gateway else "") + f" by link {index}"
    request("add", thing, _NEWROUTE, CREATE, _message(route, index), _HINTS)


def routes(index: IfIndex) -> tuple[Route, ...]:
    """The unicast routes by a link, of all tables except the local one, in the kernel's order, IPv4 before IPv6.
    Raises ``LinkError``."""
    answers = request("read", f"the routes by link {index}", _GETROUTE, DUMP, _MESSAGE.pack(*[0] * 9))
    return tuple(route for answer in answers for at, route in _routes_of(answer) if at == index)


def route_to(address: Address) -> IfIndex | None:
    """By which link this network namespace reaches an address, its own ones by loopback; None where it does not.
    Raises ``LinkError``."""
    packed = address.packed
    body = _MESSAGE.pack(_family(address), len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(_DST, packed)
    try:
        answers = request("find", f"the route to {address}", _GETROUTE, 0, body)
    except LinkError as error:
        if error.errno in _UNREACHABLE:
            return None
        raise
    return next((at for answer in answers for at in _links_of(answer)), None)


def _message(route: Route, index: IfIndex) -> bytes:
    scope = route.scope
    if scope is None:
        scope = _UNIVERSE if route.gateway else _LINK
    destination = route.destination
    body = _MESSAGE.pack(_family(destination), destination.prefixlen, 0, 0, 0, _BOOT, scope, _UNICAST, 0)
    body += attribute(_DST, destination.network_address.packed) + attribute(_OIF, U32.pack(index))
    # As an attribute, because the message has 8 bits for the table's number.
    body += attribute(_TABLE, U32.pack(_MAIN if route.table is None else route.table))
    if route.gateway is not None:
        body += _gateway(route.gateway, destination)
    if route.priority is not None:
        body += attribute(_PRIORITY, U32.pack(route.priority))
    metrics = ((_MTU, route.mtu), (_ADVMSS, route.advmss))
    wanted = b"".join(attribute(kind, U32.pack(value)) for kind, value in metrics if value is not None)
    return body + (attribute(_METRICS | NESTED, wanted) if wanted else b"")


def _gateway(gateway: Address, destination: Network) -> bytes:
    if gateway.version == destination.version:
        return attribute(_GATEWAY, gateway.packed)
    return attribute(_VIA, struct.pack("=H", _family(gateway)) + gateway.packed)


def _routes_of(answer: bytes) -> Iterator[tuple[IfIndex, Route]]:
    """The routes of one answer, a route for each next hop."""
    family, length, _, _, table, _, scope, kind, flags = _MESSAGE.unpack_from(answer)
    if family not in {socket.AF_INET, socket.AF_INET6}:  # MPLS, for one
        return
    found = attributes(answer[_MESSAGE.size :])
    if _TABLE in found:
        (table,) = U32.unpack(found[_TABLE])
    if kind != _UNICAST or flags & _CLONED or table == _LOCAL:
        return
    zero = bytes(4 if family == socket.AF_INET else 16)
    metrics = attributes(found.get(_METRICS, b""))
    for index, hop in _hops(found):
        yield (
            index,
            Route(
                destination=ip_network((found.get(_DST, zero), length)),
                gateway=_gateway_of(hop),
                mtu=_number(metrics.get(_MTU)),
                advmss=_number(metrics.get(_ADVMSS)),
                priority=_number(found.get(_PRIORITY)),
                table=table,
                scope=scope,
            ),
        )


def _links_of(answer: bytes) -> Iterator[IfIndex]:
    yield from (index for index, _ in _hops(attributes(answer[_MESSAGE.size :])))


def _hops(found: dict[int, bytes]) -> Iterator[tuple[IfIndex, dict[int, bytes]]]:
    if _OIF in found:
        yield IfIndex(U32.unpack(found[_OIF])[0]), found
    raw = found.get(_MULTIPATH, b"")
    while len(raw) >= _NEXTHOP.size:
        length, _, _, index = _NEXTHOP.unpack_from(raw)
        yield IfIndex(index), attributes(raw[_NEXTHOP.size : length])
        raw = raw[max(length, _NEXTHOP.size) :]


def _gateway_of(hop: dict[int, bytes]) -> Address | None:
    raw = hop.get(_GATEWAY) or hop.get(_VIA, b"")[2:]  # the latter begins with a family
    return ip_address(raw) if raw else None


def _family(address: Address | Network) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _number(raw: bytes | None) -> int | None:
    return U32.unpack(raw)[0] if raw else None
