"""The process that runtimes start: with and without an agent, whatever its descriptors are, and what it imports.

In each of its forms: the program in C, the same with its memory watched, and the Python script.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from control.protocol.wire import Answer, CniCall
from plugin.errors import Code
from plugin.skel import dispatch
from support.cni import VERSIONS, RecordingEngine, configuration, environment, error_of
from support.shims import KINDS, PACKAGE, Program, Script, Serve, Shim
from support.shims import agent as agent_of

ASKED = b'{"cniVersion": "%s"}'
"""How libcni asks for VERSION."""


@pytest.fixture(params=["script", *KINDS])
def shim(request: pytest.FixtureRequest, tmp_path: Path) -> Shim:
    """The process in each of its forms, and no agent."""
    return Script(tmp_path) if request.param == "script" else Program(request.param, tmp_path)


@pytest.fixture
def agent(shim: Shim) -> Iterator[Callable[[Serve], None]]:
    """Starts an agent that serves one call; None ends the connection without an answer."""
    with ExitStack() as stack:

        def start(answer: Serve) -> None:
            stack.enter_context(agent_of(shim, [answer]))

        yield start


def test_the_agent_serves(shim: Shim, agent: Callable[[Serve], None], tmp_path: Path) -> None:
    """The call reaches the agent whole, with the namespace's descriptor, and its answer is the process's."""
    seen: list[tuple[CniCall, bytes]] = []

    def answer(call: CniCall, netns: int | None) -> Answer:
        assert netns is not None
        seen.append((call, os.read(netns, 100)))
        return Answer('{"from": "agent"}', "a note\n", 0)

    agent(answer)
    (tmp_path / "netns").write_bytes(b"the namespace")
    env = environment("ADD", CNI_NETNS=str(tmp_path / "netns"), PRIVATE="x", TRACEPARENT="00-1")
    assert shim.run(env, b'{"raw": "\xff"}') == Answer('{"from": "agent"}', "a note\n", 0)
    ((call, read),) = seen
    assert read == b"the namespace"
    assert call.stdin == '{"raw": "\udcff"}'
    assert call.environment == {name: value for name, value in env.items() if name != "PRIVATE"}
    assert call.netns_error == ""


def test_the_agents_failure_is_the_process(shim: Shim, agent: Callable[[Serve], None]) -> None:
    """An error that the agent answers is not tried again here."""
    agent(lambda _call, _netns: Answer('{"code": 101}', "", 1))
    assert shim.run(environment("DEL")) == Answer('{"code": 101}', "", 1)


def test_why_the_namespace_could_not_be_opened(shim: Shim, agent: Callable[[Serve], None]) -> None:
    """The kernel's answer travels in the descriptor's place."""
    seen = []

    def answer(call: CniCall, netns: int | None) -> Answer:
        seen.append((call.netns_error, netns))
        return Answer("")

    agent(answer)
    shim.run(environment("DEL", CNI_NETNS="/run/netns/is-gone"))
    assert seen == [("No such file or directory", None)]


def test_without_agent_the_same_answer(shim: Shim) -> None:
    """No agent is no error: the process serves the call itself."""
    error = error_of(shim.run(environment("ADD"), json.dumps(configuration(snat="x")).encode()))
    assert error["details"] == 'snat: "x" is a string, not true or false'


def test_an_answer_that_is_lost(shim: Shim, agent: Callable[[Serve], None]) -> None:
    """An agent that dies with the call in its hands leaves it to the process."""
    agent(lambda _call, _netns: None)
    assert error_of(shim.run(environment("ADD"), b"{"))["code"] == Code.DECODE


def test_a_socket_that_nobody_serves(shim: Shim) -> None:
    """What a killed agent leaves behind holds up nobody."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(shim.socket))
    assert error_of(shim.run(environment("ADD"), b"{"))["code"] == Code.DECODE


@pytest.mark.parametrize("fill", [b"x", b"\0"], ids=["text", "escapes"])
def test_too_much_input(shim: Shim, fill: bytes) -> None:
    """More than a MiB on standard input is refused, not cut; also where it does not fit in a frame."""
    answer = shim.run(environment("ADD"), b'{"a": "' + fill * (4 << 20) + b'"}')
    assert error_of(answer)["code"] == Code.DECODE


