"""Crash points: the places after every step that others can see, at which a test has this process killed.

    reached(Point.VETH_MADE)               in the code, right after the step: nothing, unless this point is armed

    DP_CRASH_AT=veth.made dpctl agent      SIGKILL when it is reached for the first time
    DP_CRASH_AT=step.PutEntry:3 ...        for the third time

``Point`` is the registry: tests kill at each of its members, and ask that each is passed somewhere, so that none can be
forgotten or misspelt.

Be aware: only the environment that this process was started with counts, never that of a call that it serves. What
names no point arms nothing: the variable may be somebody else's.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

VARIABLE = "DP_CRASH_AT"


class Point(StrEnum):
    """Every crash point, as ``<part>.<what was just done>``."""

    # Every step of dataplane.steps, once it was run, by the name of its class; and any, once it was undone.
    LOAD_PROGRAMS = "step.LoadPrograms"
    PUT_ENTRY = "step.PutEntry"
    DROP_ENTRY = "step.DropEntry"
    FORGET_COUNTS = "step.ForgetCounts"
    ATTACH_PROGRAM = "step.AttachProgram"
    DETACH_PROGRAM = "step.DetachProgram"
    ATTACH_LOCALHOST = "step.AttachLocalhost"
    DETACH_LOCALHOST = "step.DetachLocalhost"
    RUN_NFT = "step.RunNft"
    INSERT_RULES = "step.InsertRules"
    DELETE_RULES = "step.DeleteRules"
    SET_SYSCTL = "step.SetSysctl"
    SET_PORT_FLAGS = "step.SetPortFlags"
    TRUST_SOURCE = "step.TrustSource"
    DISTRUST_SOURCE = "step.DistrustSource"
    FLUSH_FLOWS = "step.FlushFlows"
    STEP_UNDONE = "step.undone"

    # The state: rows that others read.
    NETWORK_NUMBERED = "state.numbered"
    SYSCTL_REMEMBERED = "state.sysctl-remembered"
    CHANGE_NOTED = "state.noted"
    CHANGE_COMMITTED = "state.committed"
    CHANGE_WITHDRAWN = "state.withdrawn"
    SYSCTLS_FORGOTTEN = "state.sysctls-forgotten"
    NOTES_SETTLED = "state.settled"
    STATE_CLEARED = "state.cleared"
    STATE_SET_ASIDE = "state.set-aside"
    STATE_REBUILT = "state.rebuilt"

    # Our tables, where they were not as they should be; the other parts of a repair are steps.
    TABLE_REPLACED = "tables.replaced"
    SKELETON_KEPT = "tables.skeleton-kept"
    ELEMENTS_REPAIRED = "tables.elements-repaired"
    ADMIN_CHAINS_REPAIRED = "tables.admin-chains-repaired"

    # Programs and their links.
    PROGRAMS_BEGUN = "programs.begun"
    PROGRAMS_COMPILED = "programs.compiled"
    PROGRAMS_RENAMED = "programs.renamed"
    TCX_LINKED = "tcx.linked"
    TCX_PINNED = "tcx.pinned"
    TCX_DETACHED = "tcx.detached"
    CGROUP_LINKED = "cgroup.linked"
    CGROUP_PINNED = "cgroup.pinned"
    CGROUP_DETACHED = "cgroup.detached"
    PINS_REMOVED = "programs.unpinned"

    # Interfaces.
    BRIDGE_MADE = "bridge.made"
    BRIDGE_UP = "bridge.up"
    BRIDGE_ADDRESSED = "bridge.addressed"
    VETH_MADE = "veth.made"
    VETH_NAMED = "veth.named"
    PORT_SET = "port.set"
    PORT_UP = "port.up"
    CONTAINER_ADDRESSED = "container.addressed"
    CONTAINER_UP = "container.up"
    CONTAINER_ROUTED = "container.routed"
    LINK_DELETED = "link.deleted"

    # Leases.
    LEASE_BEGUN = "lease.begun"
    LEASE_LINKED = "lease.linked"
    LEASE_WRITTEN = "lease.written"
    LEASE_RELEASED = "lease.released"

    # Files that dpctl installs.
    INSTALL_BACKED_UP = "install.backed-up"
    INSTALL_WRITTEN = "install.written"
    INSTALL_RENAMED = "install.renamed"
    INSTALL_LINKED = "install.linked"
    INSTALL_REMOVED = "install.removed"

    # Calls that wait for somebody who can serve them.
    CALL_WRITTEN = "queue.written"
    CALL_QUEUED = "queue.queued"
    CALL_REPLAYED = "queue.replayed"

    # The agent.
    SOCKET_BOUND = "agent.bound"
    SOCKET_LISTENING = "agent.listening"
    AGENT_READY = "agent.ready"


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(slots=True)
class _Armed:
    point: Point | None = None
    times: int = 1
    crash: Callable[[], object] = _die


_armed = _Armed()


def reached(point: Point) -> None:
    """Crash if this point is armed, and it was the last of so many times."""
    if point is not _armed.point:
        return
    _armed.times -= 1
    if _armed.times == 0:
        _armed.crash()


def arm(text: str, crash: Callable[[], object] = _die) -> None:
    """Arm the point that a text names, ``NAME`` or ``NAME:N``; any other text disarms."""
    name, colon, times = text.partition(":")
    known = name in _NAMES and (times.isdecimal() or not colon)
    _armed.point = Point(name) if known else None
    _armed.times = int(times or 1) if known else 0
    _armed.crash = crash


_NAMES = frozenset(Point)

arm(os.environ.get(VARIABLE, ""))
