"""Socket activation: takes over the listening socket that the supervisor (systemd) opened before it started us.

    listener = take_listener(Path("/run/dataplane/agent.sock"))      None: nobody handed one over; make your own

The supervisor keeps the socket: calls that come while the agent is restarted wait in its backlog, and the file stays
when the agent ends. So whoever took it over must neither bind nor unlink the path.

Source: sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from pathlib import Path

from control.errors import EngineError

FIRST = 3
"""SD_LISTEN_FDS_START: descriptors are handed over from here."""

_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class ActivationError(EngineError):
    """What was handed over is not the socket that the unit should have opened."""


def take_listener(path: Path, environment: MutableMapping[str, str] = os.environ) -> socket.socket | None:
    """The socket that was handed to this process, listening at ``path``; None where none was.

    Takes the variables out of the environment, so that children do not think they were meant. Raises
    ``ActivationError`` where there is not exactly one, or it is another one.
    """
    pid, count = (environment.get(name, "") for name in ("LISTEN_PID", "LISTEN_FDS"))
    for name in _VARIABLES:
        environment.pop(name, None)
    if pid != str(os.getpid()) or count in {"", "0"}:
        return None
    if count != "1":
        raise ActivationError(f"could not take over {count} sockets: the agent has one, {path}")
    try:
        os.set_inheritable(FIRST, False)
        handed = socket.socket(fileno=FIRST)
    except OSError as error:
        raise ActivationError(f"could not take over descriptor {FIRST}: {error.strerror}") from error
    if problem := _problem(handed, path):
        handed.close()
        raise ActivationError(f"could not take over the socket that was handed over: {problem}; see dataplane.socket")
    return handed


def _problem(handed: socket.socket, path: Path) -> str:
    """Why a socket is not the one that was asked for; empty where it is."""
    if handed.family != socket.AF_UNIX or handed.type != socket.SOCK_STREAM:
        return "it is no unix stream socket"
    if not handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "it does not listen"
    if handed.getsockname() != str(path):
        return f"it listens at {handed.getsockname()!r}, and not at {path}"
    return ""
