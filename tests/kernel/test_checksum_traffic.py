"""The checksum program in the way of real traffic: sockets notice nothing, and each stale class on a real device."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from dataplane import abi
from dataplane.abi import ChecksumCounts, EventKind, NetworkEntry, Translation
from dataplane.programs.door import KernelPrograms
from dataplane.types import AttachMode, ChecksumMode, IfIndex, IsolationPolicy, Program, Protocol
from support import offloads
from support.frames import Flow, frame, frame6, tagged
from support.netns import Namespace, Sandbox
from support.plan import CLIENT4, CLIENT6, FRONT, HOST4, HOST6, OUTSIDE
from support.sockets import entered
from support.traffic import counters

WEB4, WEB6 = str(FRONT.host4(23)), str(FRONT.host6(0x2323))
NETWORK, PORT, LENGTH = 7, 4053, 4 << 20
_SOL_PACKET, _PACKET_AUXDATA = 263, 8
MODES = pytest.mark.parametrize("mode", [AttachMode.TCX, AttachMode.CLSACT])


def build(sandbox: Sandbox) -> tuple[Namespace, Namespace]:
    """A client outside and a container, and the host that routes between them."""
    client, web = sandbox.namespace("client"), sandbox.namespace("web")
    sandbox.link(OUTSIDE.device, client, "eth0", f"{HOST4}/24 {HOST6}/64", f"{CLIENT4}/24 {CLIENT6}/64")
    sandbox.bridge(FRONT.device, f"{FRONT.gateway4}/24 {FRONT.gateway6}/64")
    sandbox.plug(FRONT.device, "port0", web, address=f"{WEB4}/24 {WEB6}/64")
    for place, gateways in ((client, (HOST4, HOST6)), (web, (FRONT.gateway4, FRONT.gateway6))):
        for gateway in gateways:
            place.run("ip", "route", "add", "default", "via", gateway)
    sandbox.sysctl("net/ipv4/ip_forward", 1)
    sandbox.sysctl("net/ipv6/conf/all/forwarding", 1)
    return client, web


def hook(mode: AttachMode, name: str = FRONT.device) -> KernelPrograms:
    """Inside a sandbox: the program on a device."""
    programs = KernelPrograms(mode)
    programs.load()
    device = IfIndex(socket.if_nametoindex(name))
    entry = NetworkEntry(NETWORK, IsolationPolicy.OPEN, ChecksumMode.REPAIR, masquerades=True)
    programs.put("networks", abi.U32.pack(device), entry.pack())
    programs.attach(Program.CHECKSUM, device)
    return programs


def counted(name: str = FRONT.device) -> ChecksumCounts:
    """Inside a sandbox: what the program counted on a device."""
    device = IfIndex(socket.if_nametoindex(name))
    counts = KernelPrograms().get("checksum_counts", abi.U32.pack(device))
    return ChecksumCounts.unpack(counts) if counts else ChecksumCounts()


# -- what is right stays as it is -------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("offloaded", [True, False], ids=["offloads", "no offloads"])
def test_streams_and_datagrams_notice_nothing(sandbox: Sandbox, mode: AttachMode, offloaded: bool) -> None:
    """Megabytes of TCP and a thousand datagrams arrive whole in both families, cut and joined by GSO and GRO or summed
    in software; no checksum error anywhere, and nothing is taken for stale or corrupt."""
    client, web = build(sandbox)
    for place, device in (
        *((sandbox, device) for device in (OUTSIDE.device, FRONT.device, "port0")),
        *((place, "eth0") for place in (client, web)),
    ):
        offloads.switch(place, device, offloaded, *offloads.ALL)
    offloads.switch(client, "eth0", False, offloads.TSO)  # a veth does GRO only for a peer that has cut everything
    sandbox.call(hook, mode)
    for address in (WEB4, WEB6):
        assert sandbox.call(_stream, client.path, web.path, address)
        assert sandbox.call(_datagrams, client.path, web.path, address) == 1000
    counts = sandbox.call(counted)
    assert counts.stale == counts.corrupt == counts.unreadable == 0
    if offloaded:
        assert counts.partial > 0  # what GRO joined, too, is to be cut again
    else:
        assert counts.good > 0
        assert counts.partial == 0
    for protocol in ("Tcp", "Udp"):
        assert counters(web, protocol)["InCsumErrors"] == 0


def _stream(client: str, web: str, address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as stack:
        with entered(web):
            listener = stack.enter_context(socket.create_server((address, PORT), family=family))
        with entered(client):
            sender = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sender.connect((address, PORT))
        receiver, _ = listener.accept()
        stack.enter_context(receiver)
        octets = os.urandom(LENGTH)
        writing = threading.Thread(target=_send_all, args=(sender, octets))
        writing.start()
        came = hashlib.sha256()
        while chunk := receiver.recv(1 << 20):
            came.update(chunk)
        writing.join()
    return came.digest() == hashlib.sha256(octets).digest()


def _send_all(sender: socket.socket, octets: bytes) -> None:
    sender.sendall(octets)
    sender.shutdown(socket.SHUT_WR)


def _datagrams(client: str, web: str, address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as stack:
        with entered(web):
            receiver = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            receiver.bind((address, PORT))
            receiver.settimeout(5)
        with entered(client):
            sender = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        came = 0
        for number in range(1000):
            octets = os.urandom(number)
            sender.sendto(octets, (address, PORT))
            came += receiver.recv(2048) == octets
    return came


# -- every class of stale sums, on a real device, to real sockets -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stale:
    """A flow as it arrives, and as it was before NAT; how many packets it takes to prove that."""

    translation: Translation
    flow: Flow
    before: Flow
    packets: int = 1


def stale_flows(host: str, gateway: str, client: str, container: str, loopback: str) -> tuple[Stale, ...]:
    """One of each class that can be made by a packet of the host's own, in one family."""
    to = Flow(Protocol.UDP, client, 40000, container, PORT)
    back = Flow(Protocol.UDP, host, 8080, container, PORT)
    local = Flow(Protocol.UDP, gateway, 40000, container, PORT)
    return (
        Stale(Translation.PUBLISHED, to, to.to(host, PORT)),
        Stale(Translation.PUBLISHED, to.of(client, 40001), to.of(client, 40001).to(container, 8080)),
        Stale(Translation.PUBLISHED, to.of(client, 40002), to.of(client, 40002).to(host, 8080)),
        Stale(Translation.REPLY, back, back.of(container, 8080)),
        Stale(Translation.REPLY, back, back.of(host, PORT)),
        Stale(Translation.REPLY, back, back.of(container, PORT)),
        Stale(Translation.BOTH, local, local.of(loopback, 40000).to(loopback, 8080), packets=2),
    )


