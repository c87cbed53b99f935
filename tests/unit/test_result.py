"""prevResult: what is read from it, and how it is passed on in each version of CNI."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from plugin import result
from plugin.errors import CniError, Code
from support.cni import VERSIONS, previous_result

GOLDEN = Path(__file__).parent.parent / "golden" / "cni"
HOST, CONTAINER = {"name": "br-front"}, {"name": "eth0", "sandbox": "/run/netns/web"}


def test_the_container_and_its_host_side() -> None:
    """Addresses of the container's interface, and the interfaces without a sandbox, in order."""
    previous = result.parse(previous_result(), "eth0")
    assert previous.addresses == (IPv4Address("10.11.0.10"), IPv6Address("fd00:11::10"))
    assert previous.host_interfaces == ("br-front", "veth0a1b2c3d")


def test_addresses_of_other_interfaces_are_not_ours() -> None:
    """Of several interfaces only CNI_IFNAME's addresses count, and those that name no interface."""
    previous = result.parse(
        previous_result(
            interfaces=[HOST, CONTAINER, {"name": "eth1", "sandbox": "/x"}],
            ips=[
                {"address": "10.0.0.1/24", "interface": 2},
                {"address": "10.0.0.2/24"},
                {"address": "10.0.0.3/24", "interface": 0},
                {"address": "10.0.0.4/24", "interface": 1},
                {"address": "10.0.0.2/24"},
                {"address": "127.0.0.1/8", "interface": 0},
            ],
        ),
        "eth0",
    )
    assert previous.addresses == (IPv4Address("10.0.0.2"), IPv4Address("10.0.0.4"))


def test_a_host_interface_may_have_the_containers_name() -> None:
    """eth0 of the host is not eth0 of the container: only a sandbox makes it the container's."""
    previous = result.parse(previous_result(interfaces=[{"name": "eth0"}, CONTAINER], ips=[]), "eth0")
    assert previous.host_interfaces == ("eth0",)


