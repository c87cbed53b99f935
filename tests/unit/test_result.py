"""prevResult: what is read from it, and how it is passed on in each version of CNI."""

from __future__ import annotations

import json
import subprocess
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin import result
from plugin.errors import CniError, Code
from plugin.versions import SUPPORTED_VERSIONS as VERSIONS
from support import needs
from support.cni import previous_result

GOLDEN = Path(__file__).parent.parent / "golden" / "cni"
OLD, GO = VERSIONS[:2], VERSIONS[:-1]
"""Versions whose results name no interfaces; versions that Go's plugins of Debian 12 know."""
HOST, CONTAINER = {"name": "br-front"}, {"name": "eth0", "sandbox": "/run/netns/web"}


def test_the_container_and_its_host_side() -> None:
    """Addresses of the container's interface, and the interfaces without a sandbox, in order."""
    previous = result.parse(previous_result(), "eth0")
    assert previous.addresses == (IPv4Address("10.11.0.10"), IPv6Address("fd00:11::10"))
    assert previous.host_interfaces == ("br-front", "veth0a1b2c3d")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("02:00:00:00:00:03", "02:00:00:00:00:03"),
        ("0A:00:27:00:00:FF", "0a:00:27:00:00:ff"),
        ("", ""),
        ("00:00:00:00:00:00", ""),
        ("80:00:02:08:fe:80:00:00:00:00:00:00:00:11:22:33:44:55:66:77", ""),
        ("not a MAC", ""),
    ],
)
def test_the_mac_of_the_containers_interface(written: str, read: str) -> None:
    """In one spelling; of an interface that is none of Ethernet nothing is known."""
    others = [HOST | {"mac": "02:00:00:00:00:01"}, {"name": "eth1", "sandbox": "/x", "mac": "02:00:00:00:00:99"}]
    made = previous_result(interfaces=[*others, CONTAINER | {"mac": written}], ips=[])
    assert result.parse(made, "eth0").mac == read


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
        ({"interfaces": None}, Code.INVALID_CONFIG, "prevResult.ips[0].interface: there is no such entry among 0"),
        ({"interfaces": [HOST]}, Code.INVALID_CONFIG, "prevResult.interfaces: holds no interface 'eth0'"),
        ({"interfaces": [HOST, {"name": "eth0"}]}, Code.INVALID_CONFIG, "prevResult.interfaces: holds no interface"),
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
        ({"routes": [{}]}, Code.INVALID_CONFIG, "prevResult.routes[0].dst: '' is not a network"),
        ({"routes": [{"dst": "10.0.0.0"}]}, Code.INVALID_CONFIG, "prevResult.routes[0].dst: '10.0.0.0'"),
        ({"dns": []}, Code.INVALID_CONFIG, "prevResult.dns:"),
        ({"cniVersion": "9"}, Code.INCOMPATIBLE_VERSION, "prevResult.cniVersion: '9'"),
        ({"cniVersion": "0.2.0"}, Code.INVALID_CONFIG, "prevResult.interfaces: is not part of a result of CNI 0.2.0"),
        (
            {"ip4": {"ip": "10.0.0.2/24"}},
            Code.INVALID_CONFIG,
            "prevResult.ip4: is of a result before CNI 0.3.0, and 'i",
        ),
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


