"""Netlink, as little as a CNI call needs: one request, the bodies of its answers.

    exchange(socket.NETLINK_ROUTE, GETLINK, 0, body)     -> [body of the answer]
    exchange(socket.NETLINK_ROUTE, GETADDR, DUMP, body)  -> [body, body ...]

Why not pyroute2, which ``dataplane.conntrack`` uses: importing it takes as long as all the rest of an ADD without an
agent, and these are single messages. What is refused, or answered by none in time, is an ``OSError`` with its errno;
where the kernel says more than that (extended acknowledgement, since 4.12), its words follow in brackets.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator

DUMP = 0x300
"""NLM_F_DUMP: all objects, an answer each."""
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
"""NLM_F_*: what to do about an object that is there, or is not."""
NESTED = 0x8000
"""NLA_F_NESTED, in the type of an attribute."""

_REQUEST, _ACK, _INTERRUPTED = 0x1, 0x4, 0x10
_CAPPED, _EXTENDED = 0x100, 0x200  # NLM_F_* of an acknowledgement: no copy of the request; attributes follow
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_WORDS = 1  # NLMSGERR_ATTR_MSG
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_TYPE_MASK = 0x3FFF
_ERRNO = struct.Struct("=i")

_TIMEOUT = 5.0  # seconds; the kernel answers at once, or not at all
_BUFFER = 1 << 16  # bytes; the kernel fills no more than 32 KiB at a time
_PAUSE = 0.001  # seconds before an interrupted dump is asked for again: who changes things may need this processor


def exchange(family: int, kind: int, flags: int, body: bytes) -> list[bytes]:
    """One request of a netlink family; the bodies of the answers. Raises ``OSError``.

    A dump that a change interrupted may lack objects: it is asked for again, for a few seconds.
    """
    end = time.monotonic() + _TIMEOUT
    while True:
        answers, whole = _exchange(family, kind, flags, body)
        if whole:
            return answers
        if time.monotonic() > end:
            raise OSError(errno.EAGAIN, f"it changed during each reading, for {_TIMEOUT:g} s")
        time.sleep(_PAUSE)


def attributes(raw: bytes) -> dict[int, bytes]:
    """Attributes by their type, the last where one comes twice."""
    return dict(each_attribute(raw))


def each_attribute(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Attributes in their order, (type, value): for those that may come twice."""
    while len(raw) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(raw)
        yield kind & _TYPE_MASK, raw[_ATTRIBUTE.size : length]
        raw = raw[_aligned(max(length, _ATTRIBUTE.size)) :]


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def text_attribute(kind: int, value: str) -> bytes:
    """A string with its final zero."""
    return attribute(kind, value.encode() + b"\0")


def text(raw: bytes) -> str:
    """The string of such an attribute."""
    return raw.rstrip(b"\0").decode(errors="replace")


def _exchange(family: int, kind: int, flags: int, body: bytes) -> tuple[list[bytes], bool]:
    """The answers, and whether they are all of one moment."""
    answers: list[bytes] = []
    wanted = flags | _REQUEST | (0 if flags & DUMP == DUMP else _ACK)
    whole = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family) as netlink:
        netlink.bind((0, 0))
        netlink.settimeout(_TIMEOUT)
        for option in (_CAP_ACK, _EXT_ACK):
            netlink.setsockopt(_SOL_NETLINK, option, 1)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, wanted, 1, 0) + body)
        while True:
            for message, marks, content in _messages(_received(netlink)):
                whole = whole and not marks & _INTERRUPTED
                if message not in {_ERROR, _DONE}:
                    answers.append(content)
                    continue
                # Both carry an errno: 0 is the acknowledgement, and the usual end of a dump.
                (code,) = _ERRNO.unpack_from(content)
                if code:
                    raise OSError(-code, os.strerror(-code) + _said(message, marks, content))
                return answers, whole


def _said(message: int, marks: int, content: bytes) -> str:
    """What the kernel says about a refusal besides its errno, with brackets; empty where it says nothing."""
    if not marks & _EXTENDED:
        return ""
    start = _ERRNO.size
    if message == _ERROR:  # it carries the request's header, and all of the request unless that was left out
        length, *_ = _HEADER.unpack_from(content, start)
        start += _HEADER.size if marks & _CAPPED else _aligned(length)
    words = text(attributes(content[start:]).get(_WORDS, b""))
    return f" ({words})" if words else ""


def _received(netlink: socket.socket) -> bytes:
    try:
        return netlink.recv(_BUFFER)
    except TimeoutError:
        # Python's own has no errno, and callers tell their users the kernel's words for it.
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None


def _messages(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    while len(raw) >= _HEADER.size:
        length, kind, flags, _, _ = _HEADER.unpack_from(raw)
        yield kind, flags, raw[_HEADER.size : length]
        raw = raw[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
