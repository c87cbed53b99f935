"""The checksum program on crafted packets: what is proved, what is repaired, and what is left alone."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from dataplane import abi
from dataplane.abi import ChecksumCounts, EventAction, EventKind
from dataplane.programs.door import KernelPrograms
from dataplane.types import ChecksumMode, IfIndex, IsolationPolicy, Program, Protocol
from support import needs
from support.frames import (
    DESTINATION,
    ETHERNET_LEN,
    FIRST,
    HOP_BY_HOP,
    LATER,
    ROUTING,
    TCP_ACK,
    TCP_SYN,
    Flow,
    flipped,
    frame,
    frame6,
    seed_stale_syn,
    stored_checksum,
    tagged,
)
from support.netns import Sandbox
from support.programs import CONTINUE, DEVICE, Bench

TCP, UDP = Protocol.TCP, Protocol.UDP
OBSERVE, REPAIR, OFF = ChecksumMode.OBSERVE, ChecksumMode.REPAIR, ChecksumMode.OFF

CONTAINER = "10.88.0.116"
HOST = "10.0.2.15"
WEB = Flow(TCP, "10.0.2.2", 54017, CONTAINER, 80)
OTHER = Flow(TCP, "10.0.2.2", 54018, CONTAINER, 80)
DNS = Flow(UDP, "10.0.2.2", 40000, CONTAINER, 53)

CONTAINER6 = "fd00:88::74"
HOST6 = "2001:db8:2::15"
WEB6 = Flow(TCP, "2001:db8:2::2", 54017, CONTAINER6, 80)
DNS6 = Flow(UDP, "2001:db8:2::2", 40000, CONTAINER6, 53)


def seeded(seed: int) -> random.Random:
    """The same bytes in every run."""
    return random.Random(seed)  # noqa: S311  # not a secret


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    needs.root()
    with Bench() as loaded:
        yield loaded


# -- nothing to do ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", [WEB, DNS], ids=["tcp", "udp"])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 491, 492, 493, 504, 505, 1460, 3000])
def test_a_right_sum_is_good(bench: Bench, flow: Flow, length: int) -> None:
    """Any length, odd ones and those around a chunk of 512 bytes included, comes back as it was and is counted once."""
    sent = frame(flow, seeded(length).randbytes(length))
    outcome = bench.checksum([sent, sent])
    assert outcome.packets == (sent, sent)
    assert outcome.verdicts == (CONTINUE, CONTINUE)
    assert outcome.counts == ChecksumCounts(good=1)  # the second is of a flow known good
    assert outcome.events == ()


def test_two_thousand_good_frames_come_back_byte_identical(bench: Bench) -> None:
    """Random flows, payloads, IP options and padding: none is changed, none reported, with mappings of all kinds."""
    rng = seeded(1)
    sent = []
    for _ in range(2000):
        protocol = rng.choice((TCP, UDP))
        flow = Flow(protocol, f"198.51.100.{rng.randrange(256)}", rng.randrange(1, 65536), CONTAINER, 80)
        options = bytes([1] * (4 * rng.randrange(11)))
        padding = rng.randbytes(rng.randrange(20))
        sent.append(frame(flow, rng.randbytes(rng.randrange(600)), ip_options=options, padding=padding))
    outcome = bench.checksum(sent, origins={(CONTAINER, 80): [(HOST, 8080), ("0.0.0.0", 81)]}, host_addresses=[HOST])
    assert outcome.packets == tuple(sent)
    assert outcome.counts.good > 1990  # few flows occur twice, few sums equal the pseudo header's
    assert outcome.counts.corrupt == outcome.counts.stale == outcome.counts.unreadable == 0
    assert outcome.events == ()


def test_off_looks_at_nothing(bench: Bench) -> None:
    """Mode off counts nothing, not even corruption."""
    outcome = bench.checksum([frame(WEB, checksum=0x1234)], mode=OFF)
    assert outcome.counts == ChecksumCounts()


def test_udp_without_a_checksum_stays_without(bench: Bench) -> None:
    """Zero means "none" in UDP over IPv4; that is not a wrong sum."""
    sent = frame(DNS, b"query", checksum=0)
    outcome = bench.checksum([sent], origins={(CONTAINER, 53): [(HOST, 53)]}, protocol=UDP)
    assert outcome.packets == (sent,)
    assert outcome.counts == ChecksumCounts()


@pytest.mark.parametrize("tags", [(), (5,), (5, 6)], ids=["untagged", "tag", "two tags"])
def test_tags_of_vlans_move_everything(bench: Bench, tags: tuple[int, ...]) -> None:
    """Behind up to two tags in the frame, sums are found right, and stale, and repaired."""
    stale, right = frame(WEB, b"x", summed_for=WEB.to(HOST, 80)), frame(WEB, b"x")
    sent = [tagged(one, *tags) for one in (stale, frame(OTHER, b"right"))]
    outcome = bench.checksum(sent, origins={(CONTAINER, 80): [(HOST, 80)]})
    assert outcome.packets == (tagged(right, *tags), sent[1])
    assert outcome.counts == ChecksumCounts(good=1, stale=1, repaired=1)


def _ipv4(protocol: int) -> bytes:
    """A frame whose protocol number is another than what is in it."""
    sent = bytearray(frame(WEB, b"x" * 40))
    sent[ETHERNET_LEN + 9] = protocol
    return bytes(sent)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(bytes(12) + b"\x08\x06" + bytes(28), id="arp"),
        pytest.param(_ipv4(132), id="sctp"),
        pytest.param(_ipv4(1), id="icmp"),
        pytest.param(_ipv4(58), id="icmpv6 over ipv4"),
        pytest.param(_ipv4(136), id="udp-lite"),
        pytest.param(_ipv4(47), id="gre"),
        pytest.param(frame6(DNS6, b"query", checksum=0), id="udp over ipv6 without a checksum: a tunnel's"),
    ],
)
def test_other_protocols_are_not_ours(bench: Bench, sent: bytes) -> None:
    """What has no Internet checksum with a pseudo header passes and is not counted."""
    outcome = bench.checksum([sent])
    assert outcome.packets == (sent,)
    assert outcome.verdicts == (CONTINUE,)
    assert outcome.counts == ChecksumCounts()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(WEB, b"x" * 100, fragment=0x2000), id="first fragment"),
        pytest.param(frame(WEB, b"x" * 100, fragment=0x0010), id="last fragment"),
        pytest.param(frame(WEB, b"x" * 100)[:-1], id="truncated by a byte"),
        pytest.param(frame(WEB)[: ETHERNET_LEN + 20], id="no tcp header"),
        pytest.param(frame(WEB, total_length=19), id="total length below the header's"),
        pytest.param(frame(WEB, total_length=39), id="tcp header cut by the total length"),
        pytest.param(frame(DNS, total_length=27), id="udp header cut by the total length"),
        pytest.param(frame(DNS, b"query", udp_length=7), id="udp length below the header's"),
        pytest.param(frame(DNS, b"query", udp_length=14), id="udp length beyond the packet"),
        pytest.param(flipped(frame(WEB), ETHERNET_LEN * 8 + 3), id="ip version 5"),
        pytest.param(flipped(frame(WEB), ETHERNET_LEN * 8 + 5), id="header length 1"),
        pytest.param(tagged(frame(WEB), 1, 2, 3), id="three vlan tags"),
        pytest.param(frame6(WEB6, b"x" * 100, extensions=[FIRST]), id="first fragment of ipv6"),
        pytest.param(frame6(WEB6, b"x" * 100, extensions=[LATER]), id="later fragment of ipv6"),
        pytest.param(frame6(WEB6, extensions=[ROUTING]), id="routed to another address first"),
        pytest.param(frame6(WEB6, extensions=[DESTINATION] * 7), id="seven extension headers"),
        pytest.param(frame6(WEB6, b"x" * 100)[:-1], id="ipv6, truncated by a byte"),
        pytest.param(frame6(WEB6)[: ETHERNET_LEN + 40], id="ipv6, no tcp header"),
        pytest.param(frame6(WEB6, extensions=[HOP_BY_HOP])[: ETHERNET_LEN + 44], id="half an extension header"),
    ],
)
def test_what_cannot_be_read_is_counted_and_left(bench: Bench, sent: bytes) -> None:
    """Fragments and lengths that do not fit: the sum covers bytes that are not there."""
    outcome = bench.checksum([sent], origins={(CONTAINER, 80): [(HOST, 80)]})
    assert outcome.packets == (sent,)
    assert outcome.verdicts == (CONTINUE,)
    assert outcome.counts == ChecksumCounts(unreadable=1)


def test_udp_covers_what_its_own_length_says(bench: Bench) -> None:
    """Bytes behind the UDP datagram but inside the IP packet are not summed (RFC 768)."""
    sent = frame(DNS, b"query")
    longer = frame(DNS, b"querytrailer", udp_length=13, checksum=stored_checksum(sent, UDP))
    assert bench.checksum([longer]).counts == ChecksumCounts(good=1)


def test_segmentation_offload_is_left(bench: Bench) -> None:
    """A packet that will be cut into segments gets its sums then."""
    outcome = bench.checksum([frame(WEB, b"x" * 3000, checksum=1)], gso_size=1000)
    assert outcome.counts == ChecksumCounts(partial=1)


# -- stale ------------------------------------------------------------------------------------------------------------


def test_the_seed_frame_is_repaired(bench: Bench) -> None:
    """ "cksum 0xd776 (incorrect -> 0xd8b9)": proved by the mapping of 10.0.2.15:80, repaired, reported."""
    seed = seed_stale_syn()
    outcome = bench.checksum([seed], origins={(CONTAINER, 80): [(HOST, 80)]})
    (repaired,) = outcome.packets
    assert stored_checksum(seed, TCP) == 0xD776
    assert stored_checksum(repaired, TCP) == 0xD8B9
    assert [at for at in range(len(seed)) if seed[at] != repaired[at]] == [50, 51]
    assert outcome.counts == ChecksumCounts(stale=1, repaired=1)
    (event,) = outcome.events
    assert (event.kind, event.action) == (EventKind.STALE, EventAction.REPAIRED)
    assert (event.stored, event.correct) == (0xD776, 0xD8B9)
    assert (event.source, event.source_port) == (IPv4Address("10.0.2.2"), 54017)
    assert (event.destination, event.destination_port) == (IPv4Address(CONTAINER), 80)
    assert (event.origin_destination, event.origin_destination_port) == (IPv4Address(HOST), 80)
    assert (event.ifindex, event.destination_network, event.protocol) == (DEVICE, 7, 6)


def test_observe_counts_and_reports_and_leaves_the_packet(bench: Bench) -> None:
    """Shadow mode: what would be repaired."""
    seed = seed_stale_syn()
    outcome = bench.checksum([seed], mode=OBSERVE, origins={(CONTAINER, 80): [(HOST, 80)]})
    assert outcome.packets == (seed,)
    assert outcome.counts == ChecksumCounts(stale=1)
    assert [(event.kind, event.action) for event in outcome.events] == [(EventKind.STALE, EventAction.NONE)]


def test_without_the_mapping_there_is_no_proof(bench: Bench) -> None:
    """A wrong sum that no mapping of ours explains is corruption, though it is right for some other address."""
    seed = seed_stale_syn()
    for origins in ({}, {(CONTAINER, 80): [("10.0.2.16", 80)]}, {(CONTAINER, 81): [(HOST, 80)]}):
        outcome = bench.checksum([seed], origins=origins)
        assert outcome.packets == (seed,)
        assert outcome.counts == ChecksumCounts(corrupt=1)
        assert [(event.kind, event.correct) for event in outcome.events] == [(EventKind.CORRUPT, 0xD8B9)]


def test_a_mapping_of_the_other_protocol_proves_nothing(bench: Bench) -> None:
    """80/udp does not explain a TCP sum."""
    outcome = bench.checksum([seed_stale_syn()], origins={(CONTAINER, 80): [(HOST, 80)]}, protocol=UDP)
    assert outcome.counts == ChecksumCounts(corrupt=1)


@pytest.mark.parametrize("flow", [WEB, DNS], ids=["tcp", "udp"])
@pytest.mark.parametrize(
    "stale_for",
    [
        pytest.param((HOST, None), id="address"),
        pytest.param((CONTAINER, 8080), id="port"),
        pytest.param((HOST, 8080), id="address and port"),
    ],
)
@pytest.mark.parametrize("wildcard", [False, True], ids=["one address", "every address"])
@pytest.mark.parametrize("payload", [b"", b"odd", b"x" * 1001], ids=["empty", "odd", "chunks"])
def test_each_hypothesis(
    bench: Bench, flow: Flow, stale_for: tuple[str, int | None], wildcard: bool, payload: bytes
) -> None:
    """NAT forgot the address, the port, or both: proved and repaired to what the sender would have computed."""
    address, port = stale_for[0], stale_for[1] or flow.destination_port
    sent = frame(flow, payload, summed_for=flow.to(address, port), padding=b"\xff" * 7)
    outcome = bench.checksum(
        [sent],
        origins={(CONTAINER, flow.destination_port): [("0.0.0.0" if wildcard else HOST, 8080)]},
        host_addresses=["192.0.2.1", HOST, "192.0.2.3"],
        protocol=flow.protocol,
    )
    assert outcome.packets == (frame(flow, payload, padding=b"\xff" * 7),)
    assert outcome.counts == ChecksumCounts(stale=1, repaired=1)
    (event,) = outcome.events
    assert (str(event.origin_destination), event.origin_destination_port) == (address, port)
    assert event.correct == stored_checksum(outcome.packets[0], flow.protocol)


def test_options_of_ip_move_the_checksum_field(bench: Bench) -> None:
    """The field is found behind IP options."""
    options = b"\x01" * 40
    sent = frame(WEB, b"data", summed_for=WEB.to(HOST, 80), ip_options=options)
    outcome = bench.checksum([sent], origins={(CONTAINER, 80): [(HOST, 80)]})
    assert outcome.packets == (frame(WEB, b"data", ip_options=options),)


def test_every_slot_and_every_host_address_is_tried(bench: Bench) -> None:
    """The last of the slots, published on every address, with the last of the addresses."""
    published = [("203.0.113.1", 9000 + slot) for slot in range(abi.MAX_ORIGIN_SLOTS - 1)] + [("0.0.0.0", 8080)]
    hosts = [f"192.0.2.{number + 1}" for number in range(64)]
    sent = frame(WEB, b"data", summed_for=WEB.to(hosts[-1], 8080))
    outcome = bench.checksum([sent], origins={(CONTAINER, 80): published}, host_addresses=hosts)
    assert outcome.packets == (frame(WEB, b"data"),)
    assert (str(outcome.events[0].origin_destination), outcome.events[0].origin_destination_port) == (hosts[-1], 8080)


def test_a_udp_sum_of_zero_is_written_as_ones(bench: Bench) -> None:
    """The repair of a UDP sum never writes 0, which would mean "none"."""
    payload = next(
        candidate
        for candidate in (number.to_bytes(2, "big") for number in range(65536))
        if stored_checksum(frame(DNS, candidate), UDP) == 0xFFFF
    )
    sent = frame(DNS, payload, summed_for=DNS.to(HOST, 53))
    outcome = bench.checksum([sent], origins={(CONTAINER, 53): [(HOST, 53)]}, protocol=UDP)
    assert stored_checksum(outcome.packets[0], UDP) == 0xFFFF
    assert outcome.counts == ChecksumCounts(stale=1, repaired=1)
    assert outcome.events[0].correct == 0xFFFF


# -- flows ------------------------------------------------------------------------------------------------------------


def test_a_stale_flow_is_reported_once_and_repaired_always(bench: Bench) -> None:
    """One event; each packet gets the same delta."""
    sent = [frame(WEB, bytes([number]) * number, summed_for=WEB.to(HOST, 8080)) for number in range(20)]
    outcome = bench.checksum(sent, origins={(CONTAINER, 80): [(HOST, 8080)]})
    assert outcome.packets == tuple(frame(WEB, bytes([number]) * number) for number in range(20))
    assert outcome.counts == ChecksumCounts(stale=20, repaired=20)
    assert len(outcome.events) == 1


def test_a_change_of_mode_works_at_once(bench: Bench) -> None:
    """Observe to repair and back, in the middle of a flow."""
    stale, right = frame(WEB, b"data", summed_for=WEB.to(HOST, 80)), frame(WEB, b"data")
    outcome = bench.checksum([stale] * 3, mode=[OBSERVE, REPAIR, OBSERVE], origins={(CONTAINER, 80): [(HOST, 80)]})
    assert outcome.packets == (stale, right, stale)
    assert outcome.counts == ChecksumCounts(stale=3, repaired=1)


def test_off_repairs_nothing_of_a_flow_known_stale(bench: Bench) -> None:
    """What was found out before is not acted upon, and not counted."""
    stale, right = frame(WEB, b"data", summed_for=WEB.to(HOST, 80)), frame(WEB, b"data")
    outcome = bench.checksum([stale, stale], mode=[REPAIR, OFF], origins={(CONTAINER, 80): [(HOST, 80)]})
    assert outcome.packets == (right, stale)
    assert outcome.counts == ChecksumCounts(stale=1, repaired=1)


def test_a_right_packet_of_a_stale_flow_is_not_broken(bench: Bench) -> None:
    """What is right already is not "repaired" with the flow's delta; the next stale one still is."""
    stale, right = frame(WEB, b"data", summed_for=WEB.to(HOST, 80)), frame(WEB, b"data")
    outcome = bench.checksum([stale, right, stale], origins={(CONTAINER, 80): [(HOST, 80)]})
    assert outcome.packets == (right, right, right)
    assert outcome.counts == ChecksumCounts(good=1, stale=2, repaired=2)


