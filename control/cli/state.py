"""What dpctl's commands read of the state, with names for numbers."""

from __future__ import annotations

from ipaddress import IPv4Address

from control.checksum import KnownMapping
from control.engine import Engine, open_engine
from control.model import Attachment, PortMapping
from control.ruleset import targets


def attachments() -> list[Attachment]:
    """All attachments, ordered by key."""
    with open_engine() as engine:
        return engine.attachments()


def known_mappings() -> tuple[list[KnownMapping], list[IPv4Address]]:
    """Every published IPv4 port, and the host's IPv4 addresses: what a stale checksum can be proved against."""
    with open_engine() as engine:
        mappings = [known for attachment in engine.attachments() for known in _known(attachment)]
        return mappings, _ipv4(engine)


def _known(attachment: Attachment) -> list[KnownMapping]:
    return [
        KnownMapping(
            host_address=None if mapping.wildcard else _specific(mapping),
            host_port=mapping.host_port,
            protocol=mapping.protocol,
            container_address=target,
            container_port=mapping.container_port,
            owner=str(attachment.key),
        )
        for target in targets(attachment)
        for mapping in attachment.request.mappings
        if isinstance(target, IPv4Address) and mapping.serves(target)
    ]


def _ipv4(engine: Engine) -> list[IPv4Address]:
    return [one for one in engine.kernel.links.host_addresses() if isinstance(one, IPv4Address)]


def _specific(mapping: PortMapping) -> IPv4Address | None:
    return mapping.host_address if isinstance(mapping.host_address, IPv4Address) else None
