"""The MAC spoof check with real frames: who is heard, by whichever MAC they claim to be."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from control.desired import spoofcheck
from control.desired.spoofcheck import GuardedPort
from dataplane.nft.client import LibNftables
from dataplane.nft.objects import Comment, EtherAddress, Table
from dataplane.nft.transaction import Transaction
from dataplane.types import IfIndex, Protocol
from support import plan
from support.frames import Flow, frame
from support.netns import Namespace, Place, Sandbox
from support.traffic import ask, counters, send_frame, serve

# What ``support.frames`` writes into every frame: from the first to the second.
WEB_MAC, DB_MAC = "02:42:ac:11:00:01", "02:42:ac:11:00:02"
STRANGER = "02:42:ac:11:00:ff"
WEB4, DB4 = plan.FRONT.host4(2), plan.FRONT.host4(3)
TO_DB = frame(Flow(Protocol.UDP, str(WEB4), 4000, str(DB4), 53), b"hello")


def sent_by(octets: bytes, mac: str) -> bytes:
    """The frame with another source MAC."""
    return octets[:6] + bytes.fromhex(mac.replace(":", "")) + octets[12:]


def sent_to(octets: bytes, mac: str) -> bytes:
    """The frame with another destination MAC."""
    return bytes.fromhex(mac.replace(":", "")) + octets[6:]


def spoofed(octets: bytes) -> bytes:
    """The frame as if a stranger had sent it."""
    return sent_by(octets, STRANGER)


TO_WEB = sent_to(sent_by(frame(Flow(Protocol.UDP, str(DB4), 4000, str(WEB4), 53), b"hello"), DB_MAC), WEB_MAC)


class Bridge:
    """Two containers on a bridge; ``web`` is the one that is guarded."""

    def __init__(self, host: Sandbox) -> None:
        self.host = host
        host.bridge("br-front", f"{plan.FRONT.gateway4}/24")
        self.web = self._container("web", f"{WEB4}/24", WEB_MAC)
        self.db = self._container("db", f"{DB4}/24", DB_MAC)
        self.guarded = (self.port("web", WEB_MAC),)

    def _container(self, name: str, address: str, mac: str) -> Namespace:
        place = self.host.namespace(name)
        self.host.plug("br-front", f"veth{name}", place, address=address)
        place.ip("link", "set", "eth0", "address", mac)
        serve(place, name, "tcp", 80)
        return place

    def port(self, name: str, mac: str) -> GuardedPort:
        """The guard of a container's port."""
        return GuardedPort(
            IfIndex(self.link(f"veth{name}")["ifindex"]), EtherAddress.parse(mac), Comment(f"front/{name}/eth0")
        )

    def link(self, name: str) -> dict[str, Any]:
        """A link of the host, as iproute2 describes it."""
        found: dict[str, Any] = json.loads(self.host.ip("-j", "link", "show", "dev", name))[0]
        return found

    def run(self, transaction: Transaction) -> None:
        """Run a transaction on the host."""
        self.host.call(_run, transaction)

    def heard(self, sender: Namespace, *frames: bytes, by: Place | None = None) -> int:
        """How many of these frames are heard by ``db``, or ``by`` another."""
        listener = by or self.db
        before = counters(listener, "Udp")["NoPorts"]
        for one in frames:
            send_frame(sender, "eth0", one)
        # What is sent last comes last: once this is answered, the others are through, or lost.
        assert self.reaches(sender)
        return counters(listener, "Udp")["NoPorts"] - before

    def reaches(self, sender: Namespace) -> bool:
        """Whether a container's own stack gets an answer from the other container."""
        return ask(sender, DB4 if sender is self.web else WEB4, 80) is not None

    def dropped(self) -> int:
        """What the rule has counted."""
        text = self.host.run("nft", "list", "table", "bridge", "dataplane").stdout
        found = re.search(r"counter packets (\d+)", text)
        assert found is not None, text
        return int(found[1])


def _run(transaction: Transaction) -> None:
    LibNftables().run(transaction)


def _differences(wanted: tuple[GuardedPort, ...]) -> list[str]:
    return list(spoofcheck.differences(LibNftables(), wanted))


@pytest.fixture
def bridge(sandbox: Sandbox) -> Bridge:
    """Two containers that nobody guards yet."""
    return Bridge(sandbox)


def test_a_spoofed_frame_is_dropped_and_counted(bridge: Bridge) -> None:
    """Before, any MAC passes; while guarded, only its own; after the last port was released, any again."""
    assert bridge.heard(bridge.web, TO_DB, spoofed(TO_DB)) == 2
    bridge.run(spoofcheck.change((), bridge.guarded, elsewhere=False))
    assert bridge.heard(bridge.web, TO_DB, spoofed(TO_DB)) == 1
    assert bridge.dropped() == 1
    bridge.run(spoofcheck.change(bridge.guarded, (), elsewhere=False))
    assert bridge.heard(bridge.web, TO_DB, spoofed(TO_DB)) == 2
    assert bridge.host.run("nft", "list", "tables").stdout == ""


def test_the_host_does_not_hear_it_either(bridge: Bridge) -> None:
    """A spoofed frame to the bridge itself, which would be routed, is dropped as well."""
    mac = bridge.link("br-front")["address"]
    to_host = sent_to(frame(Flow(Protocol.UDP, str(WEB4), 4000, str(plan.FRONT.gateway4), 53), b"hello"), mac)
    assert bridge.heard(bridge.web, to_host, spoofed(to_host), by=bridge.host) == 2
    bridge.run(spoofcheck.change((), bridge.guarded, elsewhere=False))
    assert bridge.heard(bridge.web, to_host, spoofed(to_host), by=bridge.host) == 1