def test_started_by_hand(shim: Shim) -> None:
    """Without CNI_COMMAND it says what it is and does not wait for input."""
    read, write = os.pipe()  # nothing is ever written
    done = subprocess.run(
        shim.argv(), stdin=read, env=shim.environment({}), capture_output=True, timeout=20, check=False
    )
    os.close(read)
    os.close(write)
    assert done.returncode == 0
    assert done.stdout == b""
    assert done.stderr.startswith(b"CNI dataplane plugin v")


def test_without_site(tmp_path: Path) -> None:
    """The installed script skips site and finds its packages all the same."""
    assert error_of(Script(tmp_path).run(environment("ADD"), b"{", "-S"))["code"] == Code.DECODE


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_descriptors(shim: Shim, closed: int) -> None:
    """A closed standard stream ends in an exit status, not in a traceback."""
    redirect = {0: "<&-", 1: ">&-", 2: "2>&-"}[closed]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *shim.argv()],
        env=shim.environment(environment("ADD")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stdout + done.stderr


def test_a_reader_that_is_gone(shim: Shim) -> None:
    """A runtime that does not wait for the answer causes no traceback; a result nobody got is no success."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        shim.argv(), stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE,
        env=shim.environment({"CNI_COMMAND": "VERSION"}), timeout=20, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_fifo_as_namespace(shim: Shim, tmp_path: Path) -> None:
    """A path that leads to a FIFO does not hold up the runtime."""
    os.mkfifo(tmp_path / "fifo")
    env = environment("ADD", CNI_NETNS=str(tmp_path / "fifo"))
    error = error_of(shim.run(env, json.dumps(configuration()).encode()))
    assert error["code"] == Code.INVALID_NETNS


HEAVY = {
    "asyncio", "bcc", "click", "dataclasses", "importlib.metadata", "inspect", "ipaddress", "logging", "nftables",
    "pathlib", "pyroute2", "sqlite3", "subprocess", "plugin.skel", "control.model", "control.engine",
}  # fmt: skip


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("plugin.shim, control.protocol.client, control.protocol.wire", HEAVY),
        ("plugin.shim", HEAVY | {"json", "re", "socket", "typing", "control.protocol.client", "control.protocol.wire"}),
    ],
    ids=["to the agent", "VERSION"],
)
def test_what_the_shim_imports(modules: str, heavy: set[str]) -> None:
    """A runtime waits for every import: on the way to the agent there is none of the expensive ones, and for VERSION,
    which podman asks for all the time, next to none."""
    code = f"import sys; sys.path.append(sys.argv[1]); import {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code, str(PACKAGE)], capture_output=True, text=True, timeout=20, check=True
    )
    assert heavy & set(done.stdout.split()) == set()


@pytest.mark.parametrize("stdin", [b"", b"{}", b'{"cniVersion":"9"}', *(ASKED % one.encode() for one in VERSIONS)])
def test_versions_without_the_rest(shim: Shim, stdin: bytes) -> None:
    """What is answered before anything is imported is what dispatch answers."""
    full = dispatch(CniCall({"CNI_COMMAND": "VERSION"}, stdin.decode()), None, RecordingEngine().open)
    assert shim.run({"CNI_COMMAND": "VERSION"}, stdin) == full


def test_standard_input_that_cannot_be_read(shim: Shim) -> None:
    """SPEC 1.1, Error: "5 - I/O failure"; VERSION is answered all the same."""
    for verb, status in (("ADD", 1), ("VERSION", 0)):
        unreadable = os.open("/dev/null", os.O_WRONLY)
        done = subprocess.run(
            shim.argv(),
            stdin=unreadable,
            env=shim.environment(environment(verb)),
            capture_output=True,
            timeout=20,
            check=False,
        )
        os.close(unreadable)
        assert done.returncode == status
        if status:
            assert json.loads(done.stdout)["code"] == Code.IO
            assert json.loads(done.stdout)["details"] == "Bad file descriptor"
