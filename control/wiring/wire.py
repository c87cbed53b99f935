"""An interface on a bridge as a value: asked for, made, expected; and the names that tell whose it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from control.errors import EngineError
from control.model import AttachmentKey
from dataplane.doors import Link
from dataplane.types import Interface, Route

_ALIAS = "dataplane"
_MAX_WORD = 96  # characters of a network's or container's name in an alias, of which the kernel takes 255 in all


class InterfaceError(EngineError):
    """An interface that cannot be made as it is asked for; the text names it."""


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """What the bridge plugin's configuration says about bridge and interface. The defaults are that plugin's."""

    bridge: str = "cni0"
    is_gateway: bool = False
    """The bridge gets the gateway's address of each subnet, and the host forwards."""
    is_default_gateway: bool = False
    force_address: bool = False
    """Take away the address that the bridge has instead."""
    mtu: int = 0
    hairpin: bool = False
    promiscuous: bool = False
    vlan: int = 0
    trunk: tuple[tuple[int, int], ...] = ()
    """Ranges of VLANs that the port lets through with their tags."""
    preserve_default_vlan: bool = True
    port_isolation: bool = False
    detect_duplicates: bool = False
    container_up: bool = True


@dataclass(frozen=True, slots=True)
class Wire:
    """The interface that is asked for."""

    key: AttachmentKey
    options: BridgeOptions
    mac: str = ""
    """Of the container's end; empty: one that the kernel makes up."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A veth pair, one end of it a port of the bridge; nothing has an address yet."""

    netns: int
    bridge: Link
    host: Link
    made: bool
    """By this very call; else it was there."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plug:
    """The interface as it was made."""

    bridge: Link
    host: Link
    container: Link
    """In the container's namespace."""
    vlan: Link | None = None
    """The gateway's interface on the bridge, where the network has a VLAN."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Expected:
    """What prevResult says of the interface."""

    mac: str
    host: str
    """Name of the host's end; empty where it is not told."""
    addresses: tuple[Interface, ...]
    gateways: tuple[Interface, ...]
    """With the prefix length of their subnet; a later plugin may have added addresses that have none."""
    routes: tuple[Route, ...]


def host_name(key: AttachmentKey) -> str:
    """The host's end of an attachment: ``veth`` and eight hexadecimal digits, as containernetworking's have them."""
    text = f"{key.network}/{key.container}/{key.ifname}"
    return "veth" + sha256(text.encode()).hexdigest()[:8]


def alias_of(key: AttachmentKey) -> str:
    """What tells whose the host's end is, also people (``ip link``)."""
    return f"{alias_prefix(key.network)}{_word(key.container)}/{key.ifname}"


def alias_prefix(network: str) -> str:
    """What the aliases of a network's interfaces begin with."""
    return f"{_ALIAS} {_word(network)}/"


def is_named(host: Link) -> bool:
    """Whether a link's alias says that it is the host's end of some attachment of ours."""
    return host.alias.startswith(f"{_ALIAS} ")


def is_own(host: Link, key: AttachmentKey) -> bool:
    """Whether a link is the host's end of this attachment."""
    # A call that was killed between making the pair and naming its owner left one without an alias.
    return host.kind == "veth" and host.alias in {alias_of(key), ""}


def _word(name: str) -> str:
    if len(name) <= _MAX_WORD:
        return name
    return f"{name[: _MAX_WORD - 13]}~{sha256(name.encode()).hexdigest()[:12]}"
