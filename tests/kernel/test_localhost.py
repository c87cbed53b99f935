"""Published ports by 127.0.0.0/8 and ::1, for processes of the host: real sockets, and who must not get there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from dataplane.types import Protocol
from support import needs, plan
from support.frames import Flow, frame
from support.loopback import Talk, hide_cgroups, route_localnet, talk, with_cgroups
from support.netns import Namespace, Sandbox, outer_state, wait_until
from support.traffic import ask, counters, send_frame, serve
from support.world import Attached, World, publish

TCP, UDP = publish("8080:80"), publish("8053:53", "udp")
PORT = {"tcp": 8080, "udp": 8053}
WAYS = [("tcp", True), ("udp", True), ("udp", False)]
"""How a client asks: the protocol, and whether its socket is connected."""
LOOPBACK = ["127.0.0.1", "127.5.5.5", "::1", "::ffff:127.0.0.1"]
REFUSED = "ECONNREFUSED"
CONTAINERS = ("web", "shop", "every", "one", "four", "six")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One host with cgroups for all tests: programs are compiled once."""
    needs.root()
    outside = outer_state()
    with Sandbox() as sandbox:
        with_cgroups(sandbox)
        yield World(sandbox, tmp_path_factory.mktemp("world"))
    assert outer_state() == outside, "the tests left something on the machine they run on"


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """A host with cgroups, and without containers."""
    yield shared
    for name in shared.names():
        shared.detach(name)
    for name in CONTAINERS:
        if shared.host.exists(f"/run/netns/{name}"):
            shared.host.remove_namespace(name)


def single_stack(world: World, version: int, **options: object) -> None:
    """A network whose containers have addresses of one family alone."""
    subnet, every = (plan.FRONT.subnet4, "0.0.0.0/0") if version == 4 else (plan.FRONT.subnet6, "::/0")
    ipam = {"type": "host-local", "ranges": [[{"subnet": str(subnet)}]], "routes": [{"dst": every}]}
    main = {"type": "bridge", "bridge": plan.FRONT.device, "isGateway": True, "ipam": ipam}
    world.define(plan.FRONT, [main, {"type": "dataplane", "capabilities": {"portMappings": True}, **options}])


def served(world: World, name: str, *mappings: dict[str, object]) -> Attached:
    """A container of the front network that answers on TCP 80 and UDP 53."""
    made = world.attach(name, plan.FRONT, *mappings)
    world.serve(made)
    world.serve(made, "udp", 53)
    return made


def gateway(address: str) -> str:
    """Whom a container sees when a process of the host asks by this address."""
    return str(plan.FRONT.gateway6 if address == "::1" else plan.FRONT.gateway4)


@pytest.mark.parametrize("by_agent", [False, True])
def test_processes_of_the_host_reach_ports_by_any_loopback_address(
    request: pytest.FixtureRequest, tmp_path: Path, by_agent: bool
) -> None:
    """TCP and UDP, connected or not: the container answers, sees the host's address in its network, and the process is
    told the address that it asked; no device gets route_localnet; after the DEL nobody answers."""
    if by_agent:
        sandbox: Sandbox = request.getfixturevalue("sandbox")
        with_cgroups(sandbox)
        world = World(sandbox, tmp_path)
        world.start_agent()
    else:
        world = request.getfixturevalue("world")
    world.network(plan.FRONT)
    served(world, "web", TCP, UDP)
    for address in LOOPBACK:
        for protocol, connected in WAYS:
            asked = address, PORT[protocol]
            found = talk(world.host, *asked, protocol, connected=connected)
            assert found == Talk("web", gateway(address), asked, asked), (asked, protocol, connected)
    assert world.host.call(route_localnet) == []
    world.check("web")
    world.detach("web")
    for address in LOOPBACK:
        assert {talk(world.host, address, PORT[name], name) for name in PORT} == {REFUSED}


def test_a_container_without_ipv6_is_reached_by_ipv6(world: World) -> None:
    """[::1] leads to an IPv4 container; but for datagrams of sockets that are not connected, which the kernel does not
    lead from one family to the other."""
    single_stack(world, 4)
    served(world, "web", TCP, UDP)
    for protocol, connected in WAYS:
        asked = "::1", PORT[protocol]
        found = talk(world.host, *asked, protocol, connected=connected)
        expected = Talk("web", str(plan.FRONT.gateway4), asked, asked)
        assert found == (expected if connected else "ETIMEDOUT"), protocol
        assert isinstance(talk(world.host, "127.0.0.1", PORT[protocol], protocol, connected=connected), Talk)


