"""What a program saw of a checksum, as one line in steady columns. Pure.

    TIME      CLASS    ACTION    SUM->RIGHT      DELTA   NAT           WHOSE              FLOW
    12:03:04  stale    repaired  0xd776->0xd8b9  0x0143  published     front/web 8080/tcp 192.0.2.55:40000 > ...

A sighting comes as the JSON fields of ``control.agent.sightings``, from the agent or of this process's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address

from control.agent.sightings import PROTOCOLS
from control.checksums.rewrites import Ends, Knowledge, KnownMapping, endpoint
from control.model import AttachmentKey
from dataplane.types import Address

Fields = Mapping[str, object]

HEADINGS = ("TIME", "CLASS", "ACTION", "SUM->RIGHT", "DELTA", "NAT", "WHOSE", "FLOW")
_WIDTHS = (8, 7, 8, 14, 6, 12, 18)  # the last column ends the line
_ACTIONS = {"repaired": "repaired", "none": "left"}


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose packet it was, as far as it is known here."""

    mapping: KnownMapping | None = None
    container: AttachmentKey | None = None

    def __str__(self) -> str:
        if self.container is None:
            return "-"
        container = f"{self.container.network}/{self.container.container[:12]}"
        return container if self.mapping is None else f"{container} {self.mapping.host_port}/{self.mapping.protocol}"


def heading() -> str:
    """The headings over such lines."""
    return _line(HEADINGS)


def line(sighting: Fields, whose: Whose, when: float) -> str:
    """One sighting; ``when`` in seconds since 1970."""
    ends, protocol = _ends(sighting), sighting["protocol"]
    name = PROTOCOLS.get(protocol, str(protocol)) if isinstance(protocol, int) else str(protocol)
    flow = (
        "?"
        if ends is None
        else f"{_end(ends.source, ends.source_port)} > {_end(ends.destination, ends.destination_port)}"
    )
    return _line(
        (
            datetime.fromtimestamp(when).astimezone().strftime("%H:%M:%S"),
            str(sighting["kind"]),
            _ACTIONS.get(str(sighting["action"]), str(sighting["action"])),
            f"{sighting['stored']}->{sighting['correct']}",
            str(sighting["delta"]),
            str(sighting["translation"]) if sighting["kind"] == "stale" else "not NAT",
            str(whose),
            f"{flow}/{name}",
        )
    )


def fields(whose: Whose) -> dict[str, object]:
    """As JSON has it, besides the sighting's own."""
    return {
        "container": None if whose.container is None else str(whose.container),
        "mapping": None if whose.mapping is None else str(whose.mapping),
    }


def whose(sighting: Fields, knowledge: Knowledge) -> Whose:
    """The container, and the published port where one is part of it."""
    now, before = _ends(sighting), _ends(sighting.get("before"))
    if now is None:
        return Whose()
    protocol = sighting["protocol"]
    mappings = [one for one in knowledge.mappings if one.protocol.number == protocol]
    match sighting.get("translation"):
        case "published" | "both" if before is not None:
            ends = (now.destination, now.destination_port, before.destination_port)
        case "reply" if before is not None:
            ends = (before.source, before.source_port, now.source_port)
        case "masquerade" if before is not None:
            return Whose(None, _owner(before.source, knowledge))
        case _:
            return Whose(None, _owner(now.destination, knowledge))
    found = sorted(
        (one for one in mappings if ends[0] == one.container_address), key=lambda one: _unlike(one, ends), reverse=False
    )
    mapping = next(iter(found), None)
    return Whose(mapping, _owner(ends[0], knowledge) if mapping is None else mapping.owner)


def _unlike(mapping: KnownMapping, ends: tuple[Address, int, int]) -> int:
    """How many of the ports differ: where the sum missed the address alone, the flow does not tell the host's."""
    return (mapping.container_port != ends[1]) + (mapping.host_port != ends[2])


def _owner(address: Address, knowledge: Knowledge) -> AttachmentKey | None:
    return next((one.owner for one in knowledge.containers if one.address == address), None)


def _ends(fields: object) -> Ends | None:
    """Both ends in such fields; None where they are not there."""
    if not isinstance(fields, Mapping):
        return None
    ends = []
    for name in ("source", "destination"):
        end = fields.get(name)
        if not isinstance(end, Mapping) or not end.get("address") or not isinstance(end.get("port"), int):
            return None
        ends.append((ip_address(str(end["address"])), int(end["port"])))
    (source, source_port), (destination, destination_port) = ends
    return Ends(source, source_port, destination, destination_port)


def _end(address: Address, port: int) -> str:
    return endpoint(address, port) if port else str(address)


def _line(cells: tuple[str, ...]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=False)]
    return "  ".join([*padded, *cells[len(_WIDTHS) :]]).rstrip()
