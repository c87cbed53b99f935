"""The main plugin's configuration: what each key means, whose MAC counts, and how what cannot be served is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control.model import ChecksumPolicy, IngressPolicy
from control.wiring.wire import BridgeOptions, Wire, alias_of, alias_prefix, host_name
from plugin import mainconf
from plugin.environment import Invocation, Verb
from plugin.errors import CniError, Code, ConfigError
from plugin.jsontext import parse_object
from plugin.mainconf import MainConf

MAC = "02:00:5e:00:53:07"
TYPES = ["bridge", "dataplane-bridge"]


def parse(plugin: str = "bridge", *, cni_args: str = "", **conf: Any) -> MainConf:
    written = json.dumps({"cniVersion": "1.1.0", "name": "front", "type": plugin, **conf}).encode()
    return mainconf.parse(
        plugin, parse_object(written), Invocation(Verb.ADD, "web", "eth0", "/run/netns/web", cni_args)
    )


def options(**conf: Any) -> BridgeOptions:
    return parse(**conf).wire.options


def refused(plugin: str = "bridge", **conf: Any) -> str:
    with pytest.raises(ConfigError) as error:
        parse(plugin, **conf)
    assert error.value.code == Code.INVALID_CONFIG
    return error.value.details


@pytest.mark.parametrize("plugin", TYPES)
def test_defaults(plugin: str) -> None:
    """A configuration that says nothing gets upstream's defaults: cni0, no gateway, the kernel's MTU, VLAN 1 kept."""
    parsed = parse(plugin)
    assert parsed.wire == Wire(parsed.wire.key, BridgeOptions())
    assert (parsed.wire.options.bridge, parsed.wire.options.preserve_default_vlan) == ("cni0", True)
    assert (parsed.wire.options.is_gateway, parsed.wire.options.container_up, parsed.wire.mac) == (False, True, "")
    assert parsed.dns == {}
    assert (parsed.wire.key.network, parsed.wire.key.container, parsed.wire.key.ifname) == ("front", "web", "eth0")


def test_a_drop_in_does_no_more_than_upstream() -> None:
    """``bridge`` leaves networks open and sums as they come; our own type has our own defaults."""
    ours, upstream = parse("dataplane-bridge").net.options, parse("bridge").net.options
    assert (upstream.ingress_policy, upstream.checksum) == (IngressPolicy.OPEN, ChecksumPolicy.OFF)
    assert (ours.ingress_policy, ours.checksum) == (IngressPolicy.SAME_BRIDGE, ChecksumPolicy.REPAIR)


@pytest.mark.parametrize("plugin", TYPES)
def test_every_key_is_read(plugin: str) -> None:
    """What is written arrives, typed."""
    parsed = parse(
        plugin,
        bridge="br-front",
        isGateway=True,
        forceAddress=True,
        ipMasq=True,
        ipMasqBackend="iptables",
        mtu=1400,
        hairpinMode=True,
        vlanTrunk=[{"id": 7}, {"minID": 100, "maxID": 110}, {"minID": 4094, "maxID": 4094, "id": 1}],
        preserveDefaultVlan=False,
        macspoofchk=True,
        portIsolation=True,
        enabledad=True,
        disableContainerInterface=True,
        dns={"nameservers": ["192.0.2.53"], "domain": "", "search": [], "options": ["ndots:2"], "unknown": 1},
    )
    assert parsed.wire.options == BridgeOptions(
        bridge="br-front",
        is_gateway=True,
        force_address=True,
        mtu=1400,
        hairpin=True,
        trunk=((7, 7), (100, 110), (4094, 4094), (1, 1)),
        preserve_default_vlan=False,
        port_isolation=True,
        detect_duplicates=True,
        container_up=False,
    )
    assert parsed.net.options.ip_masq
    assert parsed.net.options.guard == ("mac" if plugin == "bridge" else "full")
    assert parsed.dns == {"nameservers": ["192.0.2.53"], "options": ["ndots:2"]}
    assert options(vlan=4094, promiscMode=True) == BridgeOptions(vlan=4094, promiscuous=True)


def test_a_default_gateway_is_a_gateway() -> None:
    """isDefaultGateway says so, whatever isGateway says."""
    found = options(isDefaultGateway=True, isGateway=False)
    assert (found.is_gateway, found.is_default_gateway) == (True, True)


def test_letter_case() -> None:
    """Go's decoder takes keys of ``bridge`` in any; our own type, where a typo must not mean less, does not."""
    assert options(ISGATEWAY=True, Bridge="br-front") == BridgeOptions(bridge="br-front", is_gateway=True)
    assert "isgateway" in refused("dataplane-bridge", isgateway=True)
    assert "twice" in refused(isGateway=True, ISGATEWAY=False)


