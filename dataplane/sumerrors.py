"""How many packets the kernel's protocols dropped because of their checksum, in the network namespace of the thread.

    errors()         -> {"TcpInCsumErrors": 0, "UdpInCsumErrors": 3, ..., "Udp6InCsumErrors": 0}

The names are those that ``nstat`` prints (/proc/net/snmp and snmp6). TCP counts both families as one.

Be aware: they count from the namespace's beginning, and what is delivered in it: at the sum of what it forwards or
bridges nobody looks.
"""

from __future__ import annotations

from pathlib import Path

# Not /proc/net, which is that of the process: see dataplane.namespaces.
_DIRECTORY = Path("/proc/thread-self/net")
_FIELD = "InCsumErrors"


def errors() -> dict[str, int]:
    """The counters, by name; those of IPv6 are missing where the kernel has none. Raises ``OSError``."""
    found = parse(_DIRECTORY.joinpath("snmp").read_text(encoding="ascii"))
    try:
        return found | parse6(_DIRECTORY.joinpath("snmp6").read_text(encoding="ascii"))
    except FileNotFoundError:
        return found


def parse(text: str) -> dict[str, int]:
    """The counters of /proc/net/snmp: for each protocol a line of names, and one of numbers."""
    lines = [line.split() for line in text.splitlines()]
    return {
        names[0].rstrip(":") + _FIELD: int(dict(zip(names, numbers, strict=True))[_FIELD])
        for names, numbers in zip(lines[::2], lines[1::2], strict=True)
        if _FIELD in names
    }


def parse6(text: str) -> dict[str, int]:
    """The counters of /proc/net/snmp6: a name and a number on each line."""
    return {name: int(number) for name, number in map(str.split, text.splitlines()) if name.endswith(_FIELD)}
