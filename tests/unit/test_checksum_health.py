"""What scan makes of its evidence, and the words for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.checksums import wording
from control.checksums.health import (
    Diagnosis,
    Evidence,
    Health,
    NetworkEvidence,
    Offloads,
    Receiver,
    Role,
    diagnose,
    problem,
)
from control.cli.findings import note
from control.model import ChecksumPolicy
from dataplane import sumerrors
from dataplane.abi import ChecksumCounts

TX, RX = "tx-checksum-ip-generic", "rx-checksum"
WEB = Receiver("web", "eth0", "/run/netns/web")
QUIET = NetworkEvidence("front", ChecksumPolicy.REPAIR, (), (WEB,))
UPLINK = Offloads("eth7", Role.UPLINK, "", {TX: True, RX: True})


def seen(**counts: int) -> NetworkEvidence:
    return replace(QUIET, counts=ChecksumCounts(**counts), counts_before=ChecksumCounts(**counts))


def dropping(network: NetworkEvidence, count: int) -> NetworkEvidence:
    return replace(network, receivers=(replace(WEB, dropped={"TcpInCsumErrors": count}),))


@pytest.mark.parametrize(
    ("network", "found"),
    [
        (QUIET, [Health.FINE]),
        (seen(good=9, partial=9, verified=9, unreadable=1), [Health.FINE]),
        (seen(stale=3, repaired=3), [Health.REPAIRED]),
        (seen(stale=3), [Health.STALE]),
        (seen(stale=3, repaired=2), [Health.STALE, Health.REPAIRED]),
        (seen(corrupt=1), [Health.CORRUPT]),
        (dropping(seen(corrupt=1, stale=2), 3), [Health.CORRUPT, Health.STALE]),
        (dropping(seen(corrupt=1, stale=2), 4), [Health.CORRUPT, Health.STALE, Health.UNSEEN]),
        (dropping(QUIET, 1), [Health.UNSEEN]),
        (dropping(seen(stale=2, repaired=2), 1), [Health.UNSEEN, Health.REPAIRED]),
        (replace(QUIET, unwatched=("br-front",)), [Health.UNWATCHED]),
    ],
)
def test_each_verdict(network: NetworkEvidence, found: list[Health]) -> None:
    """What receivers dropped is held against what we let pass, and the worst is said first."""
    assert list(diagnose(network).found) == found
    assert problem(Evidence((network,), {})) == found[0].problem


def test_nothing_that_passed_meanwhile_is_unseen() -> None:
    """Counters are read one after the other: a packet that came in between is counted on our side, at either look."""
    first = replace(dropping(QUIET, 5), counts_before=ChecksumCounts(corrupt=4), counts=ChecksumCounts(corrupt=6))
    later = replace(dropping(QUIET, 9), counts_before=ChecksumCounts(corrupt=8), counts=ChecksumCounts(corrupt=10))
    (network,) = Evidence((later,), {}).since(Evidence((first,), {})).networks
    assert (network.dropped, network.counts.corrupt, network.unseen) == (4, 6, 0)


def test_what_begins_anew_is_no_less_than_nothing() -> None:
    """A network that came meanwhile counts from 0, and so does a device that was made anew."""
    first = Evidence((dropping(seen(stale=9), 9),), {"TcpInCsumErrors": 9}, lost=9)
    later = Evidence((dropping(seen(stale=1), 1), replace(QUIET, name="new")), {"TcpInCsumErrors": 1}, lost=1)
    changed = later.since(first)
    assert [(one.counts.stale, one.dropped) for one in changed.networks] == [(0, 0), (0, 0)]
    assert (changed.host, changed.lost) == ({"TcpInCsumErrors": 0}, 0)


def said(network: NetworkEvidence) -> dict[str, str]:
    """The notes below a verdict, by label."""
    found: dict[str, str] = {}
    for label, text in wording.notes(diagnose(network), since="ever", uplink="eth7"):
        found[label] = f"{found.get(label, '')} {text}".strip()
    return found


@pytest.mark.parametrize(
    ("network", "headline", "to_do"),
    [
        (QUIET, "network front: fine", "nothing"),
        (seen(stale=3), "network front: stale sums seen, and left", "`dpctl checksum scan front --for 60`"),
        (
            replace(seen(stale=3), mode=ChecksumPolicy.OBSERVE),
            "network front: stale sums seen, and left",
            "`dpctl checksum mode front repair`",
        ),
        (seen(stale=3, repaired=3), "network front: stale sums repaired", "`dpctl checksum watch`"),
        (seen(corrupt=1), "network front: corruption arriving (not NAT)", "`ethtool -K eth7 rx off`"),
        (dropping(QUIET, 1), "network front: receivers drop", "--capture eth0 --netns /run/netns/web"),
        (replace(QUIET, unwatched=("br-front",)), "network front: the program is missing", "`dpctl reconcile`"),
        (
            replace(dropping(QUIET, 1), mode=ChecksumPolicy.OFF),
            "network front: receivers drop",
            "`dpctl checksum mode front observe`",
        ),
        (replace(QUIET, mode=ChecksumPolicy.OFF), "network front: fine, as far as receivers tell", "nothing"),
    ],
)
def test_each_verdict_says_what_to_do(network: NetworkEvidence, headline: str, to_do: str) -> None:
    """Each verdict has its words, and a command of its own where there is something to do."""
    assert wording.headline(diagnose(network)).startswith(headline)
    assert to_do in said(network)["to do"]


def test_what_needs_nothing_is_not_said_beside_a_problem() -> None:
    """Where stale sums were repaired and others corrupt, what to do is about the corrupt ones."""
    diagnosis = Diagnosis(seen(corrupt=1), (Health.CORRUPT, Health.REPAIRED))
    assert [text.split(":")[0] for text in wording.advices(diagnosis, "eth7")] == [
        "find where they come from; they are never repaired. Which flows"
    ]


def test_receivers_are_named_with_their_counters() -> None:
    """Who dropped how many, by which counter of the kernel, and how many of these we did not see."""
    network = dropping(seen(corrupt=1), 3)
    assert said(network)["dropped"] == "web: TcpInCsumErrors 3; 2 of them were not seen on the way"
    broken = replace(QUIET, receivers=(replace(WEB, trouble="could not enter"),))
    assert said(broken)["not read"] == "container web: could not enter"


def test_devices_alike_are_told_together() -> None:
    """A thousand ports with the same settings are one line, and the one that differs is another."""
    ports = [Offloads(f"veth{number}", Role.PORT, "veth", {TX: True, RX: True}) for number in range(9)]
    odd = replace(ports[0], name="vethodd", features={TX: False, RX: True})
    lines = list(wording.alike([*ports, odd]))
    assert [line.partition(":")[0] for line in lines] == [
        "port veth0, veth1, veth2 and 6 more (veth)",
        "port vethodd (veth)",
    ]
    assert lines[1].startswith("port vethodd (veth): tx off, rx on, ")


def test_fill_names_the_ports_that_need_none() -> None:
    """Under ``fill`` the ports whose device computes no sums are named; one that does not tell is not."""
    ports = (
        Offloads("veth0", Role.PORT, "veth", {TX: True}),
        Offloads("veth1", Role.PORT, "veth", {TX: False}),
        Offloads("veth2", Role.PORT, "veth", {}),
    )
    network = replace(QUIET, mode=ChecksumPolicy.FILL, devices=ports, filled=2, fill_ports=(68, 546))
    assert said(network)["filled"].startswith("2 packets to UDP ports 68, 546; needless on veth1, ")


@pytest.mark.parametrize(
    ("tunnel", "suspect"),
    [
        (Offloads("flannel.1", Role.TUNNEL, "vxlan", {TX: True}), True),
        (Offloads("flannel.1", Role.TUNNEL, "vxlan", {TX: False}), False),
        (replace(UPLINK, features={TX: True}), False),
    ],
)
def test_a_tunnel_that_is_trusted_is_suspected(tunnel: Offloads, suspect: bool) -> None:
    """A tunnel with the setting that flannel and calico lost packets by is named, with what ends that; no other is."""
    notes = dict(wording.host_notes(Evidence((), {}, (tunnel,))))
    assert ("suspect" in notes) == suspect
    if suspect:
        assert "`ethtool -K flannel.1 tx-checksum-ip-generic off`" in notes["suspect"]
    assert not problem(Evidence((), {}, (tunnel,)))


def test_the_hosts_own_drops_are_a_problem() -> None:
    """What the host dropped itself is said in the headline, with where to look."""
    evidence = Evidence((), {"UdpInCsumErrors": 2, "TcpInCsumErrors": 0}, (UPLINK,), lost=3)
    assert problem(evidence)
    assert wording.host_headline(evidence) == "host: it dropped 2 packets with wrong sums itself"
    notes = dict(wording.host_notes(evidence))
    assert notes["dropped"] == "UdpInCsumErrors 2"
    assert "--capture eth7" in notes["to do"]
    assert notes["lost"].startswith("3 findings")


def test_commands_are_not_broken() -> None:
    """A command between backticks stays on one line, to be copied from there."""
    command = "`dpctl checksum explain --capture eth0 --netns /run/netns/web --for 60`"
    text = note("to do", f"{'word ' * 18}{command} and {'more ' * 18}")
    assert [line for line in text.splitlines() if command in line]
    assert max(map(len, text.splitlines())) <= 110


def test_counters_are_those_of_checksums() -> None:
    """Of /proc/net/snmp and snmp6 the checksum counters are taken, by the names that nstat gives them."""
    snmp = "Ip: Forwarding TTL\nIp: 1 64\nTcp: InSegs InErrs InCsumErrors\nTcp: 9 1 7\nUdp: InCsumErrors X\nUdp: 5 -1\n"
    assert sumerrors.parse(snmp) == {"TcpInCsumErrors": 7, "UdpInCsumErrors": 5}
    snmp6 = "Ip6InReceives  \t4\nUdp6InCsumErrors  \t3\nIcmp6InCsumErrors\t0\n"
    assert sumerrors.parse6(snmp6) == {"Udp6InCsumErrors": 3, "Icmp6InCsumErrors": 0}
