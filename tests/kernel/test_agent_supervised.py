"""The agent as systemd runs it: started by the first call, heard by its supervisor, its metrics read."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.protocol.client import AgentClient
from dataplane import __version__
from support import needs, plan
from support.netns import Sandbox, wait_until
from support.world import DPCTL, World, publish

SOCKET, METRICS = Path("/run/dataplane/agent.sock"), Path("/run/dataplane/metrics.sock")


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with one network, and no agent yet."""
    made = World(sandbox, tmp_path)
    made.network(plan.FRONT)
    return made


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    """The datagram socket that NOTIFY_SOCKET names."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(30)
        yield made


def _call() -> int:
    return AgentClient(str(SOCKET), answer_timeout=30).ping().pid


def _scrape(place: str | tuple[str, int]) -> tuple[int, str]:
    client = http.client.HTTPConnection("localhost", timeout=10)
    client.sock = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
    client.sock.connect(place)
    client.request("GET", "/metrics")
    answer = client.getresponse()
    return answer.status, answer.read().decode()


def _signal(pid: int, number: int) -> None:
    os.kill(pid, number)


def test_the_first_call_starts_it(world: World, supervisor: socket.socket, tmp_path: Path) -> None:
    """It takes over the socket, says when it is ready, feeds the watchdog, stops aloud, and leaves the socket."""
    activate = needs.command("systemd-socket-activate", package="systemd")
    world.host.run("install", "-d", "-m", "750", SOCKET.parent)
    environment = {**world.environment, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    passed = [f"--setenv={name}={value}" for name, value in environment.items()]
    waiting = world.host.spawn(activate, f"--listen={SOCKET}", *passed, DPCTL, "agent", stdout=None)
    wait_until(lambda: world.host.exists(SOCKET), 10, "the socket")
    pid = world.host.call(_call)
    wait_until(lambda: supervisor.recv(1000).startswith(b"READY=1\nSTATUS="), 20, "the agent to be ready")
    assert [supervisor.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    world.attach("web", plan.FRONT, publish("8080:80"))
    world.host.call(_signal, pid, signal.SIGTERM)
    wait_until(lambda: supervisor.recv(1000) == b"STOPPING=1", 10, "the last word")
    assert waiting.wait(20) == 0
    assert world.host.exists(SOCKET), "it is the supervisor's"
    assert "8080" in world.ruleset()


def test_metrics_are_read_beside_the_socket(world: World) -> None:
    """Version, requests, attachments and maps, by root alone; the file goes with the agent."""
    agent = world.start_agent()
    world.attach("web", plan.FRONT, publish("8080:80"))
    wait_until(lambda: world.host.exists(METRICS), 10, "the metrics")

    def text() -> str:
        status, body = world.host.call(_scrape, str(METRICS))
        assert status == 200
        return body

    wait_until(lambda: f'dp_attachments{{network="{plan.FRONT.name}"}} 1\n' in text(), 10, "the attachment")
    body = text()
    assert f'dp_build_info{{version="{__version__}"}} 1\n' in body
    assert 'dp_cni_requests_total{cmd="ADD",code="0"} 1\n' in body
    assert 'dp_map_entries{map="networks"} 1\n' in body
    assert "dp_csum_bad_seen_total 0\n" in body
    assert "web" not in body, "no container is named"
    assert world.host.run("stat", "-c", "%a", METRICS).stdout == "600\n"
    world.host.signal(agent, signal.SIGTERM)
    assert agent.wait(20) == 0
    assert not world.host.exists(METRICS)


def test_metrics_are_read_where_the_settings_say(world: World) -> None:
    """A loopback port in place of the socket."""
    Path(world.environment["DATAPLANE_CONFIG"]).write_text('metrics = "127.0.0.1:9477"')
    world.start_agent()

    def answers() -> bool:
        try:
            return world.host.call(_scrape, ("127.0.0.1", 9477))[0] == 200
        except ConnectionRefusedError:
            return False

    wait_until(answers, 10, "the metrics")
    assert not world.host.exists(METRICS)


def test_install_writes_units_and_uninstall_removes_them(world: World, tmp_path: Path) -> None:
    """Where systemd does not run, that is said, and nothing is started; the JSON has the files."""
    places = ("--cni-bin", tmp_path / "bin2", "--conf", tmp_path / "net2.d", "--unit-dir", tmp_path / "units")
    said = world.dpctl("install", *places, "--systemd")
    assert re.search(r"/units/dataplane\.service +installed\n", said)
    assert f"systemd: not told: it does not run this machine, or does not look for units in {tmp_path}/units" in said
    removed = json.loads(world.dpctl("uninstall", *places, "--json"))
    outcomes = {Path(one["path"]).name: one["outcome"] for one in removed["files"]}
    assert outcomes["dataplane.service"] == outcomes["dataplane.socket"] == "removed"
    assert removed["systemd"] == []
