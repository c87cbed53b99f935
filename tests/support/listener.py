"""Hears which tokens come by on a device: ``<udp4>`` somewhere in a frame, whatever frame it is.

    with Listener(web.netns) as listener:
        send_frame(admin.netns, "eth0", frame(flow, b"<udp4>"))
        send_frame(admin.netns, "eth0", frame(flow, b"<last>"))
        listener.wait_for("last")
    listener.heard      -> {"udp4", "last"}

Be aware: it is a packet socket, with all that this does to the packets of its namespace.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from support.netns import Place

_TOKEN = re.compile(rb"<([a-z0-9 -]+)>")
_EVERYTHING, _OUTGOING = 0x0003, 4  # ETH_P_ALL, PACKET_OUTGOING


class Listener:
    """See the module. What a place sends itself is not heard."""

    def __init__(self, place: Place, device: str = "eth0") -> None:
        self._place = place
        self._process: subprocess.Popen[str] = place.spawn(sys.executable, "-I", "-S", __file__, device)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.heard: set[str] = set()
        """There when it has stopped, and what ``wait_for`` met."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._place.signal(self._process, signal.SIGTERM)
        # Not by communicate(), which knows nothing of half a line that readline() has read already.
        assert self._process.stdout is not None
        self.heard |= set(self._process.stdout.read().splitlines())
        self._process.wait(10)

    def wait_for(self, token: str) -> None:
        """Until it has come by; what came before it on the same way has come by then, too."""
        assert self._process.stdout is not None
        while token not in self.heard:
            line = self._process.stdout.readline()
            assert line, f"<{token}> was not heard"
            self.heard.add(line.strip())


def _listen(device: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING)) as frames:
        frames.bind((device, _EVERYTHING))
        print("ready", flush=True)
        while True:
            octets, where = frames.recvfrom(65536)
            if where[2] != _OUTGOING:
                for token in _TOKEN.findall(octets):
                    print(token.decode(), flush=True)


if __name__ == "__main__":
    _listen(sys.argv[1])
