"""What the kernel tells by itself: netlink notifications and changed files, as the values of ``dataplane.events``.

    with kernel_monitors() as monitors:
        for monitor in monitors: selector.register(monitor, EVENT_READ)
        ...
        monitor.read()  ->  (RulesetChanged(...), LinkChanged(...))

    route        links, bridge ports, addresses, hooks, forwarding     rtnetlink
    ruleset      transactions of nftables, and whose                   nfnetlink
    sysctls      writes to those it is told to follow                  inotify
    pins         our directories on the bpffs                          inotify, the mount table
    namespaces   deletion of those it is told to follow                inotify

All are of the network namespace of the thread that opens them. ``read`` never waits, gives what is there up to a limit,
and says ``NotificationsLost`` where the kernel had to drop something: then anything may have changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeVar

from dataplane.events import Event
from dataplane.monitors.namespaces import NamespaceMonitor
from dataplane.monitors.pins import PinMonitor
from dataplane.monitors.route import RouteMonitor
from dataplane.monitors.ruleset import RulesetMonitor
from dataplane.monitors.subscription import BUFFER
from dataplane.monitors.sysctls import SysctlMonitor


class Monitor(Protocol):
    """One source of events."""

    def fileno(self) -> int:
        """Readable (epoll, select) while there is something to read."""

    def read(self) -> tuple[Event, ...]:
        """What came since; never waits. Raises ``KernelError`` where the source is broken."""

    def close(self) -> None:
        """Listen no more; a second time does nothing."""


M = TypeVar("M", bound=Monitor)


@dataclass(frozen=True, slots=True)
class Monitors:
    """All of them; a context manager that closes them."""

    route: RouteMonitor
    ruleset: RulesetMonitor
    sysctls: SysctlMonitor
    pins: PinMonitor
    namespaces: NamespaceMonitor

    def __iter__(self) -> Iterator[Monitor]:
        return iter((self.route, self.ruleset, self.sysctls, self.pins, self.namespaces))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all; a second time does nothing."""
        for monitor in self:
            monitor.close()


def kernel_monitors(buffer: int = BUFFER) -> Monitors:
    """Open all, with ``buffer`` bytes for each kind of netlink notifications. Raises ``KernelError``."""
    with ExitStack() as opened:

        def kept(monitor: M) -> M:
            opened.callback(monitor.close)
            return monitor

        monitors = Monitors(
            kept(RouteMonitor(buffer)),
            kept(RulesetMonitor(buffer)),
            kept(SysctlMonitor()),
            kept(PinMonitor()),
            kept(NamespaceMonitor()),
        )
        opened.pop_all()
    return monitors
