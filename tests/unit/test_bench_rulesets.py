"""What peers have in the kernel for many ports: as many as were asked for, each once, in the forms that are known."""

from __future__ import annotations

import pytest

from bench.cni import Container, port
from bench.peers.rulesets import around, crowd, portmap_iptables, portmap_nft, pure_map, pure_map6
from dataplane.types import Protocol

WEB = Container("web", "", "10.77.1.2/16", ports=(port(8080, 80, Protocol.TCP), port(5353, 53, Protocol.UDP)))


@pytest.mark.parametrize("count", [0, 1, 9, 1_000, 60_000])
def test_a_crowd_publishes_as_many_ports_as_asked_for_and_none_twice(count: int) -> None:
    """So many ports, each once; containers have addresses of their own; no port leads to the one of the same number."""
    present = crowd(count)
    ports = [(one["protocol"], one["hostPort"]) for container in present for one in container.ports]
    assert len(ports) == len(set(ports)) == count
    assert len({container.address for container in present}) == len(present)
    assert all(one["hostPort"] != one["containerPort"] for container in present for one in container.ports)


def test_more_ports_than_there_are_numbers_are_refused() -> None:
    """60,000 of one protocol fit above the first, and not more than 65,535 is left."""
    assert len(crowd(60_000, protocols=(Protocol.TCP,))) == 6_000
    with pytest.raises(ValueError, match="do not fit"):
        crowd(61_000, protocols=(Protocol.TCP,))


@pytest.mark.parametrize(
    ("text", "a_port"),
    [
        (portmap_nft(crowd(1_000)), "dnat to"),
        (portmap_iptables(crowd(1_000), "bench"), "-j DNAT"),
        (pure_map(crowd(1_000)), " : 10.77."),
    ],
)
def test_every_port_of_a_crowd_is_there_once(text: str, a_port: str) -> None:
    """A rule, or an element, for each."""
    assert text.count(a_port) == 1_000


def test_measured_containers_stand_where_their_places_say() -> None:
    """First, in the middle and last, with as many others before the middle as behind it."""
    first, middle, last = (Container(name, "") for name in ("first", "middle", "last"))
    placed = around(first, middle, last, crowd(40))
    assert placed[0] is first
    assert placed[-1] is last
    assert placed.index(middle) == 3
    assert len(placed) == 7


def test_portmap_on_nftables_has_a_rule_a_port_and_two_a_container() -> None:
    """The rules of a container, as the plugin writes them."""
    text = portmap_nft([WEB])
    assert [line.strip() for line in text.splitlines() if '"web"' in line] == [
        'tcp dport 8080 dnat to 10.77.1.2:80 comment "web"',
        'udp dport 5353 dnat to 10.77.1.2:53 comment "web"',
        'ip saddr 10.77.1.2 ip daddr 10.77.1.2 masquerade comment "web"',
        'ip saddr 127.0.0.1 ip daddr 10.77.1.2 masquerade comment "web"',
    ]


def test_portmap_on_iptables_jumps_once_for_fifteen_ports_of_a_protocol() -> None:
    """32 TCP ports and one of UDP: three multiport rules and one, and three rules a port in the container's chain."""
    ports = [port(8000 + one, 1 + one, Protocol.TCP) for one in range(32)] + [port(53, 53, Protocol.UDP)]
    text = portmap_iptables([Container("web", "", "10.77.1.2/16", ports=tuple(ports))], "bench")
    jumps = [line for line in text.splitlines() if "-m multiport" in line]
    assert [line.split()[3] for line in jumps] == ["tcp", "tcp", "tcp", "udp"]
    assert [len(line.partition("--dports ")[2].split()[0].split(",")) for line in jumps] == [15, 15, 2, 1]
    own = [line for line in text.splitlines() if line.startswith("-A CNI-DN-")]
    assert len(own) == 3 * len(ports)


def test_a_map_has_an_element_a_port_and_no_rule_more() -> None:
    """Ten times as many ports change nothing but the elements."""
    few, many = (pure_map(crowd(count)).partition("add element")[0] for count in (100, 1_000))
    assert few == many
    assert "tcp . 8080 : 10.77.1.2 . 80, udp . 5353 : 10.77.1.2 . 53" in pure_map([WEB])


def test_a_map_by_ipv6_is_the_same_but_for_the_loopback() -> None:
    """Every line of it is one of IPv4's, in IPv6's words; that of the loopback is missing."""
    six = pure_map6([Container("web", "", "fd00:77::1:2/64", ports=WEB.ports)])
    assert "add element ip6 published ports { tcp . 8080 : fd00:77::1:2 . 80, udp . 5353 : fd00:77::1:2 . 53 }" in six
    four = pure_map([WEB]).replace("10.77.1.2", "fd00:77::1:2").replace("10.77.0.0/16", "fd00:77::/64")
    four = four.replace("ip published", "ip6 published").replace("ipv4_addr", "ipv6_addr")
    four = four.replace("dnat ip to", "dnat ip6 to").replace("ip saddr", "ip6 saddr").replace("ip daddr", "ip6 daddr")
    assert [line for line in four.splitlines() if "127.0.0.0/8" not in line] == six.splitlines()
