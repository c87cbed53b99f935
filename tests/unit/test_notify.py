"""What the supervisor hears: a real datagram socket in place of systemd's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.agent.notify import Supervisor, SupervisorError
from support import needs


@pytest.fixture(params=["path", "abstract"])
def heard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """NOTIFY_SOCKET, and the socket behind it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@dataplane-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1))
        listener.settimeout(5)
        yield name, listener


def test_each_message_is_one_datagram_in_its_own_words(heard: tuple[str, socket.socket]) -> None:
    """READY with a STATUS, STOPPING and WATCHDOG, as sd_notify(3) spells them."""
    name, listener = heard
    supervisor = Supervisor.of_environment({"NOTIFY_SOCKET": name})
    assert supervisor.ready("serving 3 attachments")
    assert listener.recv(1000) == b"READY=1\nSTATUS=serving 3 attachments"
    assert supervisor.stopping()
    assert listener.recv(1000) == b"STOPPING=1"
    assert supervisor.watchdog()
    assert listener.recv(1000) == b"WATCHDOG=1"


def test_a_status_is_one_field(heard: tuple[str, socket.socket]) -> None:
    """A text with line breaks cannot speak for us: what follows one is no field of its own."""
    name, listener = heard
    assert Supervisor(name).stopping("1 problem:\nREADY=1\nMAINPID=1")
    assert listener.recv(1000) == b"STOPPING=1\nSTATUS=1 problem: READY=1 MAINPID=1"


def test_without_a_supervisor_nothing_is_said() -> None:
    """By hand the agent tells nobody, and that is no error."""
    supervisor = Supervisor.of_environment({})
    assert supervisor.watchdog_interval is None
    assert not supervisor.ready()
    assert not supervisor.watchdog()


def test_a_message_that_is_not_taken_is_no_reason_to_fail(tmp_path: Path) -> None:
    """A supervisor that went away ends nothing."""
    assert not Supervisor(str(tmp_path / "gone")).ready()


def test_a_full_queue_holds_nobody_up_for_long(tmp_path: Path) -> None:
    """A supervisor that does not read costs a second a message, and not the agent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        supervisor = Supervisor(str(tmp_path / "notify"))
        assert any(not supervisor.watchdog() for _ in range(10_000))


def test_the_watchdog_is_fed_three_times_a_period() -> None:
    """WATCHDOG_USEC is the supervisor's patience; two messages may be lost."""
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    assert Supervisor.of_environment(environment).watchdog_interval == 10
    assert environment == {}, "no child is to speak for us"


def test_a_watchdog_of_another_process_is_none_of_ours() -> None:
    """WATCHDOG_PID names who is meant."""
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}
    assert Supervisor.of_environment(environment).watchdog_interval is None


@pytest.mark.parametrize(
    "environment",
    [
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "0"},
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(environment: dict[str, str]) -> None:
    """A supervisor that cannot be spoken to would kill the agent later, and nobody would know why."""
    with pytest.raises(SupervisorError, match="could not use"):
        Supervisor.of_environment(environment)


def test_systemd_says_the_same(tmp_path: Path) -> None:
    """systemd-notify, systemd's own client, sends what we send."""
    needs.command("systemd-notify", package="systemd")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "PATH": needs.SYSTEM_PATH}
        subprocess.run(["systemd-notify", "--ready", "--status=serving", "--no-block"], env=environment, check=True)
        theirs = listener.recv(1000)
        code = "from control.agent.notify import Supervisor; Supervisor.of_environment().ready('serving')"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        assert sorted(listener.recv(1000).split(b"\n")) == sorted(
            field for field in theirs.split(b"\n") if not field.startswith(b"MAINPID=")
        )
