"""The kernel's doors as protocols: what ``control/`` may ask of the kernel, and what the fakes answer in its place.

    Nft         nftables transactions          nft/client.py
    Links       rtnetlink: links, addresses    links.py
    Programs    BPF programs, hooks, maps      programs/
    Flows       conntrack entries              conntrack.py
    Sysctls     /proc/sys/net                  sysctl.py
    Firewalld   zones of a running firewalld   firewalld.py

Each has one real implementation and one fake (``fakes.py``); ``tests/kernel/test_contract.py`` runs the same cases on
both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol as Door

from dataplane.nft.elements import Held
from dataplane.nft.objects import TABLE, ChainRef, Comment, Element, Set, Table
from dataplane.nft.transaction import Transaction
from dataplane.types import LOCALHOST_PROGRAMS, Address, AttachMode, IfIndex, Interface, Program, Protocol


class Nft(Door):
    """nftables, our own tables only: the main one, where a method does not ask for one."""

    def run(self, transaction: Transaction) -> None:
        """Apply all of it or nothing. Raises ``NftError`` with the kernel's errno."""

    def generation(self) -> int:
        """How many transactions this namespace has seen, of ours and of others: equal to an earlier answer when
        nothing was changed since. Raises ``NftError``."""

    def contains(self, element: Element) -> bool:
        """Whether the kernel holds this element, with this value where it has one."""

    def table_text(self, table: Table = TABLE) -> str:
        """A table of ours as ``nft list table`` prints it; empty where it is not there."""

    def skeleton_text(self, table: Table = TABLE) -> str:
        """A table without elements and counters: equal to an earlier answer when chains and rules are untouched."""

    def fingerprint(self, table: Table = TABLE) -> str:
        """A word for chains, rules and declared sets of a table of ours: equal to an earlier answer where they are
        untouched; empty where the table is not there. Cheap, however much it holds. Raises ``NftError``."""

    def has_set(self, declared: Set) -> bool:
        """Whether our table has a set or map of this name, whatever it holds. Cheap. Raises ``NftError``."""

    def sizes(self) -> dict[str, int]:
        """How many elements each set and map of our table holds; empty where the table is not there."""

    def become_owner(self) -> bool:
        """From now on make all changes by the one socket that an ``OwnedTable`` belongs to; False where kernel or
        libnftables know no owned tables that outlive their owner. Tries it. Raises ``NftError``."""

    def tables(self) -> frozenset[Table]:
        """Which of our tables there are. Cheap. Raises ``NftError``."""

    def held(self, declared: Set) -> tuple[Held, ...]:
        """The elements of a set or map of ours, in no particular order; none where it is not there. Raises
        ``NftError``."""

    def values(self, declared: Set) -> dict[bytes, bytes]:
        """The same without comments: value by key. Quicker, of tens of thousands. Raises ``NftError``."""

    def chains(self, table: Table = TABLE) -> dict[str, int]:
        """The chains of a table of ours, and how many rules each holds, counting jumps to it; empty where the table is
        not there. Cheap, however much it holds. Raises ``NftError``."""

    def insert_rules(self, chain: ChainRef, rules: tuple[str, ...], owner: Comment) -> None:
        """Put rules in front of a foreign chain, each with the owner's comment. Raises ``NftError``."""

    def delete_rules(self, chain: ChainRef, owner: Comment) -> None:
        """Remove the rules of a foreign chain that carry the owner's comment; no such chain is fine."""

    def has_chain(self, chain: ChainRef) -> bool:
        """Whether a foreign chain is there."""

    def rule_handles(self, chain: ChainRef, owner: Comment) -> tuple[int, ...]:
        """Handles of the rules in a foreign chain that carry the owner's comment."""


_NO_LINK = IfIndex(0)


@dataclass(frozen=True, slots=True)
class Link:
    """One link of this network namespace, as rtnetlink describes it."""

    index: IfIndex
    name: str
    kind: str
    """IFLA_INFO_KIND: "bridge", "veth" ...; empty for hardware and loopback."""
    master: IfIndex
    """The bridge it is a port of, or 0."""
    mac: str = ""
    """In lower case with colons; empty for a link that has none."""
    mtu: int = 0
    up: bool = False
    """IFF_UP: somebody wants it up."""
    running: bool = False
    """It carries frames: its operational state (RFC 2863) is up, or unknown as that of loopback."""
    promiscuous: bool = False
    """IFF_PROMISC: somebody wants all frames. A bridge wants them of its ports, a packet socket for a while; neither is
    meant."""
    peer: IfIndex = _NO_LINK
    """The other end of a veth pair: its index in *its* network namespace."""
    alias: str = ""
    """IFLA_IFALIAS: a remark that people and programs may leave."""


