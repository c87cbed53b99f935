"""What ``dpctl bpf attach`` and ``detach`` refuse to do, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import click

from control.cli.bpf.entries import Known, Wish
from control.cli.bpf.names import Names
from control.errors import EngineError
from dataplane.doors import Hooked
from dataplane.links import NetlinkLinks
from dataplane.programs.inventory import has_ethernet_headers
from dataplane.types import NETWORK_PROGRAMS, Address, IfIndex, Program

_LOOPBACK = IfIndex(1)
_FAR_AWAY: tuple[Address, ...] = (IPv4Address("203.0.113.1"), IPv6Address("2001:db8:ffff::1"))
"""Of the documentation ranges: what leads there is an uplink."""


def refuse_device(device: str, ifindex: IfIndex, wish: Wish, *, force: bool) -> None:
    """A device, or a program, that cannot be attached so. Raises ``EngineError``, ``click.UsageError``."""
    for program in wish.programs:
        if program.hook.of_cgroup:
            raise click.UsageError(
                f"{program} runs for sockets of the host's processes, and not on a device; it is attached to the root"
                " of the cgroups with the first published port"
            )
    if not has_ethernet_headers(device):
        raise EngineError(
            f'could not attach to "{device}": its frames have no Ethernet header, which the programs read first'
        )
    if Program.ISOLATION in wish.programs and not force and _is_uplink(ifindex):
        raise EngineError(
            f'could not attach isolation to "{device}": it is an uplink, and containers would be cut off from what is'
            f" behind it; dpctl bpf attach {device} --program checksum, or --force if that is wanted"
        )


def _is_uplink(ifindex: IfIndex) -> bool:
    """Whether it is hardware, or what is far away is reached by it."""
    links = NetlinkLinks()
    link = links.get(ifindex)
    if link is not None and not link.kind and ifindex != _LOOPBACK:
        return True
    return any(way is not None and way.index == ifindex for way in map(links.towards, _FAR_AWAY))


def refuse_others(wish: Wish, known: Known, names: Names) -> None:
    """An attachment's entries, which are its conflist's to change. Raises ``EngineError``."""
    device = names.device(known.ifindex)
    if known.network is not None and not known.network_is_manual and wish.about_network:
        network = names.network(known.network.id)
        raise EngineError(
            f'could not change "{device}": it is the device of network "{network}"; change its conflist, or use'
            f" dpctl checksum mode {network}"
        )
    if known.port is not None and not known.port_is_manual and wish.about_port:
        whose = names.behind(known.ifindex) or names.network(known.port.network)
        raise EngineError(f'could not change "{device}": it belongs to container "{whose}"; change its conflist')


def refuse_opening(device: str, found: Iterable[Hooked], known: Known, names: Names) -> None:
    """Taking away what an attachment asks for. Raises ``EngineError``."""
    programs = {one.program for one in found}
    if known.network is not None and not known.network_is_manual and programs & set(NETWORK_PROGRAMS):
        raise EngineError(
            f'could not detach from "{device}": it is the device of network "{names.network(known.network.id)}", whose'
            " containers would be open to each other's networks, or get checksums that NAT broke; use --force if that"
            " is wanted"
        )
    if known.port is not None and not known.port_is_manual and programs & {Program.GUARD, Program.FILL}:
        raise EngineError(
            f'could not detach from "{device}": it belongs to container'
            f' "{names.behind(known.ifindex) or names.network(known.port.network)}", which could send whatever it'
            " likes; use --force if that is wanted"
        )
