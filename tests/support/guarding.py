"""The guard of a container's port: its program run on frames, and what it says about each.

with GuardBench() as bench:
    bench.judge([frame])                                    (None,) or (GuardReason.ARP,)
    bench.judge([frame], level=GuardLevel.MAC, mac="")

guard(host, "vethweb", AttachMode.TCX)                      on a device, for real traffic
drops(host)                                                 {GuardReason.ARP: 1}
say(host, [frame]).by_neighbour                             {0}
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from dataplane import abi
from dataplane.abi import Event, GuardReason, Offender, Port
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.types import AttachMode, GuardLevel, IfIndex, Program
from support.crafted import ALL_NODES, DB_MAC, ICMP6, WEB_MAC, Extension, arp, ethernet, ipv6, link_local
from support.netns import Namespace, Sandbox, wait_until
from support.plan import FRONT
from support.programs import CONTINUE, DEVICE, DROP

WEB4, WEB6 = str(FRONT.host4(2)), str(FRONT.host6(2))
"""The addresses of the container that is guarded."""
DB4, DB6 = str(FRONT.host4(3)), str(FRONT.host6(3))
"""Those of its neighbour."""
HOST4, HOST6 = str(FRONT.gateway4), str(FRONT.gateway6)
NOBODY4, NOBODY6 = "0.0.0.0", "::"
LL, DB_LL, ALL6 = link_local(WEB_MAC), link_local(DB_MAC), "ff02::1"
NETWORK = 7
OWN = (WEB4, WEB6)
PORT = "vethweb"
"""Its host veth, in real traffic."""


def said(source: str, message: bytes, *extensions: Extension) -> bytes:
    """A packet to all nodes."""
    return ethernet(ipv6(source, ALL6, ICMP6, message, extensions), destination=ALL_NODES)


class GuardBench:
    """A sandbox with the programs loaded once; its lo plays the host veth."""

    def __init__(self) -> None:
        self._sandbox = Sandbox()
        self._programs = KernelPrograms()

    def __enter__(self) -> Self:
        self._sandbox.call(self._programs.load)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sandbox.stop()

    def judge(
        self,
        frames: Iterable[bytes],
        *,
        level: GuardLevel | None = GuardLevel.FULL,
        mac: str = WEB_MAC,
        own: Sequence[str] = OWN,
    ) -> tuple[GuardReason | None, ...]:
        """Why each frame is dropped; None where it goes on. ``level`` None is a port without an entry; without ``mac``
        any is right. Each drop is counted once, told once and remembered, and no frame is changed."""
        return self._sandbox.call(self._judge, list(frames), level, mac, own)[0]

    def told(self, frame: bytes) -> tuple[Event, Offender]:
        """What is told of a frame that is dropped, and what is remembered of it."""
        _, events, offenders = self._sandbox.call(self._judge, [frame], GuardLevel.FULL, WEB_MAC, OWN)
        (event,), (offender,) = events, offenders
        return event, offender

    # Below: inside the sandbox.

    def _judge(
        self, frames: list[bytes], level: GuardLevel | None, mac: str, own: Sequence[str]
    ) -> tuple[tuple[GuardReason | None, ...], tuple[Event, ...], tuple[Offender, ...]]:
        for name in ("ports", "port_addresses", "guard_drops", "guard_offenders"):
            for key, _ in list(self._programs.entries(name)):
                self._programs.drop(name, key)
        allow(self._programs, DEVICE, level, mac, own)
        reasons: list[GuardReason | None] = []
        events: list[Event] = []
        pin = self._programs.directory / Program.GUARD.function
        with syscall.obj_get(pin) as program, self._programs.events() as ring:
            while ring.poll():
                pass
            for one in frames:
                run = syscall.run_program(program.number, one, ifindex=DEVICE)
                came = ring.poll()
                assert run.packet == one
                assert run.verdict == (DROP if came else CONTINUE)
                events += came
                reasons += [event.guard for event in came] or [None]
        assert len(reasons) == len(frames)
        assert counted(self._programs, DEVICE) == Counter(one for one in reasons if one)
        offenders = dict(self._programs.entries("guard_offenders"))
        last = {abi.GUARD_DROP_KEY.pack(DEVICE, event.guard or 0): event.time_ns for event in events}
        assert {key: Offender.unpack(value).time_ns for key, value in offenders.items()} == last
        return tuple(reasons), tuple(events), tuple(map(Offender.unpack, offenders.values()))


def allow(
    programs: KernelPrograms, device: IfIndex, level: GuardLevel | None, mac: str, own: Sequence[str] = OWN
) -> None:
    """Inside a sandbox: write the entries of a port."""
    if level is not None:
        programs.put("ports", abi.U32.pack(device), Port(NETWORK, level, mac).pack())
    for address in own:
        programs.put("port_addresses", abi.port_address_key(device, ip_address(address)), abi.U32.pack(1))


def counted(programs: KernelPrograms, device: IfIndex) -> dict[GuardReason, int]:
    """Inside a sandbox: what was dropped of a port."""
    found = {}
    for key, value in programs.entries("guard_drops"):
        port, reason = abi.GUARD_DROP_KEY.unpack(key)
        if port == device:
            found[GuardReason(reason)] = abi.U64.unpack(value)[0]
    return found


def guard(host: Sandbox, device: str, mode: AttachMode, mac: str = WEB_MAC) -> None:
    """Guard a container's host veth, fully."""

    def attach() -> None:
        programs = KernelPrograms(mode)
        programs.load()
        index = IfIndex(socket.if_nametoindex(device))
        allow(programs, index, GuardLevel.FULL, mac)
        programs.attach(Program.GUARD, index)

    host.call(attach)