class Links(Door):
    """rtnetlink in the network namespace of this process."""

    def find(self, name: str) -> Link | None:
        """The link with this name, or None."""

    def get(self, index: IfIndex) -> Link | None:
        """The link with this index, or None."""

    def all_links(self) -> tuple[Link, ...]:
        """Every link of this namespace. Raises ``LinkError``."""

    def towards(self, address: Address) -> Link | None:
        """The link by which packets to this address leave; None where there is no route, or it is the host's own."""

    def host_addresses(self, *versions: int) -> tuple[Address, ...]:
        """Addresses of this namespace, of these IP versions or of both, in numeric order; loopback and IPv6 link-local
        ones excluded. Those of IPv6 take longer, the more links there are."""

    def port_flags(self, index: IfIndex) -> PortFlags:
        """The bridge port flags of a link. Raises ``LinkError`` (``ENODEV``) where it is none, or not there."""

    def set_port_flags(self, index: IfIndex, flags: PortFlags) -> None:
        """Change the bridge port flags of a link. Raises ``LinkError``, as ``port_flags`` does."""

    def addresses_of(self, index: IfIndex) -> tuple[Interface, ...]:
        """The addresses of a link, IPv6 link-local ones excluded; none of a link that is gone."""

    def make_bridge(self, name: str, mac: str, mtu: int) -> Link:
        """Make a bridge, which is down. Raises ``LinkError``."""

    def add_address(self, index: IfIndex, address: Interface) -> None:
        """Give a link an address, to be used at once. Raises ``LinkError``."""

    def enslave(self, index: IfIndex, bridge: IfIndex) -> None:
        """Make a link a port of a bridge. Raises ``LinkError``."""

    def bring_up(self, index: IfIndex) -> None:
        """Set a link up. Raises ``LinkError``."""


@dataclass(frozen=True, slots=True)
class PortFlags:
    """Flags of a bridge port; None leaves one as it is."""

    hairpin: bool | None = None
    """IFLA_BRPORT_MODE: frames may leave by the port they came in by."""
    isolated: bool | None = None
    """IFLA_BRPORT_ISOLATED: no frames between two ports that carry it."""

    def where(self, named: PortFlags) -> PortFlags:
        """These flags, as far as ``named`` names them: what to write to take ``named`` back."""
        return PortFlags(
            hairpin=None if named.hairpin is None else self.hairpin,
            isolated=None if named.isolated is None else self.isolated,
        )


@dataclass(frozen=True, slots=True)
class Hooked:
    """A program of ours found on a link."""

    program: Program
    ifindex: IfIndex
    mode: AttachMode
    """``TCX`` or ``CLSACT``."""
    program_id: int
    link_id: int
    """BPF link id, 0 for clsact."""
    tag: str
    """The kernel's hash of the instructions."""


@dataclass(frozen=True, slots=True)
class MapSize:
    """How full a BPF map is."""

    entries: int
    maximum: int


