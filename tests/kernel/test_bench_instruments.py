"""The instruments of program_cost, each shown something that it must find: a loss, a damage, a path that is another."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from bench.instruments import assembled
from bench.instruments.precedence import first_in_line
from bench.instruments.roundtrips import Ends, Mode, RoundTrips
from bench.native import BenchError, Native
from bench.place import Host
from bench.scenarios.program_cost.cases import DEVICES, Case, Devices, cases, ready
from bench.scenarios.program_cost.frames import Flow, frame
from bench.scenarios.program_cost.testruns import Runner, Unproved
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.types import IfIndex, Program, Protocol
from support import needs

T = TypeVar("T")

CPU = 0
SHORT = 5  # milliseconds
PORT = 9000
LOOPBACK = "127.0.0.1"
FLOW = Flow(Protocol.TCP, "10.0.2.2", 4000, "10.77.1.2", 80)


def ends(protocol: Protocol = Protocol.UDP, mode: Mode = Mode.ONE) -> Ends:
    """A client and a server on one host."""
    return Ends("-", LOOPBACK, PORT, "-", PORT, protocol, mode)


def scheduled(host: Host, name: str) -> set[int]:
    """How processes of a name are scheduled on a host."""
    named = host.run("sh", "-c", f"grep -lxs {name} /proc/[0-9]*/comm", check=False).split()
    assert named
    stats = [host.run("cat", path.replace("comm", "stat")) for path in named]
    return {int(stat.rpartition(")")[2].split()[38]) for stat in stats}


@pytest.mark.parametrize("mode", list(Mode))
def test_round_trips_go_before_all_others_unless_somebody_is_to_be_woken(
    host: Host, native: Native, mode: Mode
) -> None:
    """A wake is measured as everybody's is; and the bench itself, and what it starts else, go with all others."""
    with first_in_line() as granted:
        needs.that(granted, "a real-time budget of this cgroup")
    before = os.sched_getscheduler(0)
    with RoundTrips(host, native, CPU, ends(mode=mode)) as trips:
        assert scheduled(host, "roundtrip") == {before if mode is Mode.TWO else os.SCHED_FIFO}
        assert trips.measure(SHORT).count > 1
    assert os.sched_getscheduler(0) == before


def drop_or_change(host: Host, rule: str) -> None:
    """Have nftables do something to the server's answers."""
    lines = ("add table t", "add chain t c { type filter hook input priority 0 ; }", f"add rule t c {rule}", "")
    host.run("nft", "-f", "-", text="\n".join(lines))


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("protocol", [Protocol.UDP, Protocol.TCP])
def test_round_trips_and_connections_are_timed(host: Host, native: Native, protocol: Protocol, mode: Mode) -> None:
    """Several a round, each between the least and the most, none lost, and a second round as the first."""
    with RoundTrips(host, native, CPU, ends(protocol, mode)) as trips:
        for _ in range(2):
            made = trips.measure(SHORT)
            assert made.count > 1
            assert (made.lost, made.wrong) == (0, 0)
            assert 0 < made.least <= made.p50 <= made.p90 <= made.p99 <= made.p999 <= made.most


def test_a_lost_answer_is_counted(host: Host, native: Native) -> None:
    """And is no round trip."""
    with RoundTrips(host, native, CPU, ends()) as trips:
        drop_or_change(host, f"udp sport {PORT} drop")
        made = trips.measure(SHORT)
        assert made.lost > 0
        assert made.count == 0


def test_a_damaged_answer_is_counted(host: Host, native: Native) -> None:
    """One bit that differs is found, though the checksum was made right for it."""
    with RoundTrips(host, native, CPU, ends()) as trips:
        drop_or_change(host, f"udp sport {PORT} @th,192,16 set 0x1234")
        made = trips.measure(SHORT)
        assert made.wrong > 0
        assert made.count == 0


def test_a_refused_connection_is_lost(host: Host, native: Native) -> None:
    """It is not taken for a quick one."""
    refused = Ends("-", LOOPBACK, PORT + 1, "-", PORT, Protocol.TCP, Mode.CONNECT)
    with RoundTrips(host, native, CPU, refused) as connections:
        made = connections.measure(SHORT)
        assert made.lost > 0
        assert made.count == 0


