"""Ranges: which addresses a network offers, and in which order they are handed out."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.ipam.ranges import Range, RangeSet, assign, refuse_overlaps
from control.model import InvalidValueError
from dataplane.types import Address


def one(subnet: str, start: str = "", end: str = "", gateway: str = "") -> Range:
    start_, end_, gateway_ = (ip_address(text) if text else None for text in (start, end, gateway))
    return Range.of(ip_network(subnet), start_, end_, gateway_)


def pool(*subnets: str) -> RangeSet:
    return RangeSet(tuple(one(subnet) for subnet in subnets))


def order(ranges: RangeSet, after: str = "") -> list[str]:
    return [str(address) for _, address in ranges.candidates(ip_address(after) if after else None)]


@pytest.mark.parametrize(
    ("subnet", "start", "end", "gateway", "size"),
    [
        ("10.11.0.0/24", "10.11.0.1", "10.11.0.254", "10.11.0.1", 253),
        ("10.11.0.0/30", "10.11.0.1", "10.11.0.2", "10.11.0.1", 1),
        ("fd00:11::/64", "fd00:11::1", "fd00:11::ffff:ffff:ffff:ffff", "fd00:11::1", 2**64 - 2),
        ("fd00:11::/126", "fd00:11::1", "fd00:11::3", "fd00:11::1", 2),
    ],
)
def test_a_subnet_alone_gives_the_rest(subnet: str, start: str, end: str, gateway: str, size: int) -> None:
    """Gateway and start are the first address; the end is the last, and for IPv4 the one before the broadcast."""
    assert one(subnet) == one(subnet, start, end, gateway)
    assert one(subnet).size == size


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("10.11.0.0/31",), "subnet"),
        (("fd00:11::/127",), "subnet"),
        (("10.11.0.0/24", "10.12.0.5"), "rangeStart"),
        (("10.11.0.0/24", "fd00::5"), "rangeStart"),
        (("10.11.0.0/24", "", "10.10.255.255"), "rangeEnd"),
        (("10.11.0.0/24", "10.11.0.9", "10.11.0.8"), "rangeEnd"),
        (("10.11.0.0/24", "10.11.0.255"), "rangeEnd"),
        (("10.11.0.0/24", "", "", "fd00::1"), "gateway"),
    ],
)
def test_a_range_that_cannot_be_is_refused(arguments: tuple[str, ...], field: str) -> None:
    """A range that is too small, outside its subnet or backwards names the field that is wrong."""
    with pytest.raises(InvalidValueError) as refused:
        one(*arguments)
    assert refused.value.field == field


def test_a_gateway_may_be_elsewhere() -> None:
    """A gateway outside the subnet, such as a link-local one, takes no address of the range away."""
    assert one("fd00:11::/120", gateway="fe80::1").size == 255


@pytest.mark.parametrize("subnets", [(), ("10.11.0.0/24", "fd00::/64"), ("10.11.0.0/24", "10.11.0.128/25")])
def test_a_set_is_of_one_family_and_without_overlaps(subnets: tuple[str, ...]) -> None:
    """A range set that is empty, of two families, or that offers an address twice is refused."""
    with pytest.raises(InvalidValueError):
        pool(*subnets)


def test_sets_may_not_overlap() -> None:
    """Two sets that offer the same address are refused, by their numbers; two parts of one subnet are fine."""
    low, high = (
        RangeSet((one("10.11.0.0/24", "10.11.0.2", "10.11.0.9"),)),
        RangeSet((one("10.11.0.0/24", "10.11.0.10", "10.11.0.19"),)),
    )
    refuse_overlaps([low, high, pool("fd00::/64")])
    with pytest.raises(InvalidValueError, match=r"range set 0 .* overlaps with 2"):
        refuse_overlaps([pool("10.11.0.0/24"), pool("10.12.0.0/24"), high])


def test_addresses_go_round_in_a_circle() -> None:
    """After the last one handed out comes the next, over all ranges of the set, and it comes last itself."""
    ranges = RangeSet((one("10.11.0.0/29"), one("10.12.0.0/29", "10.12.0.4", "10.12.0.5")))
    whole = ["10.11.0.2", "10.11.0.3", "10.11.0.4", "10.11.0.5", "10.11.0.6", "10.12.0.4", "10.12.0.5"]
    assert order(ranges) == whole
    assert order(ranges, after="10.11.0.4") == [*whole[3:], *whole[:3]]
    assert order(ranges, after="10.12.0.5") == whole
    assert order(ranges, after="192.0.2.1") == whole


@given(st.data())
def test_every_address_comes_exactly_once(data: st.DataObject) -> None:
    """Wherever the circle starts, it holds each address once, and no gateway."""
    bounds = sorted(data.draw(st.lists(st.integers(0, 255), min_size=4, max_size=4, unique=True)))
    low, high = (
        one("10.11.0.0/24", f"10.11.0.{bounds[0]}", f"10.11.0.{bounds[1]}"),
        one("10.11.0.0/24", f"10.11.0.{bounds[2]}", f"10.11.0.{bounds[3]}", f"10.11.0.{bounds[3]}"),
    )
    after: Address = ip_address(f"10.11.0.{data.draw(st.integers(0, 255))}")
    ranges = RangeSet(tuple(data.draw(st.permutations([low, high]))))
    found = [address for _, address in ranges.candidates(after)]
    assert len(found) == len(set(found)) == ranges.size
    assert all(address != found_in.gateway and address in found_in for found_in, address in ranges.candidates(after))


def test_what_is_taken_is_passed_over() -> None:
    """The first free address is the answer, with the prefix and the gateway of its own range; None where none is."""
    ranges = RangeSet((one("10.11.0.0/30"), one("10.12.0.0/29", "10.12.0.4", "10.12.0.5", "10.12.0.6")))
    lease = ranges.next_free(None, {"10.11.0.2", "10.12.0.4"})
    assert lease is not None
    assert (str(lease.address), str(lease.gateway)) == ("10.12.0.5/29", "10.12.0.6")
    assert ranges.next_free(None, {"10.11.0.2", "10.12.0.4", "10.12.0.5"}) is None


def test_a_requested_address_finds_its_set() -> None:
    """Requests are given to the sets that they lie in, in any order; the same one twice is one."""
    sets = [pool("10.11.0.0/24"), pool("fd00:11::/64")]
    six, four = ip_address("fd00:11::9"), ip_address("10.11.0.9")
    assert assign(sets, [six, four, six]) == {0: four, 1: six}
    assert assign(sets, [four]) == {0: four}


@pytest.mark.parametrize("requested", [["192.0.2.1"], ["10.11.0.1"], ["10.11.0.8", "10.11.0.9"]])
def test_a_request_that_no_set_can_serve_is_refused(requested: list[str]) -> None:
    """An address outside, a gateway, and a second address of one set are refused by name."""
    with pytest.raises(InvalidValueError, match=requested[-1]):
        assign([pool("10.11.0.0/24")], [ip_address(text) for text in requested])
