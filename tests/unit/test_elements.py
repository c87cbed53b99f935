"""Elements in bytes: what packs unpacks, and what the kernel might hold instead is refused or read as it is."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.netlink import NESTED, attribute
from dataplane.nft.elements import Held, each_held, each_pair, pack, unpack
from dataplane.nft.objects import Atom, Comment, Element, LinkIndex, Port, PortRange, Set
from dataplane.types import IfIndex, Protocol

PORTS = st.integers(0, 0xFFFF).map(Port)
RANGES = st.tuples(PORTS, PORTS).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: PortRange(*pair))
WORDS: dict[str, st.SearchStrategy[Atom]] = {
    "ipv4_addr": st.integers(0, 2**32 - 1).map(IPv4Address),
    "ipv6_addr": st.integers(0, 2**128 - 1).map(IPv6Address),
    "inet_proto": st.sampled_from(Protocol),
    "inet_service": PORTS,
    "iface_index": st.integers(1, 2**31 - 1).map(lambda number: LinkIndex(IfIndex(number))),
}
PUBLISH = Set("publish4", ("inet_proto", "inet_service"), ("ipv4_addr", "inet_service"))
RANGES4 = Set("ranges4", ("inet_proto", "inet_service"), ("ipv4_addr",), interval=True)
WEB = Element(PUBLISH.name, (Protocol.TCP, Port(8080)), (IPv4Address("10.11.0.2"), Port(80)), Comment("front/web/eth0"))


@st.composite
def elements(draw: st.DrawFn) -> tuple[Set, Element]:
    """A set or map, and an element of it; the last part of an interval's key may be a range of ports."""
    words = st.lists(st.sampled_from(sorted(WORDS)), min_size=1, max_size=4)
    key, value = draw(words), draw(st.just([]) | words)
    interval = key[-1] == "inet_service" and len(key) > 1 and draw(st.booleans())
    declared = Set("some", tuple(key), tuple(value), interval)
    atoms = [draw(WORDS[word]) for word in key]
    if interval and draw(st.booleans()):
        atoms[-1] = draw(RANGES)
    comment = draw(st.none() | st.sampled_from(["front/web/eth0", "a"]).map(Comment))
    return declared, Element("some", tuple(atoms), tuple(draw(WORDS[word]) for word in value), comment)


def listed(element: Element, userdata: bytes = b"") -> bytes:
    """The element as the kernel lists it."""
    packed = pack(element)
    half = len(packed.key) // 2
    ranged = any(isinstance(atom, PortRange) for atom in element.key)
    parts = [(1, packed.key[:half] if ranged else packed.key), (10, packed.key[half:] if ranged else b"")]
    raw = b"".join(
        attribute(kind | NESTED, attribute(1, value)) for kind, value in (*parts, (2, packed.value)) if value
    )
    return attribute(1 | NESTED, raw + (attribute(6, userdata) if userdata else b""))


@given(elements())
def test_what_packs_unpacks(case: tuple[Set, Element]) -> None:
    """Whatever the types, an element comes back from its bytes, with its comment."""
    declared, element = case
    comment = element.comment.text if element.comment else ""
    userdata = bytes([0, len(comment) + 1]) + comment.encode() + b"\0" if comment else b""
    (held,) = each_held(listed(element, userdata))
    assert held.packed == pack(element)
    back = unpack(declared, held)
    assert (back, back.comment) == (element, element.comment)


def test_bytes_of_an_element() -> None:
    """Parts are in network order and padded to 32 bits; a range is its first key and its last."""
    assert pack(WEB) == (bytes.fromhex("06000000 1f900000"), bytes.fromhex("0a0b0002 00500000"))
    ranged = Element("ranges4", (Protocol.UDP, PortRange(Port(0x1000), Port(0x2000))), (IPv4Address("10.11.0.2"),))
    assert pack(ranged).key == bytes.fromhex("11000000 10000000 11000000 20000000")


def test_a_range_of_one_is_a_port() -> None:
    """nft holds them alike, and so are they here, also where the kernel tells both ends."""
    one = Element("ranges4", (Protocol.UDP, PortRange(Port(53), Port(53))), (IPv4Address("10.11.0.2"),))
    port = Element("ranges4", (Protocol.UDP, Port(53)), one.value)
    assert pack(one) == pack(port)
    raw = b"".join(attribute(kind, attribute(1, pack(port).key)) for kind in (1, 10))
    (held,) = each_held(attribute(1, raw))
    assert held.key == pack(port).key
    assert unpack(RANGES4, held._replace(value=pack(port).value)) == port


@pytest.mark.parametrize(
    ("declared", "key", "value"),
    [
        (PUBLISH, "01000000 1f900000", "0a0b0002 00500000"),  # ICMP
        (PUBLISH, "06000000", "0a0b0002 00500000"),
        (PUBLISH, "06000000 1f900000", "0a0b0002"),
        (PUBLISH, "", ""),
        (RANGES4, "06000000 10000000 11000000 20000000", "0a0b0002"),  # from TCP to UDP
        (Set("schema_0", ("mark",)), "00000000", ""),
    ],
)
def test_what_is_none_of_ours_is_refused(declared: Set, key: str, value: str) -> None:
    """An element that nobody here could have written is a ValueError that names its set."""
    with pytest.raises(ValueError, match=declared.name):
        unpack(declared, Held(bytes.fromhex(key), bytes.fromhex(value), ""))


@pytest.mark.parametrize(
    ("userdata", "comment"),
    [
        (b"\x00\x04web\x00", "web"),
        (b"\x01\x04\x00\x00\x00\x01\x00\x04web\x00", "web"),  # other records of libnftnl come first
        (b"\x00\xffweb", "web"),
        (b"\x00", ""),
        (b"\x00\x02\xff\x00", "\ufffd"),
    ],
)
def test_comments_as_userspace_left_them(userdata: bytes, comment: str) -> None:
    """A comment is found among other records, and what is cut short or no text does no harm."""
    (held,) = each_held(listed(WEB, userdata))
    assert held.comment == comment


def test_a_comment_that_cannot_be_ours_is_left_out() -> None:
    """An element is an element, whatever somebody wrote beside it."""
    assert unpack(PUBLISH, Held(*pack(WEB), 'a"; flush ruleset')).comment is None


@given(st.lists(elements(), max_size=8), st.lists(st.binary(max_size=6), min_size=1, max_size=3))
def test_pairs_are_the_keys_and_values_of_all(cases: list[tuple[Set, Element]], userdata: list[bytes]) -> None:
    """Whatever follows on whatever, without comments it is read as with them."""
    raw = b"".join(
        listed(element, userdata[place % len(userdata)]) for place, (_, element) in enumerate(cases + cases[::-1])
    )
    assert list(each_pair(raw)) == [one.packed for one in each_held(raw)]


@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(1, 255))
def test_no_bytes_break_the_reader(raw: bytes, place: int, flip: int) -> None:
    """Whatever comes ends, and gives no more than there is."""
    good = bytearray(listed(WEB, b"\x00\x04web\x00") * 3)
    good[place % len(good)] ^= flip
    for damaged in (raw, bytes(good), bytes(good[: place % len(good)])):
        assert all(len(held.key) + len(held.value) <= 2 * len(damaged) for held in each_held(damaged))
        assert all(len(key) + len(value) <= 2 * len(damaged) for key, value in each_pair(damaged))
