"""Our engine in a process that lives, as the agent hosts it, without the agent: what a change of ports takes by itself.

    with Resident(host) as resident:
        resident.update("ADD", container)          -> milliseconds; state, nftables, programs and all
        resident.update("DEL", container)

The process runs on the host, and looks at the clock around the one call of the engine: nothing is started, and nobody
is asked over a socket. Jobs and answers are a line of JSON each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import ip_interface
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.cni import IFNAME, Container
from bench.native import BenchError
from bench.peers.plugins import NETWORK
from bench.place import Host, end
from control.engine import Engine, open_engine
from control.errors import EngineError
from control.model import AttachmentKey, Options, PortMapping, Request
from dataplane.errors import DataplaneError
from dataplane.types import Protocol

_COMMAND = (sys.executable, "-I", "-c", "from bench.scenarios.rule_updates.resident import main; main()")
_READY = {"ready": True}


class Resident:
    """See the module."""

    def __init__(self, host: Host) -> None:
        """Raises ``BenchError`` where the engine cannot work there."""
        self._process = host.spawn(*_COMMAND, stdin=subprocess.PIPE)
        answer = self._answer()
        if answer != _READY:
            end(self._process)
            raise BenchError(f"could not open an engine on {host.name}: {answer.get('error')}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        end(self._process)

    def update(self, verb: str, container: Container) -> float:
        """Attach a container with its ports, or bring it up to date (ADD), or detach it (DEL): milliseconds of the
        engine. Raises ``BenchError``."""
        job = {
            "verb": verb,
            "name": container.name,
            "address": str(ip_interface(container.address).ip),
            "interfaces": [container.bridge, container.link],
            "netns": container.netns,
            "ports": [(one["hostPort"], one["containerPort"], one["protocol"]) for one in container.ports],
        }
        if self._process.stdin is None:
            raise AssertionError("made with pipes")
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "nanoseconds" not in answer:
            raise BenchError(f"could not {verb} {container.name} by the engine: {answer.get('error')}")
        return int(answer["nanoseconds"]) / 1e6

    def _answer(self) -> dict[str, Any]:
        if self._process.stdout is None:
            raise AssertionError("made with pipes")
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended, see above"}
        return answer


def main() -> None:
    """Serve jobs on standard input until it ends."""
    with open_engine() as engine:
        try:
            engine.require_kernel()
        except EngineError as error:
            _say({"error": str(error)})
            return
        _say(_READY)
        for line in sys.stdin:
            work = _work(engine, json.loads(line))
            began = time.perf_counter_ns()
            try:
                work()
            except DataplaneError as error:
                _say({"error": str(error)})
            else:
                _say({"nanoseconds": time.perf_counter_ns() - began})


def _work(engine: Engine, job: dict[str, Any]) -> Callable[[], None]:
    key = AttachmentKey(NETWORK, job["name"], IFNAME)
    if job["verb"] == "DEL":
        return lambda: engine.delete(key)
    mappings = tuple(PortMapping(host, inner, Protocol(protocol)) for host, inner, protocol in job["ports"])
    request = Request(
        key=key,
        addresses=(ip_interface(job["address"]).ip,),
        host_interfaces=tuple(job["interfaces"]),
        mappings=mappings,
        options=Options(),
        netns=job["netns"],
        netns_inode=Path(job["netns"]).stat().st_ino,
    )
    return lambda: engine.add(request)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
