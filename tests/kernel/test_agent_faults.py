"""The agent and faults of its own, or of what it writes to: they cost a line or an answer, and never the agent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from control.agent.agent import MAX_FOLLOWERS, Agent, CallersEngine, Frontend
from control.agent.history import History, Kind
from control.agent.metrics import Metrics
from control.engine import Engine
from control.protocol.client import SOCKET_PATH, AgentClient, AgentUnreachableError
from control.protocol.transport import receive_answer, send_call
from control.protocol.wire import Answer, CniCall, EventsCall, Reconciled
from support.fakeworld import fake_world
from support.netns import Sandbox, wait_until
from support.resident import GENEROUS
from support.world import DPCTL

# -- what it writes to ------------------------------------------------------------------------------------------------


def answers() -> bool:
    """Inside a sandbox: whether the agent does."""
    try:
        AgentClient().ping()
    except AgentUnreachableError:
        return False
    return True


@contextmanager
def agent(host: Sandbox, *words: str, stderr: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """An agent that answers; it is stopped in the end, and takes that well."""
    process = host.spawn(*words or (DPCTL, "agent"), stdout=None, stderr=stderr)
    wait_until(lambda: process.poll() is not None or host.call(answers), GENEROUS, "an agent that answers")
    assert process.poll() is None, "the agent has ended"
    yield process
    if process.poll() is None:
        host.signal(process, signal.SIGTERM)
    assert process.wait(GENEROUS) == 0


@pytest.mark.parametrize("redirection", ["2>/dev/full", "--json >/dev/full", "2>&-", "<&- >&- 2>&-"])
def test_nobody_who_listens_does_not_end_it(sandbox: Sandbox, redirection: str) -> None:
    """What it says is lost on a full disk or a closed stream, what it does goes on, and it still stops as asked."""
    with agent(sandbox, "sh", "-c", f"exec {DPCTL} agent {redirection}"):
        assert "listening on" in sandbox.run(DPCTL, "events").stdout


def test_a_reader_that_went_away_does_not_end_it(sandbox: Sandbox) -> None:
    """A closed pipe is like a full disk."""
    read, write = os.pipe()
    os.close(read)
    try:
        with agent(sandbox, stderr=write):
            assert "listening on" in sandbox.run(DPCTL, "events").stdout
    finally:
        os.close(write)


# -- who follows the events -------------------------------------------------------------------------------------------


def test_following_ends_with_the_agent(sandbox: Sandbox) -> None:
    """Status 4 and a line say that nothing more will come, and why."""
    with agent(sandbox) as process:
        follower = sandbox.spawn(DPCTL, "events", "-f", stderr=subprocess.PIPE)
        assert follower.stdout is not None
        assert "listening on" in follower.stdout.readline()
        sandbox.call(AgentClient().call, CniCall({"CNI_COMMAND": "nonsense"}, "{}"))
        assert "'nonsense'" in follower.stdout.readline()  # so it follows by now
        sandbox.signal(process, signal.SIGTERM)
        process.wait(GENEROUS)  # a second signal, while it ends, would end it otherwise
        _, said = follower.communicate(timeout=GENEROUS)
    assert follower.returncode == 4
    assert said == "dpctl: could not follow the events: the agent ended, or too many follow already\n"


def follow_among_many() -> tuple[int, str]:
    """Inside a sandbox: how ``dpctl events -f`` ends where nobody more can follow."""
    followers = []
    for _ in range(MAX_FOLLOWERS + 1):
        one = socket.socket(socket.AF_UNIX)
        one.connect(SOCKET_PATH)
        send_call(one, EventsCall(0, follow=True))
        followers.append(one)
    # Whichever is one too many is hung up on: from then on every place is taken.
    wait_until(lambda: any(_is_at_its_end(one) for one in followers))
    done = subprocess.run([DPCTL, "events", "-f"], capture_output=True, text=True, timeout=GENEROUS, check=False)
    for one in followers:
        one.close()
    return done.returncode, done.stderr


def _is_at_its_end(follower: socket.socket) -> bool:
    follower.settimeout(0.01)
    try:
        receive_answer(follower)
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    return False


def test_one_follower_too_many_is_told(sandbox: Sandbox) -> None:
    """It does not end as if all were said."""
    with agent(sandbox):
        status, said = sandbox.call(follow_among_many)
    assert status == 4
    assert "too many follow already" in said


# -- faults of ours ---------------------------------------------------------------------------------------------------


class FaultyEngine(Engine):
    """One that does not foresee what it finds."""

    def reconcile(self) -> tuple[list[str], list[str]]:
        raise RuntimeError("torn while reconciling")


def faulty_serve(_call: CniCall, _netns: int | None, _engine: CallersEngine) -> Answer:
    raise RuntimeError("torn while serving")


def faulty_replay(_engine: CallersEngine) -> int:
    raise RuntimeError("torn while replaying")


Faults = tuple[set[tuple[Kind, str]], str, Reconciled, bool]


def call_faulty() -> Faults:
    """Inside a sandbox: what an agent full of faults tells, and answers to a CNI call, to ``reconcile``, and then."""
    with TemporaryDirectory() as directory, _faulty(Path(directory)) as (running, history, client):
        thread = threading.Thread(target=running.serve)
        thread.start()
        try:
            client.call(CniCall({"CNI_COMMAND": "ADD"}, "{}"))
            said = "an answer"
        except AgentUnreachableError:
            said = "no answer"
        reconciled = client.reconcile()
        alive = client.ping().pid == os.getpid()
        running.stop()
        thread.join()
        return {(one.kind, one.text) for one in history.after(0) if "torn" in one.text}, said, reconciled, alive


def test_a_fault_in_a_callers_thread_is_told(sandbox: Sandbox) -> None:
    """The caller is hung up on, or told; the events have it; and the next one is served."""
    told, said, reconciled, alive = sandbox.call(call_faulty)
    places = ("serving", "reconciling", "replaying")
    assert told == {(Kind.FAILED, f"a fault of ours: RuntimeError('torn while {place}')") for place in places}
    assert said == "no answer"
    assert reconciled == Reconciled((), (), "a fault of ours: RuntimeError('torn while reconciling')")
    assert alive


def fail_in_the_loop() -> tuple[str, bool, bool]:
    """Inside a sandbox: how an agent ends whose loop raises, whether its socket is left, and its history open."""

    def torn() -> float:
        raise RuntimeError("torn in the loop")

    with TemporaryDirectory() as directory, _faulty(Path(directory), torn) as (running, history, _client):
        try:
            running.serve()
            said = ""
        except RuntimeError as error:
            said = str(error)
        return said, Path(directory, "agent.sock").exists(), history.closed


def test_a_fault_in_the_loop_leaves_nothing_behind(sandbox: Sandbox) -> None:
    """It ends the agent, so that it is started again; calls under way are finished first, and followers let go."""
    assert sandbox.call(fail_in_the_loop) == ("torn in the loop", False, True)


@contextmanager
def _faulty(
    directory: Path, every_turn: Callable[[], float] = lambda: 0.05
) -> Iterator[tuple[Agent, History, AgentClient]]:
    """An agent on fake doors, with faults."""
    with fake_world(directory / "state") as world:
        engine, history, path = (
            FaultyEngine(world.doors.kernel(), directory / "other"),
            History(),
            directory / "agent.sock",
        )
        frontend = Frontend(faulty_serve, faulty_replay)
        yield Agent(engine, path, frontend, history, Metrics(), every_turn=every_turn), history, AgentClient(str(path))
        engine.close()
