"""Calls and answers over a connected unix socket: the frames of ``wire``, and the descriptor beside them.

    caller                                          agent
    send_call(connection, call, netns)       ->     (reads the call without waiting: ``control.agent.reception``)
    answer = receive_answer(connection)      <-     send_answer(connection, answer)

Time limits are the socket's (``settimeout``). Raises ``OSError`` for the connection and ``WireError`` for what came
over it, or is not fit to go.
"""

from __future__ import annotations

import socket

from control.protocol.wire import (
    HEADER_LENGTH,
    AgentAnswer,
    AgentCall,
    body_length,
    decode_answer,
    encode_answer,
    encode_call,
)


def send_call(connection: socket.socket, call: AgentCall, netns: int | None = None) -> None:
    """Send a call, and with its first bytes the descriptor of a network namespace; it stays open here."""
    frame = encode_call(call)
    sent = 0 if netns is None else socket.send_fds(connection, [frame], [netns])
    # Sending even nothing fails (EPIPE) when an agent was quick to answer and has hung up.
    if rest := frame[sent:]:
        connection.sendall(rest)


def send_answer(connection: socket.socket, answer: AgentAnswer) -> None:
    """Send an answer."""
    connection.sendall(encode_answer(answer))


def receive_answer(connection: socket.socket) -> AgentAnswer:
    """Receive an answer."""
    return decode_answer(_receive(connection, body_length(_receive(connection, HEADER_LENGTH))))


def _receive(connection: socket.socket, length: int) -> bytes:
    chunks, missing = [], length
    while missing:
        chunk = connection.recv(missing)
        if not chunk:
            raise ConnectionResetError("the connection ended within a message")
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)
