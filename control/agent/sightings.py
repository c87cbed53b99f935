"""What the BPF programs saw, in words and as JSON fields. Pure.

sentence(event, names)    dropped a packet 10.88.0.2 > 10.99.0.3:80 (tcp): isolation, network front to back
                          stale    198.51.100.7:40000 > 10.88.0.2:80  0xd776 (correct: 0xd8b9)  right for ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dataplane.abi import MANUAL_NETWORK, Event, EventAction, EventKind
from dataplane.types import Protocol

_PROTOCOLS = {protocol.number: str(protocol) for protocol in Protocol}


def grouped(event: Event) -> Event:
    """What events that tell the same have in common: a flood of drops is one sighting."""
    if event.kind is EventKind.ISOLATED:
        return replace(event, time_ns=0, source_port=0)
    return event


def sentence(event: Event, names: Mapping[int, str], count: int = 1) -> str:
    """One line for people; ``names`` are those of networks by their numbers."""
    if event.kind is EventKind.ISOLATED:
        port = f":{event.destination_port}" if event.destination_port else ""
        what = _PROTOCOLS.get(event.protocol, f"protocol {event.protocol}")
        networks = f"network {_network(event.source_network, names)} to {_network(event.destination_network, names)}"
        packets = "a packet" if count == 1 else f"{count} packets"
        return f"dropped {packets} {event.source} > {event.destination}{port} ({what}): isolation, {networks}"
    packet = f"{event.source}:{event.source_port} > {event.destination}:{event.destination_port}"
    sums = f"{event.stored:#06x} (correct: {event.correct:#06x})"
    if event.kind is EventKind.STALE:
        done = "repaired" if event.action is EventAction.REPAIRED else "left as it is"
        right = f"{event.origin_destination}:{event.origin_destination_port}"
        return f"stale    {packet}  {sums}  right for {right}, {done}"
    return f"corrupt  {packet}  {sums}  left as it is"


def fields(event: Event, names: Mapping[int, str]) -> dict[str, object]:
    """As JSON has it."""
    common: dict[str, object] = {
        "kind": event.kind.name.lower(),
        "time_ns": event.time_ns,
        "ifindex": event.ifindex,
        "protocol": event.protocol,
        "source": {"address": str(event.source), "port": event.source_port},
        "destination": {"address": str(event.destination), "port": event.destination_port},
        "action": event.action.name.lower(),
    }
    if event.kind is EventKind.ISOLATED:
        return common | {
            "ingress_ifindex": event.ingress_ifindex,
            "source_network": _network(event.source_network, names),
            "destination_network": _network(event.destination_network, names),
        }
    stale = event.kind is EventKind.STALE
    return common | {
        "stored": f"{event.stored:#06x}",
        "correct": f"{event.correct:#06x}",
        "origin": {"address": str(event.origin_destination), "port": event.origin_destination_port} if stale else None,
    }


def _network(number: int, names: Mapping[int, str]) -> str:
    if number & MANUAL_NETWORK:
        return f"{number & ~MANUAL_NETWORK} (attached by hand)"
    return names.get(number, str(number))
