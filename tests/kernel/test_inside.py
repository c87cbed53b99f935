"""Work in another network namespace: all of it happens there, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dataplane.errors import KernelError, LinkError
from dataplane.namespaces import inside
from dataplane.sysctl import ProcSysctls
from dataplane.types import IfIndex
from dataplane.wires import change_link, create_bridge, links
from support.netns import Sandbox, wait_until

BOX = "/run/netns/box"
FORWARDING = "net/ipv4/ip_forward"  # every network namespace has one of its own


class InterruptedCallError(Exception):
    """What ends a call of these tests before its time."""


def inode() -> int:
    """The network namespace that this thread is in."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


def _there() -> None:
    netns = os.open(BOX, os.O_RDONLY)
    sysctls = ProcSysctls()
    own, other = inode(), os.fstat(netns).st_ino
    assert own != other
    assert inside(netns, inode) == other
    inside(netns, lambda: create_bridge("br0"))
    assert {link.name for link in links()} == {"lo"}
    assert {link.name for link in inside(netns, links)} == {"lo", "br0"}
    before = sysctls.read(FORWARDING)
    changed = "1" if before == "0" else "0"
    inside(netns, lambda: sysctls.write(FORWARDING, changed))
    assert (sysctls.read(FORWARDING), inside(netns, lambda: sysctls.read(FORWARDING))) == (before, changed)
    assert sysctls.read("net/ipv6/conf/br0/accept_ra") is None
    assert inside(netns, lambda: sysctls.read("net/ipv6/conf/br0/accept_ra")) is not None
    listing = inside(netns, lambda: subprocess.run(["ip", "link"], capture_output=True, text=True, check=True))
    assert "br0" in listing.stdout
    with inside(netns, lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as made:
        cookie = made.getsockopt(socket.SOL_SOCKET, 71, 8)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
        assert cookie != mine.getsockopt(socket.SOL_SOCKET, 71, 8)
    assert inode() == own
    os.close(netns)


def test_links_sysctls_sockets_and_processes_are_those_of_the_namespace(sandbox: Sandbox) -> None:
    """What is asked or changed there is not seen here, and the caller has not moved."""
    sandbox.namespace("box")
    sandbox.call(_there)


def _raises() -> None:
    netns = os.open(BOX, os.O_RDONLY)

    def broken() -> int:
        return 1 // 0

    with pytest.raises(ZeroDivisionError) as error:
        inside(netns, broken)
    assert "return 1 // 0" in "".join(traceback.format_exception(error.value))
    with pytest.raises(LinkError, match="could not change link 4711: No such device"):
        inside(netns, lambda: change_link(IfIndex(4711), up=True))
    with pytest.raises(SystemExit):
        inside(netns, lambda: sys.exit(3))
    os.close(netns)
    called: list[int] = []
    for descriptor in (netns, os.open("/", os.O_RDONLY), os.open("/proc/self/ns/mnt", os.O_RDONLY)):
        with pytest.raises(KernelError, match=f"could not enter the network namespace of descriptor {descriptor}: "):
            inside(descriptor, lambda: called.append(1))
    assert called == []


def test_errors_come_back_with_their_traceback(sandbox: Sandbox) -> None:
    """Whatever is raised there is raised here; where the namespace cannot be entered, the work is not begun."""
    sandbox.namespace("box")
    sandbox.call(_raises)


def _crowd() -> None:
    netns = os.open(BOX, os.O_RDONLY)
    other, own = os.fstat(netns).st_ino, inode()

    def work(number: int) -> int:
        if number % 2:
            raise InterruptedCallError
        return inode()

    def call(number: int) -> bool:
        try:
            there = inside(netns, lambda: work(number))
        except InterruptedCallError:
            there = other if number % 2 else 0
        return (there, inode()) == (other, own)

    def residue() -> list[set[str]]:
        return [{path.name for path in Path("/proc/self", kind).iterdir()} for kind in ("fd", "task")]

    before = residue()
    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(call, range(200)))
    # Python's join() ends a moment before the kernel's thread does.
    wait_until(lambda: residue() == before)
    os.close(netns)


def test_many_calls_at_once_leave_nothing(sandbox: Sandbox) -> None:
    """Two hundred calls, twenty at a time, half of them failing: no descriptor and no thread more than before."""
    sandbox.namespace("box")
    sandbox.call(_crowd)


def _interrupted() -> None:
    netns = os.open(BOX, os.O_RDONLY)
    done: list[float] = []

    def work() -> None:
        time.sleep(0.5)
        done.append(time.monotonic())

    def interrupt(number: int, frame: object) -> None:
        raise InterruptedCallError

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(InterruptedCallError):
        inside(netns, work)
    assert len(done) == 1
    assert threading.active_count() == 1


def test_an_interrupted_caller_waits_for_the_work(sandbox: Sandbox) -> None:
    """Whoever unwinds after a signal does not do so while the work there goes on."""
    sandbox.namespace("box")
    sandbox.call(_interrupted)
