"""Sockets of several network namespaces in one process: a socket stays in the namespace that it was made in.

with entered("/run/netns/web"):                      # inside a sandbox: sandbox.call(...)
    receiver = socket.socket(...)
sender = socket.socket(...)
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def entered(path: str) -> Iterator[None]:
    """Be in another network namespace for a while; an empty path is the one where one is."""
    if not path:
        yield
        return
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(path)
        yield
        _setns(back)
    finally:
        os.close(back)


def _enter(path: str) -> None:
    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(there)
    finally:
        os.close(there)


def _setns(descriptor: int) -> None:
    if _LIBC.setns(descriptor, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")
