"""Where packets of round trips were seen: counters at the hooks, of devices, of conntrack and of programs.

    prove(stage, testbed, {"udp": trips})      # notes whatever is not as the rung's name says, and counts it

Counters at the hooks are rules in tables of their own, which are gone while something is measured.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.hooked import BRIDGE, UPLINK
from bench.ladder import PROGRAMS, Passed, Way, doubts
from bench.native import BenchError
from bench.roundtrips import RoundTrips
from bench.stage import Stage
from bench.testbed import Testbed
from dataplane.namespaces import inside
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.types import IfIndex, Program

_SPY = """
table inet spy {
chain forward { type filter hook forward priority 500
counter comment "forwarded"
TRACKED}
}
table bridge spy {
chain forward { type filter hook forward priority 500
counter comment "bridged"
}
}
"""
_OF_TRACKED = 'ct state established counter comment "tracked"\nct status dnat counter comment "translated"\n'
_GONE = "delete table inet spy\ndelete table bridge spy\n"


def prove(stage: Stage, testbed: Testbed, ways: Mapping[str, RoundTrips]) -> None:
    """Look whether packets of each way go as far as the rung's name says, and no further. What is not so is noted."""
    found: list[str] = []
    with syscall.enable_stats(), _watched(testbed):
        for name, trips in ways.items():
            trips.warm()
            before = _passed(testbed)
            made = trips.measure(stage.amount(5, 3, 2))
            found += (f"{name}: {text}" for text in doubts(testbed.rung, made.count, _passed(testbed).since(before)))
    stage.log.sample("unproved", testbed.rung.name, float(bool(found)), size=testbed.present)
    for text in found:
        stage.log.note(f"{testbed.name}: {text}")


@contextmanager
def _watched(testbed: Testbed) -> Iterator[None]:
    if testbed.rung.way in {Way.LOOPBACK, Way.VETH}:
        yield
        return
    # A rule that asks conntrack would activate it.
    text = _SPY.replace("TRACKED", _OF_TRACKED if testbed.rung.tracked else "")
    testbed.host.run("nft", "-f", "-", text=text)
    try:
        yield
    finally:
        testbed.host.run("nft", "-f", "-", text=_GONE)


def _passed(testbed: Testbed) -> Passed:
    """What was counted so far."""
    tables = {f"{one['family']} {one['name']}" for one in _listed(testbed, "tables", "table")}
    spies = {table for table in tables if table.endswith(" spy")}
    seen = {
        rule["comment"]: int(rule["expr"][-1]["counter"]["packets"])
        for table in sorted(spies)
        for rule in _listed(testbed, f"table {table}", "rule")
    }
    hooked, runs = (
        testbed.host.inside(lambda: _programs(testbed.link)) if testbed.rung.rules.ours else (frozenset(), {})
    )
    return Passed(
        delivered=_delivered(testbed),
        bridged=seen.get("bridged", 0),
        forwarded=seen.get("forwarded", 0),
        tracked=seen.get("tracked", 0),
        translated=seen.get("translated", 0),
        connections=_there(testbed.host.netns, _connections),
        tables=frozenset(tables - spies),
        hooked=hooked,
        runs=runs,
    )


def _listed(testbed: Testbed, what: str, kind: str) -> list[dict[str, Any]]:
    objects = json.loads(testbed.host.run("nft", "-j", "list", *what.split()))["nftables"]
    return [one[kind] for one in objects if kind in one]


def _delivered(testbed: Testbed) -> int:
    """Packets that the server's device received."""
    if testbed.rung.way is Way.LOOPBACK:
        return _there(testbed.host.netns, lambda: _received("lo"))
    return _there(testbed.host.outside(testbed.server), lambda: _received("eth0"))


def _there(netns: Path, work: Callable[[], int]) -> int:
    with netns.open("rb") as opened:
        return inside(opened.fileno(), work)


def _received(device: str) -> int:
    for line in Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == device:
            return int(numbers.split()[1])
    raise BenchError(f"could not count packets: there is no {device}")


def _connections() -> int:
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text(encoding="ascii"))


def _programs(link: str) -> tuple[frozenset[Program], dict[Program, int]]:
    """Ours on the devices of this host, and how often each ran while the kernel's statistics were enabled."""
    door = KernelPrograms()
    devices = [IfIndex(socket.if_nametoindex(name)) for name in (BRIDGE, UPLINK, link)]
    hooked = frozenset(one.program for device in devices for one in door.hooked(device))
    return hooked, {program: door.program(program).runs for program in PROGRAMS} if hooked else {}