def test_a_damaged_packet_of_a_stale_flow_is_not_touched(bench: Bench) -> None:
    """Stale and corrupt is corrupt."""
    stale = frame(WEB, b"data", summed_for=WEB.to(HOST, 80))
    damaged = flipped(stale, len(stale) * 8 - 1)
    outcome = bench.checksum([stale, damaged], origins={(CONTAINER, 80): [(HOST, 80)]})
    assert outcome.packets == (frame(WEB, b"data"), damaged)
    assert outcome.counts == ChecksumCounts(stale=1, repaired=1, corrupt=1)


def test_a_corrupt_packet_does_not_condemn_its_flow(bench: Bench) -> None:
    """The next packet is verified on its own."""
    outcome = bench.checksum([frame(WEB, b"data", checksum=0x1234), frame(WEB, b"data")])
    assert outcome.counts == ChecksumCounts(good=1, corrupt=1)


def test_a_new_connection_is_verified_anew(bench: Bench) -> None:
    """A SYN on a known five-tuple starts over: good became stale, and stale became good."""
    stale_syn = frame(WEB, tcp_flags=TCP_SYN, summed_for=WEB.to(HOST, 80))
    good_syn = frame(WEB, tcp_flags=TCP_SYN)
    stale_ack = frame(WEB, tcp_flags=TCP_ACK, summed_for=WEB.to(HOST, 80))
    outcome = bench.checksum(
        [good_syn, stale_ack, stale_syn, stale_ack, good_syn, stale_ack], origins={(CONTAINER, 80): [(HOST, 80)]}
    )
    good_ack = frame(WEB, tcp_flags=TCP_ACK)
    assert outcome.packets == (good_syn, stale_ack, good_syn, good_ack, good_syn, stale_ack)
    assert outcome.counts == ChecksumCounts(good=2, stale=2, repaired=2)


