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

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.cni import Container, configuration, port
from bench.ours import Ours
from bench.place import Host, Namespace
from bench.plots import Role
from bench.roundtrips import Ends
from bench.rulesets import MAP_TABLE, PORTMAP_TABLE, crowd, portmap_nft, pure_map
from bench.stage import Stage
from bench.starter import Starter
from dataplane.types import DEVICE_PROGRAMS, Program, Protocol

UPLINK, EDGE = "uplink", "eth0"
HOST, CLIENT = "10.0.2.15", "10.0.2.2"
OTHERS = 1_000
"""Ports that others publish, where there are many."""

_LISTEN, _HOST_PORT = 9000, 39000
_OUR_TABLE = "inet dataplane"
_NFT_ONLY: Mapping[str, object] = {"ingressPolicy": "open", "checksum": "off", "guard": "off"}


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who publishes the port, and by what."""

    name: str
    role: Role
    table: str = ""
    """The only one that translates; none where nobody does."""
    programs: frozenset[Program] = frozenset()
    """Attached to the devices."""
    others: int = 0
    """Ports that are published besides, before it."""


VETH = Publisher("raw veth", Role.FLOOR)
MAP = Publisher("nft map", Role.PURE, MAP_TABLE)
RULE = Publisher("portmap (nft), 1 port", Role.TODAY, PORTMAP_TABLE)
RULES = Publisher(f"portmap (nft), {OTHERS:,} ports", Role.TODAY_TOO, PORTMAP_TABLE, others=OTHERS)
NFT = Publisher("dataplane, nft alone", Role.OURS_TOO, _OUR_TABLE)
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
    """Those that are there and can translate."""
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
        """Make them, one after the other. Raises ``BenchError``."""
        yield self._direct()
        yield from map(self._ruled, (MAP, RULE, RULES))
        yield from self._ours((NFT, OURS, AGAIN))

    def _direct(self) -> Way:
        host = self._stack.enter_context(self._stage.host("veth"))
        client, container = host.namespaces(["client", "web"])
        host.run(
            "ip", "-batch", "-",
            text=f"link add {EDGE} netns client type veth peer name {EDGE} netns web\n",
        )  # fmt: skip
        for namespace, address in ((client, CLIENT), (container, HOST)):
            text = f"address add {address}/24 dev {EDGE}\nlink set {EDGE} up\n"
            namespace.run("ip", "-batch", "-", text=text)
        return Way(VETH, host, client, container, HOST, _LISTEN, f"{HOST}:{_LISTEN}", ())

    def _ruled(self, publisher: Publisher) -> Way:
        host = self._stack.enter_context(self._stage.host(f"rules-{publisher.table.split()[1]}-{publisher.others}"))
        client = _edge(host)
        container, published = _plugged(host, "web", 0)
        present = [*crowd(publisher.others), published]
        text = pure_map(present) if publisher is MAP else portmap_nft(present)
        host.run("nft", "-f", "-", text=text)
        return _way(publisher, host, client, container, published, _HOST_PORT)

    def _ours(self, publishers: tuple[Publisher, ...]) -> Iterator[Way]:
        host = self._stack.enter_context(self._stage.host("ours"))
        ours = Ours(host)
        client = _edge(host)
        self._stack.enter_context(ours.agent())
        starter = self._stack.enter_context(Starter(host, self._stage.native))
        for place, publisher in enumerate(publishers):
            container, published = _plugged(host, f"web{place}", place)
            keys = {} if publisher.programs else _NFT_ONLY
            text = configuration(
                "dataplane", f"bench{place}", published.ports, published.previous_result(), **keys
            )  # fmt: skip
            starter.run(ours.plugin("dataplane"), ours.environment("ADD", published), text)
            yield _way(publisher, host, client, container, published, _HOST_PORT + place)


def doubts(publisher: Publisher, way_reached: str, seen: Seen) -> Iterator[str]:
    """What is not as the publisher's name says. Pure."""
    if seen.reached != way_reached:
        yield f"the server was reached at {seen.reached}, not at {way_reached}"
    if seen.tables != ({publisher.table} if publisher.table else set()):
        yield f"tables that translate: {', '.join(sorted(seen.tables)) or 'none'}"
    for program in DEVICE_PROGRAMS:
        runs = seen.runs.get(program, 0)
        if program in publisher.programs and not runs:
            yield f"{program} did not run"
        if program not in publisher.programs and runs:
            yield f"{program} ran {runs:,} times, and is not attached"


def _edge(host: Host) -> Namespace:
    """A client beside a host that routes."""
    client = host.join("client", UPLINK, f"{HOST}/24", f"{CLIENT}/24")
    host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    return client


def _plugged(host: Host, name: str, place: int) -> tuple[Namespace, Container]:
    """A container on a bridge of its own, whose ports are not published yet."""
    bridge, gateway, address = f"br-bench{place}", f"10.{77 + place}.0.1", f"10.{77 + place}.1.2/16"
    host.bridge(bridge, f"{gateway}/16")
    namespace = host.namespace(name)
    link = host.wire(bridge, namespace, address, gateway)
    ports = tuple(port(_HOST_PORT + place, _LISTEN, protocol) for protocol in (Protocol.TCP, Protocol.UDP))
    return namespace, Container(name, namespace.path, address, gateway, bridge, link, ports)


def _way(
    publisher: Publisher, host: Host, client: Namespace, namespace: Namespace, container: Container, number: int
) -> Way:
    reached = f"{container.address.partition('/')[0]}:{_LISTEN}"
    return Way(publisher, host, client, namespace, HOST, number, reached, (UPLINK, container.link))
