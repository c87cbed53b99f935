"""A sandbox with a firewalld of its own, on a system bus of its own; what its door and its client say.

host = FirewallHost(sandbox)
host.start()
host.client("--reload")
"""

from __future__ import annotations

import signal
import subprocess

from dataplane.firewalld import SystemFirewalld
from dataplane.types import Address
from support import needs
from support.netns import Sandbox, wait_until

BUS = "/run/dbus/system_bus_socket"


class FirewallHost:
    """A sandbox whose firewalld starts and stops."""

    def __init__(self, sandbox: Sandbox) -> None:
        needs.command("firewalld", package="firewalld")
        needs.command("dbus-daemon", package="dbus")
        self.sandbox = sandbox
        self._bus: subprocess.Popen[str] | None = None
        self._firewalld: subprocess.Popen[str] | None = None

    def start_bus(self) -> None:
        """A system bus on the sandbox's own socket."""
        self.sandbox.run("mkdir", "-p", "/run/dbus")
        self._bus = self.sandbox.spawn(
            "dbus-daemon", "--system", "--nofork", "--nopidfile", stdout=None, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: self.sandbox.exists(BUS), 10, "a system bus")

    def start(self) -> None:
        """firewalld with the distribution's configuration: zone "public" for whatever is in no other."""
        if self._bus is None:
            self.start_bus()
        self._firewalld = self.sandbox.spawn(
            "firewalld", "--nofork", "--nopid", "--log-target", "console", stdout=None, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: self.client("--state").returncode == 0, 20, "a running firewalld")

    def stop(self) -> None:
        """End firewalld, which takes its table with it."""
        assert self._firewalld is not None
        self.sandbox.signal(self._firewalld, signal.SIGTERM)
        wait_until(lambda: not self.sandbox.call(running), 20, "the end of firewalld")

    def freeze(self, *, bus: bool) -> None:
        """Let the bus, or else firewalld, not answer any more."""
        process = self._bus if bus else self._firewalld
        assert process is not None
        self.sandbox.signal(process, signal.SIGSTOP)

    def client(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Ask firewalld by its own client."""
        return self.sandbox.run("firewall-cmd", *words, check=False)

    def holds(self, zone: str, address: Address) -> bool:
        """Whether firewalld itself says that an address is in a zone."""
        return self.client(f"--zone={zone}", f"--query-source={address}").returncode == 0

    def door(self, method: str, *arguments: object) -> object:
        """Call the door in the sandbox."""
        return self.sandbox.call(call_door, method, arguments)


def running() -> bool:
    return SystemFirewalld().running()


def call_door(method: str, arguments: tuple[object, ...]) -> object:
    return getattr(SystemFirewalld(), method)(*arguments)
