"""The agent's client: one call, one answer, over the agent's unix socket.

    answer = AgentClient().call(CniCall(environment, stdin), netns)

Be aware: the plugin imports this on every call: the standard library only, and little of it. Answers are not retried
here. Whoever gets ``AgentUnreachableError`` may do the work itself even where the request had been sent in full: ADD
and DEL are idempotent by the key of the attachment, and the lock of the state puts the two one after the other.
"""

from __future__ import annotations

import socket

from control.errors import EngineError
from control.transport import receive_answer, send_call
from control.wire import Answer, CniCall, Ping, Pong, WireError
from dataplane.netns import scoped

SOCKET_PATH = scoped("/run/dataplane") + "/agent.sock"
CONNECT_TIMEOUT = 1.0
"""Seconds. A local connect blocks only while the agent's backlog is full."""
ANSWER_TIMEOUT = 30.0
"""Seconds without a byte of the answer: many times what the longest request takes, less than runtimes wait."""


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
            raise WireError("the agent answered something else than it was asked")
        return answer

    def ping(self) -> Pong:
        """Ask the agent who it is. Raises ``AgentUnreachableError`` or ``WireError``."""
        answer = self._exchange(Ping(), None)
        if not isinstance(answer, Pong):
            raise WireError("the agent answered something else than it was asked")
        return answer

    def _exchange(self, call: CniCall | Ping, netns: int | None) -> Answer | Pong:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
                agent.settimeout(self._connect_timeout)
                agent.connect(self._path)
                agent.settimeout(self._answer_timeout)
                send_call(agent, call, netns)
                return receive_answer(agent)
        except OSError as error:
            cause = error.strerror or str(error)
            raise AgentUnreachableError(f"could not reach the agent at {self._path}: {cause}") from None
