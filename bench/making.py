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
    """What the makers return, begun in their order. Where one raises, or somebody interrupts, what the others have made
    so far is taken from them, and nobody is at work any more when that is raised."""
    # A host ends with the thread that made it (PR_SET_PDEATHSIG): these threads outlive what they make.
    pool = stack.enter_context(ThreadPoolExecutor(threads))
    stacks = {key: stack.enter_context(ExitStack()) for key in makers}
    futures = {key: pool.submit(make, stacks[key]) for key, make in makers.items()}
    try:
        return {key: future.result() for key, future in futures.items()}
    finally:
        for key, future in futures.items():
            if not future.done() and not future.cancel():
                stacks[key].close()  # it fails at its next step
        wait(futures.values())
