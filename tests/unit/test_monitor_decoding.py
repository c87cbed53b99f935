"""Notifications, byte by byte: what the kernel sends is understood, and nothing else breaks the reader."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.events import (
    AddressChanged,
    Event,
    ForwardingChanged,
    HookChanged,
    LinkChanged,
    NotificationsLost,
    PortChanged,
    RulesetChanged,
)
from dataplane.monitors import route
from dataplane.monitors.ruleset import Transactions
from dataplane.netlink import NESTED, attribute, text_attribute
from dataplane.nft.objects import Table
from dataplane.types import IfIndex

LOST = NotificationsLost("route")


def message(kind: int, body: bytes, port: int = 0) -> bytes:
    """A message as the kernel would send it about what somebody's socket asked for, padded."""
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, port) + body + bytes(-len(body) % 4)


def u32(value: int) -> bytes:
    """A number in the host's order."""
    return struct.pack("=I", value)


def link(kind: int, index: int, *attributes: bytes, family: int = 0) -> bytes:
    """RTM_NEWLINK or _DELLINK."""
    return message(kind, struct.pack("=BxHiII", family, 1, index, 0, 0) + b"".join(attributes))


NAMED = (text_attribute(3, "br0"), attribute(18 | NESTED, text_attribute(1, "bridge")), attribute(10, u32(7)))
ROUTE = {
    link(16, 3, *NAMED): LinkChanged(IfIndex(3), "br0", "bridge", IfIndex(7), gone=False),
    link(17, 3, text_attribute(3, "eth0")): LinkChanged(IfIndex(3), "eth0", "", IfIndex(0), gone=True),
    link(16, 3, *NAMED, family=7): PortChanged(IfIndex(3), IfIndex(7), gone=False),
    link(17, 3, *NAMED, family=7): PortChanged(IfIndex(3), IfIndex(7), gone=True),
    message(20, struct.pack("=BBBBI", 2, 24, 0, 0, 5)): AddressChanged(IfIndex(5), gone=False),
    message(21, struct.pack("=BBBBI", 10, 64, 0, 0, 5)): AddressChanged(IfIndex(5), gone=True),
    message(36, struct.pack("=BxxxiIII", 0, 4, 0, 0, 0)): HookChanged(IfIndex(4)),
    message(45, struct.pack("=BxxxiIII", 0, 4, 0, 0, 0), port=4711): HookChanged(IfIndex(4), 4711),
    message(44, struct.pack("=BxxxiIII", 0, -1, 0, 0, 0)): HookChanged(IfIndex(0)),
    message(80, b"\2\0\0\0" + attribute(1, u32(6)) + attribute(2, u32(1))): ForwardingChanged(IfIndex(6)),
    message(80, b"\2\0\0\0" + attribute(1, struct.pack("=i", -1))): ForwardingChanged(IfIndex(0)),
}


@pytest.mark.parametrize(("raw", "event"), ROUTE.items(), ids=lambda case: type(case).__name__)
def test_route_messages(raw: bytes, event: Event) -> None:
    """Each message is one event; a port that leaves its bridge is no link that vanishes."""
    assert list(route.decode(raw)) == [event]


def test_route_messages_in_a_row() -> None:
    """A datagram may carry several, and of kinds that nobody asked for."""
    assert list(route.decode(message(24, bytes(12)).join(ROUTE))) == list(ROUTE.values())


@pytest.mark.parametrize(
    "raw",
    [
        link(16, 3),  # no name
        link(16, 3, text_attribute(3, "x"), attribute(10, b"\0")),
        message(20, b"\2"),
        message(80, b"\2\0\0\0"),
        struct.pack("=IHHII", 0, 24, 0, 0, 0),  # a length that would never end
        struct.pack("=IHHII", 4000, 16, 0, 0, 0),
        b"\0\0",
    ],
)
def test_malformed_route_messages_count_as_lost(raw: bytes) -> None:
    """What cannot be understood is told as lost, after what could be."""
    good, event = next(iter(ROUTE.items()))
    assert list(route.decode(good + raw)) == [event, LOST]


FAMILIES = {"inet": 1, "bridge": 7, "ip": 2}


def changed(kind: int, table: str, *attributes: bytes) -> bytes:
    """A message of nftables about an object of a table."""
    family, _, name = table.partition(" ")
    return message(10 << 8 | kind, bytes([FAMILIES[family], 0, 0, 1]) + text_attribute(1, name) + b"".join(attributes))


