"""What ``dpctl checksum`` knows about this host. Read without an engine: where there is no state, none is made."""

from __future__ import annotations

from control.checksums.rewrites import Knowledge, KnownContainer, KnownMapping, Origin
from control.desired.ruleset import targets
from control.engine import RUN_DIRECTORY, STATE_FILE
from control.model import Attachment
from control.state.reading import Known, read
from dataplane.links import NetlinkLinks
from dataplane.types import Address


def attached() -> Known:
    """What is attached. Raises ``StateError``, ``OSError``."""
    return read(RUN_DIRECTORY / STATE_FILE)


def host_addresses() -> tuple[Address, ...]:
    """The host's addresses, without loopback and IPv6 link-local ones. Anybody may read them."""
    return NetlinkLinks().host_addresses()


def knowledge(known: Known, addresses: tuple[Address, ...] = (), origins: tuple[Origin, ...] = ()) -> Knowledge:
    """What a wrong sum is held against."""
    mappings = [mapping for attachment in known.attachments for mapping in _mappings(attachment)]
    containers: dict[Address, KnownContainer] = {}
    for attachment in known.attachments:
        for address in attachment.request.addresses:
            part = containers.get(address)  # one interface, another plugin of its conflist
            masquerades = attachment.options.ip_masq or (part is not None and part.masquerades)
            containers[address] = KnownContainer(address, masquerades, part.owner if part else attachment.key)
    return Knowledge(tuple(mappings), addresses, tuple(containers.values()), origins)


def _mappings(attachment: Attachment) -> list[KnownMapping]:
    return [
        KnownMapping(
            host_address=None if mapping.wildcard else mapping.host_address,
            host_port=mapping.host_port,
            protocol=mapping.protocol,
            container_address=target,
            container_port=mapping.container_port,
            owner=attachment.key,
        )
        for target in targets(attachment)
        for mapping in attachment.published(target.version)
    ]
