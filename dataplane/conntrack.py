"""The door to conntrack: flush the entries of published UDP ports, and no others.

A UDP flow that was tracked before its port was published (or after it moved) keeps going where it went: conntrack
decided with its first packet. Such entries are selected in the kernel by protocol and, for a few ports, by original
destination port (CTA_FILTER, Linux 5.8); by original destination address, and among many ports, here.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from dataplane.doors import FlowFilter
from dataplane.errors import KernelError
from dataplane.types import Protocol

_MAX_DUMPS = 8


class NetlinkFlows:
    """``dataplane.doors.Flows`` on the running kernel."""

    def flush(self, filters: Iterable[FlowFilter]) -> int:
        """Delete the entries that match any filter; how many. An entry that vanished by itself is not an error."""
        wanted = [one for one in filters if one.addresses]
        if not wanted:
            return 0
        # Imported here: only UDP ports come this way, and it costs 100 ms.
        from pyroute2.conntrack import Conntrack  # noqa: PLC0415
        from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

        try:
            return sum(_flush_family(Conntrack, family, wanted) for family in (socket.AF_INET, socket.AF_INET6))
        except NetlinkError as error:
            raise KernelError.from_errno("flush conntrack entries of", _ports(wanted), int(error.code)) from error
        except OSError as error:
            raise KernelError.from_errno("flush conntrack entries of", _ports(wanted), error.errno or 0) from error


def _flush_family(conntrack: Any, family: socket.AddressFamily, filters: list[FlowFilter]) -> int:
    version = 4 if family is socket.AF_INET else 6
    claimed: dict[Protocol, dict[int, set[str]]] = {}
    for one in filters:
        addresses = {str(address) for address in one.addresses if address.version == version}
        if addresses:
            claimed.setdefault(one.protocol, {}).setdefault(one.port, set()).update(addresses)
    if not claimed:
        return 0
    with conntrack(nfgen_family=family) as opened:
        return sum(_flush(opened, family, protocol, ports) for protocol, ports in claimed.items())


def _flush(conntrack: Any, family: socket.AddressFamily, protocol: Protocol, ports: dict[int, set[str]]) -> int:
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple  # noqa: PLC0415

    # Each dump walks the whole table: for many ports one dump of the protocol is cheaper.
    wanted: list[int | None] = [*ports] if len(ports) <= _MAX_DUMPS else [None]
    flushed = 0
    for port in wanted:
        pattern = NFCTAttrTuple(family=family, proto=protocol.number, dport=port)
        for entry in list(conntrack.dump_entries(tuple_orig=pattern)):
            original = entry.tuple_orig
            # pyroute2 compares the tuple again, so a kernel that ignored the filter flushes nothing it should not.
            if str(ip_address(original.daddr)) not in ports.get(original.dport, ()):
                continue
            try:
                conntrack.entry("del", tuple_orig=original)
            except NetlinkError as error:
                if error.code != errno.ENOENT:
                    raise
            else:
                flushed += 1
    return flushed


def _ports(filters: list[FlowFilter]) -> str:
    return ", ".join(f"{one.port}/{one.protocol}" for one in filters[:8])
