"""Tells the supervisor (systemd, Type=notify) what becomes of the agent: ready, still alive, stopping.

    supervisor = Supervisor.of_environment()
    supervisor.ready("serving 12 attachments")
    supervisor.watchdog()        # from the loop that must not hang, each supervisor.watchdog_interval seconds
    supervisor.stopping()

Without a supervisor all of it does nothing. A message that is not taken is lost, and no reason to fail: the next
watchdog is in time, for the interval is a third of what the supervisor allows.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Self

from control.errors import EngineError

_PATIENCE = 1.0
"""Seconds that a full queue of the supervisor may hold us up."""
_BEATS = 3
"""Watchdog messages for each of the supervisor's periods: two may be lost."""


class SupervisorError(EngineError):
    """The environment names a supervisor that cannot be spoken to."""


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Where messages go, and how often it wants to hear that we are alive."""

    address: str = ""
    """Path of a datagram socket, "@" and a name for an abstract one; empty: there is no supervisor."""
    watchdog_interval: float | None = None
    """Seconds between two calls of ``watchdog``; None: nobody waits for them."""

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """The supervisor that NOTIFY_SOCKET and WATCHDOG_USEC name, taken out of the environment so that no child
        speaks for us. Raises ``SupervisorError``."""
        address, period, pid = (
            environment.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        if not address:
            return cls()
        if address[0] not in "/@":
            raise SupervisorError(f"could not use NOTIFY_SOCKET {address!r}: neither a path nor an abstract socket")
        if not period or pid not in {"", str(os.getpid())}:
            return cls(address)
        if not period.isdecimal() or int(period) == 0:
            raise SupervisorError(f"could not use WATCHDOG_USEC {period!r}: not a number of microseconds")
        return cls(address, int(period) / 1e6 / _BEATS)

    def ready(self, status: str = "") -> bool:
        """The agent serves calls; ``status`` is what ``systemctl status`` shows. Whether the message was taken; so of
        all others."""
        return self._send("READY=1", *_status(status))

    def stopping(self, status: str = "") -> bool:
        """The agent ends."""
        return self._send("STOPPING=1", *_status(status))

    def watchdog(self) -> bool:
        """The agent is alive."""
        return self._send("WATCHDOG=1")

    def _send(self, *fields: str) -> bool:
        if not self.address:
            return False
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(_PATIENCE)
            try:
                channel.sendto("\n".join(fields).encode("utf-8", "backslashreplace"), address)
            except OSError:
                return False
        return True


def _status(text: str) -> tuple[str, ...]:
    # A line is a field: what follows a line break would be another one.
    return (f"STATUS={' '.join(text.split())}",) if text.strip() else ()
