"""dpctl config check: what is said about a conflist, key by key, what is wrong, and the entry that replaces it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from control.cli.root import run
from control.model import ChecksumPolicy, IngressPolicy
from plugin import dropins
from plugin.check.cli import config
from plugin.check.keys import COMMON, TYPES, Effect
from plugin.check.report import NoConflistError, Report, Standing, check
from plugin.check.singleentry import single_entry
from plugin.install import conflist_text
from plugin.jsontext import JsonObject

COMPATIBILITY = Path(__file__).parents[2] / "docs" / "compatibility.md"

IPAM: JsonObject = {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}
BRIDGE: JsonObject = {"type": "bridge", "bridge": "cni-podman0", "isGateway": True, "hairpinMode": True, "ipam": IPAM}
DECLARED: JsonObject = {"capabilities": {"portMappings": True}}
PORTMAP: JsonObject = {"type": "portmap", **DECLARED}
DATAPLANE: JsonObject = {"type": "dataplane", **DECLARED}
TUNING: JsonObject = {"type": "tuning", "sysctl": {}}
BANDWIDTH: JsonObject = {"type": "bandwidth", "capabilities": {"bandwidth": True}}


def conflist(*plugins: JsonObject, version: Any = "1.1.0", **keys: Any) -> JsonObject:
    return {"cniVersion": version, "name": "podman", "plugins": list(copy.deepcopy(plugins)), **keys}


def problems(*plugins: JsonObject, **keys: Any) -> list[str]:
    return [str(one) for one in check(conflist(*plugins, **keys)).problems]


STOCK = conflist({**BRIDGE, "ipMasq": True}, PORTMAP, {"type": "firewall"}, TUNING, version="0.4.0")
"""What podman and nerdctl write."""


def effects(report: Report, index: int) -> dict[str, Effect | None]:
    return {key.path: key.effect for key in report.entries[index].keys}


def test_a_stock_conflist_is_fine() -> None:
    """What podman writes is served by drop-ins as it is; tuning stays what it is."""
    report = check(STOCK)
    assert report.problems == ()
    assert [entry.standing for entry in report.entries] == [Standing.DROP_IN] * 3 + [Standing.FOREIGN]
    assert effects(report, 0) == {
        "type": Effect.SAME,
        "bridge": Effect.SAME,
        "isGateway": Effect.SAME,
        "hairpinMode": Effect.SAME,
        "ipam": Effect.SAME,
        "ipam.type": Effect.SAME,
        "ipam.ranges": Effect.SAME,
        "ipam.routes": Effect.SAME,
        "ipMasq": Effect.BETTER,
    }
    assert [str(one) for one in report.remarks] == ["cniVersion: runtimes call no GC or STATUS at 0.4.0"]


def test_our_example_is_fine() -> None:
    """What dpctl install writes stands its own test."""
    report = check(json.loads(conflist_text()))
    assert report.problems == ()
    assert report.single.obstacles == ()


def test_a_check_changes_nothing() -> None:
    """The document is only read."""
    before = copy.deepcopy(STOCK)
    check(STOCK)
    assert before == STOCK


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        ([PORTMAP, BRIDGE], "plugins[0]: portmap needs prevResult"),
        ([{"type": "firewall"}, {"type": "ptp"}], "plugins[0]: firewall needs prevResult"),
        ([BRIDGE, {"type": "macvlan"}], "plugins[1]: macvlan is a second main plugin"),
        ([BRIDGE, {"type": "host-local"}], "plugins[1]: host-local is no plugin of a chain"),
        ([BRIDGE, {"type": "portmap"}], "plugins[1].capabilities.portMappings: is not declared"),
        ([BRIDGE, {"type": "cni-nftables-portmap"}], "plugins[1].capabilities.portMappings: is not declared"),
        ([BRIDGE, {"type": "dataplane"}], "plugins[1].capabilities.portMappings: is not declared"),
        ([BRIDGE, PORTMAP, DATAPLANE], "plugins[2].capabilities.portMappings: ports are published by portmap already"),
        ([BRIDGE | DECLARED, PORTMAP], "plugins[1].capabilities.portMappings: ports are published by bridge already"),
        ([BRIDGE | {"ipMasq": True}, DATAPLANE | {"ipMasq": True}], "plugins[1].ipMasq: masquerade is asked for by"),
        ([BRIDGE | {"ipMasq": True}, {"type": "cni-nftables-portmap", **DECLARED}], "plugins[1].ipMasq: masquerade is"),
        ([{"type": "ptp"}, {"type": "firewall", "ingressPolicy": "isolated"}], "plugins[1]: firewall isolates bridges"),
        ([{"type": "ptp"}, {"type": "isolation"}], "plugins[1]: isolation isolates bridges"),
        ([BRIDGE, PORTMAP | {"snta": True}], "plugins[1].snta: is ignored; did you mean 'snat'?"),
        ([BRIDGE, PORTMAP | {"conditionV4": []}], "plugins[1].conditionV4: is ignored; did you mean 'conditionsV4'?"),
        ([BRIDGE | {"ipam": {**IPAM, "range": []}}], "plugins[0].ipam.range: is ignored; did you mean 'ranges'?"),
        ([BRIDGE, PORTMAP | {"backend": "ebpf"}], "plugins[1].backend: 'ebpf' is not one of"),
        ([BRIDGE, DATAPLANE | {"ingresspolicy": "isolated"}], "plugins[1].ingresspolicy: did you mean"),
        ([BRIDGE, DATAPLANE, BANDWIDTH], "plugins[2]: bandwidth finds a qdisc of dataplane"),
        ([BRIDGE | {"macspoofchk": True}, BANDWIDTH], "plugins[1]: bandwidth finds a qdisc of bridge"),
        ([BRIDGE, PORTMAP | {"checksum": "fill"}, BANDWIDTH], "plugins[2]: bandwidth finds a qdisc of portmap"),
        ([BRIDGE, DATAPLANE, TUNING | {"mac": "x"}], "plugins[2]: tuning sets a MAC address that dataplane guards"),
        ([BRIDGE | {"vlan": 5000}], "plugins[0].vlan: 5000 is not a VLAN"),
        ([BRIDGE | {"promiscMode": True}], "plugins[0].promiscMode: cannot be set together with hairpinMode"),
        ([BRIDGE | {"ipam": {"type": "host-local"}}], "plugins[0].ipam.ranges: is missing"),
        ([BRIDGE | {"ipam": {"type": "host-local", "subnet": "x"}}], "plugins[0].ipam.subnet: "),
    ],
)  # fmt: skip
def test_problems(plugins: list[JsonObject], expected: str) -> None:
    """What cannot work, or not as it was meant, is the one problem that is found, with its place."""
    (problem,) = problems(*plugins)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    "plugins",
    [
        [BRIDGE],
        [BRIDGE, DATAPLANE],
        [BRIDGE, TUNING, PORTMAP],
        [BRIDGE, TUNING | {"mac": "x"}, BANDWIDTH, DATAPLANE],
        [BRIDGE, DATAPLANE | {"guard": "off"}, BANDWIDTH, TUNING | {"mac": "x"}],
        [BRIDGE, DATAPLANE, TUNING],
        [BRIDGE, PORTMAP, BANDWIDTH],
        [{"type": "ptp", "ipMasq": True}, PORTMAP, {"type": "firewall"}],
        [BRIDGE, PORTMAP, {"type": "dataplane", "ingressPolicy": "isolated"}],
        [BRIDGE, {"type": "dataplane", "capabilities": {"portMappings": False}}],
        [BRIDGE, PORTMAP | {"SNAT": True, "vendorKey": 1, "runtimeConfig": {}}],
        [BRIDGE | {"ipMasq": True}, {"type": "cni-nftables-portmap", "ipMasq": False, **DECLARED}],
        [BRIDGE | {"ipam": {"type": "host-local"}, "capabilities": {"ipRanges": True}}],
        [BRIDGE | {"ipam": {"type": "dhcp", "daemonSocketPath": "/run/x"}}],
        [BRIDGE | {"ipam": {}}],
        [{"type": "flannel"}, PORTMAP],
    ],
)
def test_no_problems(plugins: list[JsonObject]) -> None:
    """What works is not called a problem."""
    assert problems(*plugins) == []


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"version": "9.9.9"}, "cniVersion: '9.9.9' is not one of"),
        ({"name": ""}, "name: is missing"),
        ({"name": "a/b"}, "name: 'a/b' is not letters"),
        ({"name": 7}, "name: 7 is an integer"),
        ({"version": 7}, "cniVersion: 7 is an integer"),
    ],
)
def test_a_bad_head_is_told_once(keys: dict[str, Any], expected: str) -> None:
    """Name and version are the list's: their faults are not repeated for every plugin."""
    (problem,) = problems(BRIDGE, PORTMAP, {"type": "firewall"}, **keys)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("version", "verbs"),
    [("0.3.1", "no CHECK or GC or STATUS"), ("1.0.0", "no GC or STATUS"), ("1.1.0", "")],
)
def test_verbs_of_a_version(version: str, verbs: str) -> None:
    """That runtimes leave out verbs at an old version is a remark, not a problem."""
    report = check(conflist(BRIDGE, version=version))
    assert report.problems == ()
    assert [one.text for one in report.remarks] == ([f"runtimes call {verbs} at {version}"] if verbs else [])