def generation(number: int, pid: int, program: str) -> bytes:
    """NFT_MSG_NEWGEN."""
    about = attribute(1, number.to_bytes(4, "big")) + attribute(2, pid.to_bytes(4, "big")) + text_attribute(3, program)
    return message(10 << 8 | 15, bytes([0, 0, 0, 1]) + about)


def told(*datagrams: bytes) -> list[Event]:
    """What comes of these."""
    transactions = Transactions()
    return [event for datagram in datagrams for event in transactions.decode(datagram)]


def ended(tables: Iterable[str], removed: Iterable[str] = (), *, others: bool = False, number: int = 2) -> Event:
    """The event of a transaction by nft."""
    return RulesetChanged(number, 971, "nft", frozenset(tables), frozenset(removed), others)


END = generation(2, 971, "nft")
ELEMENT, DELTABLE, NEWTABLE = 12, 2, 0


@pytest.mark.parametrize("joined", [lambda *parts: parts, lambda *parts: (b"".join(parts),)], ids=["apart", "together"])
def test_transactions_are_put_together(joined: Callable[..., tuple[bytes, ...]]) -> None:
    """Whether in one datagram or in many, a transaction is what came before its generation, and no more than that."""
    removal = (changed(DELTABLE, Table.MAIN), changed(NEWTABLE, Table.MAIN), changed(ELEMENT, Table.ADMIN))
    other = (changed(ELEMENT, "ip dataplane"), changed(ELEMENT, "inet dataplane2"), changed(ELEMENT, "ip x"))
    after = generation(3, 971, "nft")
    assert told(*joined(*removal, END, *other, changed(DELTABLE, Table.BRIDGE), after)) == [
        ended({Table.MAIN, Table.ADMIN}, {Table.MAIN}),
        ended({Table.BRIDGE}, {Table.BRIDGE}, others=True, number=3),
    ]


def test_a_table_is_known_wherever_its_name_stands() -> None:
    """Also behind other attributes, and where our name is only in an element of somebody else's."""
    odd = message(10 << 8 | ELEMENT, bytes([1, 0, 0, 1]) + text_attribute(2, "s") + text_attribute(1, "dataplane"))
    assert told(odd, END) == [ended({Table.MAIN})]
    element = changed(ELEMENT, "inet x", attribute(3, text_attribute(1, "dataplane")))
    assert told(element, END) == [ended((), others=True)]


def test_a_transaction_that_changes_nothing() -> None:
    """A generation alone is told as such."""
    assert told(END) == [ended(())]


def test_malformed_ruleset_messages_count_as_lost() -> None:
    """They are told as lost, and what was read so far of that transaction is blamed on no other."""
    bad = changed(ELEMENT, Table.MAIN) + b"\0\0\0\0"
    assert told(bad, END) == [NotificationsLost("ruleset"), ended(())]
    assert told(message(10 << 8 | 15, b"\0\0\0\0")) == [NotificationsLost("ruleset")]


@st.composite
def damaged(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """Messages with some bytes flipped, cut off at the end, or no messages at all."""
    raw = bytearray(b"".join(draw(st.lists(st.sampled_from(samples), min_size=1, max_size=4))))
    for place, flip in draw(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), max_size=8)):
        raw[place % len(raw)] ^= flip
    return draw(st.sampled_from([bytes(raw), bytes(raw[: draw(st.integers(0, len(raw)))])]) | st.binary(max_size=200))


@given(damaged(list(ROUTE)))
def test_no_bytes_break_the_reader_of_rtnetlink(raw: bytes) -> None:
    """Whatever comes is events, and what is malformed is one NotificationsLost at the end."""
    events = list(route.decode(raw))
    assert LOST not in events[:-1]
    assert len(events) <= len(raw) // 16 + 1


@given(st.lists(damaged([changed(ELEMENT, Table.MAIN), changed(DELTABLE, Table.BRIDGE), END]), max_size=3))
def test_no_bytes_break_the_reader_of_nftables(datagrams: list[bytes]) -> None:
    """Whatever comes is events, and the next transaction that is whole is told."""
    transactions = Transactions()
    for datagram in datagrams:
        assert all(isinstance(event, RulesetChanged | NotificationsLost) for event in transactions.decode(datagram))
    (event,) = transactions.decode(generation(9, 1, "nft"))
    assert isinstance(event, RulesetChanged)
    assert event.generation == 9
