"""One published container by each of those that are compared, on hosts that live side by side.

    with Sites(stage) as sites:
        for way in sites.ways():             # raw veth, nft map, portmap's rules, dataplane ...
            way.ends(Protocol.TCP)

                client ---- uplink [ host: tables, routing ] bridge ---- container
                client ------------------ one veth ------------------ container         raw veth

Those of ours share a host: one agent, and a network each for what has programs attached and what has none. ``doubts``
says what of a way is not as its name says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from bench.cni import Container, port
from bench.figures.plots import Role
from bench.hosts.ours import Ours
from bench.hosts.wiring import CLIENT, HOST, UPLINK, edge, plugged, veth
from bench.instruments.roundtrips import Ends
from bench.instruments.starter import Starter
from bench.native import Native
from bench.peers.rulesets import MAP_TABLE, PORTMAP_TABLE, crowd, portmap_nft, pure_map
from bench.place import Host, Namespace
from bench.stage import Stage
from dataplane.programs.door import KernelPrograms
from dataplane.types import DEVICE_PROGRAMS, Program, Protocol

T = TypeVar("T")

OTHERS = 1_000
"""Ports that others publish, where there are many."""

_LISTEN, _HOST_PORT, _LAST_PORT = 9000, 39000, 61000
_STRAY = 8
"""Packets of a container on another network of ours, whose kernel asks for neighbours, or says a last word."""
_OUR_TABLE = "inet dataplane"
_KEYS_OF_NONE: Mapping[str, object] = {"ingressPolicy": "open", "checksum": "off", "guard": "off"}
"""Of a network that has no program attached."""


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who publishes the port, and by what."""

    name: str
    role: Role
    table: str = ""
    """The only one that is there, but for those whose names begin like it; none where nobody translates."""
    programs: frozenset[Program] = frozenset()
    """Attached to the devices."""
    others: int = 0
    """Ports that are published besides, before it."""


VETH = Publisher("raw veth", Role.FLOOR)
MAP = Publisher("nft map", Role.PURE, MAP_TABLE)
RULE = Publisher("portmap, nftables, 1 port", Role.TODAY, PORTMAP_TABLE)
RULES = Publisher(f"portmap, nftables, {OTHERS:,} ports", Role.TODAY_TOO, PORTMAP_TABLE, others=OTHERS)
NFT = Publisher("dataplane, nft only", Role.OURS_TOO, _OUR_TABLE)
OURS = Publisher("dataplane", Role.OURS, _OUR_TABLE, frozenset(DEVICE_PROGRAMS) - {Program.FILL})
AGAIN = Publisher("dataplane again", Role.OURS, _OUR_TABLE, OURS.programs)
PUBLISHERS = (VETH, MAP, RULE, RULES, NFT, OURS, AGAIN)
"""The last two are alike: another container, on another network, and nothing else is different."""


@dataclass(frozen=True, slots=True)
class Way:
    """From a client to the container of one publisher, and the devices on it."""

    publisher: Publisher
    host: Host
    client: Namespace
    container: Namespace
    published: Container
    address: str
    """That the client talks to."""
    port: int
    reached: str
    """The container's own address and port."""
    between: tuple[str, ...]
    """The host's devices that packets come in by."""

    def ends(self, protocol: Protocol) -> Ends:
        """Who talks to whom."""
        return Ends(self.client.path, self.address, self.port, self.container.path, _LISTEN, protocol)

    def netns(self, namespace: Namespace) -> Path:
        """A namespace, as seen from outside."""
        return self.host.outside(namespace.path)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel tells of a way on which bytes went to the container and back."""

    reached: str
    """The server's own address and port."""
    tables: frozenset[str]
    """All that are there."""
    runs: Mapping[Program, int] = field(default_factory=dict)
    """How often each program ran meanwhile."""


