"""CHECK of the main plugin on a real kernel: whatever is taken away from an attachment, it names.

That what it finds is also put back is shown in test_repair.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support import plan
from support.bridgehost import DUAL, GATEWAY4, GATEWAY6, LEASES, MAC, STRANGER, Host, main_host
from support.started import DPCTL


@pytest.fixture(scope="module")
def one_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host of all tests; programs are compiled only once."""
    with main_host(tmp_path_factory.mktemp("bridge"), "dataplane-bridge") as made:
        yield made


@pytest.fixture
def host(one_host: Host) -> Iterator[Host]:
    """The host without containers, before and after."""
    yield one_host
    one_host.clear()


EVERYTHING: dict[str, Any] = {
    "ipam": DUAL | {"routes": [{"dst": "198.51.100.0/24"}]},
    "isDefaultGateway": True,
    "macspoofchk": True,
    "ipMasq": True,
    "capabilities": {"portMappings": True},
    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}], "mac": MAC},
}
WEB4, WEB6 = plan.FRONT.host4(2), plan.FRONT.host6(2)
LOST = {
    "address": ("{inside} ip address delete {web4}/24 dev eth0", "address {web4}/24 of interface eth0 is missing"),
    "IPv6 address": ("{inside} ip address delete {web6}/64 dev eth0", "address {web6}/64 of interface eth0 is missing"),
    "route": ("{inside} ip route delete 198.51.100.0/24", "route to 198.51.100.0/24 by interface eth0 is missing"),
    "default route": ("{inside} ip -6 route delete default", "route to ::/0 via {gateway6}"),
    "up": ("{inside} ip link set eth0 down", "interface eth0 is down"),
    "mac": ("{inside} ip link set eth0 address {stranger}", "interface eth0 has the MAC {stranger}, not {mac}"),
    "interface": ("{inside} ip link delete eth0", "interface eth0 is gone"),
    "port": ("ip link set {port} nomaster", 'link "{port}" is no port of bridge "br-front"'),
    "host's end up": ("ip link set {port} down", 'link "{port}" is down'),
    "bridge up": ("ip link set br-front down", 'bridge "br-front" is down'),
    "bridge": ("ip link delete br-front", 'bridge "br-front" is gone'),
    "gateway": ("ip address delete {gateway4}/24 dev br-front", 'bridge "br-front" has not the address {gateway4}/24'),
    "lease": ("rm {leases}/{web4}", "{web4}"),
    "program": ("{dpctl} bpf detach br-front --force", "program isolation is not attached to device"),
    "element": ("nft flush map inet dataplane publish4", "element publish4 {{ tcp . 8080"),
    "table": ("nft delete table inet dataplane", "table inet dataplane was wiped"),
    "rule": ("nft flush table inet dataplane", "chains or rules of table inet dataplane were altered"),
    "guard": ("tc filter delete dev {port} ingress", "program guard is not attached to device"),
    "guard's qdisc": ("tc qdisc delete dev {port} clsact", "program guard is not attached to device"),
}  # fmt: skip
"""What is taken away, and what CHECK says of it."""


def test_check_is_content_after_add(host: Host) -> None:
    """With every kind of thing that CHECK compares."""
    host.add(**EVERYTHING)
    assert host.check() == []


@pytest.mark.parametrize("lost", LOST)
def test_check_names_what_is_lost(host: Host, lost: str) -> None:
    """The error names what is no longer there, and the object that it is about."""
    host.add(**EVERYTHING)
    words = {
        "web4": WEB4, "web6": WEB6, "gateway4": GATEWAY4, "gateway6": GATEWAY6, "port": host.port(), "leases": LEASES,
        "dpctl": DPCTL, "inside": "ip netns exec web", "mac": MAC, "stranger": STRANGER,
    }  # fmt: skip
    assert host.address("web") == str(WEB4)
    command, said = (text.format(**words) for text in LOST[lost])
    host.sandbox.run(*command.split())
    found = host.check()
    assert any(said in one for one in found), found
