"""A host with container networks as a runtime makes them: real conflists, the installed plugin, Debian's main plugins.

    world = World(sandbox, tmp_path)
    world.network(plan.FRONT, ipMasq=True)
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    world.serve(web, "tcp", 80)
    ask(world.client, plan.HOST4, 8080)
    world.detach("web")

The client and the other machine of the address plan are there from the start, the host routes between them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from plugin.runtime.driver import ConfList, Driver
from support import needs, plan
from support.netns import Namespace, Sandbox, wait_until
from support.traffic import serve

GO_PLUGINS = Path("/usr/lib/cni")
DPCTL = Path(sys.executable).with_name("dpctl")
ELSEWHERE4, ELSEWHERE6 = IPv4Address("198.51.100.9"), IPv6Address("2001:db8:51::9")
"""A machine beyond the host, on another link than the client."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A container of the world."""

    name: str
    network: plan.Network
    netns: Namespace
    mappings: tuple[dict[str, object], ...]
    result: dict[str, object]
    ifname: str

    def address(self, version: int) -> IPv4Address | IPv6Address:
        """Its address of one family."""
        ips = self.result["ips"]
        assert isinstance(ips, list)
        found = [ip_address(str(one["address"]).partition("/")[0]) for one in ips]
        return next(one for one in found if one.version == version)


def publish(text: str, protocol: str = "tcp", host: str = "") -> dict[str, object]:
    """``"8080:80"`` as an entry of portMappings."""
    host_port, container_port = map(int, text.split(":"))
    entry: dict[str, object] = {"hostPort": host_port, "containerPort": container_port, "protocol": protocol}
    return entry | ({"hostIP": host} if host else {})


