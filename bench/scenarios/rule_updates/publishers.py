"""Those who publish ports, each on a host of its own with as many ports present, and the proof that they did.

    publisher = EndToEnd(stage, stack, present=10_000)
    spent, doubt = publisher.proved(update)      # milliseconds; and why that is not what it says, or nothing

EndToEnd      our plugin, from exec to exit, by the agent
InProcess     our engine, in a process that lives
NftMap        ``nft -f -``, one element of a map
LibraryMap    libnftables in this process, the same text
PortmapRules  portmap 1.9.1 with nftables, a rule a port: its calls of nft

After each update, and outside of what is timed, the kernel is asked whether all that was to come is there with its
value, what was to go is gone, and whether there were as many transactions as this publisher makes.
"""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import replace

from bench.cni import Container
from bench.hosts.ours import Ours
from bench.instruments.held import OURS, PORTMAP, PURE, Held
from bench.instruments.starter import Starter
from bench.peers.nft import Library, Nft
from bench.peers.rulesets import CONTAINERS, PORTS_EACH, crowd, portmap_nft, pure_map
from bench.place import Host
from bench.scenarios.rule_updates.portmap import PortmapCalls
from bench.scenarios.rule_updates.resident import Resident
from bench.scenarios.rule_updates.updates import RANGES, Update, Verb, elements, in_map
from bench.stage import Stage, containers

MOST_CONTAINERS = 20
"""Of those that publish what is present: each costs a host a namespace, and peers two rules."""

_OWN = "own"
_ADDRESS = f"10.77.3.2/{CONTAINERS.partition('/')[2]}"
_SINGLE, _RANGED = "publish4", "ranges4"


def present(count: int) -> list[Container]:
    """The containers that publish so many ports, for everybody the same."""
    return crowd(count, max(PORTS_EACH, -(-count // MOST_CONTAINERS)))


class Publisher(ABC):
    """See the module."""

    def __init__(self, host: Host, own: Container) -> None:
        self.host, self._own, self._held = host, own, Held(host)

    def proved(self, update: Update) -> tuple[float, str]:
        """Milliseconds of an update, and why they are not believed. Raises ``BenchError`` where it fails."""
        self._held.settle()
        before = self._held.transactions()
        spent = self._make(update)
        made, wanted = self._held.transactions() - before, self._transactions(update)
        if made != wanted:
            return spent, f"{made} transactions, and not {wanted}"
        return spent, self._doubt(update)

    @abstractmethod
    def _make(self, update: Update) -> float:
        """Have it done; milliseconds."""

    def _transactions(self, _: Update) -> int:
        return 1

    @abstractmethod
    def _doubt(self, update: Update) -> str:
        """What is not there, or is still there."""

    def _unless_held(self, update: Update, table: tuple[int, str], *names: str) -> str:
        expected = elements(update, self._own, *names)
        return "" if self._held.as_expected(table, expected) else "the elements are not what they should be"


class EndToEnd(Publisher):
    """Our plugin and the agent."""

    def __init__(self, stage: Stage, stack: ExitStack, count: int) -> None:
        host = stack.enter_context(stage.host(f"ours-{count}"))
        self.ours = Ours(host, on_root=True)
        others, own = _fleet(host, count)
        super().__init__(host, own)
        stack.enter_context(self.ours.agent())
        self._starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
        for container in others:
            self._call("ADD", container)

    def _make(self, update: Update) -> float:
        return self._call("DEL" if update.verb is Verb.DEL else "ADD", update.container(self._own))

    def _doubt(self, update: Update) -> str:
        return self._unless_held(update, OURS, _SINGLE, _RANGED)

    def _call(self, verb: str, container: Container) -> float:
        return self.ours.call(self._starter, verb, container).milliseconds


class InProcess(Publisher):
    """Our engine alone."""

    def __init__(self, stage: Stage, stack: ExitStack, count: int) -> None:
        host = stack.enter_context(stage.host(f"engine-{count}"))
        others, own = _fleet(host, count)
        super().__init__(host, own)
        self._resident = stack.enter_context(Resident(host))
        for container in others:
            self._resident.update("ADD", container)

    def _make(self, update: Update) -> float:
        return self._resident.update("DEL" if update.verb is Verb.DEL else "ADD", update.container(self._own))

    def _doubt(self, update: Update) -> str:
        return self._unless_held(update, OURS, _SINGLE, _RANGED)


class _PureMap(Publisher):
    """A table whose ports are elements."""

    def __init__(self, stage: Stage, stack: ExitStack, count: int, name: str) -> None:
        host = stack.enter_context(stage.host(f"{name}-{count}"))
        super().__init__(host, Container(_OWN, "", _ADDRESS))
        host.run("nft", "-f", "-", text=pure_map(present(count)) + RANGES)

    def _doubt(self, update: Update) -> str:
        return self._unless_held(update, PURE)


class NftMap(_PureMap):
    """A process for each change."""

    def __init__(self, stage: Stage, stack: ExitStack, count: int) -> None:
        super().__init__(stage, stack, count, "nft")
        self._nft = Nft(stack.enter_context(Starter(self.host, stage.native, stage.cpu)))

    def _make(self, update: Update) -> float:
        return self._nft.change(in_map(update, self._own)).milliseconds


class LibraryMap(_PureMap):
    """libnftables, loaded, with its socket open."""

    def __init__(self, stage: Stage, stack: ExitStack, count: int) -> None:
        super().__init__(stage, stack, count, "library")
        self._library = Library(self.host)

    def _make(self, update: Update) -> float:
        return self._library.change(in_map(update, self._own))


class PortmapRules(Publisher):
    """A rule for each port, and DELs that look for them."""

    def __init__(self, stage: Stage, stack: ExitStack, count: int) -> None:
        host = stack.enter_context(stage.host(f"portmap-{count}"))
        super().__init__(host, Container(_OWN, "", _ADDRESS))
        host.run("nft", "-f", "-", text=portmap_nft(present(count)))
        starter = stack.enter_context(Starter(host, stage.native, stage.cpu, stderr=subprocess.DEVNULL))
        self._calls = PortmapCalls(Nft(starter))
        self._before = self._held.rules(PORTMAP)
        self._found = ""

    def _make(self, update: Update) -> float:
        container = update.container(self._own)
        if update.verb is Verb.ADD:
            return self._calls.add(container).milliseconds
        gone = self._calls.delete(container)
        wanted = update.ports.count + 2
        self._found = "" if gone.rules == wanted else f"it found {gone.rules} rules of the container, and not {wanted}"
        return gone.milliseconds + (self._calls.add(container).milliseconds if update.verb is Verb.REPLACE else 0.0)

    def _transactions(self, update: Update) -> int:
        return 2 if update.verb is Verb.REPLACE else 1

    def _doubt(self, update: Update) -> str:
        ports, others = (0, 0) if update.verb is Verb.DEL else (update.ports.count, 2)
        wanted = {**self._before, "hostports": self._before["hostports"] + ports}
        wanted["masquerading"] += others
        rules = self._held.rules(PORTMAP)
        found, self._found = self._found, ""
        return found or ("" if rules == wanted else f"chains have {rules} rules, and not {wanted}")


def _fleet(host: Host, count: int) -> tuple[list[Container], Container]:
    """Those that publish what is present, and the one with the ports that are measured. One is there at least, without
    a port, so that no call is the first or the last of its network."""
    publishing = present(count)
    *others, own = containers(host, max(len(publishing), 1) + 1, 0)
    ports = [one.ports for one in publishing] or [()]
    return [replace(one, ports=its) for one, its in zip(others, ports, strict=True)], own
