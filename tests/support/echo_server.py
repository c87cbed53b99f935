"""A server that tells each client who it seems to be: run as a script, it prints "ready" once it listens.

echo_server.py NAME tcp|udp ADDRESS PORT        answers {"server": NAME, "peer": [address, port], "said": "..."}
"""

from __future__ import annotations

import json
import socket
import sys


def _answer(name: str, peer: tuple[object, ...], said: bytes) -> bytes:
    seen = str(peer[0]).removeprefix("::ffff:")
    return json.dumps({"server": name, "peer": [seen, peer[1]], "said": said.decode(errors="replace")}).encode()


def main(name: str, protocol: str, address: str, port: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, int(port)))
        if protocol == "tcp":
            listener.listen(128)
        print("ready", flush=True)
        while True:
            if protocol == "udp":
                said, peer = listener.recvfrom(2048)
                listener.sendto(_answer(name, peer, said), peer)
                continue
            connection, peer = listener.accept()
            with connection:
                connection.settimeout(2.0)
                try:
                    connection.sendall(_answer(name, peer, connection.recv(2048)))
                except OSError as gone:
                    print(f"client {peer}: {gone}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
