"""The ladder of layers and the published port in use, on this kernel: instruments, hosts, proofs, and that they run."""

from __future__ import annotations

import io
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cni import configuration, environment
from bench.figures.measure import spread_percentile
from bench.hosts import testbed
from bench.hosts.ladder import CHAIN, MAP, OURS, PORTMAP, PUBLISHED, ROUTED, RUNGS, TABLES_ALONE, VETH
from bench.hosts.sightings import prove
from bench.instruments.roundtrips import Ends, Mode, RoundTrips
from bench.instruments.starter import Starter
from bench.native import BenchError, Native
from bench.place import Host
from bench.stage import Stage, containers
from dataplane.types import Protocol
from support import needs
from support.benched import lines, smoke
from support.world import GO_PLUGINS

CPU, OTHER = 0, 1
SHORT = 5  # milliseconds
LONGEST = 1 << 27  # nanoseconds: what takes longer is in the last bucket
PORT = 9000


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("protocol", [Protocol.UDP, Protocol.TCP])
@pytest.mark.parametrize("mode", [Mode.ONE, Mode.TWO])
def test_each_of_many_flows_is_answered(stage: Stage, address: str, protocol: Protocol, mode: Mode) -> None:
    """By IPv4 and IPv6, in one process or by a server on another processor: 256 sockets in turn, and none is lost."""
    ends = Ends(
        "-", address, PORT, "-", PORT, protocol, mode, flows=256, server_cpu=OTHER if mode is Mode.TWO else None
    )
    with stage.host("one") as host, RoundTrips(host, stage.native, CPU, ends) as trips:
        trips.warm()
        made = trips.measure(SHORT)
    assert made.count > 0
    assert (made.lost, made.wrong) == (0, 0)


def test_a_round_can_be_of_fewer_flows_and_bytes(stage: Stage) -> None:
    """And the next is as wide as the sockets again; a round of more than there are ends with an error."""
    ends = Ends("-", "127.0.0.1", PORT, "-", PORT, payload=1400, flows=16)
    with stage.host("one") as host, RoundTrips(host, stage.native, CPU, ends) as trips:
        for payload, flows in ((8, 1), (64, 16), (1400, 2), (None, None)):
            made = trips.measure(SHORT, payload=payload, flows=flows)
            assert made.count > 0
            assert (made.lost, made.wrong) == (0, 0)
        with pytest.raises(BenchError, match="round trips"):
            trips.measure(SHORT, flows=17)


def test_how_round_trips_are_distributed(stage: Stage) -> None:
    """Buckets hold every round trip, and their percentiles are those of the round within a percent."""
    ends = Ends("-", "127.0.0.1", PORT, "-", PORT)
    with stage.host("one") as host, RoundTrips(host, stage.native, CPU, ends) as trips:
        made = trips.measure(4 * SHORT, spread=True)
        assert trips.measure(SHORT).spread == ()
    spread: dict[float, int] = dict(made.spread)
    assert len(spread) == len(made.spread)
    assert sum(spread.values()) == made.count
    # Between two values that are far apart, either is a percentile.
    near = [spread_percentile(spread, 0.5 + beside / made.count) for beside in (-1, 0, 1)]
    assert min(near) * 0.99 <= made.p50 <= max(near) * 1.01
    assert made.least == pytest.approx(min(spread), rel=0.01)
    assert min(made.most, LONGEST) == pytest.approx(max(spread), rel=0.01)


def test_a_host_is_what_its_name_says(stage: Stage, told: io.StringIO) -> None:
    """UDP, TCP and IPv6 go through the map; under another's name the same host is not believed; nothing that counted
    stays."""
    with ExitStack() as stack:
        bed = testbed.Testbed(stack, stage, MAP)
        ways = {
            "udp": bed.open(CPU, Protocol.UDP, flows=16),
            "tcp": bed.open(CPU, Protocol.TCP),
            "six": bed.open(CPU, Protocol.UDP, version=6),
        }
        prove(stage, bed, ways)
        assert lines(told.getvalue(), "note") == []
        (proof,) = lines(told.getvalue(), "sample")
        assert (proof["measure"], proof["variant"], proof["value"]) == ("unproved", MAP.name, 0.0)
        for rung in (ROUTED, replace(CHAIN, name="another")):
            bed.rung = rung
            prove(stage, bed, ways)
            assert lines(told.getvalue(), "sample")[-1]["value"] == 1.0
        assert any("conntrack knows" in str(note["text"]) for note in lines(told.getvalue(), "note"))
        assert any("ip6 published" in str(note["text"]) for note in lines(told.getvalue(), "note"))
        assert bed.host.run("nft", "list", "tables") == "table ip published\ntable ip6 published\n"


def test_what_portmap_and_firewall_write(stage: Stage) -> None:
    """The rules of the host that stands for them are those of the plugins, line by line."""
    for name in ("portmap", "firewall"):
        needs.file(GO_PLUGINS / name, package="containernetworking-plugins")
    with ExitStack() as stack:
        bed = testbed.Testbed(stack, stage, CHAIN)
        host = stack.enter_context(stage.host("plugins"))
        if b"sigs.k8s.io/knftables" in (GO_PLUGINS / "portmap").read_bytes():
            pytest.skip("the portmap that is installed writes its rules by nft")
        write_by_plugins(host, stage.native)
        assert rules(bed.host) == rules(host)


def write_by_plugins(host: Host, native: Native) -> None:
    """The same container, on the same bridge, with the same ports."""
    container = replace(containers(host, 1, 0)[0], name="web0")
    ports = [
        {"hostPort": 39000, "containerPort": 9000, "protocol": "udp"},
        {"hostPort": 39000, "containerPort": 9000, "protocol": "tcp"},
        {"hostPort": 39003, "containerPort": 9003, "protocol": "udp"},
    ]
    with Starter(host, native) as starter:
        for plugin, more in (("portmap", {}), ("firewall", {"ingressPolicy": "same-bridge"})):
            text = configuration(
                plugin, "bench", ports if plugin == "portmap" else (), container.previous_result(), **more
            )
            starter.run(GO_PLUGINS / plugin, environment("ADD", container, str(GO_PLUGINS)), text)


def rules(host: Host) -> list[str]:
    """All of iptables on a host."""
    return sorted(line for line in host.run("iptables-save").splitlines() if line.startswith("-A"))


def test_the_ladder_and_the_published_port_are_measured(tmp_path: Path) -> None:
    """Each rung has its round trips and is proved, ours at the defaults and with programs off; none is lost."""
    figures = smoke(tmp_path, "layers", "published")
    ladder, in_use = figures["layers"], figures["published"]
    for rung in RUNGS:
        assert ladder[f"UDP round trip, {rung.name}"]["value"] > 0
    assert ladder[f"UDP, {OURS.name} / veth"]["value"] > 1
    for rung in (VETH, *PUBLISHED):
        if rung is not PORTMAP:
            who = rung.name if rung is VETH else str(rung.rules)
            assert in_use[f"UDP, 64 bytes, 256 flows: {who}"]["value"] > 0
    assert in_use["UDP by IPv6, 64 bytes, 1 flow: dataplane / nft map"]["value"] > 0
    assert f"TCP, 64 bytes, 1 flow: {TABLES_ALONE.rules}" in in_use
    for rows in (ladder, in_use):
        assert [one["met"] for what, one in rows.items() if "lost or damaged" in what] == [True]
        assert [one["met"] for what, one in rows.items() if "were not what their name says" in what] == [True]
