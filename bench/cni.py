"""CNI calls as a runtime makes them, without a runtime: environment and configuration of one attachment.

call = Call(attachment, "ADD", conf)
starter.run(plugin, call.environment, call.text)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CNI_VERSION = "1.0.0"
IFNAME = "eth0"


@dataclass(frozen=True, slots=True)
class Container:
    """A container: its namespace, its address, and what is behind the host's end."""

    name: str
    netns: str
    address: str = ""
    """With its prefix length."""
    gateway: str = ""
    bridge: str = ""
    link: str = ""
    ports: tuple[Mapping[str, object], ...] = field(default=())

    def previous_result(self) -> dict[str, Any]:
        """What a main plugin would have handed on."""
        return {
            "cniVersion": CNI_VERSION,
            "interfaces": [{"name": self.bridge}, {"name": self.link}, {"name": IFNAME, "sandbox": self.netns}],
            "ips": [{"address": self.address, "gateway": self.gateway, "interface": 2}],
            "dns": {},
        }


def environment(verb: str, container: Container, path: str, **more: str) -> dict[str, str]:
    """The parameters of a call."""
    return {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container.name,
        "CNI_NETNS": container.netns,
        "CNI_IFNAME": IFNAME,
        "CNI_PATH": path,
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        **more,
    }


def configuration(
    kind: str, network: str, ports: Sequence[Mapping[str, object]] = (), previous: object = None, **keys: object
) -> str:
    """A plugin's entry of a conflist, as libcni hands it over."""
    conf: dict[str, object] = {"cniVersion": CNI_VERSION, "name": network, "type": kind, **keys}
    if ports:
        conf |= {"capabilities": {"portMappings": True}, "runtimeConfig": {"portMappings": list(ports)}}
    if previous is not None:
        conf["prevResult"] = previous
    return json.dumps(conf)


def port(host: int, container: int, protocol: str = "tcp") -> dict[str, object]:
    """One entry of portMappings."""
    return {"hostPort": host, "containerPort": container, "protocol": protocol}
