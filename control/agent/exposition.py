"""Shows the metrics: ``GET /metrics`` over HTTP/1.1, on a unix socket or a loopback port, in a thread of its own.

    listener = listen(settings.metrics, run_directory / SOCKET_NAME)
    exposition = Exposition(listener, metrics_text)
    ...
    exposition.close()

A connection is one request and one answer. It has ``PATIENCE`` seconds for all of it, ``MAX_REQUEST`` bytes to ask
in, and where there are more than ``MAX_CONNECTIONS`` the one that has been there longest is closed: whoever asks at
once is answered, however many others keep silent.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from control.agent.metrics import CONTENT_TYPE
from control.errors import EngineError
from control.settings import Loopback, MetricsPlace
from dataplane.errors import DataplaneError

SOCKET_NAME = "metrics.sock"
PATIENCE = 5.0
"""Seconds."""
MAX_REQUEST = 8 << 10
"""Bytes of request line and headers."""
MAX_CONNECTIONS = 8

_BACKLOG = 64
_CHUNK = 4096
_END = b"\r\n\r\n"


class ExpositionError(EngineError):
    """The metrics cannot be shown where the settings say."""


def listen(place: MetricsPlace, path: Path) -> socket.socket | None:
    """A listening socket at the place that the settings name, ``path`` where that is "unix"; None for "off".

    Only to be called by the one agent: a socket that another one left is removed. Raises ``ExpositionError``.
    """
    if place == "off":
        return None
    family = _family(place)
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if isinstance(place, Loopback):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((str(place.address), place.port))
        else:
            path.unlink(missing_ok=True)
            # Before bind: the file appears with this mode (unix_bind_bsd), and there is no moment with another.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        shown = place if isinstance(place, Loopback) else path
        raise ExpositionError(
            f"could not show metrics at {shown}: {error.strerror or error}; see metrics in the settings"
        ) from error
    return listener


def answer(request: bytes, render: Callable[[], str]) -> bytes:
    """The whole answer to a request, whose headers are complete. Calls ``render`` where it asks for the metrics."""
    words = request.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _response(HTTPStatus.BAD_REQUEST)
    method, target, _ = words
    if target.partition(b"?")[0] != b"/metrics":
        return _response(HTTPStatus.NOT_FOUND)
    if method != b"GET":
        return _response(HTTPStatus.METHOD_NOT_ALLOWED, "Allow: GET\r\n")
    try:
        return _response(HTTPStatus.OK, body=render(), kind=CONTENT_TYPE)
    except (DataplaneError, OSError) as error:
        return _response(HTTPStatus.SERVICE_UNAVAILABLE, body=f"{error}\n")
    except Exception as error:  # noqa: BLE001 - a fault of ours must not end the thread that all scrapes depend on
        return _response(HTTPStatus.INTERNAL_SERVER_ERROR, body=f"a fault of ours: {error!r}\n")


@dataclass(slots=True)
class _Connection:
    """One peer: what it said so far, and what it is still to be told."""

    socket: socket.socket
    deadline: float
    heard: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""


class Exposition:
    """Answers from when it is made until it is closed. ``render`` is called in a thread of ours."""

    def __init__(self, listener: socket.socket, render: Callable[[], str]) -> None:
        self._listener, self._render = listener, render
        self._wake, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, _Connection] = {}
        listener.setblocking(False)
        for readable in (listener, self._wake):
            self._selector.register(readable, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; a unix socket's file is removed."""
        self._waker.send(b"\0")
        self._thread.join()
        if self._listener.family == socket.AF_UNIX:
            Path(self._listener.getsockname()).unlink(missing_ok=True)
        for one in (self._listener, self._wake, self._waker, self._selector):
            one.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select(self._until_deadline()):
                if key.fileobj is self._wake:
                    for one in list(self._connections.values()):
                        self._end(one)
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif (connection := self._connections.get(key.fd)) is not None:
                    self._go_on(connection)
            now = time.monotonic()
            for late in [one for one in self._connections.values() if one.deadline <= now]:
                self._end(late)

    def _until_deadline(self) -> float | None:
        deadlines = [one.deadline for one in self._connections.values()]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            # It hung up, or there are no descriptors left: a pause, or select would come back at once.
            time.sleep(0.05)
            return
        accepted.setblocking(False)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._end(min(self._connections.values(), key=lambda one: one.deadline))
        connection = _Connection(accepted, time.monotonic() + PATIENCE)
        self._connections[accepted.fileno()] = connection
        self._selector.register(accepted, selectors.EVENT_READ)

    def _go_on(self, connection: _Connection) -> None:
        try:
            done = self._tell(connection) if connection.unsent else self._hear(connection)
        except BlockingIOError:
            return
        except OSError:
            done = True  # it hung up
        if done:
            self._end(connection)

    def _hear(self, connection: _Connection) -> bool:
        """Read on, and answer a request that is complete or too long; whether that was all."""
        heard = connection.socket.recv(_CHUNK)
        connection.heard += heard
        if not heard:
            return True
        if _END in connection.heard:
            connection.unsent = answer(bytes(connection.heard), self._render)
        elif len(connection.heard) > MAX_REQUEST:
            connection.unsent = _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            return False
        self._selector.modify(connection.socket, selectors.EVENT_WRITE)
        return self._tell(connection)

    def _tell(self, connection: _Connection) -> bool:
        """Send on; whether that was all."""
        connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        return not connection.unsent

    def _end(self, connection: _Connection) -> None:
        del self._connections[connection.socket.fileno()]
        self._selector.unregister(connection.socket)
        with suppress(OSError):
            # What was sent reaches the peer, also where it has not read it yet and wrote more than we read.
            connection.socket.shutdown(socket.SHUT_WR)
        connection.socket.close()


def _family(place: MetricsPlace) -> socket.AddressFamily:
    if not isinstance(place, Loopback):
        return socket.AF_UNIX
    return socket.AF_INET6 if place.address.version == 6 else socket.AF_INET


def _response(
    status: HTTPStatus, headers: str = "", *, body: str = "", kind: str = "text/plain; charset=utf-8"
) -> bytes:
    content = (body or f"{status.phrase}\n").encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
        f"{headers}Connection: close\r\n\r\n"
    )
    return head.encode() + content
