"""What ``dpctl checksum explain`` reads of this host. Where there is no state, reading makes none."""

from __future__ import annotations

from ipaddress import IPv4Address

from control.checksums.checksum import KnownMapping
from control.desired.ruleset import targets
from control.engine import RUN_DIRECTORY, STATE_FILE, open_engine
from control.model import Attachment, PortMapping
from dataplane.links import NetlinkLinks


def known_mappings() -> list[KnownMapping]:
    """Every published IPv4 port: what a stale checksum can be proved against."""
    try:
        (RUN_DIRECTORY / STATE_FILE).stat()
    except FileNotFoundError:
        # An engine would make one, and a host that publishes nothing is left as it is.
        return []
    with open_engine() as engine:
        return [known for attachment in engine.attachments() for known in _known(attachment)]


def host_addresses() -> list[IPv4Address]:
    """The host's IPv4 addresses, without loopback."""
    return [one for one in NetlinkLinks().host_addresses() if isinstance(one, IPv4Address)]


def _known(attachment: Attachment) -> list[KnownMapping]:
    return [
        KnownMapping(
            host_address=None if mapping.wildcard else _specific(mapping),
            host_port=mapping.host_port,
            protocol=mapping.protocol,
            container_address=target,
            container_port=mapping.container_port,
            owner=attachment.key,
        )
        for target in targets(attachment)
        for mapping in attachment.published(target.version)
        if isinstance(target, IPv4Address)
    ]


def _specific(mapping: PortMapping) -> IPv4Address | None:
    return mapping.host_address if isinstance(mapping.host_address, IPv4Address) else None
