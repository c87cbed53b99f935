"""Bridges that somebody deleted, or made anew, below the attachments that hang on them.

    devices.note(device)        what the bridge is like, while it is there
    devices.follow()            -> what was wrong and is right now; what is wrong still

A bridge that is there again under its name is another link: programs, rules and map entries have to follow, before its
former ports are its ports again. One that our own main plugin made is made again where nobody did, with the MAC and the
addresses that it had, so that containers need not learn anything. One without a port to plug in is not: whoever removed
it meant to. One that somebody else's main plugin made is left to that plugin's next ADD.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_interface

from control.changes import Changes
from control.desired import planner
from control.desired.hooks import HostWide, use_of
from control.model import Attachment, Device
from control.state.mirror import Mirror
from control.state.store import Store
from dataplane.apply import apply
from dataplane.doors import Kernel, Link
from dataplane.errors import LinkError
from dataplane.types import IfIndex, Interface

MAIN_PLUGINS = frozenset({"bridge", "dataplane-bridge"})
"""Those of ours that make bridges."""
_BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class Bridge:
    """What a bridge was like when it was last there."""

    name: str
    mac: str
    mtu: int
    addresses: tuple[Interface, ...]

    def encode(self) -> str:
        """As the state keeps it."""
        return json.dumps([self.name, self.mac, self.mtu, [str(address) for address in self.addresses]])

    @classmethod
    def decode(cls, text: str) -> Bridge:
        """From the state."""
        name, mac, mtu, addresses = json.loads(text)
        return cls(name, mac, mtu, tuple(ip_interface(one) for one in addresses))


@dataclass(slots=True)
class Followed:
    """What came of a look at all devices, a sentence each."""

    found: list[str]
    left: list[str]


class Devices:
    """See the module. The caller holds the state's lock."""

    def __init__(self, kernel: Kernel, store: Store, mirror: Mirror, changes: Changes, host: HostWide) -> None:
        self._kernel, self._store, self._mirror, self._changes, self._host = kernel, store, mirror, changes, host
        self._noted: dict[IfIndex, Bridge] = {}

    def note(self, device: Device, *, again: bool = False) -> None:
        """Keep what a bridge is like. Asks the kernel once for each bridge, unless told to look ``again``."""
        if device.routed or (device.index in self._noted and not again):
            return
        link = self._kernel.links.get(device.index)
        if link is None or link.kind != _BRIDGE:
            return
        addresses = self._kernel.links.addresses_of(link.index)
        former = self._noted.get(link.index)
        if former and not addresses:
            return  # it is being deleted, or is somebody's to look after
        bridge = Bridge(link.name, link.mac, link.mtu, addresses)
        if bridge != former:
            self._noted[link.index] = bridge
            self._store.keep_fact(_fact(link.name), bridge.encode())

    def follow(self) -> Followed:
        """Look at the device of every attachment, and at its ports. Raises the kernel's error where it refuses."""
        followed = Followed([], [])
        by_device: defaultdict[Device, list[Attachment]] = defaultdict(list)
        for one in self._mirror.attachments():
            bare = Device(one.device.index, one.device.name, routed=one.device.routed)
            by_device[bare].append(one)
        for device, ones in by_device.items():
            if device.routed:
                continue  # the container's own veth: gone with the container
            link = self._kernel.links.get(device.index)
            if link is None:
                self._replace(device, ones, followed)
            else:
                self._plug_in(link, ones, followed)
                self.note(device, again=True)
        return followed

    def _replace(self, device: Device, ones: list[Attachment], followed: Followed) -> None:
        known = self._store.fact(_fact(device.name))
        was = Bridge.decode(known) if known else None
        link, ours = self._kernel.links.find(device.name), any(one.key.plugin in MAIN_PLUGINS for one in ones)
        if link is None and was and ours and self._has_a_port(ones):
            link = self._kernel.links.make_bridge(was.name, was.mac, was.mtu)
            followed.found.append(f"bridge {device.name} was deleted")
        elif link is None or (was and link.kind != _BRIDGE):
            followed.left.append(
                f"device {device.name} of network {ones[0].key.network} is gone: its next ADD makes it"
            )
            return
        else:
            followed.found.append(f"device {device.name} was deleted and made anew")
        self._close(link, ones)
        for address in was.addresses if was else ():
            if address not in self._kernel.links.addresses_of(link.index):
                self._kernel.links.add_address(link.index, address)
        self._plug_in(link, ones, followed)
        for one in ones:
            moved = replace(one, device=replace(one.device, index=link.index))
            self._changes.make(self._changes.of(one.key, moved))
        if not link.up:
            self._kernel.links.bring_up(link.index)

    def _has_a_port(self, ones: Iterable[Attachment]) -> bool:
        """Whether any of the attachments' ports is there still."""
        ports = {one.device.port for one in ones if one.device.port}
        return any(self._kernel.links.get(port) is not None for port in ports)

    def _close(self, link: Link, ones: Iterable[Attachment]) -> None:
        """Have the programs there before any port is: a network is never open."""
        uses = {use_of(replace(one, device=replace(one.device, index=link.index))) for one in ones}
        wanted = planner.desired((), uses, self._store.facts({use.network for use in uses}), self._host)
        nothing = planner.desired((), (), {}, self._host)
        hooks = replace(nothing, hooks=wanted.hooks, entries=wanted.entries)
        apply(planner.plan(nothing, hooks, self._host.variant), self._kernel)

    def _plug_in(self, bridge: Link, ones: Iterable[Attachment], followed: Followed) -> None:
        """Have the ports of attachments where they belong. One that somebody put into another bridge stays there."""
        for port in sorted({one.device.port for one in ones if one.device.port}):
            link = self._kernel.links.get(port)
            if link is None or link.master == bridge.index:
                continue
            if link.master:
                followed.left.append(f"link {link.name} was put into another bridge than {bridge.name}")
                continue
            try:
                self._kernel.links.enslave(port, bridge.index)
            except LinkError as error:
                followed.left.append(str(error))
            else:
                followed.found.append(f"link {link.name} was taken out of bridge {bridge.name}")


def _fact(name: str) -> str:
    return f"bridge {name}"
