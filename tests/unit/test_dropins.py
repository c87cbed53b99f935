"""The configurations of the types that we answer to: each is read as the plugin of that name reads it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from control.conditions import Condition
from control.model import ChecksumPolicy, ForeignChain, GuardPolicy, IngressPolicy, Options, PortMapping
from dataplane.types import Protocol
from plugin import config, dropins
from plugin.check.keys import TYPES
from plugin.errors import CniError, Code, ConfigError
from plugin.jsontext import parse_object
from support.cni import configuration, previous_result

OPEN, REPAIR = IngressPolicy.OPEN, ChecksumPolicy.REPAIR
UPSTREAM = Options(ingress_policy=OPEN, checksum=ChecksumPolicy.OFF, guard=GuardPolicy.OFF)
CHAINED = ("portmap", "firewall", "isolation", "cni-nftables-portmap", "cni-nftables-firewall")
FOREIGN = ("bridge", *CHAINED)


def read(plugin: str, **changed: Any) -> config.NetConf:
    return dropins.read(plugin, parse_object(json.dumps(configuration(**{"type": plugin, **changed})).encode()))


def refused(plugin: str, **changed: Any) -> str:
    with pytest.raises(ConfigError) as error:
        read(plugin, **changed)
    assert error.value.code == Code.INVALID_CONFIG
    return error.value.details


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        ("dataplane", Options()),
        ("dataplane-bridge", Options()),
        ("bridge", UPSTREAM),
        ("portmap", replace(UPSTREAM, checksum=REPAIR)),
        ("firewall", replace(UPSTREAM, admin_chain="CNI-ADMIN", firewalld_zone="trusted")),
        ("isolation", replace(UPSTREAM, ingress_policy=IngressPolicy.SAME_BRIDGE)),
        ("cni-nftables-portmap", replace(UPSTREAM, checksum=REPAIR, ip_masq=True)),
        (
            "cni-nftables-firewall",
            replace(
                UPSTREAM,
                forward_chains=(
                    ForeignChain("ip", "filter", "forward", optional=True),
                    ForeignChain("ip6", "filter", "forward", optional=True),
                ),
            ),
        ),
    ],
)
def test_defaults(plugin: str, expected: Options) -> None:
    """An entry that says nothing but its type does what the plugin of that name does; sums of ports are repaired."""
    conf = read(plugin)
    assert conf.options == expected
    assert conf.notes == ()
    assert conf.mappings == (PortMapping(8080, 80, Protocol.TCP),)
    assert conf.previous == previous_result()


@pytest.mark.parametrize("plugin", ["dataplane-bridge", "bridge"])
def test_the_main_plugin_has_all_keys_of_the_chained_one(plugin: str) -> None:
    """One entry does what dataplane does behind a bridge."""
    keys: dict[str, Any] = {
        "snat": False,
        "masqAll": True,
        "ipMasq": True,
        "ingressPolicy": "isolated",
        "checksum": "fill",
        "fillPorts": [67, 68],
        "guard": "mac",
        "conditionsV4": ["-s", "192.0.2.0/24"],
        "conditionsV6": ["ip6", "saddr", "fd00::/8"],
        "forwardChains": ["inet filter forward"],
        "adminChain": "ours",
        "firewalldZone": "dmz",
    }
    assert read(plugin, **keys).options == read("dataplane", **keys).options != Options()


@pytest.mark.parametrize(
    ("plugin", "keys", "expected"),
    [
        ("bridge", {}, "off"),
        ("bridge", {"macspoofchk": True}, "mac"),
        ("bridge", {"macspoofchk": True, "guard": "full"}, "full"),
        ("bridge", {"guard": "full"}, "full"),
        ("dataplane-bridge", {}, "full"),
        ("dataplane-bridge", {"macspoofchk": True}, "full"),
        ("dataplane-bridge", {"macspoofchk": True, "guard": "off"}, "mac"),
        ("dataplane-bridge", {"macspoofchk": False, "guard": "off"}, "off"),
        ("dataplane-bridge", {"macspoofchk": False, "guard": "mac"}, "mac"),
        ("dataplane", {"macspoofchk": True, "guard": "off"}, "off"),
        ("firewall", {"macspoofchk": True, "guard": "full"}, "off"),
    ],
)
def test_the_stricter_of_guard_and_macspoofchk(plugin: str, keys: dict[str, Any], expected: str) -> None:
    """Our own types guard unless they are told not to, bridge where it is told to; other types have neither key."""
    assert read(plugin, **keys).options.guard == expected


def test_every_key_of_portmap() -> None:
    """What portmap is told arrives; what can have no effect is noted."""
    conf = read(
        "portmap",
        backend="nftables",
        snat=False,
        masqAll=True,
        markMasqBit=31,
        conditionsV4=["!", "-d", "192.0.2.0/24"],
        conditionsV6=["ip6", "saddr", "fd00::/8"],
        checksum="observe",
    )
    assert conf.options == replace(
        UPSTREAM,
        snat=False,
        masq_all=True,
        checksum=ChecksumPolicy.OBSERVE,
        conditions4=(Condition("ip daddr", "!=", ("192.0.2.0/24",)),),
        conditions6=(Condition("ip6 saddr", "", ("fd00::/8",)),),
    )
    assert [note.split()[0] for note in conf.notes] == ["backend", "markMasqBit"]


@pytest.mark.parametrize("chain", ["KUBE-MARK-MASQ", "MY-MARK"])
@pytest.mark.parametrize("plugin", ["portmap", "cni-nftables-portmap"])
def test_a_mark_chain_is_not_needed(plugin: str, chain: str) -> None:
    """externalSetMarkChain only marks what is masqueraded: it is accepted, and noted."""
    conf = read(plugin, externalSetMarkChain=chain)
    assert conf.options == read(plugin).options
    assert [note.split()[0] for note in conf.notes] == ["externalSetMarkChain"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"backend": "iptables"}, ("CNI-ADMIN", "")),
        ({"backend": "nftables"}, ("CNI-ADMIN", "")),
        ({"backend": "firewalld"}, ("", "trusted")),
        ({"backend": ""}, ("CNI-ADMIN", "trusted")),
        ({"iptablesAdminChainName": "MINE", "firewalldZone": "dmz"}, ("MINE", "dmz")),
        ({"iptablesAdminChainName": "", "firewalldZone": ""}, ("CNI-ADMIN", "trusted")),
    ],
)
def test_the_backend_of_firewall_says_what_is_meant(changed: dict[str, str], expected: tuple[str, str]) -> None:
    """Admin chains belong to backend iptables, zones to firewalld; without a backend it depends on what runs."""
    options = read("firewall", **changed).options
    assert (options.admin_chain, options.firewalld_zone) == expected


def test_keys_that_the_backend_has_no_use_for_are_noted() -> None:
    """An admin chain under firewalld and a zone under iptables are ignored upstream, too; here that is said."""
    firewalld = read("firewall", backend="firewalld", iptablesAdminChainName="MINE").notes
    iptables = read("firewall", backend="iptables", firewalldZone="dmz").notes
    assert [note.split()[0] for note in firewalld] == ["backend", "iptablesAdminChainName"]
    assert [note.split()[0] for note in iptables] == ["backend", "firewalldZone"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("", OPEN), (None, OPEN), *((str(one), one) for one in IngressPolicy)],
)
def test_the_policy_of_firewall(policy: str | None, expected: IngressPolicy) -> None:
    """An empty ingressPolicy is open, as upstream."""
    assert read("firewall", ingressPolicy=policy).options.ingress_policy is expected


@pytest.mark.parametrize(
    ("plugin", "policy"), [("isolation", None), ("firewall", "same-bridge"), ("firewall", "isolated")]
)
@pytest.mark.parametrize(
    ("interfaces", "error"),
    [
        ([], "prevResult.interfaces: is empty"),
        ([{}], "prevResult.interfaces[0].name: is missing"),
        ([{"name": "eth0", "sandbox": "/run/netns/web"}], "prevResult.interfaces[0]: is in the container"),
    ],
)
def test_isolation_needs_a_bridge(
    plugin: str, policy: str | None, interfaces: list[dict[str, str]], error: str
) -> None:
    """What isolates a bridge is refused where prevResult does not begin with one, and open networks are not."""
    previous = previous_result(interfaces=interfaces)
    assert refused(plugin, prevResult=previous, ingressPolicy=policy).startswith(error)
    assert read("firewall", prevResult=previous).options.ingress_policy is OPEN


def test_isolation_without_a_result_is_for_others_to_refuse() -> None:
    """ADD refuses a missing prevResult for every chained type in the same words."""
    assert read("isolation", prevResult=None).previous is None


def test_the_chain_that_greenpaus_firewall_is_told() -> None:
    """Our accept goes where its chain would be, in both families, if there is such a chain."""
    options = read("cni-nftables-firewall", filter_table_name="fw", forward_chain_name="FWD").options
    assert [str(one) for one in options.forward_chains] == ["ip fw FWD", "ip6 fw FWD"]
    assert all(one.optional for one in options.forward_chains)


def test_greenpaus_portmap_masquerades_unless_told_otherwise() -> None:
    """Its conflists leave ipMasq of bridge off, because it masquerades itself."""
    assert read("cni-nftables-portmap").options.ip_masq
    assert not read("cni-nftables-portmap", ipMasq=False).options.ip_masq


def test_names_of_greenpaus_nat_chains_are_noted() -> None:
    """Tables and chains of its own can be named; ours has its own, and says so for each."""
    notes = read("cni-nftables-portmap", **dict.fromkeys(dropins.NAT_NAMES, "x")).notes
    assert [note.split()[0] for note in notes] == list(dropins.NAT_NAMES)


def test_ip_masq_backend_of_bridge_is_noted() -> None:
    """Either backend of bridge's masquerade is accepted."""
    for backend in ("iptables", "nftables"):
        assert [note.split()[0] for note in read("bridge", ipMasqBackend=backend).notes] == ["ipMasqBackend"]


