"""The oracle: ten thousand corrupt packets over a real path, of which none is delivered, among right and stale ones.

    client --veth-- uplink (host, routes) br-front --veth-- container: packet socket, UDP sockets, TCP listener
                                             |
                                     checksum program

The frames are sent bit for bit by a packet socket of the client. What comes out in the container is compared with what
was sent; and the container's own stack says what it takes for right, by its sockets and by its counters.
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address

import pytest

from dataplane import abi
from dataplane.abi import ChecksumCounts, NetworkEntry
from dataplane.programs.door import KernelPrograms
from dataplane.types import AttachMode, ChecksumMode, IfIndex, IsolationPolicy, Program, Protocol
from support import offloads
from support.corruption import Case, Kind, cases, segment_at
from support.frames import Flow
from support.netns import Namespace, Place, Sandbox
from support.plan import CLIENT4, CLIENT6, FRONT, HOST4, HOST6, OUTSIDE
from support.sockets import entered
from support.traffic import counters

TCP, UDP = Protocol.TCP, Protocol.UDP
CORRUPT, OTHERS = 10_000, 2_000
BATCH = 50
"""Frames on their way at once: no queue on the path is shorter."""

WEB4, WEB6 = str(FRONT.host4(23)), str(FRONT.host6(0x2323))
HTTP, DNS = (80, 8080), (53, 5300)
"""Ports of the container, and where they are published."""
NETWORK = 7

_IPV4, _IPV6 = 0x0800, 0x86DD
_OUTGOING = 4
_RECEIVE_BUFFER_FORCE = 33


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the container saw."""

    segments: tuple[bytes, ...]
    """Of each frame that was sent, in that order."""
    payloads: Counter[bytes]
    """What UDP sockets read."""
    answered: frozenset[tuple[str, int]]
    """To whom SYN/ACKs went, several times perhaps."""


@cache
def sent_cases() -> tuple[Case, ...]:
    """What every run sends: half of it IPv4, half UDP."""
    rng = random.Random(20)  # noqa: S311 - the same packets in every run
    flows = [
        Flow(protocol, str(client), 20000 + number, container, port)
        for client, container in ((CLIENT4, WEB4), (CLIENT6, WEB6))
        for protocol, (port, _) in ((TCP, HTTP), (UDP, DNS))
        for number in range(1500)
    ]
    return tuple(cases(rng, flows, _before, CORRUPT, OTHERS))


def _before(flow: Flow) -> Flow:
    """A flow as its client sent it: to the published port."""
    host = HOST6 if ":" in flow.source else HOST4
    return flow.to(str(host), HTTP[1] if flow.protocol is TCP else DNS[1])


def build(sandbox: Sandbox) -> tuple[Namespace, Namespace]:
    """Client and container, and the host between them. The client's stack knows none of its addresses, so that it
    answers to nothing."""
    client, web = sandbox.namespace("client"), sandbox.namespace("web")
    sandbox.link(OUTSIDE.device, client, "eth0", f"{HOST4}/24 {HOST6}/64")
    sandbox.bridge(FRONT.device, f"{FRONT.gateway4}/24 {FRONT.gateway6}/64")
    sandbox.plug(FRONT.device, "port0", web, address=f"{WEB4}/24 {WEB6}/64")
    for address in (CLIENT4, CLIENT6):
        sandbox.run("ip", "neigh", "add", address, "lladdr", mac(client, "eth0"), "dev", OUTSIDE.device)
    for container in (WEB4, WEB6):
        sandbox.run("ip", "neigh", "add", container, "lladdr", mac(web, "eth0"), "dev", FRONT.device)
    web.run("ip", "route", "add", "default", "via", FRONT.gateway4)
    web.run("ip", "route", "add", "default", "via", FRONT.gateway6)
    sandbox.sysctl("net/ipv4/ip_forward", 1)
    sandbox.sysctl("net/ipv6/conf/all/forwarding", 1)
    return client, web


def mac(place: Place, device: str) -> str:
    (link,) = json.loads(place.ip("-json", "link", "show", device))
    return str(link["address"])


def hook(mode: AttachMode) -> None:
    """Inside a sandbox: the program on the bridge, with published ports and everything else that it may go by."""
    programs = KernelPrograms(mode)
    programs.load()
    device = IfIndex(socket.if_nametoindex(FRONT.device))
    entry = NetworkEntry(NETWORK, IsolationPolicy.OPEN, ChecksumMode.REPAIR, masquerades=True)
    programs.put("networks", abi.U32.pack(device), entry.pack())
    for address in map(ip_address, (WEB4, WEB6)):
        host = HOST4 if address.version == 4 else HOST6
        programs.put("containers", abi.container_key(NETWORK, address), abi.pack_address(address))
        for protocol, (port, published), where in ((TCP, HTTP, None), (UDP, DNS, host)):
            key = abi.OriginKey(address, protocol.number, port, 0)
            programs.put("origins", key.pack(), abi.Origin(where, published).pack())
            back = abi.PublishedKey(where, address.version, protocol.number, published)
            programs.put("published", back.pack(), abi.Target(address, port, localhost=True).pack())
    for own in (HOST4, HOST6, FRONT.gateway4, FRONT.gateway6):
        programs.put("host_addresses", abi.host_address_key(own), abi.pack_address(own))
    programs.attach(Program.CHECKSUM, device)


def counted() -> ChecksumCounts:
    """Inside a sandbox: what the program counted."""
    device = IfIndex(socket.if_nametoindex(FRONT.device))
    counts = KernelPrograms().get("checksum_counts", abi.U32.pack(device))
    return ChecksumCounts.unpack(counts) if counts else ChecksumCounts()


