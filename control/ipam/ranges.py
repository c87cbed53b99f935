"""The addresses that a network offers, as values that cannot be wrong, and the order in which they are handed out.

    front = RangeSet((Range.of(ip_network("10.11.0.0/24")), Range.of(ip_network("10.12.0.0/24"))))
    front.next_free(after=ip_address("10.11.0.7"), taken={"10.11.0.8"})     # Lease(10.11.0.9/24, gateway 10.11.0.1)

An attachment gets one address of each set. A set is a circle: the address after the last one handed out comes next, so
that an address that was just released is the last to be used again. Gateways are never handed out.

Be aware: defaults and limits are host-local's. A range starts at the first address of its subnet and ends at the last,
for IPv4 before the broadcast address; a subnet of fewer than four addresses offers none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from control.model import InvalidValueError
from dataplane.types import Address, Interface, Network


@dataclass(frozen=True, slots=True)
class Lease:
    """An address that a container holds."""

    address: Interface
    gateway: Address | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses ``start`` to ``end``, both included, of a subnet. Raises ``InvalidValueError`` that names a field."""

    subnet: Network
    start: Address
    end: Address
    gateway: Address

    @classmethod
    def of(
        cls, subnet: Network, start: Address | None = None, end: Address | None = None, gateway: Address | None = None
    ) -> Range:
        """A range with the defaults of its subnet."""
        if subnet.prefixlen > subnet.max_prefixlen - 2:
            raise InvalidValueError("subnet", f"{subnet} is too small to lease addresses from")
        # The broadcast address of IPv4 is no container's.
        last = subnet.broadcast_address - (1 if subnet.version == 4 else 0)
        first = subnet.network_address + 1
        return cls(subnet, start or first, end or last, gateway or first)

    def __post_init__(self) -> None:
        for name, address in (("rangeStart", self.start), ("rangeEnd", self.end)):
            if address not in self.subnet:
                raise InvalidValueError(name, f"{address} is not in the subnet {self.subnet}")
        if int(self.start) > int(self.end):
            raise InvalidValueError("rangeEnd", f"{self.end} is before the start of the range, {self.start}")
        if self.gateway.version != self.subnet.version:
            raise InvalidValueError("gateway", f"{self.gateway} is not of the address family of {self.subnet}")

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"

    def __contains__(self, address: Address) -> bool:
        return address.version == self.subnet.version and int(self.start) <= int(address) <= int(self.end)

    @property
    def size(self) -> int:
        """How many addresses can be leased."""
        return int(self.end) - int(self.start) + 1 - (self.gateway in self)

    def overlaps(self, other: Range) -> bool:
        """Whether some address is in both."""
        return self.start in other or other.start in self

    def lease(self, address: Address) -> Lease:
        """An address of this range as a container gets it."""
        interface = IPv4Interface if self.subnet.version == 4 else IPv6Interface
        return Lease(interface((int(address), self.subnet.prefixlen)), self.gateway)


@dataclass(frozen=True, slots=True)
class RangeSet:
    """Ranges of one address family that serve as one pool. Raises ``InvalidValueError``; field is the range's index."""

    ranges: tuple[Range, ...]

    def __post_init__(self) -> None:
        if not self.ranges:
            raise InvalidValueError("", "holds no range")
        for index, one in enumerate(self.ranges):
            if one.subnet.version != self.version:
                raise InvalidValueError(f"[{index}]", f"{one.subnet} is not of the address family of the ranges before")
            for other in self.ranges[:index]:
                if one.overlaps(other):
                    raise InvalidValueError(f"[{index}]", f"{one} overlaps with {other} of the same set")

    def __str__(self) -> str:
        return ", ".join(map(str, self.ranges))

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.ranges[0].subnet.version

    @property
    def size(self) -> int:
        """How many addresses can be leased."""
        return sum(one.size for one in self.ranges)

    def range_of(self, address: Address) -> Range | None:
        """The range that an address lies in."""
        return next((one for one in self.ranges if address in one), None)

    def overlaps(self, other: RangeSet) -> bool:
        """Whether some address is in both."""
        return any(mine.overlaps(theirs) for mine in self.ranges for theirs in other.ranges)

    def candidates(self, after: Address | None) -> Iterator[tuple[Range, Address]]:
        """Every address that can be leased, once, from the one that follows ``after``.

        Where that one lies in no range, which a change of the configuration brings about, from the first.
        """
        current = self.range_of(after) if after is not None else None
        if current is None or after is None:
            for one in self.ranges:
                yield from _addresses(one, int(one.start), int(one.end))
            return
        index = self.ranges.index(current)
        yield from _addresses(current, int(after) + 1, int(current.end))
        for one in (*self.ranges[index + 1 :], *self.ranges[:index]):
            yield from _addresses(one, int(one.start), int(one.end))
        yield from _addresses(current, int(current.start), int(after))

    def next_free(self, after: Address | None, taken: Collection[str]) -> Lease | None:
        """The first candidate whose text is not in ``taken``; None where all are."""
        for one, address in self.candidates(after):
            if str(address) not in taken:
                return one.lease(address)
        return None


def refuse_overlaps(sets: Sequence[RangeSet]) -> None:
    """Raise ``InvalidValueError`` where two sets offer the same address."""
    for index, one in enumerate(sets):
        for before, other in enumerate(sets[:index]):
            if one.overlaps(other):
                raise InvalidValueError("ranges", f"range set {before} ({other}) overlaps with {index} ({one})")


def assign(sets: Sequence[RangeSet], requested: Sequence[Address]) -> dict[int, Address]:
    """Which requested address is for which set, by the set's index; of what is requested twice, once.

    Raises ``InvalidValueError`` where one is in no set, is a gateway, or is the second of a set.
    """
    assigned: dict[int, Address] = {}
    for address in dict.fromkeys(requested):
        index, one = next(
            ((index, found) for index, pool in enumerate(sets) if (found := pool.range_of(address))), (-1, None)
        )
        if one is None:
            offered = "; ".join(map(str, sets))
            raise InvalidValueError("", f"{address} is requested, and the ranges offer {offered}")
        if address == one.gateway:
            raise InvalidValueError("", f"{address} is requested, and it is the gateway of {one.subnet}")
        if index in assigned:
            both = f"{assigned[index]} and {address}"
            raise InvalidValueError("", f"{both} are requested, and an attachment gets one address of {sets[index]}")
        assigned[index] = address
    return assigned


def _addresses(one: Range, first: int, last: int) -> Iterator[tuple[Range, Address]]:
    kind, gateway = type(one.start), int(one.gateway)
    return ((one, kind(number)) for number in range(first, last + 1) if number != gateway)
