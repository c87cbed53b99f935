"""host-local's configuration as types, the choice of the IPAM, and the drop-in's answers."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.errors import DifferenceError, NoAddressError, NotReadyError
from dataplane.types import Route
from plugin.config import VALID_ATTACHMENTS
from plugin.environment import Invocation, Verb
from plugin.errors import CniError, Code, ConfigError, cni_error
from plugin.ipam import hostlocal
from plugin.ipam.choice import ipam_of
from plugin.ipam.hostlocal import HostLocal, parse, parse_resolv_conf

FOUR, SIX = [{"subnet": "10.11.0.0/24"}], [{"subnet": "fd00:11::/64"}]


def configuration(version: str = "1.1.0", ipam: object = None, **more: Any) -> dict[str, Any]:
    return {
        "cniVersion": version,
        "name": "front",
        "type": "bridge",
        "ipam": {"type": "host-local", "ranges": [FOUR]} if ipam is None else ipam,
        **more,
    }


def ranges(ipam: dict[str, Any], **more: Any) -> list[str]:
    return [str(pool) for pool in parse(configuration(ipam=ipam, **more)).sets]


def invocation(verb: Verb = Verb.ADD, **more: Any) -> Invocation:
    return Invocation(verb, "web", "eth0", "/run/netns/web", **more)


class Network:
    """Network front with its leases below a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.leases = directory / "front"
        self.ipam: dict[str, Any] = {"type": "host-local", "dataDir": str(directory), "ranges": [FOUR, SIX]}

    def run(
        self, verb: Verb, version: str = "1.1.0", valid: list[dict[str, str]] | None = None, **more: Any
    ) -> dict[str, Any]:
        conf = configuration(version, self.ipam, **{VALID_ATTACHMENTS: valid}, **more)
        stdout = hostlocal.run(invocation(verb), conf).stdout
        answer: dict[str, Any] = json.loads(stdout or "{}")
        return answer


@pytest.fixture
def front(tmp_path: Path) -> Network:
    return Network(tmp_path)


def test_sets_come_in_host_locals_order() -> None:
    """First the runtime's ranges, then the single range of the older form, then the list; a file only alone."""
    assert ranges(
        {"ranges": [SIX], "subnet": "10.11.0.0/24", "rangeStart": "10.11.0.9", "rangeFromFile": "/nowhere"},
        runtimeConfig={"ipRanges": [[{"subnet": "10.12.0.0/24"}, {"subnet": "10.13.0.0/24"}]]},
    ) == [
        "10.12.0.1-10.12.0.254, 10.13.0.1-10.13.0.254",
        "10.11.0.9-10.11.0.254",
        "fd00:11::1-fd00:11::ffff:ffff:ffff:ffff",
    ]


def test_a_range_can_come_from_a_file(tmp_path: Path) -> None:
    """``rangeFromFile`` names a file with one range, for those who write their configuration once."""
    path = tmp_path / "range"
    path.write_text('{"subnet": "10.11.0.0/24", "rangeEnd": "10.11.0.9"}')
    assert ranges({"rangeFromFile": str(path)}) == ["10.11.0.1-10.11.0.9"]
    path.write_text('{"subnet": "10.11.0.0"}')
    with pytest.raises(ConfigError, match=r"ipam.rangeFromFile: .*subnet: \"10.11.0.0\" is not a network"):
        parse(configuration(ipam={"rangeFromFile": str(path)}))


def test_keys_of_any_letter_case_and_unknown_ones() -> None:
    """Letter case does not count, and what host-local does not know is somebody else's."""
    assert ranges({"Subnet": "10.11.0.0/24", "RANGEEND": "10.11.0.9", "x-vendor": 1}) == ["10.11.0.1-10.11.0.9"]


