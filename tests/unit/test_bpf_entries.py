"""What ``dpctl bpf attach`` writes for a device, and what ``detach`` takes out again."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from control.cli.bpf.entries import (
    Known,
    RefusedError,
    Wish,
    after_detaching,
    entries_to_put,
    network_entry,
    port_entry,
)
from control.desired.hooks import is_manual, is_of_manual
from dataplane import abi
from dataplane.abi import MANUAL_NETWORK, U32, NetworkEntry, Port
from dataplane.types import ChecksumMode, GuardLevel, IfIndex, IsolationPolicy, Program

DEVICE = IfIndex(7)
KEY = U32.pack(DEVICE)
NEW = Known(DEVICE)
BY_HAND = NetworkEntry(MANUAL_NETWORK | 7, IsolationPolicy.OPEN, ChecksumMode.REPAIR)
ASKED_FOR = NetworkEntry(5, IsolationPolicy.ISOLATED, ChecksumMode.OBSERVE, masquerades=True)
BOTH = (Program.ISOLATION, Program.CHECKSUM)


def test_a_new_device_is_isolated_only_if_isolation_is_attached() -> None:
    """checksum alone makes an open network: on an uplink anything else would cut containers off."""
    assert network_entry(Wish(BOTH), NEW) == NetworkEntry(
        MANUAL_NETWORK | 7, IsolationPolicy.SAME_BRIDGE, ChecksumMode.REPAIR
    )
    assert network_entry(Wish((Program.CHECKSUM,)), NEW) == BY_HAND
    assert network_entry(Wish((Program.GUARD,)), NEW) is None


def test_isolation_that_joins_isolates() -> None:
    """A network that was open for want of isolation; one that somebody opened while isolation was there stays so."""
    joined = network_entry(Wish((Program.ISOLATION,)), Known(DEVICE, BY_HAND, hooked=frozenset({Program.CHECKSUM})))
    assert joined is not None
    assert joined.policy is IsolationPolicy.SAME_BRIDGE
    assert network_entry(Wish(BOTH), Known(DEVICE, BY_HAND, hooked=frozenset(BOTH))) == BY_HAND


def test_the_network_of_an_attachment_is_left_as_it_is() -> None:
    """All of it, and nothing is written."""
    known = Known(DEVICE, ASKED_FOR)
    assert network_entry(Wish(BOTH), known) == ASKED_FOR
    assert entries_to_put(Wish(BOTH), known, ASKED_FOR, None) == {}


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        (Wish((Program.FILL,), policy=IsolationPolicy.OPEN), "isolation and checksum"),
        (Wish((Program.GUARD,)), "guard has to know what may be sent"),
        (Wish((Program.FILL,), mac="02:00:00:00:00:01"), "--mac and --address are for the program guard"),
        (Wish((Program.GUARD,), mac="02:00:00:00:00:01", udp_ports=(68,)), "--udp-port is for the program fill"),
    ],
)
def test_what_makes_no_sense_is_refused(wish: Wish, says: str) -> None:
    """With what is missing or too much."""
    with pytest.raises(RefusedError, match=says):
        (network_entry(wish, NEW), port_entry(wish, NEW))


def test_guard_and_fill_by_hand() -> None:
    """The port, its addresses and its UDP ports, those of DHCP clients unless others are named."""
    wish = Wish((Program.GUARD, Program.FILL), mac="02:00:00:00:00:01", addresses=(IPv4Address("10.11.0.2"),))
    port = port_entry(wish, NEW)
    assert port == Port(MANUAL_NETWORK | 7, GuardLevel.FULL, "02:00:00:00:00:01")
    assert set(entries_to_put(wish, NEW, None, port)) == {
        ("ports", KEY),
        ("port_addresses", abi.port_address_key(DEVICE, IPv4Address("10.11.0.2"))),
        ("fill_ports", abi.fill_key(MANUAL_NETWORK | 7, 68)),
        ("fill_ports", abi.fill_key(MANUAL_NETWORK | 7, 546)),
    }
    only_mac = port_entry(Wish((Program.GUARD,), mac="02:00:00:00:00:01"), NEW)
    assert only_mac is not None
    assert only_mac.guard is GuardLevel.MAC


def test_a_repair_knows_what_was_made_by_hand() -> None:
    """Every entry that attach writes for a device of nobody, and none that an attachment asked for."""
    wish = Wish(tuple(Program)[:4], addresses=(IPv4Address("10.11.0.2"),))
    made = entries_to_put(wish, NEW, network_entry(wish, NEW), port_entry(wish, NEW))
    assert {name for name, _ in made} == {"networks", "ports", "port_addresses", "fill_ports"}
    for (name, key), value in made.items():
        assert is_manual(name, value) or is_of_manual(name, key, {KEY}), name
    asked = {
        ("networks", KEY): ASKED_FOR.pack(),
        ("ports", KEY): Port(5, GuardLevel.FULL).pack(),
        ("port_addresses", abi.port_address_key(DEVICE, IPv4Address("10.11.0.2"))): U32.pack(1),
        ("fill_ports", abi.fill_key(5, 68)): U32.pack(1),
        ("origins", bytes(20)): bytes(20),
    }
    for (name, key), value in asked.items():
        assert not is_manual(name, value), name
        assert not is_of_manual(name, key, {U32.pack(8)}), name


def test_the_port_of_a_container_is_left_as_it_is() -> None:
    """Also where guard or fill is attached to it by hand."""
    port = Port(5, GuardLevel.OFF)
    known = Known(DEVICE, port=port)
    wish = Wish((Program.FILL,))
    assert port_entry(wish, known) == port
    assert entries_to_put(wish, known, None, port) == {}


def test_entries_go_with_the_last_program_that_reads_them() -> None:
    """Those of other devices and networks stay, and so does whatever an attachment asked for."""
    port = Port(MANUAL_NETWORK | 7, GuardLevel.FULL)
    mine = [
        ("port_addresses", abi.port_address_key(DEVICE, IPv4Address("10.11.0.2"))),
        ("fill_ports", abi.fill_key(MANUAL_NETWORK | 7, 68)),
    ]
    others = [
        ("port_addresses", abi.port_address_key(IfIndex(8), IPv4Address("10.11.0.2"))),
        ("fill_ports", abi.fill_key(5, 68)),
    ]
    known = Known(DEVICE, BY_HAND, port)
    dropped, rewritten = after_detaching(known, (), [*mine, *others])
    assert dropped == {("networks", KEY), ("checksum_counts", KEY), ("ports", KEY), *mine}
    assert rewritten is None
    assert after_detaching(known, (Program.FILL, Program.CHECKSUM), mine) == (set(), None)
    assert after_detaching(Known(DEVICE, ASKED_FOR, Port(5, GuardLevel.FULL)), (), mine) == (set(), None)


def test_a_network_by_hand_is_open_once_isolation_is_gone() -> None:
    """What comes in by the device would be dropped on its way to other networks else."""
    isolated = NetworkEntry(MANUAL_NETWORK | 7, IsolationPolicy.ISOLATED, ChecksumMode.OBSERVE)
    dropped, rewritten = after_detaching(Known(DEVICE, isolated), (Program.CHECKSUM,), ())
    assert dropped == set()
    assert rewritten == NetworkEntry(isolated.id, IsolationPolicy.OPEN, ChecksumMode.OBSERVE).pack()
