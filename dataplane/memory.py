"""How much memory a process with many threads keeps."""

from __future__ import annotations

import ctypes

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


def share_one_arena() -> None:
    """Have all threads allocate from one arena, before there are any.

    glibc gives each thread an arena of its own, which keeps what the largest thing that the thread ever handled took: a
    megabyte for each of 64 threads that was once sent a large frame. Other C libraries have one arena anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
