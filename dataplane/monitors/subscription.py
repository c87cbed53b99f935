"""A subscription to groups of netlink notifications: datagrams as they come, and whether some were lost.

    notifications = Subscription("route", socket.NETLINK_ROUTE, groups, BUFFER)
    datagrams, lost = notifications.receive()

Be aware: it is of the network namespace of the thread that opens it.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator

from dataplane.errors import KernelError
from dataplane.netlink import attributes

BUFFER = 8 << 20
"""Bytes of notifications that the kernel keeps for a reader who is busy; it takes no memory before."""

_SO_RCVBUFFORCE = 33  # more than net.core.rmem_max: for CAP_NET_ADMIN
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_NUMBER = struct.Struct("=i")
_KERNEL = 0  # the port that it sends from; anybody may send to ours

_DATAGRAM = 1 << 16  # bytes; the kernel's notifications are a fraction of it
_AT_ONCE = 64  # datagrams a call: whoever else waits in the same loop shall have a turn during somebody's thousands
_ALL = 1 << 16  # datagrams: more than any buffer holds


class MalformedError(ValueError):
    """A message that cannot be what the kernel's headers say."""


class Subscription:
    """A socket that listens to groups of one netlink family. Raises ``KernelError``."""

    def __init__(self, source: str, family: int, groups: Iterable[int], buffer: int) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, family
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            self._socket.close()
            raise KernelError.from_errno("subscribe to", f"notifications of {source}", error.errno or 0) from error

    def fileno(self) -> int:
        """Readable (epoll, select) while there are notifications."""
        return self._socket.fileno()

    def receive(self) -> tuple[list[bytes], bool]:
        """Some of the datagrams that are there, oldest first, and whether any were lost behind them."""
        datagrams: list[bytes] = []
        lost = False
        turns = _AT_ONCE
        while turns:
            turns -= 1
            try:
                raw, _, flags, sender = self._socket.recvmsg(_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError.from_errno("read", "notifications of the kernel", error.errno or 0) from error
                # It keeps nothing new for us until all that it kept before is read: the gap is behind that.
                lost, turns = True, _ALL
                continue
            if sender[0] == _KERNEL:
                datagrams.append(raw)
                lost = lost or bool(flags & socket.MSG_TRUNC)
        return datagrams, lost

    def close(self) -> None:
        """Listen no more; a second time does nothing."""
        self._socket.close()


def messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Its messages: type, port of the socket that asked for what is told, and body. Raises ``MalformedError`` where
    their lengths make no sense."""
    at = 0
    while at < len(datagram):
        if len(datagram) - at < _HEADER.size:
            raise MalformedError(f"{len(datagram) - at} bytes are no message")
        length, kind, _, _, port = _HEADER.unpack_from(datagram, at)
        if not _HEADER.size <= length <= len(datagram) - at:
            raise MalformedError(f"a message of {length} bytes where there are {len(datagram) - at}")
        yield kind, port, datagram[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def split(layout: struct.Struct, body: bytes) -> tuple[tuple[int, ...], dict[int, bytes]]:
    """The fixed part of a message's body, and the attributes behind it. Raises ``MalformedError``."""
    if len(body) < layout.size:
        raise MalformedError(f"{len(body)} bytes where {layout.size} are the least")
    return layout.unpack_from(body), attributes(body[layout.size :])


def required(found: dict[int, bytes], kind: int) -> bytes:
    """The value of an attribute that is always there. Raises ``MalformedError``."""
    if kind not in found:
        raise MalformedError(f"no attribute {kind}")
    return found[kind]


def number(raw: bytes) -> int:
    """A signed number of 32 bits in the host's order. Raises ``MalformedError``."""
    if len(raw) != _NUMBER.size:
        raise MalformedError(f"{len(raw)} bytes are no number of 32 bits")
    value: int = _NUMBER.unpack(raw)[0]
    return value