@pytest.mark.parametrize(
    ("ipam", "field"),
    [
        ({"ranges": []}, "ipam.ranges"),
        ({}, "ipam.ranges"),
        ({"ranges": [[]]}, "ipam.ranges[0]"),
        ({"ranges": [{"subnet": "10.11.0.0/24"}]}, "ipam.ranges[0]"),
        ({"ranges": [[{}]]}, "ipam.ranges[0][0].subnet"),
        ({"ranges": [[{"subnet": "10.11.0.1/24"}]]}, "ipam.ranges[0][0].subnet"),
        ({"ranges": [[{"subnet": "10.11.0.0/31"}]]}, "ipam.ranges[0][0].subnet"),
        ({"subnet": "10.11.0.0/24", "rangeStart": "10.11.0"}, "ipam.rangeStart"),
        ({"subnet": "10.11.0.0/24", "gateway": "10.11.0.1/24"}, "ipam.gateway"),
        ({"ranges": [FOUR, [*FOUR, *SIX]]}, "ipam.ranges[1][1]"),
        ({"ranges": [[*FOUR, *FOUR]]}, "ipam.ranges[0][1]"),
        ({"ranges": [FOUR], "subnet": "10.0.0.0/8"}, "ipam.ranges"),
        ({"ranges": [FOUR], "dataDir": "here"}, "ipam.dataDir"),
        ({"ranges": [FOUR], "resolvConf": "resolv.conf"}, "ipam.resolvConf"),
        ({"ranges": [FOUR], "routes": [{"dst": "0.0.0.0/0", "scope": 300}]}, "ipam.routes[0].scope"),
        ({"rangeFromFile": "/dev/zero"}, "ipam.rangeFromFile"),
        ({"ranges": [FOUR], "routes": [{"gw": "10.11.0.1"}]}, "ipam.routes[0].dst"),
        ({"ranges": [FOUR], "routes": [{"dst": "0.0.0.0/0", "mtu": -1}]}, "ipam.routes[0].mtu"),
    ],
)
def test_a_mistake_is_named_by_its_field(ipam: dict[str, Any], field: str) -> None:
    """Whatever cannot be served is refused before anything is leased, with the path of its key."""
    with pytest.raises(ConfigError) as refused:
        HostLocal(invocation(), configuration(ipam=ipam))
    assert refused.value.field == field


WORDS = st.sampled_from(
    ["10.11.0.0/24", "10.11.0.7", "fd00::/64", "fd00::7", "::ffff:10.0.0.1/100", "fe80::1%eth0", "/", ""]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["subnet", "rangeStart", "rangeEnd", "gateway", "dst", "gw", "mtu"]), inner)
    ),
    max_leaves=12,
)
KEYS = ("subnet", "rangeStart", "gateway", "ranges", "routes", "dataDir", "resolvConf", "rangeFromFile")


@given(ipam=st.dictionaries(st.sampled_from(KEYS), ANYTHING), runtime=ANYTHING, args=ANYTHING, env=st.text() | WORDS)
def test_whatever_is_written_is_answered_in_cnis_words(ipam: Any, runtime: Any, args: Any, env: str) -> None:
    """A configuration is served or refused with a field; no JSON, however odd, ends in anything else."""
    runtime = {"ips": runtime, "ipRanges": runtime}
    with suppress(CniError):
        parse(configuration(ipam=ipam, runtimeConfig=runtime, args={"cni": {"ips": args}}), f"IP={env}")


def test_routes_are_read_whole() -> None:
    """A route keeps all that CNI 1.1 knows, and its destination is cut down to its network."""
    written = {"dst": "10.99.0.1/16", "gw": "10.11.0.9", "mtu": 1400, "advmss": 1360, "priority": 5, "table": 7}
    (route,) = parse(configuration(ipam={"ranges": [FOUR], "routes": [{**written, "scope": 0}]})).routes
    assert route == Route(ip_network("10.99.0.0/16"), ip_address("10.11.0.9"), 1400, 1360, 5, 7, 0)


def test_requested_addresses_come_by_three_ways() -> None:
    """CNI_ARGS, args and capability are merged, with or without prefix length; the same address counts once."""
    conf = configuration(
        ipam={"ranges": [FOUR, SIX]},
        args={"cni": {"ips": ["10.11.0.7/24", "fd00:11::7"]}},
        runtimeConfig={"IPs": ["::ffff:10.11.0.7"]},
    )
    requested = parse(conf, "IgnoreUnknown=1;IP=10.11.0.7;K8S_POD_NAME=web").requested
    assert {index: str(one) for index, one in requested.items()} == {0: "10.11.0.7", 1: "fd00:11::7"}


@pytest.mark.parametrize(
    ("args", "ips", "field"),
    [
        ("IP=10.11.0.300", [], "CNI_ARGS IP"),
        ("", ["web"], "runtimeConfig.ips"),
        ("", [""], "runtimeConfig.ips"),
        ("", ["192.0.2.1"], "runtimeConfig.ips"),
        ("IP=10.11.0.8", ["10.11.0.9/24"], "CNI_ARGS IP, runtimeConfig.ips"),
        ("IP=10.11.0.1", [], "CNI_ARGS IP"),
    ],
)
def test_a_request_that_cannot_be_served_says_where_it_came_from(args: str, ips: list[str], field: str) -> None:
    """What is no address, lies in no range, is the gateway, or is the second of a range set is refused."""
    with pytest.raises(ConfigError) as refused:
        parse(configuration(runtimeConfig={"ips": ips}), args)
    assert refused.value.field == field


