"""The isolation program on crafted packets: who may reach whom, and what is said about a drop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest

from control.desired import hooks
from control.desired.hooks import HostWide, NetworkFacts
from control.model import IngressPolicy, Options
from dataplane import abi
from dataplane.abi import EventAction, EventKind, Offender
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.types import IsolationPolicy, Program, Protocol
from support import needs
from support.attachments import attachment
from support.frames import Flow, frame, frame6
from support.programs import CONTINUE, DEVICE, DROP, Bench

OPEN, SAME_BRIDGE, ISOLATED = IsolationPolicy.OPEN, IsolationPolicy.SAME_BRIDGE, IsolationPolicy.ISOLATED
SOURCE = 40  # ifindex of the device that packets came in by; it need not exist
MARK = 1 << 27

PACKET = frame(Flow(Protocol.TCP, "10.11.0.2", 40000, "10.12.0.2", 80), b"hello")


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    needs.root()
    with Bench() as loaded:
        yield loaded


@pytest.mark.parametrize(
    ("source", "destination", "verdict"),
    [
        (OPEN, OPEN, CONTINUE),
        (OPEN, SAME_BRIDGE, CONTINUE),
        (OPEN, ISOLATED, CONTINUE),
        (SAME_BRIDGE, OPEN, CONTINUE),
        (ISOLATED, OPEN, CONTINUE),
        (SAME_BRIDGE, SAME_BRIDGE, DROP),
        (SAME_BRIDGE, ISOLATED, DROP),
        (ISOLATED, SAME_BRIDGE, DROP),
        (ISOLATED, ISOLATED, DROP),
    ],
)
def test_two_networks(bench: Bench, source: IsolationPolicy, destination: IsolationPolicy, verdict: int) -> None:
    """Networks are kept apart unless one of them is open; the packet is never changed."""
    outcome = bench.isolation([PACKET], {SOURCE: (1, source), DEVICE: (2, destination)}, ingress=SOURCE)
    assert outcome.verdicts == (verdict,)
    assert outcome.packets == (PACKET,)
    assert outcome.drops == ({(1, 2): 1} if verdict == DROP else {})
    assert len(outcome.events) == (verdict == DROP)


@pytest.mark.parametrize(("policy", "verdict"), [(OPEN, CONTINUE), (SAME_BRIDGE, CONTINUE), (ISOLATED, DROP)])
@pytest.mark.parametrize("ingress", [DEVICE, SOURCE], ids=["same device", "another device"])
def test_one_network(bench: Bench, policy: IsolationPolicy, verdict: int, ingress: int) -> None:
    """Routed back into its own network, by the same device or another: only an isolated one refuses."""
    outcome = bench.isolation([PACKET], {SOURCE: (1, policy), DEVICE: (1, policy)}, ingress=ingress)
    assert outcome.verdicts == (verdict,)


@pytest.mark.parametrize(
    ("mark", "exempt", "verdict"),
    [
        pytest.param(MARK, MARK, CONTINUE, id="marked"),
        pytest.param(MARK | 5, MARK, CONTINUE, id="marked, other bits set"),
        pytest.param(5, MARK, DROP, id="other bits only"),
        pytest.param(0, MARK, DROP, id="unmarked"),
        pytest.param(MARK, 0, DROP, id="no mark configured"),
        pytest.param(0, 0, DROP, id="neither"),
    ],
)
@pytest.mark.parametrize("number", [1, 2], ids=["one network", "two networks"])
def test_published_ports_are_let_through(bench: Bench, number: int, mark: int, exempt: int, verdict: int) -> None:
    """The mark that nftables sets on connections to published ports exempts, and nothing else does."""
    networks = {SOURCE: (number, ISOLATED), DEVICE: (1, ISOLATED)}
    outcome = bench.isolation([PACKET], networks, ingress=SOURCE, mark=mark, exempt=exempt)
    assert outcome.verdicts == (verdict,)


@pytest.mark.parametrize(
    ("networks", "ingress"),
    [
        pytest.param({DEVICE: (2, ISOLATED)}, 0, id="from the host"),
        pytest.param({0: (1, ISOLATED), DEVICE: (2, ISOLATED)}, 0, id="from the host, with an entry for no device"),
        pytest.param({DEVICE: (2, ISOLATED)}, SOURCE, id="from outside"),
        pytest.param({SOURCE: (1, ISOLATED)}, SOURCE, id="to a device that is not ours"),
        pytest.param({}, SOURCE, id="no networks"),
    ],
)
def test_everything_else_passes(bench: Bench, networks: dict[int, tuple[int, IsolationPolicy]], ingress: int) -> None:
    """Without two networks of ours there is nothing to keep apart."""
    outcome = bench.isolation([PACKET], networks, ingress=ingress)
    assert outcome.verdicts == (CONTINUE,)
    assert outcome.drops == {}


NETWORKS = {SOURCE: (1, SAME_BRIDGE), DEVICE: (2, ISOLATED)}


@pytest.mark.parametrize(
    ("sent", "source", "destination", "ports"),
    [
        pytest.param(PACKET, "10.11.0.2", "10.12.0.2", (40000, 80), id="tcp"),
        pytest.param(
            frame(Flow(Protocol.UDP, "10.11.0.2", 5000, "10.12.0.2", 53), ip_options=b"\x01" * 8),
            *("10.11.0.2", "10.12.0.2", (5000, 53)),
            id="udp behind ip options",
        ),
        pytest.param(
            frame6(Flow(Protocol.TCP, "fd00:11::2", 40000, "fd00:12::2", 443)),
            *("fd00:11::2", "fd00:12::2", (40000, 443)),
            id="ipv6",
        ),
        pytest.param(
            frame(Flow(Protocol.TCP, "10.11.0.2", 40000, "10.12.0.2", 80), b"x" * 64, fragment=0x10),
            *("10.11.0.2", "10.12.0.2", (0, 0)),
            id="later fragment",
        ),
        pytest.param(
            frame(Flow(Protocol.TCP, "10.11.0.2", 1, "10.12.0.2", 80), vlan=3),
            *("10.11.0.2", "10.12.0.2", (1, 80)),
            id="vlan",
        ),
        pytest.param(PACKET[:12] + b"\x81\x00\x00\x03" * 3 + PACKET[12:], None, None, (0, 0), id="too many tags"),
        pytest.param(bytes(12) + b"\x88\xb5" + bytes(50), None, None, (0, 0), id="neither"),
    ],
)
def test_a_drop_says_who_spoke_to_whom(
    bench: Bench, sent: bytes, source: str | None, destination: str | None, ports: tuple[int, int]
) -> None:
    """Dropped whatever it is; the event carries what could be read of it."""
    outcome = bench.isolation([sent], NETWORKS, ingress=SOURCE)
    assert outcome.verdicts == (DROP,)
    (event,) = outcome.events
    assert (event.kind, event.action) == (EventKind.ISOLATED, EventAction.DROPPED)
    assert (event.source_network, event.destination_network) == (1, 2)
    assert (event.ifindex, event.ingress_ifindex) == (DEVICE, SOURCE)
    assert event.source == (ip_address(source) if source else None)
    assert event.destination == (ip_address(destination) if destination else None)
    assert (event.source_port, event.destination_port) == ports


def test_drops_are_counted_by_pair(bench: Bench) -> None:
    """Each packet, summed over the CPUs."""
    assert bench.isolation([PACKET] * 25, NETWORKS, ingress=SOURCE).drops == {(1, 2): 25}


def _offenders(programs: KernelPrograms) -> dict[tuple[int, int], Offender]:
    return {abi.NETWORK_PAIR.unpack(key): Offender.unpack(value) for key, value in programs.entries("offenders")}


def test_the_last_offender_of_each_pair_is_kept(bench: Bench) -> None:
    """Addresses, ports, protocol and time of the last packet that was dropped, and no other pair's."""
    last = frame6(Flow(Protocol.UDP, "fd00:11::2", 5000, "fd00:12::2", 53))
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    bench.isolation([PACKET, last], NETWORKS, ingress=SOURCE)
    found = bench._sandbox.call(_offenders, bench._programs)
    assert list(found) == [(1, 2)]
    one = found[1, 2]
    assert (one.source, one.destination) == (ip_address("fd00:11::2"), ip_address("fd00:12::2"))
    assert (one.source_port, one.destination_port, one.protocol) == (5000, 53, Protocol.UDP.number)
    assert before < one.time_ns < time.clock_gettime_ns(time.CLOCK_MONOTONIC)


