"""What of an interface is not as it was made, a sentence each: CHECK's answer."""

from __future__ import annotations

from collections.abc import Iterator

from control.wiring.wire import Expected, Wire
from dataplane import addresses, routes
from dataplane.doors import Link
from dataplane.links import NetlinkLinks
from dataplane.namespaces import inside
from dataplane.types import Route

_LINKS = NetlinkLinks()


def differences(wire: Wire, expected: Expected, netns: int) -> Iterator[str]:
    """What is not as it was made, a sentence each."""
    options = wire.options
    bridge = _LINKS.find(options.bridge)
    if bridge is None or bridge.kind != "bridge":
        yield f'bridge "{options.bridge}" is gone'
        return
    if not bridge.up:
        yield f'bridge "{bridge.name}" is down'
    if options.promiscuous and not bridge.promiscuous:
        yield f'bridge "{bridge.name}" is not promiscuous'
    if options.is_gateway:
        yield from _gateway_differences(wire, expected, bridge)
    link, inner = inside(netns, lambda: (_LINKS.find(wire.key.ifname), list(_inner_differences(wire, expected))))
    yield from inner
    if link is None:
        return
    host = _LINKS.get(link.peer)
    if link.kind != "veth" or host is None:
        yield f"interface {link.name} is no veth with its other end here"
    elif host.master != bridge.index:
        yield f'link "{host.name}" is no port of bridge "{bridge.name}"'
    elif expected.host and host.name != expected.host:
        yield f'interface {link.name} leads to link "{host.name}", not "{expected.host}"'
    elif options.container_up and not host.up:
        yield f'link "{host.name}" is down'


def _gateway_differences(wire: Wire, expected: Expected, bridge: Link) -> Iterator[str]:
    on = _LINKS.find(f"{bridge.name}.{wire.options.vlan}") if wire.options.vlan else bridge
    held = {one.interface for one in addresses.addresses(on.index)} if on else set()
    for gateway in expected.gateways:
        if gateway not in held:
            yield f'bridge "{bridge.name}" has not the address {gateway}, though it is the gateway'


def _inner_differences(wire: Wire, expected: Expected) -> Iterator[str]:
    """In the container's namespace."""
    link = _LINKS.find(wire.key.ifname)
    if link is None:
        yield f"interface {wire.key.ifname} is gone"
        return
    if expected.mac and link.mac.lower() != expected.mac.lower():
        yield f"interface {link.name} has the MAC {link.mac}, not {expected.mac}"
    if wire.options.container_up and not link.up:
        yield f"interface {link.name} is down"
    held = {one.interface for one in addresses.addresses(link.index)}
    for address in expected.addresses:
        if address not in held:
            yield f"address {address} of interface {link.name} is missing"
    there = routes.routes(link.index)
    for route in expected.routes:
        if not any(_satisfies(found, route) for found in there):
            via = f" via {route.gateway}" if route.gateway else ""
            yield f"route to {route.destination}{via} by interface {link.name} is missing"


def _satisfies(found: Route, wanted: Route) -> bool:
    same_table = wanted.table is None or found.table == wanted.table
    same_gateway = wanted.gateway is None or found.gateway == wanted.gateway
    return found.destination == wanted.destination and same_table and same_gateway
