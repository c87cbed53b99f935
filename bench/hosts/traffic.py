"""Traffic through a published port: a machine outside, a container with servers, and what the clients saw.

world = World(host, native, present=1000)            # 1,000 ports, two of which lead to the container
with world.ours.agent(), world.server():
    world.publish()
    knocks = world.knock(pace=5000, seconds=5)       # begins at once
    flow = world.flow(100_000, 20_000)
    flow.result(), knocks.result()                   # wait for the end
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO

from bench.cni import port
from bench.hosts.ours import Ours
from bench.hosts.wiring import HOST, edge
from bench.instruments.starter import Starter
from bench.native import BenchError, Native
from bench.place import Host, Place, end
from bench.stage import containers

TCP_PORT, UDP_PORT = 40000, 40001

_INNER_TCP, _INNER_UDP = 80, 9000
_MOST_CONTAINERS = 100
_TIMEOUT = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Knock:
    """One attempt to connect. Nanoseconds of CLOCK_MONOTONIC; an errno of 0 is a connection."""

    began: int
    ended: int
    errno: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """What became of numbered packets."""

    sent: int
    """By the sender's kernel; packets that it refused are not lost on the way."""
    received: int
    twice: int
    late: int
    gap: int
    silence: int

    @property
    def lost(self) -> int:
        return self.sent - self.received


class Knocks:
    """Attempts under way. They are told to a file: a pipe that nobody reads would stop them when it is full."""

    def __init__(self, process: subprocess.Popen[bytes], told: IO[bytes]) -> None:
        self._process, self._told = process, told

    def result(self) -> list[Knock]:
        """All of them, when the last is done."""
        self._process.wait(timeout=_TIMEOUT)
        return self.stop()

    def stop(self) -> list[Knock]:
        """Make no more; those that are done."""
        end(self._process)
        with self._told as told:
            told.seek(0)
            whole = [line for line in told.read().decode().splitlines(keepends=True) if line.endswith("\n")]
        return [Knock(*map(int, line.split())) for line in whole]


class Packets:
    """Packets under way."""

    def __init__(self, sender: subprocess.Popen[bytes], receiver: subprocess.Popen[bytes]) -> None:
        self._sender, self._receiver = sender, receiver

    @property
    def sending(self) -> bool:
        """Whether some are still to be sent."""
        return self._sender.poll() is None

    def result(self) -> Arrived:
        """What became of them, when all arrived, or none has for a while. Raises ``BenchError``."""
        sent, _, _ = map(int, _said(self._sender).split())
        return Arrived(sent, *map(int, _said(self._receiver).split()))


class World:
    """A host with so many ports present; the first tcp, the second udp, to servers in a container of their own."""

    def __init__(self, host: Host, native: Native, present: int, *, on_root: bool = False) -> None:
        self.host, self._native = host, native
        self.ours = Ours(host, on_root=on_root)
        self._client = edge(host)
        own = (port(TCP_PORT, _INNER_TCP), port(UDP_PORT, _INNER_UDP, "udp"))[:present]
        rest = present - len(own)
        count = min(rest, _MOST_CONTAINERS)
        each = -(-rest // count) if count else 0
        *others, target = containers(host, count + 1, each)
        cut = [replace(one, ports=one.ports[: max(rest - number * each, 0)]) for number, one in enumerate(others)]
        self._fleet = [replace(target, ports=own), *cut]
        self._target: Place = host.existing(target.name)

    def publish(self) -> None:
        """ADD all containers, by the agent that must be there."""
        with Starter(self.host, self._native) as starter:
            for container in self._fleet:
                self.ours.call(starter, "ADD", container)

    @contextmanager
    def server(self) -> Iterator[None]:
        """Whoever accepts connections in the container."""
        process = self._target.spawn(self._native.knock, "accept", _INNER_TCP)
        _ready(process)
        try:
            yield
        finally:
            end(process)

    def knock(self, pace: int, seconds: int) -> Knocks:
        """Begin to connect from outside, every ``pace`` microseconds."""
        told = tempfile.TemporaryFile()  # noqa: SIM115 - whoever takes the result closes it
        words = (self._native.knock, "connect", HOST, TCP_PORT, pace, seconds)
        return Knocks(self._client.spawn(*words, stdout=told.fileno()), told)

    def flow(self, count: int, rate: int) -> Packets:
        """Begin to send so many packets from outside, so many a second."""
        receiver = self._target.spawn(self._native.flow, "receive", _INNER_UDP, count)
        _ready(receiver)
        return Packets(self._client.spawn(self._native.flow, "send", HOST, UDP_PORT, count, rate), receiver)


def _ready(process: subprocess.Popen[bytes]) -> None:
    if process.stdout is None or process.stdout.readline() != b"ready\n":
        end(process)
        raise BenchError("could not start a server in the container: see above")


def _said(process: subprocess.Popen[bytes]) -> str:
    said, _ = process.communicate(timeout=_TIMEOUT)
    if process.returncode:
        raise BenchError(f"could not make traffic: {process.args!r} ended with status {process.returncode}")
    return said.decode()