@MODES
def test_each_class_reaches_its_socket(sandbox: Sandbox, mode: AttachMode) -> None:
    """Stale by address, port and both, towards a published port, back from one, and at both ends: delivered, and what
    is not proved before is delivered from the second packet on."""
    _, web = build(sandbox)
    families = (
        stale_flows(str(HOST4), str(FRONT.gateway4), str(CLIENT4), WEB4, "127.0.0.1"),
        stale_flows(str(HOST6), str(FRONT.gateway6), str(CLIENT6), WEB6, "::1"),
    )
    (link,) = json.loads(web.ip("-json", "link", "show", "eth0"))
    for flows in families:
        came, told = sandbox.call(_send_stale, mode, web.path, bytes.fromhex(link["address"].replace(":", "")), flows)
        assert came == [b"%d" % number for number, _ in enumerate(flows)]
        assert told == [one.translation for one in flows]


def _send_stale(
    mode: AttachMode, web: str, mac: bytes, flows: Sequence[Stale]
) -> tuple[list[bytes], list[Translation]]:
    container = flows[0].flow.destination
    programs = hook(mode)
    address = ip_address(container)
    key = abi.OriginKey(address, Protocol.UDP.number, PORT, 0)
    programs.put("origins", key.pack(), abi.Origin(None, 8080).pack())
    back = abi.PublishedKey(None, address.version, Protocol.UDP.number, 8080)
    programs.put("published", back.pack(), abi.Target(address, PORT, localhost=True).pack())
    for own in (HOST4, HOST6, FRONT.gateway4, FRONT.gateway6):
        programs.put("host_addresses", abi.host_address_key(own), abi.pack_address(own))
    family, build_frame = (socket.AF_INET6, frame6) if ":" in container else (socket.AF_INET, frame)
    came: list[bytes] = []
    with ExitStack() as stack:
        events = stack.enter_context(programs.events())
        with entered(web):
            receiver = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            receiver.bind((container, PORT))
            receiver.settimeout(5)
        sender = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        sender.bind((FRONT.device, 0))
        for number, one in enumerate(flows):
            for last in range(one.packets, 0, -1):
                payload = b"%d" % number if last == 1 else b"not proved"
                sender.send(mac + build_frame(one.flow, payload, summed_for=one.before)[6:])
            came.append(receiver.recv(2048))
        told = [event.translation for event in events.poll() if event.kind is EventKind.STALE]
    return came, told


@MODES
def test_a_tag_that_is_kept_beside_the_packet(sandbox: Sandbox, mode: AttachMode) -> None:
    """The kernel takes the tag out of a frame that it receives; a stale sum is found and repaired all the same."""
    _, web = build(sandbox)
    other = sandbox.namespace("other")
    sandbox.plug(FRONT.device, "port1", other)
    flow = Flow(Protocol.UDP, str(FRONT.host4(9)), 40000, WEB4, PORT)
    stale, right = frame(flow, b"tagged", summed_for=flow.to(str(HOST4), 8080)), frame(flow, b"tagged")
    assert sandbox.call(_through_a_port, mode, other.path, web.path, tagged(stale, 5)) == (right[12:], 5)
    counts = sandbox.call(counted, "port0")
    assert (counts.stale, counts.repaired, counts.corrupt) == (1, 1, 0)


def _through_a_port(mode: AttachMode, other: str, web: str, octets: bytes) -> tuple[bytes, int]:
    programs = hook(mode, "port0")
    key = abi.OriginKey(ip_address(WEB4), Protocol.UDP.number, PORT, 0)
    programs.put("origins", key.pack(), abi.Origin(HOST4, 8080).pack())
    with ExitStack() as stack:
        with entered(other):
            sender = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            sender.bind(("eth0", 0))
        with entered(web):
            reader = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
            reader.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            reader.bind(("eth0", 3))
            reader.settimeout(5)
        sender.send(b"\xff" * 6 + octets[6:])
        while True:
            came, ((_, _, about),), _, _ = reader.recvmsg(2048, 256)
            if came.endswith(b"tagged"):
                return came[12:], int.from_bytes(about[16:18], sys.byteorder)  # tp_vlan_tci
