"""A host for one rung of the ladder: its client, its container, its rules, and where packets were seen.

    with ExitStack() as stack:
        testbeds = [Testbed(stack, stage, rung) for rung in RUNGS]
        trips = testbeds[0].open(cpu, Protocol.UDP)          # until the stack ends, as all the rest

Bridges have br_netfilter as the kernel brings it up, but for the rungs that are about it.

Be aware: where programs are ours, those of the cgroups are attached to a cgroup of the bench's own, which client and
server are in; attached to the root, as an ADD does it, all rungs would run them. No agent runs: no packet meets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from bench.cni import Container, port
from bench.hosts.cgroups import lead, own_cgroup_if_any
from bench.hosts.ladder import TWIN, Rules, Rung, Way
from bench.hosts.ours import Ours
from bench.hosts.wiring import (
    BRIDGE,
    CONTAINER,
    EDGE,
    GATEWAY,
    HOST,
    UPLINK,
    batch,
    edge,
    plugged,
    sum_in_software,
    veth,
)
from bench.instruments.roundtrips import Ends, Mode, RoundTrips
from bench.instruments.starter import Starter
from bench.peers import firewall
from bench.peers.plugins import NETWORK
from bench.peers.rulesets import portmap_iptables, portmap_nft, pure_map, pure_map6
from bench.stage import FIRST_PORT, Stage
from dataplane.types import Protocol

HOST6, CLIENT6, GATEWAY6, CONTAINER6 = "fd00:2::15", "fd00:2::2", "fd00:77::1", "fd00:77::1:2"
LISTEN, WOKEN = 9000, 9003
"""The container's ports: of servers in the client's process, and of one that must be woken."""
HOST_PORTS = 30000
"""A published port is the container's and this."""

_OWN = (f"{CONTAINER}/16", f"{CONTAINER6}/64")
_TRACKED = """
table inet tracked {
chain forward { type filter hook forward priority 0
ct state established accept
}
}
"""
_OFF = {"ingressPolicy": "open", "checksum": "off", "guard": "off"}
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


