"""The kernel's doors without a kernel: the same contract, in memory. ``FakeDoors`` has all of them.

``tests/kernel/test_contract.py`` runs one table of cases on these and on the running kernel (conntrack's there alone).
``FakeNft.fail`` and ``FakePrograms.fail`` make the next operation fail, to test what happens then.

Be aware: rules are kept as text and not evaluated; a fake has no packets.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from typing import Any

from dataplane.doors import FlowFilter, Hooked, Kernel, Link, MapSize, PortFlags
from dataplane.errors import BpfError, FirewalldError, ForeignChainError, KernelError, LinkError, NftError
from dataplane.nft.elements import Held, pack, unpack
from dataplane.nft.objects import TABLE, Chain, ChainRef, Comment, Element, PortRange, Rule, Set, Table
from dataplane.nft.transaction import Batch, Command, OwnedTable, Transaction
from dataplane.types import LOCALHOST_PROGRAMS, Address, AttachMode, IfIndex, Interface, Program


@dataclass
class _Table:
    sets: dict[str, Set] = field(default_factory=dict)
    elements: dict[str, dict[tuple[object, ...], Element]] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    rules: dict[str, list[str]] = field(default_factory=dict)

    def copy(self) -> _Table:
        return _Table(
            dict(self.sets),
            {name: dict(held) for name, held in self.elements.items()},
            dict(self.chains),
            {name: list(rules) for name, rules in self.rules.items()},
        )


class FakeNft:
    """``Nft`` in memory. ``log`` has the text of every transaction that was applied."""

    def __init__(self) -> None:
        self._tables: dict[Table, _Table] = {}
        self._foreign: dict[ChainRef, list[tuple[str, str]]] = {}
        self.log: list[str] = []
        self.fail: NftError | None = None
        self._generation = 1
        self.owners = True
        """Whether this kernel knows owned tables."""

    def become_owner(self) -> bool:
        return self.owners

    def run(self, transaction: Transaction) -> None:
        if not transaction:
            return
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        tables = {table: held.copy() for table, held in self._tables.items()}
        for command in transaction.commands:
            _apply(tables, command)
        self._tables = tables
        self._generation += 1
        self.log.append(transaction.text())

    def generation(self) -> int:
        return self._generation

    def contains(self, element: Element) -> bool:
        table = self._tables.get(element.table)
        found = table.elements.get(element.set_name, {}).get(element.key) if table else None
        return found is not None and (not element.value or found.value == element.value)

    def table_text(self, table: Table = TABLE) -> str:
        held = self._tables.get(table)
        if held is None:
            return ""
        lines = [f"table {table} {{"]
        for name, declared in held.sets.items():
            lines.append(f"\t{declared.kind} {name} {{")
            lines += [f"\t\t{element.body()}" for element in held.elements[name].values()]
            lines.append("\t}")
        return "\n".join([*lines, *self._chain_lines(held), "}", ""])

    def skeleton_text(self, table: Table = TABLE) -> str:
        held = self._tables.get(table)
        if held is None:
            return ""
        lines = [f"table {table}", *(declared.declaration() for declared in held.sets.values())]
        return "\n".join([*lines, *self._chain_lines(held)])

    def fingerprint(self, table: Table = TABLE) -> str:
        text = self.skeleton_text(table)
        return sha256(text.encode()).hexdigest() if text else ""

    def has_set(self, declared: Set) -> bool:
        return declared.name in self._tables.get(declared.table, _Table()).sets

    def sizes(self) -> dict[str, int]:
        held = self._tables.get(TABLE)
        return {name: len(elements) for name, elements in held.elements.items()} if held else {}

    def tables(self) -> frozenset[Table]:
        return frozenset(self._tables)

    def held(self, declared: Set) -> tuple[Held, ...]:
        table = self._tables.get(declared.table, _Table())
        return tuple(
            Held(*pack(element), element.comment.text if element.comment else "")
            for element in table.elements.get(declared.name, {}).values()
        )

    def values(self, declared: Set) -> dict[bytes, bytes]:
        return {one.key: one.value for one in self.held(declared)}

    def chains(self, table: Table = TABLE) -> dict[str, int]:
        held = self._tables.get(table)
        if held is None:
            return {}
        words = [rule.split() for rules in held.rules.values() for rule in rules]
        return {
            name: len(rules) + sum(list(pair) == ["jump", name] for rule in words for pair in pairwise(rule))
            for name, rules in held.rules.items()
        }

    def insert_rules(self, chain: ChainRef, rules: tuple[str, ...], owner: Comment) -> None:
        if chain not in self._foreign:
            raise ForeignChainError.from_errno("accept our traffic in chain", str(chain), errno.ENOENT)
        self._foreign[chain][:0] = [(rule, owner.text) for rule in rules]
        self._generation += 1

    def delete_rules(self, chain: ChainRef, owner: Comment) -> None:
        if self.rule_handles(chain, owner):
            self._generation += 1
            self._foreign[chain][:] = [rule for rule in self._foreign[chain] if rule[1] != owner.text]

    def has_chain(self, chain: ChainRef) -> bool:
        return chain in self._foreign

    def rule_handles(self, chain: ChainRef, owner: Comment) -> tuple[int, ...]:
        rules = self._foreign.get(chain, [])
        return tuple(handle for handle, (_, comment) in enumerate(rules, 1) if comment == owner.text)

    def foreign_chain(self, chain: ChainRef) -> list[tuple[str, str]]:
        """Make a foreign chain, or see what is in it: (rule, comment)."""
        return self._foreign.setdefault(chain, [])

    def flush_ruleset(self) -> None:
        """``nft flush ruleset``."""
        self._tables.clear()
        self._foreign.clear()
        self._generation += 1

    def stranger(self) -> None:
        """Somebody else's transaction, on a table of their own."""
        self._generation += 1

    def flush_table(self, table: Table = TABLE) -> None:
        """``nft flush table``: its rules go; chains, sets and elements stay."""
        for rules in self._tables[table].rules.values():
            rules.clear()
        self._generation += 1

    @staticmethod
    def _chain_lines(table: _Table) -> Iterator[str]:
        for name, chain in table.chains.items():
            yield f"\t{chain.declaration()}"
            yield from (f"\t\t{rule}" for rule in table.rules[name])


