"""Many containers at once: each comes and goes in a thread of its own, by processes as a runtime starts them.

    logs = world.host.call(blow, runtime, lives, kills)      in the sandbox: 64 at a time
    assert clashes(logs) == []

    Bare    one executable; a failed ADD is not followed by a DEL, so that what it left can be seen
    Chain   a conflist, by the driver; a failed ADD is followed by the DEL of all, as runtimes do it

Be aware: who holds what from when to when is known by the clock of those who asked: from the answer to ADD until DEL
was begun. What two logs claim beyond doubt at the same time, is a clash.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Protocol

from plugin.errors import CniError
from plugin.runtime.conflist import ConfList
from plugin.runtime.driver import Driver

WIDTH = 64
"""Calls at a time."""
KILLED = -9
"""In place of a CNI code: the plugin was killed."""
MAX_KILLS = WIDTH // 3

_IFNAME = "eth0"


@dataclass(frozen=True, slots=True)
class Life:
    """What one container does: it comes, or goes, or comes and goes, after a while each."""

    container: str
    netns: str
    port: int
    comes: bool = True
    goes: bool = False
    before: float = 0.0
    between: float = 0.0


@dataclass(frozen=True, slots=True)
class Log:
    """What became of it. Times are those of one clock; ``code`` is 0 where all went well."""

    life: Life
    code: int
    text: str
    addresses: tuple[str, ...]
    asked: float
    held_from: float
    held_until: float
    ended: float


class Runtime(Protocol):
    """Who calls the plugins. Raises ``CniError``."""

    def add(self, life: Life) -> list[str]:
        """Attach; the addresses."""

    def delete(self, life: Life) -> None:
        """Detach."""


@dataclass(frozen=True, slots=True)
class Bare:
    """One executable and its configuration."""

    executable: Path
    conf: Mapping[str, object]
    environment: Mapping[str, str]
    running: set[int] = field(default_factory=set)
    """Process IDs of plugins, of which some may be killed."""

    def add(self, life: Life) -> list[str]:
        result = json.loads(self._run("ADD", life))
        return [str(one["address"]).partition("/")[0] for one in result["ips"]]

    def delete(self, life: Life) -> None:
        self._run("DEL", life)

    def _run(self, verb: str, life: Life) -> str:
        mapping = {"hostPort": life.port, "containerPort": 80, "protocol": "tcp"}
        conf = {**self.conf, "runtimeConfig": {"portMappings": [mapping]}}
        parameters = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": life.container,
            "CNI_NETNS": life.netns,
            "CNI_IFNAME": _IFNAME,
            "CNI_PATH": str(self.executable.parent),
        }
        with subprocess.Popen(
            [self.executable],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | self.environment | parameters,
            text=True,
        ) as process:
            self.running.add(process.pid)
            stdout, stderr = process.communicate(json.dumps(conf))
            self.running.discard(process.pid)
        if process.returncode == -signal.SIGKILL:
            raise CniError(KILLED, "killed")
        if process.returncode:
            error = json.loads(stdout)
            raise CniError(error["code"], error["msg"], error.get("details", "") + stderr)
        return stdout


@dataclass(frozen=True, slots=True)
class Chain:
    """A conflist."""

    conflist: ConfList
    path: Sequence[Path]
    cache: Path

    def add(self, life: Life) -> list[str]:
        result = Driver(self.path, self.cache).add(self.conflist, *self._attachment(life))
        ips = result["ips"]
        assert isinstance(ips, list)
        return [str(one["address"]).partition("/")[0] for one in ips if isinstance(one, dict)]

    def delete(self, life: Life) -> None:
        Driver(self.path, self.cache).delete(self.conflist, *self._attachment(life))

    def _attachment(self, life: Life) -> tuple[str, str, str, Mapping[str, object]]:
        mapping = {"hostPort": life.port, "containerPort": 80, "protocol": "tcp"}
        return life.container, life.netns, _IFNAME, {"portMappings": [mapping]}


def blow(
    runtime: Runtime, lives: Iterable[Life], environment: Mapping[str, str], kills: random.Random | None = None
) -> list[Log]:
    """Live all these lives, 64 at a time; with ``kills``, plugins of a ``Bare`` runtime are killed meanwhile."""
    os.environ.update(environment)
    over = threading.Event()
    with ThreadPoolExecutor(WIDTH + 1) as pool:
        if kills is not None:
            assert isinstance(runtime, Bare)
            pool.submit(_kill, runtime.running, kills, over)
        logs = list(pool.map(lambda life: _live(runtime, life), lives))
        over.set()
    return logs


def clashes(logs: Iterable[Log]) -> list[str]:
    """What two containers held at the same time: addresses and ports."""
    held = [log for log in logs if log.code == 0 and log.life.comes]
    return [
        f"{one.life.container} and {other.life.container}: {sorted(both)}"
        for one, other in combinations(held, 2)
        if (both := {*_names(one)} & {*_names(other)})
        and max(one.held_from, other.held_from) < min(one.held_until, other.held_until)
    ]


def could_hold(logs: Iterable[Log], refused: Log) -> Iterator[str]:
    """The containers that may have held a port while another was refused it."""
    for log in logs:
        same = log.life.port == refused.life.port and log.life.container != refused.life.container
        if same and log.asked < refused.ended and refused.asked < log.ended:
            yield log.life.container


def _names(log: Log) -> Iterator[str]:
    yield f"port {log.life.port}"
    yield from log.addresses


def _live(runtime: Runtime, life: Life) -> Log:
    code, text, addresses = 0, "", list[str]()
    time.sleep(life.before)
    asked = time.monotonic()
    held_from = held_until = ended = float("inf")
    try:
        if life.comes:
            addresses = runtime.add(life)
            held_from = time.monotonic()
        if life.goes:
            time.sleep(life.between)
            held_until = time.monotonic()
            runtime.delete(life)
            ended = time.monotonic()
    except CniError as error:
        code, text = error.code, str(error)
        ended = time.monotonic() if held_until == float("inf") else ended
    return Log(life, code, text, tuple(addresses), asked, held_from, held_until, ended)


def _kill(running: set[int], kills: random.Random, over: threading.Event) -> None:
    left = MAX_KILLS
    while left and not over.wait(kills.uniform(0.0, 0.1)):
        if victims := sorted(running):
            with suppress(ProcessLookupError):
                os.kill(kills.choice(victims), signal.SIGKILL)
                left -= 1