@pytest.mark.parametrize(
    ("plugin", "changed", "error"),
    [
        ("portmap", {"backend": "ebpf"}, "backend: 'ebpf' is not one of iptables, nftables"),
        ("portmap", {"backend": 7}, "backend: 7 is an integer"),
        ("portmap", {"snat": "yes"}, 'snat: "yes" is a string'),
        ("portmap", {"markMasqBit": 32}, "markMasqBit: 32 is not a bit (0 to 31)"),
        ("portmap", {"markMasqBit": -1}, "markMasqBit: -1 is not a bit"),
        ("portmap", {"markMasqBit": 10**4000}, "markMasqBit: it is not a bit"),
        ("portmap", {"markMasqBit": "13"}, 'markMasqBit: "13" is a string'),
        ("portmap", {"markMasqBit": 13, "externalSetMarkChain": "X"}, "markMasqBit: cannot be given together with"),
        ("portmap", {"backend": "nftables", "externalSetMarkChain": "X"}, "externalSetMarkChain: backend nftables"),
        ("portmap", {"conditionsV4": ["-s", "x"]}, "conditionsV4[1]: 'x'"),
        ("portmap", {"checksum": "fix"}, "checksum: 'fix' is not one of off, observe, repair"),
        ("cni-nftables-portmap", {"markMasqBit": 32}, "markMasqBit: 32 is not a bit"),
        ("cni-nftables-portmap", {"nat_table_name": 7}, "nat_table_name: 7 is an integer"),
        ("cni-nftables-firewall", {"forward_chain_name": "a;b"}, "forward_chain_name: 'a;b' cannot be"),
        ("cni-nftables-firewall", {"filter_table_name": "drop"}, "filter_table_name: 'drop' cannot be"),
        ("firewall", {"ingressPolicy": "closed"}, "ingressPolicy: 'closed' is not one of"),
        ("firewall", {"ingressPolicy": 1}, "ingressPolicy: 1 is an integer"),
        ("firewall", {"iptablesAdminChainName": "queue"}, "iptablesAdminChainName: 'queue' cannot be"),
        ("firewall", {"firewalldZone": "x" * 18}, "firewalldZone: 'xxxxxxxxxxxxxxxxxx'"),
        ("bridge", {"ipMasqBackend": "ebpf"}, "ipMasqBackend: 'ebpf' is not one of"),
        ("dataplane-bridge", {"INGRESSPOLICY": "isolated"}, "INGRESSPOLICY: did you mean 'ingressPolicy'?"),
    ],
)  # fmt: skip
def test_errors_name_the_field(plugin: str, changed: dict[str, Any], error: str) -> None:
    """What the plugin of that name refuses is refused, and what cannot be meant here, by the name of the key."""
    assert refused(plugin, **changed).startswith(error)