class Testbed:
    """See the module. Ends with ``stack``."""

    def __init__(self, stack: ExitStack, stage: Stage, rung: Rung, present: int = 0) -> None:
        """With so many further ports published; then by IPv4 alone."""
        self.rung, self.present = rung, present
        self._stack, self._native = stack, stage.native
        suffix = "-twin" if rung is TWIN else "-filtered" if rung.filtered else ""
        name = f"{rung.way.name}-{rung.rules.name}-{present}{suffix}".lower().replace("_", "-")
        self.host = stack.enter_context(stage.host(name))
        self._cgroup: Path | None = None
        self._container = Container("web0", "-")
        self._client = "-"
        match rung.way:
            case Way.LOOPBACK:
                pass
            case Way.VETH:
                self._veth()
            case Way.BRIDGED:
                self._bridged()
            case Way.ROUTED:
                self._routed()
        self._lay(stage)

    @property
    def server(self) -> str:
        """The container's network namespace; "-" where it is the host's own."""
        return self._container.netns

    @property
    def link(self) -> str:
        """The host's end of the container's veth; empty where there is none."""
        return self._container.link

    @property
    def name(self) -> str:
        """The rung, and how many further ports are published."""
        return f"{self.rung.name}, {self.present:,} more" if self.present else self.rung.name

    def open(self, cpu: int, protocol: Protocol, version: int = 4, flows: int = 1, payload: int = 64) -> RoundTrips:
        """Sockets of a client and a server in one process, which nobody wakes."""
        return self._open(cpu, Ends(*self._ends(version, LISTEN), protocol, payload=payload, flows=flows))

    def open_apart(self, cpu: int, server_cpu: int) -> RoundTrips:
        """Sockets of a client, and of a server on another processor. UDP by IPv4."""
        return self._open(cpu, Ends(*self._ends(4, WOKEN), mode=Mode.TWO, server_cpu=server_cpu))

    # -- what is there ------------------------------------------------------------------------------------------------

    def _veth(self) -> None:
        client, web = veth(self.host, (f"{GATEWAY}/16", f"{GATEWAY6}/64"), _OWN)
        self._client, self._container = client.path, Container(web.name, web.path)

    def _bridged(self) -> None:
        for family in ("ip", "ip6"):
            self._set(f"bridge/bridge-nf-call-{family}tables", int(self.rung.filtered))
        self._plug_in()
        client = self.host.namespace("client")
        self.host.wire(BRIDGE, client, "10.77.1.3/16", GATEWAY)
        self._client = client.path
        sum_in_software(self.host, client)

    def _routed(self) -> None:
        client = edge(self.host)
        self._plug_in()
        batch(self.host, [f"address add {HOST6}/64 dev {UPLINK} nodad"])
        batch(client, [f"address add {CLIENT6}/64 dev {EDGE} nodad", f"route add default via {HOST6}"])
        self._set("ipv6/conf/all/forwarding", 1)
        self._client = client.path

    def _plug_in(self) -> None:
        self._container = plugged(self.host)
        batch(self.host, [f"address add {GATEWAY6}/64 dev {BRIDGE} nodad"])
        web = self.host.existing(self._container.name)
        batch(web, [f"address add {CONTAINER6}/64 dev {EDGE} nodad", f"route add default via {GATEWAY6}"])

    def _set(self, sysctl: str, value: int) -> None:
        def there() -> None:
            Path(f"/proc/sys/net/{sysctl}").write_text(f"{value}\n", encoding="ascii")

        self.host.inside(there)

    # -- rules --------------------------------------------------------------------------------------------------------

    def _lay(self, stage: Stage) -> None:
        """Put the rules in place."""
        published = replace(self._container, ports=_ports(self.present))
        match self.rung.rules:
            case Rules.NONE:
                pass
            case Rules.TRACKED:
                self._load(_TRACKED)
            case Rules.MAP:
                six = replace(published, address=_OWN[1], ports=() if self.present else published.ports)
                self._load(pure_map([published]) + pure_map6([six]))
            case Rules.PORTMAP_NFT:
                self._load(portmap_nft([published]))
            case Rules.PORTMAP | Rules.CHAIN:
                self.host.run("iptables-restore", text=portmap_iptables([published], NETWORK))
                if self.rung.rules is Rules.CHAIN:
                    networks = [firewall.Network(BRIDGE, IPv4Address(CONTAINER))]
                    self.host.run("iptables-restore", text=firewall.loaded(networks))
            case Rules.TABLES:
                self._add(published, _OFF)
            case Rules.DATAPLANE:
                self._add(published)
                self._lead(stage)

    def _load(self, text: str) -> None:
        self.host.run("nft", "-f", "-", text=text)

    def _add(self, published: Container, options: Mapping[str, object] | None = None) -> None:
        """An ADD by the plugin itself."""
        ours = Ours(self.host)
        previous = published.previous_result()
        if not self.present:
            previous["ips"].append({"address": _OWN[1], "gateway": GATEWAY6, "interface": 2})
        with Starter(self.host, self._native) as starter:
            ours.call(starter, "ADD", published, options, alone=True, previous=previous)

    def _lead(self, stage: Stage) -> None:
        """Have the programs of the cgroups for client and server."""
        self._cgroup = own_cgroup_if_any(self._stack, stage.log)
        if self._cgroup is not None:
            lead(self._stack, self.host, self._cgroup)

    # -- round trips --------------------------------------------------------------------------------------------------

    def _open(self, cpu: int, ends: Ends) -> RoundTrips:
        return self._stack.enter_context(RoundTrips(self.host, self._native, cpu, ends, self._cgroup))

    def _ends(self, version: int, listen: int) -> tuple[str, str, int, str, int]:
        if self.rung.way is Way.LOOPBACK:
            return self._client, _LOOPBACK[version], listen, self.server, listen
        if self.rung.rules.publish:
            return self._client, HOST if version == 4 else HOST6, listen + HOST_PORTS, self.server, listen
        return self._client, CONTAINER if version == 4 else CONTAINER6, listen, self.server, listen


def _ports(present: int) -> tuple[Mapping[str, object], ...]:
    """The ports that round trips are made to, and so many more that are only there."""
    ends = ((Protocol.UDP, LISTEN), (Protocol.TCP, LISTEN), (Protocol.UDP, WOKEN))
    made = [port(inner + HOST_PORTS, inner, protocol) for protocol, inner in ends]
    return (*made, *(port(FIRST_PORT + one, 1 + one) for one in range(present)))
