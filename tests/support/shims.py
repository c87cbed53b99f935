"""The process that runtimes start, in its forms, with an agent's socket and a queue of the test's own.

shim = Script(tmp_path)                      plugin.shim, as the script starts it
shim = Program("sanitized", tmp_path)        plugin/native, compiled so that the test can name directories
shim.run(environment("ADD"), b"{}")

with agent(shim, answer): ...                an agent that answers one call, by a function or by raw bytes
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from control.protocol.transport import send_answer
from control.protocol.wire import Answer, CniCall
from plugin.native.build import compile_shim
from plugin.native.installed import trailer
from support import needs
from support.callee import receive_call

PACKAGE = Path(__file__).parent.parent.parent

# What the installed program does not have: directories and limits that the environment names.
_FOR_TESTS = (
    '-DRUN_DIRECTORY=getenv("TEST_RUN")',
    '-DSTATE_DIRECTORY=getenv("TEST_STATE")',
    '-DCONNECT_LIMIT=atoi(getenv("TEST_CONNECT"))',
    '-DSILENCE_LIMIT=atoi(getenv("TEST_SILENCE"))',
    '-DTOTAL_LIMIT=atoi(getenv("TEST_TOTAL"))',
)  # fmt: skip
_STRICT = ("-Werror", "-Wshadow", "-Wconversion", "-Wvla", "-Wstrict-prototypes")
_SANITIZED = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
KINDS = {"plain": (), "sanitized": _SANITIZED}
LIMITS = {"TEST_CONNECT": "1000", "TEST_SILENCE": "30000", "TEST_TOTAL": "120000"}
"""Milliseconds; as the installed program has them."""

# The script's own lines; the agent's socket is one of the test's, so that no agent of the machine is asked.
_SCRIPT = """
import sys
sys.path.append(sys.argv[1])
from plugin.shim import main
main(sys.argv[2])
"""

Serve = Callable[[CniCall, int | None], Answer | bytes | None]
"""What an agent answers: nothing, or bytes that need not be a frame."""


class Shim:
    """One way to start the process; an agent may be there or not."""

    def __init__(self, directory: Path) -> None:
        self.run_directory, self.state = directory / "run", directory / "state"
        self.run_directory.mkdir()
        self.socket = self.run_directory / "agent.sock"
        self.limits = dict(LIMITS)

    def argv(self, *flags: str) -> list[str]:
        """What to start; ``flags`` are the interpreter's, where there is one."""
        raise NotImplementedError

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """With what the test's own build reads besides."""
        return {**env, "TEST_RUN": str(self.run_directory), "TEST_STATE": str(self.state), **self.limits}

    def run(self, env: Mapping[str, str], stdin: bytes = b"", *flags: str) -> Answer:
        """Start it, and wait for its end."""
        done = self.run_raw(env, stdin, *flags)
        return Answer(done.stdout.decode(), done.stderr.decode(), done.returncode)

    def run_raw(self, env: Mapping[str, str], stdin: bytes, *flags: str) -> subprocess.CompletedProcess[bytes]:
        """The same, with what it printed as it is."""
        return subprocess.run(
            self.argv(*flags), input=stdin, env=self.environment(env), capture_output=True, timeout=60, check=False
        )


class Script(Shim):
    """plugin.shim, as the installed script starts it."""

    def argv(self, *flags: str) -> list[str]:
        return [sys.executable, "-I", *flags, "-c", _SCRIPT, str(PACKAGE), str(self.socket)]


class Program(Shim):
    """The program, with what an installation writes behind it: the interpreter that runs the tests, unless others are
    named."""

    def __init__(self, kind: str, directory: Path, interpreter: str = sys.executable, name: str = "dataplane") -> None:
        super().__init__(directory)
        self.path = directory / name
        self.path.write_bytes(compiled(kind).read_bytes() + trailer(interpreter, str(PACKAGE)))
        self.path.chmod(0o755)

    def argv(self, *_flags: str) -> list[str]:
        return [str(self.path)]


@cache
def compiled(kind: str) -> Path:
    """The program by one of ``KINDS``. Skips where this machine has not what it takes."""
    program = _directory() / kind
    failure = compile_shim(program, *_FOR_TESTS, *_STRICT, *KINDS[kind], hardened=not KINDS[kind])
    if "no C compiler" in failure or ("cannot find -l" in failure and KINDS[kind]):
        needs.that(None, f"a C compiler and its sanitizers (apt-get install gcc libc6-dev): {failure}")
    assert not failure
    return program


@cache
def _directory() -> Path:
    directory = tempfile.TemporaryDirectory(prefix="dataplane-shims-")
    atexit.register(directory.cleanup)
    return Path(directory.name)


@contextmanager
def agent(shim: Shim, answers: Sequence[Serve]) -> Iterator[list[CniCall]]:
    """An agent that answers so many calls, one after the other; the calls that it got."""
    seen: list[CniCall] = []

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                call, netns = receive_call(connection)
                assert isinstance(call, CniCall)
                seen.append(call)
                given = answer(call, netns)
                if netns is not None:
                    os.close(netns)
                if isinstance(given, Answer):
                    send_answer(connection, given)
                elif given is not None:
                    connection.sendall(given)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(20)
        listener.bind(str(shim.socket))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield seen
        finally:
            thread.join()
    shim.socket.unlink()
