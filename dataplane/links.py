"""The door to rtnetlink: links, their bridge port flags and the host's addresses, in this process's namespace.

Source: include/uapi/linux/{rtnetlink,if_link,if_addr}.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import ip_address

from dataplane.doors import Link, PortFlags
from dataplane.errors import LinkError
from dataplane.netlink import DUMP, NESTED, attribute, attributes, exchange, text, text_attribute
from dataplane.types import Address, IfIndex

_MAX_NAME = 15  # IFNAMSIZ - 1

_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_GETLINK, _SETLINK, _GETADDR = 18, 19, 22  # RTM_*
_AF_BRIDGE = 7
_U32, _U8 = struct.Struct("=I"), struct.Struct("=B")

_NAME, _MASTER, _PROTINFO, _LINKINFO = 3, 10, 12, 18  # IFLA_*
_KIND, _PORT_KIND, _PORT = 1, 4, 5  # IFLA_INFO_KIND, _SLAVE_KIND, _SLAVE_DATA
_HAIRPIN, _ISOLATED = 4, 33  # IFLA_BRPORT_MODE, _ISOLATED
_ADDRESS_OF_PEER, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL; without a peer they are the same, or there is the first alone


class NetlinkLinks:
    """``dataplane.doors.Links`` on the running kernel."""

    def find(self, name: str) -> Link | None:
        """The link with this name, or None, also for what cannot be a link's name."""
        if not name or "\0" in name or not _encodable(name):
            return None
        return _link(_get_link(IfIndex(0), name))

    def get(self, index: IfIndex) -> Link | None:
        """The link with this index, or None."""
        return _link(_get_link(index)) if index else None

    def host_addresses(self) -> tuple[Address, ...]:
        """Addresses of this namespace in numeric order, loopback and IPv6 link-local ones excluded."""
        found: set[Address] = set()
        for body in _route("read", "the host's addresses", _GETADDR, DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)):
            about = attributes(body[_ADDRESS.size :])
            address = ip_address(about.get(_LOCAL) or about[_ADDRESS_OF_PEER])
            if not address.is_loopback and not (address.version == 6 and address.is_link_local):
                found.add(address)
        return tuple(sorted(found, key=lambda address: (address.version, int(address))))

    def port_flags(self, index: IfIndex) -> PortFlags:
        """The bridge port flags of a link. Raises ``LinkError`` where it is no bridge port."""
        about = attributes(_attributes_of(_get_link(index)).get(_LINKINFO, b""))
        if text(about.get(_PORT_KIND, b"")) != "bridge":
            raise LinkError.from_errno("read the bridge port flags of", f"link {index}", errno.ENODEV)
        port = attributes(about.get(_PORT, b""))
        return PortFlags(any(port.get(_HAIRPIN, b"")), any(port.get(_ISOLATED, b"")))

    def set_port_flags(self, index: IfIndex, flags: PortFlags) -> None:
        """Change the bridge port flags of a link; None leaves one as it is. Raises ``LinkError``."""
        wanted = ((_HAIRPIN, flags.hairpin), (_ISOLATED, flags.isolated))
        changes = b"".join(attribute(kind, _U8.pack(value)) for kind, value in wanted if value is not None)
        if changes:
            body = _LINK.pack(_AF_BRIDGE, 0, index, 0, 0) + attribute(_PROTINFO | NESTED, changes)
            _route("set the bridge port flags of", f"link {index}", _SETLINK, 0, body)


def _get_link(index: IfIndex, name: str = "") -> bytes | None:
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)
    if name:
        body += text_attribute(_NAME, name)
    try:
        answers = _route("read", f"link {name or index}", _GETLINK, 0, body)
    except LinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return answers[0] if answers else None


def _link(answer: bytes | None) -> Link | None:
    if answer is None:
        return None
    found = _attributes_of(answer)
    about = attributes(found.get(_LINKINFO, b""))
    return Link(
        index=IfIndex(_LINK.unpack_from(answer)[2]),
        name=text(found[_NAME]),
        kind=text(about.get(_KIND, b"")),
        master=IfIndex(_U32.unpack(found[_MASTER])[0] if _MASTER in found else 0),
    )


def _attributes_of(answer: bytes | None) -> dict[int, bytes]:
    return attributes(answer[_LINK.size :]) if answer else {}


def _route(verb: str, thing: str, kind: int, flags: int, body: bytes) -> list[bytes]:
    try:
        return exchange(socket.NETLINK_ROUTE, kind, flags, body)
    except OSError as error:
        raise LinkError(verb, thing, error.strerror or str(error), error.errno or 0) from error


def _encodable(name: str) -> bool:
    try:
        return len(name.encode()) <= _MAX_NAME
    except UnicodeEncodeError:
        return False
