"""What a request gets: the device that its names stand for, and the ports that nobody else holds.

    claims.attachment(request)    names looked up; ports that its container publishes already are left to that interface
    claims.heirs(key)             the other interfaces of a container, as they are once this one has changed or is gone

A port that another container holds is refused, by the name of the holder.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from control.errors import DeviceNotFoundError, PortConflictError
from control.model import Attachment, AttachmentKey, Claim, Device, IngressPolicy, Request
from control.state.store import Store
from dataplane.doors import Kernel, Link, PortFlags
from dataplane.types import IfIndex

Held = tuple[Claim, AttachmentKey]
"""A claim, and who has what it asks for."""

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


class Claims:
    """See the module. The caller holds the state's lock."""

    def __init__(self, kernel: Kernel, store: Store) -> None:
        self._kernel, self._store = kernel, store

    def attachment(self, request: Request) -> Attachment:
        """What a request asks for. Raises ``DeviceNotFoundError`` or ``PortConflictError``."""
        attachment = Attachment(request, self._device(request))
        held = list(self._store.holders(attachment))
        self._refuse_conflicts(attachment.key, held)
        return _yielding(attachment, held)

    def heirs(self, key: AttachmentKey) -> Iterator[Attachment]:
        """The other interfaces of this one's container that may publish more now, as they are to be."""
        for one in self._store.beside(key):
            if one.yielded and (heir := self._heir(one)) != one:
                yield heir

    def _heir(self, attachment: Attachment) -> Attachment:
        bare = replace(attachment, yielded=frozenset())
        return _yielding(bare, self._store.holders(bare))

    def _device(self, request: Request) -> Device:
        links = [link for name in request.host_interfaces if (link := self._kernel.links.find(name))]
        bridge = next((link for link in links if link.kind == "bridge"), None)
        port = next((link for link in links if link.kind != "bridge"), None)
        if bridge is None and port is not None and port.master:
            bridge = self._kernel.links.get(port.master)
        if bridge is not None:
            device = self._bridge(bridge, port if port and port.master == bridge.index else None, request)
            if request.options.ingress_policy is IngressPolicy.ISOLATED and not device.port:
                raise DeviceNotFoundError(
                    f"prevResult.interfaces: none is a port of bridge {bridge.name}; ingressPolicy isolated needs one"
                )
            return device
        if port is not None:
            return Device(port.index, port.name, routed=True)
        # Of a container whose link has no end here (macvlan, host-device), packets leave by whatever routes say.
        routed = (self._kernel.links.towards(address) for address in request.addresses)
        way = None if request.host_interfaces else next(filter(None, routed), None)
        if way is not None:
            return Device(way.index, way.name)
        names = ", ".join(request.host_interfaces) or "none"
        raise DeviceNotFoundError(
            f"prevResult.interfaces: none of the host's is there ({names}), and the host has no route to the container"
        )

    def _bridge(self, bridge: Link, port: Link | None, request: Request) -> Device:
        if port is None:
            return Device(bridge.index, bridge.name)
        # A part of this interface that was there before may have changed them already, and knows what they were.
        known = (self._store.get(request.key), *self._store.siblings(request.key))
        former = (one.device.port_flags for one in known if one is not None and one.device.port == port.index)
        flags = next((one for one in former if one != PortFlags()), PortFlags())
        # What is not going to be changed need not be read.
        if flags == PortFlags() and (request.mappings or request.options.ingress_policy is IngressPolicy.ISOLATED):
            flags = self._kernel.links.port_flags(port.index)
        return Device(bridge.index, bridge.name, port.index, flags)

    def _refuse_conflicts(self, key: AttachmentKey, held: Iterable[Held]) -> None:
        for (mapping, _), holder in held:
            if _is_other_interface(holder, key):
                continue
            where = "" if mapping.wildcard else f" on {mapping.host_address}"
            port = f"{mapping.host_port}/{mapping.protocol}{where}"
            if holder.siblings(key):
                raise PortConflictError(
                    f"could not publish {port}: plugin {holder.plugin} of the same conflist has done so; "
                    "leave port mappings to one of them"
                )
            one = self._store.get(holder)
            hint = "; that container is gone: dpctl gc frees the port" if one and vanished(self._kernel, one) else ""
            raise PortConflictError(
                f"could not publish {port}: already published by container "
                f'"{holder.container}" (network "{holder.network}"){hint}'
            )


def _yielding(attachment: Attachment, held: Iterable[Held]) -> Attachment:
    """The attachment without the ports that somebody has: another interface of its container, or, where a lost state
    was read back with less than it knew, anybody."""
    yielded = frozenset(claim for claim, _ in held)
    return attachment if yielded == attachment.yielded else replace(attachment, yielded=yielded)


def _is_other_interface(holder: AttachmentKey, key: AttachmentKey) -> bool:
    """Whether both are of one container, and not parts of one interface."""
    return holder.container == key.container and not holder.siblings(key)


def vanished(kernel: Kernel, attachment: Attachment) -> bool:
    """Whether the container's namespace, or its device, is clearly gone."""
    return kernel.links.get(attachment.device.index) is None or _is_unnamed(attachment)


def abandoned(kernel: Kernel, attachment: Attachment) -> bool:
    """Whether the container is clearly gone: its namespace has no name any more, and its end of the wire went with it.

    A namespace that merely cannot be seen from here (an agent with mounts of its own) still has its wire.
    """
    wire = attachment.device.port or (attachment.device.index if attachment.device.routed else IfIndex(0))
    return bool(wire) and kernel.links.get(wire) is None and _is_unnamed(attachment)


def _is_unnamed(attachment: Attachment) -> bool:
    request = attachment.request
    if not request.netns or not request.netns_inode:
        return False
    try:
        return Path(request.netns).stat().st_ino != request.netns_inode
    except OSError as error:
        # Only a clear no: what cannot be looked at may well be there.
        return error.errno in _GONE
