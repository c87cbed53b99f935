"""Making an interface on a bridge: bridge, veth pair, VLANs, port flags, sysctls, addresses and routes.

    plug = connect(wire, netns)                       links; nothing has an address yet
    plug = configure(wire, plug, leases, routes)      addresses, up, routes; gateways on the bridge

What is there already is completed, not made again: both may be repeated.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_interface, ip_network

from control.ipam.ranges import Lease
from control.model import AttachmentKey
from control.planner import IPV4_FORWARDING, IPV6_FORWARDING
from control.wiring.wire import BridgeOptions, InterfaceError, Plug, Wire, alias_of, host_name, is_own
from dataplane import addresses, routes, vlans, wires
from dataplane.doors import Link, PortFlags
from dataplane.errors import KernelError, LinkError
from dataplane.links import NetlinkLinks
from dataplane.namespaces import inside
from dataplane.sysctl import ProcSysctls
from dataplane.types import Address, Interface, Route
from dataplane.wires import Veth

DEFAULT_VLAN = 1
"""What the kernel puts a new port into."""

_UP_WITHIN = 3.0
_UNIQUE_WITHIN = 10.0  # seconds, as containernetworking's plugins wait for duplicate address detection
_POLL = 0.002
_MULTICAST, _LOCALLY_ADMINISTERED = 0x01, 0x02  # of a MAC's first octet

_LINKS = NetlinkLinks()
_SYSCTLS = ProcSysctls()


def connect(wire: Wire, netns: int) -> Plug:
    """Make bridge and veth pair as far as they are not there. Raises ``InterfaceError`` or ``LinkError``; then the veth
    pair is gone again if this call made it."""
    notes: list[str] = []
    bridge = _bridge(wire.options, notes)
    host = _LINKS.find(host_name(wire.key))
    if host is not None and not _is_whole(wire, host, bridge, netns):
        _delete_own(host, wire.key)
        host = None
    made = host is None
    if host is None:
        options = wire.options
        host = wires.create_veth(
            Veth(
                name=host_name(wire.key),
                peer=wire.key.ifname,
                peer_mac=wire.mac,
                mtu=options.mtu,
                master=bridge.index,
                alias=alias_of(wire.key),
            ),
            netns,
        )
    try:
        _set_port(wire.options, host, notes)
        container = inside(netns, lambda: _found(wire.key.ifname))
    except BaseException:
        if made:
            wires.delete_link(host.index)
        raise
    return Plug(netns, bridge, host, container, made, notes=notes)


def configure(wire: Wire, plug: Plug, leases: Iterable[Lease], wanted: Iterable[Route]) -> Plug:
    """Give the container its addresses and routes, and the bridge its gateways; the interface as it then is. Without
    leases it is only set up (layer 2). Raises ``InterfaceError`` or a ``KernelError``."""
    leases, wanted, options = tuple(leases), tuple(wanted), wire.options
    # The port first: the container announces its addresses as its own end comes up.
    wires.change_link(plug.host.index, up=True)
    if options.is_gateway and leases:
        plug = _gateways(wire, plug, leases)
    notes = inside(plug.netns, lambda: list(_configure_container(wire, plug.container, leases, wanted)))
    if options.container_up:
        _wait_until_running(plug.host)
    return replace(
        plug,
        bridge=_reread(plug.bridge),
        host=_reread(plug.host),
        vlan=_reread(plug.vlan) if plug.vlan else None,
        container=inside(plug.netns, lambda: _found(wire.key.ifname)),
        notes=[*plug.notes, *notes],
    )


def _bridge(options: BridgeOptions, notes: list[str]) -> Link:
    name = options.bridge
    found = _LINKS.find(name)
    if found is None:
        try:
            filtering = bool(options.vlan or options.trunk)
            # One that has the lowest MAC of its ports changes it as containers come and go.
            found = wires.create_bridge(name, mac=_made_up_mac(), mtu=options.mtu, vlan_filtering=filtering)
        except LinkError as error:
            if error.errno != errno.EEXIST:
                raise
            found = _found(name)  # by another call, just now
    if found.kind != "bridge":
        raise InterfaceError(f'could not use bridge "{name}": there is a link of that name, which is no bridge')
    if options.promiscuous and not found.promiscuous:
        wires.change_link(found.index, promiscuous=True)
    _refuse_advertisements(name, notes)
    if not found.up:
        wires.change_link(found.index, up=True)
    return found


def _set_port(options: BridgeOptions, host: Link, notes: list[str]) -> None:
    _refuse_advertisements(host.name, notes)
    if options.hairpin or options.port_isolation:
        flags = PortFlags(options.hairpin or None, options.port_isolation or None)
        _LINKS.set_port_flags(host.index, flags)
    if not (options.vlan or options.trunk):
        return
    if not options.preserve_default_vlan:
        vlans.remove_vlan(host.index, DEFAULT_VLAN)
    if options.vlan:
        vlans.add_vlan(host.index, options.vlan, untagged=True, pvid=True)
    for first, last in options.trunk:
        vlans.add_vlan(host.index, first, last)


def _configure_container(wire: Wire, link: Link, leases: tuple[Lease, ...], wanted: tuple[Route, ...]) -> Iterator[str]:
    """In the container's namespace."""
    options, name = wire.options, link.name
    if leases:
        yield from _container_sysctls(name, options, {lease.address.version for lease in leases})
        held = {one.interface for one in addresses.addresses(link.index)}
        for lease in leases:
            if lease.address not in held:
                addresses.add_address(link.index, lease.address, detect_duplicates=options.detect_duplicates)
    if not options.container_up:
        return
    wires.change_link(link.index, up=True)
    if options.detect_duplicates and any(lease.address.version == 6 for lease in leases):
        _wait_until_unique(link)
    there = {_identity(route) for route in routes.routes(link.index)}
    for route in wanted:
        if _identity(route) not in there:
            routes.add_route(route, link.index)


