"""CNI errors: the one table of codes, and which failure gets which.

1-99   the specification's (SPEC 1.1, "Error")     8, 999   as Go's skel has them     100-   ours

raise CniError(Code.INVALID_CONFIG, "invalid network configuration", "snat: ...")
"""

from __future__ import annotations

from enum import IntEnum

from control.errors import (
    BusyError,
    DeviceNotFoundError,
    DifferenceError,
    LimitedConnectivityError,
    NoAddressError,
    NotReadyError,
    PortConflictError,
)
from control.model import InvalidValueError
from dataplane.errors import DataplaneError, KernelError, MissingDependencyError


class Code(IntEnum):
    """The ``code`` of a CNI error. Runtimes act on 3 and 11; people read the text."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO = 5
    DECODE = 6
    INVALID_CONFIG = 7
    INVALID_NETNS = 8
    TRY_AGAIN = 11
    NOT_AVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    FAILED = 100
    """Anything that the dataplane says no to and that has no code of its own."""
    PORT_CONFLICT = 101
    DIFFERENCE = 102
    MISSING_DEPENDENCY = 103
    KERNEL = 104
    NO_ADDRESS = 105
    INTERNAL = 999
    """A bug."""


class CniError(Exception):
    """A call that ends with a CNI error. ``plugin`` says whose, where a driver runs several."""

    def __init__(self, code: int, msg: str, details: str = "", plugin: str = "") -> None:
        self.code, self.msg, self.details, self.plugin = code, msg, details, plugin
        super().__init__(code, msg, details, plugin)

    def __str__(self) -> str:
        who = f"plugin {self.plugin}: " if self.plugin else ""
        return f"{who}{self.msg}" + (f"; {self.details}" if self.details else "") + f" (CNI code {int(self.code)})"


class ConfigError(CniError):
    """A configuration that cannot be served as it is written; the details name the field."""

    def __init__(self, field: str, reason: str, code: Code = Code.INVALID_CONFIG) -> None:
        self.field, self.reason = field, reason
        super().__init__(code, "invalid network configuration", f"{field}: {reason}")

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str, Code]]:
        return type(self), (self.field, self.reason, Code(self.code))


class WholeEnvironmentNeededError(Exception):
    """Another plugin is to run, in the environment that ours was started in; what came with the call is CNI's part."""


_CODES: tuple[tuple[type[Exception], Code, str], ...] = (
    (PortConflictError, Code.PORT_CONFLICT, "host port in use"),
    (NoAddressError, Code.NO_ADDRESS, "no address can be leased"),
    (DeviceNotFoundError, Code.INVALID_CONFIG, "invalid network configuration"),
    (DifferenceError, Code.DIFFERENCE, "the attachment is not as it should be"),
    (LimitedConnectivityError, Code.LIMITED_CONNECTIVITY, "the plugin is not available, and containers are affected"),
    (NotReadyError, Code.NOT_AVAILABLE, "the plugin is not available"),
    (BusyError, Code.TRY_AGAIN, "try again later"),
    (MissingDependencyError, Code.MISSING_DEPENDENCY, "this host lacks something"),
    (KernelError, Code.KERNEL, "the kernel refused"),
    (DataplaneError, Code.FAILED, "the dataplane failed"),
    (InvalidValueError, Code.INVALID_CONFIG, "invalid network configuration"),
    (OSError, Code.IO, "input or output failed"),
)
"""Failure -> code and what it means, the first that fits."""


def cni_error(error: Exception) -> CniError:
    """The CNI error of any failure; of a group, with the details of all and the code that they share."""
    if isinstance(error, CniError):
        return error
    if isinstance(error, ExceptionGroup):
        return _of_group(error)
    for kind, code, msg in _CODES:
        if isinstance(error, kind):
            return CniError(code, msg, "; ".join([str(error), *_notes(error)]))
    # No traceback: what a runtime shows to a user is one line.
    return CniError(Code.INTERNAL, "internal error, please report it", f"unexpected {type(error).__name__}: {error}")


def _of_group(group: ExceptionGroup[Exception]) -> CniError:
    errors = [cni_error(error) for error in group.exceptions]
    codes = {error.code for error in errors}
    details = "; ".join(f"{error.msg}: {error.details}" if error.details else error.msg for error in errors)
    return CniError(codes.pop() if len(codes) == 1 else Code.FAILED, group.message, details)


def _notes(error: Exception) -> list[str]:
    notes: list[str] = getattr(error, "__notes__", [])
    return notes