def unguard(host: Sandbox, device: str) -> None:
    """Take the program off again."""
    host.call(lambda: KernelPrograms().detach(Program.GUARD, IfIndex(socket.if_nametoindex(device))))


def drops(host: Sandbox, device: str = PORT) -> dict[GuardReason, int]:
    """What was dropped of a device so far."""
    return host.call(lambda: counted(KernelPrograms(), IfIndex(socket.if_nametoindex(device))))


def events(host: Sandbox) -> list[Event]:
    """What was told since it was last asked for."""

    def read() -> list[Event]:
        found: list[Event] = []
        with KernelPrograms().events() as ring:
            while came := ring.poll():
                found += came
        return found

    return host.call(read)


# -- real traffic -----------------------------------------------------------------------------------------------------


def plugged(host: Sandbox) -> tuple[Namespace, Namespace]:
    """A bridge of both families with two containers; ``web``'s interface is down and has no address yet."""
    host.bridge("br-front", f"{HOST4}/24 {HOST6}/64")
    for family in ("ip", "ip6", "arp"):
        switch = f"net/bridge/bridge-nf-call-{family}tables"
        if host.exists(f"/proc/sys/{switch}"):
            host.sysctl(switch, 0)  # else the bridge drops malformed packets by itself, and cuts off padding
    web, db = host.namespace("web"), host.namespace("db")
    host.ip("link", "add", PORT, "type", "veth", "peer", "name", "eth0", "netns", "web")
    web.ip("link", "set", "eth0", "address", WEB_MAC)
    host.ip("link", "set", PORT, "master", "br-front")
    host.ip("link", "set", PORT, "up")
    host.ip("link", "add", "vethdb", "type", "veth", "peer", "name", "eth0", "netns", "db")
    db.ip("link", "set", "eth0", "address", DB_MAC)
    host.ip("link", "set", "vethdb", "master", "br-front")
    host.ip("link", "set", "vethdb", "up")
    configure(db, DB4, DB6)
    return web, db


def configure(place: Namespace, address4: str, address6: str, *, detect: bool = False) -> None:
    """Give eth0 its addresses and set it up; with duplicate address detection, wait until that is done."""
    if not detect:
        place.sysctl("net/ipv6/conf/eth0/accept_dad", 0)
    place.ip("address", "add", f"{address4}/24", "dev", "eth0")
    place.ip("address", "add", f"{address6}/64", "dev", "eth0")
    place.ip("link", "set", "eth0", "up")
    wait_until(
        lambda: (
            place.ip("-6", "address", "show", "dev", "eth0").count("inet6") == 2
            and "tentative" not in place.ip("-6", "address", "show", "dev", "eth0")
        ),
        timeout=20,
        what=f"addresses of {place.name} that are no longer tentative",
    )


@dataclass(frozen=True, slots=True)
class Heard:
    """Which of the frames that a container sent were heard, by their places in what was sent."""

    by_neighbour: frozenset[int]
    by_host: frozenset[int]


def say(host: Sandbox, frames: Sequence[bytes]) -> Heard:
    """Send frames from ``web``'s eth0; who hears which, ``db`` and the host's br-front, whatever is on the way."""
    return host.call(_say, list(frames))


def socket_in(namespace: str, *kind: int) -> socket.socket:
    """Inside a sandbox: a socket in one of its further network namespaces, or in the host's own where it is empty."""
    with open("/proc/self/ns/net") as here:  # noqa: PTH123 - a descriptor is what is needed
        if namespace:
            with open(f"/run/netns/{namespace}") as there:  # noqa: PTH123
                _setns(there.fileno())
        try:
            return socket.socket(*kind)
        finally:
            _setns(here.fileno())


_FENCE = 0xFFFF
_PATIENCE = 10.0


def _say(frames: list[bytes]) -> Heard:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one queue from end to end: what is sent last comes last
    numbered = [_numbered(number, one) for number, one in enumerate(frames)]
    fence = _numbered(_FENCE, ethernet(arp(1, WEB_MAC, WEB4, WEB4)))
    kind = (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    with socket_in("web", *kind[:2]) as out, socket_in("db", *kind) as neighbour, socket_in("", *kind) as own:
        out.bind(("eth0", 0))
        for one, device in ((neighbour, "eth0"), (own, "br-front")):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            one.bind((device, 0x0003))
            one.settimeout(_PATIENCE)
        for frame in (*numbered, fence):
            out.send(frame)
        return Heard(_numbers(neighbour), _numbers(own))


def _numbered(number: int, frame: bytes) -> bytes:
    return frame.ljust(60, b"\0") + b"\xc0\xde" + number.to_bytes(2, "big")


def _numbers(sniffer: socket.socket) -> frozenset[int]:
    """What comes until the last, which is not counted."""
    found: set[int] = set()
    while True:
        frame, sender = sniffer.recvfrom(65536)
        if sender[2] == socket.PACKET_OUTGOING or frame[-4:-2] != b"\xc0\xde":
            continue
        number = int.from_bytes(frame[-2:], "big")
        if number == _FENCE:
            return frozenset(found)
        found.add(number)


def _setns(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), "setns")
