"""Our BPF programs, loaded in a sandbox and run on frames by ``BPF_PROG_TEST_RUN``: what each frame came to.

with Bench() as bench:
    outcome = bench.checksum([frame], origins={("10.88.0.116", 80): [("10.0.2.15", 80)]})
    outcome.packets[0], outcome.counts, outcome.events
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from dataplane import abi
from dataplane.abi import ChecksumCounts, Event, NetworkEntry
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.programs.ringbuf import EventReader
from dataplane.programs.source import MAPS
from dataplane.types import ChecksumMode, IfIndex, IsolationPolicy, Program, Protocol
from support.netns import Sandbox

DEVICE = IfIndex(1)
"""lo of the sandbox plays the container-facing device."""
BRIDGE = 7
"""The network of ``DEVICE``."""
CONTINUE, DROP = -1, 2

Origins = Mapping[tuple[str, int], Sequence[tuple[str, int]]]
"""Address and port of a container -> the host addresses and ports that it is published on."""


@dataclass(frozen=True, slots=True)
class Nat:
    """What the checksum program is told about NAT besides ``origins``; nothing of it is there by default."""

    published: Mapping[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    """The other way: address (unspecified: every one) and port of the host -> those of the container."""
    containers: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Addresses by network."""
    masquerades: bool = False
    """The containers of ``BRIDGE`` are masqueraded."""
    ingress: int = 0
    """The device that packets came in by; 0: the host's own."""
    sources: Mapping[int, NetworkEntry] = field(default_factory=dict)
    """The networks of further devices."""


