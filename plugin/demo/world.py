"""The demo's world: a host with two bridge networks of two containers each, a client outside, and another host.

    client 10.0.2.2 ---- 10.0.2.15 host  br-front ---- web 10.88.0.116, shop
                                   |     br-back  ---- db, admin
                                   '---- 198.51.100.1 ---- elsewhere 198.51.100.9

The addresses of web and its client are those of the frame that made the checksum program necessary (the known issue of
greenpau/cni-plugins). Containers are attached by ``plugin.runtime.driver`` through real conflists: network front by one
entry that does everything, network back by the stock chain of three, on our drop-ins.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataplane.errors import DataplaneError
from plugin.runtime.driver import ConfList, Driver

NETNS = Path("/run/netns")
HOST = Path("/proc/self/ns/net")
HOST_ADDRESS = "10.0.2.15"
CLIENT_ADDRESS = "10.0.2.2"
ELSEWHERE_ADDRESS = "198.51.100.9"
WEB_MAC = "ea:56:b4:c6:4f:c7"


@dataclass(frozen=True, slots=True)
class Container:
    """A container of the demo: a network namespace, attached to one network."""

    name: str
    network: str
    ports: tuple[Mapping[str, object], ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)

    @property
    def netns(self) -> Path:
        return NETNS / self.name


CONTAINERS = (
    Container(
        "web",
        "front",
        (
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 80, "containerPort": 80, "protocol": "tcp", "hostIP": HOST_ADDRESS},
        ),
        {"IgnoreUnknown": "1", "IP": "10.88.0.116", "MAC": WEB_MAC},
    ),
    Container("shop", "front"),
    Container("db", "back", ({"hostPort": 5432, "containerPort": 5432, "protocol": "tcp"},)),
    Container("admin", "back"),
)

_BRIDGES = {"front": ("br-front", "10.88.0.0/16"), "back": ("br-back", "10.99.0.0/24")}


class World:
    """Everything of the demo, in the network and mount namespace of this process."""

    def __init__(self, directory: Path, *plugins: Path) -> None:
        self._directory = directory
        self._driver = Driver(plugins, directory / "cache")
        self._conflists = {name: self._write_conflist(name) for name in _BRIDGES}
        self.addresses: dict[str, str] = {}
        self.macs: dict[str, str] = {}

    def build(self) -> None:
        """Make the links outside and attach all containers, through the conflists."""
        _ip("link", "set", "lo", "up")
        for name in ("client", "elsewhere", *(container.name for container in CONTAINERS)):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        self._join("client", "uplink0", f"{HOST_ADDRESS}/24", f"{CLIENT_ADDRESS}/24", HOST_ADDRESS)
        self._join("elsewhere", "uplink1", "198.51.100.1/24", f"{ELSEWHERE_ADDRESS}/24", "198.51.100.1")
        for container in CONTAINERS:
            result = self._driver.add(*self._attachment(container))
            self.addresses[container.name] = _address(result)
            self.macs[container.name] = _mac(result)

    def check(self) -> None:
        """CHECK every attachment. Raises the plugin's error."""
        for container in CONTAINERS:
            self._driver.check(*self._attachment(container))

    def remove(self) -> None:
        """DEL every attachment, and delete the namespaces."""
        for container in reversed(CONTAINERS):
            self._driver.delete(*self._attachment(container))
        for name in ("client", "elsewhere", *(container.name for container in CONTAINERS)):
            _ip("netns", "delete", name)

    def leases(self) -> list[str]:
        """Addresses that host-local still holds."""
        found = (path for path in (self._directory / "leases").glob("*/*") if path.name[:1].isdigit())
        return sorted(path.name for path in found)

    def _attachment(self, container: Container) -> tuple[ConfList, str, str, str, dict[str, object], Mapping[str, str]]:
        """What the driver's verbs are given for a container."""
        ports: dict[str, object] = {"portMappings": list(container.ports)}
        conflist = self._conflists[container.network]
        return conflist, container.name, str(container.netns), "eth0", ports, container.arguments

    def _write_conflist(self, name: str) -> ConfList:
        bridge, subnet = _BRIDGES[name]
        path = self._directory / f"{name}.conflist"
        ipam = {
            "type": "host-local",
            "dataDir": str(self._directory / "leases"),
            "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        main = {"bridge": bridge, "isGateway": True, "ipMasq": True, "ipam": ipam}
        ports = {"capabilities": {"portMappings": True}}
        plugins = {
            "front": [{"type": "dataplane-bridge", **main, **ports}],
            "back": [
                {"type": "bridge", **main},
                {"type": "portmap", **ports},
                {"type": "firewall", "ingressPolicy": "same-bridge"},
            ],
        }
        path.write_text(json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": plugins[name]}, indent=2))
        return ConfList.load(path)

    @staticmethod
    def _join(name: str, device: str, address: str, peer_address: str, gateway: str) -> None:
        _ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("address", "add", address, "dev", device)
        _ip("link", "set", device, "up")
        _ip("-n", name, "address", "add", peer_address, "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "route", "add", "default", "via", gateway)


def _address(result: Mapping[str, Any]) -> str:
    return str(result["ips"][0]["address"]).partition("/")[0]


def _mac(result: Mapping[str, Any]) -> str:
    return next(str(one["mac"]) for one in result["interfaces"] if one.get("sandbox"))


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataplaneError(f"could not run ip {' '.join(words)}: {done.stderr.strip()}")
