"""Entries of maps in words: networks, containers and devices by name, enums as words, times as how long ago. Pure.

decoded("networks", key, value, names, now_ns)      {"device": "br-front", "ifindex": 4, "network": "front", ...}

Every map of ``bpf/maps.h`` has its decoder here, but for the ring buffer, which has no entries.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from control.cli.bpf.names import Names
from dataplane import abi
from dataplane.abi import ChecksumCounts, GuardReason, HostSettings, NetworkEntry, Offender, Origin, OriginKey, Port
from dataplane.types import Address, Protocol

Row = dict[str, object]

_PROTOCOLS = {protocol.number: protocol.value for protocol in Protocol} | {1: "icmp", 58: "icmpv6"}
_VERDICTS = {1: "good", 2: "stale", 3: "suspect"}  # enum flow_verdict


class Ago(float):
    """Seconds since something happened."""

    def __str__(self) -> str:
        for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
            if self >= length:
                return f"{self / length:.0f} {unit} ago"
        return f"{float(self):.0f} s ago"


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a decoder sees: an entry, what is known by name, and what time it is (CLOCK_MONOTONIC)."""

    key: bytes
    value: bytes
    names: Names
    now_ns: int


def decoded(map_name: str, key: bytes, value: bytes, names: Names, now_ns: int = 0) -> Row:
    """One entry as fields, in the order in which people read them. Per-CPU values come summed."""
    return _DECODERS[map_name](_Entry(key, value, names, now_ns))


