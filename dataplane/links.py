"""The door to rtnetlink: links, their bridge port flags and the host's addresses, in this process's namespace.

Source: include/uapi/linux/{rtnetlink,if_link,if_addr}.h.
"""

from __future__ import annotations

import errno
import struct

from dataplane import addresses, rtnetlink, wires
from dataplane.doors import Link, PortFlags
from dataplane.errors import LinkError
from dataplane.netlink import NESTED, attribute, attributes, text
from dataplane.routes import route_to
from dataplane.rtnetlink import LINK
from dataplane.types import Address, IfIndex, Interface

_LOOPBACK = IfIndex(1)  # in every namespace
_MAX_NAME = 15  # IFNAMSIZ - 1

_U8 = struct.Struct("=B")
_HAIRPIN, _ISOLATED = 4, 33  # IFLA_BRPORT_MODE, _ISOLATED


class NetlinkLinks:
    """``dataplane.doors.Links`` on the running kernel."""

    def find(self, name: str) -> Link | None:
        """The link with this name, or None, also for what cannot be a link's name."""
        if not name or "\0" in name or not _encodable(name):
            return None
        return _link(rtnetlink.link_message(IfIndex(0), name))

    def get(self, index: IfIndex) -> Link | None:
        """The link with this index, or None."""
        return _link(rtnetlink.link_message(index)) if index else None

    def all_links(self) -> tuple[Link, ...]:
        """Every link of this namespace. Raises ``LinkError``."""
        return wires.links()

    def towards(self, address: Address) -> Link | None:
        """The link by which packets to this address leave; None where there is no route, or it is the host's own."""
        index = route_to(address)
        return None if index is None or index == _LOOPBACK else self.get(index)

    def host_addresses(self, *versions: int) -> tuple[Address, ...]:
        """Addresses of this namespace, of these IP versions or of both, in numeric order; loopback and IPv6 link-local
        ones excluded."""
        found = {address for version in versions or (0,) for address in addresses.reachable(version)}
        return tuple(sorted(found, key=lambda address: (address.version, int(address))))

    def port_flags(self, index: IfIndex) -> PortFlags:
        """The bridge port flags of a link. Raises ``LinkError`` where it is no bridge port."""
        about = attributes(rtnetlink.link_attributes(rtnetlink.link_message(index)).get(rtnetlink.LINKINFO, b""))
        if text(about.get(rtnetlink.PORT_KIND, b"")) != "bridge":
            raise LinkError.from_errno("read the bridge port flags of", f"link {index}", errno.ENODEV)
        port = attributes(about.get(rtnetlink.PORT_DATA, b""))
        return PortFlags(any(port.get(_HAIRPIN, b"")), any(port.get(_ISOLATED, b"")))

    def set_port_flags(self, index: IfIndex, flags: PortFlags) -> None:
        """Change the bridge port flags of a link; None leaves one as it is. Raises ``LinkError``: ``ENODEV`` where it
        is no bridge port, or there is no such link."""
        wanted = ((_HAIRPIN, flags.hairpin), (_ISOLATED, flags.isolated))
        changes = b"".join(attribute(kind, _U8.pack(value)) for kind, value in wanted if value is not None)
        if changes:
            body = LINK.pack(rtnetlink.AF_BRIDGE, 0, index, 0, 0) + attribute(rtnetlink.PROTINFO | NESTED, changes)
            verb, thing = "set the bridge port flags of", f"link {index}"
            try:
                rtnetlink.request(verb, thing, rtnetlink.SETLINK, 0, body)
            except LinkError as error:
                if error.errno != errno.EOPNOTSUPP:  # as it says of a link that no bridge has
                    raise
                raise LinkError.from_errno(verb, thing, errno.ENODEV) from error

    def addresses_of(self, index: IfIndex) -> tuple[Interface, ...]:
        """The addresses of a link, IPv6 link-local ones excluded; none of a link that is gone."""
        held = (one.interface for one in addresses.addresses(index))
        return tuple(one for one in held if not (one.version == 6 and one.is_link_local))

    def make_bridge(self, name: str, mac: str, mtu: int) -> Link:
        """Make a bridge, which is down. Raises ``LinkError``."""
        return wires.create_bridge(name, mac=mac, mtu=mtu)

    def add_address(self, index: IfIndex, address: Interface) -> None:
        """Give a link an address, to be used at once. Raises ``LinkError``."""
        addresses.add_address(index, address, detect_duplicates=False)

    def enslave(self, index: IfIndex, bridge: IfIndex) -> None:
        """Make a link a port of a bridge. Raises ``LinkError``."""
        wires.change_link(index, master=bridge)

    def bring_up(self, index: IfIndex) -> None:
        """Set a link up. Raises ``LinkError``."""
        wires.change_link(index, up=True)


def _link(message: bytes | None) -> Link | None:
    return rtnetlink.link_of(message) if message else None


def _encodable(name: str) -> bool:
    try:
        return len(name.encode()) <= _MAX_NAME
    except UnicodeEncodeError:
        return False
