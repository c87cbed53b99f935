"""The layers that a packet goes through, one more at each rung, and what proves that it went there. Pure.

    for rung in RUNGS: ...                          # loopback, veth, bridge ... published by dataplane
    doubts(rung, trips, passed)                     # nothing where packets went as far as the rung's name says

Each rung has one layer more than the one before. From ``ROUTED`` on they differ in their rules alone: all have a client
on another machine, a host that forwards, a bridge and a container.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from bench.figures.plots import Role
from bench.peers.rulesets import MAP_TABLE, MAP_TABLE6, PORTMAP_TABLE
from dataplane.types import Program, Protocol


class Way(Enum):
    """What is between client and server."""

    LOOPBACK = "lo of one namespace"
    VETH = "a veth pair between two namespaces"
    BRIDGED = "a bridge, both plugged in"
    ROUTED = "a host that forwards, and a bridge behind it"


class Rules(StrEnum):
    """What the host does with packets besides, and who had it do so."""

    NONE = "no rules"
    TRACKED = "a rule that asks conntrack"
    MAP = "nft map"
    PORTMAP_NFT = "portmap, nftables"
    PORTMAP = "portmap, iptables"
    CHAIN = "portmap and firewall, iptables"
    TABLES = "dataplane, nft only"
    DATAPLANE = "dataplane"

    @property
    def publish(self) -> bool:
        """Whether clients talk to a port of the host."""
        return self not in {Rules.NONE, Rules.TRACKED}

    @property
    def ours(self) -> bool:
        """Whether an ADD of ours made them."""
        return self in {Rules.TABLES, Rules.DATAPLANE}


TABLES: Mapping[Rules, frozenset[str]] = {
    Rules.NONE: frozenset(),
    Rules.TRACKED: frozenset({"inet tracked"}),
    Rules.MAP: frozenset({MAP_TABLE, MAP_TABLE6}),
    Rules.PORTMAP_NFT: frozenset({PORTMAP_TABLE}),
    Rules.PORTMAP: frozenset({"ip nat"}),
    Rules.CHAIN: frozenset({"ip nat", "ip filter"}),
    Rules.TABLES: frozenset({"inet dataplane"}),
    Rules.DATAPLANE: frozenset({"inet dataplane"}),
}
"""All nftables tables that there are on a host with these rules."""
PROGRAMS = (Program.ISOLATION, Program.CHECKSUM, Program.GUARD)
"""What an ADD with the defaults attaches, and what each round trip runs."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A way with its rules."""

    name: str
    role: Role
    way: Way = Way.ROUTED
    rules: Rules = Rules.NONE
    filtered: bool = False
    """Of a bridge: it shows the hooks of IP what it forwards (br_netfilter)."""

    @property
    def hooked(self) -> bool:
        """Whether packets pass the forward hook of IP."""
        return self.way is Way.ROUTED or self.filtered

    @property
    def tracked(self) -> bool:
        """Whether conntrack sees each packet."""
        return self.rules is not Rules.NONE


def _published(rules: Rules, role: Role) -> Rung:
    return Rung(f"published: {rules}", role, rules=rules)


LOOPBACK = Rung("loopback", Role.FLOOR, Way.LOOPBACK)
VETH = Rung("raw veth", Role.FLOOR, Way.VETH)
BRIDGE = Rung("bridge", Role.FLOOR, Way.BRIDGED)
BRIDGE_FILTERED = Rung("bridge, br_netfilter", Role.FLOOR, Way.BRIDGED, filtered=True)
BRIDGE_TRACKED = Rung("bridge, br_netfilter, conntrack", Role.FLOOR, Way.BRIDGED, Rules.TRACKED, filtered=True)
ROUTED = Rung("routed", Role.FLOOR)
ROUTED_TRACKED = Rung("routed, conntrack", Role.FLOOR, rules=Rules.TRACKED)
MAP = _published(Rules.MAP, Role.PURE)
PORTMAP_NFT = _published(Rules.PORTMAP_NFT, Role.TODAY_TOO)
PORTMAP = _published(Rules.PORTMAP, Role.TODAY_TOO)
CHAIN = _published(Rules.CHAIN, Role.TODAY)
TABLES_ALONE = _published(Rules.TABLES, Role.OURS_TOO)
OURS = _published(Rules.DATAPLANE, Role.OURS)
AGAIN = f"{OURS.name}, again"
"""The control: the host of ``OURS``, once more in each block."""
TWIN = Rung(f"{OURS.name}, another host", Role.OURS, rules=Rules.DATAPLANE)
"""The other control: a host like that of ``OURS``. What memory they happen to have is all that differs."""
TWINS = 0.05
"""How far hosts that are alike may be from each other. Some percent are no fault of the machine: ratios of two hosts
are read with as much (``bench.figures.words``)."""

