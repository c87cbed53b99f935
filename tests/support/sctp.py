"""SCTP without a kernel that has it: one INIT by a raw socket, and the INIT ACK that says who answered (RFC 9260).

    ask("192.0.2.1", 8080, 1.0)                        b'{"server": "web", ...}' or None
    python sctp.py web 80                              answers in both families, once it has printed "ready"

NAT, conntrack and routing treat these packets as any SCTP; only the endpoints are made by hand. Run as a script, the
module is the server: the standard library only.

Be aware: a raw socket sees every SCTP packet of its namespace, and picks its own by the ports. A kernel that has SCTP,
and has loaded it, would answer the server's clients, too, by an ABORT.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import struct
import sys
import time

_SCTP = 132
_INIT, _INIT_ACK = 1, 2
_COMMON = struct.Struct("!HHI")  # source port, destination port, verification tag; then the checksum
_CHUNK = struct.Struct("!BBHIIHHI")  # type, flags, length, initiate tag, window, streams out and in, first TSN
_PARAMETER = struct.Struct("!HH")
_COOKIE = 7
_WINDOW = 1 << 16
_HEADER = _COMMON.size + 4
_EPHEMERAL = range(49152, 65536)
_CASTAGNOLI = 0x82F63B78


def ask(address: str, port: int, timeout: float) -> bytes | None:
    """Ask from a port of our own; None where no answer comes in time."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    own_port, tag = random.SystemRandom().choice(_EPHEMERAL), int.from_bytes(os.urandom(4), "big") | 1
    end = time.monotonic() + timeout
    with socket.socket(family, socket.SOCK_RAW, _SCTP) as client:
        client.connect((address, 0))
        try:
            client.send(packet(own_port, port, 0, _INIT, tag))
            while (left := end - time.monotonic()) > 0:
                client.settimeout(left)
                source, destination, verification, kind, _, said = _parsed(client.recv(2048), family)
                if (source, destination, verification, kind) == (port, own_port, tag, _INIT_ACK):
                    return said
        except OSError as _no_answer:
            return None
    return None


def packet(
    source_port: int, destination_port: int, verification: int, kind: int, tag: int, cookie: bytes = b""
) -> bytes:
    """An SCTP packet of one INIT or INIT ACK chunk, with its checksum."""
    body = cookie and _PARAMETER.pack(_COOKIE, _PARAMETER.size + len(cookie)) + cookie
    chunk = _CHUNK.pack(kind, 0, _CHUNK.size + len(body), tag, _WINDOW, 1, 1, tag) + body + bytes(-len(body) % 4)
    common = _COMMON.pack(source_port, destination_port, verification)
    return common + struct.pack("<I", crc32c(common + bytes(4) + chunk)) + chunk


def crc32c(octets: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (_CASTAGNOLI if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _parsed(received: bytes, family: int) -> tuple[int, int, int, int, int, bytes]:
    """Source port, destination port, verification tag, kind of chunk, its tag, and the cookie; zeros for what is no
    INIT or INIT ACK."""
    octets = received[(received[0] & 0xF) * 4 :] if family == socket.AF_INET else received
    if len(octets) < _HEADER + _CHUNK.size:
        return 0, 0, 0, 0, 0, b""
    kind, _, length, tag, *_ = _CHUNK.unpack_from(octets, _HEADER)
    cookie = octets[_HEADER + _CHUNK.size + _PARAMETER.size : _HEADER + length]
    return *_COMMON.unpack_from(octets), kind, tag, cookie


def main(name: str, port: str) -> None:
    """Answer for ever: {"server": NAME, "peer": [address, port], "said": ""}."""
    listeners = [socket.socket(family, socket.SOCK_RAW, _SCTP) for family in (socket.AF_INET, socket.AF_INET6)]
    print("ready", flush=True)
    while True:
        for listener in select.select(listeners, [], [])[0]:
            received, peer = listener.recvfrom(2048)
            source, destination, _, kind, tag, _ = _parsed(received, listener.family)
            if (destination, kind) == (int(port), _INIT):
                answer = json.dumps({"server": name, "peer": [peer[0], source], "said": ""}).encode()
                listener.sendto(packet(destination, source, tag, _INIT_ACK, tag, answer), (peer[0], 0, *peer[2:]))


if __name__ == "__main__":
    main(*sys.argv[1:])
