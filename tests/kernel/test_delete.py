"""What a DEL of the main plugin never does: touch the host's own interfaces, another network's, or fail for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plugin.errors import Code
from support import plan
from support.netns import Sandbox
from support.recorder import NAME, Recorder
from support.started import Plugin, install, words_of


def conf(name: str = "front", **changed: Any) -> dict[str, Any]:
    """A network of one entry."""
    network = plan.FRONT if name == "front" else plan.BACK
    ipam = {"type": "host-local", "ranges": [[{"subnet": str(network.subnet4)}]]}
    mine = {"type": "dataplane-bridge", "bridge": network.device, "isGateway": True, "ipam": ipam}
    return {"cniVersion": "1.0.0", "name": name, **mine, **changed}


@pytest.fixture(params=["dataplane-bridge", "bridge"])
def plugin(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Plugin:
    """The main plugin, installed by both of its names."""
    return install(sandbox, tmp_path, request.param)


def leases(host: Sandbox) -> list[str]:
    found = host.run("find", "/var/lib/cni/networks", "-name", "[0-9]*", check=False).stdout.split()
    return sorted(path.rpartition("/")[2] for path in found)


def test_the_hosts_own_namespace(plugin: Plugin) -> None:
    """A host whose eth0 is a veth (nested in a container) keeps it, whatever a runtime gives for CNI_NETNS."""
    peer = plugin.host.namespace("outer")
    plugin.host.link("eth0", peer, "host0", "192.0.2.1/24")
    plugin.succeeds("DEL", conf(), CNI_NETNS="/proc/self/ns/net")
    assert "192.0.2.1/24" in plugin.host.ip("address", "show", "eth0")


@pytest.mark.parametrize("left", ["a file", "a directory", "a device", "nothing"])
def test_a_namespace_that_is_none(plugin: Plugin, left: str) -> None:
    """What a crash leaves by the name of a namespace is no obstacle: the DEL succeeds, and releases the address."""
    plugin.host.namespace("web")
    plugin.succeeds("ADD", conf())
    assert leases(plugin.host) == [str(plan.FRONT.host4(2))]
    path = {"a file": "/run/left", "a directory": "/run", "a device": "/dev/null", "nothing": "/run/gone"}[left]
    plugin.host.run("touch", "/run/left")
    plugin.succeeds("DEL", conf(), CNI_NETNS=path)
    assert leases(plugin.host) == []
    assert "veth" not in plugin.host.ip("link")


def test_the_delete_of_an_add_that_was_refused(plugin: Plugin) -> None:
    """An ADD to a second network by a name that is taken is refused, and the DEL that runtimes send then leaves the
    first network's interface alone."""
    web = plugin.host.namespace("web")
    plugin.succeeds("ADD", conf())
    refused = plugin.fails("ADD", conf("back"))
    assert '"eth0"' in words_of(refused)
    plugin.succeeds("DEL", conf("back"))
    assert f"{plan.FRONT.host4(2)}/24" in web.ip("address", "show", "eth0")
    assert leases(plugin.host) == [str(plan.FRONT.host4(2))]
    plugin.succeeds("DEL", conf())
    assert leases(plugin.host) == []


def test_a_repeated_add_that_fails_keeps_what_was_there(plugin: Plugin, tmp_path: Path) -> None:
    """Where an attachment is asked for again with a port that another container holds, the first stays whole, also with
    an address that another plugin handed out."""
    ipam = Recorder(tmp_path / "ipam")
    ipam.answers("ADD", {"cniVersion": "1.0.0", "ips": [{"address": f"{plan.FRONT.host4(9)}/24"}]})
    path = {"CNI_PATH": str(ipam.directory)}
    port = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    web = plugin.host.namespace("web")
    plugin.host.namespace("db")
    plugin.succeeds("ADD", conf("back", runtimeConfig=port), CNI_CONTAINERID="db", CNI_NETNS="/run/netns/db")
    plugin.succeeds("ADD", conf(ipam={"type": NAME}), **path)
    error = plugin.fails("ADD", conf(ipam={"type": NAME}, runtimeConfig=port), **path)
    assert error["code"] == Code.PORT_CONFLICT
    assert f"{plan.FRONT.host4(9)}/24" in web.ip("address", "show", "eth0")
    assert ipam.calls == ["ADD", "ADD"]


def test_a_delete_says_what_a_check_needs(plugin: Plugin) -> None:
    """CHECK of what was never attached says what is missing, in a main plugin's words."""
    plugin.host.namespace("web")
    assert "prevResult: is missing: CHECK compares" in json.dumps(plugin.fails("CHECK", conf()))