def test_old_versions_have_one_address_of_each_family() -> None:
    """CNI 0.2.0 has no words for a second address of a family, so two sets of one need 0.3.0."""
    ipam = {"ranges": [FOUR, SIX, [{"subnet": "10.12.0.0/24"}]]}
    assert len(parse(configuration("0.3.0", ipam)).sets) == 3
    assert len(parse(configuration("0.2.0", {"ranges": [FOUR, SIX]})).sets) == 2
    with pytest.raises(ConfigError, match=r"need cniVersion 0\.3\.0"):
        parse(configuration("0.2.0", ipam))


def test_resolv_conf_becomes_dns() -> None:
    """The words of resolv.conf(5) become the result's; comments and half lines are passed over."""
    text = "# a\n; b\nnameserver 192.0.2.53\nnameserver  fd00::53 x\nsearch a.test b.test\n domain test\nnameserver\n"
    assert parse_resolv_conf(text + "options ndots:2 edns0\noptions trust-ad\nsortlist 10.0.0.0") == {
        "nameservers": ["192.0.2.53", "fd00::53"],
        "search": ["a.test", "b.test"],
        "options": ["ndots:2", "edns0", "trust-ad"],
        "domain": "test",
    }
    assert parse_resolv_conf("") == {}


@pytest.mark.parametrize("ipam", [None, {}, {"type": ""}])
def test_no_ipam_is_layer_2_only(ipam: object) -> None:
    """A configuration without a type of IPAM has none, and that is no error."""
    assert ipam_of(invocation(), {**configuration(), "ipam": ipam}, {}) is None  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("ipam", "field"), [("host-local", "ipam"), ({"subnet": "x"}, "ipam.type"), ({"type": 1}, "ipam.type")]
)
def test_an_ipam_of_no_type_is_a_mistake(ipam: object, field: str) -> None:
    """An IPAM with keys and no type was meant to be one; on DEL it is let pass, for no ADD can have used it."""
    with pytest.raises(ConfigError) as refused:
        ipam_of(invocation(), configuration(ipam=ipam), {})
    assert refused.value.field == field
    assert ipam_of(invocation(Verb.DEL), configuration(ipam=ipam), {}) is None


def test_host_local_needs_no_executable(front: Network) -> None:
    """host-local is served here, whatever CNI_PATH holds, and a second ADD says that it made nothing new."""
    ipam = ipam_of(invocation(path=()), configuration(ipam=front.ipam, dns={}), {})
    assert ipam is not None
    result = ipam.add()
    assert [str(lease.address) for lease in result.addresses] == ["10.11.0.2/24", "fd00:11::2/64"]
    assert [str(lease.gateway) for lease in result.addresses] == ["10.11.0.1", "fd00:11::1"]
    assert (result.fresh, ipam.add().fresh) == (True, False)
    ipam.check()
    ipam.delete()
    with pytest.raises(DifferenceError):
        ipam.check()


@pytest.mark.parametrize("broken", [{"ranges": 5}, {"ranges": [FOUR, FOUR]}, {"routes": [7]}, {"resolvConf": 1}])
def test_del_and_gc_need_no_valid_ranges(front: Network, broken: dict[str, Any]) -> None:
    """A configuration that was broken after the ADD keeps no address from release, by DEL or by GC."""
    for verb in (Verb.DEL, Verb.GC):
        front.run(Verb.ADD)
        good, front.ipam = front.ipam, {**front.ipam, **broken}
        front.run(verb, valid=[])
        assert not list(front.leases.glob("*:*")) + list(front.leases.glob("10.*")), verb
        front.ipam = good