def test_a_container_without_ipv4_is_reached_by_ipv6_alone(world: World) -> None:
    """[::1] leads to an IPv6 container; 127.0.0.1 has nowhere to lead to."""
    single_stack(world, 6)
    served(world, "web", TCP, UDP)
    for protocol, connected in WAYS:
        asked = "::1", PORT[protocol]
        found = talk(world.host, *asked, protocol, connected=connected)
        assert found == Talk("web", str(plan.FRONT.gateway6), asked, asked), protocol
    assert talk(world.host, "127.0.0.1", 8080) == REFUSED


def test_a_container_has_a_localhost_of_its_own(world: World) -> None:
    """Processes in a container's namespace are led nowhere: they reach what listens there, or nobody."""
    world.network(plan.FRONT)
    web = served(world, "web", TCP, UDP)
    for address in ("127.0.0.1", "::1"):
        assert talk(web.netns, address, 8080) == REFUSED
        own = talk(web.netns, address, 80)
        assert isinstance(own, Talk)
        assert own.client == address
        assert talk(world.client, address, 8080) == REFUSED


def test_one_loopback_address_beats_all_addresses(world: World) -> None:
    """The same port on 127.0.0.1 and on all: the specific one wins there, and nowhere else."""
    world.network(plan.FRONT)
    served(world, "every", TCP)
    served(world, "one", publish("8080:80", host="127.0.0.1"))
    found = {address: talk(world.host, address, 8080) for address in LOOPBACK}
    servers = {address: one.server if isinstance(one, Talk) else one for address, one in found.items()}
    assert servers == {"127.0.0.1": "one", "127.5.5.5": "every", "::1": "every", "::ffff:127.0.0.1": "one"}
    world.detach("one")
    again = talk(world.host, "127.0.0.1", 8080)
    assert isinstance(again, Talk)
    assert again.server == "every"


def test_each_family_has_its_own_container(world: World) -> None:
    """A container without IPv6 does not take [::1] from the one that has the port of IPv6."""
    world.network(plan.BACK)
    single_stack(world, 4)
    served(world, "four", TCP)
    six = world.attach("six", plan.BACK, publish("8080:80", host="::"))
    world.serve(six)
    for address, server in (("127.0.0.1", "four"), ("::1", "six")):
        found = talk(world.host, address, 8080)
        assert isinstance(found, Talk)
        assert found.server == server
    world.detach("six")
    left = talk(world.host, "::1", 8080)
    assert isinstance(left, Talk)
    assert left.server == "four"


def test_a_published_port_hides_a_service_of_the_host(world: World) -> None:
    """As by nftables: a port that is published on all addresses leads to the container, whoever listens on it."""
    world.network(plan.FRONT)
    serve(world.host, "own", "tcp", 8090, "127.0.0.1")
    served(world, "web", publish("8090:80"))
    found = talk(world.host, "127.0.0.1", 8090)
    assert isinstance(found, Talk)
    assert found.server == "web"
    world.detach("web")
    assert talk(world.host, "127.0.0.1", 8090) == Talk("own", "127.0.0.1", ("127.0.0.1", 8090), ("127.0.0.1", 8090))


def test_a_socket_that_is_bound_to_loopback_is_told_at_once(world: World) -> None:
    """It could send to no container: EPERM, and not a minute of silence; other ports are left alone."""
    world.network(plan.FRONT)
    served(world, "web", TCP, UDP)
    serve(world.host, "own", "tcp", 9999, "127.0.0.1")
    for protocol, connected in WAYS:
        for address in ("127.0.0.1", "::1"):
            asked = address, PORT[protocol], protocol
            assert talk(world.host, *asked, connected=connected, bound=address) == "EPERM", asked
    assert isinstance(talk(world.host, "127.0.0.1", 9999, bound="127.0.0.1"), Talk)


