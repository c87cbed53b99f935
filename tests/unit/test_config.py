"""The network configuration: what each key accepts, and how what it does not accept is named."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from control.conditions import Condition
from control.model import ChecksumPolicy, ForeignChain, IngressPolicy, InvalidValueError, Options, PortMapping
from dataplane.types import Protocol
from plugin import config
from plugin.errors import CniError, Code, ConfigError
from plugin.jsontext import MAX_BYTES, MAX_DEPTH, parse_object
from support.cni import configuration

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP


def parse(**changed: Any) -> config.NetConf:
    return config.parse(parse_object(json.dumps(configuration(**changed)).encode()))


def refused(**changed: Any) -> str:
    with pytest.raises(ConfigError) as error:
        parse(**changed)
    assert error.value.code == Code.INVALID_CONFIG
    return error.value.details


def mapping(**entry: Any) -> dict[str, Any]:
    return {"portMappings": [{"hostPort": 8080, "containerPort": 80} | entry]}


def test_defaults() -> None:
    """A configuration that says nothing gets the documented defaults."""
    conf = parse(runtimeConfig=None)
    assert conf.options == Options()
    assert conf.options.snat
    assert conf.options.ingress_policy is IngressPolicy.SAME_BRIDGE
    assert conf.options.checksum is ChecksumPolicy.REPAIR
    assert conf.mappings == ()
    assert conf.notes == ()


def test_every_key_is_read() -> None:
    """What is written arrives, typed."""
    conf = parse(
        snat=False,
        masqAll=True,
        ipMasq=True,
        ingressPolicy="isolated",
        checksum="observe",
        conditionsV4=["!", "-d", "192.0.2.0/24"],
        conditionsV6=["ip6", "saddr", "fd00::/8"],
        forwardChains=[
            "inet filter forward",
            {"family": "ip", "table": "nat", "chain": "DOCKER-USER"},
            {"family": "ip6", "table": "filter", "chain": "FORWARD", "optional": True},
        ],
        adminChain="CNI-ADMIN",
        firewalldZone="trusted",
    )
    assert conf.options == Options(
        snat=False,
        masq_all=True,
        ip_masq=True,
        ingress_policy=IngressPolicy.ISOLATED,
        checksum=ChecksumPolicy.OBSERVE,
        conditions4=(Condition("ip daddr", "!=", ("192.0.2.0/24",)),),
        conditions6=(Condition("ip6 saddr", "", ("fd00::/8",)),),
        forward_chains=(
            ForeignChain("inet", "filter", "forward"),
            ForeignChain("ip", "nat", "DOCKER-USER"),
            ForeignChain("ip6", "filter", "FORWARD", optional=True),
        ),
        admin_chain="CNI-ADMIN",
        firewalld_zone="trusted",
    )


VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_supported_versions(version: str) -> None:
    """Every version of CNI that there is is read, and compares in order."""
    header = config.parse_header(configuration(version))
    assert header.cni_version == version
    assert [header.at_least(other) for other in VERSIONS] == [other <= version for other in VERSIONS]


@pytest.mark.parametrize("version", [None, ""])
def test_no_version(version: str | None) -> None:
    """A missing version is 0.1.0, whose specification had no such key."""
    assert config.parse_header(configuration() | {"cniVersion": version}).cni_version == "0.1.0"


@pytest.mark.parametrize("version", ["1.2.0", "1.0", "x" * 5000, "0.4.0\n"])
def test_unsupported_versions(version: str) -> None:
    """SPEC 1.1, Error: "1 - Incompatible CNI version"."""
    with pytest.raises(CniError) as error:
        parse(cniVersion=version)
    assert error.value.code == Code.INCOMPATIBLE_VERSION
    assert "cniVersion" in error.value.details
    assert len(error.value.details) < 200


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"name": None}, "name: is missing"),
        ({"name": ""}, "name: is missing"),
        ({"name": 7}, "name: 7 is an integer, not a string"),
        ({"name": "../x"}, "name: '../x'"),
        ({"name": "x" * 256}, f"name: '{'x' * 64}'... is 256 characters long, and 255 is the limit"),
        ({"type": 7}, "type: 7 is an integer, not a string"),
        ({"snat": "yes"}, 'snat: "yes" is a string, not true or false'),
        ({"snat": 1}, "snat: 1 is an integer, not true or false"),
        ({"masqAll": []}, "masqAll: [] is a list, not true or false"),
        ({"ipMasq": 0.5}, "ipMasq: 0.5 is a number, not true or false"),
        ({"ingressPolicy": "closed"}, "ingressPolicy: 'closed' is not one of open, same-bridge, isolated"),
        ({"ingressPolicy": False}, "ingressPolicy: false is true or false, not a string"),
        ({"checksum": "Repair"}, "checksum: 'Repair' is not one of off, observe, repair"),
        ({"ingresspolicy": "isolated"}, "ingresspolicy: did you mean 'ingressPolicy'?"),
        ({"capabilities": []}, "capabilities: [] is a list, not an object"),
        ({"capabilities": {"portMappings": "yes"}}, "capabilities.portMappings:"),
        ({"args": "x"}, 'args: "x" is a string, not an object'),
        ({"conditionsV4": "-s 10.0.0.0/8"}, "conditionsV4:"),
        ({"conditionsV4": ["-s", 7]}, "conditionsV4[1]: 7 is an integer, not a string"),
        ({"conditionsV4": ["-s", "10.0.0.0/33"]}, "conditionsV4[1]: '10.0.0.0/33'"),
        ({"conditionsV6": ["ip", "saddr", "::1"]}, "conditionsV6[0]: 'ip' can never match"),
        ({"forwardChains": "inet filter forward"}, "forwardChains:"),
        ({"forwardChains": ["filter forward"]}, "forwardChains[0]:"),
        ({"forwardChains": ["ip a b", 7]}, "forwardChains[1]: 7 is an integer"),
        ({"forwardChains": ["arp filter forward"]}, "forwardChains[0]: family 'arp'"),
        ({"forwardChains": ["ip filter fw;drop"]}, "forwardChains[0]: 'fw;drop' cannot be the name of a chain"),
        ({"forwardChains": [{"family": "ip", "table": "t"}]}, "forwardChains[0]: ''"),
        ({"forwardChains": ["ip filter jump"]}, "forwardChains[0]: 'jump' cannot be the name of a chain"),
        ({"forwardChains": [{"family": "ip", "table": "t", "chain": "c", "optional": 1}]}, "forwardChains[0].optional"),
        ({"adminChain": "accept"}, "adminChain: 'accept' cannot be the name of a chain"),
        ({"adminChain": "a; drop"}, "adminChain: 'a; drop' cannot be the name of a chain"),
        ({"adminchain": "CNI-ADMIN"}, "adminchain: did you mean 'adminChain'?"),
        ({"firewalldZone": "a zone"}, "firewalldZone: 'a zone'"),
        ({"runtimeConfig": []}, "runtimeConfig: [] is a list"),
        ({"runtimeConfig": {"portMappings": {}}}, "runtimeConfig.portMappings: {} is an object, not a list"),
        ({"runtimeConfig": {"portMappings": [7]}}, "runtimeConfig.portMappings[0]: 7 is an integer, not an object"),
        ({"prevResult": []}, "prevResult: [] is a list, not an object"),
    ],
)
def test_errors_name_the_field(changed: dict[str, Any], field: str) -> None:
    """SPEC 1.1, Error: "7 - Invalid network config"; the details begin with the field."""
    assert refused(**changed).startswith(field)


def test_a_field_that_is_not_supported() -> None:
    """SPEC 1.1, Error: "2 - Unsupported field in network configuration", with key and value."""
    with pytest.raises(CniError) as error:
        config.parse(configuration(externalSetMarkChain="KUBE-MARK-MASQ"))
    assert error.value.code == Code.UNSUPPORTED_FIELD
    assert error.value.details.startswith("externalSetMarkChain: 'KUBE-MARK-MASQ' is a chain of iptables")


@pytest.mark.parametrize(
    "wrong", [{"admin_chain": "drop"}, {"admin_chain": "a b"}, {"firewalld_zone": "a b"}, {"firewalld_zone": "x" * 18}]
)
def test_options_hold_no_name_that_nft_or_firewalld_would_misread(wrong: dict[str, str]) -> None:
    """Wherever options come from, the state included, these names were checked."""
    with pytest.raises(InvalidValueError, match=r"cannot be|is not"):
        Options(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"hostPort": 0}, "hostPort: 0 is not a port"),
        ({"hostPort": 65536}, "hostPort: 65536 is not a port"),
        ({"hostPort": -1}, "hostPort: -1 is not a port"),
        ({"hostPort": 10**4000}, "hostPort: it is not a port"),
        ({"hostPort": "80"}, 'hostPort: "80" is a string, not an integer'),
        ({"hostPort": 80.0}, "hostPort: 80.0 is a number, not an integer"),
        ({"hostPort": True}, "hostPort: true is true or false, not an integer"),
        ({"hostPort": None}, "hostPort: is missing"),
        ({"containerPort": 0}, "containerPort: 0 is not a port"),
        ({"containerPort": None}, "containerPort: is missing"),
        ({"protocol": "icmp"}, "protocol: 'icmp' is not tcp, udp or sctp"),
        ({"protocol": 6}, "protocol: 6 is an integer, not a string"),
        ({"hostIP": "localhost"}, "hostIP: 'localhost' is not an IP address"),
        ({"hostIP": "10.0.0.1/24"}, "hostIP: '10.0.0.1/24' is not an IP address"),
        ({"hostIP": "010.0.0.1"}, "hostIP: '010.0.0.1' is not an IP address"),
        ({"hostIP": "fe80::1%eth0"}, "hostIP: 'fe80::1%eth0' names a zone"),
        ({"hostIP": 7}, "hostIP: 7 is an integer, not a string"),
        ({"hostIP": "224.0.0.1"}, "hostIP: '224.0.0.1' is a multicast address"),
        ({"hostIP": "ff02::1"}, "hostIP: 'ff02::1' is a multicast address"),
        ({"hostIP": "255.255.255.255"}, "hostIP: '255.255.255.255' is the broadcast address"),
        ({"hostIP": "::ffff:239.1.1.1"}, "hostIP: '::ffff:239.1.1.1' is a multicast address"),
        ({"hostPort": 80, "HostPort": 80}, "HostPort: is given twice"),
    ],
)
def test_bad_mappings(entry: dict[str, Any], error: str) -> None:
    """A port mapping that cannot be programmed is refused by its path."""
    assert refused(runtimeConfig=mapping(**entry)).startswith(f"runtimeConfig.portMappings[0].{error}")


def test_the_index_of_a_bad_mapping() -> None:
    """Of several mappings the error names the one that is bad."""
    good = {"hostPort": 1, "containerPort": 1}
    details = refused(runtimeConfig={"portMappings": [good, {**good, "hostPort": 99999}]})
    assert details.startswith("runtimeConfig.portMappings[1].hostPort:")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, PortMapping(8080, 80, TCP)),
        ({"protocol": None, "hostIP": None}, PortMapping(8080, 80, TCP)),
        ({"protocol": "", "hostIP": ""}, PortMapping(8080, 80, TCP)),
        ({"protocol": "UDP"}, PortMapping(8080, 80, UDP)),
        ({"protocol": "Sctp"}, PortMapping(8080, 80, SCTP)),
        ({"hostIP": "0.0.0.0"}, PortMapping(8080, 80, TCP, IPv4Address("0.0.0.0"))),
        ({"hostIP": "2001:DB8::1"}, PortMapping(8080, 80, TCP, IPv6Address("2001:db8::1"))),
        ({"hostIP": "::ffff:192.0.2.1"}, PortMapping(8080, 80, TCP, IPv4Address("192.0.2.1"))),
        ({"hostPort": 65535, "containerPort": 1}, PortMapping(65535, 1, TCP)),
    ],
)
def test_good_mappings(entry: dict[str, Any], expected: PortMapping) -> None:
    """Protocols come in any letter case, and what is missing has its default."""
    assert parse(runtimeConfig=mapping(**entry)).mappings == (expected,)


def test_keys_of_runtime_config_in_any_letter_case() -> None:
    """containerd and nerdctl write HostPort, as Go does for a struct without tags."""
    entry = {"HostPort": 53, "CONTAINERPORT": 5353, "Protocol": "UDP", "HostIP": "192.0.2.1"}
    conf = parse(runtimeConfig={"PortMappings": [entry]})
    assert conf.mappings == (PortMapping(53, 5353, UDP, IPv4Address("192.0.2.1")),)


ANY, ANY4, ANY6, ONE = None, "0.0.0.0", "::", "192.0.2.1"


@pytest.mark.parametrize(
    ("hosts", "kept"),
    [
        ([ANY, ANY], [ANY]),
        ([ANY, ANY4], [ANY]),
        ([ANY4, ANY], [ANY]),
        ([ANY4, ANY6], [ANY4, ANY6]),
        ([ANY4, ANY6, ANY], [ANY4, ANY6]),
        ([ONE, ANY], [ONE, ANY]),
    ],
)
def test_a_port_asked_for_twice(hosts: list[str | None], kept: list[str | None]) -> None:
    """The same port for the same container port counts once, the wider wish includes the narrower."""
    entries = [{"hostPort": 80, "containerPort": 80, "hostIP": host} for host in hosts]
    found = [one.host_address for one in parse(runtimeConfig={"portMappings": entries}).mappings]
    assert [address and str(address) for address in found] == kept


@pytest.mark.parametrize("hosts", [(ANY, ANY), (ANY, ANY4), (ANY6, ANY), (ONE, ONE)])
def test_a_port_that_is_to_lead_to_two_places(hosts: tuple[str | None, str | None]) -> None:
    """One host port cannot lead to two container ports; both entries are named."""
    entries = [{"hostPort": 80, "containerPort": 80 + index, "hostIP": host} for index, host in enumerate(hosts)]
    details = refused(runtimeConfig={"portMappings": entries})
    assert details.startswith("runtimeConfig.portMappings[1].hostPort: 80/tcp")
    assert "runtimeConfig.portMappings[0] leads it to 80" in details


def test_the_same_port_of_two_addresses_or_protocols() -> None:
    """Another protocol or another host address is another port."""
    entries = [
        {"hostPort": 53, "containerPort": 1, "protocol": "udp"},
        {"hostPort": 53, "containerPort": 2, "protocol": "tcp"},
        {"hostPort": 53, "containerPort": 3, "protocol": "tcp", "hostIP": "192.0.2.1"},
        {"hostPort": 53, "containerPort": 4, "protocol": "tcp", "hostIP": "192.0.2.2"},
    ]
    assert len(parse(runtimeConfig={"portMappings": entries}).mappings) == 4


def test_portmap_keys_are_noted() -> None:
    """A conflist moves over from portmap: its keys without a meaning here are accepted, and said to be ignored."""
    notes = parse(backend="iptables", markMasqBit=13, externalSetMarkChain="").notes
    assert [note.split()[0] for note in notes] == ["backend", "markMasqBit"]


def test_null_is_missing() -> None:
    """Null leaves a key at its default, as Go's decoder does."""
    conf = configuration() | dict.fromkeys(("snat", "checksum", "runtimeConfig", "forwardChains", "prevResult"), None)
    assert config.parse(conf) == config.parse(configuration(runtimeConfig=None, prevResult=None))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "Expecting property name"),
        (b'{"name": "x"', "Expecting"),
        (b"[]", "a list, not an object"),
        (b"null", "null, not an object"),
        (b'"x"', "a string"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "1e999"),
        (b'{"a": ' + b"9" * 5000 + b"}", "limit"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": "' + b"x" * MAX_BYTES + b'"}', "longer than"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested deeper"),
        (b'"' * (MAX_BYTES - 1), "Extra data"),
        (b'{"a": "' + b"\\" * 99_999, "Unterminated"),
    ],
)
def test_undecodable_input(raw: bytes, reason: str) -> None:
    """SPEC 1.1, Error: "6 - Failed to decode content"."""
    with pytest.raises(CniError) as error:
        parse_object(raw)
    assert error.value.code == Code.DECODE
    assert reason in error.value.details


