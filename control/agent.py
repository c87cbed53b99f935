r"""The agent: hosts one engine, answers calls on a unix socket.

    runtime -> plugin -> /run/dataplane/agent.sock -> a thread serves the call -> answer
                                                        \-> the engine's thread, for each request to the engine

Calls are served by a thread each, so that a slow peer, an address server or duplicate address detection hold up nobody;
the engine works in one thread of its own, a request at a time. What a call means is a *frontend's* affair ("cni" is the
plugin's), found by entry point: this module moves text and a file descriptor.

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
from dataclasses import dataclass
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TypeVar

from control.engine import Engine
from control.errors import AbandonedError, EngineError
from control.model import AttachmentKey, Request
from control.transport import receive_call, send_answer
from control.wire import DECLINED, Answer, CniCall, Ping, Pong, WireError

FRAME_TIMEOUT = 5.0
"""Seconds that a peer has to send its whole call, and to take its answer."""

MAX_CALLS = 64
"""Callers that are read from at once; more wait."""

_PAUSE = 0.05  # seconds

_UCRED = struct.Struct("3i")

T = TypeVar("T")


class AgentRunningError(EngineError):
    """Another agent listens on the socket."""


class CallersEngine:
    """The engine as one caller's thread has it: its requests are run in the engine's own thread, in turn."""

    def __init__(self, engine: Engine, thread: ThreadPoolExecutor, connection: socket.socket) -> None:
        self._engine, self._thread, self._connection = engine, thread, connection

    def heed(self) -> None:
        if _hung_up(self._connection):
            raise AbandonedError("the caller hung up while its call waited")

    def add(self, request: Request) -> None:
        self._run(lambda: self._engine.add(request))

    def delete(self, key: AttachmentKey) -> None:
        self._run(lambda: self._engine.delete(key))

    def check(self, request: Request) -> None:
        self._run(lambda: self._engine.check(request))

    def collect(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        self._run(lambda: self._engine.collect(network, valid))

    def status(self, network: str) -> None:
        self._run(lambda: self._engine.status(network))

    def _run(self, request: Callable[[], T]) -> T:
        return self._thread.submit(self._unless_abandoned, request).result()

    def _unless_abandoned(self, request: Callable[[], T]) -> T:
        self.heed()
        return request()


@dataclass(frozen=True, slots=True)
class Served:
    """A call that was served, for the log. Its words are a stranger's: print their ``repr``."""

    plugin: str
    verb: str
    container: str
    ifname: str
    milliseconds: float
    exit_code: int
    trace: str
    error: str
    """The CNI error, in JSON; empty where there was none."""


Report = Callable[[Served], None]
Frontend = Callable[[CniCall, int | None, CallersEngine], Answer]
"""Serves a call: (call, descriptor of the network namespace or None, engine) -> answer. Never raises."""


class Agent:
    """See the module. ``serve`` blocks until ``stop`` is called from another thread or a signal's code."""

    def __init__(self, engine: Engine, path: Path, frontend: Frontend, report: Report) -> None:
        self._engine, self._frontend, self._path, self._report = engine, frontend, path, report
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
                    if _hung_up(connection):
                        return
                    engine = CallersEngine(self._engine, self._engine_thread, connection)
                    began = time.monotonic()
                    answer = self._frontend(call, netns, engine)
                    send_answer(connection, answer)
                    if answer.exit_code != DECLINED:
                        self._report(_served(call, answer, time.monotonic() - began))
        except (OSError, WireError):
            # A peer that does not speak the protocol, or went away, gets no answer; it has its own time limit.
            return
        finally:
            if netns is not None:
                os.close(netns)


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


def _served(call: CniCall, answer: Answer, seconds: float) -> Served:
    verb, container, ifname = (call.environment.get(f"CNI_{name}", "") for name in ("COMMAND", "CONTAINERID", "IFNAME"))
    error = answer.stdout if answer.exit_code else ""
    return Served(call.plugin, verb, container, ifname, seconds * 1000, answer.exit_code, call.trace, error)


def _hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    return bool(poll.poll(0))


def _is_root(connection: socket.socket) -> bool:
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return bool(uid == 0)
