"""How processes of the host reach published ports by 127.0.0.1 and [::1]: by which means, and why by no better one.

cgroups   programs on the root of the cgroups: 127.0.0.0/8 and [::1], and no packet with such an address leaves lo
nft       DNAT and route_localnet: IPv4 alone, behind rules that keep the host's 127.0.0.0/8 from neighbours
off       not at all
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from control.settings import LocalhostMode
from dataplane.doors import Programs
from dataplane.errors import BpfError, MissingDependencyError


class Means(StrEnum):
    """See the module."""

    CGROUPS = "cgroups"
    NFT = "nft"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Localhost:
    """The means, and what goes with them."""

    means: Means
    cookie: int = 0
    """Of the host's network namespace, by which the programs know its processes; 0 where there are none."""
    why: str = ""
    """Why it is not by cgroups though the settings would have it, and what to do."""

    def __str__(self) -> str:
        if self.means is Means.CGROUPS:
            return "127.0.0.0/8 and [::1], by programs on the root of the cgroups"
        if self.means is Means.OFF:
            return "off, as the settings say"
        return "127.0.0.0/8 alone, by nftables and route_localnet" + ("" if self.why else ", as the settings say")


def choose(mode: LocalhostMode, programs: Programs) -> Localhost:
    """The means that this host has. Asks the kernel, and changes nothing."""
    if mode is not LocalhostMode.AUTO:
        return Localhost(Means(mode.value))
    try:
        return Localhost(Means.CGROUPS, programs.localhost_cookie())
    except (BpfError, MissingDependencyError) as error:
        return Localhost(Means.NFT, why=str(error))
