"""A host with a thousand networks, which one or another keeps apart: turn by turn, while sockets stay open.

    with Scene(host, native, sizes=(2, 1000)) as scene:
        scene.take(Variant.SETS, 1000)           # exactly this is in force
        scene.ends(ROUTED)                       # who makes round trips
        scene.denied(flood, batches)             # -> Denied(sent, refused, arrived, dropped)

Four networks have a bridge and a container, and are added by our plugin, with all defaults: two are kept apart, two are
open. All devices are there from the beginning to the end, so that nothing differs from size to size but rules and
entries. What is published is published by a table of its own, in all turns alike; so connections are tracked in all.

Be aware: in the place of the other bridges, which no packet ever meets, there are ends of veths. The kernel waits for
an RCU grace period for each bridge that it removes (br_vlan_flush), and holds the lock that everybody's network
settings need meanwhile: a thousand of them would stop the machine's networking for ten seconds.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path as FilePath
from types import TracebackType
from typing import Self

from bench.cni import Container, port
from bench.hosts.cgroups import attach, serve
from bench.hosts.ours import Ours
from bench.hosts.wiring import CLIENT, HOST, edge
from bench.instruments.floods import Flood
from bench.instruments.roundtrips import Ends
from bench.instruments.starter import Starter
from bench.native import BenchError, Native
from bench.peers.firewall import Network
from bench.place import Host, Namespace
from bench.scenarios.isolation import rules as isolations
from bench.scenarios.isolation.rules import (
    HERE,
    HERE_NETWORK,
    OPEN_NETWORKS,
    PUBLISHED,
    ROUTED,
    THERE_NETWORK,
    Denied,
    Passed,
    Path,
    Variant,
)
from dataplane import abi
from dataplane.nft.client import LibNftables, command, new_library
from dataplane.nft.objects import Comment, Element, LinkIndex
from dataplane.nft.transaction import Transaction, add, delete
from dataplane.programs.door import KernelPrograms
from dataplane.types import ChecksumMode, IfIndex, IsolationPolicy, Program

HOST_PORT, DENIED = 30000, 9009

_FIRST_ID = 1000
"""Ids of networks that have no container here."""
_PORTS = f"""table ip bench_ports {{
	chain prerouting {{
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local udp dport {HOST_PORT} dnat to {HERE_NETWORK.container}:{PUBLISHED.listen}
	}}
}}
"""


class Scene:
    """See the module."""

    def __init__(
        self,
        host: Host,
        native: Native,
        sizes: Sequence[int],
        variants: Collection[Variant],
        cgroup: FilePath | None = None,
    ) -> None:
        """``cgroup``: what an ADD attaches to the root of the cgroups is attached there, where all defaults are."""
        self.host, self.cgroup = host, cgroup
        self._links = ExitStack()
        self._networks = {size: isolations.crowd(size) for size in sizes}
        self._outside = edge(host)
        peopled = (HERE_NETWORK, THERE_NETWORK, *OPEN_NETWORKS)
        crowd = [network for network in self._networks[max(sizes)] if network not in peopled]
        everybody = [*peopled, *crowd]
        host.run("ip", "-batch", "-", text="".join([*map(_bridge, peopled), *_stand_ins(crowd)]))
        self._places: dict[Network, Namespace] = dict(
            zip(peopled, host.namespaces([f"c{number}" for number in range(len(peopled))]), strict=True)
        )
        links = {network: self._wire(network) for network in peopled}
        self._add(native, links)
        self._write(variants)
        indexes = host.inside(lambda: {name: IfIndex(number) for number, name in socket.if_nameindex()})
        self._index = {network: indexes[network.bridge] for network in everybody}
        # Where packets of the round trips, and those that are denied, leave a bridge, or a container.
        self._bridges = [self._index[network] for network in (HERE_NETWORK, *OPEN_NETWORKS)]
        self._veths = [indexes[links[network]] for network in peopled]
        self._ids: dict[Network, int] = {}
        self._attached: set[tuple[Program, IfIndex]] = set()
        self._entries: frozenset[Network] = frozenset()
        self._members: frozenset[Network] = frozenset()
        self._force: tuple[Variant, int] | None = None
        self._counted: dict[str, int] = {}
        self._library = host.inside(new_library)
        awake = [one for one in (Variant.DEFAULTS, Variant.STAGES) if one in {Variant.DEFAULTS, *variants}]
        self._nft(isolations.asleep(isolations.table(one, max(sizes)) for one in awake))
        self._pair = host.inside(lambda: self._begin([*(self._index[one] for one in peopled), *self._veths]))
        self._events = host.inside(lambda: KernelPrograms().events())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._events.close()
        self._links.close()

    def ends(self, path: Path) -> Ends:
        """Who talks to whom on a path."""
        here, one, other = (self._places[network].path for network in (HERE_NETWORK, *OPEN_NETWORKS))
        if path == PUBLISHED:
            return Ends(self._outside.path, HOST, HOST_PORT, here, path.listen)
        if path == ROUTED:
            return Ends(here, CLIENT, path.listen, self._outside.path, path.listen)
        return Ends(one, str(OPEN_NETWORKS[1].container), path.listen, other, path.listen)

    def flood(self, native: Native, cpu: int) -> Flood:
        """Whoever sends from there to here."""
        there, here = self._places[THERE_NETWORK], self._places[HERE_NETWORK]
        ends = (there.path, str(HERE_NETWORK.container), DENIED, here.path)
        return Flood(self.host, native, cpu, *ends, cgroup=self.cgroup)

    def take(self, variant: Variant, size: int) -> None:
        """Have this variant in force, for so many networks, and no other."""
        self._nft(isolations.turn(self._force, (variant, size)))
        self._force = (variant, size)
        self.host.inside(lambda: self._take(variant, frozenset(self._networks[size])))

    def denied(self, flood: Flood, batches: int, flows: int = 1) -> tuple[Denied, float]:
        """Send from there to here, so many flows in turn; what became of it, and nanoseconds for each."""
        if self._force is None:
            raise AssertionError("nothing is in force")
        # As for an agent that keeps up, there is room for an event of each drop.
        while self._events.poll():
            pass
        where = isolations.dropping(*self._force)
        made, before = flood.measure(batches, flows), self._counted.get(where, 0)
        self._counted[where] = dropped = self._dropped(where)
        return Denied(made.sent, made.refused, made.arrived, dropped - before), made.p50

    def seen(self) -> Passed:
        """What was seen so far of packets that may pass."""
        if self._force is None:
            raise AssertionError("nothing is in force")
        scanned = 0
        if chain := isolations.scanning(*self._force):
            scanned = _counters(self._nft(f"list chain {chain}"))[-1]
        runs = self.host.inside(
            lambda: {one: KernelPrograms().program(one).runs for one in isolations.programs(Variant.DEFAULTS)}
        )
        return Passed(0, scanned, runs)

    # Below: once.

    def _wire(self, network: Network) -> str:
        return self.host.wire(network.bridge, self._places[network], f"{network.container}/24", str(network.gateway))

    def _add(self, native: Native, links: dict[Network, str]) -> None:
        """ADD the containers by the plugin itself: there is no agent, which would repair what is attached here."""
        ours = Ours(self.host)
        with Starter(self.host, native) as starter:
            for network, link in links.items():
                place, address = self._places[network], f"{network.container}/24"
                ports = (port(HOST_PORT, PUBLISHED.listen, "udp"),) if network == HERE_NETWORK else ()
                container = Container(
                    place.name, place.path, address, str(network.gateway), network.bridge, link, ports
                )
                keys = {"ingressPolicy": "open"} if network in OPEN_NETWORKS else {}
                ours.call(starter, "ADD", container, keys, network=network.bridge, alone=True)

    def _write(self, variants: Collection[Variant]) -> None:
        """Have everybody's rules, all asleep."""
        tables = [_PORTS]
        for networks in self._networks.values():
            tables += [isolations.linear(networks)] if Variant.LINEAR in variants else []
            tables += [isolations.sets(networks)] if Variant.SETS in variants else []
        self.host.run("nft", "-f", "-", text="".join(tables))
        if Variant.STAGES in variants:
            self.host.run("iptables-restore", text=isolations.restored(self._networks))

    # Below: on the host.

    def _nft(self, text: str) -> str:
        return command(self._library, text, "change", "the rules of a variant") if text else ""

    def _begin(self, devices: Sequence[IfIndex]) -> bytes:
        """Have nothing attached to these, and the programs of the cgroups serve the processes of the host; the pair of
        networks whose drops are counted."""
        door = KernelPrograms()
        serve(door)
        for device in devices:
            for one in door.hooked(device):
                door.detach(one.program, device)
        for network in (THERE_NETWORK, HERE_NETWORK):
            raw = door.get("networks", abi.U32.pack(self._index[network]))
            if raw is None:
                raise BenchError(f"could not begin: our plugin knows no network on {network.bridge}")
            self._ids[network] = abi.NetworkEntry.unpack(raw).id
        return abi.NETWORK_PAIR.pack(*self._ids.values())

    def _take(self, variant: Variant, networks: frozenset[Network]) -> None:
        door, programs = KernelPrograms(), isolations.programs(variant)
        wanted = {
            (program, device) for program in programs for device in (self._veths if program.of_port else self._bridges)
        }
        for program, device in self._attached - wanted:
            door.detach(program, device)
        for program, device in sorted(wanted - self._attached):
            door.attach(program, device)
        self._attached = wanted
        self._links.close()
        if variant is Variant.DEFAULTS and self.cgroup is not None:
            for link in attach(door, self.cgroup):
                self._links.enter_context(link)
        for device in (*self._bridges, *self._veths):
            hooked = {(one.program, device) for one in door.hooked(device)}
            if hooked != {one for one in wanted if one[1] == device}:
                raise BenchError(f'could not prepare "{variant}": other programs are attached to device {device}')
        others = networks - self._places.keys()
        if variant.of_ours:
            for network in self._entries - others:
                door.drop("networks", abi.U32.pack(self._index[network]))
            for network in others - self._entries:
                device = self._index[network]
                entry = abi.NetworkEntry(_FIRST_ID + device, IsolationPolicy.SAME_BRIDGE, ChecksumMode.REPAIR)
                door.put("networks", abi.U32.pack(device), entry.pack())
            self._entries = others
            policy = IsolationPolicy.SAME_BRIDGE if THERE_NETWORK in networks else IsolationPolicy.OPEN
            entry = abi.NetworkEntry(self._ids[THERE_NETWORK], policy, ChecksumMode.REPAIR)
            door.put("networks", abi.U32.pack(self._index[THERE_NETWORK]), entry.pack())
        if variant is Variant.DEFAULTS:
            gone = [delete(self._member(network)) for network in self._members - others]
            LibNftables().run(Transaction((*gone, *(add(self._member(one)) for one in others - self._members))))
            self._members = others

    def _member(self, network: Network) -> Element:
        return Element(
            "members4", (LinkIndex(self._index[network]), network.container), comment=Comment(network.bridge)
        )

    def _dropped(self, where: str) -> int:
        """Datagrams from there to here that were dropped there, since the beginning."""
        match where:
            case "":
                return 0
            case isolations.DROPS:
                raw = self.host.inside(lambda: KernelPrograms().get(where, self._pair))
                return int(abi.U64.unpack(raw)[0]) if raw else 0
            case chain:
                rules = self._nft(f"list chain {chain}").splitlines()
                return sum(_counters("\n".join(rule for rule in rules if _drops_here(rule))))


def _bridge(network: Network) -> str:
    name = network.bridge
    return (
        f"link add {name} type bridge forward_delay 0\n"
        f"address add {network.gateway}/24 dev {name}\nlink set {name} up\n"
    )


def _stand_ins(networks: Sequence[Network]) -> Iterator[str]:
    """Devices by the names of bridges, two at a time: the two ends of a veth."""
    names = [network.bridge for network in networks]
    for one, other in zip(names[::2], names[1::2], strict=True):
        yield f"link add {one} type veth peer name {other}\n"


def _drops_here(rule: str) -> bool:
    return rule.endswith("drop") and (f'oifname "{HERE}"' in rule or "oif @bridges" in rule)


def _counters(text: str) -> list[int]:
    return [int(count) for count in re.findall(r"counter packets (\d+)", text)]
