"""The clock on the wall may jump: nothing that is decided asks for the time of day."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import dataplane

ROOT = Path(str(dataplane.__file__)).parent.parent
PACKAGES = [ROOT / name for name in ("control", "dataplane", "plugin")]

CALLS = {"time", "time_ns", "ctime", "localtime", "gmtime", "now", "utcnow", "today", "fromtimestamp"}
"""Of the modules ``time`` and ``datetime``."""

DISPLAY = {
    "control/agent/history.py: time.time": "when a record was made, for people; nothing is computed from it",
    "control/cli/events.py: datetime.fromtimestamp": "how that is shown",
    "control/cli/checksum/watch.py: time.time": "when a finding was read, for people",
    "control/checksums/sighted.py: datetime.fromtimestamp": "how that is shown",
}
QUEUE = {
    "control/protocol/queue.py: time.time_ns": "names of files: any order among them will do, for a DEL may come twice",
    "control/protocol/queue.py: time.time": "how old a temporary file is: one that is taken for abandoned "
    "is a DEL that is asked for once more",
}
NATIVE = {"plugin/native/queue.c": "names of files, as in control/protocol/queue.py"}


def asked(source: Path) -> Iterator[str]:
    """The functions of a module that tell the time of day, wherever they are named."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in {"time", "datetime", "date"} and node.attr in CALLS:
                yield f"{source.relative_to(ROOT)}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"{source.relative_to(ROOT)}: time.{one.name}" for one in node.names if one.name in CALLS)


def test_nothing_is_decided_by_the_time_of_day() -> None:
    """Limits, pauses and deadlines are of CLOCK_MONOTONIC; the few that are not are named here, with the reason why a
    jump does not matter."""
    found = {call for package in PACKAGES for source in package.rglob("*.py") for call in asked(source)}
    assert found == DISPLAY.keys() | QUEUE.keys()


def test_neither_is_anything_in_c() -> None:
    """The same of the shim and of the BPF programs."""
    pattern = re.compile(r"CLOCK_REALTIME|\bgettimeofday\b|\btime\(NULL\)|bpf_ktime_get_tai|\btime\(0\)")
    sources = [*(ROOT / "plugin/native").glob("*.[ch]"), *(ROOT / "bpf").glob("*.[ch]")]
    assert len(sources) > 10
    found = {str(source.relative_to(ROOT)) for source in sources if pattern.search(source.read_text())}
    assert found == NATIVE.keys()
