"""What the stack of a network namespace counted: /proc/net/snmp and /proc/net/netstat, of which few tell of trouble.

before = counted(netns)
risen(before, counted(netns))          -> {"TCP segments sent again": 3, ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dataplane.namespaces import inside

TROUBLE: Mapping[str, tuple[str, ...]] = {
    "TCP segments sent again": ("Tcp RetransSegs",),
    "DSACKs received": ("TcpExt TCPDSACKRecv", "TcpExt TCPDSACKOfoRecv"),
    "reordering noticed": ("TcpExt TCPSACKReorder", "TcpExt TCPTSReorder", "TcpExt TCPRenoReorder"),
    "segments queued out of order": ("TcpExt TCPOFOQueue",),
    "timeouts and probes": ("TcpExt TCPTimeouts", "TcpExt TCPLossProbes"),
    "wrong checksums": ("Tcp InCsumErrors", "Udp InCsumErrors"),
    "no room in a socket": ("TcpExt TCPRcvQDrop", "TcpExt TCPBacklogDrop", "Udp RcvbufErrors"),
}
"""What rises where something went wrong, by the kernel's names."""

_FILES = (Path("/proc/thread-self/net/snmp"), Path("/proc/thread-self/net/netstat"))


def counted(netns: Path) -> dict[str, int]:
    """All counters of a network namespace: "TcpExt TCPDSACKRecv" and the like."""
    with netns.open("rb") as opened:
        texts = inside(opened.fileno(), lambda: [file.read_text(encoding="ascii") for file in _FILES])
    return {name: count for text in texts for name, count in parsed(text).items()}


def parsed(text: str) -> dict[str, int]:
    """The counters of one file: a line of names, then a line of numbers, for each protocol. Pure."""
    found = dict[str, int]()
    lines = text.splitlines()
    for header, line in zip(lines[::2], lines[1::2], strict=True):
        (protocol, *names), (_, *values) = header.split(), line.split()
        found |= {f"{protocol.rstrip(':')} {name}": int(value) for name, value in zip(names, values, strict=True)}
    return found


def risen(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """How much trouble there was meanwhile, by kind; a counter that a kernel lacks has not risen. Pure."""
    return {
        kind: sum(after.get(name, 0) - before.get(name, 0) for name in names) for kind, names in TROUBLE.items()
    }  # fmt: skip
