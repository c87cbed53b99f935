"""What a runtime asks for, as values that cannot be wrong: attachments, their networks and their published ports.

Attachment(AttachmentKey("front", "3f9c...", "eth0"), device=..., addresses=..., mappings=..., options=...)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from control.conditions import Condition
from control.nftwords import KEYWORDS
from dataplane.doors import PortFlags
from dataplane.types import Address, IfIndex, Protocol

# SPEC 1.1: "starts with an alphanumeric character, optionally followed by any combination of one or more alphanumeric
# characters, underscore, dot or hyphen"; the length is ours, far above any runtime's 64.
_IDENTIFIER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_MAX_IDENTIFIER = 255
# The kernel allows more; what runtimes use fits this, and it is harmless in every text and path.
_IFNAME = re.compile(r"[a-zA-Z0-9_.\-]{1,15}")
# What nft reads as the name of a chain or table, and firewalld as that of a zone (its own limit is 17 characters).
_CHAIN = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.\-]{0,63}")
_ZONE = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_\-]{0,16}")

DEFAULT_FILL_PORTS = (68, 546)
"""Those of DHCP clients, which read frames and not packets: IPv4 and IPv6."""

DEFAULT_PLUGIN = "dataplane"
"""The plugin that does everything behind somebody else's main plugin."""


class InvalidValueError(ValueError):
    """A value that cannot be part of the model. ``field`` names it as the user wrote it."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}")


def identifier(value: str, field: str) -> str:
    """Check a container ID or network name. Raises ``InvalidValueError``."""
    if len(value) > _MAX_IDENTIFIER:
        raise InvalidValueError(
            field, f"{value[:64]!r}... is {len(value)} characters long, and {_MAX_IDENTIFIER} is the limit"
        )
    if not _IDENTIFIER.fullmatch(value):
        raise InvalidValueError(
            field, f"{value[:64]!r} is not letters, digits, '_', '.' and '-', starting with a letter or digit"
        )
    return value


def interface_name(value: str, field: str) -> str:
    """Check the name of a container's interface. Raises ``InvalidValueError``."""
    if not _IFNAME.fullmatch(value) or value in {".", ".."}:
        raise InvalidValueError(field, f"{value[:64]!r} is not 1 to 15 letters, digits, '_', '.' and '-'")
    return value


def chain_name(value: str, field: str) -> str:
    """Check the name of an nftables chain. Raises ``InvalidValueError``."""
    if not _CHAIN.fullmatch(value) or value in KEYWORDS:
        raise InvalidValueError(field, f"{value[:64]!r} cannot be the name of a chain")
    return value


def zone_name(value: str, field: str) -> str:
    """Check the name of a zone of firewalld. Raises ``InvalidValueError``."""
    if not _ZONE.fullmatch(value):
        raise InvalidValueError(field, f"{value[:64]!r} is not 1 to 17 letters, digits, '_' and '-'")
    return value


@dataclass(frozen=True, slots=True, order=True)
class AttachmentKey:
    """One interface of one container on one network, and the plugin that serves it: what ADD makes and DEL removes.

    Several plugins of one conflist may be ours (bridge, portmap, firewall): each has a part of its own, which its DEL
    removes, and the kernel gets what all parts ask for.
    """

    network: str
    container: str
    ifname: str
    plugin: str = DEFAULT_PLUGIN

    def __post_init__(self) -> None:
        identifier(self.network, "name")
        identifier(self.container, "CNI_CONTAINERID")
        interface_name(self.ifname, "CNI_IFNAME")
        identifier(self.plugin, "type")

    def __str__(self) -> str:
        part = "" if self.plugin == DEFAULT_PLUGIN else f" ({self.plugin})"
        return f"{self.network}/{self.container}/{self.ifname}{part}"

    @property
    def interface(self) -> tuple[str, str, str]:
        """(network, container, ifname): what this is a part of, and may not be alone in."""
        return self.network, self.container, self.ifname

    def siblings(self, other: AttachmentKey) -> bool:
        """Whether both are parts of one interface."""
        return self.interface == other.interface and self != other


class IngressPolicy(StrEnum):
    """Who may reach the containers of a network directly; published ports are reachable under each of them."""

    OPEN = "open"  # anybody who has a route
    SAME_BRIDGE = "same-bridge"  # no container of another network that is not open either
    ISOLATED = "isolated"  # nor any other container of the same network


class ChecksumPolicy(StrEnum):
    """What is done about L4 checksums on the way to the containers of a network."""

    OFF = "off"
    OBSERVE = "observe"  # verify, count and report
    REPAIR = "repair"  # and rewrite those that NAT left stale
    FILL = "fill"  # and complete partial ones of named UDP ports


class GuardPolicy(StrEnum):
    """What the containers of a network may send."""

    OFF = "off"  # whatever they like
    MAC = "mac"  # frames from their own MAC
    FULL = "full"  # and, if addresses are known, packets from these; nothing that a router or a DHCP server says


