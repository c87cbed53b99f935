"""What ``dpctl drops`` makes of the programs' counts: names, reasons in words, ages, and what to do."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from control.drops import REASONS, Counted, Drop, Dropper, Known, ago, drops, last_packet
from control.model import IngressPolicy, Options
from dataplane.abi import MANUAL_NETWORK, GuardReason, Offender
from dataplane.types import IfIndex
from support.attachments import attachment, port

SECOND = 1_000_000_000
NOW = 1000 * SECOND
WEB, ADMIN = "10.11.0.2", "10.12.0.2"
MAC = "02:42:ac:11:00:01"

ISOLATED = IngressPolicy.ISOLATED
KNOWN = Known.of(
    {1: "front", 2: "back"},
    [
        attachment("web", f"{WEB} fd00:11::2", port(8080)),
        attachment("admin", ADMIN, network="back", device=11, veth=21, options=Options(ingress_policy=ISOLATED)),
    ],
)


def offender(source: str = ADMIN, destination: str = WEB, dport: int = 81, seconds_ago: float = 3) -> Offender:
    """A TCP packet."""
    ends = ip_address(source), ip_address(destination)
    return Offender(NOW - int(seconds_ago * SECOND), *ends, 40000, dport, 6, MAC)


def isolated(pair: tuple[int, int], last: Offender | None = None, packets: int = 1) -> Drop:
    """The one drop of a pair of networks."""
    (one,) = drops(Counted({pair: packets}, {pair: last} if last else {}), KNOWN, NOW)
    return one


def guarded(reason: GuardReason, index: int = 20, last: Offender | None = None) -> Drop:
    """The one drop of a container's port."""
    key = IfIndex(index), reason
    (one,) = drops(Counted(guarded={key: 4}, guarded_last={key: last} if last else {}), KNOWN, NOW)
    return one


def test_isolation_names_networks_and_containers() -> None:
    """Who sent it to whom by name, why with both policies, how many, and how long ago the last one was."""
    one = isolated((2, 1), offender(), packets=7)
    assert (one.dropper, one.reason, one.packets, one.age) == (Dropper.ISOLATION, "networks", 7, 3.0)
    assert (str(one.source), str(one.destination)) == ("back/admin", "front/web")
    assert one.why == "different networks, and neither is open (back is isolated; front is same-bridge)"
    assert last_packet(one) == f"{ADMIN}:40000 > {WEB}:81 tcp"
    assert "publish the port" in one.advice
    assert '"ingressPolicy": "open"' in one.advice


def test_a_published_port_is_pointed_to() -> None:
    """Who asked a container directly for a port that the host publishes is told where."""
    assert "8080/tcp" in isolated((2, 1), offender(dport=80)).advice
    udp = replace(offender(dport=80), protocol=17)
    assert "8080" not in isolated((2, 1), udp).advice


def test_neighbours() -> None:
    """Of one network, the reason is its policy, and the way out another one."""
    one = isolated((2, 2), offender(destination="10.12.0.9"))
    assert (one.reason, str(one.source), str(one.destination)) == ("neighbours", "back/admin", "back")
    assert one.why == "network back is isolated: its containers are kept apart"
    assert '"ingressPolicy": "same-bridge" in the conflist of network back' in one.advice


def test_what_is_not_known_is_not_made_up() -> None:
    """Networks that went or were hooked by hand have words for names; a last packet that was evicted, or of which
    only the MAC was read, is said to be so."""
    one = isolated((MANUAL_NETWORK | 7, 9))
    assert (str(one.source), str(one.destination), one.age) == ("by hand", "gone", None)
    assert (last_packet(one), ago(one.age)) == ("-", "-")
    frame = Offender(NOW, None, None, 0, 0, 0, MAC)
    assert last_packet(isolated((2, 1), frame)) == f"a frame from {MAC}"
    gone = guarded(GuardReason.ARP, index=99)
    assert (str(gone.source), gone.advice) == ("gone", "nothing: that container is gone")


@pytest.mark.parametrize("reason", GuardReason)
def test_guard_says_why_and_what_allows_it(reason: GuardReason) -> None:
    """Each reason has words of its own, the container by its port, and the level that lets such packets out."""
    one = guarded(reason, last=offender(source="10.11.0.77", destination="192.0.2.55"))
    assert (one.dropper, one.reason, one.why) == (Dropper.GUARD, reason.name.lower(), REASONS[reason])
    assert (str(one.source), str(one.destination)) == ("front/web", "192.0.2.55")
    assert last_packet(one).endswith(f"from {MAC}") is (reason in {GuardReason.ARP, GuardReason.NEIGHBOUR})
    assert ("arp" in last_packet(one)) is (reason is GuardReason.ARP)
    level = "off" if reason is GuardReason.SOURCE_MAC else "mac"
    assert f'"guard": "{level}" in the conflist of network front' in one.advice


def test_the_latest_is_first() -> None:
    """By age; those whose last packet is not known any more come last."""
    counted = Counted(
        {(1, 2): 100, (2, 1): 1, (2, 2): 1},
        {(2, 1): offender(seconds_ago=50), (2, 2): offender(seconds_ago=5)},
        {(IfIndex(20), GuardReason.ARP): 1},
        {(IfIndex(20), GuardReason.ARP): offender(seconds_ago=20)},
    )
    found = drops(counted, KNOWN, NOW)
    assert [one.age for one in found] == [5.0, 20.0, 50.0, None]


def test_what_came_since() -> None:
    """Of two looks the growth; what shrank was evicted and counts from nothing; what stayed is not there."""
    before = Counted({(1, 2): 5, (2, 1): 9, (2, 2): 1}, guarded={(IfIndex(20), GuardReason.ARP): 2})
    now = Counted({(1, 2): 5, (2, 1): 12, (2, 2): 1, (1, 1): 4}, guarded={(IfIndex(20), GuardReason.ARP): 1})
    assert now.since(before).isolated == {(2, 1): 3, (1, 1): 4}
    assert now.since(before).guarded == {(IfIndex(20), GuardReason.ARP): 1}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0 s ago"), (3.2, "3 s ago"), (119.9, "119 s ago"), (120, "2 min ago"), (7199, "119 min ago"),
     (7200, "2 h ago"), (172800, "2 d ago"), (None, "-")],
)  # fmt: skip
def test_ages(seconds: float | None, text: str) -> None:
    """In the largest unit of which there are two."""
    assert ago(seconds) == text
