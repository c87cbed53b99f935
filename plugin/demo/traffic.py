"""Traffic of the demo: servers that say who asked, clients that ask, raw frames, and a look at what comes back.

Each is a short Python program that runs inside a network namespace (``nsenter --net``), with only the standard library.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import DataplaneError

_SERVER = """
import json, socket, sys
name, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
listener = socket.create_server((address, port))
print("ready", flush=True)
while True:
    connection, peer = listener.accept()
    with connection:
        connection.sendall(json.dumps({"server": name, "client": peer[0]}).encode())
"""

_ASK = """
import socket, sys
address, port, timeout = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
try:
    with socket.create_connection((address, port), timeout) as connection:
        sys.stdout.write(connection.recv(4096).decode())
except OSError:
    pass
"""

_SEND = """
import socket, sys
device, frame = sys.argv[1:]
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
    out.bind((device, 0))
    out.send(bytes.fromhex(frame))
"""

# Sends a frame out of a device and waits for a SYN/ACK to the sequence number it carries.
_KNOCK = """
import socket, struct, sys, time
device, frame, wait = sys.argv[1], bytes.fromhex(sys.argv[2]), float(sys.argv[3])
sequence = struct.unpack_from("!I", frame, 14 + 20 + 4)[0]
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as raw:
    raw.bind((device, 0x0800))
    raw.send(frame)
    end = time.monotonic() + wait
    while (left := end - time.monotonic()) > 0:
        raw.settimeout(left)
        try:
            seen = raw.recv(2048)
        except TimeoutError:
            break
        start = 14 + (seen[14] & 15) * 4
        if seen[23] == 6 and len(seen) >= start + 20:
            acknowledged, flags = struct.unpack_from("!I", seen, start + 8)[0], seen[start + 13]
            if flags & 0x12 == 0x12 and acknowledged == (sequence + 1) & 0xFFFFFFFF:
                print("SYN/ACK")
                break
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: its name, and the client address it saw."""

    server: str
    client: str

    def __str__(self) -> str:
        return f"{self.server} sees {self.client}"


class Servers:
    """Servers under way; closed all together."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def start(self, netns: Path, name: str, port: int, address: str = "0.0.0.0") -> None:
        """Start a server in a namespace; it listens when this returns. Raises ``DataplaneError``."""
        process = subprocess.Popen(
            [*_inside(netns), "-c", _SERVER, name, address, str(port)], stdout=subprocess.PIPE, text=True
        )
        self._stack.callback(_end, process)
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise DataplaneError(f"could not start the server {name} on port {port}: see above")

    def close(self) -> None:
        """End all of them."""
        self._stack.close()


def ask(netns: Path, address: str, port: int, timeout: float = 0.7) -> Answer | None:
    """Connect from a namespace; None when nothing answers in time, or the connection is refused."""
    said = _output(netns, _ASK, address, str(port), str(timeout))
    return Answer(**json.loads(said)) if said else None


def send(netns: Path, device: str, frame: bytes) -> None:
    """Send a raw frame from a namespace, bit for bit."""
    _output(netns, _SEND, device, frame.hex())


def knock(netns: Path, device: str, frame: bytes, wait: float = 0.7) -> bool:
    """Send a TCP SYN as a raw frame, bit for bit; whether a SYN/ACK for it comes back by the same device."""
    return _output(netns, _KNOCK, device, frame.hex(), str(wait)).strip() == "SYN/ACK"


def _output(netns: Path, code: str, *arguments: str) -> str:
    return subprocess.run(
        [*_inside(netns), "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=30
    ).stdout


def _inside(netns: Path) -> list[str]:
    return ["nsenter", f"--net={netns}", sys.executable, "-I", "-S"]


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
