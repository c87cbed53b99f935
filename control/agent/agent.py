r"""The agent: hosts one engine, answers calls on a unix socket, and repairs what the kernel says was broken.

    runtime -> plugin -> /run/dataplane/agent.sock -> a thread serves the call -> answer
                                                        \-> the engine's thread, for each request to the engine
    kernel -> monitors -> this loop (control.agent.watch) -----/

Calls are served by a thread each, so that a slow peer, an address server or duplicate address detection hold up nobody;
the engine works in one thread of its own, a request or a piece of a sync at a time. What a call means is a
*frontend's* affair ("cni" is the plugin's), found by entry point: this module moves text and a file descriptor.

Be aware: only root may call (SO_PEERCRED, checked by uid); the directory is 0750 and the socket 0600 besides.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TypeVar

from control.agent.attention import Events
from control.agent.history import History, Kind
from control.agent.metrics import Metrics
from control.agent.reception import BACKLOG, Reception
from control.agent.turns import Turns
from control.agent.watch import Watch
from control.engine import Engine
from control.errors import AbandonedError, EngineError
from control.model import AttachmentKey, Request
from control.protocol.transport import send_answer
from control.protocol.wire import (
    DECLINED,
    Answer,
    CniCall,
    EventsCall,
    Ping,
    Pong,
    ReconcileCall,
    Reconciled,
    RecordAnswer,
    WireError,
    decode_call,
)
from dataplane.crashpoints import Point, reached
from dataplane.errors import DataplaneError

MAX_CALLS = 64
"""Calls that are served at once; more wait."""
MAX_FOLLOWERS = 16
"""Callers that may follow the events at once: each keeps a thread."""
REPLAY_EVERY = 30.0
"""Seconds between two attempts at the DELs that nobody could serve."""

_ALIVE = 2.0  # seconds between two looks at whether a follower is there still

T = TypeVar("T")


class AgentRunningError(EngineError):
    """Another agent listens on the socket."""


class CallersEngine:
    """The engine as one caller's thread has it: its requests are run in the engine's own thread, in turn."""

    def __init__(self, engine: Engine, turns: Turns, connection: socket.socket | None) -> None:
        self._engine, self._turns, self._connection = engine, turns, connection

    def heed(self) -> None:
        if self._connection is not None and _hung_up(self._connection):
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
        def unless_abandoned() -> T:
            self.heed()
            return request()

        return self._turns.submit(unless_abandoned).result()


@dataclass(frozen=True, slots=True)
class Served:
    """A call that was served. Its words are a stranger's: print their ``repr``."""

    plugin: str
    verb: str
    container: str
    ifname: str
    milliseconds: float
    exit_code: int
    trace: str
    error: str
    """The CNI error, in JSON; empty where there was none."""


@dataclass(frozen=True, slots=True)
class Frontend:
    """What CNI calls mean."""

    serve: Callable[[CniCall, int | None, CallersEngine], Answer]
    """Serves a call; the number is the descriptor of its network namespace. Never raises."""
    replay: Callable[[CallersEngine], int]
    """Tries the DELs again that nobody could serve; how many are left. Raises ``OSError``."""


