"""Hosts that publish many ports, each in one way, between a client whose every flow is new and one container.

    site = Site(host, Way.RULES, size=10_000)
    site.publish(native)                       # by our plugin, or by the text of what others have in the kernel
    site.lead(stack, log)                      # what an ADD attaches to the root of the cgroups
    with site.flows(native, cpu) as flows:
        doubts = site.prove(flows)             # a few flows to each target, and what the kernel says of them
        flows.measure(site.number(Protocol.UDP, Place.LAST), milliseconds=10, least=10)

Our own ports are published by our plugin, at its defaults: nothing is put into our tables or maps by anybody else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bench.cni import Container
from bench.figures import Log
from bench.hosts.cgroups import lead, own_cgroup_if_any
from bench.hosts.ours import Ours
from bench.hosts.wiring import BRIDGE, CLIENT, GATEWAY, HOST, edge, plugged, veth
from bench.instruments.newflows import NewFlows, give_sources
from bench.instruments.starter import Starter
from bench.native import Native
from bench.peers.plugins import NETWORK
from bench.peers.rulesets import MAP_TABLE, PORTMAP_TABLE, portmap_iptables, portmap_nft, pure_map
from bench.place import Host
from bench.scenarios.first_packet.ways import ADDRESS, Place, Seen, Way, doubts, publishers, targets
from dataplane.nft.client import LibNftables
from dataplane.nft.objects import TABLE
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.types import DEVICE_PROGRAMS, Program, Protocol

_NFT_ONLY = {"ingressPolicy": "open", "checksum": "off", "guard": "off"}
_PORTS_OF_AN_ADD = 5_000
"""Of a container of ours that is only present: a configuration has a limit, and each ADD takes its time."""
_IPTABLES = {Way.IPTABLES_NFT: "iptables-nft", Way.IPTABLES_LEGACY: "iptables-legacy"}
_PROVING = 10  # flows to each target, at the least


class Site:
    """See the module."""

    def __init__(self, host: Host, way: Way, size: int) -> None:
        self.host, self.way = host, way
        self._cgroup: Path | None = None
        self._targets = targets(size)
        self._containers = publishers(size, _PORTS_OF_AN_ADD) if way.ours else publishers(size)
        self.ports = sum(len(one.ports) for one in self._containers)
        """How many are published: at the least one number for each protocol."""

    @property
    def name(self) -> str:
        return f"{self.way}, {self.ports:,} ports"

    def number(self, protocol: Protocol, place: Place) -> int:
        """Of a target, as ``NewFlows`` counts them. Raises ``ValueError`` for one that is not there."""
        return list(self._targets).index((protocol, place))

    def flows(self, native: Native, cpu: int) -> NewFlows:
        """Both ends, for all targets."""
        wanted = list(self._targets.values())
        if self.way is Way.VETH:
            wanted = [replace(one, port=one.listen) for one in wanted]
        client, server = (self.host.existing(name).path for name in ("client", "web0"))
        return NewFlows(self.host, native, cpu, client, HOST, server, wanted, self._cgroup)

    def publish(self, native: Native) -> None:
        """Put client and container in their places, and have all ports in the kernel. Raises ``BenchError``."""
        if self.way is Way.VETH:
            client, web = veth(self.host, [f"{CLIENT}/24"], [f"{HOST}/24"])
            give_sources(client, CLIENT, web)
            return
        client, own = edge(self.host), plugged(self.host)
        give_sources(client, CLIENT, self.host)
        match self.way:
            case Way.MAP:
                self.host.run("nft", "-f", "-", text=pure_map(self._containers))
            case Way.RULES:
                self.host.run("nft", "-f", "-", text=portmap_nft(self._containers))
            case Way.IPTABLES_NFT | Way.IPTABLES_LEGACY:
                text = portmap_iptables(self._containers, NETWORK)
                self.host.run(f"{_IPTABLES[self.way]}-restore", text=text)
            case Way.OURS | Way.AGAIN | Way.NFT_ONLY:
                self._add(native, own)

    def lead(self, stack: ExitStack, log: Log) -> None:
        """Attach what an ADD attaches to the root of the cgroups, until the stack is unwound: to a cgroup that both
        ends of ``flows`` are in."""
        if self.way.programs and (cgroup := own_cgroup_if_any(stack, log)):
            lead(stack, self.host, cgroup)
            self._cgroup = cgroup

    def prove(self, flows: NewFlows) -> list[str]:
        """Why figures of this site would not be about what it is named for; nothing where they would. Slow.

        Of a bare veth there is nothing to ask: that conntrack sees none of its flows is said by each round.
        """
        if self.way is Way.VETH:
            return []
        made = 0

        def make() -> None:
            nonlocal made
            made = sum(flows.measure(number, 0, _PROVING).made for number in range(len(self._targets)))

        seen = self._seen(make)
        return [f"{self.name}: {text}" for text in doubts(self.way, self.ports, made, seen)]

    def _seen(self, make: Callable[[], None]) -> Seen:
        if self.way in _IPTABLES:
            make()
            return saved(self.host.run(f"{_IPTABLES[self.way]}-save", "-c", "-t", "nat"))
        if self.way is Way.RULES:
            with _counters(self.host, PORTMAP_TABLE, "hostports") as listed:
                make()
                text = listed()
            return Seen(text.count(" dnat to "), _taken(text), re.findall(r'comment "(\S+)"', text))
        if self.way is Way.MAP:
            with _counters(self.host, MAP_TABLE, "prerouting") as listed:
                make()
                decided = _taken(listed())
            return Seen(self.host.run("nft", "list", "map", *MAP_TABLE.split(), "ports").count(" : 10.77."), decided)
        with _counters(self.host, TABLE, "publish_in", behind=2) as listed, syscall.enable_stats():
            before = self.host.inside(_runs)
            make()
            runs = {program: count - before[program] for program, count in self.host.inside(_runs).items()}
            decided = _taken(listed())
        sizes = self.host.inside(lambda: LibNftables().sizes())
        return Seen(sum(count for name, count in sizes.items() if name.startswith("publish")), decided, runs=runs)

    def _add(self, native: Native, own: Container) -> None:
        """By the plugin itself, a container after the other: an agent would be one process more that may wake up."""
        ours, options = Ours(self.host), _NFT_ONLY if self.way is Way.NFT_ONLY else {}
        with Starter(self.host, native) as starter:
            for container in self._gathered(own):
                ours.call(starter, "ADD", container, options, alone=True)

    def _gathered(self, own: Container) -> Iterator[Container]:
        """One container with all measured ports, and the others, each with a namespace and a link."""
        measured = [one for one in self._containers if one.address == ADDRESS]
        others = [one for one in self._containers if one.address != ADDRESS]
        yield replace(own, ports=tuple(mapping for one in measured for mapping in one.ports))
        for one, place in zip(others, self.host.namespaces([one.name for one in others]), strict=True):
            link = self.host.wire(BRIDGE, place, one.address, GATEWAY)
            yield replace(one, gateway=GATEWAY, bridge=BRIDGE, link=link)


def refusal(host: Host, way: Way) -> str:
    """Why ports cannot be published this way on this machine: what iptables says. Empty where they can."""
    if way not in _IPTABLES:
        return ""
    program = _IPTABLES[way]
    said = host.run("sh", "-c", f"{program} -t nat -S 2>&1 >/dev/null || echo {program} failed").strip()
    return said if said.endswith("failed") else ""


def saved(text: str) -> Seen:
    """What ``iptables-save -c -t nat`` says of portmap's rules: each DNAT rule is a port, and counts new flows."""
    dnat = [line for line in text.splitlines() if " -j DNAT " in line]
    decided = sum(int(line[1:].partition(":")[0]) for line in dnat)
    return Seen(len(dnat), decided, re.findall(r'id: \\"(\S+)\\"', text))


