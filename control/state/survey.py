"""The survey of what is left of attachments, in the kernel and in the directory of leases, where the state was lost.

    rebuilt(survey(kernel))      control/state/rebuild.py reads attachments from it

A host on which nothing was ever attached is asked two short questions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from control.desired.owners import MAIN_PLUGINS, comment_of, key_of
from control.desired.planner import route_localnet
from control.desired.ruleset import PLAIN, SETS, SHORTCUTS
from control.errors import BusyError, DifferenceError
from control.ipam.leases import DATA_DIR, LeaseStore, Owner
from control.model import AttachmentKey
from control.state.rebuild import Rebuilt, rebuilt
from control.state.remains import TRUSTED, Remains, Sandbox, groups_of
from dataplane import abi, addresses, wires
from dataplane.abi import U32, NetworkEntry, OriginKey, Port, PublishedKey, Target
from dataplane.doors import Kernel, Link, PortFlags
from dataplane.errors import FirewalldError, KernelError, LinkError
from dataplane.namespaces import inside
from dataplane.nft.elements import unpack
from dataplane.nft.objects import Element, Set, Table
from dataplane.types import Address, IfIndex

NETNS_DIR = Path("/run/netns")
"""Where runtimes, and ``ip netns``, keep the namespaces of containers. One that only a process holds has no path that
tells for good whether the container is there."""

_MEMBERS = frozenset({"members4", "members6"})


def read_back(kernel: Kernel) -> Rebuilt:
    """The attachments that the kernel still serves. Raises a ``DataplaneError`` where it cannot be asked."""
    return rebuilt(survey(kernel))


def survey(kernel: Kernel, netns_dir: Path = NETNS_DIR, lease_dir: Path = DATA_DIR) -> Remains:
    """Ask for all that is left. Raises a ``DataplaneError``."""
    tables = kernel.nft.tables()
    maps = ("networks", "ports") if kernel.programs.loaded() else ()
    if not (tables or any(any(kernel.programs.entries(name)) for name in maps)):
        # A wire alone is no attachment yet: the call that asks may just have made it.
        return Remains()
    there = {link.index: link for link in kernel.links.all_links()}
    rules = kernel.nft.skeleton_text() if Table.MAIN in tables else ""
    elements = tuple(_elements(kernel, rules, tables))
    keys = {key for one in elements if one.comment and (key := key_of(one.comment.text))}
    remains = Remains(
        elements=elements,
        rules=rules,
        hooks=frozenset((one.program, one.ifindex) for index in there for one in kernel.programs.hooked(index)),
        links=there,
        flags={index: flags for index, link in there.items() if (flags := _flags(kernel, link)) is not None},
        localhost=frozenset(
            index for index, link in there.items() if kernel.sysctls.read(route_localnet(link.name)) == "1"
        ),
        sandboxes=tuple(_sandboxes(netns_dir)) if any(link.peer for link in there.values()) else (),
        leased=frozenset(key for key in keys if _leases(key, elements, lease_dir)),
        lease_dir=str(lease_dir),
        admin_chains=tuple(sorted(kernel.nft.chains(Table.ADMIN))) if Table.ADMIN in tables else (),
        trusted=_trusted(kernel),
    )
    return _with_entries(kernel, remains)


def _elements(kernel: Kernel, rules: str, tables: frozenset[Table]) -> Iterator[Element]:
    sets: list[Set] = []
    if Table.MAIN in tables:
        sets += (one for one in SETS if one not in SHORTCUTS)
        for version, suffix, _ in groups_of(rules):
            plain = next(group for group in PLAIN if group.version == version)
            sets += (replace(declared, name=declared.name + suffix) for declared in plain.maps())
    for declared in sets:
        for held in kernel.nft.held(declared):
            try:
                yield unpack(declared, held)
            except ValueError:
                continue  # nothing that we wrote


def _with_entries(kernel: Kernel, remains: Remains) -> Remains:
    if not kernel.programs.loaded():
        return remains
    networks = {
        IfIndex(U32.unpack(key)[0]): NetworkEntry.unpack(value) for key, value in kernel.programs.entries("networks")
    }
    ports = {IfIndex(U32.unpack(key)[0]): Port.unpack(value) for key, value in kernel.programs.entries("ports")}
    origins = (OriginKey.unpack(key) for key, _ in kernel.programs.entries("origins"))
    return replace(
        remains,
        networks=networks,
        ports=ports,
        port_addresses=frozenset(
            abi.unpack_port_address_key(key)
            for key, value in kernel.programs.entries("port_addresses")
            if value == U32.pack(1)  # 2: another interface of the container has it
        ),
        targets=frozenset(
            (target.address, PublishedKey.unpack(key).protocol, target.port, target.localhost)
            for key, value in kernel.programs.entries("published")
            for target in (Target.unpack(value),)
        ),
        watched=frozenset(
            (abi.unpack_container_key(key), address)
            for key, value in kernel.programs.entries("containers")
            if (address := abi.unpack_address(value)) is not None
        ),
        fill_ports=frozenset(abi.unpack_fill_key(key) for key, _ in kernel.programs.entries("fill_ports")),
        origins=frozenset((one.address, one.protocol, one.port) for one in origins),
    )


def _flags(kernel: Kernel, link: Link) -> PortFlags | None:
    if not link.master:
        return None
    try:
        return kernel.links.port_flags(link.index)
    except LinkError:
        return None  # a port of something that is no bridge


def _sandboxes(directory: Path) -> Iterator[Sandbox]:
    """The namespaces that can be entered."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # gone meanwhile
        try:
            links, held = inside(descriptor, _inventory)
            yield Sandbox(str(path), os.fstat(descriptor).st_ino, links, held)
        except KernelError:
            continue  # no namespace, or none that we may enter
        finally:
            os.close(descriptor)


def _inventory() -> tuple[tuple[Link, ...], dict[IfIndex, frozenset[Address]]]:
    """Links and addresses of the calling thread's namespace."""
    found: dict[IfIndex, set[Address]] = {}
    for index, one in addresses.everywhere():
        found.setdefault(index, set()).add(one.interface.ip)
    return wires.links(), {index: frozenset(held) for index, held in found.items()}


def _leases(key: AttachmentKey, elements: Iterable[Element], directory: Path) -> bool:
    """Whether a main plugin of ours has leased this attachment's addresses there."""
    if key.plugin not in MAIN_PLUGINS or not (directory / key.network).is_dir():
        return False
    owner = comment_of(key)
    mine = [one.key[1] for one in elements if one.set_name in _MEMBERS and one.comment == owner]
    held = [address for address in mine if isinstance(address, IPv4Address | IPv6Address)]
    try:
        LeaseStore(key.network, directory).check(Owner(key.container, key.ifname), held)
    except (DifferenceError, BusyError, OSError):
        return False
    return bool(held)


def _trusted(kernel: Kernel) -> frozenset[Address]:
    try:
        return kernel.firewalld.sources(TRUSTED) if kernel.firewalld.running() else frozenset()
    except FirewalldError:
        return frozenset()
