"""Addresses and routes of a container's link: as ``ip`` shows them, and in the words of CNI."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from dataplane.addresses import HeldAddress, add_address, addresses, remove_address, settled
from dataplane.errors import LinkError
from dataplane.links import NetlinkLinks
from dataplane.routes import add_route, route_to, routes
from dataplane.types import Address, IfIndex, Route
from support.netns import Place, Sandbox, wait_until

FOUR, SIX = ip_interface("10.11.0.2/24"), ip_interface("fd00:11::2/64")
GATEWAY4, GATEWAY6 = ip_address("10.11.0.1"), ip_address("fd00:11::1")
EVERYWHERE4, EVERYWHERE6 = ip_network("0.0.0.0/0"), ip_network("::/0")


@pytest.fixture
def box(sandbox: Sandbox) -> Place:
    """A namespace whose eth0 is up, by a veth pair to the host."""
    made = sandbox.namespace("box")
    sandbox.link("vethbox", made, "eth0")
    return made


def eth0() -> IfIndex:
    link = NetlinkLinks().find("eth0")
    assert link is not None
    return link.index


def _given() -> None:
    for number in (FOUR, ip_interface("10.11.0.3/31"), ip_interface("10.11.0.4/30"), ip_interface("10.11.0.5/32"), SIX):
        add_address(eth0(), number)


def test_addresses_are_given_as_containernetworking_does(box: Place) -> None:
    """IPv4 ones have the broadcast address of their subnet, where it has one; an IPv6 one is checked for duplicates."""
    box.call(_given)
    (shown,) = json.loads(box.ip("-j", "address", "show", "dev", "eth0"))
    held = {one["local"]: one for one in shown["addr_info"]}
    assert {address: one.get("broadcast") for address, one in held.items() if one["family"] == "inet"} == {
        "10.11.0.2": "10.11.0.255",
        "10.11.0.3": None,
        "10.11.0.4": "10.11.0.7",
        "10.11.0.5": None,
    }
    assert all(one["scope"] == "global" for one in held.values() if one["local"][:4] != "fe80")
    assert held["fd00:11::2"]["prefixlen"] == 64
    assert "nodad" not in held["fd00:11::2"]


def _checked() -> None:
    at = eth0()
    unchecked = ip_interface("fd00:11::3/64")
    add_address(at, SIX)
    add_address(at, unchecked, detect_duplicates=False)
    add_address(at, FOUR, detect_duplicates=False)
    held = {one.interface: one for one in addresses(at)}
    assert held[SIX] == HeldAddress(SIX, tentative=True, failed=False)
    assert held[unchecked] == HeldAddress(unchecked, tentative=False, failed=False)
    assert held[FOUR] == HeldAddress(FOUR, tentative=False, failed=False)
    assert HeldAddress(SIX, tentative=True, failed=False) in settled(at, 0)
    assert not any(one.tentative for one in settled(at, 10))
    assert HeldAddress(SIX, tentative=False, failed=False) in settled(at, 0)


def test_addresses_are_tentative_while_they_are_checked(box: Place) -> None:
    """Only IPv6 ones are, and only where duplicates are to be looked for; the kernel tells when it is done."""
    box.call(_checked)


def _failed() -> None:
    at = eth0()
    add_address(at, SIX)
    assert HeldAddress(SIX, tentative=True, failed=True) in settled(at, 10)


def test_a_duplicate_is_seen(sandbox: Sandbox, box: Place) -> None:
    """An address that a neighbour has is held, and marked as failed."""
    sandbox.ip("address", "add", str(SIX), "dev", "vethbox", "nodad")
    box.call(_failed)


def _twice() -> None:
    at = eth0()
    for interface in (FOUR, SIX):
        add_address(at, interface)
        with pytest.raises(LinkError, match=f"could not add address {interface} to link {at}: File exists") as error:
            add_address(at, interface)
        assert error.value.errno == errno.EEXIST
        remove_address(at, interface)
        remove_address(at, interface)
        remove_address(IfIndex(4711), interface)
        assert interface not in {one.interface for one in addresses(at)}
        with pytest.raises(LinkError, match="No such device"):
            add_address(IfIndex(4711), interface)
    assert addresses(IfIndex(4711)) == ()
    assert [one.interface for one in addresses(IfIndex(1))] == [ip_interface("127.0.0.1/8"), ip_interface("::1/128")]


def test_addresses_are_given_once_and_taken_at_most_once(box: Place) -> None:
    """EEXIST for one that the link has; taking one that it has not is fine."""
    box.call(_twice)


def _without_ipv6() -> None:
    with pytest.raises(LinkError, match=r"sysctl net\.ipv6\.conf\.<link>\.disable_ipv6$") as error:
        add_address(eth0(), SIX)
    assert error.value.errno == errno.EACCES


def test_a_link_without_ipv6_is_told(box: Place) -> None:
    """The error names the sysctl that is in the way."""
    box.sysctl("net/ipv6/conf/eth0/disable_ipv6", 1)
    box.call(_without_ipv6)


WANTED = (
    Route(EVERYWHERE4, GATEWAY4),
    Route(ip_network("10.20.0.0/16")),
    Route(ip_network("10.21.0.0/16"), GATEWAY4, mtu=1300, advmss=1200, priority=5, table=1000, scope=0),
    Route(ip_network("10.22.0.0/16"), mtu=1300, table=100),
    Route(ip_network("10.23.0.0/16"), scope=0),
    Route(ip_network("10.24.0.0/16"), GATEWAY6),
    Route(EVERYWHERE6, GATEWAY6),
    Route(ip_network("fd00:20::/64")),
    Route(ip_network("fd00:21::/64"), GATEWAY6, mtu=1300, advmss=1200, priority=5, table=1000, scope=0),
)


def _routed() -> tuple[Route, ...]:
    at = eth0()
    for interface in (FOUR, SIX):
        add_address(at, interface, detect_duplicates=False)
    before = routes(at)
    for route in WANTED:
        add_route(route, at)
    add_route(Route(ip_network("10.25.0.0/16"), GATEWAY4, table=255), at)
    assert all(route.table != 255 and not route.destination.is_multicast for route in routes(at))
    assert routes(IfIndex(1)) == ()
    return tuple(route for route in routes(at) if route not in before)


def _as_shown(route: Route) -> dict[str, object]:
    """What ``ip -j route show`` says of a route."""
    word = "default" if not route.destination.prefixlen else str(route.destination)
    shown: dict[str, object] = {"dst": word, "dev": "eth0", "flags": []}
    if route.gateway and route.gateway.version != route.destination.version:
        shown["via"] = {"family": "inet6", "host": str(route.gateway)}
    elif route.gateway:
        shown["gateway"] = str(route.gateway)
    if route.mtu or route.advmss:
        metrics = {"mtu": route.mtu, "advmss": route.advmss}
        shown["metrics"] = [{name: value for name, value in metrics.items() if value}]
    if route.priority:
        shown["metric"] = route.priority
    if route.table != 254:
        shown["table"] = str(route.table)
    if route.scope == 253:
        shown["scope"] = "link"
    if route.destination.version == 6:
        shown["pref"] = "medium"
    return shown


def _filled_in(route: Route) -> Route:
    """A route with what the kernel decides where nobody asked."""
    four = route.destination.version == 4
    scope = (0 if route.gateway else 253) if route.scope is None else route.scope
    return replace(
        route,
        table=route.table or 254,
        priority=route.priority or (None if four else 1024),
        scope=scope if four else 0,
    )


def test_routes_are_added_as_asked_and_read_as_shown(box: Place) -> None:
    """Gateway, MTU, MSS, metric, table and scope: as asked, as ``routes`` says, and as ``ip route`` shows."""
    held = box.call(_routed)
    assert set(held) == set(map(_filled_in, WANTED))
    shown = [
        one
        for family in ("-4", "-6")
        for one in json.loads(box.ip(family, "-j", "route", "show", "table", "all", "dev", "eth0"))
        if one.get("protocol") != "kernel" and one.get("table") != "local"
    ]
    for route in held:
        wanted = _as_shown(route)
        del wanted["dev"]  # ip leaves out what it was asked for
        assert wanted in shown, shown
    assert len(shown) == len(held)


def _refused() -> None:
    at = eth0()
    for interface in (FOUR, SIX):
        add_address(at, interface, detect_duplicates=False)
    for route in (Route(EVERYWHERE4, GATEWAY4), Route(EVERYWHERE6, GATEWAY6)):
        add_route(route, at)
        with pytest.raises(LinkError, match=f"could not add route to {route.destination} via .* by link {at}") as error:
            add_route(route, at)
        assert error.value.errno == errno.EEXIST
    for gateway in ("192.0.2.1", "2001:db8::1"):
        destination = EVERYWHERE4 if ":" not in gateway else EVERYWHERE6
        with pytest.raises(LinkError, match="no address of the link has the gateway in its subnet"):
            add_route(Route(destination, ip_address(gateway)), at)
    # Another gateway for the same destination is no obstacle, as it is none for containernetworking's plugins.
    for route in (Route(EVERYWHERE4, ip_address("10.11.0.9")), Route(EVERYWHERE6, ip_address("fd00:11::9"))):
        add_route(route, at)
        assert {held.gateway for held in routes(at) if held.destination == route.destination} == {
            route.gateway,
            GATEWAY4 if route.destination.version == 4 else GATEWAY6,
        }


def test_a_route_is_added_once(box: Place) -> None:
    """EEXIST for the same one; a gateway out of reach is told as that."""
    box.call(_refused)


def reaches(address: Address, link: IfIndex) -> bool:
    """Whether the way to an address is by this link."""
    return route_to(address) == link


def _reached() -> None:
    at, lo = eth0(), IfIndex(1)
    assert [route_to(ip_address(one)) for one in ("192.0.2.1", "2001:db8::1")] == [None, None]
    for interface, gateway in ((FOUR, GATEWAY4), (SIX, GATEWAY6)):
        add_address(at, interface, detect_duplicates=False)
        wait_until(partial(reaches, interface.ip, lo))  # the kernel finishes IPv6 addresses on a queue
        assert route_to(gateway) == at
    assert [route_to(ip_address(one)) for one in ("192.0.2.1", "2001:db8::1")] == [None, None]
    add_route(Route(EVERYWHERE4, GATEWAY4), at)
    add_route(Route(EVERYWHERE6, GATEWAY6), at)
    assert [route_to(ip_address(one)) for one in ("192.0.2.1", "2001:db8::1", "127.0.0.1")] == [at, at, lo]


def test_the_way_to_an_address(box: Place) -> None:
    """By the link of its route, by loopback to one's own, and None without a route."""
    box.call(_reached)


def _not_reached() -> None:
    for address in ("10.1.0.1", "10.2.0.1", "10.3.0.1", "fd00:1::1", "fd00:2::1", "fd00:3::1"):
        assert route_to(ip_address(address)) is None, address


def test_routes_that_refuse_lead_nowhere(box: Place) -> None:
    """Unreachable, prohibited and black hole are no ways to an address."""
    for number, kind in enumerate(("unreachable", "prohibit", "blackhole"), 1):
        box.ip("route", "add", kind, f"10.{number}.0.0/16")
        box.ip("-6", "route", "add", kind, f"fd00:{number}::/32")
    box.call(_not_reached)