@pytest.mark.parametrize("plugin", FOREIGN)
def test_unknown_keys_are_ignored(plugin: str) -> None:
    """Go's decoder knows nothing of unknown keys, and what served a plugin of others serves here."""
    assert read(plugin, vendorKey={"a": [1]}, args=7).options == read(plugin).options


@pytest.mark.parametrize(
    ("plugin", "keys"),
    [
        ("bridge", {"ipMasq": True, "checksum": "repair"}),
        ("portmap", {"snat": False, "masqAll": True, "conditionsV4": ["-s", "192.0.2.0/24"], "markMasqBit": 13}),
        ("firewall", {"ingressPolicy": "isolated", "iptablesAdminChainName": "MINE", "firewalldZone": "dmz"}),
        ("cni-nftables-portmap", {"snat": False, "nat_table_name": "x"}),
        ("cni-nftables-firewall", {"filter_table_name": "fw"}),
    ],
)
@pytest.mark.parametrize("spelt", [str.upper, str.lower, str.title])
def test_keys_of_others_in_any_letter_case(plugin: str, keys: dict[str, Any], spelt: Any) -> None:
    """Go's decoder folds letter case, so that a conflist with another spelling worked, and works."""
    folded = read(plugin, **{spelt(name): value for name, value in keys.items()})
    assert (folded.options, folded.notes) == (read(plugin, **keys).options, read(plugin, **keys).notes)
    assert folded.options != read(plugin).options


