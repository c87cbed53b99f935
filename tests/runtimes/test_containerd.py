"""containerd runs containers from each kind of conflist, by ``ctr run --cni``, and takes them away again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from plugin.install import DROP_INS
from support import needs, plan
from support.containerd import Containerd
from support.images import GREETING
from support.netns import Namespace, Sandbox, wait_until
from support.traffic import ask, fetch, serve

GO_PLUGINS = Path("/usr/lib/cni")
DPCTL = Path(sys.executable).with_name("dpctl")
NETWORK = plan.FRONT.name

_IPAM: dict[str, object] = {
    "type": "host-local",
    "routes": [{"dst": "0.0.0.0/0"}],
    "ranges": [[{"subnet": str(plan.FRONT.subnet4), "gateway": str(plan.FRONT.gateway4)}]],
}
_BRIDGE: dict[str, object] = {"bridge": plan.FRONT.device, "isGateway": True, "ipam": _IPAM}
_PORTS: dict[str, object] = {"capabilities": {"portMappings": True}}


@dataclass(frozen=True, slots=True)
class Chain:
    """What a conflist's "plugins" are, and where the executables of its types come from."""

    plugins: list[dict[str, object]]
    foreign: tuple[str, ...] = ()
    """Types that are containernetworking's."""
    drop_in: bool = False
    """Whether types of theirs are ours."""


CHAINS = {
    "chained": Chain(
        [{"type": "bridge", **_BRIDGE}, {"type": "dataplane", **_PORTS, "ipMasq": True}],
        foreign=("bridge", "host-local"),
    ),
    "single entry": Chain([{"type": "dataplane-bridge", **_BRIDGE, **_PORTS, "ipMasq": True}]),
    "stock chain on drop-ins": Chain(
        [
            {"type": "bridge", **_BRIDGE, "ipMasq": True},
            {"type": "portmap", **_PORTS, "snat": True},
            {"type": "firewall", "ingressPolicy": "same-bridge"},
        ],
        drop_in=True,
    ),
}


@pytest.fixture
def client(sandbox: Sandbox) -> Namespace:
    """A machine outside, which knows the way to the host and not to its containers."""
    place = sandbox.namespace("client")
    sandbox.link("uplink", place, "eth0", f"{plan.HOST4}/24", f"{plan.CLIENT4}/24")
    serve(place, "client", "tcp", 80)
    return place


@pytest.fixture(params=CHAINS)
def containerd(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Iterator[Containerd]:
    """containerd, our plugin where ``dpctl install`` puts it, and one network."""
    runtime = Containerd(sandbox, tmp_path)
    chain = CHAINS[request.param]
    sandbox.run(DPCTL, "install", *(["--drop-in"] if chain.drop_in else []))
    if chain.drop_in:
        # ctr looks through /opt/cni/bin and cannot be told to look through the drop-ins' directory before it.
        for name in DROP_INS:
            sandbox.run("ln", "-s", f"/opt/cni/dataplane/{name}", "/opt/cni/bin/")
    sandbox.run("rm", "/etc/cni/net.d/10-dataplane.conflist")  # ctr takes the first network, and the test's is another
    for name in chain.foreign:
        plugin = needs.file(GO_PLUGINS / name, package="containernetworking-plugins")
        sandbox.run("ln", "-s", plugin, f"/opt/cni/bin/{name}")
    conflist = {"cniVersion": "1.0.0", "name": NETWORK, "plugins": chain.plugins}
    sandbox.run("tee", f"/etc/cni/net.d/20-{NETWORK}.conflist", input=json.dumps(conflist))
    try:
        runtime.start()
        yield runtime
    finally:
        runtime.stop()


def address_of(place: Namespace) -> IPv4Address:
    """The one IPv4 address of a container's eth0."""
    (link,) = json.loads(place.ip("-json", "-4", "address", "show", "dev", "eth0"))
    (own,) = link["addr_info"]
    address = ip_address(own["local"])
    assert isinstance(address, IPv4Address)
    return address


def leases(sandbox: Sandbox) -> list[str]:
    """The addresses that host-local holds as taken."""
    found = sandbox.run("find", f"/var/lib/cni/networks/{NETWORK}", "-name", "10.*", "-printf", "%f\n").stdout
    return sorted(found.split())


def attached(sandbox: Sandbox) -> list[str]:
    """The containers that dpctl knows of."""
    return sorted({one["container"] for one in json.loads(sandbox.run(DPCTL, "ps", "--json").stdout)["attachments"]})


def ports_of(sandbox: Sandbox) -> list[str]:
    """What is plugged into the network's bridge."""
    listed = json.loads(sandbox.ip("-json", "link", "show", "master", plan.FRONT.device))
    return [link["ifname"] for link in listed]


@pytest.mark.usefixtures("client")
def test_a_container_reaches_outside_and_leaves_nothing(sandbox: Sandbox, containerd: Containerd) -> None:
    """It gets an address, is masqueraded; the bare DEL after its end leaves nothing, and it can come again."""
    containerd.run_web("web")
    inside = containerd.inside("web")
    address = address_of(inside)

    assert address in plan.FRONT.subnet4
    assert leases(sandbox) == [str(address)]
    assert attached(sandbox) == ["default-web"]
    assert len(ports_of(sandbox)) == 1
    assert fetch(sandbox, address, 80) == GREETING
    answer = ask(inside, plan.CLIENT4, 80)
    assert answer is not None, "the container does not reach outside"
    assert answer.address == str(plan.HOST4), "the client outside has no route to the container's own address"
    assert str(address) in sandbox.run("nft", "list", "table", "inet", "dataplane").stdout

    containerd.kill("web")

    # The kernel takes the veth away with the network namespace, in its own time.
    wait_until(lambda: ports_of(sandbox) == [], what="the veth is gone")
    assert leases(sandbox) == []
    assert attached(sandbox) == []
    assert str(address) not in sandbox.run("nft", "list", "ruleset").stdout
    assert fetch(sandbox, address, 80, timeout=0.5) is None

    containerd.run_web("web")
    assert fetch(sandbox, address_of(containerd.inside("web")), 80) == GREETING


@pytest.mark.usefixtures("client")
def test_containers_beside_each_other(sandbox: Sandbox, containerd: Containerd) -> None:
    """Two containers have addresses of their own and reach each other; one leaves, and the other stays as it was."""
    for name in ("web", "neighbour"):
        containerd.run_web(name)
    web, neighbour = (containerd.inside(name) for name in ("web", "neighbour"))
    address = address_of(web)
    assert address != address_of(neighbour)
    assert fetch(neighbour, address, 80) == GREETING

    containerd.kill("neighbour")

    assert attached(sandbox) == ["default-web"]
    assert leases(sandbox) == [str(address)]
    assert ask(web, plan.CLIENT4, 80) is not None


@pytest.mark.usefixtures("client")
def test_what_ctr_forgets_is_collected(sandbox: Sandbox, containerd: Containerd) -> None:
    """A detached container gets no DEL from ctr 1.6 when it is killed: ``dpctl gc`` removes what is left of it."""
    containerd.run_web_detached("web")
    address = address_of(containerd.inside("web"))
    assert attached(sandbox) == ["default-web"]

    containerd.kill("web")
    sandbox.run(DPCTL, "gc")

    assert attached(sandbox) == []
    assert str(address) not in sandbox.run("nft", "list", "ruleset").stdout
