"""Netlink, as little as a CNI call needs: one request, the bodies of its answers.

    question(socket.NETLINK_ROUTE, GETLINK, body)        -> body of the answer
    exchange(socket.NETLINK_ROUTE, GETADDR, DUMP, body)  -> [body, body ...]

Why no library: importing pyroute2 takes as long as all the rest of an ADD without an agent, and these are single
messages. What is refused, or answered by none in time, is an ``OSError`` with its errno; where the kernel says more
than that (extended acknowledgement, since 4.12), its words follow in brackets.

Each thread keeps a socket for each family, until the thread ends: who closes one of NETLINK_NETFILTER waits until the
kernel has freed what transactions of nftables removed, an RCU grace period (8-16 ms).

Be aware: a socket is of the network namespace that its thread was in when it first asked. A thread that goes to another
one must be new to this module, as those of ``dataplane.namespaces`` are. A forked child starts without sockets.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence

DUMP = 0x300
"""NLM_F_DUMP: all objects, an answer each."""
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
"""NLM_F_*: what to do about an object that is there, or is not."""
NESTED = 0x8000
"""NLA_F_NESTED, in the type of an attribute."""

ACK = 0x4
"""NLM_F_ACK: an answer also where nothing is refused."""

Message = tuple[int, int, bytes]
"""Type, flags (NLM_F_*), and what follows the header."""

_REQUEST, _INTERRUPTED = 0x1, 0x10
_CAPPED, _EXTENDED = 0x100, 0x200  # NLM_F_* of an acknowledgement: no copy of the request; attributes follow
_ERROR, _DONE = 2, 3
_LAST = frozenset({_ERROR, _DONE})  # one of them ends every answer
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12  # the last: dumps are filtered as their requests say
_WORDS = 1  # NLMSGERR_ATTR_MSG
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_TYPE_MASK = 0x3FFF
_PADDING = (b"", bytes(3), bytes(2), bytes(1))  # by the length modulo 4
_ERRNO = struct.Struct("=i")
_TIMEVAL = struct.Struct("@ll")

_TIMEOUT = 5.0  # seconds; the kernel answers at once, or not at all
_SO_SNDBUFFORCE = 32
_SENT_AS_IT_IS = 1 << 16  # bytes, less than what any socket is allowed to send at once
_BUFFER = 1 << 16  # bytes; the kernel fills no more than 32 KiB at a time
_PAUSE = 0.001  # seconds before an interrupted dump is asked for again: who changes things may need this processor


def exchange(
    family: int, kind: int, flags: int, body: bytes, wanted: Callable[[bytes], bool] | None = None
) -> list[bytes]:
    """One request of a netlink family; the bodies of the answers, of those that are ``wanted``. Raises ``OSError``.

    A dump that a change interrupted may lack objects: it is asked for again, for a few seconds.
    """
    end = time.monotonic() + _TIMEOUT
    while True:
        answers, whole = _ask(family, kind, flags, body, wanted)
        if whole:
            return answers
        if time.monotonic() > end:
            raise OSError(errno.EAGAIN, f"it changed during each reading, for {_TIMEOUT:g} s")
        time.sleep(_PAUSE)


def question(family: int, kind: int, body: bytes) -> bytes:
    """A request that a single message answers, as one for a single object is; the answer's body. Raises ``OSError``."""
    netlink = _sockets.open.pop(family, None) or _opened(family)
    # Without an acknowledgement, which would be a second message: a refusal comes also where none is asked for.
    netlink.send((kind, 0, body))
    while True:
        for message, marks, content in netlink.received():
            _sockets.open[family] = netlink
            if message == _ERROR:
                _heed(message, marks, content)
            return content


def exchange_all(family: int, requests: Sequence[Message]) -> None:
    """Requests that the kernel carries out together or not at all, as nfnetlink's batches are; one of them asks for an
    ``ACK``. Raises ``OSError``, with the first refusal."""
    netlink = _sockets.open.pop(family, None) or _opened(family)
    netlink.send(*requests)
    # Each that is refused has an answer, and what succeeded before or after a refusal may have one: all of them are
    # there by now.
    answers = [*netlink.received(), *netlink.ready()]
    _sockets.open[family] = netlink
    for answer in answers:
        _heed(*answer)


def own_port(family: int) -> int:
    """The port of this thread's socket of a family, by which notifications tell who asked for a change; 0 where it has
    none."""
    netlink = _sockets.open.get(family)
    return netlink.port if netlink else 0


