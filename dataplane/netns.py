"""Which network namespace this process is in, as far as files must tell: the host's, or another one beside it.

State, sockets and pins describe one network namespace. The host's have the plain names; in any other namespace that
shares /run or /sys/fs/bpf with the host, ``scoped`` keeps its files apart.

Be aware: the plugin imports this on every call: nothing but what Python has loaded anyway.
"""

from __future__ import annotations

import os
import socket
import sys

_SO_NETNS_COOKIE = 71
"""Linux 5.14: a number of the namespace that is never used again, as its inode number may be."""
# Process 1, or where nobody may look at it kthreadd, which is in the namespace that the kernel booted with.
_HOST_PROCESSES = ("1", "2")


def scoped(directory: str) -> str:
    """The directory itself in the host's network namespace, ``<directory>-netns-<cookie>`` in any other."""
    own = _inode("self")
    host = next((inode for inode in map(_inode, _HOST_PROCESSES) if inode), own)
    if host == own:
        return directory
    return f"{directory}-netns-{cookie()}"


def cookie() -> int:
    """The number of this thread's network namespace, by which BPF programs know it, too. Raises ``OSError`` where the
    kernel has none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)


def _inode(process: str) -> int | None:
    try:
        return os.stat(f"/proc/{process}/ns/net").st_ino  # noqa: PTH116 - pathlib costs the plugin 2 ms
    except OSError:
        return None
