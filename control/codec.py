"""Attachments as JSON documents, and back: how the state keeps them. Pure.

A document carries its schema number; ``decode`` refuses any other. A state of another schema is set aside by
``control.store`` and started anew: it lives in /run and never outlives a boot.
"""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

from control.conditions import Condition
from control.model import (
    Attachment,
    AttachmentKey,
    ChecksumPolicy,
    Device,
    ForeignChain,
    IngressPolicy,
    Options,
    PortMapping,
    Request,
)
from dataplane.doors import PortFlags
from dataplane.types import IfIndex, Protocol

SCHEMA = 3


def encode(attachment: Attachment) -> str:
    """The document of an attachment; equal attachments have equal documents."""
    request, options, device = attachment.request, attachment.options, attachment.device
    return json.dumps(
        {
            "schema": SCHEMA,
            "key": [request.key.network, request.key.container, request.key.ifname, request.key.plugin],
            "addresses": [str(address) for address in request.addresses],
            "interfaces": list(request.host_interfaces),
            "mappings": [_encode_mapping(mapping) for mapping in request.mappings],
            "netns": [request.netns, request.netns_inode],
            "guardedMac": request.guarded_mac,
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


def decode(document: str) -> Attachment:
    """The attachment of a document. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for any other text."""
    raw: dict[str, Any] = json.loads(document)
    if raw["schema"] != SCHEMA:
        raise ValueError(f"schema {raw['schema']} is not {SCHEMA}")
    options, device = raw["options"], raw["device"]
    mappings = tuple(_decode_mapping(mapping) for mapping in raw["mappings"])
    return Attachment(
        request=Request(
            key=AttachmentKey(*raw["key"]),
            addresses=tuple(ip_address(address) for address in raw["addresses"]),
            host_interfaces=tuple(raw["interfaces"]),
            mappings=mappings,
            options=Options(
                snat=options["snat"],
                masq_all=options["masqAll"],
                ip_masq=options["ipMasq"],
                ingress_policy=IngressPolicy(options["ingressPolicy"]),
                checksum=ChecksumPolicy(options["checksum"]),
                conditions4=tuple(_decode_condition(one) for one in options["conditionsV4"]),
                conditions6=tuple(_decode_condition(one) for one in options["conditionsV6"]),
                forward_chains=tuple(ForeignChain(*one) for one in options["forwardChains"]),
                admin_chain=options["adminChain"],
                firewalld_zone=options["firewalldZone"],
            ),
            netns=raw["netns"][0],
            netns_inode=raw["netns"][1],
            guarded_mac=raw["guardedMac"],
            lease_dir=raw["leaseDir"],
        ),
        device=Device(IfIndex(device[0]), device[1], IfIndex(device[2]), PortFlags(*raw["portFlags"]), device[3]),
        yielded=frozenset((mappings[index], version) for index, version in raw["yielded"]),
    )


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
