"""Asks a port all the time, a new connection every few milliseconds, and counts the answers: for what must never open.

    prober = Prober(place, "10.88.0.2", 80)
    ...
    prober.stop()      -> Probed(tries=412, answers=0)

An answer is a completed handshake. Connections wait for theirs in parallel, so that none hides an opening.
"""

from __future__ import annotations

import errno
import json
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.netns import Place

INTERVAL, PATIENCE = 0.005, 0.3  # seconds


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of it."""

    tries: int
    answers: int


class Prober:
    """See the module. It begins at once, and ends with the sandbox at the latest."""

    def __init__(self, place: Place, address: object, port: int) -> None:
        self._place = place
        self._process: subprocess.Popen[str] = place.spawn(sys.executable, "-I", "-S", __file__, address, port)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> Probed:
        """End it."""
        self._place.signal(self._process, signal.SIGTERM)
        said, _ = self._process.communicate(timeout=10)
        return Probed(**json.loads(said))


def _probe(address: str, port: int) -> None:
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    pending: list[tuple[float, socket.socket]] = []
    tries = answers = 0
    print("ready", flush=True)
    while not ended:
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        tries += 1
        code = connection.connect_ex((address, port))
        answers += code == 0
        if code == errno.EINPROGRESS:
            pending.append((time.monotonic(), connection))
        else:
            connection.close()
        time.sleep(INTERVAL)
        poll = select.poll()
        for _, one in pending:
            poll.register(one, select.POLLOUT)
        done = {descriptor for descriptor, _ in poll.poll(0)}
        kept = []
        for began, one in pending:
            if one.fileno() in done:
                answers += one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                one.close()
            elif time.monotonic() - began > PATIENCE:
                one.close()
            else:
                kept.append((began, one))
        pending = kept
    print(json.dumps({"tries": tries, "answers": answers}))


if __name__ == "__main__":
    _probe(sys.argv[1], int(sys.argv[2]))