def test_who_cannot_connect_says_so(host: Host, native: Native) -> None:
    """A path that does not exist is an error, and no empty round."""
    with pytest.raises(BenchError, match="could not open sockets"):
        RoundTrips(host, native, CPU, Ends("-", LOOPBACK, PORT + 1, "-", PORT, Protocol.TCP))


def prepared(host: Host, work: Callable[[KernelPrograms, Devices], T]) -> T:
    """Something with the programs loaded and all maps written, on the host."""
    for name in DEVICES:
        host.run("ip", "link", "add", name, "type", "bridge")

    def there() -> T:
        door = KernelPrograms()
        door.load()
        devices = Devices({name: IfIndex(socket.if_nametoindex(name)) for name in DEVICES})
        ready(door, devices)
        return work(door, devices)

    return host.inside(there)


def case(devices: Devices, name: str) -> Case:
    """One of the cases."""
    (found,) = (one for one in cases(devices) if one.name == name and one.networks == 2)
    return found


def test_cases_of_isolation_and_checksum_go_their_ways(host: Host) -> None:
    """Each is proved by its verdict, its packet and its counters, however often it runs."""
    known = {Program.ISOLATION, Program.CHECKSUM}

    def work(door: KernelPrograms, devices: Devices) -> list[str]:
        with Runner(door, devices) as runner:
            for one in cases(devices):
                if one.program in known:
                    for runs in (2, 300):
                        runner.measure(one, runs)
            return [one.name for one in cases(devices) if one.program in known]

    assert len(prepared(host, work)) > 10


def test_a_case_that_goes_another_way_is_found(host: Host) -> None:
    """Where an entry is missing, what passes for want of it is not taken for what passes by it."""

    def work(door: KernelPrograms, devices: Devices) -> None:
        with Runner(door, devices) as runner:
            for name, gone, message in (
                ("isolation: same network", ("networks", devices.key("t-net")), "ends with -1"),
                ("isolation: dropped, event read", ("networks", devices.key("t-net")), "the verdict is -1"),
                ("checksum: partial (to be segmented)", ("networks", devices.key("t-sum")), "checksum_counts rose by"),
            ):
                value = door.get(*gone)
                assert value is not None
                door.drop(*gone)
                with pytest.raises(Unproved, match=message):
                    runner.measure(case(devices, name), 10)
                door.put(*gone, value)

    prepared(host, work)


def test_a_crowd_of_networks_comes_and_goes(host: Host) -> None:
    """A case at 1,000 networks has so many, and the next has two again."""

    def work(door: KernelPrograms, devices: Devices) -> tuple[int, int, int]:
        with Runner(door, devices) as runner:
            alone = sum(1 for _ in door.entries("networks"))
            (many,) = (one for one in cases(devices) if one.networks != 2)
            runner.measure(many, 10)
            crowded = sum(1 for _ in door.entries("networks"))
            runner.measure(case(devices, "isolation: same network"), 10)
            return alone, crowded, sum(1 for _ in door.entries("networks"))

    alone, crowded, after = prepared(host, work)
    assert crowded >= 1000
    assert after == alone


def test_a_store_goes_before_a_program(host: Host) -> None:
    """Two bytes of the packet are what is to be restored, and the verdict is that of the program behind."""
    packet = frame(FLOW, 64)

    def work() -> syscall.ProgramRun:
        with assembled.nothing() as empty, assembled.before(empty.number, 50, b"\x12\x34") as program:
            return syscall.run_program(program.number, packet, ifindex=IfIndex(1), repeat=3)

    run = host.inside(work)
    assert run.verdict == -1
    assert run.packet == packet[:50] + b"\x12\x34" + packet[52:]


def test_work_inside_a_host_sees_its_links_and_files(host: Host) -> None:
    """And whoever asked stays where it was."""
    host.run("ip", "link", "add", "only-here", "type", "bridge")
    host.run("touch", "/run/only-here")
    there = host.inside(lambda: ([name for _, name in socket.if_nameindex()], sorted(Path("/run").iterdir())))
    assert "only-here" in there[0]
    assert Path("/run/only-here") in there[1]
    assert "only-here" not in [name for _, name in socket.if_nameindex()]
    assert not Path("/run/only-here").exists()
