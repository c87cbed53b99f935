"""The door to /proc/sys, in the network namespace of this process."""

from __future__ import annotations

import os

from dataplane.errors import KernelError

_ROOT = "/proc/sys"
_MAX_BYTES = 4096  # those of numbers are short


class ProcSysctls:
    """``dataplane.doors.Sysctls`` on the running kernel."""

    def read(self, name: str) -> str | None:
        """The value, by its path below /proc/sys; None where there is no such sysctl."""
        try:
            descriptor = os.open(f"{_ROOT}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(descriptor, _MAX_BYTES).decode("ascii").strip()
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KernelError.from_errno("read", f"sysctl {name}", error.errno or 0) from error

    def write(self, name: str, value: str) -> None:
        """Set it; not written when it has that value, so that a read-only /proc/sys is no obstacle then."""
        if self.read(name) == value:
            return
        try:
            descriptor = os.open(f"{_ROOT}/{name}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(descriptor, value.encode("ascii"))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise KernelError.from_errno("set", f"sysctl {name} to {value}", error.errno or 0) from error
