"""The agent as it comes and goes: started, stopped, killed, and replaced by one of another version.

resident = Resident(world)
resident.again(signal.SIGKILL)
resident.again(signal.SIGTERM, upgraded(directory, 1))     # a copy of the package with another BPF source

resident.problems()      what dpctl status of the same version complains of
resident.hooked()        our programs on all devices
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import dataplane
from support.netns import wait_until
from support.world import DPCTL, World


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process takes."""

    memory: int
    """KiB that are resident."""
    descriptors: int


Command = tuple[object, ...]

INSTALLED: Command = (DPCTL,)
"""dpctl as the plugins know it."""
GENEROUS = 30.0
"""Seconds; on a quiet machine it takes a tenth of one."""

_PARTS = ("dataplane", "control", "plugin", "bpf")


def upgraded(directory: Path, number: int) -> Command:
    """dpctl of a copy of the package whose BPF source, and so whose digest, is another."""
    root, copy = Path(dataplane.__file__).resolve().parent.parent, directory / f"version-{number}"
    for part in _PARTS:
        shutil.copytree(root / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "bpf" / "isolation.c").open("a", encoding="utf-8") as source:
        source.write(f"\n/* Version {number}. */\n")
    start = f"import sys; sys.path.insert(0, {str(copy)!r}); from control.cli.root import main; main()"
    return (sys.executable, "-I", "-c", start)


class Resident:
    """See the module. Made with the agent running."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._command = INSTALLED
        self.process = self._start()

    def again(self, number: signal.Signals, command: Command | None = None) -> None:
        """End it by a signal and start it, perhaps by another command: see ``start``."""
        self.end(number)
        self.start(command)

    def start(self, command: Command | None = None) -> None:
        """Start it, by the same command unless there is another; nothing is wrong any more when this returns."""
        self._command = command or self._command
        self.process = self._start()

    def end(self, number: signal.Signals) -> None:
        """End it by a signal."""
        self.world.host.signal(self.process, number)
        self.process.wait(GENEROUS)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.world.host.signal(self.process, number)
        if number is signal.SIGCONT:
            self.process.send_signal(number)  # the nsenter around it stops with it, but does not go on with it

    def dpctl(self, *words: object, check: bool = True) -> str:
        """Run dpctl of the agent's version; what it printed."""
        return self.world.host.run(*self._command, *words, check=check, env=self.world.environment).stdout

    def problems(self) -> list[str]:
        """What ``dpctl status`` complains of."""
        found: list[str] = json.loads(self.dpctl("status", "--json", check=False))["problems"]
        return found

    def records(self, *kinds: str) -> list[dict[str, object]]:
        """What it tells of these kinds, or of all."""
        lines = self.dpctl("events", "--json", "-n", "1000", *(word for kind in kinds for word in ("--kind", kind)))
        return [json.loads(line) for line in lines.splitlines()]

    def hooked(self) -> list[tuple[str, str, int]]:
        """Our programs on all devices: device, program, and its ID."""
        listed = json.loads(self.dpctl("bpf", "ls", "--json"))["attached"]
        return sorted(
            (str(one["device"]), str(one["program"]), int(one["program_id"])) for one in listed if one["device"]
        )

    def usage(self) -> Usage:
        """What the agent's process takes now."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (memory,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{child}/status").read_text())
        return Usage(int(memory), len(list(Path(f"/proc/{child}/fd").iterdir())))

    def settle(self) -> None:
        """Wait until nothing is wrong. Raises ``AssertionError`` with what is wrong still."""
        found: list[str] = []

        def healthy() -> bool:
            found[:] = self.problems()
            return not found

        try:
            wait_until(healthy, GENEROUS, "a healthy host")
        except AssertionError as error:
            raise AssertionError(f"{error}: {found}; {self.records()[-20:]}") from None

    def _start(self) -> subprocess.Popen[str]:
        process = self.world.host.spawn(
            *self._command, "agent", env=self.world.environment, stdout=None, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: process.poll() is not None or self._answers(), GENEROUS, "an agent that answers")
        assert process.poll() is None, "the agent has ended"
        self.settle()
        return process

    def _answers(self) -> bool:
        status = (*self._command, "status", "--agent")
        return self.world.host.run(*status, check=False, env=self.world.environment).returncode != 4
