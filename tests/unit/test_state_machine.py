"""The engine against a model of itself: any order of requests, crashes, and of what others do to the kernel.

The model is what the runtime was told: a dictionary of the attachments whose ADD succeeded. A crash is an exception
that nobody catches, raised at a crash point, and a new engine on the same kernel and the same file. Be aware: what only
netfilter or the programs could tell (packets) no fake does.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control.desired import ruleset
from control.engine import STATE_FILE, Engine
from control.errors import DifferenceError, PortConflictError
from control.model import (
    AttachmentKey,
    ChecksumPolicy,
    ForeignChain,
    GuardPolicy,
    IngressPolicy,
    Options,
    Request,
)
from dataplane import crashpoints
from dataplane.crashpoints import Point
from dataplane.doors import Link, PortFlags
from dataplane.errors import ForeignChainError, NftError
from dataplane.fakes import FakeDoors
from dataplane.nft.objects import TABLE, Element, Port
from dataplane.nft.transaction import Transaction, create, delete
from dataplane.types import PORT_PROGRAMS, Program, Protocol
from support.attachments import key, port, request
from support.fakeworld import World

NETWORKS = {"front": "br-front", "back": "br-back"}
CONTAINERS = {"web": ("front", 2), "api": ("front", 3), "db": ("back", 4), "log": ("back", 5)}
CHAIN = ForeignChain("inet", "filter", "forward")
STRANGER = IPv4Address("10.99.0.9")
"""Where elements lead that nobody asked for."""

MAPS = ("networks", "origins", "published", "containers", "ports", "port_addresses", "fill_ports")

containers = st.sampled_from(sorted(CONTAINERS))
ports = st.lists(st.sampled_from([8080, 8081, 8082]), unique=True, max_size=3)
protocols = st.sampled_from(["tcp", "udp"])
options = st.builds(
    Options,
    ip_masq=st.booleans(),
    ingress_policy=st.sampled_from(IngressPolicy),
    checksum=st.sampled_from(ChecksumPolicy),
    guard=st.sampled_from(GuardPolicy),
    forward_chains=st.sampled_from([(), (CHAIN,)]),
    admin_chain=st.sampled_from(["", "admins"]),
)
points = st.sampled_from([point for point in Point if point.value.startswith(("step.", "state.", "tables."))])


class Crash(BaseException):
    """What stands in for SIGKILL: no code of ours may catch it."""


def crash() -> None:
    raise Crash


class EngineAgainstModel(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.doors = FakeDoors()
        self.doors.links.addresses = (IPv4Address("192.0.2.1"),)
        self.bridges = {network: self.doors.links.link(name, "bridge") for network, name in NETWORKS.items()}
        self.veths: dict[str, Link] = {}
        self.model: dict[AttachmentKey, Request] = {}
        self.damaged = False
        """Whether somebody else did something that no request has to find."""
        self.engine = self.start()

    def start(self) -> Engine:
        """What a new process has: the kernel, and a file."""
        return Engine(self.doors.kernel(), Path(self.directory.name))

    def teardown(self) -> None:
        crashpoints.arm("")
        self.engine.close()
        self.directory.cleanup()

    @initialize()
    def foreign_chain(self) -> None:
        """A table of somebody else, with a chain that drops what it does not know."""
        self.doors.nft.foreign_chain(ruleset.chain_ref(CHAIN)).append(("drop", "theirs"))

    # -- what a runtime does ------------------------------------------------------------------------------------------

    @rule(name=containers, host_ports=ports, protocol=protocols, chosen=options)
    def add(self, name: str, host_ports: list[int], protocol: str, chosen: Options) -> None:
        """ADD, for the first time or again, the same or changed: refused only for a port that another one holds."""
        self._add(self._request(name, host_ports, protocol, chosen))

    @rule(name=containers)
    def delete(self, name: str) -> None:
        """DEL, of what is attached or not."""
        self.engine.delete(self._key(name))
        self._gone(name)

    @rule(name=containers)
    def check(self, name: str) -> None:
        """CHECK finds nothing where nobody did anything, and always finds what is not attached."""
        asked = self.model.get(self._key(name))
        try:
            self.engine.check(asked or self._request(name, [], "tcp", Options()))
        except DifferenceError:
            assert asked is None or self.damaged
        else:
            assert asked is not None

    @rule(network=st.sampled_from(sorted(NETWORKS)), kept=st.sets(containers))
    def collect(self, network: str, kept: set[str]) -> None:
        """GC keeps what is valid, and what is another network's."""
        self.engine.collect(network, frozenset((name, "eth0") for name in kept))
        for name, (where, _) in CONTAINERS.items():
            if where == network and name not in kept:
                self._gone(name)

    @rule(name=containers, host_ports=ports, protocol=protocols, chosen=options, point=points, times=st.integers(1, 4))
    def crash_in_add(
        self, name: str, host_ports: list[int], protocol: str, chosen: Options, point: Point, times: int
    ) -> None:
        """An ADD that dies is repeated."""
        asked = self._request(name, host_ports, protocol, chosen)
        self._crashing(lambda: self._add(asked), point, times)
        self._add(asked)

    @rule(name=containers, host_ports=ports, chosen=options, point=points, times=st.integers(1, 4))
    def crash_in_add_and_delete(
        self, name: str, host_ports: list[int], chosen: Options, point: Point, times: int
    ) -> None:
        """An ADD that dies is followed by a DEL."""
        asked = self._request(name, host_ports, "tcp", chosen)
        self._crashing(lambda: self._add(asked), point, times)
        self.delete(name)

    @rule(name=containers, point=points, times=st.integers(1, 4))
    def crash_in_delete(self, name: str, point: Point, times: int) -> None:
        """A DEL that dies is repeated."""
        self._crashing(lambda: self.delete(name), point, times)
        self.delete(name)

    @rule(point=points, times=st.integers(1, 6))
    def crash_in_reconcile(self, point: Point, times: int) -> None:
        """A repair that dies is repeated."""
        self._crashing(self.engine.reconcile, point, times)
        self.reconcile()

    @rule()
    def reconcile(self) -> None:
        """``dpctl reconcile`` leaves no problem, whatever was done."""
        _, left = self.engine.reconcile()
        assert left == []
        self.damaged = False

    @rule()
    def restart(self) -> None:
        """Another process goes on with the file."""
        self.engine.close()
        self.engine = self.start()

    # -- what others do -----------------------------------------------------------------------------------------------

    @rule()
    def flush_ruleset(self) -> None:
        """``nft flush ruleset``, by whoever has a firewall of their own; they make their chain again."""
        self.doors.nft.flush_ruleset()
        self.foreign_chain()
        self.damaged = True

    @precondition(lambda self: TABLE in self.doors.nft.tables())
    @rule(host_port=st.sampled_from([8080, 8081, 6666]))
    def add_foreign_element(self, host_port: int) -> None:
        """Somebody publishes a port in our map, if it is free."""
        stray = Element("publish4", (Protocol.TCP, Port(host_port)), (STRANGER, Port(80)))
        try:
            self.doors.nft.run(Transaction((create(stray),)))
        except NftError:
            return
        self.damaged = True

    @precondition(lambda self: bool(self._elements()))
    @rule(chosen=st.randoms(use_true_random=False))
    def remove_element(self, chosen: object) -> None:
        """Somebody deletes one of our elements."""
        held = sorted(self._elements(), key=str)
        self.doors.nft.run(Transaction((delete(chosen.choice(held)),)))  # type: ignore[attr-defined]
        self.damaged = True

    @rule()
    def lose_pins(self) -> None:
        """Somebody unmounts the bpffs: programs and maps are gone."""
        self.doors.programs.unload()
        self.damaged = True

    @rule(name=containers, program=st.sampled_from(PORT_PROGRAMS))
    def remove_filter(self, name: str, program: Program) -> None:
        """``tc filter del`` on a container's host veth."""
        if name in self.veths:
            self.doors.programs.detach(program, self.veths[name].index)
            self.damaged = True

    @rule()
    def transact(self) -> None:
        """Somebody changes a table of their own."""
        self.doors.nft.stranger()

    @rule(name=containers)
    def vanish(self, name: str) -> None:
        """A namespace is gone without a DEL, and the host's end with it; ``dpctl gc`` removes the attachment."""
        veth = self.veths.pop(name, None)
        if veth is None:
            return
        self.doors.links.remove(veth.index)
        if self._key(name) in self.model:
            self.damaged = True
        self.delete(name)

    @rule(network=st.sampled_from(sorted(NETWORKS)))
    def lose_bridge(self, network: str) -> None:
        """A bridge is deleted, with all that is on it: what was attached to it is collected."""
        self.doors.links.remove(self.bridges[network].index)
        for name, (where, _) in CONTAINERS.items():
            if where == network and (veth := self.veths.pop(name, None)):
                self.doors.links.remove(veth.index)
        gone = {str(one.key) for one in self.engine.collect_stale()}
        assert gone == {str(one) for one in self.model if one.network == network}
        self.model = {one: asked for one, asked in self.model.items() if one.network != network}
        self.doors.sysctls.values.pop(f"net/ipv4/conf/{NETWORKS[network]}/route_localnet", None)
        self.bridges[network] = self.doors.links.link(NETWORKS[network], "bridge")

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def the_state_is_the_model(self) -> None:
        """What is attached is what the runtime was told."""
        assert {one.key: one.request for one in self.engine.attachments()} == self.model

    @invariant()
    def each_port_has_one_owner(self) -> None:
        """No two containers were given the same port."""
        taken = [(one.protocol, one.host_port) for asked in self.model.values() for one in asked.mappings]
        assert len(taken) == len(set(taken))

    @invariant()
    def published_ports_lead_to_their_owners(self) -> None:
        """The kernel's maps hold the model's ports, and no others."""
        if self.damaged:
            return
        assert {one for one in self._elements() if one.set_name == "publish4"} == {
            Element(
                "publish4",
                (one.protocol, Port(one.host_port)),
                (IPv4Address(str(asked.addresses[0])), Port(one.container_port)),
            )
            for asked in self.model.values()
            for one in asked.mappings
        }

    @invariant()
    def elements_are_those_of_the_attachments(self) -> None:
        """All sets together hold the union of what each attachment asks for."""
        if not self.damaged:
            wanted = {element for one in self.engine.attachments() for element in ruleset.elements(one)}
            assert self._elements() == _bare(wanted)

    @invariant()
    def containers_are_guarded(self) -> None:
        """Each host veth has the programs that its attachment asks for, and no others."""
        if self.damaged:
            return
        for name, veth in self.veths.items():
            asked = self.model.get(self._key(name))
            hooked = {one.program for one in self.doors.programs.hooked(veth.index)}
            wanted = asked is not None and asked.options.guard is not GuardPolicy.OFF
            assert (Program.GUARD in hooked) == wanted
            wanted = asked is not None and asked.options.checksum is ChecksumPolicy.FILL
            assert (Program.FILL in hooked) == wanted

    @invariant()
    def nothing_is_left_of_nobody(self) -> None:
        """After the last DEL: no element, program, entry, flag, sysctl or rule, and no row."""
        if self.model or self.damaged:
            return
        assert self._elements() == set()
        for link in self.doors.links.all_links():
            assert self.doors.programs.hooked(link.index) == ()
            if link.master:
                assert self.doors.links.port_flags(link.index) == PortFlags(hairpin=False, isolated=False)
        if self.doors.programs.loaded():
            assert [one for name in MAPS for one in self.doors.programs.entries(name)] == []
        assert [name for name, value in self.doors.sysctls.values.items() if "localnet" in name and value == "1"] == []
        assert self.doors.nft.foreign_chain(ruleset.chain_ref(CHAIN)) == [("drop", "theirs")]
        assert self._rows() == []

    # -- the rest -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _key(name: str) -> AttachmentKey:
        return key(name, CONTAINERS[name][0])

    def _request(self, name: str, host_ports: Iterable[int], protocol: str, chosen: Options) -> Request:
        network, number = CONTAINERS[name]
        if name not in self.veths:
            self.veths[name] = self.doors.links.link(f"veth{name}", "veth", self.bridges[network].index)
        mappings = (port(one, 80, protocol) for one in host_ports)
        interfaces = (NETWORKS[network], f"veth{name}")
        return request(name, f"10.11.0.{number}", *mappings, network=network, interfaces=interfaces, options=chosen)

    def _add(self, asked: Request) -> None:
        taken = {
            (one.protocol, one.host_port)
            for key, held in self.model.items()
            if key != asked.key
            for one in held.mappings
        }
        conflict = any((one.protocol, one.host_port) in taken for one in asked.mappings)
        try:
            self.engine.add(asked)
        except PortConflictError:
            assert conflict
        else:
            assert not conflict
            self.model[asked.key] = asked

    def _gone(self, name: str) -> None:
        self.model.pop(self._key(name), None)

    def _crashing(self, work: Callable[[], object], point: Point, times: int) -> None:
        """Do it with a crash point armed; what its caller knows afterwards of the key is nothing."""
        crashpoints.arm(f"{point}:{times}", crash)
        before = dict(self.model)
        try:
            work()
        except Crash:
            self.model = before
            self.restart()
            # A runtime that got no answer does not know; the state may have the old attachment or the new one.
            told = {one.key: one.request for one in self.engine.attachments()}
            changed = {one for one in told.keys() | before.keys() if told.get(one) != before.get(one)}
            assert len(changed) <= 1
            self.model = told
        finally:
            crashpoints.arm("")

    def _elements(self) -> set[Element]:
        """What is in all sets and maps of our table."""
        table = self.doors.nft._tables.get(TABLE)
        return _bare(one for held in table.elements.values() for one in held.values()) if table else set()

    def _rows(self) -> list[tuple[str, object]]:
        """What the state holds, of attachments."""
        with sqlite3.connect(Path(self.directory.name) / STATE_FILE) as database:
            names = ("attachments", "addresses", "ports", "networks", "sysctls", "journal")
            found = [(name, row) for name in names for row in database.execute(f"SELECT * FROM {name}")]  # noqa: S608
        database.close()
        return found


def _bare(elements: Iterable[Element]) -> set[Element]:
    return {replace(one, comment=None) for one in elements}


TestEngineAgainstModel = EngineAgainstModel.TestCase
TestEngineAgainstModel.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_a_delete_after_pins_and_bridge_were_lost_does_not_stop_everything_else(world: World) -> None:
    """Entries of maps that are gone need no removing: the DEL ends well, and so does whatever comes next."""
    world.attach("web", "10.11.0.2", port(8080))
    world.doors.programs.unload()
    world.doors.links.remove(world.bridge.index)
    world.engine.delete(key("web"))
    world.bridge = world.doors.links.link("br-front", "bridge")
    world.attach("api", "10.11.0.3", port(8081))
    assert list(world.engine.problems()) == []


def test_a_refused_add_leaves_no_former_value(world: World) -> None:
    """What a sysctl was before an ADD that did not happen is not what it was before the next one."""
    chosen = Options(forward_chains=(CHAIN,))
    with pytest.raises(ForeignChainError):
        world.attach("web", "10.11.0.2", port(8080), options=chosen)
    assert world.engine.store.former_sysctls() == {}
