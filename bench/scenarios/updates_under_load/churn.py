"""Changes of other ports, one after the other, while something else is measured: each a process, as runtimes make them.

    with Updates(change, pace=0.001) as updates:
        ...                                     # at most one each millisecond; slower where one takes longer
    updates.count, updates.seconds              # that were made, in how long

A change is what makes one and raises where it fails. Its processes run where its ``Starter`` is pinned; this module's
thread only hands over the jobs.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.cni import Container
from bench.hosts.sites import OurSite
from bench.instruments.starter import Starter
from bench.native import BenchError
from bench.peers.nft import Nft, one_port
from bench.peers.rulesets import PORTMAP_TABLE

PORT = 61_000
"""Of what is added and deleted; nobody else publishes it."""

Change = Callable[[], None]

_HANDLE = re.compile(r"# handle (\d+)")
_TARGET = "10.77.1.99"


class Updates:
    """See the module. Leaving the block raises what a change raised."""

    def __init__(self, change: Change, pace: float) -> None:
        self._change, self._pace = change, pace
        self._over, self._failures = threading.Event(), list[BenchError | OSError]()
        self._thread = threading.Thread(target=self._make, name="updates")
        self.count, self.seconds = 0, 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if self._failures and error is None:
            raise self._failures[0]

    def _make(self) -> None:
        began = due = time.monotonic()
        while not self._over.wait(max(due - time.monotonic(), 0.0)):
            # What came too late is not made up for.
            due = max(due, time.monotonic()) + self._pace
            try:
                self._change()
            except (BenchError, OSError) as failure:  # a starter that was ended has closed its pipes
                self._failures.append(failure)
                return
            self.count += 1
            self.seconds = time.monotonic() - began


def by_noop(starter: Starter, noop: Path) -> Change:
    """Change nothing: a static program that does nothing, started as often."""

    def change() -> None:
        starter.run(noop, {})

    return change


def by_ours(site: OurSite, network: Container) -> Change:
    """Another container comes to the network of this one and goes: ADD, then DEL, then ADD, by plugin and agent."""
    container = site.neighbour(network)
    verbs = cycle(("ADD", "DEL"))
    return lambda: site.call(next(verbs), container)


def by_element(starter: Starter) -> Change:
    """One element into a map, then out of it, by ``nft -f -``."""
    nft, verbs = Nft(starter), cycle(("add", "delete"))

    def change() -> None:
        nft.change(one_port(next(verbs), PORT))

    return change


def by_rule(starter: Starter) -> Change:
    """One rule behind all others, then away with it, by ``nft -f -``.

    portmap finds a rule to delete by listing all of them; here its handle is what nft printed when it was added.
    """
    steps = _rule_steps(Nft(starter))
    return lambda: next(steps)


def _rule_steps(nft: Nft) -> Iterator[None]:
    rule = f"{PORTMAP_TABLE} hostports tcp dport {PORT} dnat to {_TARGET}:80"
    while True:
        said = nft.change(f"add rule {rule}\n", "--echo", "--handle").output
        yield
        handle = _HANDLE.search(said)
        if handle is None:
            raise BenchError(
                f"could not delete the rule of port {PORT}: nft did not say its handle, but {said[:200]!r}"
            )
        nft.change(f"delete rule {PORTMAP_TABLE} hostports handle {handle[1]}\n")
        yield
