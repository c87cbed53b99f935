"""Takes calls in: accepts peers and reads their frames as the bytes come, without waiting for anybody.

    reception = Reception(listener, selector, deliver)
    while True:
        for key, _ in selector.select(min(reception.patience(), ...)):
            if callable(key.data):  # a peer, or the listener
                key.data()
        reception.expire()

    deliver(connection, body, netns)    a whole frame: the connection blocks again, and is the receiver's to close, as
                                        the descriptor that came with the call

A peer has ``PATIENCE`` seconds for its whole frame, and however many are silent or slow, none keeps others out: where
more than ``MAX_PEERS`` have not said all, the one that has been there longest is closed. So threads are for whole calls
alone. A body is decoded by whoever it is delivered to: what is large or deep costs its own thread.

Be aware: only root is heard (SO_PEERCRED; the creator of the connection counts, not who writes to it).
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf

from control.protocol.wire import HEADER_LENGTH, WireError, body_length

PATIENCE = 5.0
"""Seconds that a peer has for its whole frame."""
MAX_PEERS = 64
"""Peers that may be in the middle of a frame."""
BACKLOG = 1024
"""Callers that may wait to be accepted. One more does not wait: where it has a time limit, its connect fails at once
(EAGAIN)."""

_CHUNK = 1 << 16
_PAUSE = 0.05  # seconds
_UCRED = struct.Struct("3i")
_DESCRIPTOR = struct.Struct("=i")

Deliver = Callable[[socket.socket, bytes, int | None], object]


@dataclass(slots=True, eq=False)
class _Peer:
    """Somebody who has not said all yet."""

    connection: socket.socket
    deadline: float
    header: bytes = b""
    body: bytearray = field(default_factory=bytearray)
    missing: int = 0
    netns: int | None = None


class Reception:
    """See the module. All methods are for the thread of the selector's loop."""

    def __init__(self, listener: socket.socket, selector: selectors.BaseSelector, deliver: Deliver) -> None:
        self._listener, self._selector, self._deliver = listener, selector, deliver
        self._peers: dict[_Peer, None] = {}  # in the order in which they came
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def patience(self) -> float:
        """Seconds until ``expire`` has something to do; infinity where nobody is in the middle of a frame."""
        oldest = next(iter(self._peers), None)
        return inf if oldest is None else max(0.0, oldest.deadline - time.monotonic())

    def expire(self) -> None:
        """Once in each turn of the loop: close the peers whose time is over."""
        now = time.monotonic()
        for late in [one for one in self._peers if one.deadline <= now]:
            self._dismiss(late)

    def close(self) -> None:
        """Hear nobody any more. The listener stays open, and is no longer ours."""
        self._selector.unregister(self._listener)
        for peer in list(self._peers):
            self._dismiss(peer)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # The caller hung up, or there are no descriptors left: the next ones may be luckier.
            time.sleep(_PAUSE)
            return
        if not _is_root(connection):
            connection.close()
            return
        if len(self._peers) >= MAX_PEERS:
            self._dismiss(next(iter(self._peers)))
        connection.setblocking(False)
        peer = _Peer(connection, time.monotonic() + PATIENCE)
        self._peers[peer] = None
        # Most have said all by now, and need not be waited for.
        self._hear(peer)
        if peer in self._peers:
            self._selector.register(connection, selectors.EVENT_READ, partial(self._hear, peer))

    def _hear(self, peer: _Peer) -> None:
        if peer not in self._peers:
            # It made room for one who came before it in the same turn; the selector had told of both.
            return
        try:
            whole = _read_header(peer) and _read_body(peer)
        except BlockingIOError:
            return
        except (OSError, WireError):
            # A peer that does not speak the protocol, or went away, gets no answer; it has its own time limit.
            self._dismiss(peer)
            return
        if not whole:
            return
        self._forget(peer)
        peer.connection.settimeout(PATIENCE)
        self._deliver(peer.connection, bytes(peer.body), peer.netns)

    def _dismiss(self, peer: _Peer) -> None:
        self._forget(peer)
        peer.connection.close()
        if peer.netns is not None:
            os.close(peer.netns)

    def _forget(self, peer: _Peer) -> None:
        del self._peers[peer]
        if peer.connection in self._selector.get_map():
            self._selector.unregister(peer.connection)


def _read_header(peer: _Peer) -> bool:
    """Whether the header is there. Raises ``OSError``, ``WireError``."""
    if len(peer.header) == HEADER_LENGTH:
        return True
    if not peer.header:
        # Not socket.recv_fds: it drops its flags, and children of the agent must not inherit containers' namespaces.
        # There is room for one descriptor, and for none later: the kernel closes what else is sent.
        space, flags = socket.CMSG_LEN(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
        heard, ancillary, _, _ = peer.connection.recvmsg(HEADER_LENGTH, space, flags)
        peer.netns = _descriptor(ancillary)
    else:
        heard = peer.connection.recv(HEADER_LENGTH - len(peer.header))
    if not heard:
        raise ConnectionResetError
    peer.header += heard
    if len(peer.header) < HEADER_LENGTH:
        return False
    peer.missing = body_length(peer.header)
    return True


def _read_body(peer: _Peer) -> bool:
    """Whether the body is there. Raises ``OSError``."""
    # As much at once as others may have to wait for.
    while peer.missing and len(heard := peer.connection.recv(min(peer.missing, _CHUNK))):
        peer.body += heard
        peer.missing -= len(heard)
        if len(heard) == _CHUNK:
            break
    else:
        if peer.missing:
            raise ConnectionResetError
    return not peer.missing


def _descriptor(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(payload) >= _DESCRIPTOR.size:
            return int(_DESCRIPTOR.unpack_from(payload)[0])
    return None


def _is_root(connection: socket.socket) -> bool:
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return bool(uid == 0)