def _container_sysctls(name: str, options: BridgeOptions, versions: set[int]) -> Iterator[str]:
    # Neighbours learn at once that the address has another MAC now: runtimes use addresses again.
    yield from _try_sysctl(f"net/ipv4/conf/{name}/arp_notify", "1")
    yield from _try_sysctl(f"net/ipv6/conf/{name}/accept_dad", "1" if options.detect_duplicates else "0")
    if options.detect_duplicates:
        yield from _try_sysctl(f"net/ipv6/conf/{name}/enhanced_dad", "1")
    if 6 not in versions:
        return
    for scope in ("all", "default", name):
        yield from _try_sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", "0")
    yield from _try_sysctl(f"net/ipv6/conf/{name}/keep_addr_on_down", "1")
    yield from _try_sysctl(f"net/ipv6/conf/{name}/ndisc_notify", "1")


def _gateways(wire: Wire, plug: Plug, leases: tuple[Lease, ...]) -> Plug:
    options, on = wire.options, plug.bridge
    if options.vlan:
        on = _vlan_gateway(options, plug.bridge, plug.notes)
        plug = replace(plug, vlan=on)
    added = False
    for lease in leases:
        if lease.gateway is not None:
            prefix = lease.address.network.prefixlen
            added |= _ensure_address(on, ip_interface((lease.gateway, prefix)), options)
            plug.notes.extend(_forward(lease.address.version))
    # A bridge of others may have taken over the MAC of the new port. Not each time: the kernel forgets its neighbours.
    if added or _reread(on).mac != on.mac:
        wires.change_link(on.index, mac=on.mac)
    return plug


def _vlan_gateway(options: BridgeOptions, bridge: Link, notes: list[str]) -> Link:
    """The gateway of a VLAN: a veth pair in the host's namespace, one end of it a port of the bridge in that VLAN."""
    name = f"{options.bridge}.{options.vlan}"
    found = _LINKS.find(name)
    if found is None:
        other = "veth" + sha256(name.encode()).hexdigest()[:8]
        with open("/proc/thread-self/ns/net", "rb") as own:  # noqa: PTH123 - only its descriptor is wanted
            port = wires.create_veth(Veth(other, name, mtu=bridge.mtu, master=bridge.index), own.fileno())
        _set_port(replace(options, hairpin=False, port_isolation=False, trunk=()), port, notes)
        wires.change_link(port.index, up=True)
        found = _found(name)
    _refuse_advertisements(name, notes)
    wires.change_link(found.index, up=True)
    return found


