"""The fill program: receivers that read frames see whole sums, everybody else sees no difference."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from control.checksums.checksum import Verdict, explain
from control.checksums.frame import LinkType, parse
from control.checksums.rewrites import Knowledge
from dataplane import abi
from dataplane.abi import Port
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.types import AttachMode, GuardLevel, IfIndex, Program, Protocol
from support import offloads
from support.frames import Flow, frame
from support.netns import Namespace, Sandbox
from support.sockets import entered

DHCP4, DHCP6, DNS = 68, 546, 53
NETWORK = 7
HOST4, HOST6 = "10.11.0.1", "fd00:11::1"
CONTAINER4, CONTAINER6 = "10.11.0.2", "fd00:11::2"
BEYOND4 = "10.13.0.2"

MODES = pytest.mark.parametrize("mode", [AttachMode.TCX, AttachMode.CLSACT])

_SOL_PACKET, _PACKET_AUXDATA = 263, 8
_CSUM_NOT_READY = 1 << 3  # TP_STATUS_CSUMNOTREADY
_UDP_SEGMENT = 103


@dataclass(frozen=True, slots=True)
class Seen:
    """One UDP packet as a packet socket reads it, and as a UDP socket does."""

    verdict: Verdict
    partial: bool
    """The kernel says that its sum is not computed."""
    delivered: bytes


def container(sandbox: Sandbox) -> Namespace:
    """A container behind a host veth."""
    made = sandbox.namespace("web")
    sandbox.link("port0", made, "eth0", f"{HOST4}/24 {HOST6}/64", f"{CONTAINER4}/24 {CONTAINER6}/64")
    return made


def hook(mode: AttachMode, device: str = "port0") -> None:
    """Inside a sandbox: the program on a port, for DHCP."""
    programs = KernelPrograms(mode)
    programs.load()
    ifindex = IfIndex(socket.if_nametoindex(device))
    programs.put("ports", abi.U32.pack(ifindex), Port(NETWORK, GuardLevel.OFF).pack())
    for port in (DHCP4, DHCP6):
        programs.put("fill_ports", abi.fill_key(NETWORK, port), abi.U32.pack(1))
    programs.attach(Program.FILL, ifindex)


def filled() -> int:
    """Inside a sandbox: how many were completed."""
    count = KernelPrograms().get("filled", abi.U32.pack(NETWORK))
    return int(abi.U64.unpack(count)[0]) if count else 0


def watch(sandbox: Sandbox, place: Namespace, address: str, port: int, payload: bytes) -> Seen:
    """Send a packet from the host to a place; what is seen there."""
    return sandbox.call(_watch, place.path, address, port, payload)


def _watch(path: str, address: str, port: int, payload: bytes) -> Seen:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender, ExitStack() as stack:
        with entered(path):
            usual = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            usual.bind((address, port))
            reader = stack.enter_context(frame_reader())
        usual.settimeout(5)
        sender.sendto(payload, (address, port))
        delivered = usual.recv(4096)
        octets, status = read_frame(reader, payload)
    return Seen(verdict_over(octets), bool(status & _CSUM_NOT_READY), delivered)


def frame_reader() -> socket.socket:
    """What a DHCP client reads its answers by."""
    reader = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    reader.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    reader.bind(("eth0", 3))
    reader.settimeout(5)
    return reader


def read_frame(reader: socket.socket, payload: bytes) -> tuple[bytes, int]:
    """The frame with this payload, and its status (``struct tpacket_auxdata``)."""
    while True:
        octets, about, _, _ = reader.recvmsg(65536, 256)
        if octets.endswith(payload):
            (status,) = (struct.unpack_from("=I", octets)[0] for _, kind, octets in about if kind == _PACKET_AUXDATA)
            return octets, status


def verdict_over(octets: bytes) -> Verdict:
    return explain(parse(octets, LinkType.ETHERNET), Knowledge()).verdict


@MODES
def test_a_reader_of_frames_sees_a_whole_sum(sandbox: Sandbox, mode: AttachMode) -> None:
    """Where it saw a partial one before; and the kernel no longer says that it is one. A socket gets it as ever."""
    web = container(sandbox)
    packets = [
        (*to, os.urandom(size)) for to in ((CONTAINER4, DHCP4), (CONTAINER6, DHCP6)) for size in (8, 47, 301, 1400)
    ]
    for address, port, payload in packets:
        assert watch(sandbox, web, address, port, payload) == Seen(Verdict.PARTIAL, True, payload)
    sandbox.call(hook, mode)
    for address, port, payload in packets:
        assert watch(sandbox, web, address, port, payload) == Seen(Verdict.RIGHT, False, payload)
    assert sandbox.call(filled) == len(packets)


def test_other_ports_are_left(sandbox: Sandbox) -> None:
    """What is not named stays partial, and arrives."""
    web = container(sandbox)
    sandbox.call(hook, AttachMode.AUTO)
    payload = os.urandom(300)
    assert watch(sandbox, web, CONTAINER4, DNS, payload) == Seen(Verdict.PARTIAL, True, payload)
    assert watch(sandbox, web, CONTAINER6, DHCP4 + 1, payload) == Seen(Verdict.PARTIAL, True, payload)
    assert sandbox.call(filled) == 0


def test_a_device_that_sums_nothing(sandbox: Sandbox) -> None:
    """With the veth's checksumming off, a sender sums by itself: right before, and left alone."""
    web = container(sandbox)
    sandbox.call(hook, AttachMode.AUTO)
    offloads.switch(sandbox, "port0", False, offloads.TX_CHECKSUM)
    payload = os.urandom(300)
    for address, port in ((CONTAINER4, DHCP4), (CONTAINER6, DHCP6)):
        assert watch(sandbox, web, address, port, payload) == Seen(Verdict.RIGHT, False, payload)