def in_words(value: object) -> str:
    """A field as a table shows it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def word(member: IntEnum) -> str:
    """A member of an enum as people write it."""
    return member.name.lower().replace("_", "-")


def endpoint(address: Address | None, port: int, nothing: str = "*") -> str:
    """An address and port; ``nothing`` where the address is none."""
    if address is None:
        return f"{nothing}:{port}"
    return f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"


def protocol_word(number: int) -> str:
    """The name of an IP protocol, or its number."""
    return _PROTOCOLS.get(number, str(number))


def _network(entry: _Entry) -> Row:
    network = NetworkEntry.unpack(entry.value)
    return _device(entry, entry.key) | {
        "network": entry.names.network(network.id),
        "id": network.id,
        "policy": word(network.policy),
        "checksum": word(network.checksum),
        "masquerades": network.masquerades,
    }


def _settings(entry: _Entry) -> Row:
    settings = HostSettings.unpack(entry.value)
    return {"mark": f"{settings.mark:#x}", "netns_cookie": settings.netns_cookie}


def _origin(entry: _Entry) -> Row:
    port, origin = OriginKey.unpack(entry.key), Origin.unpack(entry.value)
    return {
        "container": entry.names.container(port.address),
        "port": endpoint(port.address, port.port),
        "protocol": protocol_word(port.protocol),
        "slot": port.slot,
        "published_on": endpoint(origin.address, origin.port),
    }


def _published(entry: _Entry) -> Row:
    published, target = abi.PublishedKey.unpack(entry.key), abi.Target.unpack(entry.value)
    # An IPv6 key with 0.0.0.0 is [::1] of a port that is published on every address, and leads to IPv4.
    loopback = published.family == 6 and isinstance(published.address, IPv4Address)
    return {
        "published_on": endpoint(IPv6Address("::1") if loopback else published.address, published.port),
        "protocol": protocol_word(published.protocol),
        "family": published.family,
        "container": entry.names.container(target.address),
        "leads_to": endpoint(target.address, target.port),
        "localhost": target.localhost,
    }


def _host_address(entry: _Entry) -> Row:
    total, family = abi.HOST_ADDRESS_KEY.unpack(entry.key)
    return {"address": _text(abi.unpack_address(entry.value)), "family": family, "sum": _as_in_packets(total)}


def _container(entry: _Entry) -> Row:
    network, total, family = abi.CONTAINER_KEY.unpack(entry.key)
    address = abi.unpack_address(entry.value)
    return {
        "network": entry.names.network(network),
        "container": entry.names.container(address),
        "address": _text(address),
        "family": family,
        "sum": _as_in_packets(total),
    }


def _port(entry: _Entry) -> Row:
    port = Port.unpack(entry.value)
    return _of_port(entry, entry.key) | {
        "network": entry.names.network(port.network),
        "guard": word(port.guard),
        "mac": port.mac,
    }


def _port_address(entry: _Entry) -> Row:
    _, address = abi.PORT_ADDRESS_KEY.unpack(entry.key)
    return _of_port(entry, entry.key) | {"address": _text(abi.unpack_address(address))}


def _fill_port(entry: _Entry) -> Row:
    network, port = abi.FILL_KEY.unpack(entry.key)
    return {"network": entry.names.network(network), "udp_port": int.from_bytes(port, "big")}


def _flow(entry: _Entry) -> Row:
    saddr, daddr, sport, dport, protocol, ifindex = abi.FLOW_KEY.unpack(entry.key)
    verdict, delta = abi.FLOW.unpack(entry.value)
    source, destination = abi.unpack_address(saddr), abi.unpack_address(daddr)
    return {
        "device": entry.names.device(ifindex),
        "ifindex": ifindex,
        "protocol": protocol_word(protocol),
        "source": endpoint(source, int.from_bytes(sport, "big")),
        "destination": endpoint(destination, int.from_bytes(dport, "big")),
        "container": entry.names.container(destination) or entry.names.container(source),
        "verdict": _VERDICTS.get(verdict, str(verdict)),
        "delta": _as_in_packets(delta) if delta else None,
    }


def _checksum_counts(entry: _Entry) -> Row:
    counts = ChecksumCounts.unpack(entry.value)
    return _device(entry, entry.key) | {name: getattr(counts, name) for name in ChecksumCounts.__slots__}


def _filled(entry: _Entry) -> Row:
    return {"network": entry.names.network(_number(entry.key)), "packets": _count(entry.value)}


def _pair(entry: _Entry) -> Row:
    source, destination = abi.NETWORK_PAIR.unpack(entry.key)
    return {"from_network": entry.names.network(source), "to_network": entry.names.network(destination)}


def _isolation_drops(entry: _Entry) -> Row:
    return _pair(entry) | {"packets": _count(entry.value)}


def _offender(entry: _Entry) -> Row:
    return _pair(entry) | _last(entry)


def _reason(entry: _Entry) -> Row:
    _, reason = abi.GUARD_DROP_KEY.unpack(entry.key)
    known = reason in list(GuardReason)
    return _of_port(entry, entry.key) | {"reason": GuardReason(reason).name.lower() if known else str(reason)}


def _guard_drops(entry: _Entry) -> Row:
    return _reason(entry) | {"packets": _count(entry.value)}


def _guard_offender(entry: _Entry) -> Row:
    return _reason(entry) | _last(entry)


def _last(entry: _Entry) -> Row:
    """The last packet that was dropped."""
    last = Offender.unpack(entry.value)
    return {
        "when": Ago(max(entry.now_ns - last.time_ns, 0) / 1e9),
        "source": endpoint(last.source, last.source_port) if last.source else "",
        "destination": endpoint(last.destination, last.destination_port) if last.destination else "",
        "protocol": protocol_word(last.protocol) if last.source else "",
        "mac": last.mac,
    }


def _peer(entry: _Entry) -> Row:
    cookie, address, port = abi.PEER_KEY.unpack(entry.key)
    believed, believed_port = abi.PEER.unpack(entry.value)
    container = abi.unpack_address(address)
    return {
        "socket": cookie,
        "container": entry.names.container(container),
        "talks_to": endpoint(container, int.from_bytes(port, "big")),
        "believes_to_talk_to": endpoint(abi.unpack_address(believed), int.from_bytes(believed_port, "big")),
    }


def _events_lost(entry: _Entry) -> Row:
    return {"events": _count(entry.value)}


def _device(entry: _Entry, key: bytes) -> Row:
    return {"device": entry.names.device(_number(key)), "ifindex": _number(key)}


def _of_port(entry: _Entry, key: bytes) -> Row:
    """The host veth that a key begins with, and whose it is."""
    return _device(entry, key) | {"container": entry.names.ports.get(_number(key), "")}


def _number(raw: bytes) -> int:
    number: int = abi.U32.unpack_from(raw)[0]
    return number


def _count(raw: bytes) -> int:
    number: int = abi.U64.unpack(raw)[0]
    return number


def _text(address: Address | None) -> str:
    return str(address) if address else ""


def _as_in_packets(total: int) -> str:
    """A 16-bit sum in the byte order of a packet: maps have it as this host reads it."""
    return f"{int.from_bytes(total.to_bytes(2, sys.byteorder), 'big'):#06x}"


def heading(field: str) -> str:
    """A field's name at the head of its column."""
    return field.upper().replace("_", " ")


def columns(rows: Iterable[Row]) -> tuple[str, ...]:
    """The fields of rows, in order: all rows of a map have the same."""
    return tuple(next(iter(rows), {}))


_DECODERS: dict[str, Callable[[_Entry], Row]] = {
    "networks": _network,
    "settings": _settings,
    "origins": _origin,
    "published": _published,
    "host_addresses": _host_address,
    "containers": _container,
    "ports": _port,
    "port_addresses": _port_address,
    "fill_ports": _fill_port,
    "flows": _flow,
    "checksum_counts": _checksum_counts,
    "filled": _filled,
    "isolation_drops": _isolation_drops,
    "offenders": _offender,
    "guard_drops": _guard_drops,
    "guard_offenders": _guard_offender,
    "peers": _peer,
    "events_lost": _events_lost,
}
