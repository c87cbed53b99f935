"""A host for one rung of the ladder: its client, its container, its rules, and where packets were seen.

    with ExitStack() as stack:
        testbeds = [Testbed(stack, stage, rung) for rung in RUNGS]
        trips = testbeds[0].open(cpu, Protocol.UDP)          # until the stack ends, as all the rest

The client computes its checksums itself, as what comes from a network has them; the container leaves its own to be
completed by a device. Bridges have br_netfilter as the kernel brings it up, but for the rungs that are about it.

Be aware: where programs are ours, those of the cgroups are attached to a cgroup of the bench's own, which client and
server are in; attached to the root, as an ADD does it, all rungs would run them. No agent runs: no packet meets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path

from bench.cni import Container, configuration, environment, port
from bench.hosts.cgroups import attach, cgroup_root, own_cgroup, serve
from bench.hosts.hooked import BRIDGE, CLIENT, CONTAINER, GATEWAY, HOST, UPLINK, sum_in_software
from bench.hosts.ladder import TWIN, Rules, Rung, Way
from bench.hosts.ours import Ours
from bench.instruments.roundtrips import Ends, Mode, RoundTrips
from bench.instruments.starter import Starter
from bench.peers.plugins import NETWORK
from bench.peers.translations import OWNER, Forwarded, firewall, nft_map, portmap, portmap_nft
from bench.place import Place
from bench.stage import FIRST_PORT, Stage
from dataplane.programs.door import KernelPrograms
from dataplane.programs.syscall import Fd
from dataplane.types import Address, Protocol

HOST6, CLIENT6, GATEWAY6, CONTAINER6 = "fd00:2::15", "fd00:2::2", "fd00:77::1", "fd00:77::1:2"
LISTEN, WOKEN = 9000, 9003
"""The container's ports: of servers in the client's process, and of one that must be woken."""
HOST_PORTS = 30000
"""A published port is the container's and this."""

