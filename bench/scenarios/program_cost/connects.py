"""``connect()`` of the host's processes, with and without the programs of the cgroups.

They cannot be run on a packet, and a cgroup's programs are run for sockets that were opened in it. So there is a cgroup
of its own, below the root and empty but for what measures: the root's other processes notice nothing.

    to a container     an address that is none of theirs, as nearly all are: what everybody pays
    to loopback        a published port, which they lead to the container; beside the same connection made directly
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from bench.figures import Figure, Results, control_figure, median_figure, ratio_figure
from bench.hosts.cgroups import attach, cgroup_root, own_cgroup, serve
from bench.hosts.hooked import Scene
from bench.hosts.variants import HOST_PORTS
from bench.hosts.wiring import CONTAINER
from bench.instruments.roundtrips import Ends, Mode, RoundTrips
from bench.native import BenchError
from bench.stage import Stage
from dataplane import abi
from dataplane.programs.door import KernelPrograms
from dataplane.types import Protocol

NONE, AGAIN, IDLE, HIT = "no program", "no program again", "idle", "hit"
VARIANTS = (NONE, AGAIN, IDLE, HIT)
PROTOCOLS = (Protocol.UDP, Protocol.TCP)

_LISTEN = 9010
_LOOPBACK = "127.0.0.1"
_DISCARDED = 3  # milliseconds at the start of a round


@dataclass(frozen=True, slots=True)
class _Links:
    """The programs, for as long as they are attached."""

    scene: Scene
    cgroup: Path

    @contextmanager
    def attached(self, variant: str) -> Iterator[None]:
        """As a variant has them."""
        if variant in {NONE, AGAIN}:
            yield
            return
        self.scene.inside(lambda door: _publish(door, there=variant == HIT))
        with ExitStack() as stack:
            self.scene.inside(lambda door: self._attach(door, stack))
            yield

    def _attach(self, door: KernelPrograms, stack: ExitStack) -> None:
        for link in attach(door, self.cgroup):
            stack.enter_context(link)


def measure(stage: Stage, scene: Scene, cpu: int, first: int) -> None:
    """Measure, in blocks from ``first``; a note where this machine cannot."""
    root = cgroup_root()
    if root is None:
        stage.log.note("connect: not measured, for no cgroup v2 is mounted")
        return
    with ExitStack() as stack:
        cgroup = stack.enter_context(own_cgroup(root))
        links = _Links(scene, cgroup)

        def opened(address: str, port: int, protocol: Protocol, mode: Mode = Mode.CONNECT) -> RoundTrips:
            ends = Ends("-", address, port, scene.server, _LISTEN, protocol, mode)
            return RoundTrips(scene.host, stage.native, cpu, ends, cgroup)

        led = _led(links, opened)
        if not led:
            stage.log.note("connect() to loopback: not measured, for it is not led to the container")
        for turn in stage.turns(VARIANTS, stage.amount(40, 14, 2), first):
            targets = [("to a container", CONTAINER, _LISTEN)]
            if turn.variant == HIT and led:
                targets.append(("to loopback", _LOOPBACK, _LISTEN + HOST_PORTS))
            with links.attached(turn.variant):
                for where, address, port in targets:
                    for protocol in PROTOCOLS:
                        with opened(address, port, protocol) as connections:
                            connections.measure(_DISCARDED)
                            made = connections.measure(stage.amount(30, 12, 2))
                        stage.log.sample(f"{protocol} connect {where}", turn.variant, made.p50 / 1e3, block=turn.block)
                        stage.log.sample("round trips", turn.variant, made.count, block=turn.block)
                        stage.log.sample("lost", turn.variant, made.lost + made.wrong, block=turn.block)


def figures(results: Results, of: int) -> list[Figure]:
    """The rows of the table, with two of so many controls."""
    rows = []
    for protocol in PROTOCOLS:
        measure = f"{protocol} connect to a container"
        base = results.of(measure, NONE)
        rows += [
            median_figure(f"{protocol} connect() to a container, {NONE}", base, "us"),
            control_figure(results.of(measure, AGAIN), base, f"control: {protocol} connect(), the same twice", of=of),
            ratio_figure(f"{protocol} connect() to a container: no port published", results.of(measure, IDLE), base),
            ratio_figure(f"{protocol} connect() to a container: ports published", results.of(measure, HIT), base),
            ratio_figure(
                f"{protocol} connect() to a published port of 127.0.0.1 / to the container itself",
                results.of(f"{protocol} connect to loopback", HIT),
                base,
            ),
        ]
    return rows


def _led(links: _Links, opened: Callable[[str, int, Protocol, Mode], RoundTrips]) -> bool:
    """Whether a published port of loopback is the container's: nobody listens there but it."""
    with links.attached(HIT):
        try:
            for protocol in PROTOCOLS:
                with opened(_LOOPBACK, _LISTEN + HOST_PORTS, protocol, Mode.ONE) as trips:
                    made = trips.measure(_DISCARDED)
                    if not made.count or made.lost or made.wrong:
                        return False
        except BenchError:  # refused
            return False
    return True


def _publish(door: KernelPrograms, *, there: bool) -> None:
    """Have the ports published for loopback addresses, or none."""
    serve(door)
    for protocol in PROTOCOLS:
        key = abi.PublishedKey(None, 4, protocol.number, _LISTEN + HOST_PORTS).pack()
        if there:
            door.put("published", key, abi.Target(ip_address(CONTAINER), _LISTEN, localhost=True).pack())
        else:
            door.drop("published", key)
