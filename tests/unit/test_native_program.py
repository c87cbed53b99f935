"""The executable in C against the protocol that Python speaks: what it writes, what it reads, and what it never trusts.

Each as it is compiled for users, and with its memory watched (ASan, UBSan).
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from control.protocol.queue import MAX_FILES, Queue
from control.protocol.wire import DECLINED, MAX_BODY, VERSION, Answer, CniCall, WireError, decode_answer
from plugin.errors import Code
from plugin.native import installed
from support import needs
from support.cni import environment, error_of
from support.shims import KINDS, Program, Serve, agent

GONE = "/nowhere/bin/python3"


@pytest.fixture(params=KINDS)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    """The program, whose Python is gone: what it cannot do itself fails with code 103."""
    return Program(request.param, tmp_path, GONE)


def frame(body: bytes) -> bytes:
    """A frame around whatever it is."""
    return len(body).to_bytes(4, "big") + body


def answering(given: bytes) -> Serve:
    """An agent that answers bytes."""
    return lambda _call, _netns: given


def served(_call: CniCall, _netns: int | None) -> Answer:
    """An agent that is content."""
    return Answer("")


def test_every_byte_arrives(program: Program) -> None:
    """Standard input, environment and name are any bytes, and arrive as they are; what is not CNI's is not sent."""
    every = bytes(range(256))
    texts = {f"CNI_{n}": os.fsdecode(bytes([n]) + b"x\xf0\x9f") for n in range(1, 256)}
    name = os.fsdecode(b'port\xff"map\n')
    program.path = program.path.rename(program.path.with_name(name))
    sent = {**texts, "CNI_COMMAND": "ADD", "TRACEPARENT": "t", "DATAPLANE_DEBUG": "1", "PRIVATE": "x", "CNI": "y"}
    with agent(program, [served] * 2) as seen:
        assert program.run(sent, every * 64) == Answer("")
        assert program.run(environment("ADD"), b"") == Answer("")
    call, empty = seen
    assert call.stdin.encode("utf-8", "surrogateescape") == every * 64
    assert call.environment == {key: value for key, value in sent.items() if key not in {"PRIVATE", "CNI"}}
    assert call.plugin == name
    assert empty.stdin == ""


def test_random_input_arrives(program: Program) -> None:
    """As above, at random: whatever stands beside what."""
    chosen = random.Random(4)  # noqa: S311 - the same in every run
    bytes_ = b'\0\x01\x1f "\\u/\x7f\x80\xff\xc3\xa9{'
    inputs = [bytes(chosen.choices(bytes_, k=chosen.randrange(5000))) for _ in range(30)]
    with agent(program, [served] * len(inputs)) as seen:
        for stdin in inputs:
            assert program.run(environment("ADD"), stdin) == Answer("")
    assert [call.stdin.encode("utf-8", "surrogateescape") for call in seen] == inputs


def test_the_largest_call(program: Program) -> None:
    """Bytes that need no escapes fit in a frame up to the limit of standard input, in as many writes as it takes."""
    with agent(program, [served]) as seen:
        assert program.run(environment("ADD"), b"x" * ((1 << 20) + 7)) == Answer("")
    assert len(seen[0].stdin) == (1 << 20) + 1, "one byte more than a configuration may have, and no more"


@pytest.mark.parametrize("status", [0, 7, 255])
def test_answers_are_printed(program: Program, status: int) -> None:
    """Any text, however it is escaped, comes out as its bytes, and the status is the process's."""
    texts = [
        "",
        "{}",
        'a"b\\c/d\b\f\n\r\t\0\x7f',
        "\u00e9\u20ac\U0001f600\uffff",
        "x" * 300_000,
        os.fsdecode(b"\xff\x80 raw"),
    ]
    expected = [text.encode("utf-8", "surrogateescape") for text in texts for _ in range(2)]
    messages = [{"v": VERSION, "answer": "cni", "stdout": text, "stderr": text, "exit_code": status} for text in texts]
    bodies = [json.dumps(message, ensure_ascii=escaped) for message in messages for escaped in (True, False)]
    with agent(program, [answering(frame(body.encode("utf-8", "surrogateescape"))) for body in bodies]):
        for text in expected:
            done = program.run_raw(environment("ADD"), b"{}")
            assert (done.stdout, done.stderr, done.returncode) == (text, text, status)


def _body(**changed: object) -> bytes:
    return json.dumps(
        {"v": VERSION, "answer": "cni", "stdout": "yes", "stderr": "", "exit_code": 0, **changed}
    ).encode()


