"""The rulesets that stand for peers in the bench are those that the peers' executables leave behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.cni import Container, configuration, environment, port
from bench.rulesets import PORTMAP_TABLE, portmap_iptables, portmap_nft, pure_map
from support import needs
from support.netns import Sandbox
from support.world import GO_PLUGINS

NETWORK = "bench"
NEWER = "DATAPLANE_TEST_PEER"
"""A variable of the environment: the directory of plugins of which portmap has the nftables backend."""


def publishers(sandbox: Sandbox) -> list[Container]:
    """Two containers: two ports, and three more than one multiport match takes, of both protocols."""
    many = tuple(port(8100 + one, 1 + one) for one in range(16))
    ports = ((port(8080, 80), port(5353, 53, "udp")), (*many, port(5354, 53, "udp"), port(5355, 54, "udp")))
    return [
        Container(f"c{number}", sandbox.namespace(f"c{number}").path, f"10.77.1.{2 + number}/16", ports=own)
        for number, own in enumerate(ports)
    ]


def add(sandbox: Sandbox, portmap: Path, containers: Sequence[Container], **keys: object) -> None:
    """A real ADD of each."""
    for one in containers:
        text = configuration("portmap", NETWORK, one.ports, one.previous_result(), **keys)
        sandbox.run(portmap, input=text, env=environment("ADD", one, str(portmap.parent)))


def listed(sandbox: Sandbox) -> str:
    return sandbox.run("nft", "-s", "list", "table", *PORTMAP_TABLE.split()).stdout


def saved(sandbox: Sandbox) -> list[str]:
    """The nat table without its comments; chains in any order, for their names are digests."""
    lines = sandbox.run("iptables-save", "-t", "nat").stdout.splitlines()
    return [line for line in lines if not line.startswith("#")]


def of_chain(lines: Sequence[str]) -> dict[str, list[str]]:
    """Rules by chain, in their order."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("-A "):
            found.setdefault(line.split()[1], []).append(line)
    return found


def test_portmap_on_nftables_leaves_what_the_bench_loads(sandbox: Sandbox) -> None:
    """Two ADDs, listed, are the text that the bench makes up for two containers, loaded and listed."""
    given = os.environ.get(NEWER)
    if given is None:
        pytest.skip(f"missing: a portmap with the nftables backend (1.6 or later), in a directory that {NEWER} names")
    needs.file(Path(given) / "portmap", package="containernetworking-plugins")
    containers = publishers(sandbox)
    add(sandbox, Path(given) / "portmap", containers, backend="nftables")
    theirs = listed(sandbox)
    sandbox.run("nft", "delete", "table", *PORTMAP_TABLE.split())
    sandbox.run("nft", "-f", "-", input=portmap_nft(containers))
    assert listed(sandbox) == theirs


def test_portmap_on_iptables_leaves_what_the_bench_loads(sandbox: Sandbox) -> None:
    """The same with iptables: every rule of every chain, in its order."""
    needs.file(GO_PLUGINS / "portmap", package="containernetworking-plugins")
    needs.command("iptables", package="iptables")
    containers = publishers(sandbox)
    add(sandbox, GO_PLUGINS / "portmap", containers)
    theirs = saved(sandbox)
    sandbox.run("iptables", "-t", "nat", "-F")
    sandbox.run("iptables", "-t", "nat", "-X")
    sandbox.run("iptables-restore", input=portmap_iptables(containers, NETWORK))
    assert of_chain(saved(sandbox)) == of_chain(theirs)
    assert sorted(saved(sandbox)) == sorted(theirs)


def test_a_map_of_both_protocols_is_what_nft_takes(sandbox: Sandbox) -> None:
    """Every port is an element of the one map."""
    containers = publishers(sandbox)
    sandbox.run("nft", "-f", "-", input=pure_map(containers))
    told = sandbox.run("nft", "list", "map", "ip", "published", "ports").stdout
    assert told.count(" : 10.77.1.") == sum(len(one.ports) for one in containers)
