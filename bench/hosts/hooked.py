"""A host whose programs are attached and detached between rounds, with the maps that make them idle or at work.

    scene = Scene(host, native)            # a client, a bridge, a container
    scene.publish()                        # our tables, and a few ports
    scene.take(variant)                    # exactly these programs on exactly these hooks, and their entries

The host leaves its own checksums to be completed by a device (CHECKSUM_PARTIAL), as neighbours on one machine do.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import TypeVar

from bench.cni import port
from bench.hosts.ours import Ours
from bench.hosts.variants import FROM_HOST, HOST_PORTS, PATHS, PUBLISHED, STREAM, WOKEN, Path, Seen, Variant
from bench.hosts.wiring import BRIDGE, CONTAINER, EDGE, HOST, UPLINK, edge, plugged
from bench.instruments import assembled
from bench.instruments.roundtrips import Ends
from bench.instruments.starter import Starter
from bench.native import BenchError, Native
from bench.place import Host
from control.desired.ruleset import DEFAULT_MARK
from dataplane import abi
from dataplane.programs import loading
from dataplane.programs.attach import Hooks
from dataplane.programs.door import KernelPrograms
from dataplane.types import (
    DEVICE_PROGRAMS,
    AttachMode,
    ChecksumMode,
    GuardLevel,
    IfIndex,
    IsolationPolicy,
    Program,
)

T = TypeVar("T")

_OWN, _OUTER = 7, 8  # networks
_OPTIONS = {"ingressPolicy": "open", "checksum": "off", "guard": "off", "snat": False}


class Scene:
    """See the module."""

    def __init__(self, host: Host, native: Native) -> None:
        self.host, self._native = host, native
        self._client, self._container = edge(host), plugged(host)
        link = self._container.link
        self._mac = host.existing(self._container.name).mac(EDGE)
        indexes = host.inside(lambda: {name: IfIndex(socket.if_nametoindex(name)) for name in (BRIDGE, UPLINK, link)})
        self._bridge, self._uplink, self._link = indexes.values()
        self._there: set[tuple[str, bytes]] = set()
        self._attached: dict[Program, tuple[AttachMode, bool]] = {}

    def publish(self) -> None:
        """Have our tables, with the ports of all paths; nothing attached by it."""
        ports = tuple(port(path.listen + HOST_PORTS, path.listen, path.protocol) for path in PATHS if path.published)
        with Starter(self.host, self._native) as starter:
            # By the plugin itself: there is no agent, which would repair what is attached here.
            Ours(self.host).call(starter, "ADD", replace(self._container, ports=ports), _OPTIONS, alone=True)
        self.forget()

    @property
    def server(self) -> str:
        """The container's network namespace."""
        return self._container.netns

    def ends(self, path: Path) -> Ends:
        """Who talks to whom on a path."""
        client = "-" if path.from_host else self._client.path
        address, number = (HOST, path.listen + HOST_PORTS) if path.published else (CONTAINER, path.listen)
        return Ends(client, address, number, self.server, path.listen, path.protocol, path.mode)

    def inside(self, work: Callable[[KernelPrograms], T]) -> T:
        """Something on this host, with the door to its programs."""
        return self.host.inside(lambda: work(KernelPrograms()))

    def take(self, variant: Variant) -> None:
        """Attach and detach until it is so; and have entries where it works, else none."""
        self.host.inside(lambda: self._take(variant))

    def passes(self, path: Path) -> None:
        """What isolation lets packets of a path pass for: an open network, or the mark of a published port."""
        self.inside(lambda door: self._source(door, path))

    def seen(self) -> Seen:
        """What the programs counted so far, and how often each ran while the kernel's statistics were enabled."""

        def read(door: KernelPrograms) -> Seen:
            raw = door.get("checksum_counts", abi.U32.pack(self._bridge))
            filled = door.get("filled", abi.U32.pack(_OWN))
            return Seen(
                {program: door.program(program).runs for program in DEVICE_PROGRAMS},
                abi.ChecksumCounts.unpack(raw) if raw else abi.ChecksumCounts(),
                int(abi.U64.unpack(filled)[0]) if filled else 0,
            )

        return self.inside(read)

    def forget(self) -> None:
        """Have nothing attached, and no entry in any map that somebody else made."""
        self.inside(self._clear)

    # Below: on the host.

    def _take(self, variant: Variant) -> None:
        how, door = (variant.mode, variant.empty), KernelPrograms(variant.mode)
        for program in self._attached.keys() - variant.programs:
            door.detach(program, self._device(program))
            del self._attached[program]
        wanted = dict(self._entries(variant))
        for name, key in self._there - wanted.keys():
            door.drop(name, key)
        for (name, key), value in wanted.items():
            door.put(name, key, value)
        self._there = set(wanted)
        for program in DEVICE_PROGRAMS:
            if program in variant.programs and self._attached.get(program) != how:
                if variant.empty:
                    # Under its name, so that the door takes it for another version, which goes as any of ours does.
                    with assembled.nothing(program.function) as made:
                        Hooks(variant.mode, loading.LINKS).attach(program, made.number, self._device(program))
                else:
                    door.attach(program, self._device(program))
                self._attached[program] = how
        hooked = {one.program for device in (self._bridge, self._link) for one in door.hooked(device)}
        if hooked != variant.programs:
            raise BenchError(f'could not prepare "{variant.name}": attached are {", ".join(sorted(hooked)) or "none"}')

    def _device(self, program: Program) -> IfIndex:
        return self._link if program.of_port else self._bridge

    def _entries(self, variant: Variant) -> Iterable[tuple[tuple[str, bytes], bytes]]:
        """The maps' entries of a variant: those of its programs alone, so that none works for another."""
        isolates, sums = variant.acts(Program.ISOLATION), variant.acts(Program.CHECKSUM)
        own, container = abi.U32.pack(_OWN), ip_address(CONTAINER)
        if isolates or sums:
            entry = abi.NetworkEntry(
                _OWN,
                IsolationPolicy.SAME_BRIDGE if isolates else IsolationPolicy.OPEN,
                ChecksumMode.REPAIR if sums else ChecksumMode.OFF,
            )
            yield ("networks", abi.U32.pack(self._bridge)), entry.pack()
            yield ("networks", abi.U32.pack(self._uplink)), _outer(IsolationPolicy.OPEN)
        if sums:
            for path in (PUBLISHED, STREAM, WOKEN):
                key = abi.OriginKey(container, path.protocol.number, path.listen, 0)
                yield ("origins", key.pack()), abi.Origin(None, path.listen + HOST_PORTS).pack()
            host = ip_address(HOST)
            yield ("host_addresses", abi.host_address_key(host)), abi.pack_address(host)
            yield ("containers", abi.container_key(_OWN, container)), abi.pack_address(container)
        guards, fills = variant.acts(Program.GUARD), variant.acts(Program.FILL)
        if guards or fills:
            level = GuardLevel.FULL if guards else GuardLevel.OFF
            yield ("ports", abi.U32.pack(self._link)), abi.Port(_OWN, level, self._mac).pack()
        if guards:
            yield ("port_addresses", abi.port_address_key(self._link, container)), own
        if fills:
            yield ("fill_ports", abi.fill_key(_OWN, FROM_HOST.listen)), own

    def _source(self, door: KernelPrograms, path: Path) -> None:
        key = abi.U32.pack(self._uplink)
        if ("networks", key) in self._there:
            policy = IsolationPolicy.SAME_BRIDGE if path.published else IsolationPolicy.OPEN
            door.put("networks", key, _outer(policy))

    def _clear(self, door: KernelPrograms) -> None:
        """Take away what an ADD attached and wrote, whatever its defaults are."""
        for device in (self._bridge, self._link):
            for one in door.hooked(device):
                door.detach(one.program, device)
        for name in ("networks", "ports", "port_addresses", "fill_ports", "origins", "containers", "published"):
            for key, _ in list(door.entries(name)):
                door.drop(name, key)
        self._attached.clear()
        self._there.clear()
        door.put("settings", abi.U32.pack(0), abi.HostSettings(DEFAULT_MARK).pack())


def _outer(policy: IsolationPolicy) -> bytes:
    return abi.NetworkEntry(_OUTER, policy, ChecksumMode.OFF).pack()