def test_a_socket_that_is_bound_to_another_address_of_the_host_is_led(world: World) -> None:
    """It can send to a container of its family from there; to one of the other family it cannot, and is told: EPERM."""
    world.network(plan.FRONT)
    served(world, "web", TCP, UDP)
    own = {"127.0.0.1": str(plan.FRONT.gateway4), "::1": str(plan.FRONT.gateway6)}
    for protocol, connected in WAYS:
        for address, bound in own.items():
            asked = address, PORT[protocol]
            found = talk(world.host, *asked, protocol, connected=connected, bound=bound)
            assert found == Talk("web", bound, asked, asked), (asked, protocol, connected)
    world.detach("web")
    single_stack(world, 4)
    served(world, "four", TCP)
    with_ipv6 = "fd00:77::1"
    world.host.run("ip", "address", "add", f"{with_ipv6}/128", "dev", "lo", "nodad")
    try:
        assert talk(world.host, "::1", PORT["tcp"], bound=with_ipv6) == "EPERM"
    finally:
        world.host.run("ip", "address", "delete", f"{with_ipv6}/128", "dev", "lo")


def test_no_address_is_loopback(world: World) -> None:
    """0.0.0.0 and :: lead where 127.0.0.1 and ::1 do, as without a container, and the process is told that it asked
    those; a socket that is bound to an address asks that one by 0.0.0.0."""
    world.network(plan.FRONT)
    served(world, "web", TCP, UDP)
    for none, loopback in (("0.0.0.0", "127.0.0.1"), ("::", "::1")):
        for protocol, connected in WAYS:
            asked = loopback, PORT[protocol]
            found = talk(world.host, none, PORT[protocol], protocol, connected=connected)
            assert found == Talk("web", gateway(loopback), asked, asked), (none, protocol, connected)
    assert talk(world.host, "0.0.0.0", PORT["tcp"], bound="127.0.0.1") == "EPERM"
    serve(world.host, "own", "tcp", 9997, str(plan.FRONT.gateway4))
    own = talk(world.host, "0.0.0.0", 9997, bound=str(plan.FRONT.gateway4))
    assert isinstance(own, Talk)
    assert own.server == "own"


@pytest.mark.parametrize("options", [{"snat": False}, {"conditionsV4": ["meta", "mark", "!=", "0x1"]}])
def test_ports_that_are_not_for_localhost(world: World, options: dict[str, object]) -> None:
    """snat false switches it off, and so do conditions, which are about packets: outside the port answers."""
    single_stack(world, 4, **options)
    served(world, "web", TCP)
    assert ask(world.client, plan.HOST4, 8080) is not None
    assert not isinstance(talk(world.host, "127.0.0.1", 8080), Talk)
    assert talk(world.host, "::1", 8080) == REFUSED
    assert world.host.call(route_localnet) == []


@pytest.mark.parametrize("means", ["cgroups", "nft"])
def test_a_port_of_127_0_0_1_is_the_hosts_alone(request: pytest.FixtureRequest, tmp_path: Path, means: str) -> None:
    """Neither machines outside nor containers reach it, by the host's addresses or by 127.0.0.0/8 on the wire; nor
    what the host itself has there."""
    if means == "nft":
        sandbox: Sandbox = request.getfixturevalue("sandbox")
        hide_cgroups(sandbox)
        world = World(sandbox, tmp_path)
    else:
        world = request.getfixturevalue("world")
    world.network(plan.FRONT)
    private = publish("8080:80", host="127.0.0.1"), publish("8053:53", "udp", host="127.0.0.1")
    web = served(world, "web", *private, publish("8090:80"))
    shop = world.attach("shop", plan.FRONT)
    serve(world.host, "own", "udp", 9999, "127.0.0.1")
    serve(world.host, "known", "udp", 9998, "0.0.0.0")
    assert json.loads(world.dpctl("status", "--json"))["localhost"]["by"] == means
    for protocol, port in PORT.items():
        assert isinstance(talk(world.host, "127.0.0.1", port, protocol), Talk)
        for place, host in ((world.client, plan.HOST4), (shop.netns, plan.FRONT.gateway4), (world.host, plan.HOST4)):
            assert ask(place, host, port, protocol, timeout=0.3) is None, (place, protocol)
    # By a route, as CVE-2020-8558 tells it.
    for place, device, via, own in (
        (world.client, "eth0", plan.HOST4, plan.CLIENT4),
        (shop.netns, "eth0", plan.FRONT.gateway4, shop.address(4)),
    ):
        for name in ("all", device):
            place.sysctl(f"net/ipv4/conf/{name}/route_localnet", 1)
        place.ip("address", "del", "127.0.0.1/8", "dev", "lo")
        place.ip("route", "add", "127.0.0.0/8", "via", via, "src", own)
        for port, protocol in ((8080, "tcp"), (8053, "udp"), (8090, "tcp"), (9999, "udp")):
            assert ask(place, "127.0.0.1", port, protocol, timeout=0.3) is None, (place, port)
        place.ip("route", "del", "127.0.0.0/8")
        place.ip("address", "add", "127.0.0.1/8", "dev", "lo")
    # And by frames of their own making.
    machines = (
        (world.client, str(plan.CLIENT4), plan.OUTSIDE.device, str(plan.HOST4)),
        (shop.netns, str(shop.address(4)), plan.FRONT.device, str(plan.FRONT.gateway4)),
    )
    for place, source, device, known in machines:
        before = received(world.host), received(web.netns)
        mac = link_mac(world.host, device)
        targets = [("127.0.0.1", 8053), ("127.5.5.5", 8053), ("127.0.0.1", 9999)]
        for number, (address, port) in enumerate(targets):
            inject(place, mac, Flow(Protocol.UDP, source, 5000 + number, address, port))
        inject(place, mac, Flow(Protocol.UDP, source, 6000, known, 9998))
        # The last one is for a service that everybody may reach: where it has arrived, the others would have.
        wait_until(_more_than(world.host, before[0]), what="the frame to an open port arrives")
        assert (received(world.host), received(web.netns)) == (before[0] + 1, before[1]), place


