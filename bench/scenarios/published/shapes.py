"""The kinds of round trips to a published port, and which of them are asked of whom. Pure.

shapes(OURS, 0, every=True)          # UDP, TCP, of so many bytes, by so many connections in turn
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.hosts.ladder import MAP, OURS, TABLES_ALONE, TWIN, VETH, Rung
from dataplane.types import Protocol

_FLOWS, _BYTES = (1, 16, 256), (8, 64, 1400)


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of round trip."""

    protocol: Protocol = Protocol.UDP
    payload: int = 64
    flows: int = 1
    version: int = 4
    apart: bool = False
    """The server is on another processor."""

    @property
    def name(self) -> str:
        """As rows have it: "UDP, 64 bytes, 16 flows"."""
        return f"{self.way}, {self.payload:,} bytes, {self.flows} flow{'s' if self.flows > 1 else ''}"

    @property
    def way(self) -> str:
        """Whose sockets: shapes of the same way share them."""
        return f"{self.protocol.upper()}{' by IPv6' if self.version == 6 else ''}{' across CPUs' if self.apart else ''}"


UDP, TCP = Shape(), Shape(Protocol.TCP)
MANY = Shape(flows=256)
SIX, APART = Shape(version=6), Shape(apart=True)
QUICK = (UDP, Shape(payload=8), Shape(payload=1400), Shape(flows=16), MANY, TCP)
FULL = tuple(Shape(one, size, flows) for one in (Protocol.UDP, Protocol.TCP) for size in _BYTES for flows in _FLOWS)
CROWDED = (UDP, MANY, TCP)
"""Those that are asked with many ports, too."""
_SIX, _APART = (VETH, MAP, TABLES_ALONE, OURS, TWIN), (VETH, MAP, OURS)


def shapes(rung: Rung, size: int, *, every: bool) -> tuple[Shape, ...]:
    """What is asked of a rung with so many further ports."""
    if size:
        return CROWDED
    usual = FULL if every else QUICK
    return (*usual, *((SIX,) if rung in _SIX else ()), *((APART,) if rung in _APART else ()))