_GOOD = _body()
_TEXTS = (
    rb'"\x"', rb'"\u12"', rb'"\u12g4"', rb'"\ud800"', rb'"\ud800x"', rb'"\ud800\u0041"', rb'"\ud800\ud800"',
    rb'"\udc00"', b'"\x01n"', b'"\x01"', b'"', rb'"\"', b'"\\', b'"\\u', b"yes", b"'yes'", rb'"\ud83d\ude00"',
    rb'"\udcff\udc80"', rb'"\u0041\u00e9"', rb'"\uD83D\uDE00 \/"', b'"\xff\xfe"', b'"\x7f"',
)  # fmt: skip
_NUMBERS = (b": 00}", b": -}", b": +1}", b": 0x1}", b": }", b": 1 2}", b": - 1}", b": 1}", b":\n12 }")
BODIES = [
    _GOOD,
    b" \t\r\n" + _GOOD.replace(b",", b" ,\n").replace(b":", b"\t: ") + b"\n ",
    _body(more="x", other=7, third=None, fourth=True, fifth=-3),
    _GOOD[:-1] + b', "stdout": "twice"}',
    b"", b"{", b"{}", b"[]", b"null", b"7", _GOOD + b"x", _GOOD[:-1] + b",}", _GOOD[1:], b"{" + _GOOD,
    _body(v=VERSION - 1), _body(v="3"), _body(v=None), _body(answer="pong"), _body(answer=1), _body(stdout=None),
    _body(stderr=3), _body(exit_code="0"), _body(exit_code=None), _body(exit_code=True), _body(exit_code=0.5),
    *(_GOOD.replace(b'"yes"', text) for text in _TEXTS),
    *(_GOOD.replace(b": 0}", number) for number in _NUMBERS),
    *(_GOOD[:cut] for cut in range(1, len(_GOOD), 9)),
    b"\xff" * 40, b"[" * 100_000, b'{"a":' * 50_000, b'"' * 1000,
]  # fmt: skip


def test_answers_as_python_reads_them(program: Program) -> None:
    """What ``decode_answer`` reads is printed, byte by byte; what it refuses is as no answer at all."""
    with agent(program, [answering(frame(body)) for body in BODIES]):
        for body in BODIES:
            done = program.run_raw(environment("ADD"), b"{}")
            try:
                expected = decode_answer(body)
            except WireError:
                assert json.loads(done.stdout)["code"] == Code.MISSING_DEPENDENCY, body
            else:
                assert isinstance(expected, Answer)
                assert done.stdout == expected.stdout.encode("utf-8", "surrogateescape"), body
                assert done.returncode == expected.exit_code, body


@pytest.mark.parametrize(
    "given",
    [
        b"", b"\0", b"\0\0\0", frame(_GOOD)[:-1], b"\xff\xff\xff\xff" + _GOOD, (MAX_BODY + 1).to_bytes(4, "big"),
        frame(_body(v=VERSION + 1)), frame(_body(more={"nested": 1})), frame(_body(exit_code=256)),
        frame(_body(exit_code=-2)), frame(_body(exit_code=10**30)),
    ],
)  # fmt: skip
def test_answers_that_are_none(program: Program, given: bytes) -> None:
    """Cut short, too large, of another version, or with what no process can end with: as if no agent were there."""
    with agent(program, [answering(given)]):
        assert error_of(program.run(environment("ADD"), b"{}"))["code"] == Code.MISSING_DEPENDENCY


def test_an_agent_that_says_nothing(program: Program) -> None:
    """Whether it does not accept, does not answer, or its backlog is full: each has its limit."""
    program.limits |= {"TEST_SILENCE": "300", "TEST_CONNECT": "300"}
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(program.socket))
        listener.listen(0)
        assert error_of(program.run(environment("ADD"), b"{}"))["code"] == Code.MISSING_DEPENDENCY
        listener.accept()[0].close()
        first.connect(str(program.socket))
        assert error_of(program.run(environment("ADD"), b"{}"))["code"] == Code.MISSING_DEPENDENCY


def test_an_agent_that_trickles(program: Program) -> None:
    """A byte now and then is not silence, but all together has a limit, too."""
    program.limits |= {"TEST_TOTAL": "500"}
    body = _GOOD[:-1] + b" " * 10_000 + b"}"

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(len(body).to_bytes(4, "big"))
            try:
                for byte in body:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.02)
            except OSError:
                return  # the program has hung up

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(program.socket))
        listener.listen()
        thread = threading.Thread(target=trickle)
        thread.start()
        answer = program.run(environment("ADD"), b"{}")
        thread.join()
    assert error_of(answer)["code"] == Code.MISSING_DEPENDENCY


def test_standard_input_that_nobody_writes(program: Program) -> None:
    """A runtime that never ends its input is told so."""
    program.limits |= {"TEST_SILENCE": "200"}
    read, write = os.pipe()
    env = program.environment(environment("ADD"))
    done = subprocess.run(program.argv(), stdin=read, env=env, capture_output=True, check=False)
    os.close(read)
    os.close(write)
    assert (json.loads(done.stdout)["code"], json.loads(done.stdout)["details"]) == (Code.IO, "Connection timed out")


