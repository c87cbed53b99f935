"""The socket that systemd hands over: taken where it is ours, refused where it is not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support import needs
from support.netns import wait_until

TAKE = """
import os, sys
from pathlib import Path
from control.agent.activation import ActivationError, take_listener
os.environ["LISTEN_PID"] = os.environ["LISTEN_PID"] or str(os.getpid())
try:
    taken = take_listener(Path(sys.argv[1]))
except ActivationError as error:
    print(error)
else:
    left = [name for name in os.environ if name.startswith("LISTEN_")]
    print(taken and taken.getsockname(), taken and os.get_inheritable(taken.fileno()), left)
"""


def take(handed: socket.socket | None, path: Path, *, count: str = "1", pid: str = "") -> str:
    """What a process says that was started with a descriptor 3; no ``pid`` is its own."""

    def place() -> None:
        if handed is not None:
            os.dup2(handed.fileno(), 3, inheritable=True)

    done = subprocess.run(
        [sys.executable, "-c", TAKE, path],
        env={"LISTEN_PID": pid, "LISTEN_FDS": count, "LISTEN_FDNAMES": "dataplane.socket"},
        close_fds=False,
        preexec_fn=place,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    """A socket as dataplane.socket opens it."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(tmp_path / "agent.sock"))
    made.listen()
    return made


def test_a_listener_is_taken_over(listener: socket.socket, tmp_path: Path) -> None:
    """It is found, children do not inherit it, and the variables are gone."""
    with listener:
        assert take(listener, tmp_path / "agent.sock") == f"{tmp_path}/agent.sock False []"


def test_what_is_meant_for_another_process_is_left_alone(listener: socket.socket, tmp_path: Path) -> None:
    """LISTEN_PID says who is meant; without it, or without descriptors, there is nothing to take."""
    with listener:
        assert take(listener, tmp_path / "agent.sock", pid="1") == "None None []"
        assert take(listener, tmp_path / "agent.sock", count="0") == "None None []"


def test_another_socket_is_refused_by_what_is_wrong_with_it(listener: socket.socket, tmp_path: Path) -> None:
    """More than one, at another path, not listening, of another kind, or no socket at all: the error says which."""
    with listener, socket.socket(socket.AF_UNIX) as silent, socket.socket() as tcp:
        tcp.listen()
        silent.bind(str(tmp_path / "silent"))
        assert "could not take over 2 sockets" in take(listener, tmp_path / "agent.sock", count="2")
        assert f"and not at {tmp_path}/other" in take(listener, tmp_path / "other")
        assert "it does not listen" in take(silent, tmp_path / "silent")
        assert "it is no unix stream socket" in take(tcp, tmp_path / "agent.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        assert "it is no unix stream socket" in take(datagrams, tmp_path / "agent.sock")
    assert "could not take over descriptor 3" in take(None, tmp_path / "agent.sock")


def test_what_systemd_hands_over_is_taken(tmp_path: Path) -> None:
    """systemd-socket-activate starts us at the first connection, and its socket is the one we get."""
    activate = needs.command("systemd-socket-activate", package="systemd")
    path = tmp_path / "agent.sock"
    code = TAKE.replace('os.environ["LISTEN_PID"] or str(os.getpid())', 'os.environ["LISTEN_PID"]')
    waiting = subprocess.Popen(
        [activate, f"--listen={path}", sys.executable, "-c", code, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with waiting, socket.socket(socket.AF_UNIX) as caller:
        wait_until(path.exists, 10, "the socket")
        wait_until(lambda: caller.connect_ex(str(path)) == 0, 10, "a connection")
        assert waiting.communicate(timeout=20)[0].decode().strip() == f"{path} False []"
