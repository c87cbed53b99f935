"""New flows on this kernel: how they are made, what proves the way that they went, and a run from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.figures.measure import spread_percentile
from bench.native import Native
from bench.place import Host
from bench.scenarios.first_packet.publishing import Site
from bench.scenarios.first_packet.ways import PROTOCOLS, Place, Way
from dataplane.types import Protocol
from support import needs
from support.benched import smoke

SIZE = 100


@pytest.mark.parametrize("way", [Way.MAP, Way.RULES, Way.IPTABLES_NFT])
def test_every_flow_is_new_and_goes_the_way_that_its_name_says(host: Host, native: Native, way: Way) -> None:
    """Nothing is doubted; conntrack has an entry for each flow, and none of the round before."""
    needs.command("iptables-nft", package="iptables")
    site = Site(host, way, SIZE)
    site.publish(native)
    with site.flows(native, 0) as flows:
        assert site.prove(flows) == []
        for protocol in PROTOCOLS:
            for place in Place:
                made = flows.measure(site.number(protocol, place), 0, 20)
                assert (made.lost, made.wrong) == (0, 0)
                assert made.count == 20
                assert made.tracked == made.made > made.count
                assert sum(count for _, count in made.spread) == made.count
                assert 0 < made.p50 <= made.p90 <= made.p99
                least = spread_percentile(dict(made.spread), 0.5)
                assert least <= made.p50 <= least * 1.01


def test_a_veth_has_no_conntrack(host: Host, native: Native) -> None:
    """Flows arrive, and nobody remembers them."""
    site = Site(host, Way.VETH, 1)
    site.publish(native)
    with site.flows(native, 0) as flows:
        assert site.prove(flows) == []
        for protocol in PROTOCOLS:
            made = flows.measure(site.number(protocol, Place.MIDDLE), 5, 10)
            assert made.count >= 10
            assert made.tracked == made.lost == made.wrong == 0


def test_another_way_through_is_found_out(host: Host, native: Native) -> None:
    """A rule before all others that takes the same flows: every answer is right, and the proof fails."""
    site = Site(host, Way.RULES, SIZE)
    site.publish(native)
    site.host.run(
        "nft", "insert", "rule", "ip", "cni_hostport", "hostports_all", "udp", "dport", "1001", "dnat", "to",
        "10.77.1.2:9001",
    )  # fmt: skip
    with site.flows(native, 0) as flows:
        assert flows.measure(site.number(Protocol.UDP, Place.FIRST), 0, 10).lost == 0
        (doubt,) = site.prove(flows)
    assert "flows were decided" in doubt


def test_a_port_that_nobody_publishes_loses_its_flows(host: Host, native: Native) -> None:
    """They are counted as lost, and not timed."""
    site = Site(host, Way.MAP, SIZE)
    site.publish(native)
    site.host.run("nft", "flush", "map", "ip", "published", "ports")
    with site.flows(native, 0) as flows:
        made = flows.measure(site.number(Protocol.TCP, Place.MIDDLE), 0, 1)
    assert made.count == 0
    assert made.lost == made.made > 0


def test_first_packets_are_measured_by_all_ways(tmp_path: Path) -> None:
    """A run with hardly any rounds: every way has its figures, no flow is lost, and every host did what it must."""
    needs.command("iptables-nft", package="iptables")
    figures = smoke(tmp_path, "first_packet")["first_packet"]
    for way in (Way.OURS, Way.NFT_ONLY, Way.MAP, Way.RULES, Way.IPTABLES_NFT):
        for what in ("UDP, first packet and answer", "TCP connect()"):
            assert figures[f"{what}: {way}, 100 ports"]["value"] > 0
    (lost,) = (one for what, one in figures.items() if what.startswith("flows lost"))
    (proved,) = (one for what, one in figures.items() if what.startswith("hosts and rules that are not"))
    assert lost["met"] is proved["met"] is True