def test_broadcasts_and_tagged_frames_are_checked_too(bridge: Bridge) -> None:
    """Whatever the frame carries and wherever it goes: the source MAC decides."""
    bridge.run(spoofcheck.change((), bridge.guarded, elsewhere=False))
    tagged = frame(Flow(Protocol.UDP, str(WEB4), 4000, str(DB4), 53), b"hello", vlan=7)
    arp = TO_DB[:12] + bytes.fromhex("0806") + bytes(46)
    for octets in (sent_to(TO_DB, "ff:ff:ff:ff:ff:ff"), tagged, arp):
        before = bridge.dropped()
        bridge.heard(bridge.web, octets)
        assert bridge.dropped() == before
        bridge.heard(bridge.web, spoofed(octets))
        assert bridge.dropped() == before + 1


def test_a_container_that_changes_its_mac_falls_silent(bridge: Bridge) -> None:
    """With another MAC on its interface nothing of it passes, and with its own everything does."""
    bridge.run(spoofcheck.change((), bridge.guarded, elsewhere=False))
    bridge.web.ip("link", "set", "eth0", "address", STRANGER)
    assert not bridge.reaches(bridge.web)
    bridge.web.ip("link", "set", "eth0", "address", WEB_MAC)
    assert bridge.reaches(bridge.web)


def test_a_port_that_is_not_guarded_may_use_any_mac(bridge: Bridge) -> None:
    """The check is the guarded ports' alone."""
    bridge.run(spoofcheck.change((), bridge.guarded, elsewhere=False))
    assert bridge.heard(bridge.db, TO_WEB, spoofed(TO_WEB), by=bridge.web) == 2


def test_one_guarded_port_may_not_borrow_the_mac_of_another(bridge: Bridge) -> None:
    """What is permitted is a pair: a MAC that is right on one port is wrong on another."""
    db = bridge.port("db", DB_MAC)
    bridge.run(spoofcheck.change((), bridge.guarded, elsewhere=False))
    bridge.run(spoofcheck.change((), (db,), elsewhere=True))
    assert bridge.heard(bridge.db, TO_WEB, sent_by(TO_WEB, WEB_MAC), by=bridge.web) == 1


def test_a_port_that_is_gone_is_released(bridge: Bridge) -> None:
    """Its elements are found and deleted by the index of a link that no longer exists."""
    db = bridge.port("db", DB_MAC)
    both = (*bridge.guarded, db)
    bridge.run(spoofcheck.rebuild(both, there=False))
    assert bridge.host.call(_differences, both) == []
    bridge.host.ip("link", "delete", "vethdb")
    assert bridge.host.call(_differences, both) == []
    bridge.run(spoofcheck.change((db,), (), elsewhere=True))
    assert bridge.host.call(_differences, bridge.guarded) == []
    assert len(bridge.host.call(_differences, both)) == 2


def test_check_tells_what_others_broke(bridge: Bridge) -> None:
    """Flushed rules, deleted elements and a wiped table are told apart, and rebuilding ends them all."""

    def found() -> list[str]:
        return bridge.host.call(_differences, bridge.guarded)

    bridge.run(spoofcheck.rebuild(bridge.guarded, there=False))
    assert found() == []
    bridge.host.run("nft", "flush", "table", "bridge", "dataplane")
    assert found() == ["chains or rules of table bridge dataplane were altered"]
    bridge.run(spoofcheck.rebuild(bridge.guarded, there=True))
    bridge.host.run("nft", "flush", "set", "bridge", "dataplane", "permitted")
    assert [text.partition(" {")[0] for text in found()] == ["element permitted"]
    bridge.host.run("nft", "flush", "ruleset")
    assert found() == ["table bridge dataplane was wiped"]
    bridge.run(spoofcheck.rebuild(bridge.guarded, there=False))
    assert found() == []


def test_the_undo_of_a_change_is_its_opposite(bridge: Bridge) -> None:
    """There and back again leaves the ruleset as it was, with others guarded and without."""
    db = bridge.port("db", DB_MAC)

    def listing() -> str:
        return bridge.host.run("nft", "-s", "list", "ruleset").stdout

    for elsewhere in (False, True):
        if elsewhere:
            bridge.run(spoofcheck.rebuild(bridge.guarded, there=False))
        before = listing()
        bridge.run(spoofcheck.change((), (db,), elsewhere=elsewhere))
        assert listing() != before
        bridge.run(spoofcheck.change((db,), (), elsewhere=elsewhere))
        assert listing() == before


def _many(count: int) -> None:
    ports = [GuardedPort(IfIndex(100 + n), EtherAddress(n.to_bytes(6, "big"))) for n in range(count)]
    nft = LibNftables()
    nft.run(spoofcheck.rebuild(ports, there=False))
    assert nft.chains(Table.BRIDGE) == {"spoofcheck": 1}
    assert list(spoofcheck.differences(nft, ports[-3:])) == []


def test_a_thousand_ports_are_one_rule(sandbox: Sandbox) -> None:
    """What a frame costs does not depend on how many containers are guarded."""
    sandbox.call(_many, 1000)
