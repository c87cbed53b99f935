"""What our sets should hold for an attachment, as bytes and as text: without an object for each published port.

    for set_name, printed in contents(attachment):
        printed.held        key and value as the kernel has them, and the owner
        printed.body        what nft writes between the braces

The same as ``ruleset.elements``, of which there may be tens of thousands: a published port is packed and printed here
as it is, everything else by its ``Element``. What is to be written alone becomes an element again by ``unpack``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from control.desired.ruleset import Group, around_ports, group_of, owner_of, published, runs, targets
from control.model import Attachment, PortMapping
from dataplane.nft.elements import Held, pack
from dataplane.nft.objects import Element
from dataplane.nft.transaction import Printed
from dataplane.types import Address, Protocol

_PORT_WIDTH = 2  # bytes
_PADDING = bytes(2)
"""Behind a port: each part of a concatenation is as long as a whole number of 32-bit words."""
_PROTOCOLS = {protocol: bytes([protocol.number, 0, 0, 0]) for protocol in Protocol}


def contents(attachment: Attachment) -> Iterator[tuple[str, Printed]]:
    """The elements of an attachment, each with the name of its set or map."""
    for element in around_ports(attachment):
        yield element.set_name, printed(element)
    for target in targets(attachment):
        group = group_of(attachment, target.version)
        served = runs(attachment.published(target.version))
        owner = owner_of(attachment)
        for run in served:
            if len(run) > 1:
                element = published(run, target, group, owner)
                yield element.set_name, printed(element)
        yield from _ports((run[0] for run in served if len(run) == 1), target, group, owner.text)


def printed(element: Element) -> Printed:
    """One element."""
    comment = element.comment.text if element.comment else ""
    return Printed(Held(*pack(element), comment), element.body())


def _ports(mappings: Iterable[PortMapping], target: Address, group: Group, owner: str) -> Iterator[tuple[str, Printed]]:
    """Published ports that are an element each."""
    names = {host: group.map(host=host, ranges=False).name for host in (False, True)}
    address, before = target.packed, f' comment "{owner}" : {target} . ' if owner else f" : {target} . "
    for one in mappings:
        key = _PROTOCOLS[one.protocol] + one.host_port.to_bytes(_PORT_WIDTH, "big") + _PADDING
        body = f"{one.protocol} . {one.host_port}{before}{one.container_port}"
        host = None if one.wildcard else one.host_address
        if host is not None:
            key, body = host.packed + key, f"{host} . {body}"
        value = address + one.container_port.to_bytes(_PORT_WIDTH, "big") + _PADDING
        yield names[host is not None], Printed(Held(key, value, owner), body)
