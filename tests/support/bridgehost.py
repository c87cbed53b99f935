"""A host on which the main plugin attaches containers, and what is left of them.

with main_host(directory, "dataplane-bridge") as host:
    host.add("web", ipam=IPV4, isGateway=True)
    assert host.check("web") == []
    host.clear()
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import needs, plan
from support.netns import Namespace, Sandbox, outer_state
from support.started import Plugin, install, words_of
from support.world import GO_PLUGINS

BRIDGE = plan.FRONT.device
GATEWAY4, GATEWAY6 = str(plan.FRONT.gateway4), str(plan.FRONT.gateway6)
LEASES = f"/var/lib/cni/networks/{plan.FRONT.name}"
V4, V6 = {"subnet": str(plan.FRONT.subnet4)}, {"subnet": str(plan.FRONT.subnet6)}
MAC, STRANGER = "02:00:5e:00:53:07", "02:00:5e:00:53:ff"


def host_local(*subnets: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "host-local", "ranges": [[subnet] for subnet in subnets], **more}


IPV4, IPV6, DUAL = host_local(V4), host_local(V6), host_local(V4, V6)


@dataclass
class Host:
    """A host, the plugin, and the containers that are attached."""

    sandbox: Sandbox
    plugin: Plugin
    attached: dict[str, dict[str, Any]] = field(default_factory=dict)

    def conf(self, **changed: Any) -> dict[str, Any]:
        """A configuration; ``key=None`` takes a key away."""
        written = {
            "cniVersion": "1.1.0",
            "name": plan.FRONT.name,
            "type": self.plugin.type,
            "bridge": BRIDGE,
            **changed,
        }
        return {name: value for name, value in written.items() if value is not None}

    def add(self, name: str = "web", **changed: Any) -> dict[str, Any]:
        """ADD a container; the configuration by which a runtime CHECKs and DELs it."""
        self.sandbox.namespace(name)
        conf = self.conf(**changed)
        self.attached[name] = conf | {"prevResult": self.plugin.succeeds("ADD", conf, **env_of(name))}
        return self.attached[name]

    def refuses(self, name: str = "web", **changed: Any) -> str:
        """ADD a container, which fails and leaves everything as it was; what the error says."""
        self.sandbox.namespace(name)
        before = self.left(name)
        error = self.plugin.fails("ADD", self.conf(**changed), **env_of(name))
        assert self.left(name) == before
        return words_of(error)

    def delete(self, name: str = "web") -> None:
        """DEL a container, and its namespace."""
        self.plugin.succeeds("DEL", self.attached.pop(name), **env_of(name))
        self.sandbox.remove_namespace(name)

    def check(self, name: str = "web") -> list[str]:
        """CHECK a container: the differences."""
        answer = self.plugin("CHECK", self.attached[name], **env_of(name))
        return [] if answer.exit_code == 0 else str(json.loads(answer.stdout)["details"]).split("; ")

    def inside(self, name: str = "web") -> Namespace:
        return self.sandbox.namespace(name)

    def port(self, name: str = "web") -> str:
        """The host's end of a container."""
        return str(self.attached[name]["prevResult"]["interfaces"][1]["name"])

    def address(self, name: str, version: int = 4) -> str:
        """A container's address."""
        found = [str(one["address"]).partition("/")[0] for one in self.attached[name]["prevResult"]["ips"]]
        return next(one for one in found if (":" in one) == (version == 6))

    def left(self, name: str) -> tuple[list[str], list[str], list[str], str]:
        """Links of the host and of a container, leases, and rules."""
        found = self.sandbox.run("find", LEASES, "-name", "*[.:]*", check=False).stdout.split()
        return (
            names(self.sandbox.ip("-json", "link")),
            names(self.inside(name).ip("-json", "link")),
            sorted(path for path in found if "last_reserved" not in path),
            self.sandbox.run("nft", "-s", "list", "ruleset").stdout,
        )

    def clear(self) -> None:
        """DEL what a test left, and take away the bridge."""
        for name in [*self.attached]:
            self.delete(name)
        self.sandbox.run("rm", "-rf", LEASES)
        for link in json.loads(self.sandbox.ip("-json", "link")):
            if link["ifname"] != "lo":
                self.sandbox.run("ip", "link", "delete", link["ifname"], check=False)


def env_of(container: str, ifname: str = "eth0") -> dict[str, str | None]:
    netns = f"/run/netns/{container}"
    return {"CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": ifname, "CNI_PATH": str(GO_PLUGINS)}


def names(listed: str) -> list[str]:
    return sorted(link["ifname"] for link in json.loads(listed))


def link_of(place: Namespace | Sandbox, name: str = "eth0") -> dict[str, Any]:
    """A link with its addresses."""
    (link,) = json.loads(place.ip("-json", "-details", "address", "show", "dev", name))
    assert isinstance(link, dict)
    return link


@contextmanager
def main_host(directory: Path, plugin: str) -> Iterator[Host]:
    """A host of its own, and the proof that the machine outside is as it was."""
    needs.root()
    outside = outer_state()
    with Sandbox() as sandbox:
        yield Host(sandbox, install(sandbox, directory, plugin))
    assert outer_state() == outside, "something was left on the machine that the tests run on"