@pytest.mark.parametrize("plugin", ["dataplane", "dataplane-bridge"])
def test_our_own_keys_have_one_spelling(plugin: str) -> None:
    """A key of ours in another letter case is refused, not ignored: it must not mean less than is written."""
    names = [key.name for key in TYPES[plugin].keys if "." not in key.name and " " not in key.name]
    assert {"snat", "ingressPolicy"} <= set(names)
    for name in names:
        assert refused(plugin, **{name.upper(): True}).startswith(f"{name.upper()}: did you mean {name!r}?")


VALUES: list[Any] = [7, -1, 0.5, True, "", "x", "drop", "a b", "\x00", "a\nb", [], [[]], ["x"], [7], {}, {"x": {}}]


def blamed(plugin: str, name: str, value: Any) -> str:
    """The top-level key that a value is refused at; empty where it is read."""
    try:
        read(plugin, **{name: value})
    except CniError as error:
        return re.split(r"[.\[:]", error.details)[0].lower()
    return ""


@pytest.mark.parametrize("plugin", ["dataplane", "dataplane-bridge", *FOREIGN])
def test_no_value_is_read_without_being_looked_at(plugin: str) -> None:
    """Whatever stands where a key's value should: it is read or refused by its name, and never a crash."""
    names = [
        "backend", "snat", "masqAll", "ipMasq", "ipMasqBackend", "ingressPolicy", "checksum", "markMasqBit",
        "externalSetMarkChain", "conditionsV4", "conditionsV6", "forwardChains", "adminChain", "firewalldZone",
        "iptablesAdminChainName", "filter_table_name", "forward_chain_name", "runtimeConfig", "prevResult",
        "capabilities", *dropins.NAT_NAMES,
    ]  # fmt: skip
    for name in names:
        for value in VALUES:
            assert blamed(plugin, name, value) in {"", name.lower()}
