"""Calls and answers over a connected unix socket: the frames of ``wire``, and the descriptor beside them.

    plugin:  send_call(connection, call, netns)         agent:  call, netns = receive_call(connection)
             answer = receive_answer(connection)                send_answer(connection, answer)

Time limits are the socket's (``settimeout``). Raises ``OSError`` for the
connection and ``WireError`` for what came over it.
"""

from __future__ import annotations

import os
import socket
import struct

from control.protocol.wire import (
    HEADER_LENGTH,
    AgentAnswer,
    AgentCall,
    body_length,
    decode_answer,
    decode_call,
    encode_answer,
    encode_call,
)

_DESCRIPTOR = struct.Struct("=i")


def send_call(connection: socket.socket, call: AgentCall, netns: int | None = None) -> None:
    """Send a call, and with its first bytes the descriptor of a network namespace; it stays open here."""
    frame = encode_call(call)
    sent = 0 if netns is None else socket.send_fds(connection, [frame], [netns])
    # Sending even nothing fails (EPIPE) when an agent was quick to answer and has hung up.
    if rest := frame[sent:]:
        connection.sendall(rest)


def receive_call(connection: socket.socket) -> tuple[AgentCall, int | None]:
    """Receive a call, and the descriptor that came with it; it is the caller's to close."""
    # Not socket.recv_fds: it drops its flags, and children of the agent must not inherit containers' namespaces.
    header, ancillary, _, _ = connection.recvmsg(
        HEADER_LENGTH, socket.CMSG_LEN(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
    )
    netns = _descriptor(ancillary)
    try:
        header += _receive(connection, HEADER_LENGTH - len(header))
        return decode_call(_receive(connection, body_length(header))), netns
    except BaseException:
        if netns is not None:
            os.close(netns)
        raise


def send_answer(connection: socket.socket, answer: AgentAnswer) -> None:
    """Send an answer."""
    connection.sendall(encode_answer(answer))


def receive_answer(connection: socket.socket) -> AgentAnswer:
    """Receive an answer."""
    return decode_answer(_receive(connection, body_length(_receive(connection, HEADER_LENGTH))))


def _descriptor(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(payload) >= _DESCRIPTOR.size:
            (descriptor,) = _DESCRIPTOR.unpack_from(payload)
            return int(descriptor)
    return None


def _receive(connection: socket.socket, length: int) -> bytes:
    chunks, missing = [], length
    while missing:
        chunk = connection.recv(missing)
        if not chunk:
            raise ConnectionResetError("the connection ended within a message")
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)
