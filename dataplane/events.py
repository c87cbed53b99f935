"""What the kernel tells without being asked, as values: what ``dataplane.monitors`` read and ``control`` looks into.

    nft flush ruleset          ->  RulesetChanged(generation=42, pid=971, program="nft", tables={"inet dataplane"}, ...)
    ip link del cni-web        ->  LinkChanged(index=7, name="cni-web", kind="bridge", master=0, gone=True)

Be aware: events are hints. Several changes may come as one event, one change as several, and what an event says may be
history when it is read: look at the kernel, then act.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataplane import abi
from dataplane.types import IfIndex


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A link appeared, changed (name, state, bridge ...) or vanished."""

    index: IfIndex
    name: str
    kind: str
    """IFLA_INFO_KIND: "bridge", "veth" ...; empty for hardware and loopback."""
    master: IfIndex
    """The bridge it is a port of, or 0."""
    gone: bool


@dataclass(frozen=True, slots=True)
class PortChanged:
    """A bridge port appeared, changed its flags, or is none any more."""

    index: IfIndex
    bridge: IfIndex
    gone: bool
    """No port of that bridge any more; the link may be there still."""


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """A link got an address, IPv4 or IPv6, or lost one."""

    index: IfIndex
    gone: bool


@dataclass(frozen=True, slots=True)
class HookChanged:
    """A qdisc or a tc filter of a link was added, changed or deleted; index 0 where the kernel names no link."""

    index: IfIndex
    port: int = 0
    """The netlink socket that asked for it, by its port; 0 where nobody did, as when the link goes."""


@dataclass(frozen=True, slots=True)
class ForwardingChanged:
    """A setting that the kernel announces (forwarding, rp_filter ...) was changed: of a link, or with index 0 of all
    links, or of those to come."""

    index: IfIndex


@dataclass(frozen=True, slots=True)
class RulesetChanged:
    """A transaction of nftables, ours or somebody else's."""

    generation: int
    """What ``Nft.generation`` answered right after it."""
    pid: int
    """The thread that sent it, as ``threading.get_native_id`` tells; the process's id where it has but one."""
    program: str
    """The name of that thread, 15 bytes at most: "nft", "firewalld" ..."""
    tables: frozenset[str]
    """Tables of ours in which it changed anything: "inet dataplane" ..."""
    removed: frozenset[str]
    """Tables of ours that it deleted; it may have made them anew."""
    others: bool
    """Whether it changed anything in a table that is not ours."""


@dataclass(frozen=True, slots=True)
class SysctlWritten:
    """Somebody wrote to a watched sysctl; what is in it may be the same as before."""

    name: str
    """Below /proc/sys: "net/ipv4/ip_forward"."""


@dataclass(frozen=True, slots=True)
class PinsChanged:
    """Something appeared in or vanished from the directories of our pins, or another file system is there."""


@dataclass(frozen=True, slots=True)
class NamespaceGone:
    """The file of a network namespace was deleted; the namespace may live on if somebody else holds it."""

    path: str


@dataclass(frozen=True, slots=True)
class NotificationsLost:
    """The kernel had more to tell than it could keep for us, or we could not read it: anything may have changed."""

    source: str
    """Which monitor: "route", "ruleset", "sysctls", "pins", "namespaces"."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding of one of our BPF programs: a packet dropped, a checksum repaired or found corrupt."""

    event: abi.Event


Event = (
    LinkChanged
    | PortChanged
    | AddressChanged
    | HookChanged
    | ForwardingChanged
    | RulesetChanged
    | SysctlWritten
    | PinsChanged
    | NamespaceGone
    | NotificationsLost
    | Finding
)
