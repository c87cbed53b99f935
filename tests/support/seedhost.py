"""The host of the known issue, with the frame's own addresses: its client, the published address, the container.

host = SeedHost(sandbox, tmp_path)
host.knock()                        the frame of tests/data/seed_stale_syn.hex, sent towards the container
host.dpctl("checksum", "scan")

client 10.0.2.2 ---- uplink 10.0.2.15 (port 80)  host  cni-podman0 10.88.0.1 ---- web 10.88.0.116:80
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from plugin.demo.traffic import knock
from plugin.runtime.driver import ConfList, Driver
from support import needs
from support.frames import seed_stale_syn
from support.netns import Namespace, Sandbox
from support.traffic import serve
from support.world import DPCTL, GO_PLUGINS

NETWORK, DEVICE = "podman", "cni-podman0"
_ARGUMENTS = {"IgnoreUnknown": "1", "IP": "10.88.0.116", "MAC": "ea:56:b4:c6:4f:c7"}
_MAPPING = {"hostPort": 80, "containerPort": 80, "protocol": "tcp", "hostIP": "10.0.2.15"}


class SeedHost:
    """See the module."""

    def __init__(self, sandbox: Sandbox, directory: Path, mode: str = "repair") -> None:
        needs.file(GO_PLUGINS / "bridge", package="containernetworking-plugins")
        self.host = sandbox
        self.client, self.web = sandbox.namespace("client"), sandbox.namespace("web")
        for place in (sandbox, self.client, self.web):  # so that nobody speaks but those who are told to
            place.sysctl("net/ipv6/conf/default/disable_ipv6", 1)
        sandbox.link("uplink", self.client, "eth0", "10.0.2.15/24", "10.0.2.2/24")
        self.client.ip("route", "add", "default", "via", "10.0.2.15")
        sandbox.ip("route", "add", "default", "via", "10.0.2.2")
        sandbox.ip("neighbour", "replace", "10.0.2.2", "lladdr", _mac(self.client), "dev", "uplink")
        sandbox.run(DPCTL, "install", "--cni-bin", directory / "bin", "--conf", directory / "net.d")
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": "10.88.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(directory / "leases"),
        }
        plugins = [
            {"type": "bridge", "bridge": DEVICE, "isGateway": True, "ipam": ipam},
            {"type": "dataplane", "capabilities": {"portMappings": True}, "checksum": mode, "ipMasq": True},
        ]
        conflist = json.dumps({"cniVersion": "1.0.0", "name": NETWORK, "plugins": plugins})
        sandbox.call(_attach, conflist, [directory / "bin", GO_PLUGINS], directory / "cache")
        serve(self.web, "web", "tcp", 80)

    def knock(self, frame: bytes = b"") -> bool:
        """Send the frame, or this one, out of the bridge; whether the container answers."""
        return self.host.call(knock, Path("/proc/self/ns/net"), DEVICE, frame or seed_stale_syn())

    def dpctl(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run dpctl on the host, however it ends."""
        return self.host.run(DPCTL, *words, check=False)


def _attach(conflist: str, path: list[Path], cache: Path) -> None:
    driver = Driver(path, cache)
    ports: dict[str, object] = {"portMappings": [_MAPPING]}
    driver.add(ConfList.parse(conflist), "web", "/run/netns/web", "eth0", ports, _ARGUMENTS)


def _mac(client: Namespace) -> str:
    (link,) = json.loads(client.ip("-json", "link", "show", "eth0"))
    return str(link["address"])
