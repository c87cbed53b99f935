"""Sockets that threads keep: quick to use again, and never of the wrong process, thread or network namespace."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from dataplane.namespaces import inside
from dataplane.netlink import DUMP, exchange, question
from dataplane.nft.generation import generation
from dataplane.rtnetlink import link_of
from dataplane.wires import create_bridge, links
from support.netns import Sandbox

BOX = "/run/netns/box"
GETLINK = 18
EVERY_LINK = bytes(16)  # struct ifinfomsg
THE_LOOPBACK = bytes(4) + (1).to_bytes(4, "little") + bytes(8)
NO_LINK = bytes(4) + (4711).to_bytes(4, "little") + bytes(8)


def descriptors() -> list[str]:
    """What the sockets of this process are."""
    found = (os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())  # noqa: PTH115
    return sorted(one for one in found if one.startswith("socket:"))


def waiting() -> int:
    """Bytes of messages that nobody has read, in the netlink sockets of this network namespace."""
    _, *lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()
    return sum(int(line.split()[4]) for line in lines)


def test_a_thread_keeps_one_socket_for_each_family(sandbox: Sandbox) -> None:
    """However often it asks, and until it ends."""

    def run() -> tuple[int, int, int]:
        before = len(descriptors())
        counts = []

        def ask() -> None:
            for _ in range(50):
                links()
                generation()
            counts.append(len(descriptors()) - before)

        for _ in range(2):
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
        return counts[0], counts[1], len(descriptors()) - before

    assert sandbox.call(run) == (2, 2, 0)


def test_a_forked_child_has_sockets_of_its_own(sandbox: Sandbox) -> None:
    """It starts without any, and neither reads the answers to the other."""

    def run() -> tuple[set[str], set[str]]:
        links()
        mine = set(descriptors())
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            inherited = set(descriptors())
            links()
            os.write(write, " ".join(inherited).encode() + b"\n" + str(len(descriptors())).encode())
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        names, count = os.read(read, 4096).decode().split("\n")
        inherited = set(names.split())
        assert int(count) == len(inherited) + 1
        return mine, inherited

    mine, inherited = sandbox.call(run)
    assert mine
    assert not mine & inherited


def test_work_in_another_namespace_asks_that_one(sandbox: Sandbox) -> None:
    """Whoever asked here before asks there inside, and here again afterwards."""
    sandbox.namespace("box")

    def run() -> list[set[str]]:
        seen = [{link.name for link in links()}]
        create_bridge("here")
        netns = os.open(BOX, os.O_RDONLY)
        inside(netns, lambda: create_bridge("there"))
        seen += [{link.name for link in inside(netns, links)}, {link.name for link in links()}]
        os.close(netns)
        return seen

    assert sandbox.call(run) == [{"lo"}, {"lo", "there"}, {"lo", "here"}]


def test_a_refusal_leaves_the_socket_of_use(sandbox: Sandbox) -> None:
    """What is asked next gets its own answer, from the same socket."""

    def run() -> bool:
        links()
        before = descriptors()
        with pytest.raises(OSError, match="No such device") as raised:
            exchange(socket.NETLINK_ROUTE, GETLINK, 0, NO_LINK)
        assert raised.value.errno == errno.ENODEV
        return [link.name for link in links()] == ["lo"] and descriptors() == before

    assert sandbox.call(run)


def test_a_question_has_one_answer_or_is_refused(sandbox: Sandbox) -> None:
    """No acknowledgement is left in the socket for whoever asks next, neither after an answer nor after a refusal."""

    def run() -> list[str]:
        links()
        before = descriptors()
        for _ in range(2):
            answer = question(socket.NETLINK_ROUTE, GETLINK, THE_LOOPBACK)
            assert link_of(answer).name == "lo"
            assert not waiting()
            with pytest.raises(OSError, match="No such device") as raised:
                question(socket.NETLINK_ROUTE, GETLINK, NO_LINK)
            assert raised.value.errno == errno.ENODEV
            assert not waiting()
        assert descriptors() == before
        return [link.name for link in links()]

    assert sandbox.call(run) == ["lo"]


def test_an_answer_that_was_not_read_is_nobodys(sandbox: Sandbox) -> None:
    """Where the reader was interrupted in the middle of a dump, the next one begins anew."""

    class InterruptedReadingError(Exception):
        """A signal's handler, say."""

    def interrupted(_: bytes) -> bool:
        raise InterruptedReadingError

    def run() -> list[str]:
        for number in range(100):
            create_bridge(f"bridge{number}")
        with pytest.raises(InterruptedReadingError):
            exchange(socket.NETLINK_ROUTE, GETLINK, DUMP, EVERY_LINK, interrupted)
        return [link.name for link in links()]

    assert sandbox.call(run) == ["lo", *(f"bridge{number}" for number in range(100))]
