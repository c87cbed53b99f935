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


class Hook(StrEnum):
    """Where a program runs."""

    EGRESS = "egress"  # tc, of a device: what leaves it, towards containers
    INGRESS = "ingress"  # tc, of a container's host veth: what comes from the container
    CONNECT4 = "connect4"  # of the cgroups' root: a process connects a socket ...
    CONNECT6 = "connect6"
    SENDMSG4 = "sendmsg4"  # ... or sends by one that is not connected
    SENDMSG6 = "sendmsg6"
    RECVMSG4 = "recvmsg4"
    RECVMSG6 = "recvmsg6"
    GETPEERNAME4 = "getpeername4"
    GETPEERNAME6 = "getpeername6"

    @property
    def of_cgroup(self) -> bool:
        """Whether processes run it, and not packets of a device."""
        return self not in {Hook.EGRESS, Hook.INGRESS}


class Program(StrEnum):
    """A program of ours, by the name of its function without ``dp_``. Those of one hook run in this order."""

    ISOLATION = "isolation"
    CHECKSUM = "checksum"
    FILL = "fill"
    GUARD = "guard"
    CONNECT4 = "connect4"
    CONNECT6 = "connect6"
    SENDMSG4 = "sendmsg4"
    SENDMSG6 = "sendmsg6"
    RECVMSG4 = "recvmsg4"
    RECVMSG6 = "recvmsg6"
    GETPEERNAME4 = "getpeername4"
    GETPEERNAME6 = "getpeername6"

    @property
    def function(self) -> str:
        """The C function, which is also the name that the kernel lists (15 bytes at most)."""
        return f"dp_{self.value}"

    @property
    def hook(self) -> Hook:
        """Where it runs."""
        if self is Program.GUARD:
            return Hook.INGRESS
        return Hook(self.value) if self.value in _CGROUP_HOOKS else Hook.EGRESS

    @property
    def of_port(self) -> bool:
        """Whether it belongs on each container's host veth, and not on a network's device."""
        return self in {Program.FILL, Program.GUARD}


_CGROUP_HOOKS = frozenset(hook.value for hook in Hook if hook.of_cgroup)
NETWORK_PROGRAMS = (Program.ISOLATION, Program.CHECKSUM)
"""Those that belong on a network's device."""
PORT_PROGRAMS = tuple(program for program in Program if program.of_port)
"""Those that belong on a container's host veth."""
DEVICE_PROGRAMS = tuple(program for program in Program if not program.hook.of_cgroup)
"""Those that are attached to links."""
LOCALHOST_PROGRAMS = tuple(program for program in Program if program.hook.of_cgroup)
"""Those that are attached to the root of the cgroups."""
DATAGRAM_PROGRAMS = frozenset({Program.SENDMSG4, Program.SENDMSG6, Program.RECVMSG4, Program.RECVMSG6})
"""Those of them that UDP ports need, and every datagram socket of the machine runs."""


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
    FILL = 3


class GuardLevel(IntEnum):
    """``enum guard_level`` of ``bpf/abi.h``."""

    OFF = 0
    MAC = 1
    FULL = 2