def _ensure_address(link: Link, wanted: Interface, options: BridgeOptions) -> bool:
    """Whether it was not there."""
    held = [one.interface for one in addresses.addresses(link.index)]
    if wanted in held:
        return False
    for other in held:
        link_local = other.version == 6 and other.is_link_local
        if other.version != wanted.version or link_local:
            continue
        if wanted.version == 6 and not other.network.overlaps(ip_network(wanted.network)):
            continue
        if not options.force_address:
            raise InterfaceError(
                f'could not give bridge "{link.name}" the address {wanted}: it has {other}; '
                "set forceAddress to replace that, or choose another bridge"
            )
        addresses.remove_address(link.index, other)
    try:
        # No container is there yet that could have the address: it is of use at once.
        addresses.add_address(link.index, wanted, detect_duplicates=options.detect_duplicates)
    except LinkError as error:
        if error.errno != errno.EEXIST:  # by another call, just now
            raise
    return True


def _forward(version: int) -> Iterator[str]:
    yield from _try_sysctl(IPV4_FORWARDING if version == 4 else IPV6_FORWARDING, "1")


def _refuse_advertisements(name: str, notes: list[str]) -> None:
    # Before the link is up: a container could make itself the host's router (CVE-2020-10749).
    notes.extend(_try_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0"))


def _try_sysctl(name: str, value: str) -> Iterator[str]:
    """Set it where it is there. One that cannot be set (a read-only /proc/sys) is told, and is no reason to fail."""
    if _SYSCTLS.read(name) is None:
        return
    try:
        _SYSCTLS.write(name, value)
    except KernelError as error:
        yield str(error)


def _wait_until_running(host: Link) -> None:
    end = time.monotonic() + _UP_WITHIN
    while not _reread(host).running:
        if time.monotonic() > end:
            raise InterfaceError(f'link "{host.name}" does not come up: is the bridge up, and is there a loop?')
        time.sleep(_POLL)


def _wait_until_unique(link: Link) -> None:
    end = time.monotonic() + _UNIQUE_WITHIN
    while True:
        held = addresses.addresses(link.index)
        for one in held:
            if one.failed:
                raise InterfaceError(f"address {one.interface} of {link.name} is in use by somebody else on the bridge")
        if not any(one.tentative for one in held):
            return
        if time.monotonic() > end:
            raise InterfaceError(f"duplicate address detection on {link.name} did not end in {_UNIQUE_WITHIN:.0f} s")
        time.sleep(_POLL)


def _delete_own(host: Link, key: AttachmentKey) -> None:
    if not is_own(host, key):
        raise InterfaceError(f'could not make link "{host.name}": there is one already, of somebody else')
    wires.delete_link(host.index)


def _is_whole(wire: Wire, host: Link, bridge: Link, netns: int) -> bool:
    """Whether this is the interface that is asked for, as far as it cannot be changed."""
    if not is_own(host, wire.key) or host.master != bridge.index:
        return False
    peer = inside(netns, lambda: _LINKS.find(wire.key.ifname))
    if peer is None or (peer.index, peer.peer) != (host.peer, host.index):
        return False
    return (not wire.mac or peer.mac.lower() == wire.mac.lower()) and wire.options.mtu in {0, peer.mtu}


def _made_up_mac() -> str:
    octets = bytearray(os.urandom(6))
    octets[0] = octets[0] & ~_MULTICAST | _LOCALLY_ADMINISTERED
    return octets.hex(":")


def _found(name: str) -> Link:
    link = _LINKS.find(name)
    if link is None:
        raise InterfaceError(f'link "{name}" was just made, and is gone: somebody else deleted it')
    return link


def _reread(link: Link) -> Link:
    found = _LINKS.get(link.index)
    if found is None:
        raise InterfaceError(f'link "{link.name}" is gone: somebody else deleted it')
    return found


def _identity(route: Route) -> tuple[object, Address | None, int]:
    return route.destination, route.gateway, route.table or 254
