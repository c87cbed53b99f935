"""Names for the numbers that programs know: networks, devices, and the containers behind ports and addresses.

names = known_names()
names.network(3)          front;   #3 where nobody knows it;   by hand (lo) where a person attached it
names.device(7)           br-front;   #7 once it is gone
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import click

from control.desired.hooks import port_of
from control.engine import RUN_DIRECTORY, STATE_FILE, open_engine
from control.model import Attachment
from dataplane.abi import MANUAL_NETWORK
from dataplane.errors import DataplaneError
from dataplane.types import Address, IfIndex

_ID_LENGTH = 12
"""Characters of a container's ID that are shown."""


@dataclass(frozen=True, slots=True)
class Names:
    """What is known by name."""

    devices: Mapping[int, str] = field(default_factory=dict)
    networks: Mapping[int, str] = field(default_factory=dict)
    on_device: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Networks of a container-facing device."""
    ports: Mapping[int, str] = field(default_factory=dict)
    """Containers by their host veths."""
    addresses: Mapping[Address, str] = field(default_factory=dict)
    """Containers by their addresses."""

    def device(self, ifindex: int) -> str:
        """A device's name, or its number once it is gone."""
        return self.devices.get(ifindex, f"#{ifindex}") if ifindex else ""

    def index(self, device: str) -> IfIndex | None:
        """The number of a device; None where there is none by this name."""
        return next((IfIndex(number) for number, name in self.devices.items() if name == device), None)

    def network(self, number: int) -> str:
        """A network's name; empty for 0, which is none."""
        if number & MANUAL_NETWORK:
            return f"by hand ({self.device(number & ~MANUAL_NETWORK)})"
        return self.networks.get(number, f"#{number}") if number else ""

    def container(self, address: Address | None) -> str:
        """The container with an address; empty where nobody knows one."""
        return self.addresses.get(address, "") if address else ""

    def behind(self, ifindex: int) -> str:
        """The networks of a device, or the container of a host veth; empty where it is neither."""
        networks = self.on_device.get(ifindex)
        return self.ports.get(ifindex) or (",".join(networks) if networks else "")


def names_of(attachments: Iterable[Attachment], networks: Mapping[int, str], devices: Mapping[int, str]) -> Names:
    """The names that attachments give. Pure."""
    on_device: dict[int, dict[str, None]] = {}
    ports: dict[int, str] = {}
    addresses: dict[Address, str] = {}
    for one in attachments:
        container = one.key.container[:_ID_LENGTH]
        on_device.setdefault(one.device.index, {})[one.key.network] = None
        if port_of(one):
            ports[port_of(one)] = container
        addresses |= dict.fromkeys(one.request.addresses, container)
    return Names(
        devices=devices,
        networks=networks,
        on_device={device: tuple(found) for device, found in on_device.items()},
        ports=ports,
        addresses=addresses,
    )


def known_names() -> Names:
    """The names of this host. Where there is no state, reading makes none; where it cannot be read, a line on standard
    error says why, and numbers have to do."""
    devices = dict(socket.if_nameindex())
    try:
        (RUN_DIRECTORY / STATE_FILE).stat()
        with open_engine() as engine:
            networks = {facts.id: name for name, facts in engine.networks().items()}
            return names_of(engine.attachments(), networks, devices)
    except FileNotFoundError:
        return Names(devices)
    except (DataplaneError, OSError) as error:
        click.echo(f"dpctl: names of networks and containers are not known: {error}", err=True)
        return Names(devices)