def _apply(tables: dict[Table, _Table], command: Command) -> None:
    if command.verb == "add" and (command.target is command.table or isinstance(command.target, OwnedTable)):
        tables.setdefault(command.table, _Table())
        return
    table = tables.get(command.table)
    if table is None:
        raise _nft_error(errno.ENOENT)
    match command.target:
        case Table():
            del tables[command.table]
        case Set() as declared:
            _apply_set(table, command.verb, declared)
        case Chain() as chain:
            _apply_chain(table, command.verb, chain)
        case Rule(chain_name, text):
            if chain_name not in table.chains:
                raise _nft_error(errno.ENOENT)
            table.rules[chain_name].append(text)
        case Element() as element:
            _apply_element(table, command.verb, element)
        case Batch(set_name=set_name, elements=elements):
            if set_name not in table.sets:
                raise _nft_error(errno.ENOENT)
            for printed in elements:
                _apply_element(table, command.verb, unpack(table.sets[set_name], printed.held))


def _apply_set(table: _Table, verb: str, declared: Set) -> None:
    if verb == "add":
        if table.sets.setdefault(declared.name, declared) != declared:
            raise _nft_error(errno.EEXIST)
        table.elements.setdefault(declared.name, {})
        return
    if declared.name not in table.sets:
        raise _nft_error(errno.ENOENT)
    if verb == "flush":
        table.elements[declared.name].clear()
        return
    if any(f"@{declared.name}" in rule.split() for rules in table.rules.values() for rule in rules):
        raise _nft_error(errno.EBUSY)
    del table.sets[declared.name], table.elements[declared.name]


