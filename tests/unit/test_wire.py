"""Frames between plugin and agent: what goes in comes out, and what is no frame is refused; over a real socket, too."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from control.protocol.client import AgentClient, AgentUnreachableError
from control.protocol.transport import receive_answer, send_answer, send_call
from control.protocol.wire import (
    HEADER_LENGTH,
    MAX_BODY,
    Answer,
    CniCall,
    Ping,
    Pong,
    WireError,
    body_length,
    carried,
    decode_answer,
    decode_call,
    encode_answer,
    encode_call,
)
from support.callee import receive_call

TEXT = st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
CALLS = st.builds(
    CniCall, st.dictionaries(st.sampled_from(["CNI_COMMAND", "CNI_ARGS", "TRACEPARENT"]), TEXT), TEXT, TEXT
)
ANSWERS = st.builds(Answer, TEXT, TEXT, st.integers(0, 255))


def body(frame: bytes) -> bytes:
    assert body_length(frame[:HEADER_LENGTH]) == len(frame) - HEADER_LENGTH
    return frame[HEADER_LENGTH:]


@given(CALLS)
@example(CniCall({}, "\udcff\x00\n\"'\\"))
def test_calls_cross_unchanged(call: CniCall) -> None:
    """A call arrives as it was sent, also where standard input is no UTF-8."""
    assert decode_call(body(encode_call(call))) == call


@given(ANSWERS)
def test_answers_cross_unchanged(answer: Answer) -> None:
    """An answer arrives as it was sent."""
    assert decode_answer(body(encode_answer(answer))) == answer


def test_ping_and_pong() -> None:
    """An agent can be asked who it is."""
    assert decode_call(body(encode_call(Ping()))) == Ping()
    assert decode_answer(body(encode_answer(Pong("1.2.3", 4711)))) == Pong("1.2.3", 4711)


def test_the_form_of_a_call() -> None:
    """A call is the JSON that the protocol documents: an agent of another build reads it, too."""
    frame = encode_call(CniCall({"CNI_COMMAND": "DEL"}, "{}"))
    assert json.loads(frame[4:]) == {
        "v": 3, "call": "cni", "environment": {"CNI_COMMAND": "DEL"}, "stdin": "{}", "netns_error": "",
        "plugin": "dataplane",
    }  # fmt: skip


def test_only_cni_variables_are_carried() -> None:
    """The environment of a runtime holds secrets that are not the agent's business."""
    environment = {
        "CNI_IFNAME": "eth0",
        "TRACEPARENT": "00-1",
        "DATAPLANE_DEBUG": "1",
        "AWS_SECRET": "x",
        "PATH": "/bin",
    }
    assert carried(environment).keys() == {"CNI_IFNAME", "TRACEPARENT", "DATAPLANE_DEBUG"}
    assert b"AWS" not in encode_call(CniCall(environment, ""))


def test_too_large() -> None:
    """A frame has a limit on both sides."""
    with pytest.raises(WireError, match="larger"):
        encode_call(CniCall({}, "x" * MAX_BODY))
    with pytest.raises(WireError, match="larger"):
        body_length((MAX_BODY + 1).to_bytes(4, "big"))
    with pytest.raises(WireError, match="header"):
        body_length(b"\0\0")


