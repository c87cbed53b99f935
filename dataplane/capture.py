"""Frames as a packet socket sees them, with what the kernel knows about their checksums.

    for frame in captured("br-front", seconds=10): ...

Only this door sees the state that a capture file loses (PACKET_AUXDATA): a sum that is ``partial`` is not computed yet,
and every capture shows it as wrong; one that is ``verified`` a device, or this kernel, found right.

Be aware: what a link sends is seen after its tc programs, what it receives before them. A segment that the kernel is
yet to cut (GSO), or that it joined (GRO), is seen whole. What comes faster than it is read is lost.

Source: include/uapi/linux/if_packet.h, net/packet/af_packet.c.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from dataplane.errors import LinkError
from dataplane.namespaces import inside

_ALL = 0x0003  # ETH_P_ALL
_SOL_PACKET, _AUXDATA = 263, 8
_LAYOUT = struct.Struct("=IIIHHHH")  # tpacket_auxdata: status, length, captured, mac, net, vlan, vlan protocol
_NOT_READY, _VALID = 1 << 3, 1 << 7  # TP_STATUS_CSUMNOTREADY, TP_STATUS_CSUM_VALID
_OUTGOING = 4  # PACKET_OUTGOING
_WITH_ETHERNET = frozenset({1, 772})  # ARPHRD_ETHER, ARPHRD_LOOPBACK
_LONGEST = 1 << 18
_WAIT = 0.2  # seconds until it is asked again whether to end


@dataclass(frozen=True, slots=True)
class Captured:
    """One frame."""

    frame: bytes
    ethernet: bool
    """It starts with an Ethernet header; else with the IP header."""
    partial: bool
    """CHECKSUM_PARTIAL: a device is to compute the sum."""
    verified: bool
    """CHECKSUM_UNNECESSARY, or CHECKSUM_COMPLETE and found right; only what came in is told to be."""
    outgoing: bool
    """The link sends it; else it came in by the link."""


def captured(
    name: str, seconds: float | None = None, netns: int | None = None, ended: Callable[[], bool] = lambda: False
) -> Generator[Captured, None, None]:
    """The frames of a link, as they come, for so long, or until ``ended``; of a link in another network namespace,
    where its descriptor is given. Raises ``LinkError``, ``KernelError``."""
    end = None if seconds is None else time.monotonic() + seconds
    try:
        with _opened(name) if netns is None else inside(netns, lambda: _opened(name)) as reader:
            while not ended() and (end is None or time.monotonic() < end):
                try:
                    frame, beside, _, origin = reader.recvmsg(_LONGEST, socket.CMSG_SPACE(_LAYOUT.size))
                except TimeoutError:
                    continue
                yield _captured(frame, beside, origin)
    except OSError as error:
        raise LinkError("capture from", f'link "{name}"', error.strerror or str(error), error.errno or 0) from error


def _opened(name: str) -> socket.socket:
    # Of protocol 0 until it is bound: nothing comes before its options are set.
    reader = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        reader.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        reader.settimeout(_WAIT)
        reader.bind((name, _ALL))
    except BaseException:
        reader.close()
        raise
    return reader


def _captured(frame: bytes, beside: list[tuple[int, int, bytes]], origin: tuple[str, int, int, int, bytes]) -> Captured:
    status = 0
    for level, kind, raw in beside:
        if (level, kind) == (_SOL_PACKET, _AUXDATA) and len(raw) >= _LAYOUT.size:
            status = _LAYOUT.unpack_from(raw)[0]
    _, _, direction, hardware, _ = origin
    return Captured(
        frame=frame,
        ethernet=hardware in _WITH_ETHERNET,
        partial=bool(status & _NOT_READY),
        verified=bool(status & _VALID),
        outgoing=direction == _OUTGOING,
    )
