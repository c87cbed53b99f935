"""The agent: hosts one engine, answers calls on a unix socket.

    runtime -> plugin -> /run/dataplane/agent.sock -> a thread reads the call -> the engine's thread -> answer

Calls are read by a thread each, so that a slow peer holds up nobody; the engine runs them in one thread of its own, in
the order in which they are complete. What a call means is a *frontend's* affair ("cni" is the plugin's), found by entry
point: this module moves text and a file descriptor.

Be aware: only root may call (SO_PEERCRED, checked by uid); the directory is 0750 and the socket 0600 besides.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
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

MAX_CALLS = 256
"""Calls under way at once; more wait in the socket's backlog."""

_UCRED = struct.Struct("3i")

Frontend = Callable[[CniCall, int | None, Engine], Answer]
"""Serves a call: (call, descriptor of the network namespace or None, engine) -> answer. Never raises."""


class AgentRunningError(EngineError):
    """Another agent listens on the socket."""


class Agent:
    """See the module. ``serve`` blocks until ``stop`` is called from another thread or a signal's code."""

    def __init__(self, engine: Engine, path: Path, frontend: Frontend) -> None:
        self._engine, self._frontend, self._path = engine, frontend, path
        self._engine_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._slots = threading.BoundedSemaphore(MAX_CALLS)
        self._listener = _listen(path)
        self._wake, self._waker = socket.socketpair()

    def serve(self) -> None:
        """Answer calls until stopped; those under way are finished first."""
        import selectors  # noqa: PLC0415 - the agent only

        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wake in ready:
                    break
                connection, _ = self._listener.accept()
                self._slots.acquire()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
        self._close()

    def stop(self) -> None:
        """Make ``serve`` return. Safe to call from a signal's code, and twice."""
        self._waker.send(b"\0")

    def _close(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listener.close()
        self._engine_thread.shutdown(wait=True)

    def _answer(self, connection: socket.socket) -> None:
        netns: int | None = None
        try:
            with connection:
                connection.settimeout(FRAME_TIMEOUT)
                if not _is_root(connection):
                    return
                call, netns = receive_call(connection)
                send_answer(connection, self._serve_one(call, netns))
        except (OSError, WireError):
            # A peer that does not speak the protocol, or went away, gets no answer; it has its own time limit.
            return
        finally:
            if netns is not None:
                os.close(netns)
            self._slots.release()

    def _serve_one(self, call: CniCall | Ping, netns: int | None) -> Answer | Pong:
        if isinstance(call, Ping):
            return Pong(version=version("dataplane"), pid=os.getpid())
        return self._engine_thread.submit(self._frontend, call, netns, self._engine).result()


def load_frontend() -> Frontend:
    """The frontend that serves CNI calls. Raises ``EngineError`` where the package is not installed whole."""
    for point in entry_points(group="dataplane.frontends", name="cni"):
        loaded: Frontend = point.load()
        return loaded
    raise EngineError('could not find the frontend "cni": the dataplane package is not installed whole')


def _listen(path: Path) -> socket.socket:
    if _answers(path):
        raise AgentRunningError(f"could not listen on {path}: another agent does; stop it first")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    former = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(former)
    listener.listen(MAX_CALLS)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _is_root(connection: socket.socket) -> bool:
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return bool(uid == 0)