def test_the_latest_of_several_versions_counts() -> None:
    """CNI 1.1: a list may offer several versions, of which some may be unknown."""
    assert check(conflist(BRIDGE, version="0.4.0", cniVersions=["0.4.0", "1.1.0", "7.0.0"])).cni_version == "1.1.0"


def test_keys_of_unknown_effect() -> None:
    """A key that nobody has is said to be ignored; what the runtime puts there is not a file's to say."""
    report = check(conflist(BRIDGE, PORTMAP | {"vendorKey": 1, "runtimeConfig": {}, "backend": "x"}))
    assert effects(report, 1) == {
        "type": Effect.SAME,
        "capabilities": Effect.SAME,
        "vendorKey": None,
        "runtimeConfig": None,
        "backend": Effect.REFUSED,
    }


def test_notes_of_an_add_are_shown() -> None:
    """What an ADD would write to standard error is told beforehand."""
    report = check(conflist(BRIDGE, PORTMAP | {"markMasqBit": 13}))
    assert [note.split()[0] for note in report.entries[1].notes] == ["markMasqBit"]


def test_a_single_configuration() -> None:
    """A .conf is looked at as a list of one."""
    report = check({"cniVersion": "0.4.0", "name": "front", **BRIDGE, "hairpinMod": True})
    assert [entry.path for entry in report.entries] == [""]
    assert [str(one) for one in report.problems] == ["hairpinMod: is ignored; did you mean 'hairpinMode'?"]


