"""Everything of a host that a dataplane changes, so that two moments can be compared.

    before = snapshot(world.host)
    ...
    assert snapshot(world.host) == before

Where ``support.residue`` names what there is of containers, this has the whole of each kind, with what is foreign.

Be aware: what changes by itself is left out: timers, counters, lifetimes, the generation of the ruleset.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from dataplane.programs import syscall
from dataplane.programs.clsact import filters
from dataplane.types import IfIndex
from support.netns import Place

Snapshot = dict[str, list[str]]
"""By kind, what is there of it, sorted."""

_STATE = Path("/run/dataplane/state.db")
_PINS = Path("/sys/fs/bpf")
_LEASES = Path("/var/lib/cni")
_OWN_FILES = (Path("/run/dataplane"), Path("/var/lib/dataplane"))
_SYSCTLS = Path("/proc/sys/net")
_LINK = ("ifname", "flags", "mtu", "master", "address", "ifalias", "link_netnsid")
_PORT = ("hairpin", "isolated", "guard", "learning", "flood")
_VOLATILE_FACTS = ("generation", "bridge ")
"""What the names of facts begin with that tell of transactions, and of bridges, which may be made anew."""
_VOLATILE_FILES = ("state.db-wal", "state.db-shm")
_KEPT_FILES = ("lock", "last_reserved_ip.")
_NETWORK_LOCAL = "local"
"""The table of routes that come and go with addresses, for IPv6 a moment later."""


def snapshot(host: Place) -> Snapshot:
    """What is there."""
    return host.call(_snapshot)


def difference(before: Snapshot, after: Snapshot) -> Snapshot:
    """What came (+) and what went (-)."""
    found = {}
    for kind in sorted(before.keys() | after.keys()):
        old, new = before.get(kind, []), after.get(kind, [])
        changed = [f"- {one}" for one in old if one not in new] + [f"+ {one}" for one in new if one not in old]
        if changed or len(old) != len(new):
            found[kind] = changed or [f"{len(old)} became {len(new)}"]
    return found


def _snapshot() -> Snapshot:
    links = json.loads(_run("ip", "-j", "-d", "link"))
    kinds = {
        "links": map(_link, links),
        "addresses": _addresses(),
        "routes": _routes(),
        "rules": (json.dumps(one) for version in ("-4", "-6") for one in json.loads(_run("ip", version, "-j", "rule"))),
        "nft": _nft(),
        "programs": _programs(links),
        "pins": map(str, _PINS.rglob("*")),
        "flows": _flows(),
        "state": _state(),
        "leases": (f"{path}: {path.read_text()!r}" for path in _LEASES.rglob("*") if _counts(path)),
        "files": (str(path) for place in _OWN_FILES for path in place.rglob("*") if not _is_volatile(path)),
        "sysctls": _sysctls(),
    }
    return {kind: sorted(things) for kind, things in kinds.items()}


def _link(link: dict[str, Any]) -> str:
    # Whether a bridge or its port is running just now is a matter of milliseconds.
    flags = [flag for flag in link["flags"] if flag in {"UP", "PROMISC", "ALLMULTI"}]
    about = link.get("linkinfo", {})
    port = about.get("info_slave_data", {})
    shown = {name: link.get(name) for name in _LINK} | {"flags": flags, "kind": about.get("info_kind")}
    return json.dumps(shown | {name: port.get(name) for name in _PORT})


def _addresses() -> Iterator[str]:
    for link in json.loads(_run("ip", "-j", "address")):
        for one in link["addr_info"]:
            if one["scope"] != "link":  # an IPv6 one comes when the link runs
                yield f"{link['ifname']} {one['local']}/{one['prefixlen']}"


def _routes() -> Iterator[str]:
    for version in ("-4", "-6"):
        for one in json.loads(_run("ip", version, "-j", "route", "show", "table", "all")):
            if one.get("table") != _NETWORK_LOCAL and not str(one["dst"]).startswith(("fe80:", "ff00:")):
                yield " ".join(str(one.get(name, "")) for name in ("dst", "gateway", "dev", "table", "type", "metric"))


def _nft() -> Iterator[str]:
    listed: list[dict[str, Any]] = json.loads(_run("nft", "-j", "-s", "list", "ruleset"))["nftables"]
    for entry in listed:
        for kind, one in entry.items():
            if kind == "metainfo":
                continue
            one.pop("handle", None)
            elements = one.pop("elem", ())
            yield f"{kind} {json.dumps(one)}"
            for element in elements:
                yield f"element of {one['family']} {one['table']} {one['name']}: {json.dumps(element)}"


def _programs(links: list[dict[str, Any]]) -> Iterator[str]:
    for link in links:
        index = IfIndex(link["ifindex"])
        for attach_type in (syscall.TCX_EGRESS, syscall.TCX_INGRESS):
            for one in syscall.tcx_query(index, attach_type):
                with syscall.program_by_id(one.program_id) as program:
                    yield f"tcx {link['ifname']} {syscall.program_info(program.number).name}"
        yield from (f"clsact {link['ifname']} {one.name} {one.priority}" for one in filters(index))


def _flows() -> Iterator[str]:
    """Entries that were rewritten: those of published ports."""
    for family in ("ipv4", "ipv6"):
        for line in _run("conntrack", "-L", "-f", family, "-p", "udp", "--dst-nat").splitlines():
            yield " ".join(word for word in line.split() if word.startswith(("src=", "dst=", "dport=")))


def _state() -> Iterator[str]:
    if not _STATE.exists():
        return
    with closing(sqlite3.connect(_STATE)) as database:
        # The serial number counts changes, and those that were undone by others count, too.
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'serial'").fetchall()
        for (table,) in tables:
            for row in database.execute(f"SELECT * FROM {table}"):  # noqa: S608 - a name out of the file's own list
                if table != "facts" or not row[0].startswith(_VOLATILE_FACTS):
                    yield f"{table} {row}"


def _sysctls() -> Iterator[str]:
    for family in ("ipv4", "ipv6"):
        for path in (_SYSCTLS / family / "conf").glob("*/*"):
            if path.name != "stable_secret":  # unreadable where none is set
                yield f"{path.relative_to(_SYSCTLS)} = {path.read_text().strip()}"
    yield (_SYSCTLS / "ipv4/ip_forward").read_text()


def _is_volatile(path: Path) -> bool:
    return path.name in _VOLATILE_FILES or path.name.startswith(".")  # being written; swept when it is old


def _counts(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(_KEPT_FILES)


def _run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout or "[]"