class Agent:
    """See the module. ``serve`` blocks until ``stop`` is called from another thread or a signal's code."""

    def __init__(
        self,
        engine: Engine,
        path: Path,
        frontend: Frontend,
        history: History,
        metrics: Metrics,
        *,
        listener: socket.socket | None = None,
        collect_after: float = 0.0,
        every_turn: Callable[[], float] = lambda: float("inf"),
    ) -> None:
        """``listener`` is a socket that was handed over, which stays when this ends; ``every_turn`` is called in each
        turn of the loop, and says how many seconds later again. Raises ``AgentRunningError``."""
        self._engine, self._frontend, self._path = engine, frontend, path
        self._history, self._metrics, self._every_turn = history, metrics, every_turn
        self._only = _be_the_only_one(path)
        self._turns = Turns("engine")
        self._callers = ThreadPoolExecutor(max_workers=MAX_CALLS, thread_name_prefix="caller")
        self._followers = threading.BoundedSemaphore(MAX_FOLLOWERS)
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._wake.setblocking(False)
        self._stopping = False
        self._watch = Watch(
            engine,
            self._turns,
            history,
            metrics,
            self.wake,
            collect_after=collect_after,
        )
        self._events = Events(self._watch)
        self._kept = listener is not None
        self._listener = listener or _listen(path)
        self._listener.setblocking(False)
        self._replay_at = 0.0
        self.queued = 0
        """DELs that nobody could serve yet."""

    @property
    def settled(self) -> bool:
        """Whether all that was there when it started was looked at, and put right."""
        return self._watch.settled

    @property
    def networks(self) -> tuple[Mapping[int, str], Mapping[str, int]]:
        """Names of networks by their numbers, and how many attachments each has, as of the last look."""
        return self._watch.networks

    def serve(self) -> None:
        """Answer calls and repair until stopped; calls that were accepted are finished first."""
        try:
            with selectors.DefaultSelector() as selector:
                reception = Reception(self._listener, selector, self._deliver)
                selector.register(self._wake, selectors.EVENT_READ)
                while not self._stopping:
                    self._events.follow(selector)
                    self._turn(selector, reception)
                reception.close()
        finally:
            self._close()

    def stop(self) -> None:
        """Make ``serve`` return. Safe to call from a signal's code, and twice."""
        self._stopping = True
        self.wake()

    def wake(self) -> None:
        """Have the loop look at everything once more."""
        try:
            self._waker.send(b"\0")
        except BlockingIOError:
            return  # it has not even seen the last one

    def _turn(self, selector: selectors.BaseSelector, reception: Reception) -> None:
        replay = max(0.0, self._replay_at - time.monotonic())
        left = self._watch.timeout(), self._events.rest(), self._every_turn(), reception.patience(), replay
        for key, _ in selector.select(min(left)):
            if key.fileobj is self._wake:
                self._wake.recv(4096)
            else:
                key.data()
        reception.expire()
        self._watch.turn()
        if time.monotonic() >= self._replay_at:
            self._replay_at = time.monotonic() + REPLAY_EVERY
            self._callers.submit(self._replay)

    def _deliver(self, connection: socket.socket, body: bytes, netns: int | None) -> None:
        self._events.pause()
        self._callers.submit(self._answer, connection, body, netns)

    def _close(self) -> None:
        if not self._kept:
            self._path.unlink(missing_ok=True)
        self._listener.close()
        self._history.close()
        self._callers.shutdown(wait=True)
        self._turns.close()
        self._events.close()
        self._watch.close()
        os.close(self._only)

    def _replay(self) -> None:
        try:
            self.queued = self._frontend.replay(CallersEngine(self._engine, self._turns, None))
        except OSError as error:
            self._history.tell(Kind.PROBLEM, f"could not read the queue of DELs: {error}")
        except Exception as error:  # noqa: BLE001 - nobody asks for this thread's result: it would vanish
            self._history.tell(Kind.FAILED, f"a fault of ours: {error!r}")

    # -- calls --------------------------------------------------------------------------------------------------------

    def _answer(self, connection: socket.socket, body: bytes, netns: int | None) -> None:
        try:
            with connection:
                match call := decode_call(body):
                    case Ping():
                        send_answer(connection, Pong(version=version("dataplane"), pid=os.getpid()))
                    case EventsCall():
                        self._tell(connection, call)
                    case ReconcileCall():
                        send_answer(connection, self._turns.submit(self._reconcile).result())
                    case CniCall():
                        self._serve(connection, call, netns)
        except (OSError, WireError):
            # A peer that does not speak the protocol, or went away, gets no answer; it has its own time limit.
            return
        except Exception as error:  # noqa: BLE001 - nobody asks for this thread's result: it would vanish
            self._history.tell(Kind.FAILED, f"a fault of ours: {error!r}")
        finally:
            if netns is not None:
                os.close(netns)

    def _serve(self, connection: socket.socket, call: CniCall, netns: int | None) -> None:
        if _hung_up(connection):
            return
        began, call = time.monotonic(), call.named(os.urandom(4).hex())
        answer = self._frontend.serve(call, netns, CallersEngine(self._engine, self._turns, connection))
        send_answer(connection, answer)
        if answer.exit_code == DECLINED:
            return
        seconds = time.monotonic() - began
        served = _served(call, answer, seconds)
        self._metrics.served(served.verb, _error_code(answer), seconds)
        who = f"{served.container!r}/{served.ifname!r}"
        what = f"{served.verb!r} of {served.plugin!r} for {who} (trace {served.trace})"
        details = {name: getattr(served, name) for name in Served.__slots__}
        text = f"{what} failed: {served.error}" if served.error else what
        self._history.tell(Kind.SERVED, text, milliseconds=served.milliseconds, details=details)

    def _reconcile(self) -> Reconciled:
        began = time.monotonic()
        try:
            found, left = self._engine.reconcile()
        except DataplaneError as error:
            return Reconciled((), (), str(error))
        except Exception as error:  # noqa: BLE001 - who asked is to know, as everybody who reads the events
            fault = f"a fault of ours: {error!r}"
            self._history.tell(Kind.FAILED, fault, by=("dpctl reconcile",))
            return Reconciled((), (), fault)
        for text in found:
            took = (time.monotonic() - began) * 1000
            self._history.tell(Kind.REPAIRED, text, by=("dpctl reconcile",), milliseconds=took)
        return Reconciled(tuple(found), tuple(left))

    def _tell(self, connection: socket.socket, call: EventsCall) -> None:
        last = call.since
        for record in self._history.after(last):
            send_answer(connection, RecordAnswer(record.fields()))
            last = record.number
        if not call.follow or not self._followers.acquire(blocking=False):
            return
        try:
            while not (self._history.closed or _hung_up(connection)):
                for record in self._history.wait(last, _ALIVE):
                    send_answer(connection, RecordAnswer(record.fields()))
                    last = record.number
        finally:
            self._followers.release()


def load_frontend() -> Frontend:
    """The frontend that serves CNI calls. Raises ``EngineError`` where the package is not installed whole."""
    found = {point.name: point for point in entry_points(group="dataplane.frontends")}
    if not found.keys() >= {"cni", "replay"}:
        raise EngineError('could not find the frontend "cni": the dataplane package is not installed whole')
    return Frontend(found["cni"].load(), found["replay"].load())


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
    reached(Point.SOCKET_BOUND)
    listener.listen(BACKLOG)
    reached(Point.SOCKET_LISTENING)
    return listener


def _served(call: CniCall, answer: Answer, seconds: float) -> Served:
    verb, container, ifname = (call.environment.get(f"CNI_{name}", "") for name in ("COMMAND", "CONTAINERID", "IFNAME"))
    error = answer.stdout if answer.exit_code else ""
    return Served(call.plugin, verb, container, ifname, seconds * 1000, answer.exit_code, call.trace, error)


def _error_code(answer: Answer) -> int:
    """The code of the CNI error that was answered; 0 where it is none."""
    if not answer.exit_code:
        return 0
    try:
        code = json.loads(answer.stdout)["code"]
    except (ValueError, KeyError, TypeError):
        return answer.exit_code
    return code if isinstance(code, int) else answer.exit_code


def _hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    return bool(poll.poll(0))
