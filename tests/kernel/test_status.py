"""STATUS with its reasons, an agent that is required, and the trace of a call: on one entry that does everything."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from plugin.errors import Code
from support import plan
from support.netns import Sandbox, wait_until
from support.started import DPCTL, Plugin, install, words_of

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def conf(**changed: Any) -> dict[str, Any]:
    """A network of one entry, with three addresses."""
    subnet = f"{plan.FRONT.subnet4.network_address}/29"
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet, "rangeEnd": str(plan.FRONT.host4(3))}]]}
    mine = {"type": "dataplane-bridge", "bridge": plan.FRONT.device, "isGateway": True, "ipam": ipam}
    return {"cniVersion": "1.1.0", "name": plan.FRONT.name, **mine, **changed}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """The settings file; empty."""
    path = tmp_path / "dataplane.toml"
    path.write_text("")
    return path


@pytest.fixture
def plugin(sandbox: Sandbox, tmp_path: Path) -> Plugin:
    """The main plugin, installed."""
    return install(sandbox, tmp_path, "dataplane-bridge")


def start_agent(host: Sandbox, *options: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """An agent that answers."""
    agent = host.spawn(DPCTL, "agent", *options, env=environment, stderr=subprocess.PIPE)
    wait_until(lambda: host.run(DPCTL, "status", "--agent", check=False).returncode == 0, 20.0, "the agent answers")
    return agent


def test_ready(plugin: Plugin) -> None:
    """Where an ADD would work, STATUS says nothing."""
    plugin.succeeds("STATUS", conf())


def test_every_program_that_is_hooked_is_counted(plugin: Plugin) -> None:
    """Those of networks' devices and those of containers' ports; and ps shows what the latter go by."""
    plugin.host.namespace("web")
    plugin.succeeds("ADD", conf())
    said = json.loads(plugin.host.run(DPCTL, "status", "--json").stdout)["programs"]
    listed = json.loads(plugin.host.run(DPCTL, "bpf", "ls", "--json").stdout)["attached"]
    assert said["hooked"] == len([one for one in listed if one["device"]])
    assert {one["program"] for one in listed} >= {"isolation", "checksum", "guard"}
    (web,) = json.loads(plugin.host.run(DPCTL, "ps", "--json").stdout)["attachments"]
    assert (web["guard"], web["checksum"], web["checksum_override"]) == ("full", "repair", None)


def test_a_bpffs_that_is_read_only(plugin: Plugin) -> None:
    """Without a bpffs to write to, an ADD fails: STATUS is 50 and says so, and the ADD that is tried leaves nothing."""
    plugin.host.run("mount", "-o", "remount,ro", "/sys/fs/bpf")
    error = plugin.fails("STATUS", conf())
    assert error["code"] == Code.NOT_AVAILABLE
    assert "/sys/fs/bpf" in words_of(error)
    assert "Read-only file system" in words_of(error)
    plugin.host.namespace("web")
    plugin.fails("ADD", conf())
    assert "veth" not in plugin.host.ip("link")
    leases = plugin.host.run("ls", f"/var/lib/cni/networks/{plan.FRONT.name}").stdout.split()
    assert [name for name in leases if name[0].isdigit()] == []


def test_containers_that_are_affected(plugin: Plugin) -> None:
    """Where the table of running containers was wiped and cannot be made again, STATUS is 51, and 50 for a network
    that has no container."""
    plugin.host.namespace("web")
    plugin.succeeds("ADD", conf())
    plugin.host.run("nft", "delete", "table", "inet", "dataplane")
    # Somebody's table by our name that only its owner may change: every transaction of ours is refused.
    owner = plugin.host.spawn("nft", "-i", stdin=subprocess.PIPE)
    assert owner.stdin is not None
    owner.stdin.write("add table inet dataplane { flags owner; }\n")
    owner.stdin.flush()
    wait_until(lambda: "inet dataplane" in plugin.host.run("nft", "list", "tables").stdout)
    affected = plugin.fails("STATUS", conf())
    assert affected["code"] == Code.LIMITED_CONNECTIVITY
    assert "could not change table inet dataplane" in words_of(affected)
    assert plugin.fails("STATUS", conf(name="other"))["code"] == Code.NOT_AVAILABLE
    owner.stdin.close()
    owner.wait(timeout=10)
    plugin.succeeds("STATUS", conf())


def test_a_required_agent(plugin: Plugin, settings: Path) -> None:
    """With agent = "required" ADD, CHECK and STATUS end with 50 while none runs, and say why; DEL and GC work."""
    settings.write_text('agent = "required"\n')
    environment = {"DATAPLANE_CONFIG": str(settings)}
    plugin.host.namespace("web")
    for verb in ("STATUS", "ADD", "CHECK"):
        previous = {"cniVersion": "1.1.0", "interfaces": [], "ips": []}
        error = plugin.fails(verb, conf(prevResult=previous), **environment)
        assert error["code"] == Code.NOT_AVAILABLE, (verb, error)
        assert 'no agent answers, and the settings say agent = "required"' in words_of(error)
    assert "veth" not in plugin.host.ip("link")
    plugin.succeeds("DEL", conf(), **environment)
    plugin.succeeds("GC", conf(**{"cni.dev/valid-attachments": []}), **environment)
    start_agent(plugin.host, environment=environment)
    plugin.succeeds("STATUS", conf(), **environment)
    plugin.succeeds("ADD", conf(), **environment)
    plugin.succeeds("DEL", conf(), **environment)


def test_the_trace_of_a_call(plugin: Plugin) -> None:
    """TRACEPARENT, as libcni hands it on, is in the agent's line about the call, and in notes on standard error; a call
    without one gets a name of its own."""
    agent = start_agent(plugin.host, "--json")
    plugin.host.namespace("web")
    plugin.succeeds("ADD", conf(), TRACEPARENT=TRACE)
    plugin.fails("CHECK", conf(), TRACEPARENT="not a trace\n{}")
    noted = plugin("GC", conf(), TRACEPARENT=TRACE)
    assert noted.stderr.endswith(f"cni.dev/valid-attachments is missing (trace {TRACE})\n")
    plugin.host.signal(agent, signal.SIGTERM)
    lines = [json.loads(line) for line in agent.communicate(timeout=20)[0].splitlines()]
    served = [
        (one["plugin"], one["verb"], TRACE if one["trace"] == TRACE else "a name of its own", one["exit_code"])
        for one in lines
        if one["event"] == "served"
    ]
    assert served == [
        ("dataplane-bridge", "ADD", TRACE, 0),
        ("dataplane-bridge", "CHECK", "a name of its own", 1),
        ("dataplane-bridge", "GC", TRACE, 0),
    ]


def test_the_agents_log_holds_no_foreign_lines(plugin: Plugin) -> None:
    """What a caller wrote into its environment cannot make a second line in the agent's log."""
    agent = start_agent(plugin.host)
    plugin("DEL", conf(), CNI_CONTAINERID="x\ndataplane agent: forged")
    plugin.host.signal(agent, signal.SIGTERM)
    lines = agent.communicate(timeout=20)[1].splitlines()
    assert all(line.startswith("dataplane agent: ") for line in lines)
    assert not any(line == "dataplane agent: forged" for line in lines)
    assert any("'x\\ndataplane agent: forged'" in line and " failed: " in line for line in lines)


def test_gc_releases_the_leases_of_vanished_containers(plugin: Plugin) -> None:
    """dpctl gc takes what a crashed runtime left, with the address."""
    plugin.host.namespace("web")
    plugin.succeeds("ADD", conf())
    plugin.host.remove_namespace("web")
    lease = f"/var/lib/cni/networks/{plan.FRONT.name}/{plan.FRONT.host4(2)}"
    assert plugin.host.exists(lease)
    assert "removed front/web/eth0 (dataplane-bridge)" in plugin.host.run(DPCTL, "gc").stdout
    assert not plugin.host.exists(lease)
