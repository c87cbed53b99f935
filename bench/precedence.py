"""What has its processor for itself, as far as that goes: that a tail is of the kernel's making, not of neighbours'.

    with first_in_line() as granted:
        trips = RoundTrips(...)            # SCHED_FIFO for as long as it lives; this thread is again as it was
    if not granted: ...                    # no CAP_SYS_NICE, or a cgroup without real-time budget

Why: whoever loads one processor drives everything else that runs on the machine to the other one, where it would be
taken for what the load costs. And a kernel that sees somebody wait leaves softirqs to ksoftirqd, which waits, too.

Be aware: what spins under SCHED_FIFO lets nobody else run on its processor, ksoftirqd among them. It is for what needs
none of them or sleeps where nothing goes on, and for parts of a second at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_LOWEST = os.sched_param(1)


@contextmanager
def first_in_line() -> Iterator[bool]:
    """Have what this thread starts meanwhile run under SCHED_FIFO; whether the kernel lets it."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, _LOWEST)
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, policy, parameters)