def deliver(client: str, web: str, uplink: str, sent: Sequence[Case]) -> Delivered:
    """Inside a sandbox: send the frames to the container, a few at a time, and see what comes of them."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one CPU keeps their order
    with ExitStack() as stack:
        with entered(client):
            sender = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            sender.bind(("eth0", 0))
        with entered(web):
            reader = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
            reader.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, 16 << 20)
            reader.bind(("eth0", 3))
            reader.settimeout(10)
            usual = [stack.enter_context(one) for one in _listening()]
        segments: list[bytes] = []
        payloads: Counter[bytes] = Counter()
        answered: set[tuple[str, int]] = set()
        for first in range(0, len(sent), BATCH):
            batch = sent[first : first + BATCH]
            for case in batch:
                sender.send(bytes.fromhex(uplink.replace(":", "")) + case.sent[6:])
            while len(segments) < first + len(batch):
                _sort(*reader.recvfrom(4096), segments, answered)
            for one in usual:
                payloads.update(_waiting(one))
        reader.setblocking(False)
        for octets, where in _all_frames(reader):
            _sort(octets, where, segments, answered)
    return Delivered(tuple(segments), payloads, frozenset(answered))


def _listening() -> list[socket.socket]:
    """Sockets of the container: those of UDP first, which do not block."""
    made = []
    for family, address in ((socket.AF_INET, WEB4), (socket.AF_INET6, WEB6)):
        usual = socket.socket(family, socket.SOCK_DGRAM)
        usual.bind((address, DNS[0]))
        usual.setblocking(False)
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind((address, HTTP[0]))
        listener.listen(4096)
        made += [usual, listener]
    return made


def _waiting(usual: socket.socket) -> Iterator[bytes]:
    if usual.type == socket.SOCK_DGRAM:
        with suppress(BlockingIOError):
            while True:
                yield usual.recv(4096)


def _all_frames(reader: socket.socket) -> Iterator[tuple[bytes, tuple[object, ...]]]:
    with suppress(BlockingIOError):
        while True:
            yield reader.recvfrom(4096)


def _sort(octets: bytes, where: tuple[object, ...], segments: list[bytes], answered: set[tuple[str, int]]) -> None:
    """A frame in the container: one from the client, a SYN/ACK to it, or neither."""
    kind = int.from_bytes(octets[12:14], "big")
    if kind not in {_IPV4, _IPV6}:
        return
    protocol, start = (octets[23], 34) if kind == _IPV4 else (octets[20], 54)
    addresses = octets[26:34] if kind == _IPV4 else octets[22:54]
    half_at = len(addresses) // 2
    source, destination = (ip_address(half) for half in (addresses[:half_at], addresses[half_at:]))
    if source in {CLIENT4, CLIENT6}:
        segments.append(octets[start:])
    elif where[2] == _OUTGOING and protocol == TCP.number and octets[start + 13] & 0x12 == 0x12:
        answered.add((str(destination), int.from_bytes(octets[start + 2 : start + 4], "big")))


@pytest.mark.parametrize(
    ("mode", "offloaded"),
    [
        pytest.param(AttachMode.TCX, True, id="tcx, offloads"),
        pytest.param(AttachMode.CLSACT, False, id="clsact, no offloads"),
    ],
)
def test_none_of_ten_thousand(sandbox: Sandbox, mode: AttachMode, offloaded: bool) -> None:
    """Not one corrupt packet is delivered or changed, not one right packet is changed, and every stale one is repaired:
    IPv4 and IPv6, TCP and UDP, to ports published on one address and on all, with GRO and without."""
    client, web = build(sandbox)
    for place, device in (
        *((sandbox, device) for device in (OUTSIDE.device, FRONT.device, "port0")),
        *((place, "eth0") for place in (client, web)),
    ):
        offloads.switch(place, device, offloaded, *offloads.ALL)
    offloads.switch(client, "eth0", False, offloads.TSO)  # a veth does GRO only for a peer that has cut everything
    sandbox.call(hook, mode)
    sent = sent_cases()
    assert sum(case.kind is Kind.CORRUPT for case in sent) == CORRUPT

    came = sandbox.call(deliver, client.path, web.path, mac(sandbox, OUTSIDE.device), sent)
    assert len(came.segments) == len(sent)
    changed = [
        (case.kind, case.sent[segment_at(case.flow) :].hex(), segment.hex())
        for case, segment in zip(sent, came.segments, strict=True)
        if segment != case.expected
    ]
    assert changed == []

    whole = [case for case in sent if case.kind is not Kind.CORRUPT]
    assert came.payloads == Counter(case.payload for case in whole if case.flow.protocol is UDP)
    assert came.answered == {(case.flow.source, case.flow.source_port) for case in whole if case.flow.protocol is TCP}
    refused = Counter(case.flow.protocol for case in sent if case.kind is Kind.CORRUPT)
    assert counters(web, "Udp")["InCsumErrors"] + _refused6(web) == refused[UDP]
    assert counters(web, "Tcp")["InCsumErrors"] == refused[TCP]

    counts = sandbox.call(counted)
    stale = sum(case.kind is Kind.STALE for case in sent)
    assert counts.stale == counts.repaired == stale
    assert counts.unreadable == counts.partial == 0
    if offloaded:  # GRO verified the right ones on their way in: CHECKSUM_UNNECESSARY
        assert counts.verified == len(whole) - stale
        assert counts.corrupt == CORRUPT
    else:  # of a UDP flow known good, nothing is looked at any more, what is corrupt included
        assert counts.verified == 0
        assert refused[TCP] <= counts.corrupt <= CORRUPT


def _refused6(web: Namespace) -> int:
    lines = web.run("cat", "/proc/net/snmp6").stdout.splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Udp6InCsumErrors")))
