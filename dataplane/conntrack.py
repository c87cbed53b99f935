"""The door to conntrack: flush the entries of published UDP ports, and no others.

A UDP flow that was tracked before its port was published (or after it moved) keeps going where it went: conntrack
decided with its first packet. Such entries are selected in the kernel by protocol and original destination port
(CTA_FILTER, Linux 5.8), and by original destination address here.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from dataplane.doors import FlowFilter
from dataplane.errors import KernelError


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

        flushed = 0
        try:
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                pairs = [(one, {str(a) for a in one.addresses if a.version == version}) for one in wanted]
                if any(addresses for _, addresses in pairs):
                    with Conntrack(nfgen_family=family) as conntrack:
                        flushed += sum(_flush(conntrack, family, *pair) for pair in pairs if pair[1])
        except NetlinkError as error:
            raise KernelError.from_errno("flush conntrack entries of", _ports(wanted), int(error.code)) from error
        except OSError as error:
            raise KernelError.from_errno("flush conntrack entries of", _ports(wanted), error.errno or 0) from error
        return flushed


def _flush(conntrack: Any, family: int, one: FlowFilter, addresses: set[str]) -> int:
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple  # noqa: PLC0415

    flushed = 0
    pattern = NFCTAttrTuple(family=family, proto=one.protocol.number, dport=one.port)
    for entry in list(conntrack.dump_entries(tuple_orig=pattern)):
        # pyroute2 compares the tuple again, so a kernel that ignored the filter flushes nothing it should not.
        if str(ip_address(entry.tuple_orig.daddr)) not in addresses:
            continue
        try:
            conntrack.entry("del", tuple_orig=entry.tuple_orig)
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise
        else:
            flushed += 1
    return flushed


def _ports(filters: list[FlowFilter]) -> str:
    return ", ".join(f"{one.port}/{one.protocol}" for one in filters[:8])
