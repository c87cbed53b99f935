"""Whether the rules that ``bench.peers.rulesets`` makes up for portmap are those that a portmap on this machine writes.

    with stage.host("form") as host:
        found = compare(host, Path("/usr/lib/cni/portmap"))     # Form(way="portmap, nftables", same=True)

Two containers are added by the executable, and its rules are listed; they are taken away, the made up ones are put in
their place, and listed in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cni import Container, configuration, environment, port
from bench.peers.plugins import NETWORK, knows_nftables, version_of
from bench.peers.rulesets import PORTMAP_TABLE, portmap_iptables, portmap_nft
from bench.place import Host
from bench.scenarios.first_packet.ways import Way

_MANY = 18
"""Ports of one protocol: more than one multiport match takes."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a portmap writes by itself, and whether it is what is made up for it."""

    version: str
    way: Way
    same: bool

    def __str__(self) -> str:
        verdict = "just these rules" if self.same else "OTHER RULES than those measured"
        return f"{self.way}: portmap {self.version} writes {verdict}"


def compare(host: Host, portmap: Path) -> Form:
    """Ask an executable. Raises ``BenchError`` where it fails. It leaves its host without tables."""
    containers = _containers(host)
    by_nftables = knows_nftables(portmap)
    keys = {"backend": "nftables"} if by_nftables else {}
    version = version_of(portmap.parent)
    for one in containers:
        text = configuration("portmap", NETWORK, one.ports, one.previous_result(), **keys)
        host.run(portmap, text=text, env=environment("ADD", one, str(portmap.parent)))
    if by_nftables:
        theirs = _listed(host)
        host.run("nft", "flush", "ruleset")
        host.run("nft", "-f", "-", text=portmap_nft(containers))
        return Form(version, Way.RULES, _listed(host) == theirs)
    # Whichever of them "iptables" is on this machine: both print the same.
    saved = _saved(host)
    host.run("iptables", "-t", "nat", "-F")
    host.run("iptables", "-t", "nat", "-X")
    host.run("iptables-restore", text=portmap_iptables(containers, NETWORK))
    legacy = "legacy" in host.run("iptables", "-V")
    return Form(version, Way.IPTABLES_LEGACY if legacy else Way.IPTABLES_NFT, _saved(host) == saved)


def _containers(host: Host) -> Sequence[Container]:
    """One with a port of each protocol, and one with many."""
    many = tuple(port(8100 + one, 1 + one) for one in range(_MANY))
    ports = ((port(8080, 80), port(5353, 53, "udp")), (*many, port(5354, 53, "udp"), port(5355, 54, "udp")))
    places = host.namespaces([f"c{number}" for number in range(len(ports))])
    return [
        Container(place.name, place.path, f"10.77.1.{2 + number}/16", ports=own)
        for number, (place, own) in enumerate(zip(places, ports, strict=True))
    ]


def _listed(host: Host) -> str:
    return host.run("nft", "-s", "list", "table", *PORTMAP_TABLE.split())


def _saved(host: Host) -> dict[str, list[str]]:
    """Rules by chain, each in its order: chains come in any, for their names are digests."""
    found: dict[str, list[str]] = {}
    for line in host.run("iptables-save", "-t", "nat").splitlines():
        named = re.match(r"(?:-A |:)(\S+)", line)
        if named:
            found.setdefault(named[1], []).append(line)
    return found
