"""Traffic: servers that say which client they see, clients that ask them, and raw frames.

serve(web, "web", "tcp", 80)
ask(client, "192.0.2.1", 8080)      -> Answer(server="web", address="192.0.2.55", ...) or None
send_frame(host, "vethweb", frame)
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support import sctp
from support.netns import Place

_SERVER = Path(__file__).with_name("echo_server.py")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said about the client it saw."""

    server: str
    address: str
    port: int
    said: str


def serve(place: Place, name: str, protocol: str, port: int, address: str = "0.0.0.0") -> subprocess.Popen[str]:
    """Start a server in a place; it listens when this returns, and ends with the sandbox. For SCTP see
    ``support.sctp``: it is in both families, whatever the address."""
    words = (sctp.__file__, name, port) if protocol == "sctp" else (_SERVER, name, protocol, address, port)
    process = place.spawn(sys.executable, "-I", "-S", *words)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", f"the server {name} does not listen on {address}:{port}/{protocol}"
    return process


def ask(
    place: Place,
    address: object,
    port: int,
    protocol: str = "tcp",
    source: object = None,
    source_port: int = 0,
    timeout: float = 1.0,
) -> Answer | None:
    """Ask a server from a place; None where no answer comes in time, or the connection is refused."""
    said = place.call(_ask, str(address), port, protocol, str(source) if source else "", source_port, timeout)
    if said is None:
        return None
    fields = json.loads(said)
    return Answer(fields["server"], fields["peer"][0], fields["peer"][1], fields["said"])


def fetch(place: Place, address: object, port: int, timeout: float = 2.0) -> str | None:
    """Get the page ``/`` by HTTP; None where no answer comes in time, or the connection is refused."""
    return place.call(_fetch, str(address), port, timeout)


def send_frame(place: Place, device: str, frame: bytes, count: int = 1) -> None:
    """Send a whole Ethernet frame out of a device, as it is: no checksum is filled in."""
    place.call(_send_frame, device, frame, count)


def counters(place: Place, protocol: str) -> dict[str, int]:
    """The protocol's counters of /proc/net/snmp: ``counters(web, "Udp")["InCsumErrors"]``."""
    heads, values = (
        line.split()[1:]
        for line in place.run("cat", "/proc/net/snmp").stdout.splitlines()
        if line.startswith(f"{protocol}: ")
    )
    return dict(zip(heads, map(int, values), strict=True))


def _ask(address: str, port: int, protocol: str, source: str, source_port: int, timeout: float) -> bytes | None:
    if protocol == "sctp":
        return sctp.ask(address, port, timeout)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as client:
        client.settimeout(timeout)
        if source or source_port:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((source, source_port))
        try:
            client.connect((address, port))
            client.sendall(b"hello")
            return client.recv(2048) or None
        except (TimeoutError, ConnectionError) as _no_answer:
            return None


def _fetch(address: str, port: int, timeout: float) -> str | None:
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except (TimeoutError, ConnectionError) as _no_answer:
        return None
    finally:
        connection.close()


def _send_frame(device: str, frame: bytes, count: int) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((device, 0))
        for _ in range(count):
            out.send(frame)