def _apply_chain(table: _Table, verb: str, chain: Chain) -> None:
    if verb == "add":
        table.chains.setdefault(chain.name, chain)
        table.rules.setdefault(chain.name, [])
        return
    if chain.name not in table.chains:
        raise _nft_error(errno.ENOENT)
    if verb == "flush":
        table.rules[chain.name].clear()
        return
    del table.chains[chain.name], table.rules[chain.name]


def _apply_element(table: _Table, verb: str, element: Element) -> None:
    if element.set_name not in table.sets:
        raise _nft_error(errno.ENOENT)
    held = table.elements[element.set_name]
    found = held.get(element.key)
    if verb != "delete" and any(_overlap(element.key, key) for key in held if key != element.key):
        raise _nft_error(errno.EEXIST)
    if verb == "delete":
        if found is None:
            raise _nft_error(errno.ENOENT)
        del held[element.key]
    elif found is not None and (verb == "create" or found.value != element.value):
        raise _nft_error(errno.EEXIST)
    else:
        # The kernel keeps the comment that was there first.
        held.setdefault(element.key, element)


def _overlap(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return all(
        a.first <= b.last and b.first <= a.last if isinstance(a, PortRange) and isinstance(b, PortRange) else a == b
        for a, b in zip(one, other, strict=True)
    )


def _nft_error(number: int) -> NftError:
    return NftError.from_errno("change", f"table {TABLE}", number)


class FakeLinks:
    """``Links`` in memory: add links with ``link``."""

    def __init__(self) -> None:
        self._links: dict[IfIndex, Link] = {}
        self._flags: dict[IfIndex, PortFlags] = {}
        self._held_addresses: dict[IfIndex, tuple[Interface, ...]] = {}
        self._last = 1
        self.addresses: tuple[Address, ...] = ()
        self.routes: dict[Address, Link] = {}

    def link(self, name: str, kind: str = "veth", master: int = 0) -> Link:
        """Make a link, with an index that no other has had."""
        self._last += 1
        made = Link(IfIndex(self._last), name, kind, IfIndex(master))
        self._links[made.index] = made
        return made

    def remove(self, index: IfIndex) -> None:
        """Take a link away; the ports of a bridge are no ports any more."""
        del self._links[index]
        self._held_addresses.pop(index, None)
        for port in [one for one in self._links.values() if one.master == index]:
            self._links[port.index] = replace(port, master=IfIndex(0))
        self._flags.pop(index, None)

    def find(self, name: str) -> Link | None:
        return next((link for link in self._links.values() if link.name == name), None)

    def get(self, index: IfIndex) -> Link | None:
        return self._links.get(index)

    def all_links(self) -> tuple[Link, ...]:
        return tuple(self._links.values())

    def towards(self, address: Address) -> Link | None:
        return self.routes.get(address)

    def host_addresses(self, *versions: int) -> tuple[Address, ...]:
        return tuple(address for address in self.addresses if not versions or address.version in versions)

    def port_flags(self, index: IfIndex) -> PortFlags:
        if index not in self._links or not self._links[index].master:
            raise LinkError.from_errno("read the bridge port flags of", f"link {index}", errno.ENODEV)
        return self._flags.get(index, PortFlags(hairpin=False, isolated=False))

    def set_port_flags(self, index: IfIndex, flags: PortFlags) -> None:
        former = self.port_flags(index)
        self._flags[index] = PortFlags(
            hairpin=former.hairpin if flags.hairpin is None else flags.hairpin,
            isolated=former.isolated if flags.isolated is None else flags.isolated,
        )

    def addresses_of(self, index: IfIndex) -> tuple[Interface, ...]:
        return self._held_addresses.get(index, ())

    def make_bridge(self, name: str, mac: str, mtu: int) -> Link:
        if self.find(name):
            raise LinkError.from_errno("create", f'bridge "{name}"', errno.EEXIST)
        made = replace(self.link(name, "bridge"), mac=mac, mtu=mtu)
        self._links[made.index] = made
        return made

    def add_address(self, index: IfIndex, address: Interface) -> None:
        self._changed(index)
        if address in self.addresses_of(index):
            raise LinkError.from_errno("give an address to", f"link {index}", errno.EEXIST)
        self._held_addresses[index] = (*self.addresses_of(index), address)

    def enslave(self, index: IfIndex, bridge: IfIndex) -> None:
        self._changed(index, master=bridge)
        self._flags.pop(index, None)

    def bring_up(self, index: IfIndex) -> None:
        self._changed(index, up=True)

    def _changed(self, index: IfIndex, **fields: Any) -> None:
        if index not in self._links:
            raise LinkError.from_errno("change", f"link {index}", errno.ENODEV)
        self._links[index] = replace(self._links[index], **fields)


@dataclass(eq=False, slots=True)
class _Generation:
    """The maps that the programs of one load read."""

    maps: dict[str, dict[bytes, bytes]] = field(default_factory=dict)


class FakePrograms:
    """``Programs`` in memory. ``fail`` makes the next attach fail."""

    def __init__(self) -> None:
        self._pinned: _Generation | None = None
        self._open: _Generation | None = None
        self._hooked: dict[tuple[IfIndex, Program], _Generation] = {}
        self._localhost: frozenset[Program] = frozenset()
        self.cookie = 0
        """Of this namespace; 0 where there is no cgroup2."""
        self.fail: BpfError | None = None

    def load(self) -> None:
        if not self.loaded():
            self._open = self._pinned = _Generation()

    def open(self) -> None:
        if self._open is None:
            self.load()

    def loaded(self) -> bool:
        self._open = self._pinned
        return self._open is not None

    def lose_pins(self) -> None:
        """Let somebody remove the pins of programs and maps; what is hooked stays."""
        self._pinned = None

    def seen_by(self, program: Program, ifindex: IfIndex, map_name: str) -> dict[bytes, bytes]:
        """What a program that is hooked finds in a map."""
        return self._hooked[ifindex, program].maps.get(map_name, {})

    def unload(self) -> list[str]:
        removed = [f"program {program} on device {ifindex}" for ifindex, program in sorted(self._hooked)]
        removed += [f"program {program} on the root of the cgroups" for program in sorted(self.localhost())]
        self._hooked.clear()
        self._localhost = frozenset()
        self._open = self._pinned = None
        return removed

    def prune(self) -> list[str]:
        return []

    def attach(self, program: Program, ifindex: IfIndex) -> bool:
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        new = (ifindex, program) not in self._hooked
        self._hooked[ifindex, program] = self._used()
        return new

    def detach(self, program: Program, ifindex: IfIndex) -> bool:
        was_hooked = (ifindex, program) in self._hooked
        self._hooked.pop((ifindex, program), None)
        return was_hooked

    def current(self, ifindex: IfIndex) -> frozenset[Program]:
        mine = {program: generation for (index, program), generation in self._hooked.items() if index == ifindex}
        return frozenset(program for program, generation in mine.items() if generation is self._used())

    def hold(self, devices: Collection[IfIndex], veths: Collection[IfIndex] = ()) -> None:
        """Nothing here goes with its pin."""

    def localhost_cookie(self) -> int:
        if not self.cookie:
            raise BpfError("find", "the root of the cgroups", "no cgroup2 is mounted", errno.ENOENT)
        return self.cookie

    def attach_localhost(self, programs: Collection[Program]) -> None:
        self.localhost_cookie()
        self._used()
        self._localhost |= frozenset(programs)

    def detach_localhost(self, programs: Collection[Program]) -> frozenset[Program]:
        gone = self._localhost.intersection(programs)
        self._localhost -= gone
        return gone

    def localhost(self) -> frozenset[Program]:
        return self._localhost

    def current_localhost(self, programs: Collection[Program] = LOCALHOST_PROGRAMS) -> frozenset[Program]:
        return self.localhost().intersection(programs)

    def hooked(self, ifindex: IfIndex) -> tuple[Hooked, ...]:
        return tuple(
            Hooked(program, ifindex, AttachMode.TCX, program_id=1, link_id=1, tag="0" * 16)
            for program in Program
            if (ifindex, program) in self._hooked
        )

    def put(self, map_name: str, key: bytes, value: bytes) -> None:
        self._map(map_name)[key] = value

    def create(self, map_name: str, key: bytes, value: bytes) -> bool:
        if key in self._map(map_name):
            return False
        self.put(map_name, key, value)
        return True

    def drop(self, map_name: str, key: bytes) -> None:
        self._map(map_name).pop(key, None)

    def get(self, map_name: str, key: bytes) -> bytes | None:
        return self._map(map_name).get(key)

    def entries(self, map_name: str) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted(self._map(map_name).items())

    def size(self, map_name: str) -> MapSize:
        return MapSize(len(self._map(map_name)), 1 << 14)

    def events_lost(self) -> int:
        return 0

    def _map(self, map_name: str) -> dict[bytes, bytes]:
        return self._used().maps.setdefault(map_name, {})

    def _used(self) -> _Generation:
        if self._open is None:
            self._open = self._pinned
        if self._open is None:
            raise BpfError.from_errno("open", "the BPF programs", errno.ENOENT)
        return self._open


class FakeFlows:
    """``Flows`` in memory: ``flushed`` and ``untranslated`` have what was asked for."""

    def __init__(self) -> None:
        self.flushed: list[FlowFilter] = []
        self.untranslated: list[Address] = []

    def flush(self, filters: Iterable[FlowFilter]) -> int:
        self.flushed.extend(filters)
        return 0

    def flush_untranslated(self, sources: Collection[Address]) -> int:
        self.untranslated.extend(sources)
        return 0


class FakeSysctls:
    """``Sysctls`` in memory; one that was never set is "0", one below ``missing`` is not there."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.missing: set[str] = set()

    def read(self, name: str) -> str | None:
        return None if name in self.missing else self.values.get(name, "0")

    def write(self, name: str, value: str) -> None:
        if name in self.missing:
            raise KernelError.from_errno("set", f"sysctl {name} to {value}", errno.ENOENT)
        self.values[name] = value


class FakeFirewalld:
    """``Firewalld`` in memory; none runs until ``start``."""

    def __init__(self) -> None:
        self._zones: dict[str, set[Address]] | None = None

    def start(self, *zones: str) -> None:
        """Let it run, with these zones, all empty; what an older one held is forgotten, as a reload forgets it."""
        self._zones = {zone: set() for zone in zones}

    def stop(self) -> None:
        """Let none run."""
        self._zones = None

    def running(self) -> bool:
        return self._zones is not None

    def add_source(self, zone: str, address: Address) -> bool:
        held = self._held("put", f"{address} into", zone)
        if address in held:
            return False
        if any(address in others for others in (self._zones or {}).values()):
            raise FirewalldError("put", f'{address} into firewalld zone "{zone}"', "ZONE_CONFLICT")
        held.add(address)
        return True

    def remove_source(self, zone: str, address: Address) -> bool:
        held = (self._zones or {}).get(zone, set())
        there = address in held
        held.discard(address)
        return there

    def sources(self, zone: str) -> frozenset[Address]:
        return frozenset(self._held("list", "the sources of", zone))

    def _held(self, verb: str, what: str, zone: str) -> set[Address]:
        if self._zones is None or zone not in self._zones:
            cause = "firewalld does not run" if self._zones is None else f"INVALID_ZONE: {zone}"
            raise FirewalldError(verb, f'{what} firewalld zone "{zone}"', cause)
        return self._zones[zone]


@dataclass(frozen=True, slots=True)
class FakeDoors:
    """The fakes under their own types, for tests that look behind the doors; ``kernel()`` hands them on."""

    nft: FakeNft = field(default_factory=FakeNft)
    links: FakeLinks = field(default_factory=FakeLinks)
    programs: FakePrograms = field(default_factory=FakePrograms)
    flows: FakeFlows = field(default_factory=FakeFlows)
    sysctls: FakeSysctls = field(default_factory=FakeSysctls)
    firewalld: FakeFirewalld = field(default_factory=FakeFirewalld)

    def kernel(self) -> Kernel:
        return Kernel(self.nft, self.links, self.programs, self.flows, self.sysctls, self.firewalld)