@pytest.mark.parametrize(
    "document",
    [{}, {"name": "x"}, {"plugins": []}, {"plugins": {}}, {"plugins": ["bridge"]}, {"plugins": [{}]}, {"type": 7}],
)
def test_what_is_no_conflist(document: JsonObject) -> None:
    """Another document is no conflist, and what is missing is named."""
    with pytest.raises(NoConflistError, match="not a network configuration"):
        check(document)


def test_plugins_of_others_follow_the_single_entry() -> None:
    """What we have no plugin for stays, and the rest of the chain becomes one entry all the same."""
    chain: list[JsonObject] = [BRIDGE, TUNING, PORTMAP, {"type": "bandwidth"}]
    single = single_entry("podman", "1.0.0", chain)
    assert single == replace(single_entry("podman", "1.0.0", [BRIDGE, PORTMAP]), stays=("tuning", "bandwidth"))
    assert single.entry is not None


def test_the_single_entry_of_a_chain() -> None:
    """bridge, portmap and firewall become one entry that says all that they say, and what their defaults are."""
    single = single_entry(
        "podman",
        "1.0.0",
        [
            {**BRIDGE, "ipMasq": True, "ipMasqBackend": "iptables", "MTU": 1400},
            PORTMAP | {"snat": False, "conditionsV4": ["-s", "192.0.2.0/24"], "markMasqBit": 13},
            {"type": "firewall", "ingressPolicy": "isolated", "backend": "iptables"},
            {"type": "cni-nftables-firewall", "filter_table_name": "fw"},
        ],
    )
    assert single.obstacles == ()
    assert single.entry == {
        "type": "dataplane-bridge",
        "capabilities": {"portMappings": True},
        "bridge": "cni-podman0",
        "isGateway": True,
        "mtu": 1400,
        "hairpinMode": True,
        "ipam": IPAM,
        "ipMasq": True,
        "ingressPolicy": "isolated",
        "checksum": "repair",
        "guard": "off",
        "snat": False,
        "conditionsV4": ["-s", "192.0.2.0/24"],
        "forwardChains": [
            {"family": "ip", "table": "fw", "chain": "forward", "optional": True},
            {"family": "ip6", "table": "fw", "chain": "forward", "optional": True},
        ],
        "adminChain": "CNI-ADMIN",
    }


