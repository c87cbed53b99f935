"""The agent while it looks at everything: a call that comes waits for a piece of that, and not for all of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from control.agent.agent import Agent, CallersEngine, Frontend
from control.agent.history import History
from control.agent.metrics import Metrics
from control.engine import Engine
from control.model import AttachmentKey
from control.protocol.client import AgentClient
from control.protocol.wire import Answer, CniCall
from control.repair.reconciler import Outcome, Part
from dataplane.types import IfIndex
from support.attachments import key
from support.fakeworld import fake_world
from support.netns import Sandbox
from support.resident import GENEROUS

PIECE = 0.01  # seconds


class EndlessEngine(Engine):
    """One whose look at everything has no end before a request was served."""

    served_within = False

    def delete(self, key: AttachmentKey) -> None:
        super().delete(key)
        self.served_within = True

    def looks(self, parts: frozenset[Part], veths: frozenset[IfIndex] | None = None) -> Iterator[Outcome]:
        end = time.monotonic() + GENEROUS
        while not self.served_within and time.monotonic() < end:
            time.sleep(PIECE)
            yield Outcome()
        yield from super().looks(parts, veths)


def serve(_call: CniCall, _netns: int | None, engine: CallersEngine) -> Answer:
    """Any call is a DEL."""
    engine.delete(key("web"))
    return Answer("", "", 0)


def call_meanwhile() -> tuple[int, float, bool]:
    """Inside a sandbox: the exit status of a call to an agent that has just started, the seconds that it took, and
    whether the look came to its end afterwards."""
    with TemporaryDirectory() as directory, fake_world(Path(directory, "state")) as world:
        engine, path = EndlessEngine(world.doors.kernel(), Path(directory, "other")), Path(directory, "agent.sock")
        agent = Agent(engine, path, Frontend(serve, lambda _: 0), History(), Metrics())
        thread = threading.Thread(target=agent.serve)
        thread.start()
        began = time.monotonic()
        answer = AgentClient(str(path)).call(CniCall({"CNI_COMMAND": "DEL"}, "{}"))
        took = time.monotonic() - began
        while not agent.settled and time.monotonic() < began + 2 * GENEROUS:
            time.sleep(PIECE)
        settled = agent.settled
        agent.stop()
        thread.join()
        engine.close()
        return answer.exit_code, took, settled


def test_a_call_is_served_between_two_pieces(sandbox: Sandbox) -> None:
    """It is answered long before a look that waits for it would have ended, and then the look goes on to its end."""
    code, took, settled = sandbox.call(call_meanwhile)
    assert code == 0
    assert took < GENEROUS
    assert settled


def stop_meanwhile() -> bool:
    """Inside a sandbox: whether an agent that is stopped within a look without an end has ended."""
    with TemporaryDirectory() as directory, fake_world(Path(directory, "state")) as world:
        engine, path = EndlessEngine(world.doors.kernel(), Path(directory, "other")), Path(directory, "agent.sock")
        agent = Agent(engine, path, Frontend(serve, lambda _: 0), History(), Metrics())
        thread = threading.Thread(target=agent.serve)
        thread.start()
        AgentClient(str(path)).ping()
        agent.stop()
        thread.join(GENEROUS / 2)
        ended = not thread.is_alive()
        thread.join()
        engine.close()
        return ended


def test_an_agent_that_is_stopped_within_a_look_ends(sandbox: Sandbox) -> None:
    """What is left of the look is the next agent's."""
    assert sandbox.call(stop_meanwhile)
