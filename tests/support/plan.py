"""The one address plan of all tests: two container networks behind a host, and an outside beyond it.

    client 192.0.2.55 ---- uplink 192.0.2.1  host  br-front 10.11.0.1 ---- 10.11.0.0/24  fd00:11::/64
    other  192.0.2.99 /                            br-back  10.12.0.1 ---- 10.12.0.0/24  fd00:12::/64

Addresses are of the documentation and private ranges; nothing of this is ever seen outside a sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network


@dataclass(frozen=True, slots=True)
class Network:
    """One network: where its hosts' addresses come from."""

    name: str
    device: str
    """The host's device in it: a bridge, or the uplink."""
    subnet4: IPv4Network
    subnet6: IPv6Network

    def host4(self, number: int) -> IPv4Address:
        """The address of its ``number``-th host; 1 is the machine under test."""
        return self.subnet4[number]

    def host6(self, number: int) -> IPv6Address:
        return self.subnet6[number]

    @property
    def gateway4(self) -> IPv4Address:
        return self.host4(1)

    @property
    def gateway6(self) -> IPv6Address:
        return self.host6(1)


FRONT = Network("front", "br-front", IPv4Network("10.11.0.0/24"), IPv6Network("fd00:11::/64"))
BACK = Network("back", "br-back", IPv4Network("10.12.0.0/24"), IPv6Network("fd00:12::/64"))
OUTSIDE = Network("outside", "uplink", IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8:0:2::/64"))

HOST4, HOST6 = OUTSIDE.gateway4, OUTSIDE.gateway6
"""The host's own address, the one that ports are published on."""
CLIENT4, CLIENT6 = OUTSIDE.host4(55), OUTSIDE.host6(55)
"""A machine outside."""
OTHER4, OTHER6 = OUTSIDE.host4(99), OUTSIDE.host6(99)
"""Another machine outside, with services of its own."""
