"""Our side of a comparison: the plugins as ``dpctl install`` puts them in place, and the agent, on one host.

    ours = Ours(host)
    with ours.agent() as agent: ...          # it answers when this is entered
    ours.call(starter, "ADD", container, {"checksum": "off"}).milliseconds

Be aware: a plugin that the agent does not answer does the work itself, later but as well. So the plugins are given
settings that cannot be read: where the agent did not serve a call, the call fails, and no figure is mistaken.

The root of the cgroups is the machine's: what is attached there, every process runs, peers' and floors' as well. So
nothing is, unless a scenario asks what calls take with all that they do by default (``on_root``). Where packets are to
meet those programs, they are attached to a cgroup of the bench's own (``bench.hosts.cgroups``).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cni import Container, configuration, environment
from bench.instruments.starter import Done, Starter
from bench.native import BenchError
from bench.peers.plugins import NETWORK
from bench.place import Host, children, end, wait_for
from control.protocol.client import AgentClient, AgentUnreachableError
from control.protocol.wire import WireError

DPCTL = (sys.executable, "-I", "-c", "from control.cli.root import main; main()")
SOCKET = "/run/dataplane/agent.sock"
PATIENCE = 60.0
"""Seconds that an agent may take until it answers: where nothing is pinned it compiles first."""

_SETTINGS = "DATAPLANE_CONFIG"
_OFF_ROOT = 'localhost = "off"\n'
_CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h: of a whole process, in nanoseconds


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent that answers."""

    process: subprocess.Popen[bytes]
    pid: int
    """As seen from outside."""
    seconds: float
    """From before its start to its first answer."""

    @property
    def cpu_milliseconds(self) -> float:
        """What it took of the processors until now, all its threads together, as clock_getcpuclockid(3) counts it."""
        return time.clock_gettime(~self.pid << 3 | _CPUCLOCK_SCHED) * 1e3


class Ours:
    """The installed plugins of one host."""

    def __init__(self, host: Host, *, on_root: bool = False) -> None:
        """``on_root``: an ADD attaches to the root of the cgroups what it attaches there by default."""
        self.host = host
        self._bin, self._drop_ins = host.directory / "bin", host.directory / "drop-ins"
        self._good, self._unreadable = host.directory / "dataplane.toml", host.directory / "unreadable.toml"
        self._good.write_text("" if on_root else _OFF_ROOT, encoding="utf-8")
        self._unreadable.write_text("a call that the agent did not serve\n", encoding="utf-8")
        self.dpctl(
            "install", "--cni-bin", self._bin, "--conf", host.directory / "net.d",
            "--drop-in", "--drop-in-bin", self._drop_ins,
        )  # fmt: skip

    def plugin(self, name: str) -> Path:
        """An executable, under its own name or under one that it stands in for."""
        own = self._bin / name
        return own if own.exists() else self._drop_ins / name

    def environment(self, verb: str, container: Container, *, alone: bool = False) -> dict[str, str]:
        """The parameters of a call that only the agent can serve; ``alone`` lets the plugin do the work itself."""
        settings = self._good if alone else self._unreadable
        return environment(verb, container, f"{self._drop_ins}:{self._bin}", **{_SETTINGS: str(settings)})

    def call(
        self,
        starter: Starter,
        verb: str,
        container: Container,
        keys: Mapping[str, object] | None = None,
        *,
        network: str = NETWORK,
        alone: bool = False,
        previous: Mapping[str, object] | None = None,
    ) -> Done:
        """A call of the chained plugin, which only the agent can serve unless it is to do the work ``alone``; ``keys``
        are further ones of its configuration, ``previous`` is the result of the plugin before it where the container
        does not say enough. Raises ``BenchError`` where it fails."""
        given = container.previous_result() if previous is None else previous
        text = configuration("dataplane", network, container.ports, given, **(keys or {}))
        return starter.run(self.plugin("dataplane"), self.environment(verb, container, alone=alone), text)

    def published(self) -> Collection[int]:
        """The ports of the host that lead to a container, as nft lists them."""
        listed = self.host.run("nft", "-j", "list", "map", "inet", "dataplane", "publish4", check=False)
        maps = [one["map"] for one in json.loads(listed or '{"nftables": []}')["nftables"] if "map" in one]
        keys = [key for one in maps for key, _ in one.get("elem", [])]
        return [(key["elem"]["val"] if "elem" in key else key)["concat"][1] for key in keys]

    def dpctl(self, *words: object, check: bool = True) -> str:
        """Run dpctl on the host; what it printed."""
        return self.host.run(*DPCTL, *words, check=check, env={_SETTINGS: str(self._good)})

    @contextmanager
    def agent(self, command: tuple[str, ...] = DPCTL) -> Iterator[Agent]:
        """An agent, from its first answer until the block ends, where it is killed if it still lives."""
        started = self.start(command)
        try:
            yield started
        finally:
            end(started.process)

    def start(self, command: tuple[str, ...] = DPCTL) -> Agent:
        """Start an agent; the caller ends it. Raises ``BenchError``."""
        with (self.host.directory / "agent.log").open("ab") as log:
            began = time.monotonic()
            process = self.host.spawn(*command, "agent", stdout=log.fileno(), stderr=log.fileno(), env=self.settings)
        client = AgentClient(str(self.host.outside(SOCKET)))

        def answers() -> bool:
            try:
                client.ping()
            except (AgentUnreachableError, WireError):
                return process.poll() is not None
            return True

        if not wait_for(answers, PATIENCE, 0.002) or process.poll() is not None:
            end(process)
            said = (self.host.directory / "agent.log").read_text(encoding="utf-8", errors="replace")
            raise BenchError(f"could not start the agent: {said.strip()[-500:]}")
        return Agent(process, children(process.pid)[0], time.monotonic() - began)

    @property
    def settings(self) -> Mapping[str, str]:
        """The variable that names the settings file."""
        return {_SETTINGS: str(self._good)}