def received(place: Sandbox | Namespace) -> int:
    """Datagrams that sockets of a place got."""
    return counters(place, "Udp")["InDatagrams"]


def _more_than(place: Sandbox, start: int) -> Callable[[], bool]:
    return lambda: received(place) > start


def link_mac(place: Sandbox, device: str) -> bytes:
    """The MAC of a device."""
    (link,) = json.loads(place.ip("-j", "link", "show", device))
    return bytes.fromhex(str(link["address"]).replace(":", ""))


def inject(place: Namespace, to: bytes, flow: Flow) -> None:
    """Send a frame to a MAC out of a machine's only device."""
    (own,) = json.loads(place.ip("-j", "link", "show", "eth0"))
    source = bytes.fromhex(str(own["address"]).replace(":", ""))
    send_frame(place, "eth0", to + source + frame(flow, b"hello")[12:])


def test_a_port_of_the_ipv6_loopback_address(world: World) -> None:
    """hostIP ::1 is reached by [::1] alone."""
    world.network(plan.FRONT)
    served(world, "web", publish("8080:80", host="::1"))
    assert talk(world.host, "::1", 8080) == Talk("web", str(plan.FRONT.gateway6), ("::1", 8080), ("::1", 8080))
    assert talk(world.host, "127.0.0.1", 8080) == REFUSED
    assert ask(world.client, plan.HOST6, 8080, timeout=0.3) is None


def test_a_socket_asks_two_containers_at_once(world: World) -> None:
    """One datagram socket, two ports on localhost: each answer comes from the address that was asked."""
    world.network(plan.FRONT)
    served(world, "web", UDP)
    served(world, "shop", publish("8054:53", "udp"))
    asked = [("127.0.0.1", 8053), ("127.0.0.1", 8054), ("127.0.0.9", 8053)]
    assert world.host.call(_ask_in_turn, asked) == [
        ("web", ("127.0.0.1", 8053)),
        ("shop", ("127.0.0.1", 8054)),
        ("web", ("127.0.0.9", 8053)),
    ]


def test_a_container_that_is_asked_directly_answers_for_itself(world: World) -> None:
    """A process that sends to the container's own address is told that address, also after others used localhost."""
    world.network(plan.FRONT)
    web = served(world, "web", UDP)
    talk(world.host, "127.0.0.1", 8053, "udp", connected=False)
    address = str(web.address(4))
    found = talk(world.host, address, 53, "udp", connected=False)
    assert isinstance(found, Talk)
    assert found.sender == (address, 53)
    assert ip_address(found.client) == plan.FRONT.gateway4


def _ask_in_turn(asked: Iterable[tuple[str, int]]) -> list[tuple[str, tuple[str, int]]]:
    import socket

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2.0)
        for one in asked:
            client.sendto(b"hello", one)
            said, sender = client.recvfrom(2048)
            found.append((str(json.loads(said)["server"]), sender))
    return found