NO_NAT = Nat()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the frames of one run, in order, and what was counted and reported meanwhile."""

    verdicts: tuple[int, ...]
    packets: tuple[bytes, ...]
    counts: ChecksumCounts
    events: tuple[Event, ...]
    drops: Mapping[tuple[int, int], int]
    lost: int


class Bench:
    """A sandbox with the programs loaded once; each run starts with empty maps. With ``btf`` false, they are compiled
    as on a kernel that has no BTF."""

    def __init__(self, *, btf: bool = True) -> None:
        self._sandbox = Sandbox()
        self._programs = KernelPrograms()
        self._btf = btf

    def __enter__(self) -> Self:
        if not self._btf:
            self._sandbox.run("mount", "-t", "tmpfs", "none", "/sys/kernel/btf")
        self._sandbox.call(self._programs.load)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sandbox.stop()

    def checksum(
        self,
        frames: Iterable[bytes],
        *,
        mode: ChecksumMode | Sequence[ChecksumMode] = ChecksumMode.REPAIR,
        origins: Origins | None = None,
        host_addresses: Sequence[str] = (),
        protocol: Protocol = Protocol.TCP,
        gso_size: int = 0,
        nat: Nat = NO_NAT,
        complete: bool = False,
    ) -> Outcome:
        """Run the checksum program on frames, one after the other; ``mode`` may change from frame to frame. All ports
        are of ``protocol``; ``complete`` as ``run_program`` has it."""
        return self._sandbox.call(
            self._checksum, list(frames), mode, origins or {}, host_addresses, protocol, gso_size, nat, complete
        )

    def isolation(
        self,
        frames: Iterable[bytes],
        networks: Mapping[int, tuple[int, IsolationPolicy]],
        *,
        ingress: int,
        mark: int = 0,
        exempt: int | None = None,
    ) -> Outcome:
        """Run the isolation program on frames that came in by ``ingress``. ``networks`` is by ifindex, of which
        ``DEVICE`` is where they leave; ``exempt`` is the host's mark."""
        return self._sandbox.call(self._isolation, list(frames), networks, ingress, mark, exempt)

    # Below: inside the sandbox.

    def _checksum(
        self,
        frames: list[bytes],
        mode: ChecksumMode | Sequence[ChecksumMode],
        origins: Origins,
        host_addresses: Sequence[str],
        protocol: Protocol,
        gso_size: int,
        nat: Nat = NO_NAT,
        complete: bool = False,
    ) -> Outcome:
        self._reset()
        self._put_nat(nat, protocol)
        for (address, port), published in origins.items():
            for slot, (host, host_port) in enumerate(published):
                key = abi.OriginKey(ip_address(address), protocol.number, port, slot)
                where = ip_address(host)
                origin = abi.Origin(None if where.is_unspecified else where, host_port)
                self._programs.put("origins", key.pack(), origin.pack())
        for own in map(ip_address, host_addresses):
            self._programs.put("host_addresses", abi.host_address_key(own), abi.pack_address(own))
        modes = [mode] * len(frames) if isinstance(mode, ChecksumMode) else mode
        runs = []
        with self._open(Program.CHECKSUM) as program, self._programs.events() as events:
            _all(events)
            for one, its_mode in zip(frames, modes, strict=True):
                entry = NetworkEntry(BRIDGE, IsolationPolicy.OPEN, its_mode, nat.masquerades)
                self._programs.put("networks", abi.U32.pack(DEVICE), entry.pack())
                runs.append(
                    syscall.run_program(
                        program.number,
                        one,
                        ifindex=DEVICE,
                        ingress_ifindex=nat.ingress,
                        gso_size=gso_size,
                        complete=complete,
                    )
                )
            return self._outcome(runs, _all(events))

    def _put_nat(self, nat: Nat, protocol: Protocol) -> None:
        for (address, port), (container, container_port) in nat.published.items():
            host = ip_address(address)
            key = abi.PublishedKey(None if host.is_unspecified else host, host.version, protocol.number, port)
            target = abi.Target(ip_address(container), container_port, localhost=False)
            self._programs.put("published", key.pack(), target.pack())
        for network, addresses in nat.containers.items():
            for own in map(ip_address, addresses):
                self._programs.put("containers", abi.container_key(network, own), abi.pack_address(own))
        for ifindex, entry in nat.sources.items():
            self._programs.put("networks", abi.U32.pack(ifindex), entry.pack())

    def _isolation(
        self,
        frames: list[bytes],
        networks: Mapping[int, tuple[int, IsolationPolicy]],
        ingress: int,
        mark: int,
        exempt: int | None,
    ) -> Outcome:
        self._reset()
        for ifindex, (number, policy) in networks.items():
            entry = NetworkEntry(number, policy, ChecksumMode.OFF)
            self._programs.put("networks", abi.U32.pack(ifindex), entry.pack())
        self._programs.put("settings", abi.U32.pack(0), abi.HostSettings(exempt or 0).pack())
        with self._open(Program.ISOLATION) as program, self._programs.events() as events:
            _all(events)
            runs = [
                syscall.run_program(program.number, one, ifindex=DEVICE, ingress_ifindex=ingress, mark=mark)
                for one in frames
            ]
            return self._outcome(runs, _all(events))

    def _open(self, program: Program) -> syscall.Fd:
        return syscall.obj_get(self._programs.directory / program.function)

    def _reset(self) -> None:
        for name in MAPS:
            if name not in {"settings", "events", "events_lost"}:
                for key, _ in list(self._programs.entries(name)):
                    self._programs.drop(name, key)

    def _outcome(self, runs: list[syscall.ProgramRun], events: tuple[Event, ...]) -> Outcome:
        counts = self._programs.get("checksum_counts", abi.U32.pack(DEVICE))
        return Outcome(
            verdicts=tuple(run.verdict for run in runs),
            packets=tuple(run.packet for run in runs),
            counts=ChecksumCounts.unpack(counts) if counts else ChecksumCounts(),
            events=tuple(replace(event, time_ns=0) for event in events),
            drops={
                abi.NETWORK_PAIR.unpack(key): abi.U64.unpack(value)[0]
                for key, value in self._programs.entries("isolation_drops")
            },
            lost=self._programs.events_lost(),
        )


def _all(events: EventReader) -> tuple[Event, ...]:
    """Everything that is in the ring: one reading is bounded."""
    found: list[Event] = []
    while more := events.poll():
        found += more
    return tuple(found)