def test_depth_counts_structure_only() -> None:
    """Brackets in strings, escaped quotes before them included, are no nesting; siblings do not add up."""
    text = json.dumps({"a": '"' + "[{" * 1000, "b": [[]] * 1000})
    assert parse_object(text.encode())["a"] == '"' + "[{" * 1000
    deep = b'{"a":' * (MAX_DEPTH - 1) + b"{}" + b"}" * (MAX_DEPTH - 1)
    assert parse_object(deep)


def test_the_last_of_equal_keys_counts() -> None:
    """Of equal keys the last one counts, as for the runtime that was written in Go."""
    assert parse_object(b'{"a": 1, "a": 2}') == {"a": 2}


def test_valid_attachments() -> None:
    """SPEC 1.1, GC: the attachments that are still valid; without the key nothing is known to be stale."""
    key = config.VALID_ATTACHMENTS
    assert config.parse_valid_attachments({}) is None
    assert config.parse_valid_attachments({key: None}) is None
    assert config.parse_valid_attachments({key: []}) == frozenset()
    listed: list[Any] = [{"containerID": "web", "ifname": "eth0"}, {"containerID": "../db", "ifname": "eth1"}]
    assert config.parse_valid_attachments({key: listed}) == frozenset({("web", "eth0"), ("../db", "eth1")})


@pytest.mark.parametrize("value", [7, {}, [7], [{}], [{"containerID": "web"}], [{"containerID": 7, "ifname": "eth0"}]])
def test_bad_valid_attachments(value: Any) -> None:
    """A list that cannot be read is an error: to skip an entry would be to cut it off."""
    with pytest.raises(ConfigError):
        config.parse_valid_attachments({config.VALID_ATTACHMENTS: value})
