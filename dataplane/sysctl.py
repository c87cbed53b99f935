"""The door to /proc/sys, in the network namespace of this process."""

from __future__ import annotations

from pathlib import Path

from dataplane.errors import KernelError

_ROOT = Path("/proc/sys")


class ProcSysctls:
    """``dataplane.doors.Sysctls`` on the running kernel."""

    def read(self, name: str) -> str | None:
        """The value, by its path below /proc/sys; None where there is no such sysctl."""
        try:
            return (_ROOT / name).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KernelError.from_errno("read", f"sysctl {name}", error.errno or 0) from error

    def write(self, name: str, value: str) -> None:
        """Set it; not written when it has that value, so that a read-only /proc/sys is no obstacle then."""
        if self.read(name) == value:
            return
        try:
            (_ROOT / name).write_text(value, encoding="ascii")
        except OSError as error:
            raise KernelError.from_errno("set", f"sysctl {name} to {value}", error.errno or 0) from error
