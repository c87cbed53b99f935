"""Words of the kernel that more than one door uses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import NewType

IfIndex = NewType("IfIndex", int)
"""Index of a link in the network namespace of this process; 0 is no link."""

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
"""An address with its prefix length: 10.11.0.2/24."""
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Route:
    """A route as CNI 1.1 describes one; what is None is left to the kernel."""

    destination: Network
    gateway: Address | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class Protocol(StrEnum):
    """A transport protocol that can be published, by the name that nft, CNI and people use."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"

    @property
    def number(self) -> int:
        """The protocol field of an IP header (IANA protocol numbers)."""
        return _NUMBERS[self]


_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}


class Program(StrEnum):
    """A tc program of ours, by the name of its source file in ``bpf/``."""

    ISOLATION = "isolation"
    CHECKSUM = "checksum"

    @property
    def function(self) -> str:
        """The C function, which is also the name that the kernel lists (15 bytes at most)."""
        return f"dp_{self.value}"


class AttachMode(StrEnum):
    """How programs are hooked to a link."""

    AUTO = "auto"  # tcx where the kernel takes it, else clsact
    TCX = "tcx"
    CLSACT = "clsact"


class IsolationPolicy(IntEnum):
    """``enum isolation_policy`` of ``bpf/abi.h``."""

    OPEN = 0
    SAME_BRIDGE = 1
    ISOLATED = 2


class ChecksumMode(IntEnum):
    """``enum checksum_mode`` of ``bpf/abi.h``."""

    OFF = 0
    OBSERVE = 1
    REPAIR = 2
