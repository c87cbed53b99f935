"""What a bench does to the root of the cgroups, which is the machine's: nothing, where packets are measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import pytest

from bench.cni import port
from bench.hosts.cgroups import cgroup_root
from bench.hosts.ours import Ours
from bench.hosts.sites import OURS, Sites
from bench.hosts.wiring import plugged
from bench.instruments.starter import Starter
from bench.place import Host
from bench.scenarios.first_packet.publishing import Site
from bench.scenarios.first_packet.ways import Place, Way
from bench.scenarios.isolation import networks
from bench.scenarios.isolation.rules import Variant
from bench.stage import Stage
from dataplane.programs import syscall
from dataplane.programs.cgroups import CgroupHooks
from dataplane.programs.door import KernelPrograms
from dataplane.programs.loading import LINKS
from dataplane.types import LOCALHOST_PROGRAMS, Program, Protocol
from support import needs

CPU = 0


@pytest.fixture(autouse=True)
def _cgroups() -> None:
    needs.that(cgroup_root(), "a mounted cgroup v2")


def on_root(host: Host) -> int:
    """How many programs of this host are on the root."""
    return host.inside(lambda: len(list(CgroupHooks(LINKS).pinned())))


def bulk(stage: Stage, stack: ExitStack) -> Host:
    """Of bulk and updates_under_load, which have an agent."""
    site = stack.enter_context(Sites(stage)).ours()
    site.way(OURS)
    return site.host


def first_packet(stage: Stage, stack: ExitStack) -> Host:
    """Of first_packet."""
    return published(stage, stack).host


def isolation(stage: Stage, stack: ExitStack) -> Host:
    """Of isolation."""
    host = stack.enter_context(stage.host("networks"))
    return stack.enter_context(networks.Scene(host, stage.native, (2,), (Variant.NOTHING,))).host


def published(stage: Stage, stack: ExitStack) -> Site:
    """A host with ports of ours."""
    site = Site(stack.enter_context(stage.host("ours")), Way.OURS, 1)
    site.publish(stage.native)
    return site


@pytest.mark.parametrize("made", [bulk, first_packet, isolation], ids=lambda made: made.__name__)
def test_where_packets_are_measured_nobody_else_runs_our_programs(
    stage: Stage, made: Callable[[Stage, ExitStack], Host]
) -> None:
    """The host publishes ports, and has nothing on the root of the cgroups."""
    with ExitStack() as stack:
        assert on_root(made(stage, stack)) == 0


def test_a_call_may_do_what_it_does_by_default(stage: Stage) -> None:
    """Where a scenario asks for it, an ADD attaches to the root; with its host that is gone."""
    with stage.host("ours") as host, Starter(host, stage.native) as starter:
        container = replace(plugged(host), ports=(port(8080, 80),))
        Ours(host, on_root=True).call(starter, "ADD", container, alone=True)
        assert on_root(host) > 0


def test_what_an_add_attaches_to_the_root_both_ends_of_first_packets_run(stage: Stage) -> None:
    """The programs of the cgroups run for a connection of whoever is in the cgroup of the bench's own."""

    def ran() -> dict[Program, int]:
        return {program: KernelPrograms().program(program).runs for program in LOCALHOST_PROGRAMS}

    with ExitStack() as stack, syscall.enable_stats():
        site = published(stage, stack)
        site.lead(stack, stage.log)
        flows = stack.enter_context(site.flows(stage.native, CPU))
        before = site.host.inside(ran)
        made = flows.measure(site.number(Protocol.TCP, Place.MIDDLE), 0, 10)
        assert site.host.inside(ran)[Program.CONNECT4] - before[Program.CONNECT4] >= made.made > 0
        assert on_root(site.host) == 0