@pytest.mark.parametrize(
    ("old", "details"),
    [
        ({"cniVersion": "1.0.0", "ip4": {"ip": "10.0.0.2/24"}}, "prevResult.ip4: is not part of a result of CNI 1.0.0"),
        ({"ip4": []}, "prevResult.ip4: [] is a list"),
        ({"ip4": {}}, "prevResult.ip4.ip: ''"),
        ({"ip4": {"ip": "10.0.0.2"}}, "prevResult.ip4.ip: '10.0.0.2' is not an address with its prefix length"),
        ({"ip4": {"ip": "fd00::2/64"}}, "prevResult.ip4.ip: fd00::2 is not an IPv4 address"),
        ({"ip6": {"ip": "10.0.0.2/24"}}, "prevResult.ip6.ip: 10.0.0.2 is not an IPv6 address"),
        ({"ip6": {"ip": "ff02::9/64"}}, "prevResult.ip6.ip: ff02::9 is a multicast"),
        ({"ip4": {"ip": "127.0.0.2/8"}}, "prevResult.ip4.ip: 127.0.0.2 is a loopback address"),
        ({"ip4": {"ip": "10.0.0.2/24", "gateway": "x"}}, "prevResult.ip4.gateway: 'x' is not an IP address"),
        ({"ip4": {"ip": "10.0.0.2/24", "routes": [{"dst": "x/8"}]}}, "prevResult.ip4.routes[0].dst: 'x/8' is not a ne"),
    ],
)
def test_bad_old_results(old: dict[str, Any], details: str) -> None:
    """A result of before CNI 0.3.0 is refused by the field in it, too."""
    with pytest.raises(CniError) as error:
        result.parse(old, "eth0")
    assert error.value.code == Code.INVALID_CONFIG
    assert error.value.details.startswith(details)


@pytest.mark.parametrize("version", [{}, {"cniVersion": "0.1.0"}, {"cniVersion": "0.2.0"}], ids=str)
def test_old_results(version: dict[str, Any]) -> None:
    """Before CNI 0.3.0 all addresses are the container's, and the host's side is not named."""
    ip4: dict[str, Any] = {"ip": "10.0.0.2/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}]}
    previous = result.parse({**version, "ip4": ip4, "ip6": {"ip": "fd00::2/64"}, "dns": {}}, "eth0")
    assert previous == result.PreviousResult((IPv4Address("10.0.0.2"), IPv6Address("fd00::2")), ())


def test_results_without_interfaces() -> None:
    """A plugin that names no interfaces made its addresses for the container."""
    bare: dict[str, Any] = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}
    assert result.parse(bare, "eth0") == result.PreviousResult((IPv4Address("10.0.0.2"),), ())
    assert result.parse({}, "eth0") == result.PreviousResult((), ())


def test_links_that_the_host_has_no_end_of() -> None:
    """After macvlan, ipvlan or host-device no interface is the host's."""
    previous = result.parse(
        previous_result(interfaces=[CONTAINER], ips=[{"address": "10.0.0.2/8", "interface": 0}]), "eth0"
    )
    assert previous == result.PreviousResult((IPv4Address("10.0.0.2"),), ())


def test_the_loopback_interface_has_no_address_for_a_port() -> None:
    """After the plugin loopback, which serves "lo", its addresses are not asked for; on any other they are refused."""
    lo = {"name": "lo", "sandbox": "/run/netns/web"}
    ips = [{"address": "127.0.0.1/8", "interface": 0}, {"address": "::1/128", "interface": 0}]
    assert result.parse(previous_result(interfaces=[lo], ips=ips), "lo") == result.PreviousResult((), ())


@pytest.mark.parametrize("version", VERSIONS)
def test_converted(version: str) -> None:
    """The same result in each version: as the golden file has it, and readable again."""
    converted = result.convert(previous_result(), version)
    assert json.dumps(converted, indent=2) + "\n" == (GOLDEN / f"result-{version}.json").read_text()
    again, before = result.parse(converted, "eth0"), result.parse(previous_result(), "eth0")
    assert again.addresses == before.addresses
    assert again.host_interfaces == (() if version in OLD else before.host_interfaces)


def static(version: str) -> dict[str, Any]:
    """What Go's plugin static prints for two addresses, their routes and a name server."""
    printed: dict[str, Any] = json.loads((GOLDEN / f"static-{version}.json").read_text())
    return printed


@pytest.mark.parametrize("before", GO)
@pytest.mark.parametrize("after", GO)
def test_converted_as_go_does(before: str, after: str) -> None:
    """From every version to every other the result is the one that Go's plugins print there."""
    assert result.convert(static(before), after) == static(after)


