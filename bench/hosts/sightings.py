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

from bench.hosts.ladder import Passed, Way, doubts
from bench.hosts.testbed import Testbed
from bench.hosts.wiring import BRIDGE, UPLINK
from bench.instruments.roundtrips import RoundTrips
from bench.native import BenchError
from bench.stage import Stage
from dataplane.namespaces import inside
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.types import LOCALHOST_PROGRAMS, IfIndex, Program

_SPY = "spy"
_OF_ALL = 'counter comment "forwarded"'
_OF_TRACKED = 'ct state established counter comment "tracked"\nct status dnat counter comment "translated"'
_OF_BRIDGE = 'counter comment "bridged"'


def prove(stage: Stage, testbed: Testbed, ways: Mapping[str, RoundTrips]) -> None:
    """Look whether packets of each way go as far as the rung's name says, and no further. What is not so is noted."""
    found: list[str] = []
    tables = frozenset(f"{one['family']} {one['name']}" for one in _listed(testbed, "tables", kind="table"))
    with syscall.enable_stats(), _watched(testbed):
        for name, trips in ways.items():
            trips.warm()
            before, made = _passed(testbed, tables), trips.measure(stage.amount(5, 3, 2))
            passed = _passed(testbed, tables).since(before)
            found += (f"{name}: {text}" for text in doubts(testbed.rung, made.count, passed, trips.protocol))
    stage.log.sample("unproved", testbed.rung.name, float(bool(found)), size=testbed.present)
    for text in found:
        stage.log.note(f"{testbed.name}: {text}")


@contextmanager
def _watched(testbed: Testbed) -> Iterator[None]:
    """With counters at the hooks, in a table for each family."""
    spies = _spies(testbed)
    text = "".join(
        f"table {family} {_SPY} {{\nchain forward {{ type filter hook forward priority 500\n{rules}\n}}\n}}\n"
        for family, rules in spies.items()
    )
    testbed.host.run("nft", "-f", "-", text=text)
    try:
        yield
    finally:
        testbed.host.run("nft", "-f", "-", text="".join(f"delete table {family} {_SPY}\n" for family in spies))


def _spies(testbed: Testbed) -> dict[str, str]:
    """Rules that count, by family."""
    # A rule that asks conntrack would activate it.
    counters = {"inet": f"{_OF_ALL}\n{_OF_TRACKED if testbed.rung.tracked else ''}"}
    return counters | {"bridge": _OF_BRIDGE} if testbed.rung.way is Way.BRIDGED else counters


def _passed(testbed: Testbed, tables: frozenset[str]) -> Passed:
    """What was counted so far."""
    rules = [one for family in _spies(testbed) for one in _listed(testbed, "table", family, _SPY, kind="rule")]
    seen = {rule["comment"]: int(rule["expr"][-1]["counter"]["packets"]) for rule in rules}
    runs, led = testbed.host.inside(lambda: _programs(testbed.link)) if testbed.rung.rules.ours else ({}, 0)
    return Passed(
        delivered=_delivered(testbed),
        bridged=seen.get("bridged", 0),
        forwarded=seen.get("forwarded", 0),
        tracked=seen.get("tracked", 0),
        translated=seen.get("translated", 0),
        connections=_there(testbed.host.netns, _connections),
        tables=tables,
        runs=runs,
        led=led,
    )


def _listed(testbed: Testbed, *what: str, kind: str) -> list[dict[str, Any]]:
    objects = json.loads(testbed.host.run("nft", "-j", "list", *what))["nftables"]
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


def _programs(link: str) -> tuple[dict[Program, int], int]:
    """Ours on the devices of this host, and how often each ran while the kernel's statistics were enabled; and how
    often those of the cgroups did."""
    door = KernelPrograms()
    devices = [IfIndex(socket.if_nametoindex(name)) for name in (BRIDGE, UPLINK, link)]
    hooked = {one.program for device in devices for one in door.hooked(device)}
    runs = {program: door.program(program).runs for program in hooked}
    return runs, sum(door.program(program).runs for program in LOCALHOST_PROGRAMS) if door.loaded() else 0
