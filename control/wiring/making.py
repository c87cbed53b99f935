"""Making an interface on a bridge: bridge, veth pair, VLANs, port flags, sysctls, addresses and routes.

    pair = connect(wire, netns)                       links; nothing has an address yet
    plug = configure(wire, pair, leases, routes)      addresses, up, routes; gateways on the bridge

What is there already is completed, not made again: both may be repeated.

A runtime waits for all of this. So the container's namespace is visited once, of what was made just now nothing is read
that cannot be there, and whether a name is taken tells the attempt to take it.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_interface, ip_network

from control.desired.planner import IPV4_FORWARDING, IPV6_FORWARDING
from control.ipam.ranges import Lease
from control.model import AttachmentKey
from control.wiring.wire import BridgeOptions, InterfaceError, Pair, Plug, Wire, alias_of, host_name, is_own
from dataplane import addresses, routes, vlans, wires
from dataplane.crashpoints import Point, reached
from dataplane.doors import Link, PortFlags
from dataplane.errors import KernelError, LinkError
from dataplane.links import NetlinkLinks
from dataplane.namespaces import inside
from dataplane.sysctl import ProcSysctls
from dataplane.types import Address, IfIndex, Interface, Route
from dataplane.wires import Veth

DEFAULT_VLAN = 1
"""What the kernel puts a new port into."""

_UP_WITHIN = 3.0  # seconds
_UNIQUE_WITHIN = 10.0  # seconds, as containernetworking's plugins wait for duplicate address detection
_FIRST_POLL, _LAST_POLL = 0.0001, 0.002  # seconds
_MULTICAST, _LOCALLY_ADMINISTERED = 0x01, 0x02  # of a MAC's first octet

_LINKS = NetlinkLinks()
_SYSCTLS = ProcSysctls()


def connect(wire: Wire, netns: int) -> Pair:
    """Make bridge and veth pair as far as they are not there. Raises ``InterfaceError`` or ``LinkError``; then the veth
    pair is gone again if this call made it."""
    notes: list[str] = []
    bridge = _bridge(wire.options, notes)
    veth = Veth(
        name=host_name(wire.key),
        peer=wire.key.ifname,
        peer_mac=wire.mac,
        mtu=wire.options.mtu,
        master=bridge.index,
        alias=alias_of(wire.key),
    )
    made = True
    try:
        host = wires.create_veth(veth, netns)
    except LinkError as error:
        there = _LINKS.find(veth.name) if error.errno == errno.EEXIST else None
        if there is None:
            raise
        made = not _is_whole(wire, there, bridge, netns)
        if made:
            _delete_own(there, wire.key)
        host = wires.create_veth(veth, netns) if made else there
    try:
        _set_port(wire.options, host, notes)
        reached(Point.PORT_SET)
    except BaseException:
        if made:
            wires.delete_link(host.index)
        raise
    return Pair(netns, bridge, host, made, notes)


def configure(wire: Wire, pair: Pair, leases: Iterable[Lease], wanted: Iterable[Route]) -> Plug:
    """Give the container its addresses and routes, and the bridge its gateways; the interface as it then is. Without
    leases it is only set up (layer 2). Raises ``InterfaceError`` or a ``KernelError``."""
    leases, wanted, options = tuple(leases), tuple(wanted), wire.options
    # The port first: the container announces its addresses as its own end comes up.
    wires.change_link(pair.host.index, up=True)
    reached(Point.PORT_UP)
    notes = list(pair.notes)
    if options.is_gateway and leases:
        bridge, vlan = _gateways(options, pair.bridge, leases, notes)
    else:
        bridge, vlan = _reread(pair.bridge), None
    container = inside(pair.netns, lambda: _configure_container(wire, pair, leases, wanted, notes))
    host = _running(pair.host) if options.container_up else _reread(pair.host)
    return Plug(bridge, host, container, vlan, notes)


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
        reached(Point.BRIDGE_UP)
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


def _configure_container(
    wire: Wire, pair: Pair, leases: tuple[Lease, ...], wanted: tuple[Route, ...], notes: list[str]
) -> Link:
    """In the container's namespace: its end of the pair, as it then is."""
    options, name, index = wire.options, wire.key.ifname, pair.host.peer
    if leases:
        notes.extend(_container_sysctls(name, options, {lease.address.version for lease in leases}))
        held = set() if pair.made else {one.interface for one in addresses.addresses(index)}
        for lease in leases:
            if lease.address not in held:
                addresses.add_address(index, lease.address, detect_duplicates=options.detect_duplicates)
                reached(Point.CONTAINER_ADDRESSED)
    if options.container_up:
        wires.change_link(index, up=True)
        reached(Point.CONTAINER_UP)
        if options.detect_duplicates and any(lease.address.version == 6 for lease in leases):
            _wait_until_unique(name, index)
        # The kernel makes routes to the subnets itself; they have no gateway.
        known = pair.made and all(route.gateway for route in wanted)
        there = set() if known else {_identity(route) for route in routes.routes(index)}
        for route in wanted:
            if _identity(route) not in there:
                routes.add_route(route, index)
                reached(Point.CONTAINER_ROUTED)
    return _found(name)


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


def _gateways(
    options: BridgeOptions, bridge: Link, leases: tuple[Lease, ...], notes: list[str]
) -> tuple[Link, Link | None]:
    """The bridge, and the gateway's interface on it where there is a VLAN, as they then are."""
    on = _vlan_gateway(options, bridge, notes) if options.vlan else bridge
    added = False
    for lease in leases:
        if lease.gateway is not None:
            prefix = lease.address.network.prefixlen
            added |= _ensure_address(on, ip_interface((lease.gateway, prefix)), options)
            notes.extend(_forward(lease.address.version))
    now = _reread(on)
    # A bridge of others may have taken over the MAC of the new port. Not each time: the kernel forgets its neighbours.
    if added or now.mac != on.mac:
        wires.change_link(on.index, mac=on.mac)
        now = replace(now, mac=on.mac)
    return (_reread(bridge), now) if options.vlan else (now, None)


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
    reached(Point.BRIDGE_ADDRESSED)
    return True


def _forward(version: int) -> Iterator[str]:
    yield from _try_sysctl(IPV4_FORWARDING if version == 4 else IPV6_FORWARDING, "1")


def _refuse_advertisements(name: str, notes: list[str]) -> None:
    # Before the link is up: a container could make itself the host's router (CVE-2020-10749).
    notes.extend(_try_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0"))


def _try_sysctl(name: str, value: str) -> Iterator[str]:
    """Set it where it is there. One that cannot be set (a read-only /proc/sys) is told, and is no reason to fail."""
    try:
        _SYSCTLS.write(name, value)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            yield str(error)


def _running(host: Link) -> Link:
    """The link, once its port forwards, which its operational state says a moment after both ends are up."""
    end, pause = time.monotonic() + _UP_WITHIN, _FIRST_POLL
    while not (now := _reread(host)).running:
        if time.monotonic() > end:
            raise InterfaceError(f'link "{host.name}" does not come up: is the bridge up, and is there a loop?')
        time.sleep(pause)
        pause = min(2 * pause, _LAST_POLL)
    return now


def _wait_until_unique(name: str, index: IfIndex) -> None:
    held = addresses.settled(index, _UNIQUE_WITHIN)
    for one in held:
        if one.failed:
            raise InterfaceError(f"address {one.interface} of {name} is in use by somebody else on the bridge")
    if any(one.tentative for one in held):
        raise InterfaceError(f"duplicate address detection on {name} did not end in {_UNIQUE_WITHIN:.0f} s")


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