class World:
    """See the module."""

    def __init__(self, sandbox: Sandbox, directory: Path, settings: str = "") -> None:
        needs.file(GO_PLUGINS / "bridge", package="containernetworking-plugins")
        self.host, self._directory = sandbox, directory
        self.plugins = directory / "bin"
        (directory / "dataplane.toml").write_text(settings)
        self.environment = {"DATAPLANE_CONFIG": str(directory / "dataplane.toml")}
        self._conflists: dict[str, tuple[ConfList, list[Path]]] = {}
        self._attached: dict[tuple[str, str], Attached] = {}
        # Duplicate address detection takes a second for each address, and is not what is tested here.
        sandbox.sysctl("net/ipv6/conf/default/accept_dad", 0)
        self.dpctl("install", "--cni-bin", self.plugins, "--conf", directory / "net.d")
        self.client = self._machine("client", plan.OUTSIDE.device, plan.HOST4, plan.HOST6, plan.CLIENT4, plan.CLIENT6)
        self.elsewhere = self._machine("elsewhere", "uplink1", ELSEWHERE4 - 8, ELSEWHERE6 - 8, ELSEWHERE4, ELSEWHERE6)

    def dpctl(self, *words: object, check: bool = True) -> str:
        """Run dpctl on the host; what it printed."""
        return self.host.run(DPCTL, *words, check=check, env=self.environment).stdout

    def start_agent(self) -> subprocess.Popen[str]:
        """Start the agent; it listens when this returns."""
        process = self.host.spawn(DPCTL, "agent", env=self.environment, stderr=subprocess.PIPE, stdout=None)
        wait_until(lambda: self.host.exists("/run/dataplane/agent.sock"), 20, "the agent's socket")
        return process

    def network(
        self, network: plan.Network, *, main: str = "bridge", version: str = "1.0.0", **options: object
    ) -> None:
        """Define a network: our plugin's options are keywords."""
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": str(network.subnet4)}], [{"subnet": str(network.subnet6)}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        }
        mains: dict[str, dict[str, object]] = {
            "bridge": {"type": "bridge", "bridge": network.device, "isGateway": True, "ipam": ipam},
            "ptp": {"type": "ptp", "ipam": ipam},
        }
        ours = {"type": "dataplane", "capabilities": {"portMappings": True}, **options}
        self.define(network, [mains[main], ours], version=version)

    def define(
        self,
        network: plan.Network,
        plugins: Sequence[Mapping[str, object]],
        path: Sequence[Path] = (),
        *,
        version: str = "1.0.0",
    ) -> None:
        """Define a network by the plugins of its conflist; ``path`` is where they are looked for, ours and Debian's
        where it is empty."""
        text = json.dumps({"cniVersion": version, "name": network.name, "plugins": plugins})
        self._conflists[network.name] = ConfList.parse(text), list(path) or [self.plugins, GO_PLUGINS]

    def install_drop_ins(self) -> Path:
        """Install our executable under the names of others, too; the directory."""
        directory = self._directory / "drop-in"
        places = ("--cni-bin", self.plugins, "--conf", self._directory / "net.d")
        self.dpctl("install", *places, "--drop-in", "--drop-in-bin", directory)
        return directory

    def choose(self, label: str, plugins: Mapping[str, Path]) -> Path:
        """A directory of plugins, each linked from the directory that its name is mapped to."""
        directory = self._directory / label
        directory.mkdir()
        for name, where in plugins.items():
            (directory / name).symlink_to(needs.file(where / name, package="containernetworking-plugins"))
        return directory

    def attach(self, name: str, network: plan.Network, *mappings: dict[str, object], ifname: str = "eth0") -> Attached:
        """ADD a container; again is a repeated ADD of our plugin alone. Raises ``CniError``."""
        place = self.host.namespace(name)
        for scope in ("default", "all"):
            place.sysctl(f"net/ipv6/conf/{scope}/accept_dad", 0)
        result = self.call("add", name, network, mappings, ifname)
        assert isinstance(result, dict)
        made = Attached(name, network, place, mappings, result, ifname)
        self._attached[name, ifname] = made
        return made

    def attached(self, name: str, ifname: str = "eth0") -> Attached:
        """A container that is attached."""
        return self._attached[name, ifname]

    def names(self) -> list[str]:
        """The containers that are attached."""
        return [name for name, _ in self._attached]

    def detach(self, name: str, ifname: str = "eth0") -> None:
        """DEL a container. Raises ``CniError``."""
        one = self._attached.pop((name, ifname))
        self.call("delete", name, one.network, one.mappings, ifname)

    def check(self, name: str, ifname: str = "eth0") -> None:
        """CHECK a container. Raises ``CniError``."""
        one = self._attached[name, ifname]
        self.call("check", name, one.network, one.mappings, ifname)

    def call(
        self, verb: str, name: str, network: plan.Network, mappings: tuple[dict[str, object], ...], ifname: str = "eth0"
    ) -> object:
        """Run the conflist's plugins for a verb, in the sandbox."""
        conflist, path = self._conflists[network.name]
        return self.host.call(
            _call,
            verb,
            path,
            self._directory / "cache",
            conflist,
            (name, f"/run/netns/{name}", ifname, {"portMappings": list(mappings)}),
            self.environment,
        )

    def gc(self, network: plan.Network, *valid: tuple[str, str]) -> None:
        """GC a network. Raises ``CniError``."""
        conflist, path = self._conflists[network.name]
        self.host.call(
            _call,
            "gc",
            path,
            self._directory / "cache",
            conflist,
            (valid,),
            self.environment,
        )

    def serve(self, one: Attached, protocol: str = "tcp", port: int = 80) -> None:
        """Start a server for both families in a container."""
        serve(one.netns, one.name, protocol, port, "::")

    def ruleset(self) -> str:
        """Our table, as nft lists it."""
        return self.host.run("nft", "list", "table", "inet", "dataplane", check=False).stdout

    def published(self) -> set[tuple[str, str, int, str, int]]:
        """What the maps of published ports say: name of the map, protocol, port, and the address and port behind it."""
        listed = json.loads(self.host.run("nft", "-j", "list", "table", "inet", "dataplane").stdout)["nftables"]
        maps = {one["map"]["name"]: one["map"].get("elem", []) for one in listed if "map" in one}
        return {
            # A key with a comment is an object around the key.
            (name, *key.get("elem", {}).get("val", key)["concat"], *value["concat"])
            for name in ("publish4", "publish6")
            for key, value in maps[name]
        }

    def _machine(
        self, name: str, device: str, host4: IPv4Address, host6: IPv6Address, own4: IPv4Address, own6: IPv6Address
    ) -> Namespace:
        place = self.host.namespace(name)
        self.host.link(device, place, "eth0", f"{host4}/24 {host6}/64", f"{own4}/24 {own6}/64")
        place.ip("route", "add", "default", "via", host4)
        place.ip("-6", "route", "add", "default", "via", host6)
        return place


def _call(
    verb: str,
    path: list[Path],
    cache: Path,
    conflist: ConfList,
    arguments: tuple[object, ...],
    environment: dict[str, str],
) -> object:
    import os

    os.environ.update(environment)
    return getattr(Driver(path, cache), verb)(conflist, *arguments)