@pytest.mark.parametrize(
    ("changed", "code", "details"),
    [
        ({"interfaces": None}, Code.INVALID_CONFIG, "prevResult.interfaces: holds no interface 'eth0'"),
        ({"interfaces": [HOST]}, Code.INVALID_CONFIG, "prevResult.interfaces: holds no interface 'eth0'"),
        ({"interfaces": [HOST, {"name": "eth0"}]}, Code.INVALID_CONFIG, "prevResult.interfaces: holds no interface"),
        ({"interfaces": [CONTAINER]}, Code.INVALID_CONFIG, "prevResult.interfaces: holds no interface of the host"),
        ({"interfaces": {}}, Code.INVALID_CONFIG, "prevResult.interfaces: {} is an object, not a list"),
        ({"interfaces": [7]}, Code.INVALID_CONFIG, "prevResult.interfaces[0]: 7 is an integer"),
        ({"interfaces": [{"name": 7}]}, Code.INVALID_CONFIG, "prevResult.interfaces[0].name: 7"),
        ({"interfaces": [CONTAINER, {}]}, Code.INVALID_CONFIG, "prevResult.interfaces[1].name: ''"),
        ({"interfaces": [CONTAINER, {"name": "a b"}]}, Code.INVALID_CONFIG, "prevResult.interfaces[1].name: 'a b'"),
        ({"ips": [{}]}, Code.INVALID_CONFIG, "prevResult.ips[0].address: ''"),
        ({"ips": [{"address": "10.0.0.1"}]}, Code.INVALID_CONFIG, "prevResult.ips[0].address: '10.0.0.1'"),
        ({"ips": [{"address": "10.0.0.1/33"}]}, Code.INVALID_CONFIG, "prevResult.ips[0].address:"),
        ({"ips": [{"address": "fe80::1%1/64"}]}, Code.INVALID_CONFIG, "prevResult.ips[0].address:"),
        ({"ips": [{"address": "10.0.0.1/8", "interface": 3}]}, Code.INVALID_CONFIG, "prevResult.ips[0].interface:"),
        ({"ips": [{"address": "10.0.0.1/8", "interface": -1}]}, Code.INVALID_CONFIG, "prevResult.ips[0].interface:"),
        ({"ips": [{"address": "10.0.0.1/8", "interface": "0"}]}, Code.INVALID_CONFIG, "prevResult.ips[0].interface:"),
        ({"ips": [{"address": "10.0.0.1/8", "gateway": "x"}]}, Code.INVALID_CONFIG, "prevResult.ips[0].gateway: 'x'"),
        ({"ips": [{"address": "0.0.0.0/0"}]}, Code.INVALID_CONFIG, "prevResult.ips[0].address: 0.0.0.0 is the unsp"),
        ({"ips": [{"address": "::/64"}]}, Code.INVALID_CONFIG, "prevResult.ips[0].address: :: is the unspecified"),
        ({"ips": [{"address": "127.0.0.2/8"}]}, Code.INVALID_CONFIG, "prevResult.ips[0].address: 127.0.0.2 is a loop"),
        ({"ips": [{"address": "::1/128"}]}, Code.INVALID_CONFIG, "prevResult.ips[0].address: ::1 is a loopback"),
        ({"ips": [{"address": "224.0.0.9/4"}]}, Code.INVALID_CONFIG, "prevResult.ips[0].address: 224.0.0.9 is a multi"),
        (
            {"ips": [{"address": "ff02::9/64"}]},
            Code.INVALID_CONFIG,
            "prevResult.ips[0].address: ff02::9 is a multicast",
        ),
        ({"ips": [{"address": "255.255.255.255/8"}]}, Code.INVALID_CONFIG, "prevResult.ips[0].address: 255.255.255.25"),
        ({"routes": "x"}, Code.INVALID_CONFIG, "prevResult.routes:"),
        ({"dns": []}, Code.INVALID_CONFIG, "prevResult.dns:"),
        ({"cniVersion": "0.2.0"}, Code.INCOMPATIBLE_VERSION, "prevResult.cniVersion: '0.2.0'"),
        ({"cniVersion": "9"}, Code.INCOMPATIBLE_VERSION, "prevResult.cniVersion: '9'"),
        ({"ip4": {"ip": "10.0.0.2/24"}}, Code.INCOMPATIBLE_VERSION, "prevResult.ip4: is of a result before CNI 0.3.0"),
    ],
)
def test_bad_results(changed: dict[str, Any], code: Code, details: str) -> None:
    """A result that cannot be used is refused by the field in it."""
    with pytest.raises(CniError) as error:
        result.parse(previous_result(**changed), "eth0")
    assert error.value.code == code
    assert error.value.details.startswith(details)


def test_no_result() -> None:
    """Without prevResult the user is told where the plugin belongs."""
    with pytest.raises(CniError, match="after bridge or ptp"):
        result.parse(None, "eth0")


@pytest.mark.parametrize("version", VERSIONS)
def test_converted(version: str) -> None:
    """The same result in each version: as the golden file has it, and readable again."""
    converted = result.convert(previous_result(), version)
    assert json.dumps(converted, indent=2) + "\n" == (GOLDEN / f"result-{version}.json").read_text()
    assert result.parse(converted, "eth0") == result.parse(previous_result(), "eth0")


@pytest.mark.parametrize("older", VERSIONS)
@pytest.mark.parametrize("newer", VERSIONS)
def test_there_and_back(older: str, newer: str) -> None:
    """What an older version can say survives a newer one."""
    before = result.convert(previous_result(), min(older, newer))
    assert result.convert(result.convert(before, max(older, newer)), before["cniVersion"]) == before  # type: ignore[arg-type]  # a string


def test_nothing_is_invented() -> None:
    """A result without addresses and routes has none in any version."""
    bare: dict[str, Any] = {"interfaces": [HOST, CONTAINER]}
    for version in VERSIONS:
        assert result.convert(bare, version) == {"cniVersion": version, **bare}
