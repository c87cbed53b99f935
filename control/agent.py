"""The agent: hosts one engine, answers calls on a unix socket.

    runtime -> plugin -> /run/dataplane/agent.sock -> a thread reads the call -> the engine's thread -> answer

Calls are read by a thread each, so that a slow peer holds up nobody; the engine runs them in one thread of its own, in
the order in which they are complete. What a call means is a *frontend's* affair ("cni" is the plugin's), found by entry
point: this module moves text and a file descriptor.

Be aware: only root may call (SO_PEERCRED, checked by uid); the directory is 0750 and the socket 0600 besides.
"""

from __future__ import annotations

import fcntl
import os
import select
import selectors
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points, version
from pathlib import Path

from control.engine import Engine
from control.errors import EngineError
from control.transport import receive_call, send_answer
from control.wire import Answer, CniCall, Ping, Pong, WireError

FRAME_TIMEOUT = 5.0
"""Seconds that a peer has to send its whole call, and to take its answer."""

MAX_CALLS = 64
"""Callers that are read from at once; more wait."""

_PAUSE = 0.05  # seconds

_UCRED = struct.Struct("3i")

Frontend = Callable[[CniCall, int | None, Engine], Answer]
"""Serves a call: (call, descriptor of the network namespace or None, engine) -> answer. Never raises."""


class AgentRunningError(EngineError):
    """Another agent listens on the socket."""


class Agent:
    """See the module. ``serve`` blocks until ``stop`` is called from another thread or a signal's code."""

    def __init__(self, engine: Engine, path: Path, frontend: Frontend) -> None:
        self._engine, self._frontend, self._path = engine, frontend, path
        self._only = _be_the_only_one(path)
        self._engine_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._callers = ThreadPoolExecutor(max_workers=MAX_CALLS, thread_name_prefix="caller")
        self._listener = _listen(path)
        self._wake, self._waker = socket.socketpair()

    def serve(self) -> None:
        """Answer calls until stopped; those that were accepted are finished first."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while not any(key.fileobj is self._wake for key, _ in selector.select()):
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    # The caller hung up, or there are no descriptors left: the next ones may be luckier.
                    time.sleep(_PAUSE)
                else:
                    self._callers.submit(self._answer, connection)
        self._close()

    def stop(self) -> None:
        """Make ``serve`` return. Safe to call from a signal's code, and twice."""
        self._waker.send(b"\0")

    def _close(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listener.close()
        self._callers.shutdown(wait=True)
        self._engine_thread.shutdown(wait=True)
        os.close(self._only)

    def _answer(self, connection: socket.socket) -> None:
        netns: int | None = None
        try:
            with connection:
                connection.settimeout(FRAME_TIMEOUT)
                if not _is_root(connection):
                    return
                call, netns = receive_call(connection)
                if isinstance(call, Ping):
                    send_answer(connection, Pong(version=version("dataplane"), pid=os.getpid()))
                else:
                    served = self._engine_thread.submit(self._serve, connection, call, netns).result()
                    if served is not None:
                        send_answer(connection, served)
        except (OSError, WireError):
            # A peer that does not speak the protocol, or went away, gets no answer; it has its own time limit.
            return
        finally:
            if netns is not None:
                os.close(netns)

    def _serve(self, connection: socket.socket, call: CniCall, netns: int | None) -> Answer | None:
        # Whoever hung up while the call waited has done the work itself by now, and perhaps undone it: too late.
        return None if _hung_up(connection) else self._frontend(call, netns, self._engine)


def load_frontend() -> Frontend:
    """The frontend that serves CNI calls. Raises ``EngineError`` where the package is not installed whole."""
    for point in entry_points(group="dataplane.frontends", name="cni"):
        loaded: Frontend = point.load()
        return loaded
    raise EngineError('could not find the frontend "cni": the dataplane package is not installed whole')


def _be_the_only_one(path: Path) -> int:
    """Hold the agents' lock for as long as this process lives; its descriptor. Raises ``AgentRunningError``."""
    descriptor = os.open(path.with_name("agent.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AgentRunningError(f"could not listen on {path}: another agent does; stop it first") from None
    return descriptor


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    former = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(former)
    listener.listen(MAX_CALLS)
    return listener


def _hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    return bool(poll.poll(0))


def _is_root(connection: socket.socket) -> bool:
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return bool(uid == 0)
