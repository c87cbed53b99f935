"""What programs saw, in words, as JSON fields, and as lines of ``dpctl checksum watch``."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from control.agent import sightings
from control.checksums import sighted
from control.checksums.rewrites import Knowledge, KnownContainer, KnownMapping
from control.drops import REASONS
from control.model import AttachmentKey
from dataplane.abi import Event, EventAction, EventKind, GuardReason, Translation
from dataplane.types import IfIndex, Protocol

WEB, SHOP = AttachmentKey("front", "web", "eth0"), AttachmentKey("front", "shop", "eth0")
CONTAINER, NEIGHBOUR, HOST, CLIENT = "10.88.0.116", "10.88.0.117", "10.0.2.15", "10.0.2.2"
MAPPINGS = (
    KnownMapping(None, 9090, Protocol.TCP, IPv4Address(CONTAINER), 90, WEB),
    KnownMapping(None, 8080, Protocol.TCP, IPv4Address(CONTAINER), 80, WEB),
    KnownMapping(None, 8080, Protocol.UDP, IPv4Address(CONTAINER), 80, WEB),
)
KNOWN = Knowledge(
    MAPPINGS,
    (IPv4Address(HOST),),
    (KnownContainer(IPv4Address(CONTAINER), True, WEB), KnownContainer(IPv4Address(NEIGHBOUR), True, SHOP)),
)
STALE = Event(
    time_ns=7,
    kind=EventKind.STALE,
    ifindex=IfIndex(3),
    ingress_ifindex=IfIndex(2),
    source_network=0,
    destination_network=1,
    source=IPv4Address(CLIENT),
    destination=IPv4Address(CONTAINER),
    source_port=54017,
    destination_port=80,
    protocol=6,
    action=EventAction.REPAIRED,
    stored=0xD776,
    correct=0xD8B9,
    delta=0xFEBC,
    translation=Translation.PUBLISHED,
    origin_source=IPv4Address(CLIENT),
    origin_destination=IPv4Address(HOST),
    origin_source_port=54017,
    origin_destination_port=8080,
    guard=None,
    mac="",
)
NAMES = {1: "front", 2: "back"}
DROPPED = replace(STALE, kind=EventKind.ISOLATED, source_network=2, action=EventAction.DROPPED)


def moved(translation: Translation, now: tuple[str, int, str, int], before: tuple[str, int, str, int]) -> Event:
    """A stale sum that another translation left."""
    return replace(
        STALE,
        translation=translation,
        source=ip_address(now[0]),
        source_port=now[1],
        destination=ip_address(now[2]),
        destination_port=now[3],
        origin_source=ip_address(before[0]),
        origin_source_port=before[1],
        origin_destination=ip_address(before[2]),
        origin_destination_port=before[3],
    )


REPLY = moved(Translation.REPLY, (HOST, 8080, NEIGHBOUR, 4000), (CONTAINER, 80, NEIGHBOUR, 4000))
OUT = moved(Translation.MASQUERADE, (HOST, 4000, CLIENT, 443), (NEIGHBOUR, 4000, CLIENT, 443))
BACK = moved(Translation.UNMASQUERADE, (CLIENT, 443, NEIGHBOUR, 4000), (CLIENT, 443, HOST, 4000))
BOTH = moved(Translation.BOTH, ("10.88.0.1", 4000, CONTAINER, 80), (NEIGHBOUR, 4000, HOST, 8080))
CORRUPT = replace(STALE, kind=EventKind.CORRUPT, translation=Translation.NONE, action=EventAction.NONE)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (STALE, f"stale    {CLIENT}:54017 > {CONTAINER}:80  0xd776 (correct: 0xd8b9)  right for {HOST}:8080, repaired"),
        (REPLY, f"right for source {CONTAINER}:80, repaired"),
        (OUT, f"right for source {NEIGHBOUR}:4000, repaired"),
        (BACK, f"right for {HOST}:4000, repaired"),
        (BOTH, f"right for {NEIGHBOUR}:4000 > {HOST}:8080, repaired"),
        (replace(STALE, action=EventAction.NONE), "right for 10.0.2.15:8080, left as it is"),
        (CORRUPT, "0xd776 (correct: 0xd8b9)  left as it is"),
    ],
)
def test_sums_in_words(event: Event, text: str) -> None:
    """A stale sum is said with what it is right for, whichever end NAT rewrote; a corrupt one with nothing."""
    assert sightings.sentence(event, NAMES).endswith(text)


@pytest.mark.parametrize(
    ("event", "count", "text"),
    [
        (DROPPED, 1, f"dropped a packet {CLIENT} > {CONTAINER}:80 (tcp): isolation, network back to front"),
        (DROPPED, 3, f"dropped 3 packets {CLIENT} > {CONTAINER}:80 (tcp): isolation, network back to front"),
        (
            replace(DROPPED, kind=EventKind.GUARDED, guard=GuardReason.SOURCE_ADDRESS, mac="02:42:ac:11:00:02"),
            1,
            (
                f"dropped a packet {CLIENT} > {CONTAINER}:80 (tcp) from 02:42:ac:11:00:02: guard, network back: "
                "packets from an address that is not its own"
            ),
        ),
        (
            replace(
                DROPPED,
                kind=EventKind.GUARDED,
                guard=GuardReason.ARP,
                mac="02:42:ac:11:00:02",
                source=None,
                destination=None,
            ),
            2,
            (
                "dropped 2 frames from 02:42:ac:11:00:02: guard, network back: ARP that claims somebody else's address "
                "or MAC"
            ),
        ),
        (
            replace(DROPPED, destination=IPv6Address("fd00::2"), source=IPv6Address("fd00::1"), protocol=58),
            1,
            "dropped a packet fd00::1 > [fd00::2]:80 (icmpv6): isolation, network back to front",
        ),
    ],
)
def test_drops_in_words(event: Event, count: int, text: str) -> None:
    """A drop is said with who sent it, why, and in which networks."""
    assert sightings.sentence(event, NAMES, count) == text


def test_a_guards_sighting_names_the_container() -> None:
    """Where its veth is still known; ARP is called so."""
    event = replace(DROPPED, kind=EventKind.GUARDED, guard=GuardReason.ARP, protocol=0, mac="02:42:ac:11:00:02")
    text = sightings.sentence(event, NAMES, 1, {event.ifindex: "web"})
    assert "(arp)" in text
    assert "guard, container web of network back: " in text
    assert sightings.fields(event, NAMES, {event.ifindex: "web"})["container"] == "web"
    assert sightings.fields(event, NAMES)["container"] is None


@pytest.mark.parametrize("reason", list(GuardReason))
def test_each_reason_of_the_guard_has_words(reason: GuardReason) -> None:
    """Whatever guard drops a packet for is said in words, and named in JSON."""
    event = replace(DROPPED, kind=EventKind.GUARDED, guard=reason, mac="02:42:ac:11:00:02")
    assert sightings.sentence(event, NAMES).endswith(REASONS[reason])
    assert sightings.fields(event, NAMES)["reason"] == reason.name.lower()


@pytest.mark.parametrize("kind", [EventKind.ISOLATED, EventKind.GUARDED])
def test_a_flood_is_one_sighting(kind: EventKind) -> None:
    """Drops that differ in time and source port alone are told once; checksums each by itself."""
    event = replace(DROPPED, kind=kind)
    other = replace(event, time_ns=8, source_port=1)
    assert sightings.grouped(event) == sightings.grouped(other)
    assert sightings.grouped(STALE) != sightings.grouped(replace(STALE, source_port=1))


@pytest.mark.parametrize("event", [STALE, REPLY, CORRUPT, DROPPED, replace(DROPPED, kind=EventKind.GUARDED)])
def test_fields_are_json(event: Event) -> None:
    """Whatever is seen can be written as JSON, with what it was about."""
    said = json.loads(json.dumps(sightings.fields(event, NAMES)))
    assert said["kind"] == event.kind.name.lower()
    assert said["destination"] == {"address": str(event.destination), "port": event.destination_port}


def test_the_seeds_delta() -> None:
    """The delta is what the field lacks: 0xd8b9 - 0xd776, as the known issue has it."""
    said = sightings.fields(STALE, NAMES)
    assert (said["delta"], said["translation"], said["network"]) == ("0x0143", "published", "front")
    assert said["before"] == {
        "source": {"address": CLIENT, "port": 54017},
        "destination": {"address": HOST, "port": 8080},
    }
    around = sightings.fields(replace(STALE, stored=0xD8B9, correct=0xD776), NAMES)
    assert around["delta"] == "0xfebc"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (STALE, "front/web 8080/tcp"),
        (replace(STALE, origin_destination_port=80), "front/web 8080/tcp"),
        (REPLY, "front/web 8080/tcp"),
        (OUT, "front/shop"),
        (BACK, "front/shop"),
        (BOTH, "front/web 8080/tcp"),
        (CORRUPT, "front/web"),
        (replace(CORRUPT, destination=IPv4Address("203.0.113.9")), "-"),
    ],
)
def test_whose_it_is(event: Event, text: str) -> None:
    """A sighting is led to the published port, or to the container alone, or to nobody who is known."""
    assert str(sighted.whose(sightings.fields(event, NAMES), KNOWN)) == text


def test_lines_are_in_columns() -> None:
    """Every line has its columns under the headings, and the flow, the sums, the delta and what was done."""
    fields = sightings.fields(STALE, NAMES)
    line, heading = sighted.line(fields, sighted.whose(fields, KNOWN), 0.0), sighted.heading()
    columns = [(match.start(), match.group()) for match in re.finditer(r"\S+(?: \S+)*", line)]
    assert [at for at, _ in columns] == [match.start() for match in re.finditer(r"\S+(?: \S+)*", heading)]
    assert [text for _, text in columns[1:]] == [
        "stale",
        "repaired",
        "0xd776->0xd8b9",
        "0x0143",
        "published",
        "front/web 8080/tcp",
        f"{CLIENT}:54017 > {CONTAINER}:80/tcp",
    ]
    corrupt = sightings.fields(CORRUPT, NAMES)
    assert "  not NAT  " in sighted.line(corrupt, sighted.whose(corrupt, KNOWN), 0.0)
