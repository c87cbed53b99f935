"""Removing interfaces: one attachment's, or those of a network that nobody is attached by any more."""

from __future__ import annotations

from control.model import AttachmentKey
from control.wiring.wire import alias_of, alias_prefix, host_name, is_named, is_own
from dataplane import wires
from dataplane.errors import KernelError
from dataplane.links import NetlinkLinks
from dataplane.namespaces import inside

_LINKS = NetlinkLinks()


def disconnect(key: AttachmentKey, netns: int | None) -> None:
    """Remove the interface: by its name on the host, and where another plugin made it by its name in the container.
    Gone is fine. Raises ``KernelError``."""
    host = _LINKS.find(host_name(key))
    if host is not None and is_own(host, key):
        wires.delete_link(host.index)
    elif netns is not None:
        _disconnect_inside(key, netns)


def collect(network: str, valid: frozenset[tuple[str, str]]) -> None:
    """Remove the veths of a network whose (container, ifname) is not valid. Tries all; raises what went wrong in an
    ``ExceptionGroup``."""
    keep = {alias_of(AttachmentKey(network, container, ifname)) for container, ifname in valid}
    errors: list[KernelError] = []
    for link in wires.links():
        if link.kind == "veth" and link.alias.startswith(alias_prefix(network)) and link.alias not in keep:
            try:
                wires.delete_link(link.index)
            except KernelError as error:
                errors.append(error)
    if errors:
        raise ExceptionGroup(f'could not remove every stale interface of network "{network}"', errors)


def _disconnect_inside(key: AttachmentKey, netns: int) -> None:
    link = inside(netns, lambda: _LINKS.find(key.ifname))
    if link is None or link.kind != "veth":
        return
    other_end = _LINKS.get(link.peer)
    if other_end is not None and is_named(other_end) and not is_own(other_end, key):
        return  # another network's: the ADD that this DEL follows was refused, because the name was taken
    inside(netns, lambda: wires.delete_link(link.index))
