"""The executable in C on a real host: with the agent, with one that hangs or dies, without one, without Python, and the
DELs that nothing could carry out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from control.protocol.queue import QUEUE_DIRECTORY
from plugin.errors import Code
from plugin.native import installed
from support import needs, plan
from support.mainhost import LEASES, Host, addresses_of, env_of
from support.netns import Sandbox, wait_until
from support.shims import LIMITS, PACKAGE, compiled
from support.started import DPCTL, Plugin, install, words_of

STATIC = Path("/usr/lib/cni/static")
GONE = "/nowhere/bin/python3"


@pytest.fixture
def host(sandbox: Sandbox, tmp_path: Path) -> Host:
    """A host on which the program in C is installed, and no agent runs."""
    made = Host(sandbox, install(sandbox, tmp_path, "dataplane-bridge"))
    needs.that(made.plugin.path.read_bytes().startswith(b"\x7fELF"), "a C compiler (apt-get install gcc libc6-dev)")
    return made


def start_agent(host: Host) -> subprocess.Popen[str]:
    """An agent that answers."""
    agent = host.sandbox.spawn(DPCTL, "agent", stderr=subprocess.DEVNULL)
    wait_until(lambda: host.sandbox.run(DPCTL, "status", "--agent", check=False).returncode == 0, 20.0, "the agent")
    return agent


def without_python(host: Host, directory: Path) -> Host:
    """The same host, on which the executable's Python was removed."""
    content = host.plugin.path.read_bytes().replace(sys.executable.encode(), GONE.encode())
    return Host(host.sandbox, _executable(host, directory / "gone", content))


def with_short_limits(host: Host, directory: Path) -> Host:
    """The same host, with an executable that tests can tell how long to wait."""
    content = compiled("plain").read_bytes() + installed.trailer(sys.executable, str(PACKAGE))
    return Host(host.sandbox, _executable(host, directory / "short", content))


def _executable(host: Host, directory: Path, content: bytes) -> Plugin:
    directory.mkdir()
    path = directory / host.plugin.type
    path.write_bytes(content)
    path.chmod(0o755)
    return Plugin(host.sandbox, path)


SHORT = {**LIMITS, "TEST_SILENCE": "500", "TEST_RUN": "/run/dataplane", "TEST_STATE": "/var/lib/dataplane"}


def waiting(host: Host) -> list[str]:
    """Files in the queue of DELs."""
    listed = host.sandbox.run("find", QUEUE_DIRECTORY, "-name", "*.json", check=False).stdout
    return listed.split()


def test_the_agent_serves_all_of_it(host: Host, tmp_path: Path) -> None:
    """With an agent no Python is needed: ADD, CHECK and DEL go by the socket, and leave nothing."""
    start_agent(host)
    only = without_python(host, tmp_path)
    conf = only.attach()
    assert addresses_of(only.inside()) == [f"{plan.FRONT.host4(2)}/24"]
    only.plugin.succeeds("CHECK", conf, **env_of("web"))
    only.plugin.succeeds("DEL", conf, **env_of("web"))
    assert only.left() == ([], set(), [])


def test_without_an_agent_the_same(host: Host) -> None:
    """Python goes on with the namespace that is open: ADD, CHECK and DEL do the same without an agent."""
    conf = host.attach()
    assert addresses_of(host.inside()) == [f"{plan.FRONT.host4(2)}/24"]
    host.plugin.succeeds("CHECK", conf, **env_of("web"))
    host.plugin.succeeds("DEL", conf, **env_of("web"))
    assert host.left() == ([], set(), [])


def waits_for_the_agent(nsenter: subprocess.Popen[str]) -> bool:
    """Whether the program has a connection and waits for what comes over it."""
    for child in Path(f"/proc/{nsenter.pid}/task/{nsenter.pid}/children").read_text().split():
        process = Path("/proc", child)
        connected = any(str(link.readlink()).startswith("socket:") for link in (process / "fd").iterdir())
        return connected and "poll" in (process / "wchan").read_text()
    return False


