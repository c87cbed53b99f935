"""The agent: found by its socket, serves plugins, shrugs off whatever else comes, and may die at any time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from control.protocol.client import AgentClient, AgentUnreachableError
from control.protocol.transport import send_call
from control.protocol.wire import CniCall
from plugin.errors import CniError
from support import plan
from support.netns import Sandbox, wait_until
from support.traffic import ask
from support.world import DPCTL, World, publish

SOCKET = Path("/run/dataplane/agent.sock")


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with one network, and no agent yet."""
    made = World(sandbox, tmp_path)
    made.network(plan.FRONT)
    return made


def start(world: World) -> subprocess.Popen[str]:
    """Start the agent; it listens when this returns."""
    process = world.host.spawn(DPCTL, "agent", env=world.environment, stderr=subprocess.PIPE, stdout=None)
    wait_until(lambda: world.host.exists(SOCKET), 20, "the agent's socket")
    return process


def pid(world: World) -> int | None:
    """The agent's process ID as it says itself."""
    agent = json.loads(world.dpctl("status", "--json", check=False))["agent"]
    return int(agent["pid"]) if agent else None


def break_embedded(world: World) -> None:
    """Make the plugin's own engine fail: what works from now on is the agent's work."""
    Path(world.environment["DATAPLANE_CONFIG"]).write_text("nonsense = 1")


def test_the_plugin_finds_the_agent_by_its_socket(world: World) -> None:
    """ADD, CHECK and DEL are served by the agent when there is one, without any configuration."""
    start(world)
    assert pid(world) is not None
    break_embedded(world)
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    world.serve(web)
    assert ask(world.client, plan.HOST4, 8080) is not None
    world.check("web")
    world.detach("web")
    assert "8080" not in world.ruleset()


def test_agent_and_plugin_share_one_state(world: World) -> None:
    """What was attached without an agent is the agent's when it starts, and the plugin's again when it is gone."""
    world.attach("web", plan.FRONT, publish("8080:80"))
    agent = start(world)
    assert "8080/tcp" in world.dpctl("ports")
    world.attach("late", plan.FRONT, publish("8081:80"))
    world.host.signal(agent, signal.SIGKILL)
    agent.wait()
    assert world.host.exists(SOCKET), "SIGKILL leaves the socket behind"
    world.detach("web")
    world.detach("late")
    assert "808" not in world.ruleset()


def test_a_state_that_was_deleted_is_not_used_any_more(world: World) -> None:
    """The agent goes on with the file that plugins and commands see, and in it is what the kernel still holds."""
    start(world)
    world.attach("web", plan.FRONT, publish("8080:80"))
    world.host.run("rm", "/run/dataplane/state.db")
    world.attach("late", plan.FRONT, publish("8081:80"))
    known = {one["container"] for one in json.loads(world.dpctl("ps", "--json"))["attachments"]}
    assert known == {"web", "late"}
    assert "8080/tcp" in world.dpctl("ports")


def test_an_agent_with_wrong_settings_detaches(world: World) -> None:
    """With a typo in the settings the agent starts, says so, and does what needs none: DEL, and repairs."""
    world.serve(world.attach("web", plan.FRONT, publish("8080:80")))
    world.attach("late", plan.FRONT, publish("8081:80"))
    break_embedded(world)
    start(world)
    assert "nonsense" in world.dpctl("events", "--kind", "problem")
    with pytest.raises(CniError, match="nonsense"):
        world.attach("more", plan.FRONT)
    world.detach("late")
    assert "8081" not in world.ruleset()
    world.host.run("nft", "flush", "ruleset")
    wait_until(lambda: "8080" in world.ruleset(), 20, "the repair")


def test_stopping_the_agent_leaves_the_dataplane(world: World) -> None:
    """SIGTERM ends it with status 0; ports and programs stay, the socket goes, and the next agent starts."""
    agent = start(world)
    world.serve(world.attach("web", plan.FRONT, publish("8080:80")))
    world.host.signal(agent, signal.SIGTERM)
    assert agent.wait(10) == 0
    assert not world.host.exists(SOCKET)
    assert ask(world.client, plan.HOST4, 8080) is not None
    start(world)
    world.check("web")


def test_status_tells_whether_there_is_an_agent(world: World) -> None:
    """``status --agent`` exits with 4 while no agent answers, and with 0 once one does."""
    status = (DPCTL, "status", "--agent")
    assert world.host.run(*status, check=False, env=world.environment).returncode == 4
    start(world)
    assert world.host.run(*status, check=False, env=world.environment).returncode == 0


def test_there_is_one_agent(world: World) -> None:
    """A second agent says that there is one, and goes."""
    start(world)
    second = world.host.run(DPCTL, "agent", check=False, env=world.environment)
    assert second.returncode == 1
    assert "another agent" in second.stderr


def _modes() -> tuple[int, int]:
    return SOCKET.stat().st_mode & 0o777, SOCKET.parent.stat().st_mode & 0o777


def _ask_as_nobody() -> str:
    os.setuid(65534)
    try:
        AgentClient(str(SOCKET)).ping()
    except AgentUnreachableError as error:
        return str(error)
    return "answered"


def test_only_root_may_call(world: World) -> None:
    """Socket and directory are closed to others, and a caller that is not root gets no answer."""
    start(world)
    assert world.host.call(_modes) == (0o600, 0o750)
    assert "Permission denied" in world.host.call(_ask_as_nobody)
    world.host.run("chmod", "777", SOCKET, SOCKET.parent)
    assert "could not reach the agent" in world.host.call(_ask_as_nobody)


def _hang_up(conf: str, environment: dict[str, str]) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(SOCKET))
        send_call(caller, CniCall(environment, conf))


def test_a_call_whose_caller_hung_up_is_dropped(world: World) -> None:
    """Whoever gave up waiting has done the work itself: a DEL that comes to its turn later removes nothing."""
    agent = start(world)
    world.attach("web", plan.FRONT, publish("8080:80"))
    conf = json.dumps({"cniVersion": "1.0.0", "name": plan.FRONT.name, "type": "dataplane"})
    environment = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "web", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
    world.host.signal(agent, signal.SIGSTOP)
    world.host.call(_hang_up, conf, environment)
    world.host.signal(agent, signal.SIGCONT)
    assert pid(world) is not None
    world.check("web")
    assert "tcp . 8080" in world.ruleset()


def _send(frames: list[bytes]) -> list[bytes]:
    answers = []
    for frame in frames:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(8)
            caller.connect(str(SOCKET))
            try:
                caller.sendall(frame)
                caller.shutdown(socket.SHUT_WR)
                answers.append(caller.recv(100))
            except (BrokenPipeError, ConnectionResetError):
                answers.append(b"")
    return answers


def test_hostile_frames_get_no_answer_and_hurt_nobody(world: World) -> None:
    """Oversized, truncated, empty, no JSON, other versions: the connection ends, the agent goes on."""
    start(world)
    bodies = [b"{}", b"[]", b"null", b'{"v":1,"call":"ping"}', b'{"v":3,"call":"reboot"}', b"\xff" * 64, b"[" * 100_000]
    frames = [len(body).to_bytes(4, "big") + body for body in bodies]
    frames += [b"", b"\0", b"\xff\xff\xff\xff" + b"x" * 4096, (1 << 20).to_bytes(4, "big") + b"{"]
    assert world.host.call(_send, frames) == [b""] * len(frames)
    assert pid(world) is not None
    world.attach("web", plan.FRONT, publish("8080:80"))
