"""The door to conntrack: flush the entries of flows that conntrack would keep leading astray, and no others.

Conntrack decides with a flow's first packet. A UDP flow that was tracked before its port was published (or after it
moved) keeps going where it went. Such entries are selected in the kernel by protocol and, for a few ports, by original
destination port (CTA_FILTER, Linux 5.8); by original destination address, and among many ports, here. A flow that a
container began while nothing masqueraded it never gets an answer: such entries are selected by status in the kernel
(CTA_STATUS_MASK, Linux 5.15), and by source here.

Be aware: to find entries the kernel goes through its whole hash table, those of all network namespaces: some
milliseconds, unless this one has none.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet

from dataplane.doors import FlowFilter
from dataplane.errors import KernelError
from dataplane.netlink import DUMP, NESTED, attribute, attributes, exchange
from dataplane.types import Address, Protocol

_NETFILTER = 12  # NETLINK_NETFILTER
_GET, _DELETE, _GET_STATISTICS = 1 << 8 | 1, 1 << 8 | 2, 1 << 8 | 5  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*
_GENMSG = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_ENTRIES = 1  # CTA_STATS_GLOBAL_ENTRIES
_ORIGINAL, _STATUS, _ID, _ZONE, _FILTER, _STATUS_MASK = 1, 3, 12, 18, 25, 26  # CTA_TUPLE_ORIG, CTA_*
_SEEN_REPLY, _SRC_NAT, _DST_NAT = 1 << 1, 1 << 4, 1 << 5  # IPS_*
_ON_ITS_WAY = _SEEN_REPLY | _SRC_NAT
_IP, _PROTO = 1, 2  # CTA_TUPLE_*
_SOURCES, _DESTINATIONS = {4: 1, 6: 3}, {4: 2, 6: 4}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC, ..._DST
_NUMBER, _PORT = 1, 3  # CTA_PROTO_NUM, CTA_PROTO_DST_PORT
_ORIGINAL_FLAGS, _REPLY_FLAGS = 1, 2  # CTA_FILTER_*
_BY_NUMBER, _BY_PORT = 1 << 3, 1 << 5  # CTA_FILTER_F_CTA_PROTO_*
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_FLAGS = struct.Struct("=I")

_WORTH_A_DUMP = 2000
"""Entries that are looked at here in the time that the kernel takes to go through its table once more."""

_Claims = dict[tuple[int, Protocol, bool], dict[bytes, set[bytes]]]
"""By IP version, protocol, and whether only those that went astray: destination ports, and the destination addresses of
each; both as packets have them."""


class NetlinkFlows:
    """``dataplane.doors.Flows`` on the running kernel."""

    def flush(self, filters: Iterable[FlowFilter]) -> int:
        """Delete the entries that match any filter; how many. An entry that vanished by itself is not an error."""
        wanted = [one for one in filters if one.addresses]
        if not wanted:
            return 0
        try:
            tracked = _tracked()
            if not tracked:
                return 0
            dumps = 1 + tracked // _WORTH_A_DUMP
            return sum(_flush(*of, ports, dumps) for of, ports in _claims(wanted).items())
        except OSError as error:
            raise KernelError.from_errno("flush conntrack entries of", _ports(wanted), error.errno or 0) from error

    def flush_untranslated(self, sources: Collection[Address]) -> int:
        """Delete the entries of flows from these addresses that have neither a translated source nor an answer; how
        many."""
        try:
            if not sources or not _tracked():
                return 0
            versions = {address.version for address in sources}
            return sum(_flush_untranslated(version, {address.packed for address in sources}) for version in versions)
        except OSError as error:
            raise KernelError.from_errno(
                "flush conntrack entries of", f"{len(sources)} containers", error.errno or 0
            ) from error


def _claims(filters: Iterable[FlowFilter]) -> _Claims:
    claimed: _Claims = {}
    for one in filters:
        for address in one.addresses:
            ports = claimed.setdefault((address.version, one.protocol, one.astray), {})
            ports.setdefault(one.port.to_bytes(2, "big"), set()).add(address.packed)
    return claimed


def _tracked() -> int:
    """How many entries this network namespace has."""
    (answer,) = exchange(_NETFILTER, _GET_STATISTICS, 0, _GENMSG.pack(socket.AF_UNSPEC, 0, 0))
    return int.from_bytes(attributes(answer[_GENMSG.size :])[_ENTRIES], "big")


def _flush(version: int, protocol: Protocol, astray: bool, ports: dict[bytes, set[bytes]], dumps: int) -> int:
    flushed = 0
    matches = _matching(version, protocol, ports, astray=astray)
    # Each dump walks the whole table: for many ports one dump of the protocol is cheaper.
    for port in ports if len(ports) <= dumps else (None,):
        asked = _asked(version, protocol, port)
        # What is dumped is compared again, so a kernel that ignored the filter flushes nothing that it should not.
        for entry in exchange(_NETFILTER, _GET, DUMP, asked, matches):
            flushed += _delete(entry)
    return flushed


def _flush_untranslated(version: int, sources: AbstractSet[bytes]) -> int:
    status = attribute(_STATUS, bytes(4)) + attribute(_STATUS_MASK, _ON_ITS_WAY.to_bytes(4, "big"))

    def matches(entry: bytes) -> bool:
        found = attributes(entry[_GENMSG.size :])
        if _has(found, _ON_ITS_WAY):
            return False
        original = attributes(attributes(found.get(_ORIGINAL, b"")).get(_IP, b""))
        return original.get(_SOURCES[version]) in sources

    asked = _GENMSG.pack(_FAMILIES[version], 0, 0) + status
    return sum(map(_delete, exchange(_NETFILTER, _GET, DUMP, asked, matches)))


def _asked(version: int, protocol: Protocol, port: bytes | None) -> bytes:
    flags, proto = _BY_NUMBER, attribute(_NUMBER, bytes([protocol.number]))
    if port is not None:
        flags, proto = flags | _BY_PORT, proto + attribute(_PORT, port)
    chosen = attribute(_ORIGINAL_FLAGS, _FLAGS.pack(flags)) + attribute(_REPLY_FLAGS, _FLAGS.pack(0))
    return (
        _GENMSG.pack(_FAMILIES[version], 0, 0)
        + attribute(_ORIGINAL | NESTED, attribute(_PROTO | NESTED, proto))
        + attribute(_FILTER | NESTED, chosen)
    )


def _matching(
    version: int, protocol: Protocol, ports: dict[bytes, set[bytes]], *, astray: bool
) -> Callable[[bytes], bool]:
    def matches(entry: bytes) -> bool:
        found = attributes(entry[_GENMSG.size :])
        if astray and _has(found, _DST_NAT):
            return False
        original = attributes(found.get(_ORIGINAL, b""))
        proto = attributes(original.get(_PROTO, b""))
        destination = attributes(original.get(_IP, b"")).get(_DESTINATIONS[version])
        return proto.get(_NUMBER) == bytes([protocol.number]) and destination in ports.get(proto.get(_PORT, b""), ())

    return matches


def _has(found: Mapping[int, bytes], status: int) -> bool:
    """Whether an entry has any of these bits."""
    return bool(int.from_bytes(found.get(_STATUS, b""), "big") & status)


def _delete(entry: bytes) -> bool:
    """Delete an entry as it was dumped, this very one; whether it was still there."""
    found = attributes(entry[_GENMSG.size :])
    body = entry[: _GENMSG.size] + attribute(_ORIGINAL | NESTED, found[_ORIGINAL])
    body += b"".join(attribute(kind, found[kind]) for kind in (_ZONE, _ID) if kind in found)
    try:
        exchange(_NETFILTER, _DELETE, 0, body)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def _ports(filters: list[FlowFilter]) -> str:
    return ", ".join(f"{one.port}/{one.protocol}" for one in filters[:8])