@pytest.mark.parametrize("version", GO)
def test_what_go_prints(version: str) -> None:
    """The golden files are the output of the real plugin."""
    executable = needs.file("/usr/lib/cni/static", package="containernetworking-plugins")
    conf = {
        "cniVersion": version,
        "name": "front",
        "type": "static",
        "ipam": json.loads((GOLDEN / "static.json").read_text()),
    }
    calling = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "web", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
    done = subprocess.run([executable], input=json.dumps(conf), env=calling, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == static(version)


@pytest.mark.parametrize("version", OLD)
def test_old_versions_keep_one_address_of_each_family(version: str) -> None:
    """Of several addresses the first of its family remains, with the routes of that family; no interfaces."""
    before = previous_result(
        ips=[{"address": f"10.0.0.{index}/24", "interface": 2} for index in (2, 3)],
        routes=[{"dst": "::/0"}, {"dst": "0.0.0.0/0", "mtu": 1400}],
        dns=None,
    )
    ip4 = {"ip": "10.0.0.2/24", "routes": [{"dst": "0.0.0.0/0"}]}
    assert result.convert(before, version) == {"cniVersion": version, "ip4": ip4, "x-vendor": {"kept": True}}


@pytest.mark.parametrize("version", OLD)
@pytest.mark.parametrize("ips", [None, []])
def test_old_versions_need_an_address(version: str, ips: list[object] | None) -> None:
    """As in Go, a result without addresses cannot be said before CNI 0.3.0; the error names what to change."""
    with pytest.raises(CniError, match="use a later cniVersion") as error:
        result.convert(previous_result(ips=ips), version)
    assert error.value.code == Code.INCOMPATIBLE_VERSION


def test_upgraded() -> None:
    """A result of any version in the words of today."""
    old: dict[str, Any] = {
        "cniVersion": "0.2.0",
        "ip6": {"ip": "fd00::2/64", "gateway": "fd00::1", "routes": [{"dst": "::/0"}]},
        "x": 1,
    }
    assert result.upgraded(old) == {
        "cniVersion": "1.1.0",
        "ips": [{"address": "fd00::2/64", "gateway": "fd00::1"}],
        "routes": [{"dst": "::/0"}],
        "x": 1,
    }
    assert result.upgraded(previous_result()) == previous_result()


def test_nothing_is_invented() -> None:
    """A result without addresses and routes has none in any version."""
    bare: dict[str, Any] = {"interfaces": [HOST, CONTAINER]}
    for version in VERSIONS[len(OLD) :]:
        assert result.convert(bare, version) == {"cniVersion": version, **bare}


addresses = st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="fd00::/8")
networks = st.sampled_from(["0.0.0.0/0", "::/0", "10.96.0.0/12", "2001:db8::/32"])
results = st.fixed_dictionaries(
    {
        "cniVersion": st.just("1.1.0"),
        "interfaces": st.just([HOST, {**CONTAINER, "mtu": 1400, "mac": "02:00:00:00:00:03"}]),
        "ips": st.lists(
            st.builds(
                lambda address, more: {"address": f"{address}/24", **more},
                addresses,
                st.sampled_from([{}, {"interface": 1}, {"interface": 1, "gateway": "10.0.0.1"}]),
            ),
            min_size=1,
            max_size=4,
        ),
        "routes": st.lists(
            st.builds(
                lambda dst, more: {"dst": dst, **more}, networks, st.sampled_from([{}, {"mtu": 9}, {"gw": "::1"}])
            ),
            max_size=4,
        ),
    },
    optional={"dns": st.just({"nameservers": ["10.0.0.1"]}), "x-vendor": st.just(1)},
)


@pytest.mark.parametrize("older", VERSIONS)
@pytest.mark.parametrize("newer", VERSIONS)
@given(made=results)
@settings(max_examples=20, deadline=None)
def test_there_and_back(older: str, newer: str, made: dict[str, Any]) -> None:
    """What an older version can say survives a newer one; by which versions a result came there does not matter."""
    low, high = sorted((older, newer), key=VERSIONS.index)
    before = result.convert(made, low)
    assert result.convert(result.convert(before, high), low) == before
    assert result.convert(result.convert(made, high), low) == before
    assert result.parse(before, "eth0").addresses