@pytest.mark.parametrize(
    "chained",
    [
        [],
        [PORTMAP],
        [DATAPLANE | {"ingressPolicy": "isolated", "checksum": "observe"}],
        [PORTMAP | {"masqAll": True, "snat": False}, {"type": "isolation"}, {"type": "firewall"}],
        [{"type": "cni-nftables-portmap", **DECLARED}, {"type": "cni-nftables-firewall"}],
    ],
)
def test_the_single_entry_is_read_as_what_the_chain_asks_for(chained: list[JsonObject]) -> None:
    """Read as a plugin reads it, the entry asks for what all parts together ask for."""
    head: JsonObject = {"name": "podman", "cniVersion": "1.0.0"}
    chain = [BRIDGE, *chained]
    entry = single_entry("podman", "1.0.0", chain).entry
    assert entry is not None
    single = dropins.read("dataplane-bridge", {**head, **entry}).options
    parts = [dropins.read(str(one["type"]), {**head, **one}).options for one in chain]
    publishing = [part for one, part in zip(chain, parts, strict=True) if "capabilities" in one][:1]
    policies, checksums = list(IngressPolicy), list(ChecksumPolicy)
    assert policies.index(single.ingress_policy) == max(policies.index(part.ingress_policy) for part in parts)
    assert checksums.index(single.checksum) == max(checksums.index(part.checksum) for part in parts)
    assert single.ip_masq == any(part.ip_masq for part in parts)
    assert {single.admin_chain} == {part.admin_chain for part in parts if part.admin_chain} or {""}
    assert set(single.forward_chains) == {chain for part in parts for chain in part.forward_chains}
    for part in publishing:
        assert (single.snat, single.masq_all, single.conditions4) == (part.snat, part.masq_all, part.conditions4)
    assert problems(entry) == ([] if publishing else problems(entry))


@pytest.mark.parametrize(
    ("plugins", "obstacle"),
    [
        ([{"type": "macvlan"}], "macvlan stays: no plugin of ours makes such an interface"),
        ([PORTMAP], "portmap is no main plugin"),
        ([BRIDGE, BRIDGE], "bridge is a second main plugin"),
        ([BRIDGE, {"type": "host-local"}], "host-local is no plugin of a chain"),
        ([BRIDGE, PORTMAP, DATAPLANE], "ports are published by portmap and dataplane"),
        ([BRIDGE, PORTMAP | {"snat": 7}], "portmap is refused as it is written: snat: 7 is an integer"),
        (
            [BRIDGE, {"type": "firewall"}, {"type": "firewall", "iptablesAdminChainName": "MINE"}],
            "an entry has one admin chain, and these are CNI-ADMIN and MINE",
        ),
    ],
)
def test_why_there_is_no_single_entry(plugins: list[JsonObject], obstacle: str) -> None:
    """Where a chain cannot become one entry, every reason is named."""
    single = single_entry("podman", "1.0.0", plugins)
    assert single.entry is None
    assert any(one.startswith(obstacle) for one in single.obstacles), single.obstacles


def write(tmp_path: Path, document: object) -> str:
    path = tmp_path / "87-podman.conflist"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