@pytest.mark.parametrize("offloaded", [True, False], ids=["offloads", "no offloads"])
def test_passed_on_by_its_receiver_it_is_right_still(sandbox: Sandbox, offloaded: bool) -> None:
    """A container that forwards it by a device which sums, or has sums made, does not sum a second time."""
    web, beyond = container(sandbox), sandbox.namespace("beyond")
    web.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", "beyond")
    for place, device, address in ((web, "eth1", "10.13.0.1/24"), (beyond, "eth0", f"{BEYOND4}/24")):
        place.run("ip", "address", "add", address, "dev", device)
        place.run("ip", "link", "set", device, "up")
    web.sysctl("net/ipv4/ip_forward", 1)
    if not offloaded:
        offloads.switch(web, "eth1", False, offloads.TX_CHECKSUM)
    sandbox.run("ip", "route", "add", f"{BEYOND4}/32", "via", CONTAINER4)
    sandbox.call(hook, AttachMode.AUTO)
    payload = os.urandom(300)
    assert watch(sandbox, beyond, BEYOND4, DHCP4, payload) == Seen(Verdict.RIGHT, False, payload)
    assert sandbox.call(filled) == 1


def test_behind_a_bridge_every_port_gets_its_own(sandbox: Sandbox) -> None:
    """A flooded frame is shared by the ports: one that is filled does not change what the others send on."""
    webs = [sandbox.namespace(name) for name in ("one", "two")]
    sandbox.bridge("br0", f"{HOST4}/24")
    for number, web in enumerate(webs):
        sandbox.plug("br0", f"port{number}", web, address=f"{CONTAINER4}/24")
    sandbox.run("ip", "neigh", "add", CONTAINER4, "lladdr", "ff:ff:ff:ff:ff:ff", "dev", "br0")
    sandbox.call(hook, AttachMode.AUTO)
    assert sandbox.call(_flooded, [web.path for web in webs]) == [Verdict.RIGHT, Verdict.PARTIAL]


def _flooded(paths: list[str]) -> list[Verdict]:
    payload, readers = os.urandom(300), []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, ExitStack() as stack:
        for path in paths:
            with entered(path):
                readers.append(stack.enter_context(frame_reader()))
        sender.sendto(payload, (CONTAINER4, DHCP4))
        return [verdict_over(read_frame(reader, payload)[0]) for reader in readers]


def test_segments_are_left(sandbox: Sandbox) -> None:
    """A packet that is to be cut is not touched, and all of it arrives."""
    web = container(sandbox)
    sandbox.call(hook, AttachMode.AUTO)
    assert sandbox.call(_segments, web.path) == [1000, 1000, 1000]
    assert sandbox.call(filled) == 0


def _segments(path: str) -> list[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, ExitStack() as stack:
        with entered(path):
            usual = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            usual.bind((CONTAINER4, DHCP4))
        usual.settimeout(5)
        sender.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 1000)
        sender.sendto(bytes(3000), (CONTAINER4, DHCP4))
        return [len(usual.recv(4096)) for _ in range(3)]


def test_a_sum_that_is_whole_is_left(sandbox: Sandbox) -> None:
    """Right or wrong: it is the checksum program's business."""

    def run() -> list[bytes]:
        hook(AttachMode.AUTO, "lo")
        with syscall.obj_get(KernelPrograms().directory / Program.FILL.function) as program:
            return [syscall.run_program(program.number, one, ifindex=IfIndex(1)).packet for one in sent]

    flow = Flow(Protocol.UDP, HOST4, 67, CONTAINER4, DHCP4)
    sent = [frame(flow, bytes(300)), frame(flow, bytes(300), checksum=0x1234), frame(flow, bytes(300), checksum=0)]
    assert sandbox.call(run) == sent


def test_without_btf_nothing_is_filled(sandbox: Sandbox) -> None:
    """Where the kernel cannot be asked whether a sum is partial, packets stay as they are."""
    web, payload = container(sandbox), os.urandom(300)
    sandbox.run("mount", "-t", "tmpfs", "none", "/sys/kernel/btf")
    sandbox.call(hook, AttachMode.AUTO)
    assert watch(sandbox, web, CONTAINER4, DHCP4, payload) == Seen(Verdict.PARTIAL, True, payload)
    assert sandbox.call(filled) == 0