CROWD = 1000
"""Networks, by the ifindexes of their bridges from ``FIRST`` on; every third is isolated, every tenth open."""
FIRST = 100


def _policy(number: int) -> IngressPolicy:
    return IngressPolicy.OPEN if number % 10 == 0 else tuple(IngressPolicy)[1 + (number % 3 == 0)]


def _crowded(programs: KernelPrograms, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Verdicts between pairs of networks, with the maps as attachments to all of them have it."""
    attachments = [
        attachment(f"c{number}", "10.0.0.2", network=f"n{number}", device=FIRST + number, options=options)
        for number in range(1, CROWD + 1)
        for options in [Options(ingress_policy=_policy(number))]
    ]
    facts = {f"n{number}": NetworkFacts(number) for number in range(1, CROWD + 1)}
    entries = hooks.device_entries(map(hooks.use_of, attachments), facts, HostWide(MARK))
    for (name, key), value in entries.items():
        programs.put(name, key, value)
    verdicts = []
    with syscall.obj_get(programs.directory / Program.ISOLATION.function) as program:
        for source, destination in pairs:
            # The one link of this namespace plays all destinations, one after the other.
            entry = entries["networks", abi.U32.pack(FIRST + destination)]
            programs.put("networks", abi.U32.pack(DEVICE), entry)
            run = syscall.run_program(program.number, PACKET, ifindex=DEVICE, ingress_ifindex=FIRST + source)
            verdicts.append(run.verdict)
    for _, key in list(entries):
        programs.drop("networks", key)
    return verdicts


def test_a_thousand_networks_are_kept_apart(bench: Bench) -> None:
    """Any pair of them, each network from itself where it is isolated, and none that is open."""
    pairs = [(1 + number * 7 % CROWD, 1 + number * 613 % CROWD) for number in range(3 * CROWD)]
    pairs += [(number, number) for number in range(1, CROWD + 1)]
    expected = [
        CONTINUE
        if IngressPolicy.OPEN in {_policy(one), _policy(other)}
        or (one == other and _policy(one) is not IngressPolicy.ISOLATED)
        else DROP
        for one, other in pairs
    ]
    assert {CONTINUE, DROP} == set(expected)
    assert bench._sandbox.call(_crowded, bench._programs, pairs) == expected
