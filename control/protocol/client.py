"""The agent's client: one call, one answer, over the agent's unix socket.

    answer = AgentClient().call(CniCall(environment, stdin), netns)

Be aware: the plugin imports this on every call: the standard library only, and little of it. Answers are not retried
here. Whoever gets ``AgentUnreachableError`` may do the work itself even where the request had been sent in full: ADD
and DEL are idempotent by the key of the attachment, and the lock of the state puts the two one after the other.
"""

from __future__ import annotations

import socket
import time

from control.errors import EngineError
from control.protocol.transport import receive_answer, send_call
from control.protocol.wire import (
    AgentAnswer,
    AgentCall,
    Answer,
    CniCall,
    EventsCall,
    Ping,
    Pong,
    ReconcileCall,
    Reconciled,
    RecordAnswer,
    WireError,
)
from dataplane.netns import scoped

SOCKET_PATH = scoped("/run/dataplane") + "/agent.sock"
CONNECT_TIMEOUT = 1.0
"""Seconds. A local connect blocks only while the agent's backlog is full."""
ANSWER_TIMEOUT = 30.0
"""Seconds without a byte of the answer: many times what the longest request takes, less than runtimes wait."""

_SHORTEST = 0.001
"""Seconds; none at all would mean not to wait, and not to read what is there."""
_OTHER = "the agent answered something else than it was asked"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class AgentUnreachableError(EngineError):
    """No agent listens, or it went away before it had answered in full."""


class AgentClient:
    """Speaks to the agent behind one socket; a connection for each call."""

    def __init__(
        self, path: str = SOCKET_PATH, connect_timeout: float = CONNECT_TIMEOUT, answer_timeout: float = ANSWER_TIMEOUT
    ) -> None:
        self._path, self._connect_timeout, self._answer_timeout = path, connect_timeout, answer_timeout

    def call(self, call: CniCall, netns: int | None = None) -> Answer:
        """Have the agent serve a call; ``netns`` is the open descriptor of CNI_NETNS and stays the caller's.

        Raises ``AgentUnreachableError``, or ``WireError`` where call or answer do not follow the protocol.
        """
        answer = self._exchange(call, netns)
        if not isinstance(answer, Answer):
            raise WireError(_OTHER)
        return answer

    def ping(self) -> Pong:
        """Ask the agent who it is. Raises ``AgentUnreachableError`` or ``WireError``."""
        answer = self._exchange(Ping(), None)
        if not isinstance(answer, Pong):
            raise WireError(_OTHER)
        return answer

    def reconcile(self) -> Reconciled:
        """Have the agent look at everything. Raises ``AgentUnreachableError`` or ``WireError``."""
        answer = self._exchange(ReconcileCall(), None)
        if not isinstance(answer, Reconciled):
            raise WireError(_OTHER)
        return answer

    def events(
        self, since: int = 0, *, follow: bool = False, deadline: float | None = None
    ) -> Iterator[Mapping[str, object]]:
        """What happened after record number ``since``, and with ``follow`` what happens from now on, until the agent
        ends, or the clock (``time.monotonic``) shows ``deadline``. Raises ``AgentUnreachableError`` where none answers,
        or ``WireError``."""
        with self._connect() as agent:
            send_call(agent, EventsCall(since, follow))
            while True:
                if deadline is not None:
                    agent.settimeout(max(deadline - time.monotonic(), _SHORTEST))
                elif follow:
                    agent.settimeout(None)  # nothing may happen for hours
                try:
                    answer = receive_answer(agent)
                except ConnectionResetError:
                    return
                except TimeoutError as error:
                    if deadline is None:
                        raise self._unreachable(error) from None
                    return
                if not isinstance(answer, RecordAnswer):
                    raise WireError(_OTHER)
                yield answer.record

    def _exchange(self, call: AgentCall, netns: int | None) -> AgentAnswer:
        try:
            with self._connect() as agent:
                send_call(agent, call, netns)
                return receive_answer(agent)
        except OSError as error:
            raise self._unreachable(error) from None

    def _connect(self) -> socket.socket:
        agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            agent.settimeout(self._connect_timeout)
            agent.connect(self._path)
            agent.settimeout(self._answer_timeout)
        except OSError as error:
            agent.close()
            raise self._unreachable(error) from None
        return agent

    def _unreachable(self, error: OSError) -> AgentUnreachableError:
        return AgentUnreachableError(f"could not reach the agent at {self._path}: {error.strerror or error}")
