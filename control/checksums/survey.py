"""The evidence about checksums on this host, gathered: what ``control.checksums.health`` judges.

    survey(known, names)     -> Evidence: all networks, or those named

Reads links, offloads, programs, their counters, and /proc in each container's network namespace; changes nothing. What
cannot be read of one container or device is said there, and the rest goes on.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

from control.checksums.health import Counters, Evidence, NetworkEvidence, Offloads, Receiver, Role
from control.desired.hooks import mode_of, port_of, port_programs, use_of
from control.model import Attachment, ChecksumPolicy
from control.state.reading import Known
from dataplane import offloads, sumerrors
from dataplane.abi import U32, U64, ChecksumCounts
from dataplane.doors import Link
from dataplane.errors import DataplaneError, LinkError
from dataplane.links import NetlinkLinks
from dataplane.namespaces import inside
from dataplane.programs.door import KernelPrograms
from dataplane.types import ChecksumMode, IfIndex, Program

_BEYOND = (IPv4Address("203.0.113.254"), IPv6Address("2001:db8:ffff::1"))
"""Addresses for documentation, which nobody has: the way to them is the default route."""
_NOWHERE = "its network namespace is not known; its runtime's next call tells"
_TUNNELS = frozenset({"vxlan", "geneve"})


def survey(known: Known, names: Collection[str] = ()) -> Evidence:
    """The evidence about all networks, or those of these names. Raises ``LinkError``, ``BpfError``, ``OSError``."""
    return _Survey(known).evidence(names)


class _Survey:
    """One look at everything."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._links = NetlinkLinks()
        self._programs = KernelPrograms()
        self._loaded = self._programs.loaded()

    def evidence(self, names: Collection[str]) -> Evidence:
        by_network: dict[str, list[Attachment]] = {}
        for attachment in self._known.attachments:
            by_network.setdefault(attachment.key.network, []).append(attachment)
        return Evidence(
            networks=tuple(
                self._network(name, ours) for name, ours in by_network.items() if not names or name in names
            ),
            host=sumerrors.errors(),
            devices=tuple(self._shared()),
            lost=self._programs.events_lost() if self._loaded else 0,
        )

    def _network(self, name: str, attachments: list[Attachment]) -> NetworkEvidence:
        facts = self._known.networks
        uses = [use_of(attachment) for attachment in attachments]
        mode = max(mode_of(use, facts) for use in uses)
        watched = dict.fromkeys(use.device for use in uses if mode_of(use, facts) is not ChecksumMode.OFF)
        devices = dict.fromkeys(use.device for use in uses)
        counts_before = self._counts(devices)
        receivers, ends = self._containers(attachments)
        return NetworkEvidence(
            name=name,
            mode=ChecksumPolicy(mode.name.lower()),
            devices=(*self._offloads(devices, Role.NETWORK), *self._ports(attachments), *ends),
            receivers=receivers,
            unwatched=tuple(self._name(device) for device in self._unwatched(attachments, watched)),
            counts=self._counts(devices),
            counts_before=counts_before,
            filled=self._filled(facts[name].id),
            fill_ports=tuple(sorted({port for use in uses for port in use.fill_ports})),
        )

    # -- our programs -------------------------------------------------------------------------------------------------

    def _unwatched(self, attachments: list[Attachment], devices: Collection[IfIndex]) -> Iterator[IfIndex]:
        """Devices of a network, and ports, that lack the program that belongs there."""
        facts = self._known.networks
        yield from (device for device in devices if not self._runs(Program.CHECKSUM, device))
        ports = dict.fromkeys(port for program, port in port_programs(attachments, facts) if program is Program.FILL)
        yield from (port for port in ports if not self._runs(Program.FILL, port))

    def _runs(self, program: Program, device: IfIndex) -> bool:
        return self._loaded and any(one.program is program for one in self._programs.hooked(device))

    def _counts(self, devices: Collection[IfIndex]) -> ChecksumCounts:
        """Of all devices together."""
        found = (self._programs.get("checksum_counts", U32.pack(device)) for device in devices if self._loaded)
        counts = [ChecksumCounts.unpack(raw) for raw in found if raw]
        return ChecksumCounts(*(sum(getattr(one, name) for one in counts) for name in ChecksumCounts.__slots__))

    def _filled(self, network: int) -> int:
        raw = self._programs.get("filled", U32.pack(network)) if self._loaded else None
        return int(U64.unpack(raw)[0]) if raw else 0

    # -- containers ---------------------------------------------------------------------------------------------------

    def _containers(self, attachments: list[Attachment]) -> tuple[tuple[Receiver, ...], tuple[Offloads, ...]]:
        """Each interface once, however many plugins have a part in it."""
        interfaces = {(one.key.container, one.key.ifname): one for one in attachments}
        receivers, ends = [], []
        for (container, ifname), attachment in interfaces.items():
            netns = attachment.request.netns
            if not netns:  # read back from the kernel, which does not tell
                receivers.append(Receiver(container, ifname, netns, trouble=_NOWHERE))
                continue
            try:
                dropped, features = _inside(netns, ifname)
            except (DataplaneError, OSError) as error:
                receivers.append(Receiver(container, ifname, netns, trouble=str(error)))
                continue
            receivers.append(Receiver(container, ifname, netns, dropped))
            ends.append(Offloads(ifname, Role.CONTAINER, "veth", features, container))
        return tuple(receivers), tuple(ends)

    # -- devices ------------------------------------------------------------------------------------------------------

    def _ports(self, attachments: list[Attachment]) -> Iterator[Offloads]:
        ports = {port_of(one): one.key.container for one in attachments if not one.device.routed}
        for port, container in ports.items():
            yield from self._offloads([port], Role.PORT, container)

    def _shared(self) -> Iterator[Offloads]:
        uplinks: dict[IfIndex, Link] = {}
        for address in _BEYOND:
            with suppress(LinkError):  # a kernel without IPv6
                if link := self._links.towards(address):
                    uplinks[link.index] = link
        yield from self._offloads(uplinks, Role.UPLINK)
        tunnels = (link.index for link in self._links.all_links() if link.kind in _TUNNELS)
        yield from self._offloads(list(tunnels), Role.TUNNEL)

    def _offloads(self, devices: Collection[IfIndex], role: Role, container: str = "") -> Iterator[Offloads]:
        for device in devices:
            link = self._links.get(device)
            if link is not None:
                yield Offloads(link.name, role, link.kind, _features(link.name), container)

    def _name(self, device: IfIndex) -> str:
        link = self._links.get(device)
        return f"device {device}, which is gone" if link is None else link.name


def _features(name: str) -> dict[str, bool]:
    try:
        return offloads.features(name)
    except LinkError:  # it went meanwhile, or its driver does not tell
        return {}


def _inside(netns: str, ifname: str) -> tuple[Counters, dict[str, bool]]:
    """What a container's namespace tells. Raises ``OSError`` where it is gone, ``KernelError``."""
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return inside(descriptor, lambda: (sumerrors.errors(), _features(ifname)))
    finally:
        os.close(descriptor)
