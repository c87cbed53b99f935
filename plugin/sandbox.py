"""The container's network namespace: a descriptor that the shim opened once, proved to be one.

    inode = network_namespace(netns, "/run/netns/web")      # CniError (code 8) unless it is one, and not ours
    left = container_namespace(netns)                       # None in its place, for what must go on: DEL

A path can be made to point elsewhere between two looks at it; a descriptor cannot.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import NoReturn

from plugin.errors import CniError, Code

NS_GET_NSTYPE = 0xB703  # _IO(NSIO, 0x3) of linux/nsfs.h, since 4.11: only nsfs knows it
CLONE_NEWNET = 0x40000000


def network_namespace(netns: int, path: str) -> int:
    """The inode of the network namespace behind a descriptor. Raises ``CniError`` where it is none, or our own."""
    status = os.fstat(netns)
    if not _is_netns(netns, status):
        _refuse(f"CNI_NETNS: {path[:256]!r} is not a network namespace")
    own = Path("/proc/self/ns/net").stat()
    if (status.st_dev, status.st_ino) == (own.st_dev, own.st_ino):
        _refuse(f"CNI_NETNS: {path[:256]!r} is the host's own network namespace")
    return status.st_ino


def container_namespace(netns: int | None) -> int | None:
    """The descriptor, if there is a container's network namespace behind it. A runtime that died may have left a file
    by the name of the namespace, and nothing may ever be removed in the host's own."""
    if netns is None:
        return None
    try:
        network_namespace(netns, "")
    except CniError:
        return None
    return netns


def _is_netns(netns: int, status: os.stat_result) -> bool:
    if not stat.S_ISREG(status.st_mode):  # a device may answer this ioctl with anything
        return False
    try:
        return fcntl.ioctl(netns, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def _refuse(details: str) -> NoReturn:
    raise CniError(Code.INVALID_NETNS, "invalid network namespace", details)