def test_the_delta_outlives_the_mapping(bench: Bench) -> None:
    """A connection that is translated goes on being translated when its mapping goes, so the repair goes on too."""
    stale = frame(WEB, b"data", summed_for=WEB.to(HOST, 80))

    def run() -> tuple[bytes, ...]:
        bench_programs = KernelPrograms()
        first = bench._checksum([stale], REPAIR, {(CONTAINER, 80): [(HOST, 80)]}, (), TCP, 0)
        bench_programs.drop("origins", abi.OriginKey(IPv4Address(CONTAINER), 6, 80, 0).pack())
        with bench._open(Program.CHECKSUM) as program:
            from dataplane.programs import syscall

            second = syscall.run_program(program.number, stale, ifindex=DEVICE)
        return (*first.packets, second.packet)

    assert bench._sandbox.call(run) == (frame(WEB, b"data"), frame(WEB, b"data"))


# -- corruption -------------------------------------------------------------------------------------------------------


def test_one_flipped_bit_is_never_repaired(bench: Bench) -> None:
    """2,000 random single-bit errors in stale and in right frames, from the TCP header on: none changes a packet,
    none is counted as repaired, all are told from good ones. No mapping here has a delta that one bit can make."""
    rng = seeded(2)
    origins = {(CONTAINER, 80): [(HOST, 8080), ("0.0.0.0", 30080)]}
    sent = []
    for number in range(2000):
        flow = Flow(TCP, f"198.51.{number >> 8}.{number & 255}", 1024 + number, CONTAINER, 80)
        summed_for = rng.choice((flow, flow.to(HOST, 8080), flow.to("192.0.2.1", 30080)))
        whole = frame(flow, rng.randbytes(rng.randrange(200)), summed_for=summed_for)
        first = (ETHERNET_LEN + 20 + 4) * 8  # other ports would be another flow of another mapping
        sent.append(flipped(whole, rng.randrange(first, len(whole) * 8)))
    outcome = bench.checksum(sent, origins=origins, host_addresses=["192.0.2.1", HOST])
    assert outcome.packets == tuple(sent)
    assert outcome.counts.repaired == outcome.counts.stale == outcome.counts.good == 0
    assert outcome.counts.corrupt + outcome.counts.partial == len(sent)
    assert outcome.counts.partial < 10