@pytest.mark.parametrize(
    ("conf", "field"),
    [
        ({"bridge": "a name"}, "bridge"),
        ({"bridge": "sixteen-letters-"}, "bridge"),
        ({"bridge": 7}, "bridge"),
        ({"isGateway": "yes"}, "isGateway"),
        ({"mtu": 67}, "mtu"),
        ({"mtu": 65536}, "mtu"),
        ({"mtu": -1}, "mtu"),
        ({"vlan": 4095}, "vlan"),
        ({"vlan": -1}, "vlan"),
        ({"vlan": 4094, "isGateway": True, "bridge": "br-of-a-name"}, "bridge"),
        ({"vlan": "7"}, "vlan"),
        ({"vlanTrunk": [{"id": 0}]}, "vlanTrunk[0]"),
        ({"vlanTrunk": [{"id": 7}, {"id": 4095}]}, "vlanTrunk[1].id"),
        ({"vlanTrunk": [{"minID": 7}]}, "vlanTrunk[0]"),
        ({"vlanTrunk": [{"maxID": 7}]}, "vlanTrunk[0]"),
        ({"vlanTrunk": [{"minID": 0, "maxID": 7}]}, "vlanTrunk[0]"),
        ({"vlanTrunk": [{"minID": 8, "maxID": 7}]}, "vlanTrunk[0]"),
        ({"vlanTrunk": [7]}, "vlanTrunk[0]"),
        ({"vlanTrunk": {}}, "vlanTrunk"),
        ({"vlan": 7, "vlanTrunk": [{"id": 8}]}, "vlanTrunk"),
        ({"hairpinMode": True, "promiscMode": True}, "promiscMode"),
        ({"ipMasqBackend": "ebtables"}, "ipMasqBackend"),
        ({"disableContainerInterface": True, "ipam": {"type": "host-local"}}, "ipam"),
        ({"dns": {"nameservers": "192.0.2.53"}}, "dns.nameservers"),
        ({"dns": []}, "dns"),
        ({"args": {"cni": {"mac": 7}}}, "args.cni.mac"),
    ],
)
@pytest.mark.parametrize("plugin", TYPES)
def test_what_is_refused(plugin: str, conf: dict[str, Any], field: str) -> None:
    """The error begins with the field that cannot be served."""
    assert refused(plugin, **conf).startswith(f"{field}: ")


def test_no_vlan() -> None:
    """0 is none, also together with a trunk, as upstream reads it."""
    assert options(vlan=0, vlanTrunk=[{"id": 7}]) == BridgeOptions(trunk=((7, 7),))


def test_the_interface_may_stay_down_without_ipam() -> None:
    """An ``ipam`` without a type gives no addresses."""
    assert not options(disableContainerInterface=True, ipam={}).container_up


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ({"cni_args": f"MAC={MAC}"}, MAC),
        ({"cni_args": f"IgnoreUnknown=1;K8S_POD_NAME=web;MAC={MAC}"}, MAC),
        ({"cni_args": "MAC=02:00:5e:00:53:01", "conf": {"args": {"cni": {"mac": MAC}}}}, MAC),
        (
            {
                "cni_args": "MAC=02:00:5e:00:53:01",
                "conf": {"args": {"cni": {"mac": "02:00:5e:00:53:02"}}, "runtimeConfig": {"mac": MAC}},
            },
            MAC,
        ),
        ({"conf": {"runtimeConfig": {"mac": ""}, "args": {"cni": {"mac": MAC}}}}, MAC),
        ({"conf": {"mac": MAC}}, ""),
        ({"cni_args": "MACHINE=7"}, ""),
    ],
)
def test_whose_mac_counts(where: dict[str, Any], wanted: str) -> None:
    """runtimeConfig over args over CNI_ARGS; what is empty was not given."""
    assert parse(cni_args=where.get("cni_args", ""), **where.get("conf", {})).wire.mac == wanted


@pytest.mark.parametrize("text", ["02:00:5E:00:53:07", "02-00-5e-00-53-07", "0200.5e00.5307"])
def test_ways_to_write_a_mac(text: str) -> None:
    """Those that Go reads."""
    assert parse(runtimeConfig={"mac": text}).wire.mac == MAC


@pytest.mark.parametrize(
    "text",
    [
        "02:00:5e:00:53",
        "02:00:5e:00:53:07:08",
        "02:00:5e:00-53:07",
        "2:0:5e:0:53:7",
        "02005e005307",
        "0200.5e00:5307",
        "01:00:5e:00:53:07",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "02:00:5e:00:53:0g",
        "02:00:5e:00:53:07\n",
    ],
)
def test_what_is_no_mac(text: str) -> None:
    """Refused by the field that it was given in: multicast and zero addresses, too, which no interface can have."""
    assert refused(runtimeConfig={"mac": text}).startswith("runtimeConfig.mac: ")
    with pytest.raises(CniError, match="CNI_ARGS: MAC"):
        parse(cni_args=f"MAC={text}")


def test_names_tell_whose_an_interface_is() -> None:
    """A host's end has upstream's kind of name, each attachment its own; the alias fits, however long the names are."""
    keys = [parse().wire.key, parse(name="front" + "t" * 200).wire.key, parse(name="front" + "t" * 201).wire.key]
    assert len({host_name(key) for key in keys}) == len({alias_of(key) for key in keys}) == len(keys)
    for key in keys:
        assert host_name(key).removeprefix("veth").isalnum()
        assert len(host_name(key)) == len("veth") + 8
        assert len(alias_of(key)) < 256
        assert alias_of(key).startswith(alias_prefix(key.network))
