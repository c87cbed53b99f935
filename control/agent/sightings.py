"""What the BPF programs saw, in words and as JSON fields. Pure.

sentence(event, names)    dropped a packet 10.88.0.2 > 10.99.0.3:80 (tcp): isolation, network front to back
                          dropped a frame from 02:42:ac:11:00:02: guard, container web of network front: frames from ...
                          stale    198.51.100.7:40000 > 10.88.0.2:80  0xd776 (correct: 0xd8b9)  right for ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from control.drops import REASONS
from dataplane.abi import MANUAL_NETWORK, Event, EventAction, EventKind, GuardReason, Translation
from dataplane.types import Address, IfIndex, Protocol

PROTOCOLS = {1: "icmp", 58: "icmpv6"} | {protocol.number: str(protocol) for protocol in Protocol}
"""Names of IP protocol numbers."""

_MODULUS = 0xFFFF  # ones' complement sums are numbers modulo this


def of_checksum(event: Event) -> bool:
    """Whether it is about a checksum, and not about a packet that was dropped."""
    return event.kind in {EventKind.STALE, EventKind.CORRUPT}


def grouped(event: Event) -> Event:
    """What events that tell the same have in common: a flood of drops is one sighting."""
    return event if of_checksum(event) else replace(event, time_ns=0, source_port=0)


def sentence(
    event: Event, names: Mapping[int, str], count: int = 1, containers: Mapping[IfIndex, str] | None = None
) -> str:
    """One line for people; ``names`` are those of networks by their numbers, ``containers`` by their host veths."""
    match event.kind:
        case EventKind.ISOLATED:
            networks = (
                f"network {_network(event.source_network, names)} to {_network(event.destination_network, names)}"
            )
            return f"dropped {_packets(event, count)}: isolation, {networks}"
        case EventKind.GUARDED:
            why = "" if event.guard is None else f": {REASONS[event.guard]}"
            network, container = _network(event.source_network, names), (containers or {}).get(event.ifindex)
            whose = f"container {container} of network {network}" if container else f"network {network}"
            return f"dropped {_packets(event, count)}: guard, {whose}{why}"
        case EventKind.STALE:
            done = "repaired" if event.action is EventAction.REPAIRED else "left as it is"
            return f"stale    {_sums(event)}  right for {_right_for(event)}, {done}"
        case EventKind.CORRUPT:
            return f"corrupt  {_sums(event)}  left as it is"


def fields(
    event: Event, names: Mapping[int, str], containers: Mapping[IfIndex, str] | None = None
) -> dict[str, object]:
    """As JSON has it."""
    common: dict[str, object] = {
        "kind": event.kind.name.lower(),
        "time_ns": event.time_ns,
        "ifindex": event.ifindex,
        "protocol": event.protocol,
        "source": _end(event.source, event.source_port),
        "destination": _end(event.destination, event.destination_port),
        "action": event.action.name.lower(),
    }
    match event.kind:
        case EventKind.ISOLATED:
            return common | {
                "ingress_ifindex": event.ingress_ifindex,
                "source_network": _network(event.source_network, names),
                "destination_network": _network(event.destination_network, names),
            }
        case EventKind.GUARDED:
            return common | {
                "source_network": _network(event.source_network, names),
                "container": (containers or {}).get(event.ifindex),
                "mac": event.mac,
                "reason": None if event.guard is None else event.guard.name.lower(),
            }
        case EventKind.STALE | EventKind.CORRUPT:
            stale = event.kind is EventKind.STALE
            origin_source = _end(event.origin_source, event.origin_source_port)
            origin = _end(event.origin_destination, event.origin_destination_port)
            return common | {
                "network": _network(event.destination_network, names),
                "stored": f"{event.stored:#06x}",
                "correct": f"{event.correct:#06x}",
                "delta": f"{(event.correct - event.stored) % _MODULUS:#06x}",
                "translation": event.translation.name.lower(),
                "origin": origin if stale else None,
                "before": {"source": origin_source, "destination": origin} if stale else None,
            }


def _packets(event: Event, count: int) -> str:
    """Who sent what to whom, as far as the packet tells."""
    noun = "frame" if event.source is None else "packet"
    packets = f"a {noun}" if count == 1 else f"{count} {noun}s"
    sender = f" from {event.mac}" if event.mac else ""
    if event.source is None or event.destination is None:
        return f"{packets}{sender}"
    port = f":{event.destination_port}" if event.destination_port else ""
    what = PROTOCOLS.get(event.protocol, f"protocol {event.protocol}")
    if event.guard is GuardReason.ARP:
        what = "arp"
    return f"{packets} {event.source} > {_host(event.destination, port)}{port} ({what}){sender}"


def _sums(event: Event) -> str:
    packet = f"{_named(event.source, event.source_port)} > {_named(event.destination, event.destination_port)}"
    return f"{packet}  {event.stored:#06x} (correct: {event.correct:#06x})"


def _right_for(event: Event) -> str:
    """The end, or both, that NAT rewrote, as it was before."""
    source = _named(event.origin_source, event.origin_source_port)
    destination = _named(event.origin_destination, event.origin_destination_port)
    match event.translation:
        case Translation.REPLY | Translation.MASQUERADE:
            return f"source {source}"
        case Translation.BOTH:
            return f"{source} > {destination}"
        case _:
            return destination


def _named(address: Address | None, port: int) -> str:
    return f"{_host(address, str(port))}:{port}" if port else str(address)


def _host(address: Address | None, port: str) -> str:
    """An address, in brackets where a port would run into it."""
    return f"[{address}]" if port and address is not None and address.version == 6 else str(address)


def _end(address: Address | None, port: int) -> dict[str, object]:
    return {"address": None if address is None else str(address), "port": port}


def _network(number: int, names: Mapping[int, str]) -> str:
    if number & MANUAL_NETWORK:
        return f"{number & ~MANUAL_NETWORK} (attached by hand)"
    return names.get(number, str(number))
