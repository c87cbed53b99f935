"""By whom many ports are published, which of them are measured, and what proves that packets went that way. Pure.

publishers(10_000)                                      # containers: three that are measured, among others
doubts(Way.RULES, ports=10_000, made=240, seen=seen)    # nothing, where each flow was decided as the name says
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from bench.cni import Container, port
from bench.figures.plots import Role
from bench.hosts.wiring import CONTAINER
from bench.instruments.newflows import Target
from bench.peers.rulesets import PORTS_EACH, around, crowd
from dataplane.types import Program, Protocol

ADDRESS = f"{CONTAINER}/16"
"""Of the container that answers; nobody has the others' addresses."""
PROTOCOLS = (Protocol.UDP, Protocol.TCP)

_FIRST_HOST, _FIRST_INNER = 1001, 9001


class Way(StrEnum):
    """Who published the ports."""

    OURS = "dataplane"
    AGAIN = "dataplane again"
    """A second host, made in the same way: the control."""
    NFT_ONLY = "dataplane, nft only"
    """No isolation, no checksum, no guard: what of ours is comparable with tables alone."""
    MAP = "nft map"
    RULES = "portmap, nftables"
    IPTABLES_NFT = "portmap, iptables-nft"
    IPTABLES_LEGACY = "portmap, iptables-legacy"
    VETH = "raw veth"
    """No host between: client and container at the two ends of a veth."""

    @property
    def ours(self) -> bool:
        return self in {Way.OURS, Way.AGAIN, Way.NFT_ONLY}

    @property
    def linear(self) -> bool:
        """Whether a port's place among the others decides how much a packet passes by."""
        return self in {Way.RULES, Way.IPTABLES_NFT, Way.IPTABLES_LEGACY}

    @property
    def programs(self) -> frozenset[Program]:
        """What runs for a flow's packets; nothing else may."""
        default = frozenset({Program.ISOLATION, Program.CHECKSUM, Program.GUARD})
        return default if self in {Way.OURS, Way.AGAIN} else frozenset()

    @property
    def role(self) -> Role:
        return _ROLES[self]


_ROLES = {
    Way.OURS: Role.OURS,
    Way.AGAIN: Role.OURS,
    Way.NFT_ONLY: Role.OURS_TOO,
    Way.MAP: Role.PURE,
    Way.RULES: Role.TODAY,
    Way.IPTABLES_NFT: Role.TODAY_TOO,
    Way.IPTABLES_LEGACY: Role.TODAY_TOO,
    Way.VETH: Role.FLOOR,
}


class Place(StrEnum):
    """Where a measured port stands among the others, in the order in which they were published."""

    FIRST = "first"
    MIDDLE = "middle"
    LAST = "last"

    @property
    def container(self) -> str:
        """The name of the container that publishes it."""
        return f"web-{self}"


def measured(place: Place) -> Container:
    """A container that publishes one number, for each protocol."""
    number = list(Place).index(place)
    ports = tuple(port(_FIRST_HOST + number, _FIRST_INNER + number, protocol) for protocol in PROTOCOLS)
    return Container(place.container, "", ADDRESS, ports=ports)


def places(size: int) -> Sequence[Place]:
    """Those that are measured among so many ports: one port has no first and no last."""
    return (Place.MIDDLE,) if size < len(Place) * len(PROTOCOLS) else tuple(Place)


def publishers(size: int, ports_each: int = PORTS_EACH) -> list[Container]:
    """Who publishes so many ports in all: the measured ones and a crowd. At the least it is one number for each
    protocol, which are two."""
    there = places(size)
    others = crowd(max(size - len(there) * len(PROTOCOLS), 0), ports_each)
    if len(there) == 1:
        return [measured(Place.MIDDLE)]
    return around(measured(Place.FIRST), measured(Place.MIDDLE), measured(Place.LAST), others)


def targets(size: int) -> dict[tuple[Protocol, Place], Target]:
    """What the client talks to, among so many ports."""
    return {
        (protocol, place): Target(protocol, _FIRST_HOST + number, _FIRST_INNER + number)
        for protocol in PROTOCOLS
        for number, place in enumerate(Place)
        if place in places(size)
    }


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel says about new flows that were made on purpose."""

    present: int = 0
    """Ports that are published."""
    decided: int = 0
    """Flows that the measured rules, or the look-up, took."""
    order: Sequence[str] = ()
    """Names of containers, as their rules follow each other; empty where order means nothing."""
    runs: Mapping[Program, int] = field(default_factory=dict)
    """How often each program ran meanwhile."""


def doubts(way: Way, ports: int, made: int, seen: Seen) -> Iterator[str]:
    """Why figures would not be about what they are named for."""
    if seen.present != ports:
        yield f"{seen.present:,} ports are published, not {ports:,}"
    if seen.decided != made:
        yield f"{seen.decided:,} of {made:,} flows were decided by what was to decide them"
    if way.linear and places(ports) == tuple(Place):
        ranks = {place: [rank for rank, name in enumerate(seen.order) if name == place.container] for place in Place}
        if not all(ranks.values()) or not _stand(ranks, len(seen.order)):
            yield "the measured ports are not the first, one in the middle, and the last"
    for program, runs in seen.runs.items():
        if program in way.programs and runs < made:
            yield f"{program} ran {runs:,} times for {made:,} flows"
        if program not in way.programs and runs:
            yield f"{program} ran {runs:,} times and should not be there"


def _stand(ranks: Mapping[Place, Sequence[int]], count: int) -> bool:
    first, middle, last = (ranks[place] for place in Place)
    return first[0] == 0 and last[-1] == count - 1 and first[-1] < middle[0] and middle[-1] < last[0]
