"""Events from the programs' ring buffer, through libbpf.

    with open_events(fd) as events:
        for event in events.poll(timeout=0.5): ...

Be aware: there is one ring, and an event goes to one reader: two readers share what there is. Programs may write as
fast as it is read, so one reading ends after ``AT_ONCE`` events; the rest stays in the ring for the next one.
"""

from __future__ import annotations

import ctypes
import errno as errnos
from types import TracebackType
from typing import Any, Self

from dataplane import abi
from dataplane.errors import BpfError, MissingDependencyError

AT_ONCE = 1000
"""Events that one reading takes at most."""

_ENOUGH = -errnos.EAGAIN
"""What ends a reading. libbpf consumes as long as there is anything, and hands on what is negative from a callback: by
then the event counts as consumed (ringbuf_process_ring). epoll_wait(2), its other source of errors, never says this."""

_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class EventReader:
    """The consuming end of the ring buffer."""

    def __init__(self, libbpf: ctypes.CDLL, map_fd: int) -> None:
        self._libbpf = libbpf
        self._pending: list[abi.Event] = []
        self._callback: Any = _SAMPLE(self._sample)  # kept: the C side holds only its address
        self._ring: int | None = libbpf.ring_buffer__new(map_fd, self._callback, None, None)
        if not self._ring:
            raise BpfError.from_errno("open", "the event ring", ctypes.get_errno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """Readable (epoll, select) while there are events."""
        return int(self._libbpf.ring_buffer__epoll_fd(self._ring))

    def poll(self, timeout: float = 0.0) -> tuple[abi.Event, ...]:
        """What came, oldest first, at most ``AT_ONCE`` events; waits ``timeout`` seconds for the first. Raises
        ``BpfError``."""
        result = self._libbpf.ring_buffer__poll(self._ring, int(timeout * 1000))
        if result < 0 and result not in (-errnos.EINTR, _ENOUGH):
            raise BpfError.from_errno("read", "the event ring", -result)
        came, self._pending = tuple(self._pending), []
        return came

    def close(self) -> None:
        """Stop reading; a second time does nothing."""
        if self._ring:
            self._libbpf.ring_buffer__free(self._ring)
            self._ring = None

    def _sample(self, _context: int, address: int, size: int) -> int:
        if size >= abi.EVENT.size:
            self._pending.append(abi.Event.unpack(ctypes.string_at(address, abi.EVENT.size)))
        return 0 if len(self._pending) < AT_ONCE else _ENOUGH


def open_events(map_fd: int) -> EventReader:
    """Read the ring behind a map descriptor, which may be closed afterwards. Raises ``BpfError``,
    ``MissingDependencyError``."""
    try:
        libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise MissingDependencyError(f"could not load libbpf.so.1: {error}; apt-get install libbpf1") from error
    libbpf.ring_buffer__new.restype = ctypes.c_void_p
    libbpf.ring_buffer__new.argtypes = (ctypes.c_int, _SAMPLE, ctypes.c_void_p, ctypes.c_void_p)
    for function in (libbpf.ring_buffer__free, libbpf.ring_buffer__epoll_fd):
        function.argtypes = (ctypes.c_void_p,)
    libbpf.ring_buffer__poll.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return EventReader(libbpf, map_fd)
