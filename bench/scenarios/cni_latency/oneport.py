"""One published port that comes and goes beside so many others: everyone who can do that, each on a host of its own.

    subject = ours(stage, stack, size=1000)
    for timed in subject.round(): ...            # ADD, CHECK, DEL; after each the port is there, is there, is gone
    prove(subject).doubt                         # "" where the kernel says the same

What the others have was published before, by the same plugin or in the form that it writes; the main plugin's work is
done, for all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

from bench.cni import Container, port
from bench.hosts.calls import VERBS, Timed, rest, took
from bench.hosts.ours import Agent, Ours
from bench.instruments.starter import Starter
from bench.native import BenchError
from bench.peers.nft import Library, Nft, one_port
from bench.peers.plugins import GoPlugins, Peer
from bench.peers.rulesets import crowd, pure_map
from bench.place import Host
from bench.stage import FIRST_PORT, Stage, containers
from dataplane.types import Protocol

OURS, AGAIN, ALONE = "dataplane", "dataplane again", "dataplane, the only container of its network"
CROWDED = "dataplane, an attachment for each port"
COLD, BY_ITSELF = "dataplane, agent just started", "dataplane, no agent"
NFT, LIBRARY, FLOOR = "nft -f -", "libnftables", "noop"

_PORT = 5000
"""Below ``FIRST_PORT``: nobody else has it."""
CONTAINERS = 100
"""That have the others' ports, in equal parts."""
_CHANGES = {"ADD": "create", "DEL": "delete"}
"""Of an element: each fails unless it changes the map."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is measured at one size."""

    name: str
    size: int
    round: Callable[[], Iterator[Timed]]
    published: Callable[[], Collection[int]] | None = None
    """The ports that its rules lead somewhere; None where each call fails by itself unless it changed the map."""
    others: Collection[int] = field(default=(), repr=False)

    @property
    def label(self) -> str:
        """Of a turn."""
        return f"{self.name} at {self.size}"


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of a round that was looked at."""

    doubt: str
    """Why it did not do what its verbs say; empty where it did."""
    seconds: float
    """That it took, without the looking."""


def prove(subject: Subject) -> Proof:
    """Make a round, and ask the kernel: is the port published after ADD and gone after DEL, with all the others there
    throughout, and nothing else?"""
    there = {"ADD": {*subject.others, _PORT}, "DEL": set(subject.others)}
    doubt, seconds, began = "", 0.0, time.monotonic()
    for timed in subject.round():
        seconds += time.monotonic() - began
        if subject.published is not None and timed.verb in there and not doubt:
            wanted, published = there[timed.verb], set(subject.published())
            if published != wanted:
                doubt = f"after {timed.verb} {len(published):,} ports are published that are not the {len(wanted):,}"
        began = time.monotonic()
    return Proof(doubt, seconds + time.monotonic() - began)


def ours(stage: Stage, stack: ExitStack, size: int, *, alone: bool = False) -> list[Subject]:
    """The chained plugin, served by the agent; twice under two names. ``alone``: the network has no other container."""
    host = stack.enter_context(stage.host("ours-alone" if alone else f"ours-{size}"))
    plugins = Ours(host, on_root=True)
    present, own = _fleet(host, size, many=stage.many)
    agent = stack.enter_context(plugins.agent())
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    if not alone:
        _add(starter, plugins, present)
    names = (ALONE,) if alone else (OURS, AGAIN)
    calls = _calls(starter, plugins, own, agent)
    return [Subject(name, size, calls, plugins.published, _ports(present)) for name in names]


def crowded(stage: Stage, stack: ExitStack, size: int) -> Subject:
    """Ours with as many attachments as ports. They are attached one by one, and lead to ``CONTAINERS`` containers: a
    namespace and a veth for each would be the kernel's work, and take longer than all else. So a container has many,
    each under an id of its own, with an address and a port. Raises ``BenchError`` where we know of more, or of fewer.
    """
    host = stack.enter_context(stage.host(f"crowded-{size}"))
    plugins = Ours(host)
    holders, own = _fleet(host, size)
    agent = stack.enter_context(plugins.agent())
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    _add(starter, plugins, [one for holder in holders for one in _each(holder)])
    attached = len(json.loads(plugins.dpctl("ps", "--json"))["attachments"])
    if attached != size:
        raise BenchError(f"could not make {size:,} attachments: there are {attached:,}")
    return Subject(CROWDED, size, _calls(starter, plugins, own, agent), plugins.published, _ports(holders))


def without_agent(stage: Stage, stack: ExitStack, size: int) -> list[Subject]:
    """The same with no agent, where the plugin does the work itself; and with one that has just answered for the first
    time: its ADD is the first call that it serves."""
    host = stack.enter_context(stage.host(f"agentless-{size}"))
    plugins = Ours(host, on_root=True)
    present, own = _fleet(host, size)
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    with plugins.agent():
        _add(starter, plugins, present)

    def cold() -> Iterator[Timed]:
        with plugins.agent() as agent:
            yield from _calls(starter, plugins, own, agent)()

    rounds = {BY_ITSELF: _calls(starter, plugins, own, None), COLD: cold}
    return [Subject(name, size, calls, plugins.published, _ports(present)) for name, calls in rounds.items()]


def portmap(stage: Stage, stack: ExitStack, size: int, number: int, peer: Peer) -> Subject:
    """Somebody else's chained plugin; ``number`` tells the hosts of peers apart."""
    host = stack.enter_context(stage.host(f"peer{number}-{size}"))
    go = GoPlugins(host, peer)
    present, own = _fleet(host, size, many=stage.many and not number)
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    go.preload(starter, [container for container in present if container.ports])
    plugin, text = go.plugin("portmap"), go.portmap(own)
    variables = {verb: go.environment(verb, own, "portmap") for verb in VERBS}

    def calls() -> Iterator[Timed]:
        for verb in VERBS:
            yield took(verb, [starter.run(plugin, variables[verb], text)])

    return Subject(peer.name, size, calls, go.published, _ports(present))


