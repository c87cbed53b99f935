"""A document's console blocks, run again: what they would say now.

    again = rerun(text, act, run)           with what the commands print now in place of what is there
    comparable(again) == comparable(text)

In blocks of the kind ``console`` each line with "# " is a command, and what follows is what it printed. A comment on a
line of its own, ``<!-- test: knock -->``, is an action that comes before the next command.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_ACTION = re.compile(r"<!-- test: (.*) -->")
_SWITCHES = re.compile(r"\b(tx|rx|tso|gso|gro|udp_tnl) (?:on|off)")


def rerun(text: str, act: Callable[[str], object], run: Callable[[str], str]) -> str:
    """The document with each command's output as it is now; ``run`` is given the command without its "# "."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if inside and line == "```":
            inside = False
        if action := _ACTION.fullmatch(line):
            act(action[1])
        if not inside or line.startswith("# "):
            lines.append(line)
        if inside and line.startswith("# "):
            lines += steady(run(line.removeprefix("# "))).splitlines()
        inside = inside or line == "```console"
    return "\n".join(lines) + "\n"


def steady(text: str) -> str:
    """Output without what differs from run to run: names that are made up, and times."""
    text = re.sub(r"\bveth[0-9a-f]{8}\b", "veth1a2b3c4d", text)
    return re.sub(r"(?m)^\d\d:\d\d:\d\d ", "12:03:04 ", text)


def comparable(text: str) -> str:
    """A document without what differs from kernel to kernel: the settings of devices, how many sums were right."""
    return re.sub(r"\b\d+ right\b", "0 right", _SWITCHES.sub(r"\1 on", steady(text)))
