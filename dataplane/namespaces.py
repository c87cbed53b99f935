"""Work in another network namespace, without leaving this one.

    held = inside(netns, lambda: addresses(index))

A fresh thread enters the namespace and ends there: nothing has to come back, so nothing can fail to. Sockets that it
opens, processes that it starts and paths below /proc/sys/net that it opens are of that namespace.

Be aware: /proc/self and /proc/net are those of the process, and so of the old namespace, even there; /proc/thread-self
is right. An index or name of a link means another one there than here.
"""

from __future__ import annotations

import _thread
import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

from dataplane.errors import KernelError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def inside(netns: int, work: Callable[[], T]) -> T:
    """What ``work`` returns in the network namespace of this descriptor, or raises, with the traceback from there.

    Raises ``KernelError`` where the descriptor is not that of a network namespace, or entering it is not permitted.
    """
    returned: list[T] = []
    raised: list[BaseException] = []
    ended = threading.Event()

    def there() -> None:
        try:
            _enter(netns)
            returned.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below, where somebody hears it
            raised.append(error)
        finally:
            ended.set()

    # Not threading.Thread: to wait for its beginning, and for its very end, costs as much as most of the work.
    _thread.start_new_thread(there, ())
    try:
        ended.wait()
    finally:
        # Once more, where a signal's handler raised in the first: nobody here undoes what is still being done there.
        ended.wait()
    try:
        if raised:
            raise raised[0]
        return returned[0]
    finally:
        # The traceback holds this frame, and this frame would hold the error: with all that the frames there held.
        raised.clear()


def _enter(netns: int) -> None:
    # os.setns came with Python 3.12.
    if _LIBC.setns(netns, _CLONE_NEWNET):
        raise KernelError.from_errno("enter", f"the network namespace of descriptor {netns}", ctypes.get_errno())