def test_every_flipped_bit_of_the_seed_is_left_alone(bench: Bench) -> None:
    """The seed frame with any one bit of its TCP segment or addresses changed besides: exactly as it came."""
    seed = seed_stale_syn()
    addresses = (ETHERNET_LEN + 12) * 8
    sent = [flipped(seed, bit) for bit in range(addresses, len(seed) * 8)]
    outcome = bench.checksum(sent, origins={(CONTAINER, 80): [(HOST, 80)]})
    assert outcome.packets == tuple(sent)
    assert outcome.counts == ChecksumCounts(corrupt=len(sent))


def test_events_that_find_the_ring_full_are_counted(bench: Bench) -> None:
    """A flood of corruption costs no packet and no event goes missing unaccounted."""
    sent = [frame(WEB, checksum=0x1234)] * 6000
    outcome = bench.checksum(sent)
    assert outcome.counts.corrupt == len(sent)
    assert 0 < len(outcome.events) < len(sent)
    assert len(outcome.events) + outcome.lost == len(sent)


# -- the length bound: only a real device carries a frame of this size ------------------------------------------------


def test_a_jumbo_frame_is_verified_up_to_the_bound(sandbox: Sandbox) -> None:
    """9,216 bytes of TCP are summed; one more is left to the receiver."""
    sandbox.run("ip", "link", "add", "jumbo", "mtu", "10000", "type", "veth", "peer", "name", "other")
    for name in ("jumbo", "other"):
        sandbox.run("ip", "link", "set", name, "mtu", "10000", "up")
    payloads = [seeded(length).randbytes(length - 20) for length in (9215, 9216, 9217)]
    stale = [frame(WEB, payload, summed_for=WEB.to(HOST, 80)) for payload in payloads]
    right = [frame(WEB, payload) for payload in payloads]

    def run() -> tuple[ChecksumCounts, list[bytes]]:
        device = IfIndex(socket.if_nametoindex("jumbo"))
        programs = KernelPrograms()
        programs.load()
        entry = abi.NetworkEntry(7, IsolationPolicy.OPEN, REPAIR)
        programs.put("networks", abi.U32.pack(device), entry.pack())
        key = abi.OriginKey(IPv4Address(CONTAINER), 6, 80, 0)
        programs.put("origins", key.pack(), abi.Origin(IPv4Address(HOST), 80).pack())
        programs.attach(Program.CHECKSUM, device)
        came = []
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as there,
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out,
        ):
            there.bind(("other", 0x0800))
            there.settimeout(5)
            out.bind(("jumbo", 0))
            for one in stale:
                out.send(one)
                came.append(there.recv(16384))
        counts = programs.get("checksum_counts", abi.U32.pack(device))
        assert counts
        return abi.ChecksumCounts.unpack(counts), came

    counts, came = sandbox.call(run)
    assert came == [*right[:2], stale[2]]
    assert (counts.stale, counts.repaired, counts.unreadable) == (2, 2, 1)