def attributes(raw: bytes) -> dict[int, bytes]:
    """Attributes by their type, the last where one comes twice."""
    # Not by ``each_attribute``: a link has fifty of them, and most of what is asked is about links.
    found: dict[int, bytes] = {}
    unpack_from, header, at, last = _ATTRIBUTE.unpack_from, _ATTRIBUTE.size, 0, len(raw) - _ATTRIBUTE.size
    while at <= last:
        length, kind = unpack_from(raw, at)
        found[kind & _TYPE_MASK] = raw[at + header : at + length]
        at += (length + 3) & ~3 if length > header else header
    return found


def each_attribute(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Attributes in their order, (type, value): for those that may come twice."""
    at, end = 0, len(raw) - _ATTRIBUTE.size
    while at <= end:
        length, kind = _ATTRIBUTE.unpack_from(raw, at)
        yield kind & _TYPE_MASK, raw[at + _ATTRIBUTE.size : at + length]
        at += _aligned(max(length, _ATTRIBUTE.size))


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + _PADDING[length & 3]


def text_attribute(kind: int, value: str) -> bytes:
    """A string with its final zero."""
    return attribute(kind, value.encode() + b"\0")


def text(raw: bytes) -> str:
    """The string of such an attribute."""
    return raw.rstrip(b"\0").decode(errors="replace")


class _Socket:
    """A socket of one family, for one request after the other."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._sequence = 0
        opened.bind((0, 0))
        self.port: int = opened.getsockname()[0]
        # Not Python's own time limit, which costs a poll(2) before each message.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(int(_TIMEOUT), 0))
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            opened.setsockopt(_SOL_NETLINK, option, 1)

    def __del__(self) -> None:
        # Nobody else closes it when a thread ends.
        self._socket.close()

    def send(self, *requests: Message) -> None:
        """Send requests in one go, under one number."""
        self._sequence = number = (self._sequence + 1) & 0xFFFFFFFF
        raw = b"".join(
            _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, number, 0) + body + bytes(-len(body) % 4)
            for kind, flags, body in requests
        )
        if len(raw) > _SENT_AS_IT_IS:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, len(raw) + _BUFFER)
        self._socket.send(raw)

    def received(self) -> Iterator[Message]:
        """The next messages of the answer."""
        try:
            yield from self._messages(self._socket.recv(_BUFFER))
        except BlockingIOError:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None

    def ready(self) -> Iterator[Message]:
        """What there is of the answer besides, without waiting."""
        with contextlib.suppress(BlockingIOError):
            while True:
                yield from self._messages(self._socket.recv(_BUFFER, socket.MSG_DONTWAIT))

    def _messages(self, raw: bytes) -> Iterator[Message]:
        at = 0
        while len(raw) - at >= _HEADER.size:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(raw, at)
            if sequence == self._sequence:
                yield kind, flags, raw[at + _HEADER.size : at + length]
            at += _aligned(max(length, _HEADER.size))


class _Sockets(threading.local):
    """The sockets of a thread, by family."""

    def __init__(self) -> None:
        self.open: dict[int, _Socket] = {}


_sockets = _Sockets()


def _forget() -> None:
    """Start without sockets, in the child of a fork: it must not read the answers to its parent."""
    global _sockets  # noqa: PLW0603 - one for the process, replaced as a whole
    _sockets = _Sockets()


os.register_at_fork(after_in_child=_forget)


def _opened(family: int) -> _Socket:
    return _Socket(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family))


def _ask(
    family: int, kind: int, flags: int, body: bytes, wanted: Callable[[bytes], bool] | None
) -> tuple[list[bytes], bool]:
    """The answers, and whether they are all of one moment."""
    # Away while it is in use: one whose answer was not read to its end is not used again.
    netlink = _sockets.open.pop(family, None) or _opened(family)
    netlink.send((kind, flags | (0 if flags & DUMP == DUMP else ACK), body))
    answers: list[bytes] = []
    whole = True
    while True:
        for message, marks, content in netlink.received():
            whole = whole and not marks & _INTERRUPTED
            if message not in _LAST:
                if wanted is None or wanted(content):
                    answers.append(content)
                continue
            _sockets.open[family] = netlink
            _heed(message, marks, content)
            return answers, whole


def _heed(message: int, marks: int, content: bytes) -> None:
    """Raise what such a message says: its errno is 0 as an acknowledgement, and at the usual end of a dump."""
    (code,) = _ERRNO.unpack_from(content)
    if code:
        raise OSError(-code, os.strerror(-code) + _said(message, marks, content))


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


def _aligned(length: int) -> int:
    return (length + 3) & ~3