def test_signals_do_not_end_a_call(program: Program) -> None:
    """A process that is stopped and goes on, as by a debugger or a cgroup's freezer, loses nothing."""

    started = threading.Event()

    def interrupt(_call: CniCall, _netns: int | None) -> Answer:
        assert started.wait(20)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            os.kill(process.pid, number)
            time.sleep(0.05)
        return Answer("served")

    env = program.environment(environment("ADD"))
    with agent(program, [interrupt]):
        process = subprocess.Popen(program.argv(), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        started.set()
        assert process.communicate(timeout=20)[0] == b"served"


def test_without_python(program: Program) -> None:
    """Where Python is gone, and no agent is there, ADD and its like end with an error that says what to do."""
    for verb in ("ADD", "CHECK", "GC", "STATUS"):
        error = error_of(program.run(environment(verb), b"{}"))
        assert error["code"] == Code.MISSING_DEPENDENCY
        assert error["details"] == f"could not start {GONE}: No such file or directory; run dpctl install again"
    assert not program.state.exists()


def test_without_a_package(program: Program) -> None:
    """An interpreter whose package was removed is as none; so is a program that was copied without its trailer."""
    whole = program.path.read_bytes()
    bare = whole[: whole.rindex(b"\n# The CNI plugin dataplane, installed by dpctl.\n")]
    for content, said in (
        (bare + installed.trailer("/bin/sh", "/nowhere"), "could not start /nowhere/plugin/shim.py: No such file"),
        (bare + installed.trailer("python3", "/nowhere"), "could not start Python: the executable does not say where"),
        (bare, "could not start Python: the executable does not say where it is"),
    ):
        program.path.write_bytes(content)
        assert error_of(program.run(environment("ADD"), b"{}"))["details"].startswith(said)


def test_a_delete_without_python(program: Program) -> None:
    """A DEL that nobody can serve is kept, whole and for root alone, and the runtime is told of success."""
    stdin = b'{"name": "front", "raw": "\xff"}'
    answer = program.run(environment("DEL", CNI_NETNS="/nowhere"), stdin)
    assert (answer.stdout, answer.exit_code) == ("", 0)
    assert answer.stderr.startswith("dataplane: the DEL is kept for later: could not start /nowhere")
    (entry,) = Queue(program.state / "queue").entries()
    assert entry.call is not None
    assert entry.call.stdin.encode("utf-8", "surrogateescape") == stdin
    assert entry.call.environment == environment("DEL", CNI_NETNS="/nowhere")
    assert entry.call.netns_error == "No such file or directory"
    assert (entry.path.stat().st_mode & 0o777, entry.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [path.name for path in entry.path.parent.iterdir()] == [entry.path.name]


def test_a_delete_that_cannot_be_kept(program: Program) -> None:
    """Where not even the queue can be written, or it is full, the runtime is told of the failure, with both causes."""
    program.state.write_text("a file in the way")
    error = error_of(program.run(environment("DEL"), b"{}"))
    assert error["details"].endswith("and the DEL could not be kept for later: Not a directory")
    program.state.unlink()
    (program.state / "queue").mkdir(parents=True)
    for number in range(MAX_FILES):
        (program.state / "queue" / f"{number}.json").touch()
    assert error_of(program.run(environment("DEL"), b"{}"))["details"].endswith("kept for later: the queue is full")
    (program.state / "queue" / "0.json").unlink()
    error = error_of(program.run(environment("DEL"), b"\0" * 100_000))
    assert error["details"].endswith("the call is larger than one that is kept for later")
    assert program.run(environment("DEL"), b"{}").exit_code == 0


def test_a_call_that_the_agent_declines(tmp_path: Path) -> None:
    """Python goes on with what was read and opened, under the name of the plugin, whatever is at the path by then."""
    program = Program("plain", tmp_path, name="host-local")
    (tmp_path / "netns").write_bytes(b"")

    def decline(_call: CniCall, _netns: int | None) -> Answer:
        (tmp_path / "netns").unlink()
        return Answer("", "", DECLINED)

    conf = json.dumps({"cniVersion": "1.0.0", "name": "front", "type": "host-local"})
    with agent(program, [decline]):
        error = error_of(program.run(environment("ADD", CNI_NETNS=str(tmp_path / "netns")), conf.encode()))
    assert error["code"] == Code.INVALID_CONFIG
    assert error["details"].startswith("ipam")


def test_no_environment_variable_leads_the_installed_program_elsewhere() -> None:
    """What tests use to name directories, users do not have."""
    path = Path(installed.__file__).with_name("shim")
    needs.that(path.exists(), "the executable in C (apt-get install gcc libc6-dev, and install dataplane again)")
    assert b"/run/dataplane" in path.read_bytes()
    assert b"TEST_" not in path.read_bytes()