def test_an_agent_that_is_killed_with_the_call(host: Host) -> None:
    """A call that the agent takes to its grave is done again: once, and whole."""
    agent = start_agent(host)
    host.sandbox.namespace("web")
    host.sandbox.signal(agent, signal.SIGSTOP)
    variables = {"CNI_COMMAND": "ADD", "CNI_PATH": "/usr/lib/cni", **env_of("web")}
    with subprocess.Popen(
        ["nsenter", f"--target={host.sandbox.pid}", "--mount", "--net", "--pid", host.plugin.path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={k: v for k, v in variables.items() if v},
    ) as call:  # fmt: skip
        assert call.stdin is not None
        call.stdin.write(json.dumps(host.conf()))
        call.stdin.close()
        wait_until(lambda: waits_for_the_agent(call), 20.0, "the call has been sent")
        host.sandbox.signal(agent, signal.SIGKILL)
        assert call.wait(timeout=60) == 0
    assert host.leases() == [str(plan.FRONT.host4(2))]
    assert len(host.ports()) == 1
    host.plugin.succeeds("DEL", host.conf(), **env_of("web"))
    assert host.left() == ([], set(), [])


def test_an_agent_that_hangs(host: Host, tmp_path: Path) -> None:
    """An agent that says nothing for too long is done without; when it wakes up, it drops what nobody waits for."""
    agent = start_agent(host)
    short = with_short_limits(host, tmp_path)
    short.sandbox.namespace("web")
    host.sandbox.signal(agent, signal.SIGSTOP)
    short.plugin.succeeds("ADD", short.conf(), **env_of("web"), **SHORT)
    short.plugin.succeeds("DEL", short.conf(), **env_of("web"), **SHORT)
    host.sandbox.signal(agent, signal.SIGCONT)
    wait_until(lambda: host.sandbox.run(DPCTL, "status", "--agent", check=False).returncode == 0, 20.0, "the agent")
    assert host.left() == ([], set(), [])


def test_a_call_that_the_agent_declines(host: Host) -> None:
    """With another plugin's IPAM the agent declines, and Python serves the call in the runtime's environment."""
    needs.file(STATIC, package="containernetworking-plugins")
    start_agent(host)
    address = f"{plan.FRONT.host4(9)}/24"
    conf = host.conf(cniVersion="1.0.0", ipam={"type": "static", "addresses": [{"address": address}]})
    host.sandbox.namespace("web")
    variables = env_of("web", CNI_PATH=str(STATIC.parent))
    result = host.plugin.succeeds("ADD", conf, **variables)
    assert [one["address"] for one in result["ips"]] == [address]
    assert addresses_of(host.inside()) == [address]
    host.plugin.succeeds("DEL", conf, **variables)
    assert host.left() == ([], set(), [])


@pytest.mark.parametrize("agent", [False, True], ids=["embedded", "agent"])
def test_hostile_input(host: Host, agent: bool) -> None:
    """Whatever is on standard input: a CNI error on standard output, and nothing is changed."""
    if agent:
        start_agent(host)
    host.sandbox.namespace("web")
    for text in (
        "",
        "\0",
        "{",
        "[" * 100_000,
        '{"a":' * 10_000,
        "x" * (1 << 20) + "yz",
        '"\\ud800"',
        '{"name": 1e999}',
    ):
        error = host.plugin.fails("ADD", text, **env_of("web"))
        assert error["code"] == Code.DECODE, text[:20]
    assert host.left() == ([], set(), [])


def test_status_says_that_plugins_start_slowly(host: Host) -> None:
    """A script where there could be the program is no problem, but worth a note; the program is worth none."""
    host.sandbox.run("mount", "-t", "tmpfs", "tmpfs", "/opt")
    place = ("--cni-bin", "/opt/cni/bin", "--conf", "/run/net.d")
    host.sandbox.run(DPCTL, "install", *place)
    assert json.loads(host.sandbox.run(DPCTL, "status", "--json").stdout)["notes"] == []
    host.sandbox.run("tee", "/opt/cni/bin/dataplane", input=installed.script())
    (note,) = json.loads(host.sandbox.run(DPCTL, "status", "--json").stdout)["notes"]
    assert note == "plugins start through Python (/opt/cni/bin/dataplane): dpctl install puts the executable in C there"
    assert note in host.sandbox.run(DPCTL, "status").stdout
    assert "dataplane" in host.sandbox.run(DPCTL, "install", *place).stdout
    assert json.loads(host.sandbox.run(DPCTL, "status", "--json").stdout)["notes"] == []


def test_files_of_another_network_namespace(host: Host, tmp_path: Path) -> None:
    """Beside the host's namespace the program finds socket and queue where Python finds them."""
    beside = host.sandbox.namespace("beside")
    code = "from control.protocol.queue import QUEUE_DIRECTORY; print(QUEUE_DIRECTORY)"
    directory = beside.python(code).stdout.strip()
    assert directory.startswith("/var/lib/dataplane-netns-")
    lone = without_python(host, tmp_path)
    conf = json.dumps(host.conf())
    variables = {name: value for name, value in env_of("web").items() if value}
    beside.run(lone.plugin.path, env={"CNI_COMMAND": "DEL", **variables}, input=conf)
    listed = host.sandbox.run("find", directory, "-name", "*.json").stdout
    assert len(listed.split()) == 1
    assert waiting(host) == []


def break_engine(host: Host) -> None:
    """From now on no request to an engine can succeed: its directory is another one, and cannot be written."""
    host.sandbox.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/run/dataplane")


def mend_engine(host: Host) -> None:
    """Put the directory back."""
    host.sandbox.run("umount", "/run/dataplane")


def kept(host: Host, conf: dict[str, Any], container: str = "web") -> None:
    """A DEL that cannot be carried out now."""
    answer = host.plugin("DEL", conf, **env_of(container))
    assert (answer.stdout, answer.exit_code) == ("", 0), answer
    assert answer.stderr.startswith("dataplane: the DEL is kept for later: ")
    assert len(waiting(host)) == 1


def test_a_delete_that_fails_is_done_by_the_next_call(host: Host) -> None:
    """Where the engine is broken a DEL ends well all the same, and the next call does its work, lease and all."""
    conf = host.attach()
    break_engine(host)
    kept(host, conf)
    error = host.plugin.fails("CHECK", conf, **env_of("web"))
    assert "Read-only file system" in words_of(error)
    mend_engine(host)
    assert host.leases() == [str(plan.FRONT.host4(2))]
    later = host.attach("late")
    assert waiting(host) == []
    assert host.leases() == [str(plan.FRONT.host4(3))]
    assert len(host.ports()) == 1
    host.plugin.succeeds("DEL", later, **env_of("late"))
    assert host.left() == ([], set(), [])


def test_a_container_that_comes_back(host: Host) -> None:
    """The DEL of an attachment never takes its next ADD away."""
    conf = host.attach()
    break_engine(host)
    kept(host, conf)
    mend_engine(host)
    host.sandbox.remove_namespace("web")
    conf = host.attach()
    assert waiting(host) == []
    host.plugin.succeeds("CHECK", conf, **env_of("web"))
    host.attach("late")
    host.plugin.succeeds("CHECK", conf, **env_of("web"))


REPLAY = """
from control.engine import open_engine
from plugin.frontend import replay
with open_engine() as engine:
    print(replay(engine))
"""


def test_a_delete_that_not_even_python_got(host: Host, tmp_path: Path) -> None:
    """What the program kept, Python carries out: all that there was of the container is gone."""
    conf = host.attach()
    lone = without_python(host, tmp_path)
    kept(lone, conf)
    assert host.leases() != []
    assert host.sandbox.python(REPLAY).stdout == "0\n"
    assert waiting(host) == []
    assert host.left() == ([], set(), [])


def test_a_full_disk(host: Host) -> None:
    """Where neither the engine works nor the queue can be written, the runtime is told, with both reasons."""
    conf = host.attach()
    break_engine(host)
    host.sandbox.run("mkdir", "-p", "/var/lib/dataplane")
    host.sandbox.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/var/lib/dataplane")
    error = host.plugin.fails("DEL", conf, **env_of("web"))
    assert "the DEL cannot be kept for later either: " in words_of(error)
    host.sandbox.run("umount", "/var/lib/dataplane")
    mend_engine(host)
    host.plugin.succeeds("DEL", conf, **env_of("web"))
    assert host.left() == ([], set(), [])
    assert host.sandbox.run("find", LEASES, "-name", "10.*").stdout == ""
