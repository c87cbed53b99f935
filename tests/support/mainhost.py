"""A host whose containers are attached by our main plugin: how it is called, and what is there of them afterwards.

host = main_host("dataplane-bridge", sandbox, tmp_path)
conf = host.attach("web")                                   # ADD; with prevResult, for CHECK and DEL
host.plugin.succeeds("DEL", conf, **env_of("web"))
assert host.left() == ([], set(), [])
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.protocol.client import SOCKET_PATH
from support import plan
from support.netns import Namespace, Sandbox, wait_until
from support.started import DPCTL, Plugin, install

MAIN = {"dataplane-bridge": ("dataplane-bridge", False), "bridge, by the agent": ("bridge", True)}
"""The plugins that these promises are of, and whether an agent serves them."""

LEASES = f"/var/lib/cni/networks/{plan.FRONT.name}"
GATEWAY = str(plan.FRONT.gateway4)
IPAM: dict[str, Any] = {
    "type": "host-local",
    "ranges": [[{"subnet": str(plan.FRONT.subnet4), "gateway": GATEWAY}]],
    "routes": [{"dst": "0.0.0.0/0"}],
}
DNS = {"nameservers": [GATEWAY], "domain": "front.example", "search": ["front.example"], "options": ["ndots:2"]}


@dataclass(frozen=True, slots=True)
class Host:
    """A host, and the plugin that attaches containers to its br-front."""

    sandbox: Sandbox
    plugin: Plugin

    def conf(self, **changed: Any) -> dict[str, Any]:
        """A configuration; ``key=None`` takes a key away."""
        written = {
            "cniVersion": "1.1.0",
            "name": plan.FRONT.name,
            "type": self.plugin.type,
            "bridge": plan.FRONT.device,
            "isGateway": True,
            "ipam": IPAM,
            "dns": DNS,
            **changed,
        }
        return {name: value for name, value in written.items() if value is not None}

    def attach(self, name: str = "web", ifname: str = "eth0", **changed: Any) -> dict[str, Any]:
        """ADD a container; the configuration by which a runtime CHECKs and DELs it."""
        self.sandbox.namespace(name)
        conf = self.conf(**changed)
        return conf | {"prevResult": self.plugin.succeeds("ADD", conf, **env_of(name, ifname))}

    def inside(self, name: str = "web") -> Namespace:
        """A container's network namespace."""
        return self.sandbox.namespace(name)

    def leases(self) -> list[str]:
        """The addresses that are taken, by host-local's files."""
        found = self.sandbox.run("find", LEASES, "-name", "10.*", "-printf", "%f\n", check=False).stdout
        return sorted(found.split())

    def ports(self) -> set[str]:
        """What is plugged into the bridge."""
        listed = self.sandbox.run("ip", "-json", "link", "show", "type", "veth").stdout
        return {link["ifname"] for link in json.loads(listed or "[]") if link.get("master") == plan.FRONT.device}

    def left(self) -> tuple[list[str], set[str], list[object]]:
        """What is there of containers: leases, ports of the bridge, attachments that dpctl knows."""
        known = json.loads(self.sandbox.run(DPCTL, "ps", "--json").stdout)["attachments"]
        return self.leases(), self.ports(), known


def main_host(which: str, sandbox: Sandbox, directory: Path) -> Host:
    """A host with one of ``MAIN``."""
    name, by_the_agent = MAIN[which]
    made = Host(sandbox, install(sandbox, directory, name))
    if by_the_agent:
        with (directory / "agent.log").open("w") as log:
            sandbox.spawn(DPCTL, "agent", stdout=log, stderr=log)
        wait_until(lambda: sandbox.exists(SOCKET_PATH), 20.0, "the agent's socket")
    return made


def env_of(container: str, ifname: str = "eth0", **more: str) -> dict[str, str | None]:
    """The parameters of an attachment."""
    return {"CNI_CONTAINERID": container, "CNI_NETNS": f"/run/netns/{container}", "CNI_IFNAME": ifname, **more}


def link_of(place: Namespace | Sandbox, name: str) -> dict[str, Any]:
    """A link with its addresses."""
    (link,) = json.loads(place.ip("-json", "address", "show", "dev", name))
    assert isinstance(link, dict)
    return link


def addresses_of(place: Namespace | Sandbox, name: str = "eth0") -> list[str]:
    """A link's IPv4 addresses, with prefix length."""
    infos = link_of(place, name)["addr_info"]
    return [f"{one['local']}/{one['prefixlen']}" for one in infos if one["family"] == "inet"]
