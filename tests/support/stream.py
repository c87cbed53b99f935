"""Traffic that must not notice what happens to the host: numbered packets, one long conversation, new connections.

    packets = Packets(client, plan.HOST4, 8053, web.netns, 53, rate=5000)
    talk = Conversation(client, plan.HOST4, 8080, web.netns, 80)
    knocks = Knocks(client, plan.HOST4, 8080)
    ...
    packets.stop()      -> Arrived(sent=21730, received=21730, twice=0, late=0)
    talk.stop()         -> Talked(rounds=3985, broken="", longest=0.004)
    knocks.stop()       -> Knocked(tries=812, answered=812, refused=0, unanswered=0)

Each begins when it is made, and goes on until it is stopped, so that no event is longer than its traffic. What the
sender's own kernel refuses was never sent. All end with the sandbox at the latest.
"""

from __future__ import annotations

import errno
import json
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.netns import Place

TICK = 0.002
"""Seconds between two bursts of packets."""
PAUSE = 0.005
"""Seconds between two words of a conversation, and between two connections."""
STALLED = 10.0
"""Seconds without an answer after which a conversation is broken: many times what TCP takes to send a word again."""
UNANSWERED = 3.0
"""Seconds after which nobody answers a connection: the first SYN is repeated after one."""
SETTLED = 1.0
"""Seconds without a packet, after the last was sent, until those that are missing are lost."""

ANSWERED = 256
"""Packets of which one is answered: to conntrack and its users only what was answered is established."""

_NUMBER = struct.Struct("=Q56x")
_BUFFER = 64 << 20
_RCVBUFFORCE = 33
_RTO_MAX_MS = 44
_FOR_EVER = 600_000  # milliseconds


@dataclass(frozen=True, slots=True)
class Arrived:
    """What became of numbered packets."""

    sent: int
    received: int
    """Each counted once."""
    twice: int
    late: int
    """After one with a higher number."""

    @property
    def lost(self) -> int:
        """Sent, and not received."""
        return self.sent - self.received


@dataclass(frozen=True, slots=True)
class Talked:
    """What became of a conversation."""

    rounds: int
    """Words that were answered."""
    broken: str
    """By what it ended before it was stopped; empty: it was not."""
    longest: float
    """Seconds that one answer took at most."""


@dataclass(frozen=True, slots=True)
class Knocked:
    """What became of attempts to connect."""

    tries: int
    answered: int
    refused: int
    unanswered: int


