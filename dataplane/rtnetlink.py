"""rtnetlink's messages, as far as more than one of our doors speaks them: requests, and what a link says of itself.

Every request opens its socket in the network namespace of the calling thread (``dataplane.namespaces`` changes it).

Source: include/uapi/linux/{rtnetlink,if_link,if}.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping

from dataplane.doors import Link
from dataplane.errors import LinkError
from dataplane.netlink import attribute, attributes, exchange, question, text, text_attribute
from dataplane.types import IfIndex

LINK = struct.Struct("=BxHiII")
"""ifinfomsg: family, type, index, flags, change"""
U32 = struct.Struct("=I")

NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19  # RTM_*
AF_BRIDGE = 7

ADDRESS, NAME, MTU, LOWER, MASTER, PROTINFO, LINKINFO, ALIAS, AF_SPEC, NETNS_FD, EXT_MASK = (
    1, 3, 4, 5, 10, 12, 18, 20, 26, 28, 29,
)  # fmt: skip
"""IFLA_*; LOWER is IFLA_LINK, which for a veth is its peer."""
KIND, KIND_DATA, PORT_KIND, PORT_DATA = 1, 2, 4, 5
"""IFLA_INFO_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA"""
UP, PROMISCUOUS = 0x1, 0x100
"""IFF_UP, IFF_PROMISC"""

WITHOUT_STATISTICS = attribute(EXT_MASK, U32.pack(8))
"""RTEXT_FILTER_SKIP_STATS: nobody here reads them, and shorter dumps are interrupted less."""

_OPERSTATE = 16  # IFLA_OPERSTATE
_CARRIES = frozenset({0, 6})  # IF_OPER_UNKNOWN, IF_OPER_UP; a link that is not IFF_UP is reported as down


def request(
    verb: str, thing: str, kind: int, flags: int, body: bytes, hints: Mapping[int, str] | None = None
) -> list[bytes]:
    """Send one request; the bodies of its answers. Raises ``LinkError`` "could not <verb> <thing>", in the kernel's
    words, with the hint for its errno where there is one."""
    try:
        return exchange(socket.NETLINK_ROUTE, kind, flags, body)
    except OSError as error:
        number = error.errno or 0
        raise LinkError(verb, thing, error.strerror or str(error), number, (hints or {}).get(number, "")) from error


def link_message(index: IfIndex, name: str = "") -> bytes | None:
    """What the kernel says of one link, by index or by name; None where there is no such link."""
    body = LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + WITHOUT_STATISTICS
    if name:
        body += text_attribute(NAME, name)
    try:
        return question(socket.NETLINK_ROUTE, GETLINK, body)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        cause = error.strerror or str(error)
        raise LinkError("read", f"link {name or index}", cause, error.errno or 0) from error


def link_attributes(message: bytes | None) -> dict[int, bytes]:
    """The attributes of such a message; none of None."""
    return attributes(message[LINK.size :]) if message else {}


def link_of(message: bytes) -> Link:
    """The link that such a message describes."""
    _, _, index, flags, _ = LINK.unpack_from(message)
    found = link_attributes(message)
    kind = text(attributes(found.get(LINKINFO, b"")).get(KIND, b""))
    return Link(
        index=IfIndex(index),
        name=text(found[NAME]),
        kind=kind,
        master=IfIndex(_number(found.get(MASTER))),
        mac=found.get(ADDRESS, b"").hex(":"),
        mtu=_number(found.get(MTU)),
        up=bool(flags & UP),
        running=found.get(_OPERSTATE, b"\0")[0] in _CARRIES,
        promiscuous=bool(flags & PROMISCUOUS),
        peer=IfIndex(_number(found.get(LOWER)) if kind == "veth" else 0),
        alias=text(found.get(ALIAS, b"")),
    )


def _number(raw: bytes | None) -> int:
    number: int = U32.unpack(raw)[0] if raw else 0
    return number