class Sites:
    """All hosts and what is on them, until the block ends."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._stack = stage, ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def ways(self) -> Iterator[Way]:
        """Make one for each publisher. Raises ``BenchError``."""
        yield self.direct()
        yield from map(self.ruled, (MAP, RULE, RULES))
        ours = self.ours()
        yield from (ours.way(publisher) for publisher in (NFT, OURS, AGAIN))

    def direct(self) -> Way:
        """Raw veth."""
        host = self._host("veth")
        client, container = veth(host, [f"{CLIENT}/24"], [f"{HOST}/24"])
        bare = Container(container.name, container.path, f"{HOST}/24")
        return Way(VETH, host, client, container, bare, HOST, _LISTEN, f"{HOST}:{_LISTEN}", ())

    def ruled(self, publisher: Publisher) -> Way:
        """A host with the tables of somebody else, who published others before."""
        host = self._host(f"rules-{publisher.table.split()[1]}-{publisher.others}")
        client, published = edge(host), _plugged(host, 0)
        present = [*crowd(publisher.others), published]
        text = pure_map(present) if publisher.table == MAP_TABLE else portmap_nft(present)
        host.run("nft", "-f", "-", text=text)
        return _way(publisher, host, client, published)

    def ours(self) -> OurSite:
        """A host with an agent."""
        return OurSite(self._host("ours"), self._stage.native, self._stack)

    def _host(self, name: str) -> Host:
        return self._stack.enter_context(self._stage.host(name))


class OurSite:
    """A host with our agent, and networks of one container each."""

    def __init__(self, host: Host, native: Native, stack: ExitStack) -> None:
        self.host, self.ours = host, Ours(host)
        self._client, self._networks = edge(host), 0
        stack.enter_context(self.ours.agent())
        self._starter = stack.enter_context(Starter(host, native))

    def way(self, publisher: Publisher) -> Way:
        """Publish a container of its own."""
        published = self.plugged()
        self.call("ADD", published, {} if publisher.programs else _KEYS_OF_NONE)
        if publisher.others:
            ports = tuple(one for other in crowd(publisher.others) for one in other.ports)
            self.call("ADD", replace(self.plugged(), ports=ports), _KEYS_OF_NONE)
        return _way(publisher, self.host, self._client, published)

    def plugged(self) -> Container:
        """A container on a network of its own, not published yet."""
        made = _plugged(self.host, self._networks)
        self._networks += 1
        return made

    def neighbour(self, beside: Container) -> Container:
        """One more container on the network of another, not published yet."""
        namespace = self.host.namespace(f"by-{beside.name}")
        address = f"{ip_interface(beside.address).ip + 1}/16"
        link = self.host.wire(beside.bridge, namespace, address, beside.gateway)
        ports = (port(_LAST_PORT, _LISTEN),)
        return replace(
            beside, name=namespace.name, netns=namespace.path, address=address, link=link, ports=ports
        )  # fmt: skip

    def call(self, verb: str, container: Container, keys: Mapping[str, object] | None = None) -> None:
        """ADD or DEL a container, whose network has the name of its bridge. Raises ``BenchError``."""
        self.ours.call(self._starter, verb, container, keys, network=container.bridge)


def watched(way: Way, reached: str, work: Callable[[], T]) -> tuple[T, Seen]:
    """What ``work`` returns, and what the kernel tells of a way on which only it sends, while the statistics of
    programs are enabled (``syscall.enable_stats``)."""
    tables = (line.removeprefix("table ") for line in way.host.run("nft", "list", "tables").splitlines())
    before = way.host.inside(_runs)
    done = work()
    after = way.host.inside(_runs)
    runs = {program: after[program] - before[program] for program in after}
    return done, Seen(reached, frozenset(tables), runs)


def doubts(
    publisher: Publisher, reached: str, seen: Seen, *, to_container: int = 1, from_container: int = 1
) -> Iterator[str]:
    """What is not as the publisher's name says, whose container is at ``reached``, after at least so many packets each
    way. Pure."""
    if seen.reached != reached:
        yield f"the server was reached at {seen.reached}, not at {reached}"
    foreign = sorted(one for one in seen.tables if not publisher.table or not one.startswith(publisher.table))
    if foreign:
        yield f"there are other tables: {', '.join(foreign)}"
    if publisher.table and publisher.table not in seen.tables:
        yield f"there is no table {publisher.table}"
    for program in DEVICE_PROGRAMS:
        runs = seen.runs.get(program, 0)
        packets = from_container if program is Program.GUARD else to_container
        if program in publisher.programs and runs < packets:
            yield f"{program} ran {runs:,} times for {packets:,} packets"
        if program not in publisher.programs and runs > _STRAY:
            yield f"{program} ran {runs:,} times, and is not attached"


def _runs() -> dict[Program, int]:
    """How often each program of this host ran so far; none where none are loaded."""
    door = KernelPrograms()
    return {program: door.program(program).runs for program in DEVICE_PROGRAMS} if door.loaded() else {}


def _plugged(host: Host, place: int) -> Container:
    """A container on a bridge of its own, whose ports are not published yet."""
    ports = tuple(port(_HOST_PORT + place, _LISTEN, protocol) for protocol in (Protocol.TCP, Protocol.UDP))
    return replace(plugged(host, place), ports=ports)


def _way(publisher: Publisher, host: Host, client: Namespace, container: Container) -> Way:
    reached = f"{container.address.partition('/')[0]}:{_LISTEN}"
    number = int(str(container.ports[0]["hostPort"]))
    namespace = host.existing(container.name)
    return Way(publisher, host, client, namespace, container, HOST, number, reached, (UPLINK, container.link))
