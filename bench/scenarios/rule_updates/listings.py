"""What it takes to list what a host publishes, in each of the ways in which people do, and what that does to others.

    lister = Lister(host, starter)
    spent, doubt = lister.listed(one)              # milliseconds; and why the listing is not whole, or nothing
    with lister.listing(one) as under_way: ...     # it begins here, and is waited for at the end
    under_way.covers(began, ended)

A listing is started as its caller starts it, and read to its end. It is believed where it tells as many ports as there
are.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.hosts.ours import DPCTL, Ours
from bench.instruments.held import PORTMAP
from bench.instruments.starter import Done, Starter
from bench.native import BenchError
from bench.place import SYSTEM_PATH

_ELEMENT = re.compile(r"\b(?:tcp|udp) \. [0-9]")
_ELEMENT_IN_JSON = re.compile(r'\["(?:tcp|udp)", [0-9]')
_PUBLISHED = re.compile(r"^ports +([0-9]+) published", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Listing:
    """One way to ask."""

    name: str
    command: tuple[str, ...]
    told: Callable[[str], int]
    """How many ports its output tells of."""
    brief: bool = False
    """It tells of none, and is asked for just that."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class UnderWay:
    """A listing that was begun. Seconds of ``time.monotonic``."""

    began: float = 0.0
    ended: float = 0.0

    def covers(self, began: float, ended: float) -> bool:
        """Whether something happened while it was under way; known when it has ended."""
        return self.began <= began and ended <= self.ended


class Lister:
    """Asks on one host."""

    def __init__(self, starter: Starter, present: int) -> None:
        self._starter, self._present = starter, present

    def listed(self, one: Listing) -> tuple[float, str]:
        """Milliseconds, and what is wrong. Raises ``BenchError`` where it fails."""
        done = self._run(one)
        told, wanted = one.told(done.output), 0 if one.brief else self._present
        return done.milliseconds, "" if told == wanted else f"it tells of {told:,} ports, and not of {wanted:,}"

    @contextmanager
    def listing(self, one: Listing) -> Iterator[UnderWay]:
        """Have one under way."""
        made, raised = UnderWay(time.monotonic()), list[BenchError]()

        def list_it() -> None:
            try:
                spent = self._run(one).milliseconds
            except BenchError as error:
                raised.append(error)
            else:
                made.ended = made.began + spent / 1000

        thread = threading.Thread(target=list_it, name="listing")
        thread.start()
        try:
            yield made
        finally:
            thread.join()
        if raised:
            raise raised[0]

    def _run(self, one: Listing) -> Done:
        program, *words = one.command
        found = shutil.which(program, path=SYSTEM_PATH)
        if found is None:
            raise BenchError(f"could not find {program}")
        return self._starter.run(Path(found), {"PATH": SYSTEM_PATH, **one.environment}, words=tuple(words))


RULESET = Listing("nft list ruleset", ("nft", "list", "ruleset"), lambda text: len(_ELEMENT.findall(text)))
OF_PORTMAP = (
    Listing("portmap: nft list ruleset", ("nft", "list", "ruleset"), lambda text: text.count(" dnat to ")),
    Listing(
        "portmap: nft --json list chain",
        ("nft", "--json", "list", "chain", "ip", PORTMAP[1], "hostports"),
        lambda text: text.count('"dnat"'),
    ),
)
"""Of a table with a rule a port; the second is what each DEL of portmap asks for."""


def of_ours(ours: Ours) -> tuple[Listing, ...]:
    """Of our table, by nft and by dpctl."""
    settings = ours.settings
    return (
        RULESET,
        Listing("nft -j list ruleset", ("nft", "-j", "list", "ruleset"), _told_in_json),
        Listing("nft -t list ruleset", ("nft", "-t", "list", "ruleset"), RULESET.told, brief=True),
        Listing("nft list map publish4", ("nft", "list", "map", "inet", "dataplane", "publish4"), RULESET.told),
        Listing(
            "dpctl ports", (*DPCTL, "ports"), lambda text: max(len(text.splitlines()) - 1, 0), environment=settings
        ),
        Listing("dpctl status", (*DPCTL, "status"), _published, environment=settings),
    )


def _told_in_json(text: str) -> int:
    return len(_ELEMENT_IN_JSON.findall(text))


def _published(text: str) -> int:
    found = _PUBLISHED.search(text)
    return int(found[1]) if found else 0