def test_the_largest_stdin_fits() -> None:
    """A whole MiB of ordinary JSON on standard input fits in a frame."""
    entry = '{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}, '
    assert encode_call(CniCall({}, entry * ((1 << 20) // len(entry))))


_REST = b'"netns_error": "", "plugin": ""'
BAD_CALLS = [
    b"", b"{", b"[]", b"7", b'{"v": 3}',
    b'{"v": 1, "call": "ping"}', b'{"call": "ping"}', b'{"v": true, "call": "ping"}',
    b'{"v": 3, "call": "quit"}', b'{"v": 3, "call": "cni"}', b'{"v": 3, "call": 7}', b"[" * 100_000,
    b'{"v": 3, "call": "cni", "environment": [], "stdin": "", ' + _REST + b"}",
    b'{"v": 3, "call": "cni", "environment": {"CNI_A": 7}, "stdin": "", ' + _REST + b"}",
    b'{"v": 3, "call": "cni", "environment": {"LD_PRELOAD": "x"}, "stdin": "", ' + _REST + b"}",
    b'{"v": 3, "call": "cni", "environment": {}, "stdin": 7, ' + _REST + b"}",
    b'{"v": 3, "call": "cni", "environment": {}, "stdin": "\\ud800", ' + _REST + b"}",
    b'{"v": 3, "call": "cni", "environment": {}, "stdin": "", "netns_error": "", "plugin": 1}',
]  # fmt: skip


@pytest.mark.parametrize("raw", BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_bad_calls(raw: bytes) -> None:
    """What does not follow the protocol is refused as that."""
    with pytest.raises(WireError):
        decode_call(raw)


@given(st.binary(max_size=64), st.integers(0, 200), st.integers(0, 255))
def test_damaged_frames(raw: bytes, position: int, byte: int) -> None:
    """Damage ends in WireError or in a message, never in another error."""
    frame = bytearray(encode_answer(Answer("{}", "", 1)))
    frame[position % len(frame)] = byte
    for damaged in (raw, bytes(frame[HEADER_LENGTH:])):
        for decode in (decode_call, decode_answer):
            with suppress(WireError):
                assert isinstance(decode(damaged), CniCall | Ping | Answer | Pong)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection."""
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(5)
    yield ends
    for end in ends:
        end.close()


def test_a_descriptor_travels_beside_the_call(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    """What arrives is the open file itself, whatever its path leads to by then."""
    (tmp_path / "netns").write_text("first")
    with (tmp_path / "netns").open() as file:
        sender = threading.Thread(target=send_call, args=(pair[0], CniCall({}, "x" * 500_000), file.fileno()))
        sender.start()
        call, descriptor = receive_call(pair[1])
        sender.join()
    (tmp_path / "netns").unlink()
    assert isinstance(call, CniCall)
    assert len(call.stdin) == 500_000
    assert descriptor is not None
    with os.fdopen(descriptor) as received:
        assert received.read() == "first"


def test_a_call_without_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    """A DEL after the namespace is gone carries none."""
    send_call(pair[0], Ping())
    assert receive_call(pair[1]) == (Ping(), None)
    send_answer(pair[1], Pong("1", 2))
    assert receive_answer(pair[0]) == Pong("1", 2)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[[bytes | None], Path]]:
    """A listener that answers one call with given bytes, or (None) never."""
    threads: list[threading.Thread] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(5)

    def start(answer: bytes | None) -> Path:
        listener.bind(str(tmp_path / "agent.sock"))
        listener.listen()
        threads.append(threading.Thread(target=serve, args=(answer,)))
        threads[0].start()
        return tmp_path / "agent.sock"

    def serve(answer: bytes | None) -> None:
        connection, _ = listener.accept()
        with connection:
            receive_call(connection)
            if answer is None:
                connection.recv(1)  # until the client has had enough
            else:
                connection.sendall(answer)

    yield start
    for thread in threads:
        thread.join()
    listener.close()


def test_the_client_gets_the_answer(agent: Callable[[bytes | None], Path]) -> None:
    """One call, one answer."""
    client = AgentClient(str(agent(encode_answer(Answer("{}", "note\n", 0)))))
    assert client.call(CniCall({}, "")) == Answer("{}", "note\n", 0)


def test_the_client_pings(agent: Callable[[bytes | None], Path]) -> None:
    """Ping is answered by version and process."""
    assert AgentClient(str(agent(encode_answer(Pong("1", 7))))).ping() == Pong("1", 7)


@pytest.mark.parametrize("answer", [b"", b"\0\0", b"\0\0\0\x09{", None], ids=["closed", "header", "body", "silent"])
def test_an_answer_that_is_lost(agent: Callable[[bytes | None], Path], answer: bytes | None) -> None:
    """An agent that dies or hangs within its answer counts as unreachable: the plugin then does the work itself."""
    client = AgentClient(str(agent(answer)), answer_timeout=0.1)
    with pytest.raises(AgentUnreachableError, match=r"could not reach the agent at .*agent\.sock"):
        client.call(CniCall({}, ""))


def test_an_answer_to_something_else(agent: Callable[[bytes | None], Path]) -> None:
    """A pong is no answer to a call."""
    with pytest.raises(WireError):
        AgentClient(str(agent(encode_answer(Pong("1", 7))))).call(CniCall({}, ""))


def test_no_agent(tmp_path: Path) -> None:
    """No socket, or one that nobody listens on, is told at once and by its path."""
    with pytest.raises(AgentUnreachableError, match="No such file"):
        AgentClient(str(tmp_path / "none")).ping()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    with pytest.raises(AgentUnreachableError, match="refused"):
        AgentClient(str(tmp_path / "left")).ping()
