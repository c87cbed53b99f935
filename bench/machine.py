"""What a result depends on besides the code: commit, kernel, processor, versions; and what the machine did meanwhile.

facts = describe()                       # the first line of every file of results
meter = Meter()                          # at the start of a block
steal, load = meter.read()               # share of the time that the hypervisor gave to others; the load average
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
import uuid
from importlib.metadata import version
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_PACKAGES = ("containernetworking-plugins", "nftables", "iptables")
_FLAWS = Path("/sys/devices/system/cpu/vulnerabilities")
_STEAL = 7  # the eighth number of a line of /proc/stat


def describe() -> dict[str, object]:
    """A run's name and surroundings; empty text where something cannot be told."""
    return {
        "version": 1,
        "run": uuid.uuid4().hex[:12],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "dataplane": version("dataplane"),
        "kernel": platform.release(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "compiler": _said("cc", "--version").partition("\n")[0],
        "packages": {name: _said("dpkg-query", "-W", "-f", "${Version}", name) for name in _PACKAGES},
        "clocksource": _text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    }


def mitigations() -> str:
    """What the kernel does about each flaw of the processor; "none needed" where it has none."""
    told = {path.name: _text(str(path)) for path in sorted(_FLAWS.glob("*"))}
    return "; ".join(f"{name}: {text}" for name, text in told.items() if text != "Not affected") or "none needed"


class Meter:
    """Steal and load since it was made."""

    def __init__(self) -> None:
        self._before = _times()

    def read(self) -> tuple[float, float]:
        """(steal as a share of all CPUs' time, load average of one minute)."""
        spent = [after - before for before, after in zip(self._before, _times(), strict=True)]
        return spent[_STEAL] / max(sum(spent), 1), os.getloadavg()[0]


def _times() -> list[int]:
    # user nice system idle iowait irq softirq steal; guest time is in user already
    line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    return [int(word) for word in line.split()[1:9]]


def _commit() -> str:
    commit = _said("git", "-C", str(_HERE), "rev-parse", "--short=12", "HEAD")
    changed = _said("git", "-C", str(_HERE), "status", "--porcelain") if commit else ""
    return commit + ("-changed" if changed else "")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
