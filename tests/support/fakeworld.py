"""An engine on fake doors: a host in memory, with one bridge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from control.engine import Engine
from control.model import Request
from dataplane.doors import Link
from dataplane.fakes import FakeDoors
from dataplane.nft.objects import Element, Port
from dataplane.types import Protocol
from support.attachments import request


@dataclass
class World:
    """An engine, the fakes behind it, and the links they know."""

    engine: Engine
    doors: FakeDoors
    bridge: Link
    directory: Path

    def attach(self, container: str, address: str, *mappings: object, **more: object) -> Request:
        """ADD a container by a host veth of its own."""
        veth = self.doors.links.link(f"veth{container}", "veth", self.bridge.index)
        made = request(container, address, *mappings, interfaces=("br-front", veth.name), **more)  # type: ignore[arg-type]
        self.engine.add(made)
        return made

    def published(self, host_port: int, target: str, container_port: int = 80) -> bool:
        """Whether the kernel leads this TCP port to that target."""
        value = (IPv4Address(target), Port(container_port))
        return self.doors.nft.contains(Element("publish4", (Protocol.TCP, Port(host_port)), value))


@contextmanager
def fake_world(directory: Path) -> Iterator[World]:
    """One bridge, one host address, no attachment; the state in ``directory``."""
    doors = FakeDoors()
    bridge = doors.links.link("br-front", "bridge")
    doors.links.addresses = (IPv4Address("192.0.2.1"),)
    engine = Engine(doors.kernel(), directory)
    try:
        yield World(engine, doors, bridge, directory)
    finally:
        engine.close()
