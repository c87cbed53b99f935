"""What the engine says no to. The plugin gives these CNI codes, dpctl gives them exit codes; both at their border."""

from __future__ import annotations

from dataplane.errors import DataplaneError


class EngineError(DataplaneError):
    """A request that cannot be served as it stands."""


class PortConflictError(EngineError):
    """A host port is held by another attachment; the text names it."""


class NoAddressError(EngineError):
    """No address can be leased: a range set is exhausted, or the one asked for is another container's."""


class DeviceNotFoundError(EngineError):
    """None of the host interfaces that the request names exists."""


class DifferenceError(EngineError):
    """CHECK: the kernel is not what the attachment asked for. ``differences`` lists what, a sentence each."""

    def __init__(self, differences: tuple[str, ...]) -> None:
        self.differences = differences
        super().__init__("; ".join(differences))


class NotReadyError(EngineError):
    """STATUS: an ADD would fail now; the text says why and what to do."""


class LimitedConnectivityError(NotReadyError):
    """STATUS: an ADD would fail now, and containers that are attached may not be reachable either."""


class BusyError(EngineError):
    """Another request held the lock for too long: try again later."""


class AbandonedError(EngineError):
    """The caller hung up while its call waited: it has done the work itself by now, and perhaps undone it."""
