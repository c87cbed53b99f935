"""Every kind of chain, family and protocol, from every place a published port can be reached from, or must not be.

    chain     who makes the interface, publishes, isolates          families    IPv4, IPv6, dual
    place     who asks, and where                                   protocol    tcp, udp, sctp

Each chain is set up once for each choice of families, with all protocols on one port. SCTP is asked by packets made by
hand (support/sctp.py): kernels without SCTP sockets forward and translate it all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from support import needs, plan
from support.loopback import with_cgroups
from support.netns import Place, Sandbox, outer_state
from support.residue import residue
from support.traffic import ask, serve
from support.world import ELSEWHERE4, ELSEWHERE6, GO_PLUGINS, Attached, World, publish

PROTOCOLS = ("tcp", "udp", "sctp")
HOST_PORT, PORT = 8080, 80
HOST = {4: plan.HOST4, 6: plan.HOST6}
CLIENT = {4: plan.CLIENT4, 6: plan.CLIENT6}
GATEWAY = {4: plan.FRONT.gateway4, 6: plan.FRONT.gateway6}
ELSEWHERE = {4: ELSEWHERE4, 6: ELSEWHERE6}
LOCALHOST = {4: "127.0.0.1", 6: "::1"}
TRACKS_SCTP = "/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed"
SOON = 0.25
"""Seconds to wait for an answer that must not come."""

Plugins = list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class Chain:
    """One way to write a network."""

    plugins: Callable[[dict[str, object]], Plugins]
    """The plugins of the conflist, by the keys of the network."""
    ours: tuple[str, ...]
    """Which of their names are served by us; the rest is Debian's."""
    hides_networks: bool = False
    """Whether the server sees its gateway for a client of another network: Debian's ipMasq asks only where a packet
    goes, not whether it is to be answered through this host."""
    their_portmap: bool = False
    """Whether Debian's portmap publishes. Of version 1.1.1, its CHECK fails wherever something is published, in a chain
    of Debian's alone, too (it looks for each family's rules in the other's), and route_localnet is never taken back."""


def single(network: dict[str, object]) -> Plugins:
    """One entry."""
    return [{"type": "dataplane-bridge", **network, "capabilities": {"portMappings": True}}]


def stock(network: dict[str, object]) -> Plugins:
    """What podman and nerdctl write."""
    return [main(network), PORTMAP, FIREWALL, TUNING]


def firewall_first(network: dict[str, object]) -> Plugins:
    """Another order that is as legal."""
    return [main(network), TUNING, FIREWALL, PORTMAP]


def main(network: dict[str, object]) -> dict[str, object]:
    return {"type": "bridge", "hairpinMode": True, **network}


PORTMAP: dict[str, object] = {"type": "portmap", "capabilities": {"portMappings": True}}
FIREWALL: dict[str, object] = {"type": "firewall", "ingressPolicy": "same-bridge"}
TUNING: dict[str, object] = {"type": "tuning"}

CHAINS = {
    "single entry": Chain(single, ("dataplane-bridge",)),
    "stock on drop-ins": Chain(stock, ("bridge", "host-local", "portmap", "firewall")),
    "their bridge, our rest": Chain(stock, ("portmap", "firewall"), hides_networks=True),
    "their bridge, our ipam": Chain(firewall_first, ("host-local", "portmap", "firewall"), hides_networks=True),
    "our bridge, their portmap": Chain(stock, ("bridge", "firewall"), their_portmap=True),
}
FAMILIES = {"IPv4": (4,), "IPv6": (6,), "dual": (4, 6)}
WITH_AGENT = {"dual"}
"""Where an agent serves the calls; elsewhere each executable does its own work."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A host with one chain: web, which publishes, and shop on one network, admin on the other."""

    world: World
    chain: Chain
    versions: tuple[int, ...]
    web: Attached
    shop: Attached
    admin: Attached


