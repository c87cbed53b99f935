"""Bulk TCP, steady UDP and changes of ports, on this kernel: what goes wrong is counted, and all of it runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bench.hosts.sites import PUBLISHERS
from bench.instruments.precedence import first_in_line
from bench.instruments.roundtrips import Ends
from bench.instruments.segments import Feature, observed, switch
from bench.instruments.streams import Direction, Pace, Steady, Stream
from bench.native import Native
from bench.place import Host
from bench.scenarios.bulk.drawn import PACES, WHOLE, WIRE, packet
from bench.scenarios.updates_under_load import LOADS
from support import needs
from support.benched import smoke

PORT = 9000
LOOPBACK = Ends("-", "127.0.0.1", PORT, "-", PORT)
CPU = 0
ROUND = 20  # milliseconds


def disturb(host: Host, rule: str) -> None:
    """Have a rule for what comes by loopback."""
    host.run("nft", "add table ip disturbed; add chain ip disturbed in { type filter hook input priority 0; }")
    host.run("nft", f"add rule ip disturbed in {rule}")


@pytest.mark.parametrize("cpus", [(CPU, CPU), (CPU, 1)], ids=["one processor", "two"])
@pytest.mark.parametrize("direction", Direction)
def test_every_byte_of_a_stream_arrives(
    host: Host, native: Native, cpus: tuple[int, int], direction: Direction
) -> None:
    """Both ends count the same, nothing differs, and the time is told; rounds follow each other on one connection."""
    needs.that(set(cpus) <= os.sched_getaffinity(0), "a second processor")
    with Stream(host, native, cpus, LOOPBACK) as stream:
        assert stream.reached == f"127.0.0.1:{PORT}"
        for every_byte in (True, False, True):
            made = stream.measure(direction, ROUND, every_byte=every_byte)
            assert made.sent == made.received > 0
            assert made.wrong == 0
            assert made.nanoseconds > 0
            assert made.busy > 0


@pytest.mark.parametrize("every_byte", [True, False])
def test_a_stream_tells_what_was_changed_on_its_way(host: Host, native: Native, *, every_byte: bool) -> None:
    """Four bytes of each segment are others than were sent: it is found, by looking at a part of them as well."""
    disturb(host, f"tcp dport {PORT} meta length > 1000 @th,4096,32 set 0xdeadbeef")
    with Stream(host, native, (CPU, CPU), LOOPBACK) as stream:
        assert stream.measure(Direction.TO_CONTAINER, 5 * ROUND, every_byte=every_byte).wrong > 0
        assert stream.measure(Direction.FROM_CONTAINER, ROUND, every_byte=every_byte).wrong == 0


def test_a_stream_tells_what_was_sent_again(host: Host, native: Native) -> None:
    """Segments that are dropped on their way arrive all the same, and are counted."""
    disturb(host, f"tcp dport {PORT} meta length > 1000 numgen inc mod 50 0 drop")
    with Stream(host, native, (CPU, CPU), LOOPBACK) as stream:
        made = [stream.measure(Direction.TO_CONTAINER, ROUND, every_byte=True) for _ in range(5)]
    assert sum(one.retransmitted for one in made) > 0
    assert not any(one.wrong for one in made)


def test_packets_keep_their_pace(host: Host, native: Native) -> None:
    """As many are sent as the rate says, all arrive, and each has its time since it was due."""
    with Steady(host, native, CPU, LOOPBACK, Pace(rate=10_000, burst=4)) as flow:
        assert flow.reached == f"127.0.0.1:{PORT}"
        made = flow.measure(50)
    assert made.sent == 500
    assert made.received == made.sent
    assert made.wrong == 0
    assert sum(count for _, count in made.latencies) == made.received
    assert [value for value, _ in made.latencies] == sorted(value for value, _ in made.latencies)
    assert 0 < made.counted <= made.sent
    # Each of a burst waits for all of it: what a burst took is in the time of each, but for a bucket's width.
    assert sum(value * count for value, count in made.latencies) > 0.9 * made.busy * 4


def test_lost_and_changed_packets_are_counted(host: Host, native: Native) -> None:
    """Of every ten one is dropped, and of the others four bytes are changed."""
    with Steady(host, native, CPU, LOOPBACK, Pace(rate=10_000, burst=4, size=256)) as flow:
        disturb(host, f"udp dport {PORT} numgen inc mod 10 0 drop")
        host.run("nft", f"add rule ip disturbed in udp dport {PORT} @th,512,32 set 0xdeadbeef")
        made = flow.measure(50)
    assert made.sent - made.received == made.sent // 10
    assert made.wrong == made.received


def test_offloads_are_switched_and_looked_at(host: Host) -> None:
    """A device does what it was told, and no other one does."""
    host.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    there = observed(host.netns, "v1")
    for on in (False, True):
        wanted = {Feature.SUMS: True, Feature.TSO: on, Feature.GSO: on, Feature.GRO: on}
        switch(host.netns, "v0", wanted)
        assert observed(host.netns, "v0") == wanted
        assert observed(host.netns, "v1") == there


def test_what_is_first_in_line_is_so_for_itself() -> None:
    """What is started meanwhile runs under SCHED_FIFO; who started it does not any longer."""
    needs.root()
    before = os.sched_getscheduler(0)
    with first_in_line() as granted:
        needs.that(granted, "a real-time budget of this cgroup")
        stat = subprocess.run(["cat", "/proc/self/stat"], capture_output=True, text=True, check=True).stdout
    assert int(stat.rpartition(")")[2].split()[38]) == os.SCHED_FIFO
    assert os.sched_getscheduler(0) == before


def test_bulk_runs_and_every_way_is_proved(tmp_path: Path) -> None:
    """Each publisher has its numbers in both directions and forms, nothing is lost, and each is what its name says."""
    figures = smoke(tmp_path, "bulk")["bulk"]
    for publisher in PUBLISHERS[:-1]:
        for phase in (WIRE, WHOLE):
            for direction in Direction:
                assert figures[f"{phase.measure(direction)}: {publisher.name}"]["value"]
        assert figures[f"{packet(PACES[0])}: processor time, {publisher.name}"]["value"]
    counts = [one for what, one in figures.items() if what.startswith(("bytes lost", "packets lost", "ways that"))]
    assert [one["met"] for one in counts] == [True, True, True]


def test_updates_under_load_runs_and_changes_what_it_says(tmp_path: Path) -> None:
    """Each makes its changes, and the kernel counts as many transactions; no round trip is lost."""
    needs.that(len(os.sched_getaffinity(0)) > 1, "a second processor")
    figures = smoke(tmp_path, "updates_under_load")["updates_under_load"]
    for load in LOADS:
        assert figures[f"{load.name}: p99 / nothing"]["value"]
        assert figures[f"{load.name}: made"]["value"]
    counts = [one for what, one in figures.items() if what.startswith(("round trips lost", "rounds whose"))]
    assert [one["met"] for one in counts] == [True, True]
