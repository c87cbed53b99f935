"""The called end of the agent's protocol, for tests that play the agent: it waits for one whole call."""

from __future__ import annotations

import socket

from control.protocol.wire import HEADER_LENGTH, AgentCall, body_length, decode_call


def receive_call(connection: socket.socket) -> tuple[AgentCall, int | None]:
    """Receive a call, and the descriptor that came with its first bytes; it is the caller's to close."""
    received, descriptors, _, _ = socket.recv_fds(connection, HEADER_LENGTH, 1)
    header = received + _exactly(connection, HEADER_LENGTH - len(received))
    return decode_call(_exactly(connection, body_length(header))), next(iter(descriptors), None)


def _exactly(connection: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        chunk = connection.recv(length - len(received))
        assert chunk, "the connection ended within a message"
        received += chunk
    return bytes(received)
