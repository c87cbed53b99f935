"""The frame of the known issue, through the whole stack: a real conflist, a real bridge, a real listener.

The addresses are the frame's own: its client 10.0.2.2, the host address 10.0.2.15 that was published, and a container
at 10.88.0.116 whose MAC the frame is for.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugin.demo.traffic import knock
from plugin.runtime.driver import ConfList, Driver
from support import needs
from support.frames import flipped
from support.netns import Namespace, Place, Sandbox
from support.traffic import serve
from support.world import DPCTL, GO_PLUGINS

SEED = Path(__file__).parents[1] / "data" / "seed_stale_syn.hex"
ARGUMENTS = {"IgnoreUnknown": "1", "IP": "10.88.0.116", "MAC": "ea:56:b4:c6:4f:c7"}
MAPPING = {"hostPort": 80, "containerPort": 80, "protocol": "tcp", "hostIP": "10.0.2.15"}
TCP_START, LAST_BIT = 8 * 34, 8 * 58 - 1
WAYS = ("tcx", "clsact")


def seed() -> bytes:
    """The frame, without the comments of its file."""
    lines = SEED.read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def _attach(conflist: str, path: list[Path], cache: Path, settings: Path) -> None:
    import os

    os.environ["DATAPLANE_CONFIG"] = str(settings)
    driver = Driver(path, cache)
    driver.add(ConfList.parse(conflist), "web", "/run/netns/web", "eth0", {"portMappings": [MAPPING]}, ARGUMENTS)


def attach(sandbox: Sandbox, directory: Path, mode: str, way: str) -> Namespace:
    """A host as in the issue: client, published address, container with a listener. The client's namespace."""
    needs.file(GO_PLUGINS / "bridge", package="containernetworking-plugins")
    settings = directory / "dataplane.toml"
    settings.write_text(f'attach = "{way}"')
    client = sandbox.namespace("client")
    sandbox.link("uplink", client, "eth0", "10.0.2.15/24", "10.0.2.2/24")
    client.ip("route", "add", "default", "via", "10.0.2.15")
    web = sandbox.namespace("web")
    sandbox.run(DPCTL, "install", "--cni-bin", directory / "bin", "--conf", directory / "net.d")
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(directory / "leases"),
    }
    plugins = [
        {"type": "bridge", "bridge": "cni-podman0", "isGateway": True, "ipam": ipam},
        {"type": "dataplane", "capabilities": {"portMappings": True}, "checksum": mode},
    ]
    conflist = json.dumps({"cniVersion": "1.0.0", "name": "podman", "plugins": plugins})
    sandbox.call(_attach, conflist, [directory / "bin", GO_PLUGINS], directory / "cache", settings)
    serve(web, "web", "tcp", 80)
    return client


def mac(place: Place, device: str) -> bytes:
    """The MAC address of a device."""
    (link,) = json.loads(place.ip("-json", "link", "show", device))
    return bytes.fromhex(link["address"].replace(":", ""))


def _knock(frame: bytes, device: str) -> bool:
    return knock(Path("/proc/self/ns/net"), device, frame)


def counted(sandbox: Sandbox) -> dict[str, int]:
    """The bridge's packet counts."""
    stats = json.loads(sandbox.run(DPCTL, "bpf", "stats", "--json").stdout)
    (device,) = [one for one in stats["checksums"] if one["device"] == "cni-podman0"]
    return {name: device[name] for name in ("stale", "repaired", "corrupt")}


@pytest.mark.parametrize("way", WAYS)
def test_repaired_it_is_answered(sandbox: Sandbox, tmp_path: Path, way: str) -> None:
    """repair: the stale SYN, sent out of the bridge as in the issue, gets its SYN/ACK."""
    attach(sandbox, tmp_path, "repair", way)
    assert sandbox.call(_knock, seed(), "cni-podman0")
    assert counted(sandbox) == {"stale": 1, "repaired": 1, "corrupt": 0}


@pytest.mark.parametrize("way", WAYS)
def test_observed_it_is_counted_and_not_answered(sandbox: Sandbox, tmp_path: Path, way: str) -> None:
    """observe: the same SYN is dropped by its receiver, and counted as stale."""
    attach(sandbox, tmp_path, "observe", way)
    assert not sandbox.call(_knock, seed(), "cni-podman0")
    assert counted(sandbox) == {"stale": 1, "repaired": 0, "corrupt": 0}


@pytest.mark.parametrize("way", WAYS)
def test_a_bit_besides_is_corruption(sandbox: Sandbox, tmp_path: Path, way: str) -> None:
    """repair: with one bit flipped besides, in header, options or checksum, it stays unanswered and is counted."""
    attach(sandbox, tmp_path, "repair", way)
    # Sequence number, flags' neighbour, window, checksum, options: each leaves the ports, and so the mapping, alone.
    bits = [TCP_START + 8 * 4 + 3, TCP_START + 8 * 14, TCP_START + 8 * 16 + 5, TCP_START + 8 * 22 + 7, LAST_BIT]
    for number, bit in enumerate(bits, 1):
        assert not sandbox.call(_knock, flipped(seed(), bit), "cni-podman0"), bit
        assert counted(sandbox) == {"stale": 0, "repaired": 0, "corrupt": number}
    assert sandbox.call(_knock, seed(), "cni-podman0"), "and the frame itself is repaired all the same"


def test_forwarded_from_its_client_it_is_answered_too(sandbox: Sandbox, tmp_path: Path) -> None:
    """repair: the stale SYN, come in from outside and routed to the container, is repaired on its way."""
    client = attach(sandbox, tmp_path, "repair", "auto")
    routed = mac(sandbox, "uplink") + mac(client, "eth0") + seed()[12:]
    assert client.call(_knock, routed, "eth0")
    assert counted(sandbox)["repaired"] == 1


def test_it_is_explained(sandbox: Sandbox, tmp_path: Path) -> None:
    """``dpctl checksum explain`` names stored and correct sum, the address it is right for, and the mapping."""
    attach(sandbox, tmp_path, "repair", "auto")
    done = sandbox.run(DPCTL, "checksum", "explain", SEED, check=False)
    assert done.returncode == 3
    for words in ("0xd776", "0xd8b9", "10.0.2.15", "podman/web/eth0"):
        assert words in done.stdout
