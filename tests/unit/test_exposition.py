"""Where the metrics are read: HTTP for whoever asks as he should, and nothing for anybody else."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from control.agent.exposition import MAX_CONNECTIONS, MAX_REQUEST, Exposition, ExpositionError, listen
from control.settings import Loopback
from dataplane.errors import DataplaneError

TEXT = "# HELP x y\n" + "x" * 3_000_000 + " 1\n"  # more than a socket takes at once
ASKED = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The unix socket of the metrics."""
    return tmp_path / "metrics.sock"


@pytest.fixture
def shown(path: Path) -> Iterator[Path]:
    """Metrics that are shown there."""
    yield from _shown(path, lambda: TEXT)


def _shown(path: Path, render: Callable[[], str]) -> Iterator[Path]:
    listener = listen("unix", path)
    assert listener is not None
    exposition = Exposition(listener, render)
    yield path
    exposition.close()


def connect(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))  # blocks while the backlog is full, which with a time limit it would not
    made.settimeout(10)
    return made


def tell(path: Path, request: bytes) -> bytes:
    """What one request is answered with, until the connection ends."""
    with connect(path) as peer:
        peer.sendall(request)
        return _rest(peer)


def _rest(peer: socket.socket) -> bytes:
    answered = b""
    try:
        while chunk := peer.recv(1 << 20):
            answered += chunk
    except ConnectionResetError:
        pass
    return answered


def test_the_metrics_are_read_by_http(shown: Path) -> None:
    """GET /metrics answers all of it, with its length and Prometheus' content type; a query string is fine."""
    for target in ("/metrics", "/metrics?name[]=x"):
        head, _, body = tell(shown, f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Type: text/plain; version=0.0.4" in head
        assert f"Content-Length: {len(TEXT)}".encode() in head
        assert body == TEXT.encode()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /metrics/../etc/passwd HTTP/1.1", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"HEAD /metrics HTTP/1.1", b"405"),
        (b"GET /metrics", b"400"),
        (b"GET /metrics SPDY/3", b"400"),
        (b"\xff\xfe\x00", b"400"),
        (b"", b"400"),
    ],
)
def test_anything_else_gets_its_status(shown: Path, request_line: bytes, status: bytes) -> None:
    """Another path, another method, no HTTP."""
    assert tell(shown, request_line + b"\r\n\r\n").split(b" ")[1] == status


def test_a_request_has_a_limit(shown: Path) -> None:
    """Headers without end are answered before they end, and others are served."""
    with connect(shown) as peer:
        peer.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * MAX_REQUEST)
        assert b" 431 " in _rest(peer)
    assert b" 200 OK" in tell(shown, ASKED)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_silent_peers_keep_nobody_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connect and say nothing, or stop in the middle, whoever asks is answered; they are closed."""
    monkeypatch.setattr("control.agent.exposition.PATIENCE", 0.5)
    for shown in _shown(path, lambda: TEXT):
        with ExitStack() as stack:
            silent = [stack.enter_context(connect(shown)) for _ in range(3 * MAX_CONNECTIONS)]
            silent[-1].sendall(b"GET /met")
            assert b" 200 OK" in tell(shown, ASKED)
            before = _descriptors()
            for _ in range(20):
                assert b" 200 OK" in tell(shown, ASKED)
            assert _descriptors() <= before
            assert [_rest(one) for one in silent] == [b""] * len(silent)


def test_a_peer_that_does_not_read_holds_up_nobody(shown: Path) -> None:
    """An answer larger than a socket's buffer waits for its reader alone, and comes whole when he reads."""
    with connect(shown) as slow:
        slow.sendall(ASKED)
        assert b" 200 OK" in tell(shown, ASKED)
        assert _rest(slow).endswith(TEXT.encode())


def test_a_peer_that_hangs_up_is_forgotten(shown: Path) -> None:
    """Before, within or after its request."""
    for said in (b"", b"GET /me", ASKED):
        with connect(shown) as peer:
            peer.sendall(said)
    assert b" 200 OK" in tell(shown, ASKED)


def test_metrics_that_cannot_be_had_are_an_error(path: Path) -> None:
    """A scrape that fails is a failed scrape, with the reason, and the next one is tried."""
    causes = [DataplaneError("could not read the state: disk is gone")]

    def render() -> str:
        if causes:
            raise causes.pop()
        return "x 1\n"

    for shown in _shown(path, render):
        answer = tell(shown, ASKED)
        assert b" 503 " in answer
        assert b"disk is gone" in answer
        assert b" 200 OK" in tell(shown, ASKED)


def test_a_fault_of_ours_ends_one_scrape(path: Path) -> None:
    """Whatever is wrong with our own code, that scrape is told so, and the next one is served."""
    faults = [RuntimeError("dictionary changed size during iteration")]

    def render() -> str:
        if faults:
            raise faults.pop()
        return "x 1\n"

    for shown in _shown(path, render):
        answer = tell(shown, ASKED)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"dictionary changed size" in answer
        assert b" 200 OK" in tell(shown, ASKED)


def test_the_socket_is_roots_alone_and_goes_with_us(path: Path) -> None:
    """Mode 0600 whatever the umask, a leftover is replaced, and the file is gone afterwards."""
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(str(path))
    former = os.umask(0)
    try:
        for shown in _shown(path, lambda: "x 1\n"):
            assert shown.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(former)
    assert not path.exists()


def test_a_loopback_port_can_be_asked_by_any_client(path: Path) -> None:
    """HTTP's own client understands us; IPv4 and IPv6."""
    for address in ("127.0.0.1", "::1"):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as free:
            free.bind((address, 0))
            port = free.getsockname()[1]
        listener = listen(Loopback(ip_address(address), port), path)
        assert listener is not None
        exposition = Exposition(listener, lambda: "x 1\n")
        client = http.client.HTTPConnection(address, port, timeout=10)
        client.request("GET", "/metrics")
        assert client.getresponse().read() == b"x 1\n"
        client.close()
        exposition.close()
    assert not path.exists()


def test_off_is_off_and_a_taken_port_is_named(path: Path) -> None:
    """Nothing listens; a port that somebody has is an error that names the setting."""
    assert listen("off", path) is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = Loopback(ip_address("127.0.0.1"), taken.getsockname()[1])
        with pytest.raises(ExpositionError, match=rf"could not show metrics at {place}: .*see metrics in the settings"):
            listen(place, path)
