"""Calls as they come in: whole ones are delivered, and nobody is waited for."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from control.agent.reception import MAX_PEERS, Reception
from control.protocol.wire import MAX_BODY
from support import needs


class Host:
    """A reception and its loop; what it delivered is kept."""

    def __init__(self) -> None:
        self.delivered: list[tuple[socket.socket, bytes, int | None]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind("")  # an abstract address of the kernel's choice, which any user may connect to
        self._listener.listen(256)
        self._selector = selectors.DefaultSelector()
        self.reception = Reception(self._listener, self._selector, lambda *call: self.delivered.append(call))
        self._open: list[socket.socket] = []

    def peer(self) -> socket.socket:
        """A new caller, connected."""
        made = socket.socket(socket.AF_UNIX)
        self._open.append(made)
        made.connect(self._listener.getsockname())
        return made

    def turn(self) -> None:
        """Let the loop work until there is nothing to do."""
        while ready := self._selector.select(0):
            for key, _ in ready:
                key.data()
        self.reception.expire()

    def close(self) -> None:
        self.reception.close()
        for connection, _, netns in self.delivered:
            connection.close()
            if netns is not None:
                os.close(netns)
        self._selector.close()
        for one in (self._listener, *self._open):
            one.close()


@pytest.fixture
def host() -> Iterator[Host]:
    """Where callers come."""
    needs.root()
    made = Host()
    yield made
    made.close()


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def hung_up(peer: socket.socket) -> bool:
    """Whether the other end is closed."""
    peer.settimeout(5)
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("piece", [1, 3, 4, 5, 1000])
def test_a_frame_comes_in_pieces(host: Host, piece: int) -> None:
    """However it is cut, the body is delivered once, whole, on a connection that can be answered on."""
    body = bytes(range(256)) * 3
    frame, peer = framed(body), host.peer()
    for start in range(0, len(frame), piece):
        assert host.delivered == []
        peer.sendall(frame[start : start + piece])
        host.turn()
    ((connection, heard, netns),) = host.delivered
    assert (heard, netns) == (body, None)
    assert connection.gettimeout()
    connection.sendall(b"answer")
    assert peer.recv(100) == b"answer"


def test_a_large_frame_is_read_in_turns(host: Host) -> None:
    """The largest that is allowed arrives, and a small one that comes meanwhile is not behind it."""
    body, large, small = b"x" * MAX_BODY, host.peer(), host.peer()
    large.setblocking(False)
    rest = memoryview(framed(body))
    small.sendall(framed(b"{}"))
    while rest:
        try:
            rest = rest[large.send(rest) :]
        except BlockingIOError:
            host.turn()
    host.turn()
    assert [heard for _, heard, _ in host.delivered] == [b"{}", body]


def test_a_descriptor_comes_beside_the_first_bytes(host: Host) -> None:
    """One is taken, and not inherited by children; more of them, and later ones, are closed."""
    read, write = os.pipe()
    peer = host.peer()
    socket.send_fds(peer, [framed(b"{}")[:3]], [read] * 20)
    socket.send_fds(peer, [framed(b"{}")[3:]], [read] * 20)
    before = {int(one.name) for one in Path("/proc/self/fd").iterdir()}
    host.turn()
    ((connection, _, netns),) = host.delivered
    assert netns is not None
    assert os.fstat(netns).st_ino == os.fstat(read).st_ino
    assert not os.get_inheritable(netns)
    after = {int(one.name) for one in Path("/proc/self/fd").iterdir()}
    assert len(after - before - {connection.fileno(), netns}) <= 1, "the listing itself has one"
    os.close(read)
    os.close(write)


def test_what_is_no_frame_ends_the_connection(host: Host) -> None:
    """Too large by its header, or ended within it or the body; a descriptor that came with it is closed."""
    read, write = os.pipe()
    for said in (b"\xff\xff\xff\xff", (MAX_BODY + 1).to_bytes(4, "big"), b"", b"\0", framed(b"{}")[:-1]):
        peer = host.peer()
        if said:
            socket.send_fds(peer, [said], [read])
        peer.shutdown(socket.SHUT_WR)
        host.turn()
        assert hung_up(peer)
    assert host.delivered == []
    os.close(read)
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")  # nobody has the other end any more
    os.close(write)


def test_silent_peers_are_replaced(host: Host) -> None:
    """However many say nothing, the next one is heard, and those that were there longest make room."""
    silent = [host.peer() for _ in range(MAX_PEERS)]
    host.turn()
    late = host.peer()
    late.sendall(framed(b"{}"))
    host.turn()
    assert [heard for _, heard, _ in host.delivered] == [b"{}"]
    assert hung_up(silent[0])
    silent[-1].sendall(framed(b"[]"))
    host.turn()
    assert [heard for _, heard, _ in host.delivered] == [b"{}", b"[]"]


def test_a_peer_that_made_room_speaks_too_late(host: Host) -> None:
    """What it says in the very turn in which it is closed is nobody's, and ends nothing but its connection."""
    silent = [host.peer() for _ in range(MAX_PEERS)]
    host.turn()
    late = host.peer()
    late.sendall(framed(b"{}"))
    silent[0].sendall(b"\0\0")  # after the newcomer: the loop is told of both at once, in this order
    host.turn()
    assert hung_up(silent[0])
    assert [heard for _, heard, _ in host.delivered] == [b"{}"]


def test_slow_peers_are_closed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the whole frame, however often a byte comes; without peers there is nothing to wait for."""
    assert host.reception.patience() == inf
    clock = [100.0]
    monkeypatch.setattr("control.agent.reception.time.monotonic", lambda: clock[0])
    peer = host.peer()
    for byte in framed(b"1234")[:6]:
        host.turn()
        clock[0] += 0.9
        peer.sendall(bytes([byte]))
        assert host.reception.patience() < 5
    host.turn()
    assert hung_up(peer)
    assert host.delivered == []
    assert host.reception.patience() == inf


def test_only_root_is_heard(host: Host) -> None:
    """A caller that is not root is hung up on, before a byte of it is read."""
    os.seteuid(65534)  # SO_PEERCRED has the effective one
    try:
        theirs = host.peer()
    finally:
        os.seteuid(0)
    ours = host.peer()
    theirs.sendall(framed(b"{}"))
    ours.sendall(framed(b"[]"))
    host.turn()
    assert hung_up(theirs)
    assert [heard for _, heard, _ in host.delivered] == [b"[]"]