@dataclass(frozen=True, slots=True)
class PortMapping:
    """One published port: ``host_port`` of the host (of one of its addresses, or all) leads to ``container_port``."""

    host_port: int
    container_port: int
    protocol: Protocol
    host_address: Address | None = None
    """None publishes on every local address of both families; 0.0.0.0 or :: on every one of that family."""

    def __post_init__(self) -> None:
        for name, port in (("hostPort", self.host_port), ("containerPort", self.container_port)):
            if not 1 <= port <= 65535:
                raise InvalidValueError(name, f"{port} is not a port (1 to 65535)")

    def serves(self, version: int) -> bool:
        """Whether the mapping leads to a container address of this IP version."""
        return self.host_address is None or self.host_address.version == version

    @property
    def wildcard(self) -> bool:
        """Whether it is published on every local address."""
        return self.host_address is None or self.host_address.is_unspecified

    def __str__(self) -> str:
        where = "" if self.host_address is None else f" on {self.host_address}"
        return f"{self.host_port}/{self.protocol}{where}"


Claim = tuple[PortMapping, int]
"""A mapping, for addresses of one IP version."""


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A chain of somebody else's table that drops what it does not know, so that our traffic needs an accept there."""

    family: str
    table: str
    chain: str
    optional: bool = False
    """Where there is no such chain, nothing is missing."""

    def __post_init__(self) -> None:
        if self.family not in {"ip", "ip6", "inet"}:
            raise InvalidValueError("forwardChains", f"family {self.family[:32]!r} is not ip, ip6 or inet")
        for what, name in (("table", self.table), ("chain", self.chain)):
            if not _CHAIN.fullmatch(name) or name in KEYWORDS:
                raise InvalidValueError("forwardChains", f"{name[:64]!r} cannot be the name of a {what}")

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.chain}"


@dataclass(frozen=True, slots=True)
class Options:
    """What a conflist says about a network, beyond its addresses. The defaults are the conflist's."""

    snat: bool = True
    """Masquerade hairpin and localhost connections to published ports; without it they fail."""
    masq_all: bool = False
    """Masquerade every connection to a published port: the container never sees a client's address."""
    ip_masq: bool = False
    """Masquerade what the container sends out of its network."""
    ingress_policy: IngressPolicy = IngressPolicy.SAME_BRIDGE
    checksum: ChecksumPolicy = ChecksumPolicy.REPAIR
    fill_ports: tuple[int, ...] = DEFAULT_FILL_PORTS
    """UDP destination ports whose partial sums are completed, under ``ChecksumPolicy.FILL``."""
    guard: GuardPolicy = GuardPolicy.FULL
    conditions4: tuple[Condition, ...] = ()
    conditions6: tuple[Condition, ...] = ()
    forward_chains: tuple[ForeignChain, ...] = ()
    admin_chain: str = ""
    """A chain of ours that users fill; what the host forwards enters it first. Empty: none."""
    firewalld_zone: str = ""
    """The zone of firewalld that the container's addresses belong to, where firewalld runs. Empty: none."""

    def __post_init__(self) -> None:
        if self.admin_chain:
            chain_name(self.admin_chain, "adminChain")
        if self.firewalld_zone:
            zone_name(self.firewalld_zone, "firewalldZone")


@dataclass(frozen=True, slots=True)
class Request:
    """An attachment as the runtime describes it: names, before the kernel was asked what they stand for."""

    key: AttachmentKey
    addresses: tuple[IPv4Address | IPv6Address, ...]
    """The container's, those of this interface."""
    host_interfaces: tuple[str, ...]
    """Names of prevResult's interfaces outside the sandbox: the bridge, the host veth."""
    mappings: tuple[PortMapping, ...]
    options: Options
    netns: str = ""
    """CNI_NETNS, for garbage collection and for people."""
    netns_inode: int = 0
    """st_ino of the namespace, 0 where unknown."""
    mac: str = ""
    """Of the container's interface, in lower case with colons; empty where nobody told."""
    lease_dir: str = ""
    """Where the addresses are leased, if by us: the directory of all networks' leases."""


@dataclass(frozen=True, slots=True)
class Device:
    """The container-facing device of an attachment: its bridge, or its host veth where there is none."""

    index: IfIndex
    name: str
    port: IfIndex = field(default=IfIndex(0))
    """The host veth, where the device is a bridge; else 0."""
    port_flags: PortFlags = field(default=PortFlags())
    """What the port's flags were before us, as far as we may change them."""
    routed: bool = False
    """It is a host veth: its container and the network's others reach each other by routes, not over a bridge."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A request whose names were looked up: what is stored, and what the kernel is programmed from."""

    request: Request
    device: Device
    yielded: frozenset[Claim] = frozenset()
    """Ports that another interface of the same container publishes already: runtimes hand all of a container's ports to
    each of its networks. They are published here once that interface is gone."""

    def published(self, version: int) -> tuple[PortMapping, ...]:
        """The ports that lead to the container's address of this IP version."""
        served = [one for one in self.request.mappings if one.serves(version)]
        return tuple(one for one in served if (one, version) not in self.yielded) if self.yielded else tuple(served)

    @property
    def key(self) -> AttachmentKey:
        return self.request.key

    @property
    def options(self) -> Options:
        return self.request.options
