"""What has its processor for itself, as far as that goes: that a tail is of the kernel's making, not of neighbours'.

    with first_in_line() as granted:
        process = host.spawn(...)          # SCHED_FIFO for as long as it lives; this thread is again as it was
    if not granted: ...                    # no CAP_SYS_NICE, or a cgroup without real-time budget
    measure(30), rest(30)                  # milliseconds

Why: whoever loads one processor drives everything else that runs on the machine to the other one, where it would be
taken for what the load costs. And a kernel that sees somebody wait leaves softirqs to ksoftirqd, which waits, too. What
is timed here has the same precedence whoever is measured; on a machine that does nothing else it makes no difference.

Be aware: what spins under SCHED_FIFO lets nobody else run on its processor, ksoftirqd among them. It is for what needs
none of them or sleeps where nothing goes on, and for parts of a second at a time: both ends of a round trip in one
process do, for whoever waits for a packet that ksoftirqd has to bring sleeps meanwhile. It is not for what must be
woken to be measured: how soon, and on which processor, would be another scheduler's answer. So plugins and agents go
with everybody else (an ADD by ours took a tenth longer before all others, and by portmap no longer): they are asked
more often.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LOWEST = os.sched_param(1)
_SHARE = 0.1


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


def rest(milliseconds: float) -> None:
    """Leave the processor to others, after so long under SCHED_FIFO: else the kernel does, in the midst of a round.

    Of each second others have 5 % by force (sched_rt_runtime_us, and the deadline server of Linux 6.12).
    """
    time.sleep(milliseconds / 1e3 * _SHARE)
