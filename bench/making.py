"""Hosts and what is on them, made several at a time: most of that is waiting, or the work of one processor.

    with ExitStack() as stack:
        hosts = at_once(stack, {"ours": make_ours, "peer": make_peer}, threads=4)

    work_on({host: partial(publish, host) for host in hosts.values()}, threads=2)

Each maker gets a stack of its own for what it makes; all of them are unwound with the given one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from bench.place import Host

K = TypeVar("K")
T = TypeVar("T")


@contextmanager
def workers(hosts: Iterable[Host], threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that work on hosts, until the block ends. Where something is raised in it, or somebody interrupts, the
    hosts are ended at once: what is being done there fails, and nobody waits for it."""
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for host in hosts:
                host.stop()
            raise


def work_on(works: Mapping[Host, Callable[[], object]], threads: int) -> None:
    """Do something on each of these hosts, begun in their order. Where one raises, or somebody interrupts, all of
    them are ended."""
    with workers(works, threads) as pool:
        for future in [pool.submit(work) for work in works.values()]:
            future.result()


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
