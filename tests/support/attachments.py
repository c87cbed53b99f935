"""Attachments as tests write them: short, with the address plan's devices."""

from __future__ import annotations

from ipaddress import ip_address

from control.model import Attachment, AttachmentKey, Device, Options, PortMapping, Request
from dataplane.types import IfIndex, Protocol


def key(container: str, network: str = "front", ifname: str = "eth0") -> AttachmentKey:
    """An attachment's key."""
    return AttachmentKey(network, container, ifname)


def port(host: int, container: int = 80, protocol: str = "tcp", address: str | None = None) -> PortMapping:
    """A published port."""
    return PortMapping(host, container, Protocol(protocol), ip_address(address) if address else None)


def request(
    container: str,
    addresses: str,
    *mappings: PortMapping,
    network: str = "front",
    interfaces: tuple[str, ...] = ("br-front", "veth0"),
    options: Options | None = None,
) -> Request:
    """A request; ``addresses`` are separated by spaces."""
    return Request(
        key(container, network), tuple(map(ip_address, addresses.split())), interfaces, mappings, options or Options()
    )


def attachment(
    container: str,
    addresses: str,
    *mappings: PortMapping,
    network: str = "front",
    device: int = 10,
    veth: int = 20,
    options: Options | None = None,
) -> Attachment:
    """An attachment to the bridge with index ``device``, by the host veth with index ``veth``."""
    return Attachment(
        request(container, addresses, *mappings, network=network, options=options),
        Device(IfIndex(device), f"br-{network}", IfIndex(veth)),
    )