@pytest.fixture(scope="module", params=[(chain, families) for chain in CHAINS for families in FAMILIES], ids=", ".join)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Every chain with every choice of families, servers running."""
    needs.root()
    before = outer_state()
    chain, versions = CHAINS[request.param[0]], FAMILIES[request.param[1]]
    with Sandbox() as host:
        with_cgroups(host)
        world = World(host, tmp_path_factory.mktemp("matrix"))
        if request.param[1] in WITH_AGENT:
            world.start_agent()
        yield set_up(world, chain, versions)
    assert outer_state() == before, "the test left something on the machine it runs on"


def set_up(world: World, chain: Chain, versions: tuple[int, ...]) -> Stage:
    drop_ins = world.install_drop_ins()
    path = [world.choose("chosen", {str(one): where(str(one), chain, world, drop_ins) for one in types(chain)})]
    for network in (plan.FRONT, plan.BACK):
        world.define(network, chain.plugins(keys(network, versions)), path)
    made = Stage(
        world,
        chain,
        versions,
        world.attach("web", plan.FRONT, *(publish(f"{HOST_PORT}:{PORT}", protocol) for protocol in PROTOCOLS)),
        world.attach("shop", plan.FRONT),
        world.attach("admin", plan.BACK),
    )
    for protocol in PROTOCOLS:
        world.serve(made.web, protocol, PORT)
        serve(world.elsewhere, "elsewhere", protocol, HOST_PORT, "::")
    return made


def types(chain: Chain) -> set[object]:
    """The names of every executable that a chain starts."""
    return {"host-local", *(one["type"] for one in chain.plugins({}))}


def where(name: str, chain: Chain, world: World, drop_ins: Path) -> Path:
    if name == "dataplane-bridge":
        return world.plugins
    return drop_ins if name in chain.ours else GO_PLUGINS


def keys(network: plan.Network, versions: tuple[int, ...]) -> dict[str, object]:
    """The keys of a network, as every main plugin knows them."""
    subnets = {4: (network.subnet4, "0.0.0.0/0"), 6: (network.subnet6, "::/0")}
    return {
        "bridge": network.device,
        "isGateway": True,
        "ipMasq": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(subnets[version][0])}] for version in versions],
            "routes": [{"dst": subnets[version][1]} for version in versions],
        },
    }


@dataclass(frozen=True, slots=True)
class Row:
    """Who asks for what, and who answers, having seen whom; None where nobody may answer."""

    asks: Callable[[Stage], Place]
    address: Callable[[Stage, int], object]
    port: int
    answers: Callable[[Stage, int], tuple[str, object] | None]


def by_host_address(_: Stage, version: int) -> object:
    return HOST[version]


# fmt: off
TABLE = {
    "outside": Row(
        lambda on: on.world.client, by_host_address, HOST_PORT, lambda _, version: ("web", CLIENT[version])),
    "host": Row(
        lambda on: on.world.host, by_host_address, HOST_PORT, lambda _, version: ("web", HOST[version])),
    "localhost": Row(  # of portmap IPv4 alone: the kernel has no route_localnet for IPv6
        lambda on: on.world.host, lambda _, version: LOCALHOST[version], HOST_PORT,
        lambda on, version: None if on.chain.their_portmap and version == 6 else ("web", GATEWAY[version])),
    "self": Row(
        lambda on: on.web.netns, by_host_address, HOST_PORT, lambda _, version: ("web", GATEWAY[version])),
    "neighbour": Row(
        lambda on: on.shop.netns, by_host_address, HOST_PORT, lambda _, version: ("web", GATEWAY[version])),
    "other network": Row(
        lambda on: on.admin.netns, by_host_address, HOST_PORT,
        lambda on, version: ("web", GATEWAY[version] if on.chain.hides_networks else on.admin.address(version))),
    "other network directly": Row(
        lambda on: on.admin.netns, lambda on, version: on.web.address(version), PORT, lambda *_: None),
    "forwarded elsewhere": Row(  # CVE-2025-67499
        lambda on: on.world.client, lambda _, version: ELSEWHERE[version], HOST_PORT,
        lambda _, version: ("elsewhere", CLIENT[version])),
}
# fmt: on


@pytest.mark.parametrize("place", TABLE)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_reaches_whom(stage: Stage, protocol: str, place: str) -> None:
    """Whoever may reach the port by an address of the host does; clients are hidden only where they must be."""
    if protocol == "sctp":
        needs.that(stage.world.host.exists(TRACKS_SCTP), "a kernel that tracks SCTP (CONFIG_NF_CT_PROTO_SCTP)")
    row = TABLE[place]
    # Sockets of TCP and UDP alone are led to published ports by localhost.
    led = (protocol, place) != ("sctp", "localhost") or stage.chain.their_portmap
    for version in stage.versions:
        expected = row.answers(stage, version) if led else None
        wait = SOON if expected is None else 2.0
        answer = ask(row.asks(stage), row.address(stage, version), row.port, protocol, timeout=wait)
        seen = (answer.server, ip_address(answer.address)) if answer else None
        assert seen == expected, f"IPv{version}"


def test_every_protocol_is_an_element(stage: Stage) -> None:
    """One element for each protocol and family, and none for a family that the network has not; where it is our portmap
    that publishes."""
    wanted = {
        (f"publish{version}", protocol, HOST_PORT, str(stage.web.address(version)), PORT)
        for version in stage.versions
        for protocol in PROTOCOLS
    }
    assert stage.world.published() == (set() if stage.chain.their_portmap else wanted)


def test_check_passes(stage: Stage) -> None:
    """CHECK of every container, by each plugin of its chain."""
    for name in ("shop", "admin") if stage.chain.their_portmap else ("web", "shop", "admin"):
        stage.world.check(name)


def test_nothing_is_left(stage: Stage) -> None:
    """After the DEL of all there is no lease, veth, element, attachment, hook or sysctl of them."""
    # The last test of each stage: nothing can be asked after it.
    for name in ("web", "shop", "admin"):
        stage.world.detach(name)
    left = residue(stage.world.host, stage.world.environment)
    if stage.chain.their_portmap:
        left.pop("localnet", None)
    assert left == {}