_OWN = (f"{CONTAINER}/16", f"{CONTAINER6}/64")
_NETWORKS = (IPv4Network("10.77.0.0/16"), ip_network("fd00:77::/64"))
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
        suffix = "-twin" if rung is TWIN else ""
        name = f"{rung.way.name}-{rung.rules.name}-{present}{suffix}".lower().replace("_", "-")
        self.host = stack.enter_context(stage.host(name))
        self._cgroup: Path | None = None
        self.link = self._client = self.server = ""
        match rung.way:
            case Way.LOOPBACK:
                self._client = self.server = "-"
            case Way.VETH:
                self._veth()
            case Way.BRIDGED:
                self._bridged()
            case Way.ROUTED:
                self._routed()
        self._lay(stage)

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
        client, server = self.host.namespaces(["client", "web"])
        self.host.run(
            "ip", "link", "add", "eth0", "netns", "client", "type", "veth", "peer", "name", "eth0", "netns", "web"
        )
        for place, addresses in ((client, (f"{GATEWAY}/16", f"{GATEWAY6}/64")), (server, _OWN)):
            _batch(place, [*(f"address add {one} dev eth0 nodad" for one in addresses), "link set eth0 up"])
        self._client, self.server = client.path, server.path
        sum_in_software(client.path, self.host)

    def _bridged(self) -> None:
        for family in ("ip", "ip6"):
            self._set(f"bridge/bridge-nf-call-{family}tables", int(self.rung.tracked))
        self._plug_in()
        client = self.host.namespace("client")
        self.host.wire(BRIDGE, client, "10.77.1.3/16", GATEWAY)
        self._client = client.path
        sum_in_software(client.path, self.host)

    def _routed(self) -> None:
        client = self.host.join("client", UPLINK, f"{HOST}/24", f"{CLIENT}/24")
        self._plug_in()
        _batch(self.host, [f"address add {HOST6}/64 dev {UPLINK} nodad"])
        _batch(client, [f"address add {CLIENT6}/64 dev eth0 nodad", f"route add default via {HOST6}"])
        self._set("ipv4/ip_forward", 1)
        self._set("ipv6/conf/all/forwarding", 1)
        self._client = client.path
        sum_in_software(client.path, self.host)

    def _plug_in(self) -> None:
        self.host.bridge(BRIDGE, f"{GATEWAY}/16")
        web = self.host.namespace("web")
        self.link = self.host.wire(BRIDGE, web, f"{CONTAINER}/16", GATEWAY)
        _batch(self.host, [f"address add {GATEWAY6}/64 dev {BRIDGE} nodad"])
        _batch(web, [f"address add {CONTAINER6}/64 dev eth0 nodad", f"route add default via {GATEWAY6}"])
        self.server = web.path

    def _set(self, sysctl: str, value: int) -> None:
        def there() -> None:
            Path(f"/proc/sys/net/{sysctl}").write_text(f"{value}\n", encoding="ascii")

        self.host.inside(there)

    # -- rules --------------------------------------------------------------------------------------------------------

    def _lay(self, stage: Stage) -> None:
        """Put the rules in place."""
        ports = _forwarded(ip_address(CONTAINER), self.present)
        match self.rung.rules:
            case Rules.NONE:
                pass
            case Rules.TRACKED:
                self.host.run("nft", "-f", "-", text=_TRACKED)
            case Rules.MAP:
                six = [] if self.present else _forwarded(ip_address(CONTAINER6), 0)
                self.host.run("nft", "-f", "-", text=nft_map([*ports, *six], _NETWORKS))
            case Rules.PORTMAP_NFT:
                self.host.run("nft", "-f", "-", text=portmap_nft(ports))
            case Rules.PORTMAP | Rules.CHAIN:
                self._restore(portmap(ports, _NETWORKS[0], NETWORK))
                if self.rung.rules is Rules.CHAIN:
                    self._restore(firewall(ip_address(CONTAINER), BRIDGE))
            case Rules.TABLES:
                self._add(ports, **_OFF)
            case Rules.DATAPLANE:
                self._add(ports)
                self._lead(stage)

    def _restore(self, text: str) -> None:
        self.host.run("iptables-restore", "--noflush", text=text)

    def _add(self, ports: Sequence[Forwarded], **options: object) -> None:
        """An ADD by the plugin itself."""
        ours = Ours(self.host)
        for settings in ours.settings.values():
            Path(settings).write_text('localhost = "off"\n', encoding="utf-8")
        container = Container(OWNER, self.server, f"{CONTAINER}/16", GATEWAY, BRIDGE, self.link)
        previous = container.previous_result()
        if not self.present:
            previous["ips"].append({"address": f"{CONTAINER6}/64", "gateway": GATEWAY6, "interface": 2})
        published = [port(one.port, one.inner, one.protocol) for one in ports]
        text = configuration("dataplane", NETWORK, published, previous, **options)
        plugin = ours.plugin("dataplane")
        variables = environment("ADD", container, str(plugin.parent), **ours.settings)
        with Starter(self.host, self._native) as starter:
            starter.run(plugin, variables, text)

    def _lead(self, stage: Stage) -> None:
        """Have the programs of the cgroups for client and server."""
        root = cgroup_root()
        if root is None:
            stage.log.note("no cgroup v2 is mounted: an ADD attaches no programs to cgroups here, nor does this")
            return

        def there() -> list[Fd]:
            door = KernelPrograms()
            serve(door)
            return list(attach(door, cgroup))

        cgroup = self._cgroup = self._stack.enter_context(own_cgroup(root))
        for link in self.host.inside(there):
            self._stack.enter_context(link)

    # -- round trips --------------------------------------------------------------------------------------------------

    def _open(self, cpu: int, ends: Ends) -> RoundTrips:
        return self._stack.enter_context(RoundTrips(self.host, self._native, cpu, ends, self._cgroup))

    def _ends(self, version: int, listen: int) -> tuple[str, str, int, str, int]:
        if self.rung.way is Way.LOOPBACK:
            return self._client, _LOOPBACK[version], listen, self.server, listen
        if self.rung.rules.publish:
            return self._client, HOST if version == 4 else HOST6, listen + HOST_PORTS, self.server, listen
        return self._client, CONTAINER if version == 4 else CONTAINER6, listen, self.server, listen


def _forwarded(address: Address, present: int) -> list[Forwarded]:
    """The ports that round trips are made to, and so many more that are only there."""
    ends = ((Protocol.UDP, LISTEN), (Protocol.TCP, LISTEN), (Protocol.UDP, WOKEN))
    made = [Forwarded(protocol, inner + HOST_PORTS, address, inner) for protocol, inner in ends]
    return made + [Forwarded(Protocol.TCP, FIRST_PORT + one, address, 1 + one) for one in range(present)]


def _batch(place: Place, lines: Sequence[str]) -> None:
    place.run("ip", "-batch", "-", text="".join(f"{line}\n" for line in lines))
