"""What ``dpctl bpf`` says about entries of maps, counters and frames: pure."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from control.cli.bpf.contents import Ago, decoded, in_words
from control.cli.bpf.listing import HEAD, lines, served
from control.cli.bpf.names import Names
from control.cli.bpf.stats import Sample, difference, per_second
from control.cli.bpf.trial import changes
from control.cli.output import print_table
from dataplane import abi
from dataplane.abi import (
    MANUAL_NETWORK,
    U32,
    U64,
    HostSettings,
    NetworkEntry,
    Origin,
    OriginKey,
    Port,
    PublishedKey,
    Target,
)
from dataplane.programs.inventory import Attachment, How, Inventory
from dataplane.programs.source import MAPS
from dataplane.programs.syscall import ProgramInfo
from dataplane.types import ChecksumMode, GuardLevel, IfIndex, IsolationPolicy, Program, Protocol
from support.frames import Flow, frame

WEB4, WEB6 = IPv4Address("10.11.0.2"), IPv6Address("fd00:11::2")
HOST, CLIENT = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.55")
BRIDGE, VETH = IfIndex(4), IfIndex(7)
NAMES = Names(
    devices={1: "lo", BRIDGE: "br-front", VETH: "veth7"},
    networks={3: "front", 5: "back"},
    on_device={BRIDGE: ("front",)},
    ports={VETH: "web"},
    addresses={WEB4: "web", WEB6: "web"},
)
NOW = 65_000_000_000
FLOW = abi.FLOW_KEY.pack(
    abi.pack_address(CLIENT), abi.pack_address(WEB4), (40000).to_bytes(2, "big"), (80).to_bytes(2, "big"), 6, BRIDGE
)
OFFENDER = abi.OFFENDER.pack(
    NOW - 3_000_000_000,
    abi.pack_address(CLIENT),
    abi.pack_address(WEB4),
    (40000).to_bytes(2, "big"),
    (53).to_bytes(2, "big"),
    4,
    17,
    bytes.fromhex("0242ac110002"),
)
LAST = {
    "when": Ago(3.0),
    "source": "192.0.2.55:40000",
    "destination": "10.11.0.2:53",
    "protocol": "udp",
    "mac": "02:42:ac:11:00:02",
}
PORT = {"device": "veth7", "ifindex": VETH, "container": "web"}
ENTRIES: dict[str, tuple[bytes, bytes, dict[str, object]]] = {
    "networks": (
        U32.pack(BRIDGE),
        NetworkEntry(3, IsolationPolicy.SAME_BRIDGE, ChecksumMode.REPAIR, masquerades=True).pack(),
        {
            "device": "br-front",
            "ifindex": BRIDGE,
            "network": "front",
            "id": 3,
            "policy": "same-bridge",
            "checksum": "repair",
            "masquerades": True,
        },
    ),
    "settings": (U32.pack(0), HostSettings(1 << 27, 9).pack(), {"mark": "0x8000000", "netns_cookie": 9}),
    "origins": (
        OriginKey(WEB6, 17, 53, 2).pack(),
        Origin(None, 5353).pack(),
        {"container": "web", "port": "[fd00:11::2]:53", "protocol": "udp", "slot": 2, "published_on": "*:5353"},
    ),
    "published": (
        PublishedKey(HOST, 4, 6, 8080).pack(),
        Target(WEB4, 80, localhost=True).pack(),
        {
            "published_on": "192.0.2.1:8080",
            "protocol": "tcp",
            "family": 4,
            "container": "web",
            "leads_to": "10.11.0.2:80",
            "localhost": True,
        },
    ),
    "host_addresses": (
        abi.host_address_key(IPv4Address("0.1.0.2")),
        abi.pack_address(IPv4Address("0.1.0.2")),
        {"address": "0.1.0.2", "family": 4, "sum": "0x0003"},
    ),
    "containers": (
        abi.container_key(3, WEB4),
        abi.pack_address(WEB4),
        {"network": "front", "container": "web", "address": "10.11.0.2", "family": 4, "sum": "0x0a0d"},
    ),
    "ports": (
        U32.pack(VETH),
        Port(3, GuardLevel.FULL, "02:42:ac:11:00:02").pack(),
        {**PORT, "network": "front", "guard": "full", "mac": "02:42:ac:11:00:02"},
    ),
    "port_addresses": (abi.port_address_key(VETH, WEB6), U32.pack(1), {**PORT, "address": "fd00:11::2"}),
    "fill_ports": (abi.fill_key(3, 68), U32.pack(1), {"network": "front", "udp_port": 68}),
    "flows": (
        FLOW,
        abi.FLOW.pack(2, int.from_bytes(bytes.fromhex("1234"), "little")),
        {
            "device": "br-front",
            "ifindex": BRIDGE,
            "protocol": "tcp",
            "source": "192.0.2.55:40000",
            "destination": "10.11.0.2:80",
            "container": "web",
            "verdict": "stale",
            "delta": "0x1234",
        },
    ),
    "checksum_counts": (
        U32.pack(99),
        abi.CHECKSUM_COUNTS.pack(1, 2, 3, 4, 5, 6, 7),
        {
            "device": "#99",
            "ifindex": 99,
            "good": 1,
            "stale": 2,
            "repaired": 3,
            "corrupt": 4,
            "partial": 5,
            "verified": 6,
            "unreadable": 7,
        },
    ),
    "filled": (U32.pack(3), U64.pack(8), {"network": "front", "packets": 8}),
    "isolation_drops": (
        abi.NETWORK_PAIR.pack(5, MANUAL_NETWORK | 1),
        U64.pack(4),
        {"from_network": "back", "to_network": "by hand (lo)", "packets": 4},
    ),
    "offenders": (abi.NETWORK_PAIR.pack(3, 6), OFFENDER, {"from_network": "front", "to_network": "#6", **LAST}),
    "guard_drops": (abi.GUARD_DROP_KEY.pack(VETH, 6), U64.pack(2), {**PORT, "reason": "dhcp_server", "packets": 2}),
    "guard_offenders": (abi.GUARD_DROP_KEY.pack(VETH, 99), OFFENDER, {**PORT, "reason": "99", **LAST}),
    "peers": (
        abi.PEER_KEY.pack(77, abi.pack_address(WEB4), (80).to_bytes(2, "big")),
        abi.PEER.pack(abi.pack_address(IPv6Address("::1")), (8080).to_bytes(2, "big")),
        {"socket": 77, "container": "web", "talks_to": "10.11.0.2:80", "believes_to_talk_to": "[::1]:8080"},
    ),
    "events_lost": (U32.pack(0), U64.pack(1), {"events": 1}),
}


def test_every_map_is_decoded() -> None:
    """All of ``bpf/maps.h`` but the ring, which has no entries."""
    assert set(ENTRIES) == set(MAPS) - {"events"}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_in_words(name: str) -> None:
    """Networks, containers and devices by name, enums as words, in the order in which people read them."""
    key, value, expected = ENTRIES[name]
    assert list(decoded(name, key, value, NAMES, NOW).items()) == list(expected.items())


def test_a_port_that_only_ipv6_loopback_leads_to() -> None:
    """Its key has no address that could be told from every address otherwise."""
    key = PublishedKey(IPv4Address(0), 6, 6, 8080).pack()
    assert decoded("published", key, Target(WEB4, 80, localhost=True).pack(), NAMES)["published_on"] == "[::1]:8080"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), ("", "-"), (True, "yes"), (False, "no"), (0, "0"), (Ago(3.4), "3 s ago"), (Ago(90), "2 min ago"),
        (Ago(7300), "2 h ago"), (Ago(200_000), "2 d ago"),
    ],
)  # fmt: skip
def test_fields_as_a_table_shows_them(value: object, text: str) -> None:
    """Nothing is a dash, and a time is how long ago."""
    assert in_words(value) == text


def test_a_list_of_programs_fits_into_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """120 columns, with the longest of everything; of long names the beginning."""
    about = ProgramInfo(1, "0" * 16, "dp_getpeername4", 99_999 * 10**8, 10**8, 10**6, (), 8 * 99_999)
    attached = [
        Attachment(Program.ISOLATION, How.CLSACT, about, IfIndex(8), link_id=9_999_999, digest="new"),
        Attachment(Program.GETPEERNAME4, How.CGROUP, about, cgroup=1, link_id=9_999_999, digest="new"),
    ]
    names = replace(NAMES, devices={8: "d" * 15}, on_device={8: ("n" * 40,)})
    print_table(HEAD, lines(Inventory("new", (), tuple(attached)), names))
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 120
    assert printed[1].split()[:5] == ["isolation", "egress", "d" * 15, "n" * 17 + "~", "clsact"]
    assert printed[2].split()[:5] == ["getpeername4", "cgroup", "/", "host", "cgroup"]


def test_a_routed_device_is_its_networks_and_its_containers() -> None:
    """Whom a program serves there depends on which program it is."""
    about = ProgramInfo(1, "", "", 0, 0, 0, ())
    names = replace(NAMES, on_device={VETH: ("front", "back")})
    assert served(Attachment(Program.CHECKSUM, How.TCX, about, VETH), names) == "front,back"
    assert served(Attachment(Program.GUARD, How.CLSACT, about, VETH), names) == "web"
    assert served(Attachment(Program.GUARD, How.CLSACT, about, IfIndex(99)), names) == ""


def test_what_is_wrong_with_a_program_that_is_attached() -> None:
    """Another version, lost pins, a link that nothing pins, a second copy."""
    about = ProgramInfo(1, "", "dp_isolation", 0, 0, 0, ())
    good = Attachment(Program.ISOLATION, How.TCX, about, BRIDGE, link_pin="/p", digest="new")
    cases: list[tuple[Attachment, list[str]]] = [
        (good, []),
        (replace(good, how=How.CLSACT, link_pin=""), []),
        (replace(good, link_pin=""), ["its link is not pinned"]),
        (replace(good, digest="0123456789"), ["of version 01234567"]),
        (replace(good, digest=""), ["its pins are lost"]),
        (replace(good, how=How.CGROUP, ifindex=IfIndex(0), cgroup=1, link_pin=""), ["its link is not pinned"]),
    ]
    for one, flaws in cases:
        assert Inventory("new", (), (one,)).flaws(one) == flaws
    assert Inventory("new", (), (good, replace(good, link_id=2))).flaws(good) == ["there more than once"]


# -- rates ------------------------------------------------------------------------------------------------------------

BEFORE = Sample(
    time=10.0,
    counters={"isolation_drops": ({"from_network": "front", "to_network": "back", "packets": 10},)},
    runs={Program.CHECKSUM: (100, 5000)},
    events_lost=3,
)


def test_rates_are_what_came_since_by_second() -> None:
    """Counters are matched by what they count; a new one counts from 0."""
    now = replace(
        BEFORE,
        time=12.0,
        counters={
            "isolation_drops": (
                {"from_network": "back", "to_network": "front", "packets": 6},
                {"from_network": "front", "to_network": "back", "packets": 14},
            )
        },
        runs={Program.CHECKSUM: (300, 25000)},
    )
    since = difference(BEFORE, now)
    assert [row["packets"] for row in since.counters["isolation_drops"]] == [6, 4]
    rates = per_second(since)
    assert [row["packets"] for row in rates.counters["isolation_drops"]] == [3, 2]
    assert (rates.runs[Program.CHECKSUM], rates.events_lost) == ((100, 10000), 0)


def test_a_counter_that_began_anew_counts_from_there() -> None:
    """An entry that was evicted, or a program that was loaded again: never a negative number."""
    now = replace(
        BEFORE,
        time=11.0,
        counters={"isolation_drops": ({"from_network": "front", "to_network": "back", "packets": 2},)},
        runs={Program.CHECKSUM: (5, 100)},
        events_lost=1,
    )
    since = difference(BEFORE, now)
    assert [row["packets"] for row in since.counters["isolation_drops"]] == [2]
    assert (since.runs[Program.CHECKSUM], since.events_lost) == ((5, 100), 1)


# -- rewritten bytes --------------------------------------------------------------------------------------------------

TCP = Flow(Protocol.TCP, "192.0.2.55", 40000, "10.11.0.2", 80)
UDP = replace(TCP, protocol=Protocol.UDP)


@pytest.mark.parametrize(("flow", "offset", "vlan"), [(TCP, 0x32, None), (UDP, 0x28, None), (TCP, 0x36, 7)])
def test_a_rewritten_checksum_is_called_one(flow: Flow, offset: int, vlan: int | None) -> None:
    """By offset, bytes, protocol and both numbers, also where only one of its bytes differs."""
    good = frame(flow, b"hello", vlan=vlan)
    stored = good[offset : offset + 2]
    for before in (bytes(byte ^ 0xFF for byte in stored), bytes((stored[0], stored[1] ^ 1))):
        stale = good[:offset] + before + good[offset + 2 :]
        (change,) = changes(stale, good)
        assert stale[change.offset : change.offset + len(change.before)] == change.before
        assert offset <= change.offset < offset + 2
        assert change.field == f"{flow.protocol.upper()} checksum 0x{before.hex()} -> 0x{stored.hex()}"
        assert re.fullmatch(r"0x[0-9a-f]{4}: [0-9a-f]+ -> [0-9a-f]+  .+", str(change))


def test_other_bytes_are_shown_without_a_name() -> None:
    """Each run of bytes that differ on its own, and a frame that grew or shrank."""
    before = frame(TCP, b"hello")
    after = b"\x01" + before[1:20] + b"\xff\xfe" + before[22:] + b"tail"
    found = [(change.offset, len(change.after), change.field) for change in changes(before, after)]
    assert found == [(0, 1, ""), (20, 2, ""), (len(before), 4, "the frame's end")]
    assert changes(before, before) == []
    (payload,) = changes(before, before[:-1] + b"!")
    assert (payload.offset, payload.field) == (len(before) - 1, "")