class Programs(Door):
    """Our BPF programs: compiled once, pinned, hooked to devices and to the cgroups' root; and their maps.

    Pins that somebody removes take programs and maps with them, and what is loaded then has maps that are empty: a
    program that is attached with them finds no network, and lets everything pass. So a door uses one generation until
    it is asked for another one, by ``loaded`` or ``load``, and **who changes a part of the maps must never be given new
    ones**. He who begins to look, or serves a request, asks ``loaded``, and puts everything where it says no; from then
    on ``open`` is all that he may ask until he is done.
    """

    def load(self) -> None:
        """Compile and pin the programs unless those of this source are pinned already; what is pinned is used from now
        on. Its maps may be new, and empty: for those alone who then put everything. Raises ``BpfError`` or
        ``MissingDependencyError``."""

    def open(self) -> None:
        """Have programs to use: those that were used last, also where their pins have gone since; only where none
        were, as ``load``. Raises ``BpfError`` or ``MissingDependencyError``."""

    def loaded(self) -> bool:
        """Whether programs of this source are pinned; those that are are used from now on. Raises ``BpfError``."""

    def unload(self) -> list[str]:
        """Unhook our programs everywhere in this namespace and remove all pins; what was removed, a line each."""

    def prune(self) -> list[str]:
        """Unpin programs and maps of other versions that run nowhere in this namespace; which directories went. Raises
        ``BpfError``."""

    def attach(self, program: Program, ifindex: IfIndex) -> bool:
        """Hook a program to a device; one that is hooked is brought up to date. Whether it was not hooked before.
        Raises ``BpfError``."""

    def detach(self, program: Program, ifindex: IfIndex) -> bool:
        """Unhook ours from a device; whether it was hooked. No such device is not an error."""

    def hooked(self, ifindex: IfIndex) -> tuple[Hooked, ...]:
        """Our programs on one device, also those whose pins are gone."""

    def current(self, ifindex: IfIndex) -> frozenset[Program]:
        """Our programs on one device that are there once, are those that are used, and are pinned where they belong:
        those that ``attach`` would not change."""

    def hold(self, devices: Collection[IfIndex], veths: Collection[IfIndex] = ()) -> None:
        """Keep what is hooked to these devices, and to the cgroups' root, there for as long as this process lives, also
        when its pins are removed; and let go of what is not hooked to any of them. ``veths``, of which there may be
        thousands, are asked once each: what this door hooks to them later is held, too."""

    def localhost_cookie(self) -> int:
        """The number by which programs on the cgroups' root know processes of this network namespace. Changes nothing.
        Raises ``BpfError`` where programs cannot be attached there, with the reason."""

    def attach_localhost(self, programs: Collection[Program]) -> None:
        """Have these programs on the cgroups' root, once each, and up to date. Raises ``BpfError``."""

    def detach_localhost(self, programs: Collection[Program]) -> frozenset[Program]:
        """Take ours of these off the cgroups' root; which were there."""

    def localhost(self) -> frozenset[Program]:
        """Our programs on the cgroups' root that serve this network namespace, in any version."""

    def current_localhost(self, programs: Collection[Program] = LOCALHOST_PROGRAMS) -> frozenset[Program]:
        """Those of these that ``attach_localhost`` would not change."""

    def put(self, map_name: str, key: bytes, value: bytes) -> None:
        """Write one map entry. Raises ``BpfError``."""

    def create(self, map_name: str, key: bytes, value: bytes) -> bool:
        """Write one map entry unless there is one with this key, as always in an array; whether it was written. Raises
        ``BpfError``."""

    def drop(self, map_name: str, key: bytes) -> None:
        """Remove one map entry; missing is not an error."""

    def get(self, map_name: str, key: bytes) -> bytes | None:
        """One map entry, or None. Per-CPU values come summed as 64-bit counters."""

    def entries(self, map_name: str) -> Iterator[tuple[bytes, bytes]]:
        """All entries of a map. Per-CPU values come summed as 64-bit counters."""

    def size(self, map_name: str) -> MapSize:
        """How many entries a map holds, and can hold. Raises ``BpfError``."""

    def events_lost(self) -> int:
        """How many events found the ring full since the programs were loaded. Raises ``BpfError``."""


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Which conntrack entries to flush, by their original destination."""

    protocol: Protocol
    port: int
    addresses: tuple[Address, ...]
    """Original destination addresses: only these."""
    astray: bool = False
    """Only entries whose destination was not translated, such as those that began while there was nothing to do it."""


class Flows(Door):
    """Conntrack in the network namespace of this process."""

    def flush(self, filters: Iterable[FlowFilter]) -> int:
        """Delete the entries that match any filter; how many."""

    def flush_untranslated(self, sources: Collection[Address]) -> int:
        """Delete the entries of flows from these addresses that have neither a translated source nor an answer, such as
        those that began while there was nothing to masquerade them; how many."""


class Sysctls(Door):
    """/proc/sys in the network namespace of this process."""

    def read(self, name: str) -> str | None:
        """The value, by its path below /proc/sys ("net/ipv4/ip_forward"); None where there is no such sysctl."""

    def write(self, name: str, value: str) -> None:
        """Set it. Raises ``KernelError``."""


class Firewalld(Door):
    """A firewalld that may run beside us, and decides of forwarded packets by the zone of their source."""

    def running(self) -> bool:
        """Whether one runs. Cheap where there is no system bus. Raises ``FirewalldError`` where that is no clear no."""

    def add_source(self, zone: str, address: Address) -> bool:
        """Put an address into a zone until firewalld is reloaded; whether it was not there before. Raises
        ``FirewalldError``, also where none runs."""

    def remove_source(self, zone: str, address: Address) -> bool:
        """Take an address out of a zone; whether it was there. No such zone, and no firewalld, is fine. Raises
        ``FirewalldError``."""

    def sources(self, zone: str) -> frozenset[Address]:
        """The single addresses in a zone. Raises ``FirewalldError``, also where none runs."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """All doors together."""

    nft: Nft
    links: Links
    programs: Programs
    flows: Flows
    sysctls: Sysctls
    firewalld: Firewalld
