"""podman runs containers from our conflist, through the installed plugin executable, and takes them away again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import needs, plan
from support.netns import Namespace, Sandbox, wait_until
from support.podman import GREETING, Podman
from support.traffic import fetch

GO_PLUGINS = Path("/usr/lib/cni")
DPCTL = Path(sys.executable).with_name("dpctl")
PORT = 18080


@pytest.fixture
def client(sandbox: Sandbox) -> Namespace:
    """A machine outside, which reaches the host by its uplink."""
    place = sandbox.namespace("client")
    sandbox.link("uplink", place, "eth0", f"{plan.HOST4}/24", f"{plan.CLIENT4}/24")
    return place


@pytest.fixture
def podman(sandbox: Sandbox, tmp_path: Path) -> Iterator[Podman]:
    """podman with our plugin, Debian's main plugins beside it, and the networks front and back."""
    plugins, networks = tmp_path / "bin", tmp_path / "net.d"
    plugins.mkdir()
    networks.mkdir()
    for name in ("bridge", "host-local"):
        (plugins / name).symlink_to(needs.file(GO_PLUGINS / name, package="containernetworking-plugins"))
    sandbox.run(DPCTL, "install", "--cni-bin", plugins, "--conf", networks)
    for network in (plan.FRONT, plan.BACK):
        (networks / f"20-{network.name}.conflist").write_text(json.dumps(conflist(network)))
    runtime = Podman(sandbox, tmp_path, plugins, networks)
    runtime.make_image()
    yield runtime
    runtime.stop()


def conflist(network: plan.Network) -> dict[str, object]:
    ipam = {
        "type": "host-local",
        "routes": [{"dst": "0.0.0.0/0"}],
        "ranges": [[{"subnet": str(network.subnet4), "gateway": str(network.gateway4)}]],
    }
    return {
        "cniVersion": "0.4.0",
        "name": network.name,
        "plugins": [
            {"type": "bridge", "bridge": network.device, "isGateway": True, "hairpinMode": True, "ipam": ipam},
            {"type": "dataplane", "capabilities": {"portMappings": True}, "ipMasq": True},
        ],
    }


def programs_hooked(sandbox: Sandbox) -> object:
    return json.loads(sandbox.run(DPCTL, "bpf", "ls", "--json").stdout)


def test_a_published_container_serves_and_leaves_nothing(sandbox: Sandbox, client: Namespace, podman: Podman) -> None:
    """A container run with -p answers the host and a client outside; ``rm -f`` leaves nothing of it."""
    podman.run_web("web", plan.FRONT.name, f"{PORT}:80")
    address = podman.address("web")

    assert fetch(client, plan.HOST4, PORT) == GREETING
    assert fetch(sandbox, plan.HOST4, PORT) == GREETING
    assert fetch(sandbox, "127.0.0.1", PORT) == GREETING
    assert address in sandbox.run("nft", "list", "table", "inet", "dataplane").stdout
    assert sandbox.exists(f"/var/lib/cni/networks/{plan.FRONT.name}/{address}")
    assert plan.FRONT.device in json.dumps(programs_hooked(sandbox))

    podman("rm", "-f", "-t", "0", "web")

    assert fetch(client, plan.HOST4, PORT, timeout=0.5) is None
    assert address not in sandbox.run("nft", "list", "ruleset").stdout
    assert str(PORT) not in sandbox.run("nft", "list", "ruleset").stdout
    assert not sandbox.exists(f"/var/lib/cni/networks/{plan.FRONT.name}/{address}")
    assert plan.FRONT.device not in json.dumps(programs_hooked(sandbox))
    assert json.loads(sandbox.run(DPCTL, "ps", "--json").stdout)["attachments"] == []


@pytest.mark.usefixtures("client")
def test_networks_are_apart_but_for_published_ports(podman: Podman) -> None:
    """A container reaches the other network's container by its published port, and not by its address."""
    podman.run_web("web", plan.FRONT.name, f"{PORT}:80")
    podman.run_web("neighbour", plan.BACK.name)
    neighbour = podman.inside("neighbour")

    assert fetch(neighbour, plan.HOST4, PORT) == GREETING
    assert fetch(neighbour, podman.address("web"), 80, timeout=0.5) is None


def test_podman_survives_a_restart_of_its_container(sandbox: Sandbox, client: Namespace, podman: Podman) -> None:
    """After ``podman restart`` the port answers again, and only one mapping exists."""
    podman.run_web("web", plan.FRONT.name, f"{PORT}:80")
    podman("restart", "-t", "0", "web")

    def answers() -> bool:
        return fetch(client, plan.HOST4, PORT) == GREETING

    wait_until(answers, what="the restarted container answers on its port")
    ports = json.loads(sandbox.run(DPCTL, "ports", "--json").stdout)["ports"]
    assert len(ports) == 1