@pytest.mark.parametrize(
    ("document", "status"),
    [
        (STOCK, 0),
        (conflist(PORTMAP, BRIDGE), 3),
        ("{", 1),
        ("[]", 1),
        ({"name": "x"}, 1),
    ],
)
def test_exit_status(document: object, status: int, tmp_path: Path) -> None:
    """0 fine, 1 no conflist, 3 a problem was found."""
    assert run(["config", "check", write(tmp_path, document)]) == status


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read fails with its name; no name at all is a wrong use."""
    assert run(["config", "check", "/nowhere/x.conflist"]) == 1
    assert "could not read /nowhere/x.conflist: No such file or directory" in capsys.readouterr().err
    assert run(["config", "check"]) == 2


def test_text(tmp_path: Path) -> None:
    """For people: entries with their keys, problems, remarks, and the entry that does the same."""
    path = write(tmp_path, conflist(BRIDGE, PORTMAP | {"markMasqBit": 13, "snta": 1}, TUNING, version="1.0.0"))
    out = CliRunner().invoke(config, ["check", path]).output
    for line in (
        'network "podman", CNI 1.0.0',
        "2. portmap: served by ours where dpctl install --drop-in put it under this name",
        "markMasqBit   ignored  ",
        "snta          -        ignored: portmap has no such key",
        "problems:\n  - plugins[1].snta: is ignored; did you mean 'snat'?",
        "remarks:\n  - cniVersion: runtimes call no GC or STATUS at 1.0.0",
        'one entry that does the same, followed by tuning as it is:\n{\n  "type": "dataplane-bridge",',
    ):
        assert line in out, out


def test_json(tmp_path: Path) -> None:
    """For programs: the same, versioned."""
    document = json.loads(CliRunner().invoke(config, ["check", "--json", write(tmp_path, STOCK)]).output)
    assert document["version"] == 1
    assert (document["network"], document["cni_version"]) == ("podman", "0.4.0")
    assert [one["standing"] for one in document["plugins"]] == ["drop-in", "drop-in", "drop-in", "foreign"]
    assert {"path": "ipMasq", "effect": "better"}.items() <= document["plugins"][0]["keys"][-1].items()
    assert document["single_entry"]["type"] == "dataplane-bridge"
    assert (document["stays"], document["obstacles"]) == (["tuning"], [])


def test_plugins_beside_the_list(tmp_path: Path) -> None:
    """CNI 1.1: plugins in the directory of the network's name belong to the list, unless it says otherwise."""
    (tmp_path / "podman").mkdir()
    (tmp_path / "podman" / "10-ports.conf").write_text(json.dumps(PORTMAP))
    for alone, types in ((False, ["bridge", "portmap"]), (True, ["bridge"])):
        path = write(tmp_path, conflist(BRIDGE, loadOnlyInlinedPlugins=alone))
        document = json.loads(CliRunner().invoke(config, ["check", "--json", path]).output)
        assert [one["type"] for one in document["plugins"]] == types


def sections() -> dict[str, str]:
    """The page's text by heading."""
    _, *parts = COMPATIBILITY.read_text(encoding="utf-8").split("\n## ")
    return {part.partition("\n")[0]: part for part in parts}


@pytest.mark.parametrize("name", ["every type", *TYPES])
def test_the_page_says_what_the_command_says(name: str) -> None:
    """docs/compatibility.md has every key of the tables under its type, with the same effect and words."""
    keys, heading = (COMMON, name) if name == "every type" else (TYPES[name].keys, f"{name} ({TYPES[name].origin})")
    text = sections()[heading]
    rows = {line for line in text.splitlines() if line.startswith("| `")}
    assert rows == {f"| `{key.name}` | {key.effect} | {key.text} |" for key in keys}


VALUES: list[Any] = [None, 7, -1, 0.5, True, "", "x", "a b", "\x00", [], [[]], ["x"], [7], {}, {"x": {}}, {"type": 7}]


@pytest.mark.parametrize("kind", [*TYPES, "tuning"])
def test_no_value_stops_a_check(kind: str) -> None:
    """Whatever stands where a key's value should: the report says so, and the check goes on."""
    names = [key.name for key in (*TYPES[kind].keys, *COMMON)] if kind in TYPES else ["ipMasq", "capabilities"]
    for name in names:
        for value in VALUES:
            if name != "type":
                check(conflist(BRIDGE, {"type": kind, name: value}))
                check(conflist({"type": kind, name: value}))
    for value in VALUES:
        check(conflist({**BRIDGE, "ipam": {"type": "host-local", "ranges": value, "subnet": value}}, cniVersions=value))


def test_every_key_is_read_by_its_type() -> None:
    """No key is in a table that its type passes over: a value of the wrong kind is refused, or noted as ignored."""
    head: JsonObject = {"name": "podman", "cniVersion": "1.0.0"}
    for kind, table in TYPES.items():
        if kind == "host-local":
            continue
        for key in table.keys:
            if "." in key.name or " " in key.name:
                continue
            report = check({**head, "type": kind, key.name: ["x", 7]})
            told = [str(one) for one in (*report.problems, *report.entries[0].notes) if str(one).startswith(key.name)]
            assert told, (kind, key.name)


def test_a_key_that_is_refused_is_in_no_single_entry() -> None:
    """An entry that an ADD would refuse is not offered."""
    report = check({"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "bridge", "ipam": 5}]})
    assert report.single.entry is None
    assert report.single.obstacles == ("refused as it is written: plugins[0].ipam",)