def test_the_drop_in_answers_in_the_configurations_version(front: Network, tmp_path: Path) -> None:
    """ADD prints addresses, routes and DNS as its version has them, ``ip4`` and ``ip6`` before 0.3.0."""
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    front.ipam |= {"routes": [{"dst": "0.0.0.0/0", "mtu": 1400}], "resolvConf": str(tmp_path / "resolv.conf")}
    dns = {"nameservers": ["192.0.2.53"]}
    four = {"address": "10.11.0.2/24", "gateway": "10.11.0.1"}
    six = {"address": "fd00:11::2/64", "gateway": "fd00:11::1"}
    assert front.run(Verb.ADD) == {
        "cniVersion": "1.1.0",
        "ips": [four, six],
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}],
        "dns": dns,
    }
    assert front.run(Verb.ADD, "0.4.0") == {
        "cniVersion": "0.4.0",
        "ips": [{"version": "4", **four}, {"version": "6", **six}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": dns,
    }
    assert front.run(Verb.ADD, "0.2.0") == {
        "cniVersion": "0.2.0",
        "ip4": {"ip": "10.11.0.2/24", "gateway": "10.11.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00:11::2/64", "gateway": "fd00:11::1"},
        "dns": dns,
    }


def test_a_missing_resolv_conf_leases_nothing(front: Network) -> None:
    """A file that cannot be read is refused before an address is leased."""
    front.ipam["resolvConf"] = "/nowhere/resolv.conf"
    with pytest.raises(ConfigError, match=r"could not read /nowhere/resolv\.conf: No such file"):
        front.run(Verb.ADD)
    assert not front.leases.exists()


def test_check_compares_with_prev_result(front: Network) -> None:
    """CHECK misses a lease of this interface's addresses; those of others, and of no range, do not concern it."""
    result = front.run(Verb.ADD)
    result["interfaces"] = [{"name": "br-front"}, {"name": "eth0", "sandbox": "/n"}, {"name": "eth1", "sandbox": "/n"}]
    result["ips"] = [{**one, "interface": 1} for one in result["ips"]]
    result["ips"] += [{"address": "10.11.0.99/24", "interface": 2}, {"address": "192.0.2.9/24", "interface": 1}]
    front.run(Verb.CHECK, prevResult=result)
    (front.leases / "fd00:11::2").unlink()
    with pytest.raises(DifferenceError) as found:
        front.run(Verb.CHECK, prevResult=result)
    (difference,) = found.value.differences
    assert difference.startswith("fd00:11::2 is not leased")


def test_gc_without_the_key_does_nothing(front: Network) -> None:
    """A GC that does not say what is valid releases nothing and says so; one that does, releases the rest."""
    front.run(Verb.ADD)
    outcome = hostlocal.run(invocation(Verb.GC), configuration(ipam=front.ipam))
    assert outcome.notes == ("GC did nothing: cni.dev/valid-attachments is missing",)
    front.run(Verb.GC, valid=[{"containerID": "web", "ifname": "eth0"}])
    assert (front.leases / "10.11.0.2").exists()
    front.run(Verb.GC, valid=[])
    assert not (front.leases / "10.11.0.2").exists()


def test_an_exhausted_range_has_codes_of_its_own(front: Network) -> None:
    """A full range is code 105 to ADD and 50 to STATUS."""
    front.ipam["ranges"] = [[{"subnet": "10.11.0.0/30"}]]
    front.run(Verb.STATUS)
    front.run(Verb.ADD)
    with pytest.raises(NotReadyError) as status:
        front.run(Verb.STATUS)
    with pytest.raises(NoAddressError) as add:
        hostlocal.run(Invocation(Verb.ADD, "db", "eth0", "/n"), configuration(ipam=front.ipam))
    assert [cni_error(error.value).code for error in (status, add)] == [50, 105]


@pytest.mark.parametrize("kind", ["../evil", "a/b", "..", ".", "a\0b", "/bin/sh"])
@pytest.mark.parametrize("verb", [Verb.ADD, Verb.DEL])
def test_a_type_that_is_a_path_is_refused(kind: str, verb: Verb) -> None:
    """The type of an IPAM is a name: nothing outside CNI_PATH is ever executed (CVE-2021-20206)."""
    with pytest.raises(CniError) as refused:
        ipam_of(invocation(verb, path=("/usr/lib/cni",)), configuration(ipam={"type": kind}), {})
    assert refused.value.code == Code.INVALID_CONFIG


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "long"])
def test_a_resolv_conf_that_is_none(front: Network, tmp_path: Path, kind: str) -> None:
    """What would keep its reader waiting, or never ends, is refused at once, and nothing is leased."""
    path = tmp_path / "resolv.conf"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "directory":
            path.mkdir()
        case "long":
            path.write_bytes(b"#" * (1 << 17))
    front.ipam["resolvConf"] = str(path)
    with pytest.raises(ConfigError, match=r"ipam\.resolvConf: could not read"):
        front.run(Verb.ADD)
    assert not front.leases.exists()
