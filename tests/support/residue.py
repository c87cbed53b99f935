"""What containers leave on a host: nothing, once each of them is gone.

    assert residue(world.host, world.environment) == {}

Everything is looked at in the kernel and on disk; our own word counts only for what nothing else can tell (attachments
in the state, programs and their entries).
"""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import control.cli.bpf  # noqa: F401 - imported here once, and not in each forked child
from control.cli import root, show  # noqa: F401 - as above
from support.netns import Place

LEASES = Path("/var/lib/cni/networks")
_KEPT = ("lock", "last_reserved_ip.")
"""What host-local keeps of a network without leases."""
_ENTRIES = frozenset(
    {"networks", "origins", "published", "containers", "ports", "port_addresses", "fill_ports", "checksum_counts"}
)


def residue(host: Place, environment: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    """What is there of containers, by kind; kinds of which nothing is there are left out."""
    return host.call(_residue, dict(environment or {}))


def _residue(environment: dict[str, str]) -> dict[str, list[str]]:
    os.environ.update(environment)
    programs = _dpctl("bpf", "ls", "--json")
    found = {
        "leases": [str(path) for path in LEASES.glob("*/*") if not path.name.startswith(_KEPT)],
        "veths": [name for name in _veths() if name.startswith("veth")],
        "elements": list(_elements()),
        "localnet": [
            path.parent.name for path in Path("/proc/sys/net/ipv4/conf").glob("*/route_localnet") if _set(path)
        ],
        "attachments": [f"{one['container']} {one['ifname']}" for one in _dpctl("ps", "--json")["attachments"]],
        "hooks": [f"{one['program']} {one['device']}" for one in programs["attached"] if one["device"]],
        "entries": [f"{one['name']}: {one['entries']}" for one in programs["maps"] if one["name"] in _ENTRIES],
    }
    found["entries"] = [one for one in found["entries"] if not one.endswith(": 0")]
    return {kind: sorted(things) for kind, things in found.items() if things}


def _veths() -> list[str]:
    listed = _run("ip", "-json", "link", "show", "type", "veth")
    return [link["ifname"] for link in json.loads(listed or "[]") if link]


def _elements() -> list[str]:
    """Of every set and map in any table by our name."""
    listed = json.loads(_run("nft", "-j", "list", "ruleset"))["nftables"]
    objects = [one[kind] for one in listed for kind in ("set", "map") if kind in one]
    return [
        f"{one['family']} {one['name']}: {json.dumps(element)}"
        for one in objects
        if one["table"] == "dataplane"
        for element in one.get("elem", ())
    ]


def _dpctl(*words: str) -> Any:
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert root.run(words) == 0, words
    return json.loads(printed.getvalue())


def _run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _set(path: Path) -> bool:
    return path.read_text().strip() == "1"
