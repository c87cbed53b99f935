"""Hosts and what is on them, made several at a time: most of that is waiting, or the work of one processor.

    with ExitStack() as stack:
        hosts = at_once(stack, {"ours": make_ours, "peer": make_peer}, threads=4)

Each maker gets a stack of its own for what it makes; all of them are unwound with the given one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


def at_once(stack: ExitStack, makers: Mapping[K, Callable[[ExitStack], T]], threads: int) -> dict[K, T]:
    """What the makers return, begun in their order. Raises what one of them raises, when no other is at work any
    more."""
    # A host ends with the thread that made it (PR_SET_PDEATHSIG): these threads outlive what they make.
    pool = stack.enter_context(ThreadPoolExecutor(threads))
    futures = {key: pool.submit(make, stack.enter_context(ExitStack())) for key, make in makers.items()}
    try:
        return {key: future.result() for key, future in futures.items()}
    finally:
        # Nothing may be put into a stack that is being unwound.
        for future in futures.values():
            future.cancel()
        wait(futures.values())
