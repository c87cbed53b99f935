"""The rulesets that stand for peers in the bench are those that the peers' executables leave behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers.plugins import version_of
from bench.peers.rulesets import crowd, pure_map
from bench.place import Host
from bench.scenarios.first_packet.verbatim import Form, compare
from bench.scenarios.first_packet.ways import Way
from support import needs
from support.world import GO_PLUGINS


@pytest.fixture
def older() -> Path:
    """The portmap of the system."""
    needs.command("iptables", package="iptables")
    return needs.file(GO_PLUGINS / "portmap", package="containernetworking-plugins")


def test_portmap_on_nftables_leaves_what_the_bench_loads(host: Host, newer: Path) -> None:
    """Two ADDs, listed, are the text that the bench makes up for two containers, loaded and listed."""
    assert compare(host, newer) == Form(version_of(newer.parent), Way.RULES, same=True)


def test_portmap_on_iptables_leaves_what_the_bench_loads(host: Host, older: Path) -> None:
    """The same with iptables: every rule of every chain, in its order."""
    form = compare(host, older)
    assert form.same
    assert form.way in {Way.IPTABLES_NFT, Way.IPTABLES_LEGACY}


def test_a_portmap_that_writes_other_rules_is_found_out(host: Host, older: Path, tmp_path: Path) -> None:
    """One rule more is enough."""
    other = tmp_path / "portmap"
    other.write_text(f'#!/bin/sh\n"{older}" && exec iptables -t nat -A CNI-HOSTPORT-DNAT -j RETURN\n')
    other.chmod(0o755)
    assert not compare(host, other).same


def test_a_map_of_both_protocols_is_what_nft_takes(host: Host) -> None:
    """Every port is an element of the one map."""
    host.run("nft", "-f", "-", text=pure_map(crowd(2_000)))
    assert host.run("nft", "list", "map", "ip", "published", "ports").count(" : 10.77.") == 2_000