class _Script:
    """This file, run in a place, in one of its parts."""

    def __init__(self, place: Place, part: str, *words: object) -> None:
        self._place = place
        self._process: subprocess.Popen[str] = place.spawn(
            sys.executable, "-I", "-S", __file__, part, *words, stdin=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", f"{part} does not run in {place}"

    def stop(self, said: str = "") -> dict[str, Any]:
        """End it, with a last word; what it says then."""
        self._place.signal(self._process, signal.SIGTERM)
        answer, _ = self._process.communicate(said, timeout=60)
        told: dict[str, Any] = json.loads(answer)
        return told


class Packets:
    """Numbered UDP packets at a steady rate, and who counts them."""

    def __init__(self, source: Place, address: object, port: int, target: Place, inner: int, *, rate: int) -> None:
        self._receiver = _Script(target, "receive", inner)
        self._sender = _Script(source, "send", address, port, rate)

    def stop(self) -> Arrived:
        """Send no more, and wait for those under way."""
        sent = self._sender.stop()["sent"]
        return Arrived(sent, **self._receiver.stop(f"{sent}\n"))


class Conversation:
    """One TCP connection over which words go to and fro all the time."""

    def __init__(
        self, source: Place, address: object, port: int, target: Place, inner: int, *, patience: float = STALLED
    ) -> None:
        """After ``patience`` seconds without an answer it is broken."""
        self._server = _Script(target, "echo", inner)
        self._client = _Script(source, "talk", address, port, patience)

    def stop(self) -> Talked:
        """Hang up."""
        told = Talked(**self._client.stop())
        self._server.stop()
        return told


class Knocks:
    """New TCP connections, one every few milliseconds, that wait for their answers in parallel."""

    def __init__(self, source: Place, address: object, port: int) -> None:
        self._script = _Script(source, "knock", address, port)

    def stop(self) -> Knocked:
        """Make no more, and wait for the answers of the last."""
        return Knocked(**self._script.stop())


# -- inside -----------------------------------------------------------------------------------------------------------


def _ended() -> Callable[[], bool]:
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    print("ready", flush=True)
    return lambda: bool(ended)


def _send(address: str, port: int, rate: int) -> dict[str, Any]:
    to = (address, port)
    # Not connected: what ICMP says of one packet must not keep the next from being sent.
    out = socket.socket(_family(address), socket.SOCK_DGRAM)
    ended, sent, began = _ended(), 0, time.monotonic()
    while not ended():
        # By absolute time: a burst that comes late does not shift those after it.
        while sent < (time.monotonic() - began) * rate:
            try:
                out.sendto(_NUMBER.pack(sent), to)
            except (BlockingIOError, PermissionError) as _refused_by_our_own_side:
                continue
            sent += 1
        time.sleep(TICK)
    return {"sent": sent}


def _receive(port: int) -> dict[str, Any]:
    listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
    listener.bind(("::", port))
    ended = _ended()
    seen = bytearray()
    received = twice = late = highest = 0
    sent, last = -1, time.monotonic()
    while sent < 0 or (received < sent and time.monotonic() - last < SETTLED):
        if ended() and sent < 0:
            sent, last = int(sys.stdin.readline()), time.monotonic()
        if not select.select([listener], [], [], 0.05)[0]:
            continue
        last = time.monotonic()
        for _ in range(1024):
            try:
                packet, peer = listener.recvfrom(_NUMBER.size + 1)
            except BlockingIOError:
                break
            (number,) = _NUMBER.unpack(packet)
            if number % ANSWERED == 0:
                listener.sendto(packet, peer)
            if number >= len(seen):
                seen.extend(bytes(number + 100_000 - len(seen)))
            twice += seen[number]
            received += not seen[number]
            seen[number] = 1
            late += number < highest
            highest = max(highest, number)
    return {"received": received, "twice": twice, "late": late}


def _echo(port: int) -> dict[str, Any]:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    ended = _ended()
    talking: list[socket.socket] = []
    while not ended():
        for one in select.select([listener, *talking], [], [], 0.1)[0]:
            if one is listener:
                talking.append(_impatient(listener.accept()[0]))
                continue
            try:
                word = one.recv(4096)
                one.sendall(word)
            except OSError:
                word = b""
            if not word:
                talking.remove(one)
                one.close()
    return {}


def _impatient(connection: socket.socket) -> socket.socket:
    """It sends each second what was not answered: with the usual backoff, of up to two minutes, a way that is open half
    of the time may look closed. Kernels before 6.15 cannot. Who gives up is we, not TCP after so many repetitions."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _FOR_EVER)
    with suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, _RTO_MAX_MS, 1000)
    return connection


def _talk(address: str, port: int, patience: float) -> dict[str, Any]:
    with socket.create_connection((address, port), patience) as connection:
        _impatient(connection).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ended, rounds, longest, broken = _ended(), 0, 0.0, ""
        while not (ended() or broken):
            began = time.monotonic()
            try:
                connection.sendall(_NUMBER.pack(rounds))
                answer = b""
                while len(answer) < _NUMBER.size:
                    more = connection.recv(_NUMBER.size - len(answer))
                    if not more:
                        raise ConnectionResetError("the other end hung up")
                    answer += more
            except OSError as error:
                broken = str(error)
                continue
            if answer != _NUMBER.pack(rounds):
                broken = f"word {rounds} was answered by another"
            longest = max(longest, time.monotonic() - began)
            rounds += 1
            time.sleep(PAUSE)
        while not ended():
            time.sleep(PAUSE)
    return {"rounds": rounds, "broken": broken, "longest": longest}


def _knock(address: str, port: int) -> dict[str, Any]:
    ended = _ended()
    counts = {"tries": 0, "answered": 0, "refused": 0, "unanswered": 0}
    pending: list[tuple[float, socket.socket]] = []
    while pending or not ended():
        if not ended():
            connection = socket.socket(_family(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            counts["tries"] += 1
            code = connection.connect_ex((address, port))
            if code in {0, errno.EINPROGRESS}:
                pending.append((time.monotonic(), connection))
            else:
                counts["refused"] += 1
                connection.close()
        time.sleep(PAUSE)
        pending = _answers(pending, counts)
    return counts


def _answers(pending: list[tuple[float, socket.socket]], counts: dict[str, int]) -> list[tuple[float, socket.socket]]:
    poll = select.poll()
    for _, one in pending:
        poll.register(one, select.POLLOUT)
    done = {descriptor for descriptor, _ in poll.poll(0)}
    kept = []
    for began, one in pending:
        if one.fileno() in done:
            code = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            counts["unanswered" if code == errno.ETIMEDOUT else "refused" if code else "answered"] += 1
        elif time.monotonic() - began > UNANSWERED:
            counts["unanswered"] += 1
        else:
            kept.append((began, one))
            continue
        # By reset: no port is left in TIME_WAIT.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    return kept


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _main(part: str, *words: str) -> dict[str, Any]:
    match part:
        case "send":
            return _send(words[0], int(words[1]), int(words[2]))
        case "receive":
            return _receive(int(words[0]))
        case "echo":
            return _echo(int(words[0]))
        case "talk":
            return _talk(words[0], int(words[1]), float(words[2]))
        case _:
            return _knock(words[0], int(words[1]))


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))
