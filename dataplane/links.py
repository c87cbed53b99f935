"""The door to rtnetlink: links, their bridge port flags and the host's addresses.

Be aware: a ``NetlinkLinks`` belongs to the network namespace and the thread it was first used in.
"""

from __future__ import annotations

import errno
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from dataplane.doors import Link, PortFlags
from dataplane.errors import LinkError
from dataplane.types import Address, IfIndex

_MAX_NAME = 15  # IFNAMSIZ - 1


class NetlinkLinks:
    """``dataplane.doors.Links`` on the running kernel."""

    def find(self, name: str) -> Link | None:
        """The link with this name, or None, also for what cannot be a link's name."""
        if not name or "\0" in name or not _encodable(name):
            return None
        return self._link(ifname=name)

    def get(self, index: IfIndex) -> Link | None:
        """The link with this index, or None."""
        return self._link(index=index)

    def host_addresses(self) -> tuple[Address, ...]:
        """Addresses of this namespace in numeric order, loopback and IPv6 link-local ones excluded."""
        found: set[IPv4Address | IPv6Address] = set()
        for message in self._retried("get_addr"):
            address = ip_address(message.get("IFA_LOCAL") or message.get("IFA_ADDRESS"))
            if not address.is_loopback and not (address.version == 6 and address.is_link_local):
                found.add(address)
        return tuple(sorted(found, key=lambda address: (address.version, int(address))))

    def port_flags(self, index: IfIndex) -> PortFlags:
        """The bridge port flags of a link. Raises ``LinkError`` where it is no bridge port."""
        port = self._port(self._message(index=index), index)
        return PortFlags(bool(port.get_attr("IFLA_BRPORT_MODE")), bool(port.get_attr("IFLA_BRPORT_ISOLATED")))

    def set_port_flags(self, index: IfIndex, flags: PortFlags) -> None:
        """Change the bridge port flags of a link; None leaves one as it is. Raises ``LinkError``."""
        wanted = {"mode": flags.hairpin, "isolated": flags.isolated}
        changes = {name: int(value) for name, value in wanted.items() if value is not None}
        if changes:
            self._request("brport", "set", index=index, **changes)

    @cached_property
    def _netlink(self) -> Any:
        # Imported here: 100 ms that the exec path of a plugin with an agent never pays.
        from pyroute2.iproute.linux import IPRoute  # noqa: PLC0415

        return IPRoute()

    def _link(self, **selector: Any) -> Link | None:
        message = self._message(**selector)
        if message is None:
            return None
        about = message.get_attr("IFLA_LINKINFO")
        return Link(
            index=IfIndex(message["index"]),
            name=message.get_attr("IFLA_IFNAME"),
            kind=(about.get_attr("IFLA_INFO_KIND") or "") if about else "",
            master=IfIndex(message.get_attr("IFLA_MASTER") or 0),
        )

    def _message(self, **selector: Any) -> Any:
        try:
            answer = self._request("link", "get", **selector)
        except LinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return answer[0] if answer else None

    @staticmethod
    def _port(message: Any, index: IfIndex) -> Any:
        about = message.get_attr("IFLA_LINKINFO") if message else None
        kind = about.get_attr("IFLA_INFO_SLAVE_KIND") if about else None
        port = about.get_attr("IFLA_INFO_SLAVE_DATA") if about else None
        if port is None or kind != "bridge":
            raise LinkError.from_errno("read the bridge port flags of", f"link {index}", errno.ENODEV)
        return port

    def _retried(self, method: str) -> list[Any]:
        # A dump that was interrupted by a change (NLM_F_DUMP_INTR) may lack entries: it is asked for again.
        for _ in range(8):
            try:
                return list(getattr(self._netlink, method)())
            except _netlink_errors() as error:
                if _code(error) != errno.EINTR and "DUMP_INTR" not in repr(error):
                    raise LinkError.from_errno("read", "the host's addresses", _code(error)) from error
        raise LinkError("read", "the host's addresses", "they changed during each of 8 readings", errno.EINTR)

    def _request(self, method: str, *arguments: str, **selector: Any) -> Any:
        try:
            return getattr(self._netlink, method)(*arguments, **selector)
        except _netlink_errors() as error:
            thing = ", ".join(f"{key} {value}" for key, value in selector.items())
            raise LinkError.from_errno(f"{arguments[0]} {method}", thing, _code(error)) from error


def _encodable(name: str) -> bool:
    try:
        return len(name.encode()) <= _MAX_NAME
    except UnicodeEncodeError:
        return False


def _netlink_errors() -> tuple[type[Exception], ...]:
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError  # noqa: PLC0415

    return NetlinkError, NetlinkDumpInterrupted, OSError


def _code(error: Exception) -> int:
    return int(getattr(error, "code", 0) or getattr(error, "errno", 0) or 0)
