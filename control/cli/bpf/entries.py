"""What ``dpctl bpf attach`` writes into maps for a device, and what ``detach`` takes out again. Pure.

A device that no attachment asked for becomes a network by hand: its number has the bit ``MANUAL_NETWORK`` and the
device's index, it is kept by reconcile, and its entries go with the last program that is detached by hand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from control.model import DEFAULT_FILL_PORTS
from dataplane import abi
from dataplane.abi import MANUAL_NETWORK, U32, NetworkEntry, Port
from dataplane.types import (
    NETWORK_PROGRAMS,
    Address,
    ChecksumMode,
    GuardLevel,
    IfIndex,
    IsolationPolicy,
    Program,
)

Entry = tuple[str, bytes]
"""Map and key."""


class RefusedError(ValueError):
    """What was asked for makes no sense together; the text says what is missing or too much."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for; None and empty: nothing about it."""

    programs: tuple[Program, ...]
    policy: IsolationPolicy | None = None
    checksum: ChecksumMode | None = None
    mac: str = ""
    addresses: tuple[Address, ...] = ()
    udp_ports: tuple[int, ...] = ()

    @property
    def about_network(self) -> bool:
        """Whether it changes the network of the device."""
        return self.policy is not None or self.checksum is not None

    @property
    def about_port(self) -> bool:
        """Whether it changes what the container behind the device may send, or is sent."""
        return bool(self.mac or self.addresses or self.udp_ports)


@dataclass(frozen=True, slots=True)
class Known:
    """What maps and hooks hold about the device."""

    ifindex: IfIndex
    network: NetworkEntry | None = None
    port: Port | None = None
    hooked: frozenset[Program] = frozenset()

    @property
    def manual(self) -> int:
        """The number of the network that it would be by hand."""
        return MANUAL_NETWORK | self.ifindex

    @property
    def network_is_manual(self) -> bool:
        """Whether no attachment asked for its network."""
        return self.network is None or bool(self.network.id & MANUAL_NETWORK)

    @property
    def port_is_manual(self) -> bool:
        """Whether it is no container's host veth."""
        return self.port is None or bool(self.port.network & MANUAL_NETWORK)


def network_entry(wish: Wish, known: Known) -> NetworkEntry | None:
    """What ``networks`` is to hold; None where no program of the wish reads it. Raises ``RefusedError``.

    A network by hand that is not isolated is open: else traffic that comes in by this device could reach no container.
    """
    if not set(wish.programs) & set(NETWORK_PROGRAMS):
        if wish.about_network:
            raise RefusedError("--policy and --checksum-mode are for the programs isolation and checksum")
        return None
    isolating = Program.ISOLATION in wish.programs
    before = known.network
    if before is not None and not known.network_is_manual:
        return before
    usual = IsolationPolicy.SAME_BRIDGE if isolating else IsolationPolicy.OPEN
    if before is None:
        before = NetworkEntry(known.manual, usual, ChecksumMode.REPAIR)
    elif isolating and Program.ISOLATION not in known.hooked:
        before = replace(before, policy=usual)
    policy = before.policy if wish.policy is None else wish.policy
    return replace(before, policy=policy, checksum=before.checksum if wish.checksum is None else wish.checksum)


def port_entry(wish: Wish, known: Known) -> Port | None:
    """What ``ports`` is to hold; None where no program of the wish reads it. Raises ``RefusedError``."""
    guarded, filled = Program.GUARD in wish.programs, Program.FILL in wish.programs
    if (wish.mac or wish.addresses) and not guarded:
        raise RefusedError("--mac and --address are for the program guard")
    if wish.udp_ports and not filled:
        raise RefusedError("--udp-port is for the program fill")
    if not (guarded or filled):
        return None
    port = known.port or Port(known.manual, GuardLevel.OFF)
    if not known.port_is_manual:
        return port
    if wish.addresses:
        port = replace(port, guard=GuardLevel.FULL)
    elif wish.mac:
        port = replace(port, guard=GuardLevel.MAC)
    if guarded and port.guard is GuardLevel.OFF:
        raise RefusedError(
            "guard has to know what may be sent: --mac MAC, and --address ADDR for each address; for containers a"
            ' conflist says "guard"'
        )
    return replace(port, mac=wish.mac or port.mac)


def entries_to_put(wish: Wish, known: Known, network: NetworkEntry | None, port: Port | None) -> dict[Entry, bytes]:
    """What has to be written for these, where it is not there."""
    entries: dict[Entry, bytes] = {}
    if network is not None and network != known.network:
        entries["networks", U32.pack(known.ifindex)] = network.pack()
    if port is not None and known.port_is_manual:
        if port != known.port:
            entries["ports", U32.pack(known.ifindex)] = port.pack()
        for address in wish.addresses:
            entries["port_addresses", abi.port_address_key(known.ifindex, address)] = U32.pack(1)
        if Program.FILL in wish.programs:
            for number in wish.udp_ports or DEFAULT_FILL_PORTS:
                entries["fill_ports", abi.fill_key(port.network, number)] = U32.pack(1)
    return entries


def after_detaching(known: Known, left: Collection[Program], held: Iterable[Entry]) -> tuple[set[Entry], bytes | None]:
    """What a network by hand no longer needs, with only these programs left: entries to drop, of those that are held,
    and what to write into ``networks`` where isolation has gone and another program stays."""
    dropped: set[Entry] = set()
    rewritten = None
    key = U32.pack(known.ifindex)
    if known.network is not None and known.network_is_manual:
        if not set(left) & set(NETWORK_PROGRAMS):
            dropped |= {("networks", key), ("checksum_counts", key)}
        elif Program.ISOLATION not in left and known.network.policy is not IsolationPolicy.OPEN:
            rewritten = replace(known.network, policy=IsolationPolicy.OPEN).pack()
    if known.port is not None and known.port_is_manual and not set(left) & {Program.GUARD, Program.FILL}:
        dropped |= {("ports", key)}
        dropped |= {entry for entry in held if entry[0] == "port_addresses" and entry[1].startswith(key)}
        network = U32.pack(known.port.network)
        dropped |= {entry for entry in held if entry[0] == "fill_ports" and entry[1].startswith(network)}
    return dropped, rewritten