def nft(stage: Stage, stack: ExitStack, size: int) -> Subject:
    """One element of a map with so many others, by a process."""
    host = _with_map(stage, stack, f"nft-{size}", size)
    process = Nft(stack.enter_context(Starter(host, stage.native, stage.cpu)))

    def calls() -> Iterator[Timed]:
        for verb, change in _CHANGES.items():
            yield took(verb, [process.change(one_port(change, _PORT))])

    return Subject(NFT, size, calls)


def library(stage: Stage, stack: ExitStack, size: int) -> Subject:
    """The same in process."""
    loaded = Library(_with_map(stage, stack, f"library-{size}", size))

    def calls() -> Iterator[Timed]:
        for verb, change in _CHANGES.items():
            yield Timed(verb, loaded.change(one_port(change, _PORT)))
            rest()

    return Subject(LIBRARY, size, calls)


def floor(stage: Stage, stack: ExitStack) -> Subject:
    """The start of a static program that does nothing."""
    host = stack.enter_context(stage.host("floor"))
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    if not stage.native.static:
        stage.log.note("the floor is a dynamically linked program: there is no static libc here")
    return Subject(FLOOR, 0, lambda: iter((took("ADD", [starter.run(stage.native.noop, {})]),)))


def _calls(starter: Starter, plugins: Ours, own: Container, agent: Agent | None) -> Callable[[], Iterator[Timed]]:
    def calls() -> Iterator[Timed]:
        for verb in VERBS:
            before = agent.cpu_milliseconds if agent else 0.0
            done = plugins.call(starter, verb, own, alone=agent is None)
            yield took(verb, [done], agent, before)

    return calls


def _add(starter: Starter, plugins: Ours, present: list[Container]) -> None:
    for container in present:
        plugins.call(starter, "ADD", container)


def _with_map(stage: Stage, stack: ExitStack, name: str, size: int) -> Host:
    """A host with a map of so many ports."""
    host = stack.enter_context(stage.host(name))
    present = crowd(size, protocols=(Protocol.TCP,), first=FIRST_PORT)
    host.run("nft", "-f", "-", text=pure_map(present))
    return host


def _fleet(host: Host, size: int, *, many: bool = False) -> tuple[list[Container], Container]:
    """Containers that ask for so many ports together, and one more with the port that is measured. One is there at
    least, without a port, so that no call is the first or the last of its network. ``many``: each asks for one."""
    count = min(size, size if many else CONTAINERS) or 1
    *present, own = containers(host, count + 1, size // count)
    return present, replace(own, ports=(port(_PORT, 80),))


def _each(holder: Container) -> Iterator[Container]:
    """An attachment for each port of a container."""
    address = ip_interface(holder.address)
    for number, one in enumerate(holder.ports):
        # Containers are within the first 256 addresses that are theirs: the next of the same are nobody's.
        alone = f"{address.ip + 256 * number}/{address.network.prefixlen}"
        yield replace(holder, name=f"{holder.name}-{number}", address=alone, ports=(one,))


def _ports(present: list[Container]) -> list[int]:
    return [int(str(one["hostPort"])) for container in present for one in container.ports]