@contextmanager
def _counters(host: Host, table: str, chain: str, behind: int = 0) -> Iterator[Callable[[], str]]:
    """A counter behind the first few rules of a chain and one behind all of them, for a while; calling it lists the
    chain."""
    first = f"add rule {table} {chain} index {behind - 1} counter" if behind else f"insert rule {table} {chain} counter"
    added = f"{first}\nadd rule {table} {chain} counter\n"
    handles = re.findall(r"# handle (\d+)", host.run("nft", "-e", "-a", "-f", "-", text=added))
    try:
        yield lambda: host.run("nft", "list", "chain", *table.split(), chain)
    finally:
        text = "".join(f"delete rule {table} {chain} handle {handle}\n" for handle in handles)
        host.run("nft", "-f", "-", text=text)


def _taken(chain: str) -> int:
    """How many packets came to the first rule of a chain and not to the last: those that a rule between them took."""
    # Rules of the chain itself may count, too, and say more than that.
    came, missed = (int(count) for count in re.findall(r"^\s*counter packets (\d+) bytes \d+$", chain, re.MULTILINE))
    return came - missed


def _runs() -> dict[Program, int]:
    door = KernelPrograms()
    return {program: door.program(program).runs if door.loaded() else 0 for program in DEVICE_PROGRAMS}
