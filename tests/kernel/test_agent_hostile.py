"""Whoever speaks to the agent as nobody should: it costs him his connection, and nobody else anything."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from control.agent.agent import MAX_CALLS
from control.protocol.client import AgentClient
from control.protocol.transport import receive_answer
from control.protocol.wire import MAX_BODY, VERSION, Answer, CniCall, Pong, encode_call
from support import plan
from support.netns import Sandbox
from support.world import World, publish

SOCKET = "/run/dataplane/agent.sock"
PATIENCE = 3.0
"""Seconds that the good client waits: less than the agent gives a peer that is slow."""
MORE = 10 << 20
"""Bytes of memory that the agent may have more afterwards: it may have 64 threads by then. Half of what keeping the
frames of all ``ROUNDS`` would cost."""
ROUNDS = 11


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with one network, a container on it, and an agent."""
    made = World(sandbox, tmp_path)
    made.network(plan.FRONT)
    made.start_agent()
    made.attach("web", plan.FRONT, publish("8080:80"))
    return made


def connect() -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(SOCKET)
    made.settimeout(20)
    return made


def rest(peer: socket.socket) -> bytes:
    """Everything that the agent still has to say to a peer, until it hangs up."""
    heard = b""
    try:
        while chunk := peer.recv(1 << 16):
            heard += chunk
    except ConnectionResetError:
        pass
    return heard


def say(peer: socket.socket, words: bytes) -> bool:
    """Send something; whether the agent had not hung up before."""
    try:
        peer.sendall(words)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def tell(frame: bytes) -> bytes:
    """Send a frame and no more; the answer."""
    with connect() as peer:
        if say(peer, frame):
            with suppress(OSError):  # hung up in between
                peer.shutdown(socket.SHUT_WR)
        return rest(peer)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@contextmanager
def nobody_hurt() -> Iterator[None]:
    """A good client is served all the while, and the agent has no more descriptors and memory afterwards."""
    client = AgentClient(SOCKET, answer_timeout=PATIENCE)
    pid = client.ping().pid
    had, done = (descriptors(pid), resident(pid)), Event()
    failures: list[Exception] = []
    served: list[Pong] = []

    def be_good() -> None:
        while not done.is_set() or not served:
            try:
                served.append(client.ping())
            except Exception as error:  # noqa: BLE001 - it is what this test is about
                failures.append(error)
                return

    thread = Thread(target=be_good)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert failures == []
    assert {one.pid for one in served} == {pid}
    end = time.monotonic() + 10
    while descriptors(pid) > had[0] and time.monotonic() < end:
        time.sleep(0.01)
    assert descriptors(pid) <= had[0]
    assert resident(pid) - had[1] < MORE


def _frames() -> None:
    nothing = [b"", b"\0", b"\0\0\0", b"\0\0\0\0"]
    oversized = [b"\xff\xff\xff\xff", (MAX_BODY + 1).to_bytes(4, "big") + b"{" * 8192]
    truncated = [(1 << 20).to_bytes(4, "big") + b"{", framed(b'{"v":%d' % VERSION + b"x" * 100)[:-50]]
    call = b'{"v":%d,"call":' % VERSION
    bodies = [
        b"[]", b"null", b"1e999", b"NaN", b'"x"', b"\xff" * 64, b"{" * 64,
        b'"' + b"x" * 1_000_000 + b'"', b'{"v":"' + b"x" * 1_000_000,
        b'{"v":0,"call":"ping"}', b'{"v":true,"call":"ping"}', call + b'"reboot"}', call + b"7}",
        call + b'"cni","environment":[],"stdin":"","netns_error":"","plugin":"x"}',
        call + b'"cni","environment":{"LD_PRELOAD":"x"},"stdin":"","netns_error":"","plugin":"x"}',
        call + b'"cni","environment":{},"stdin":"\\ud800","netns_error":"","plugin":"x"}',
    ]  # fmt: skip
    frames = [*nothing, *oversized, *truncated, *map(framed, bodies)]
    # Each thread that ever read one of these keeps the stack that it took: up to a megabyte with Python 3.12.
    deep = [framed(b"[" * 1_000_000), framed(b'{"v":' * 200_000)]
    for frame in (*frames, *deep):  # once before: what the agent imports and keeps once is no leak
        assert tell(frame) == b"", frame[:64]
    with nobody_hurt():
        assert ROUNDS * sum(map(len, frames)) > 2 * MORE
        for _ in range(ROUNDS):
            for frame in frames:
                tell(frame)


