"""Steps: what is to be done to the kernel, as values. ``dataplane.apply`` runs them; nothing here touches anything.

plan = (PutEntry(...), AttachProgram(...), RunNft(do, undo), FlushFlows(...))
"""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.doors import FlowFilter, PortFlags
from dataplane.nft.objects import ChainRef, Comment
from dataplane.nft.transaction import Transaction
from dataplane.types import Address, IfIndex, Program


@dataclass(frozen=True, slots=True)
class LoadPrograms:
    """Have BPF programs open: compiled and pinned, where none are. Not undone: unused pins cost nothing, and save the
    next compile."""


@dataclass(frozen=True, slots=True)
class PutEntry:
    """Write a BPF map entry; undone by writing the former value back, or removing it."""

    map_name: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class DropEntry:
    """Remove a BPF map entry; undone by writing it back. Where the map is gone, its pin lost, so is the entry."""

    map_name: str
    key: bytes


@dataclass(frozen=True, slots=True)
class ForgetCounts:
    """Remove a device's checksum counts. Not undone: counting starts anew."""

    ifindex: IfIndex


@dataclass(frozen=True, slots=True)
class AttachProgram:
    """Hook a program to a device; undone by unhooking, unless it was hooked before. A container's host veth that is
    gone is fine: it goes whenever its container does."""

    program: Program
    ifindex: IfIndex


@dataclass(frozen=True, slots=True)
class DetachProgram:
    """Unhook a program; undone by hooking it again."""

    program: Program
    ifindex: IfIndex


@dataclass(frozen=True, slots=True)
class AttachLocalhost:
    """Have these programs on the root of the cgroups, which lead processes of the host to published ports by loopback
    addresses. Undone by detaching those that were not there before."""

    programs: frozenset[Program]


@dataclass(frozen=True, slots=True)
class DetachLocalhost:
    """Take all of them off; undone by attaching again those that were there."""


@dataclass(frozen=True, slots=True)
class RunNft:
    """Run a transaction; undone by running its opposite."""

    do: Transaction
    undo: Transaction


@dataclass(frozen=True, slots=True)
class InsertRules:
    """Put rules in front of a foreign chain; undone by deleting them. Rules of this owner there are replaced. No such
    chain is fine if ``optional``."""

    chain: ChainRef
    rules: tuple[str, ...]
    owner: Comment
    optional: bool = False


@dataclass(frozen=True, slots=True)
class DeleteRules:
    """Delete the owner's rules from a foreign chain; undone by inserting them again."""

    chain: ChainRef
    rules: tuple[str, ...]
    owner: Comment


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """Set a sysctl; undone by setting the former value. One that vanished with its device is fine if ``optional``."""

    name: str
    value: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class SetPortFlags:
    """Set bridge port flags; undone by setting the former ones. A port that vanished is fine if ``optional``."""

    ifindex: IfIndex
    flags: PortFlags
    optional: bool = False


@dataclass(frozen=True, slots=True)
class TrustSource:
    """Put an address into a zone of firewalld, if one runs; undone by taking it out, unless it was in there before."""

    zone: str
    address: Address


@dataclass(frozen=True, slots=True)
class DistrustSource:
    """Take an address out of a zone of firewalld, if one runs; undone by putting it back, if it was in there."""

    zone: str
    address: Address


@dataclass(frozen=True, slots=True)
class FlushFlows:
    """Delete conntrack entries. Not undone: a flow that still lives is tracked anew with its next packet."""

    filters: tuple[FlowFilter, ...]
    sources: tuple[Address, ...] = ()
    """Whose flows go as well that were neither translated nor answered."""


Step = (
    LoadPrograms
    | PutEntry
    | DropEntry
    | ForgetCounts
    | AttachProgram
    | DetachProgram
    | AttachLocalhost
    | DetachLocalhost
    | RunNft
    | InsertRules
    | DeleteRules
    | SetSysctl
    | SetPortFlags
    | TrustSource
    | DistrustSource
    | FlushFlows
)