PUBLISHED = (MAP, PORTMAP_NFT, PORTMAP, CHAIN, TABLES_ALONE, OURS)
RUNGS = (LOOPBACK, VETH, BRIDGE, BRIDGE_FILTERED, BRIDGE_TRACKED, ROUTED, ROUTED_TRACKED, *PUBLISHED)


@dataclass(frozen=True, slots=True)
class Passed:
    """Where packets were seen while some round trips were made."""

    delivered: int = 0
    """Packets that the server's device received."""
    bridged: int = 0
    """Frames that the bridge forwarded."""
    forwarded: int = 0
    """Packets at the forward hook; ``tracked`` of an established connection, ``translated`` of one with another
    destination."""
    tracked: int = 0
    translated: int = 0
    connections: int = 0
    """What conntrack knows of."""
    tables: frozenset[str] = frozenset()
    runs: Mapping[Program, int] = field(default_factory=dict)
    """Our programs on the host's devices, and how often each ran."""
    led: int = 0
    """How often those of the cgroups ran, all together."""

    def since(self, before: Passed) -> Passed:
        """What came after another; what is there is as it is now."""
        return Passed(
            self.delivered - before.delivered,
            self.bridged - before.bridged,
            self.forwarded - before.forwarded,
            self.tracked - before.tracked,
            self.translated - before.translated,
            self.connections,
            self.tables,
            {program: count - before.runs.get(program, 0) for program, count in self.runs.items()},
            self.led - before.led,
        )


def doubts(rung: Rung, trips: int, passed: Passed, protocol: Protocol = Protocol.UDP) -> Iterator[str]:
    """Why packets of so many round trips did not go where the rung's name says. Each trip is a packet either way.

    A server of UDP asks who sent, and names whom it answers: the two calls that programs of the cgroups are about.
    """
    both = 2 * trips
    if not trips:
        yield "there was no round trip"
    if passed.delivered < trips:
        yield f"the server's device received {passed.delivered:,} packets in {trips:,} round trips"
    if passed.tables != TABLES[rung.rules]:
        yield f"there are the tables {', '.join(sorted(passed.tables)) or 'none'}"
    if rung.way is Way.BRIDGED and passed.bridged < both:
        yield f"the bridge forwarded {passed.bridged:,} frames in {trips:,} round trips"
    seen = (
        ("seen when forwarded", passed.forwarded, rung.hooked),
        ("tracked as established", passed.tracked, rung.tracked),
        ("translated", passed.translated, rung.rules.publish),
    )
    for what, count, wanted in seen:
        if wanted and count < both:
            yield f"{count:,} packets were {what} in {trips:,} round trips"
        if not wanted and count:
            yield f"{count:,} packets were {what}, and none should have been"
    if not rung.tracked and passed.connections:
        yield f"conntrack knows {passed.connections:,} connections, and should not be active"
    yield from _doubts_of_programs(rung.rules is Rules.DATAPLANE, trips, passed, protocol)


def _doubts_of_programs(attached: bool, trips: int, passed: Passed, protocol: Protocol) -> Iterator[str]:
    if passed.runs.keys() != frozenset(PROGRAMS if attached else ()):
        yield f"attached are {', '.join(sorted(passed.runs)) or 'no programs'}"
    for program, runs in passed.runs.items():
        if runs < trips:
            yield f"{program} ran {runs:,} times in {trips:,} round trips"
    led = 2 * trips if attached and protocol is Protocol.UDP else 0
    if passed.led < led or (passed.led and not attached):
        yield f"programs of the cgroups ran {passed.led:,} times in {trips:,} round trips"