def test_frames_that_are_none(world: World) -> None:
    """Oversized, truncated, empty, no JSON, too deep, of another version, of wrong types: no answer, and no trace."""
    world.host.call(_frames)
    world.check("web")


def _silent() -> None:
    with nobody_hurt(), ExitStack() as stack:
        peers = [stack.enter_context(connect()) for _ in range(2 * MAX_CALLS)]
        for peer in peers[::2]:
            # A machine that is slow to connect them all may say this after the first ones' time is over.
            say(peer, b"\0\0")
        assert {rest(peer) for peer in peers} == {b""}


def test_peers_that_say_nothing(world: World) -> None:
    """Twice as many as are served at once, silent or stopping within the header: they are cut, others served."""
    world.host.call(_silent)
    world.check("web")


def _slow() -> None:
    frame = framed(b" " * 1000 + b'{"v":%d,"call":"ping"}' % VERSION)
    with nobody_hurt(), ExitStack() as stack:
        peers = [stack.enter_context(connect()) for _ in range(MAX_CALLS + 8)]
        began = time.monotonic()
        for byte in frame:
            for peer in list(peers):
                if not say(peer, bytes([byte])):
                    peers.remove(peer)
            if not peers:
                return
            assert time.monotonic() - began < 30, "a byte a second holds a connection for as long as it likes"
            time.sleep(0.5)


def test_peers_that_are_slow(world: World) -> None:
    """A byte now and then does not keep a connection beyond its time, however often one comes."""
    world.host.call(_slow)
    world.check("web")


def _descriptors_attached() -> None:
    environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "evil", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/web"}
    conf = json.dumps({"cniVersion": "1.0.0", "name": "front", "type": "dataplane", "prevResult": {}})
    call = encode_call(CniCall(environment | {"CNI_PATH": "/nowhere"}, conf))
    ping = framed(b'{"v":%d,"call":"ping"}' % VERSION)

    def send(frame: bytes, *attached: int) -> bytes:
        with connect() as peer:
            socket.send_fds(peer, [frame[:1]], list(attached))
            # Once more, where nobody expects any.
            socket.send_fds(peer, [frame[1:]], list(attached))
            return rest(peer)

    read, write = os.pipe()
    with open("/dev/null", "rb") as null, open("/proc/self/ns/mnt", "rb") as other, socket.socket() as tcp:  # noqa: PTH123 - only their descriptors are wanted
        kinds = [null.fileno(), other.fileno(), tcp.fileno(), read, write]
        refused = [send(call, kind) for kind in kinds]
        with nobody_hurt():
            for _ in range(50):
                refused += [send(call, kind) for kind in kinds[:2]]
                assert b"pong" in send(ping, *[null.fileno()] * 250)
                assert send(framed(b"no JSON"), null.fileno()) == b""
    for frame in refused:
        with socket.socketpair()[0] as _, _answered(frame) as peer:
            answer = receive_answer(peer)
        assert isinstance(answer, Answer)
        assert answer.exit_code == 1, "no network namespace, no interface"
        assert json.loads(answer.stdout)["code"] != 999


@contextmanager
def _answered(frame: bytes) -> Iterator[socket.socket]:
    writer, reader = socket.socketpair()
    with writer, reader:
        writer.sendall(frame)
        yield reader


def test_descriptors_that_are_no_namespace(world: World) -> None:
    """Of the wrong type, too many, or where none belong: an error for the caller, and none stays open."""
    world.host.call(_descriptors_attached)
    world.check("web")


def _as_nobody(work: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            work()
        except BaseException:  # noqa: BLE001 - it is a fork of the tests
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _refused_by_mode() -> None:
    with pytest.raises(PermissionError):
        connect()


def _refused_by_uid() -> None:
    ping = framed(b'{"v":%d,"call":"ping"}' % VERSION)
    assert {tell(ping) for _ in range(200)} == {b""}


def _others() -> None:
    with nobody_hurt():
        _as_nobody(_refused_by_mode)
        for path in (Path(SOCKET), Path(SOCKET).parent):
            path.chmod(0o777)
        _as_nobody(_refused_by_uid)


def test_callers_who_are_not_root(world: World) -> None:
    """The file's mode keeps them out; where somebody changed that, they get no answer all the same."""
    world.host.call(_others)
