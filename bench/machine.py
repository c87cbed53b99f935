"""What a result depends on besides the code: commit, kernel, processor, mitigations, versions; and what the machine did
meanwhile.

facts = describe()                       # the first line of every file of results
meter = Meter(cpu)                       # at the start of a block; None where no processor is the one that measures
steal, load = meter.read()               # share of the time that the hypervisor gave to others; the load average
steal_of(cpu)                            # whose share that is, in words
"""

from __future__ import annotations

import gzip
import hashlib
import os
import platform
import subprocess
import time
import uuid
from importlib.metadata import version
from pathlib import Path

from bench.figures.results import VERSION
from bench.instruments.precedence import first_in_line

_HERE = Path(__file__).resolve().parent
_PACKAGES = ("containernetworking-plugins", "nftables", "iptables")
_CPUS = Path("/sys/devices/system/cpu")
_STEAL = 7  # the eighth number of a line of /proc/stat


def describe() -> dict[str, object]:
    """A run's name and surroundings; empty text where something cannot be told."""
    return {
        "version": VERSION,
        "run": uuid.uuid4().hex[:12],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "dataplane": version("dataplane"),
        "kernel": platform.release(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "smt": {"0": "off", "1": "on"}.get(_text(_CPUS / "smt/active"), ""),
        "governor": _text(_CPUS / "cpu0/cpufreq/scaling_governor"),
        "turbo": _turbo(),
        "hypervisor": _hypervisor(),
        "memory_mib": _memory(),
        "kernel_build": platform.version(),
        "kernel_config": _config(),
        "mitigations": {path.name: _text(path) for path in sorted(_CPUS.glob("vulnerabilities/*"))},
        "python": platform.python_version(),
        "compiler": _said("cc", "--version").partition("\n")[0],
        "nft": _said("nft", "--version"),
        "packages": {name: _said("dpkg-query", "-W", "-f", "${Version}", name) for name in _PACKAGES},
        "clocksource": _text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "precedence": _precedence(),
    }


class Meter:
    """Steal and load since it was made. ``cpu`` is the processor that is measured on, where it is one."""

    def __init__(self, cpu: int | None = None) -> None:
        self._cpu, self._before = cpu, _stat()

    def read(self) -> tuple[float, float]:
        """(steal as a share of a processor's time, load average of one minute); see ``steal_share``."""
        return steal_share(self._before, _stat(), self._cpu), os.getloadavg()[0]


def steal_of(cpu: int | None) -> str:
    """Whose steal ``Meter(cpu)`` tells."""
    return "the processor that lost most" if cpu is None else f"processor {cpu}, or of all where that is more"


def steal_share(before: str, after: str, cpu: int | None) -> float:
    """Of two readings of /proc/stat, the share of the time between that the hypervisor gave to others: of the processor
    that is measured on, or of all together where that is more; without such a processor, of the one that lost most.
    Of several processors' mean, what one of them lost would be a part."""
    sooner, later = _times(before), _times(after)
    shares = {name: _stolen(sooner[name], later[name]) for name in sooner.keys() & later.keys()}
    return max(share for name, share in shares.items() if cpu is None or name in {"cpu", f"cpu{cpu}"})


def _stolen(before: list[int], after: list[int]) -> float:
    spent = [later - sooner for sooner, later in zip(before, after, strict=True)]
    return spent[_STEAL] / max(sum(spent), 1)


def _stat() -> str:
    return Path("/proc/stat").read_text(encoding="ascii")


def _times(stat: str) -> dict[str, list[int]]:
    """By name of processor, and "cpu" of all together; one that is offline has no line."""
    # user nice system idle iowait irq softirq steal; guest time is in user already
    lines = (line.split() for line in stat.splitlines() if line.startswith("cpu"))
    return {name: [int(word) for word in words[:8]] for name, *words in lines}


def _commit() -> str:
    commit = _said("git", "-C", str(_HERE), "rev-parse", "--short=12", "HEAD")
    changed = _said("git", "-C", str(_HERE), "status", "--porcelain") if commit else ""
    return commit + ("-changed" if changed else "")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _turbo() -> str:
    """Whether the processor may go faster than its nominal frequency; "" where it does not say."""
    no_turbo, boost = _text(_CPUS / "intel_pstate/no_turbo"), _text(_CPUS / "cpufreq/boost")
    return {"0": "on", "1": "off"}.get(no_turbo, "") or {"0": "off", "1": "on"}.get(boost, "")


def _hypervisor() -> str:
    """Its name, "unnamed" for one that gives none, "" on bare metal."""
    named = _said("systemd-detect-virt", "--vm") or _text("/sys/hypervisor/type")
    return named or ("unnamed" if " hypervisor" in _text("/proc/cpuinfo") else "")


def _precedence() -> str:
    """Whether what is timed goes before all others on its processor."""
    with first_in_line() as granted:
        return "before all others (SCHED_FIFO)" if granted else "as all others: SCHED_FIFO is not granted"


def _memory() -> int:
    total = next(line for line in _text("/proc/meminfo").splitlines() if line.startswith("MemTotal:"))
    return int(total.split()[1]) // 1024


def _config() -> str:
    """The start of the SHA-256 of the kernel's configuration; "" where it is nowhere to be read."""
    try:
        config = gzip.decompress(Path("/proc/config.gz").read_bytes())
    except FileNotFoundError:
        config = _text(f"/boot/config-{platform.release()}").encode()
    return hashlib.sha256(config).hexdigest()[:12] if config else ""


def _text(path: str | Path) -> str:
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
