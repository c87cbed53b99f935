"""What conntrack says that a packet was before NAT.

    before(Tuple(Protocol.TCP, client, 54017, container, 80))    -> the same with the host's address and port

Conntrack keeps two tuples of a flow: the original one as its first packet came, and the reply one as answers come in,
before anything is translated back. A packet on its way, after NAT, is the inverse of the tuple of the other direction.
One table holds both tuples of all flows, each once: so one question finds the flow, and which direction it goes.

Be aware: it answers for flows that are tracked now, in the network namespace of the calling thread and in zone 0.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

from dataplane.errors import KernelError
from dataplane.netlink import NESTED, attribute, attributes, exchange
from dataplane.types import Address, Protocol

_NETFILTER = 12  # NETLINK_NETFILTER
_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_GENMSG = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY
_IP, _PROTO = 1, 2  # CTA_TUPLE_*
_SOURCE, _DESTINATION = {4: 1, 6: 3}, {4: 2, 6: 4}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC, ..._DST
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3  # CTA_PROTO_*
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Tuple:
    """The two ends of a TCP or UDP packet."""

    protocol: Protocol
    source: Address
    source_port: int
    destination: Address
    destination_port: int

    @property
    def inverse(self) -> Tuple:
        """That of an answer to it."""
        return Tuple(self.protocol, self.destination, self.destination_port, self.source, self.source_port)


def before(packet: Tuple) -> Tuple | None:
    """What a packet was before NAT, which may be just what it is; None where its flow is not tracked. Raises
    ``KernelError``."""
    entry = _entry(packet.inverse)
    if entry is None:
        return None
    original, reply = (_unpacked(packet.protocol, entry[kind]) for kind in (_ORIGINAL, _REPLY))
    return original if reply == packet.inverse else reply


def _entry(wanted: Tuple) -> dict[int, bytes] | None:
    """The attributes of the flow that has this tuple, in either direction."""
    version = wanted.source.version
    ip = attribute(_SOURCE[version], wanted.source.packed) + attribute(_DESTINATION[version], wanted.destination.packed)
    proto = attribute(_NUMBER, bytes([wanted.protocol.number]))
    proto += attribute(_SOURCE_PORT, wanted.source_port.to_bytes(2, "big"))
    proto += attribute(_DESTINATION_PORT, wanted.destination_port.to_bytes(2, "big"))
    body = attribute(_REPLY | NESTED, attribute(_IP | NESTED, ip) + attribute(_PROTO | NESTED, proto))
    try:
        (answer,) = exchange(_NETFILTER, _GET, 0, _GENMSG.pack(_FAMILIES[version], 0, 0) + body)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise KernelError("read", "conntrack", error.strerror or str(error), error.errno or 0) from error
    return attributes(answer[_GENMSG.size :])


def _unpacked(protocol: Protocol, raw: bytes) -> Tuple:
    ends = attributes(raw)
    ip, proto = attributes(ends[_IP]), attributes(ends[_PROTO])
    version = 4 if _SOURCE[4] in ip else 6
    return Tuple(
        protocol,
        ip_address(ip[_SOURCE[version]]),
        int.from_bytes(proto[_SOURCE_PORT], "big"),
        ip_address(ip[_DESTINATION[version]]),
        int.from_bytes(proto[_DESTINATION_PORT], "big"),
    )
