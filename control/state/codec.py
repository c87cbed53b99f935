"""Attachments as documents, and back: how the state keeps them. Pure.

    {"addresses":["10.11.0.2"], ... ,"schema":5}     JSON on one line
    3f9c0a...                                         and its digest

A document carries its schema number and a digest, so that a byte that flipped is noticed. ``decode`` reads those of
earlier versions, too, as far as they say all that is asked today; what it refuses is read back from the kernel
(``control.state.rebuild``).
"""

from __future__ import annotations

import json
from hashlib import sha256
from ipaddress import ip_address
from typing import Any

from control.conditions import Condition
from control.model import (
    DEFAULT_FILL_PORTS,
    Attachment,
    AttachmentKey,
    ChecksumPolicy,
    Device,
    ForeignChain,
    GuardPolicy,
    IngressPolicy,
    Options,
    PortMapping,
    Request,
)
from dataplane.doors import PortFlags
from dataplane.types import IfIndex, Protocol

SCHEMA = 5
CONVERTIBLE = frozenset({2, 3, 4})
"""Earlier schemas of which nothing is missing: up to the fourth, containers were not guarded but for the MAC of some;
up to the third there was no digest, and the second had no parts either. The first did not tell which devices are
routed."""
_DIGESTED = frozenset({4, SCHEMA})

_DIGEST = 16  # hexadecimal digits


class DocumentError(ValueError):
    """Not a document, not one that is known here, or not as it was written."""


def encode(attachment: Attachment) -> str:
    """The document of an attachment; equal attachments have equal documents."""
    request, options, device = attachment.request, attachment.options, attachment.device
    text = json.dumps(
        {
            "schema": SCHEMA,
            "key": [request.key.network, request.key.container, request.key.ifname, request.key.plugin],
            "addresses": [str(address) for address in request.addresses],
            "interfaces": list(request.host_interfaces),
            "mappings": [_encode_mapping(mapping) for mapping in request.mappings],
            "netns": [request.netns, request.netns_inode],
            "mac": request.mac,
            "leaseDir": request.lease_dir,
            "yielded": sorted([request.mappings.index(mapping), version] for mapping, version in attachment.yielded),
            "device": [device.index, device.name, device.port, device.routed],
            "portFlags": [device.port_flags.hairpin, device.port_flags.isolated],
            "options": {
                "snat": options.snat,
                "masqAll": options.masq_all,
                "ipMasq": options.ip_masq,
                "ingressPolicy": options.ingress_policy,
                "checksum": options.checksum,
                "fillPorts": list(options.fill_ports),
                "guard": options.guard,
                "conditionsV4": [_encode_condition(one) for one in options.conditions4],
                "conditionsV6": [_encode_condition(one) for one in options.conditions6],
                "forwardChains": [[one.family, one.table, one.chain, one.optional] for one in options.forward_chains],
                "adminChain": options.admin_chain,
                "firewalldZone": options.firewalld_zone,
            },
        },
        separators=(",", ":"),
        sort_keys=True,
    )
    return f"{text}\n{_digest(text)}"


def decode(document: str) -> Attachment:
    """The attachment of a document. Raises ``DocumentError`` for any other text."""
    try:
        return _decoded(document)
    except DocumentError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DocumentError(f"not a document: {error!r}") from error


def _digest(text: str) -> str:
    return sha256(text.encode(errors="replace")).hexdigest()[:_DIGEST]


def _decoded(document: str) -> Attachment:
    text, _, digest = document.partition("\n")
    if digest and digest != _digest(text):
        raise DocumentError("not as it was written: the digest is another one")
    raw: dict[str, Any] = json.loads(text)
    schema = raw["schema"]
    if schema not in CONVERTIBLE | {SCHEMA}:
        raise DocumentError(f"schema {schema} is not {SCHEMA}")
    if schema in _DIGESTED and not digest:
        raise DocumentError("not as it was written: the digest is missing")
    options, device = raw["options"], raw["device"]
    mappings = tuple(_decode_mapping(mapping) for mapping in raw["mappings"])
    return Attachment(
        request=Request(
            key=AttachmentKey(*raw["key"]),  # of three parts before parts of an interface were told apart
            addresses=tuple(ip_address(address) for address in raw["addresses"]),
            host_interfaces=tuple(raw["interfaces"]),
            mappings=mappings,
            options=Options(
                snat=options["snat"],
                masq_all=options["masqAll"],
                ip_masq=options["ipMasq"],
                ingress_policy=IngressPolicy(options["ingressPolicy"]),
                checksum=ChecksumPolicy(options["checksum"]),
                fill_ports=tuple(options.get("fillPorts", DEFAULT_FILL_PORTS)),
                guard=_decode_guard(raw),
                conditions4=tuple(_decode_condition(one) for one in options["conditionsV4"]),
                conditions6=tuple(_decode_condition(one) for one in options["conditionsV6"]),
                forward_chains=tuple(ForeignChain(*one) for one in options["forwardChains"]),
                admin_chain=options.get("adminChain", ""),
                firewalld_zone=options.get("firewalldZone", ""),
            ),
            netns=raw["netns"][0],
            netns_inode=raw["netns"][1],
            mac=raw.get("guardedMac") or raw.get("mac", ""),
            lease_dir=raw.get("leaseDir", ""),
        ),
        device=Device(IfIndex(device[0]), device[1], IfIndex(device[2]), PortFlags(*raw["portFlags"]), device[3]),
        yielded=frozenset((mappings[index], version) for index, version in raw.get("yielded", ())),
    )


def _decode_guard(raw: dict[str, Any]) -> GuardPolicy:
    """What a container may send: up to the fourth schema anything, or nothing from another MAC than its own."""
    if raw["schema"] == SCHEMA:
        return GuardPolicy(raw["options"]["guard"])
    return GuardPolicy.MAC if raw.get("guardedMac") else GuardPolicy.OFF


def _encode_mapping(mapping: PortMapping) -> list[str | int | None]:
    host = None if mapping.host_address is None else str(mapping.host_address)
    return [mapping.host_port, mapping.container_port, str(mapping.protocol), host]


def _decode_mapping(raw: list[Any]) -> PortMapping:
    host_port, container_port, protocol, host = raw
    return PortMapping(host_port, container_port, Protocol(protocol), None if host is None else ip_address(host))


def _encode_condition(condition: Condition) -> list[Any]:
    return [condition.field, condition.operator, list(condition.values)]


def _decode_condition(raw: list[Any]) -> Condition:
    return Condition(raw[0], raw[1], tuple(raw[2]))
