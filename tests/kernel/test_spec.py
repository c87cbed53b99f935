"""SPEC 1.1, sentence by sentence: what binds any plugin, and one that is chained behind a main plugin.

The executables are started as runtimes start them, for a container that really hangs on a bridge. What binds main
plugins and IPAM is in test_spec_main.py.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plugin.versions import SUPPORTED_VERSIONS
from support import plan
from support.cni import environment
from support.netns import Namespace, Sandbox
from support.spec import quotes
from support.started import DPCTL, Plugin, install, object_of, words_of
from support.traffic import ask, serve

CHAINED: dict[str, dict[str, Any]] = {
    "dataplane": {"ipMasq": True},
    "portmap": {},
    "firewall": {"ingressPolicy": "same-bridge"},
}
"""The plugins that these promises are of, and the configuration by which each has something to do."""

publishing = pytest.mark.parametrize("host", ["dataplane", "portmap"], indirect=True)
"""For what only plugins can show that publish ports."""

MAC = "02:00:00:00:00:03"
MODERN = [version for version in SUPPORTED_VERSIONS if version >= "0.3.0"]
"""Versions whose results hold interfaces."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host on which a main plugin has attached containers to br-front, and the plugin to be chained behind it."""

    sandbox: Sandbox
    plugin: Plugin
    options: dict[str, Any]
    containers: dict[str, Namespace] = field(default_factory=dict)

    def plug(self, name: str, number: int = 10, ifname: str = "eth0", device: str = "") -> dict[str, Any]:
        """Attach a container as a main plugin does; its result."""
        place = self.containers.setdefault(name, self.sandbox.namespace(name))
        address = f"{plan.FRONT.host4(number)}/24"
        device = device or f"veth{name}"[:15]
        self.sandbox.plug(plan.FRONT.device, device, place, ifname, address)
        place.ip("link", "set", ifname, "address", MAC)
        gateway = str(plan.FRONT.gateway4)
        return {
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": plan.FRONT.device, "mac": "02:00:00:00:00:01", "mtu": 1500},
                {"name": device, "mac": "02:00:00:00:00:02"},
                {"name": ifname, "mac": MAC, "sandbox": place.path},
            ],
            "ips": [{"address": address, "gateway": gateway, "interface": 2}],
            "routes": [{"dst": "0.0.0.0/0", "gw": gateway, "mtu": 1400}],
            "dns": {"nameservers": [gateway], "search": ["front.example"]},
            "x-vendor": {"kept": True},
        }

    def conf(self, previous: dict[str, Any] | None = None, port: int = 8080, **changed: Any) -> dict[str, Any]:
        """A configuration that publishes a port; ``key=None`` takes a key away."""
        written = {
            "cniVersion": "1.1.0",
            "name": plan.FRONT.name,
            "type": self.plugin.type,
            "runtimeConfig": {"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]},
            "prevResult": previous,
            **self.options,
            **changed,
        }
        return {name: value for name, value in written.items() if value is not None}

    def bare(self, **changed: Any) -> dict[str, Any]:
        """A configuration as a runtime has it that remembers nothing."""
        return self.conf(runtimeConfig=None, **changed)

    def kernel(self) -> dict[str, object]:
        """All that a plugin may have changed on this host."""
        ruleset = self.sandbox.run("nft", "list", "ruleset").stdout
        links = json.loads(self.sandbox.ip("-json", "-details", "link", "show"))
        return {
            "ruleset": re.sub(r"counter packets \d+ bytes \d+", "counter", ruleset),
            "ports": {link["ifname"]: link.get("linkinfo", {}).get("info_slave_data") for link in links},
            "attached": json.loads(self.sandbox.run(DPCTL, "ps", "--json").stdout)["attachments"],
            "programs": self.sandbox.run("tc", "filter", "show", "dev", plan.FRONT.device, "ingress").stdout,
        }

    def holds(self, number: int) -> bool:
        """Whether our table knows the address of a container."""
        ruleset = self.sandbox.run("nft", "list", "ruleset").stdout
        return re.search(rf"\b{re.escape(str(plan.FRONT.host4(number)))}\b", ruleset) is not None


@pytest.fixture(params=CHAINED)
def host(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Host:
    """A host, once for each plugin."""
    sandbox.bridge(plan.FRONT.device, f"{plan.FRONT.gateway4}/24")
    return Host(sandbox, install(sandbox, tmp_path, request.param), CHAINED[request.param])


def env_of(container: str, ifname: str = "eth0") -> dict[str, str | None]:
    """The parameters of an attachment."""
    return {"CNI_CONTAINERID": container, "CNI_NETNS": f"/run/netns/{container}", "CNI_IFNAME": ifname}


# Errors


@quotes(
    "A plugin must exit with a return code of 0 on success, and non-zero on failure.",
    'If the plugin encounters an error, it should output an "error" result structure (see below).',
    "Plugins should output a JSON object with the following keys if they encounter an error",
)
def test_exit_status_and_error(host: Host) -> None:
    """0 and a result, or another status and one error object; nothing else is on standard output."""
    previous = host.plug("web")
    assert host.plugin("ADD", host.conf(previous)).exit_code == 0
    answer = host.plugin("CHECK", host.conf(previous, cniVersion="9.9.9"))
    assert answer.exit_code == 1
    error = object_of(answer)
    assert error.keys() == {"cniVersion", "code", "msg", "details"}
    assert {name: type(value) for name, value in error.items()} == {
        "cniVersion": str, "code": int, "msg": str, "details": str,
    }  # fmt: skip


@quotes("Incompatible CNI version")
def test_a_version_that_does_not_exist(host: Host) -> None:
    """Code 1, and the answer says which versions there are."""
    previous = host.plug("web")
    for version in ("0.0.9", "1.2.0", "2.0.0", "x"):
        error = host.plugin.fails("ADD", host.conf(previous, cniVersion=version))
        assert error["code"] == 1, version
        assert "1.1.0" in words_of(error)


@quotes(
    "Unsupported field in network configuration. The error message must contain the key and value of the unsupported "
    "field."
)
@pytest.mark.parametrize("host", ["dataplane"], indirect=True)
def test_an_unsupported_field(host: Host) -> None:
    """Code 2 with key and value, for a field of the plugin replaced that nothing here can stand for."""
    conf = host.conf(host.plug("web"), externalSetMarkChain="KUBE-MARK-MASQ")
    error = host.plugin.fails("ADD", conf)
    assert error["code"] == 2
    assert "externalSetMarkChain" in words_of(error)
    assert "KUBE-MARK-MASQ" in words_of(error)


@quotes(
    "Must not be empty. Must start with an alphanumeric character, optionally followed by any combination of one or "
    "more alphanumeric characters, underscore (), dot (.) or hyphen (-).",
    "Invalid necessary environment variables, like CNI_COMMAND, CNI_CONTAINERID, etc. The error message must contain "
    "the names of invalid variables.",
)
def test_an_invalid_parameter(host: Host) -> None:
    """Code 4, and the variable is named."""
    bad: dict[str, list[str | None]] = {
        "CNI_CONTAINERID": [None, "", ".web", "we/b"],
        "CNI_IFNAME": [None, "", "..", "x" * 16, "a b"],
    }
    calls = [
        (verb, name, value) for verb in ("ADD", "DEL", "CHECK") for name, values in bad.items() for value in values
    ]
    calls += [("ADD", "CNI_COMMAND", "REMOVE"), ("ADD", "CNI_NETNS", None), ("CHECK", "CNI_NETNS", None)]
    conf = host.conf(host.plug("web"))
    for verb, name, value in calls:
        error = host.plugin.fails(verb, conf, **{name: value})
        assert error["code"] == 4, (verb, name, value)
        assert name in words_of(error)


@quotes("I/O failure. For example, failed to read network config bytes from stdin.")
def test_standard_input_that_cannot_be_read(host: Host) -> None:
    """Code 5, where standard input is open for writing only."""
    command = 'exec "$0" 0>/dev/null'
    done = host.sandbox.run("sh", "-c", command, host.plugin.path, env=environment("ADD"), check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 5


@quotes(
    "Failed to decode content. For example, failed to unmarshal network config from bytes or failed to decode version "
    "info from string."
)
def test_what_is_no_json_object(host: Host) -> None:
    """Code 6."""
    host.sandbox.namespace("web")
    for stdin in ("", "{", "[]", "null", '{"cniVersion": "1.1.0",}', '{"a": "\\ud800'):
        assert host.plugin.fails("ADD", stdin)["code"] == 6, stdin


@quotes("Invalid network config. If some validations on network configs do not pass, this error will be raised.")
def test_an_invalid_configuration(host: Host) -> None:
    """Code 7, and the field is named."""
    conf = host.conf(host.plug("web"))
    wrong: list[dict[str, Any]] = [{"name": ""}, {"name": "/etc"}, {"prevResult": {"ips": [{}]}}, {"prevResult": []}]
    for changed in wrong:
        error = host.plugin.fails("ADD", conf | changed)
        assert error["code"] == 7, changed
        assert next(iter(changed)) in words_of(error)


@quotes(
    "Error codes 0-99 are reserved for well-known errors. Values of 100+ can be freely used for plugin specific "
    "errors.",
    "This error implies the runtime does not need to perform any container network cleanup",
)
@publishing
def test_an_error_of_our_own(host: Host) -> None:
    """A port that is taken is no well-known error: 100 or more, and never 3, because a DEL is still to be sent."""
    host.plugin.succeeds("ADD", host.conf(host.plug("web")))
    error = host.plugin.fails("ADD", host.conf(host.plug("other", 11)), **env_of("other"))
    assert error["code"] >= 100
    assert "8080" in words_of(error)


# ADD


@quotes(
    "adjust the configuration of the interface defined by `CNI_IFNAME` inside the container at `CNI_NETNS`",
    "undo any modifications applied in the plugin's `ADD` functionality",
    "A plugin MUST NOT rely on `STATUS` being called.",
)
def test_delete_undoes_add(host: Host) -> None:
    """After ADD and DEL the host is as it was before, but for what the first ADD ever leaves for the next ones."""
    first, second = host.plug("web"), host.plug("other", 11)
    host.plugin.succeeds("ADD", host.conf(first))
    host.plugin.succeeds("DEL", host.conf(first))
    before = host.kernel()
    host.plugin.succeeds("ADD", host.conf(second, port=9090), **env_of("other"))
    during = host.kernel()
    assert during["ruleset"] != before["ruleset"]
    assert during["attached"] != before["attached"]
    host.plugin.succeeds("DEL", host.conf(second, port=9090), **env_of("other"))
    assert host.kernel() == before


@quotes(
    "If the CNI plugin is successful, it must output a result structure (see below) on standard out.",
    "If the plugin was supplied a `prevResult` as part of its input configuration, it MUST handle `prevResult` by "
    "either passing it through, or modifying it appropriately.",
    "Plugins provided a `prevResult` key as part of their request configuration must output it as their result, with "
    "any possible modifications made by that plugin included.",
    "If a plugin makes no changes that would be reflected in the _Success result_ type, then it must output a result "
    "equivalent to the provided `prevResult`.",
)
def test_the_previous_result_is_passed_on(host: Host) -> None:
    """The result is prevResult to the letter, with what other plugins put there and we do not know."""
    previous = host.plug("web")
    assert host.plugin.succeeds("ADD", host.conf(previous)) == previous


@quotes("The same version supplied on input")
def test_the_result_is_of_the_version_asked_for(host: Host) -> None:
    """For each version that has interfaces in its results."""
    previous = host.plug("web")
    for version in MODERN:
        result = host.plugin.succeeds("ADD", host.conf(previous | {"cniVersion": version}, cniVersion=version))
        assert result["cniVersion"] == version
        assert [one["name"] for one in result["interfaces"]] == [one["name"] for one in previous["interfaces"]]
        assert [one.get("version") for one in result["ips"]] == ["4" if version < "1.0.0" else None]


@quotes("if the plugin is unable to use this interface name it must return an error.")
def test_an_interface_that_is_not_there(host: Host) -> None:
    """A chained plugin cannot work on an interface that the main plugin did not make."""
    error = host.plugin.fails("ADD", host.conf(host.plug("web")), CNI_IFNAME="eth7")
    assert "eth7" in words_of(error)
    assert not host.holds(10)


@quotes(
    "a given container ID may be added to a specific network more than once only if each addition is done with a "
    "different interface name"
)
def test_two_interfaces_of_one_container(host: Host) -> None:
    """Each is an attachment of its own: one goes, and the other stays."""
    first = host.plug("web")
    second = host.plug("web", 11, "eth1", "vethweb1")
    host.plugin.succeeds("ADD", host.conf(first))
    host.plugin.succeeds("ADD", host.conf(second, port=9090), **env_of("web", "eth1"))
    host.plugin.succeeds("DEL", host.conf(first))
    assert not host.holds(10)
    assert host.holds(11)


@quotes("Plugins that consume any of these configuration keys should respect their intended semantics.")
@pytest.mark.parametrize("host", ["dataplane"], indirect=True)
def test_ip_masq(host: Host) -> None:
    """With ``ipMasq`` a machine outside sees the host, without it the container."""
    client = host.sandbox.namespace("client")
    host.sandbox.link("uplink", client, "eth0", f"{plan.HOST4}/24", f"{plan.CLIENT4}/24")
    client.ip("route", "add", plan.FRONT.subnet4, "via", plan.HOST4)
    host.sandbox.sysctl("net/ipv4/ip_forward", 1)
    serve(client, "client", "tcp", 80)
    previous = host.plug("web")
    web = host.containers["web"]
    web.ip("route", "add", "default", "via", plan.FRONT.gateway4)
    for masquerade, seen in ((True, plan.HOST4), (False, plan.FRONT.host4(10))):
        host.plugin.succeeds("ADD", host.conf(previous, ipMasq=masquerade))
        answer = ask(web, plan.CLIENT4, 80)
        assert answer is not None
        assert answer.address == str(seen)


# DEL


@quotes("Plugins should generally complete a `DEL` action without error even if some resources are missing.")
@pytest.mark.parametrize("missing", ["namespace", "links", "ruleset", "prevResult", "CNI_NETNS"])
def test_delete_where_something_is_missing(host: Host, missing: str) -> None:
    """Whatever is gone already, DEL ends well, and what is left of the attachment goes, too."""
    previous = host.plug("web")
    host.plugin.succeeds("ADD", host.conf(previous))
    conf, env = host.conf(previous), env_of("web")
    match missing:
        case "namespace":
            host.sandbox.remove_namespace("web")
        case "links":
            host.sandbox.ip("link", "delete", plan.FRONT.device)
            host.sandbox.ip("link", "delete", "vethweb")
        case "ruleset":
            host.sandbox.run("nft", "flush", "ruleset")
        case "prevResult":
            conf = host.bare()
        case "CNI_NETNS":
            env["CNI_NETNS"] = ""
    host.plugin.succeeds("DEL", conf, **env)
    assert not host.holds(10)


@quotes(
    "Plugins MUST accept multiple `DEL` calls for the same (`CNI_CONTAINERID`, `CNI_IFNAME`) pair, and return success "
    "if the interface in question, or any modifications added, are missing.",
    "_delete_ may be followed by additional _deletes_.",
)
def test_delete_again_and_again(host: Host) -> None:
    """Before any ADD, and as often as one likes after it."""
    previous = host.plug("web")
    host.plugin.succeeds("DEL", host.bare())
    host.plugin.succeeds("ADD", host.conf(previous))
    for _ in range(3):
        host.plugin.succeeds("DEL", host.conf(previous))


@quotes("A _delete_ must still be executed even if the _add_ fails.")
@publishing
def test_delete_after_an_add_that_failed(host: Host) -> None:
    """Such an ADD left nothing, and the DEL that follows it takes nothing of anybody else."""
    host.plugin.succeeds("ADD", host.conf(host.plug("web")))
    before = host.kernel()
    conf = host.conf(host.plug("other", 11))
    host.plugin.fails("ADD", conf, **env_of("other"))
    host.plugin.succeeds("DEL", conf, **env_of("other"))
    after = host.kernel()
    assert (after["ruleset"], after["attached"]) == (before["ruleset"], before["attached"])


# CHECK


@quotes(
    "The plugin must handle `CHECK` being called immediately after an `ADD`, and therefore should allow a reasonable "
    "convergence delay for any asynchronous resources."
)
def test_check_right_after_add(host: Host) -> None:
    """Nothing is still under way when ADD has answered."""
    for number, name in enumerate(("web", "other"), 10):
        conf = host.conf(host.plug(name, number), port=8000 + number)
        host.plugin.succeeds("ADD", conf, **env_of(name))
        host.plugin.succeeds("CHECK", conf, **env_of(name))


@quotes("The plugin must consult the `prevResult` to determine the expected interfaces and addresses.")
def test_check_reads_the_previous_result(host: Host) -> None:
    """Without one, or with an address that was never attached, CHECK fails."""
    previous = host.plug("web")
    host.plugin.succeeds("ADD", host.conf(previous))
    assert "prevResult" in words_of(host.plugin.fails("CHECK", host.conf()))
    previous["ips"][0]["address"] = f"{plan.FRONT.host4(77)}/24"
    host.plugin.fails("CHECK", host.conf(previous))


@quotes(
    "The plugin must allow for a later chained plugin to have modified networking resources, e.g. routes, on `ADD`."
)
def test_check_allows_for_later_plugins(host: Host) -> None:
    """A plugin after us changed the MAC address, and added an address, a route, and an interface of its own."""
    previous = host.plug("web")
    host.plugin.succeeds("ADD", host.conf(previous))
    web = host.containers["web"]
    web.ip("link", "set", "eth0", "address", "02:00:00:00:00:99", "mtu", 1300)
    web.ip("address", "add", "203.0.113.7/24", "dev", "eth0")
    web.ip("route", "add", "198.51.100.0/24", "via", plan.FRONT.gateway4)
    previous["ips"].append({"address": "203.0.113.7/24", "interface": 2})
    previous["interfaces"][2] |= {"mac": "02:00:00:00:00:99", "mtu": 1300}
    previous["interfaces"].append({"name": "tun0", "sandbox": web.path})
    previous["routes"].append({"dst": "198.51.100.0/24", "gw": str(plan.FRONT.gateway4)})
    host.plugin.succeeds("CHECK", host.conf(previous))


@quotes(
    "The plugin should return an error if other resources not tracked in the Result type such as the following are "
    "missing or are in an invalid state: Firewall rules",
    "The plugin should return an error if it is aware of a condition where the container is generally unreachable.",
)
@pytest.mark.parametrize("lost", ["ruleset", "element", "chain"])
def test_check_misses_rules(host: Host, lost: str) -> None:
    """CHECK fails when the table is gone, when it lacks one element, and when somebody else put a drop into it."""
    previous = host.plug("web")
    conf = host.conf(previous)
    host.plugin.succeeds("ADD", conf)
    match lost:
        case "ruleset":
            host.sandbox.run("nft", "flush", "ruleset")
        case "element":
            container = f"{plan.FRONT.host4(10)}"
            listed = json.loads(host.sandbox.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
            kind, held = next(
                (kind, one[kind])
                for one in listed
                for kind in one.keys() & {"set", "map"}
                if f'"{container}"' in json.dumps(one)
            )
            host.sandbox.run("nft", "flush", kind, held["family"], held["table"], held["name"])
        case "chain":
            chains = json.loads(host.sandbox.run("nft", "-j", "list", "chains").stdout)["nftables"]
            chain = next(one["chain"] for one in chains if one.get("chain", {}).get("hook") == "forward")
            host.sandbox.run("nft", "insert", "rule", chain["family"], chain["table"], chain["name"], "drop")
    host.plugin.fails("CHECK", conf)


# STATUS


@quotes("A plugin must exit with a zero (success) return code if the plugin is ready to service ADD requests.")
def test_status_of_a_plugin_that_is_ready(host: Host) -> None:
    """0 and no output, before any ADD and beside one."""
    host.plugin.succeeds("STATUS", host.bare())
    host.plugin.succeeds("ADD", host.conf(host.plug("web")))
    host.plugin.succeeds("STATUS", host.bare())


@quotes(
    "it must exit with a non-zero return code and output an error on standard out",
    "The plugin is not available (i.e. cannot service `ADD` requests)",
    "Plugins should always expect other CNI operations (like `ADD`, `DEL`, etc) even if `STATUS` returns an error.",
)
def test_status_of_a_plugin_that_is_not(host: Host) -> None:
    """50 where nothing can be pinned; ADD says no, DEL ends well, and once something can be, all is as before."""
    host.sandbox.run("mount", "-o", "remount,ro", "/sys/fs/bpf")
    error = host.plugin.fails("STATUS", host.bare())
    assert error["code"] == 50
    assert "bpf" in words_of(error)
    conf = host.conf(host.plug("web"))
    host.plugin.fails("ADD", conf)
    host.plugin.succeeds("DEL", conf)
    host.sandbox.run("mount", "-o", "remount,rw", "/sys/fs/bpf")
    host.plugin.succeeds("STATUS", host.bare())
    host.plugin.succeeds("ADD", conf)


# VERSION


@quotes(
    "The plugin should output via standard-out a json-serialized version result object (see below).",
    "Plugins must output a JSON object with the following keys upon a `VERSION` operation",
    "The value of `cniVersion` specified on input",
    "A list of supported specification versions",
)
def test_version(host: Host) -> None:
    """VERSION needs nothing but the command, and answers in the version that it is asked in."""
    nothing = {"CNI_CONTAINERID": None, "CNI_NETNS": None, "CNI_IFNAME": None, "CNI_PATH": None}
    for version in SUPPORTED_VERSIONS:
        answer = host.plugin.succeeds("VERSION", {"cniVersion": version}, **nothing)
        assert answer == {"cniVersion": version, "supportedVersions": list(SUPPORTED_VERSIONS)}


# GC


@quotes(
    "A plugin SHOULD remove as many stale resources as possible.",
    "Plugins should generally complete a `GC` action without error.",
)
def test_gc_removes_what_is_not_valid(host: Host) -> None:
    """Of three containers of the network one is valid, a namespace is gone, and another network is none of GC's."""
    for number, name in enumerate(("web", "other", "third"), 10):
        host.plugin.succeeds("ADD", host.conf(host.plug(name, number), port=8000 + number), **env_of(name))
    elsewhere = host.conf(host.plug("fourth", 13), port=8013, name=plan.BACK.name)
    host.plugin.succeeds("ADD", elsewhere, **env_of("fourth"))
    host.sandbox.remove_namespace("third")
    valid = [{"containerID": "web", "ifname": "eth0"}]
    host.plugin.succeeds("GC", host.bare() | {"cni.dev/valid-attachments": valid})
    assert [host.holds(number) for number in (10, 11, 12, 13)] == [True, False, False, True]
    host.plugin.succeeds("GC", host.bare() | {"cni.dev/valid-attachments": []})
    assert [host.holds(number) for number in (10, 11, 12, 13)] == [False, False, False, True]


# Lifecycle


@quotes("Plugins must handle being executed concurrently across different containers.")
def test_many_at_once(host: Host) -> None:
    """Twelve containers come at the same time, and go at the same time."""
    names = {f"web{number}": number for number in range(20, 32)}
    confs = {name: host.conf(host.plug(name, number), port=8000 + number) for name, number in names.items()}
    for verb, there in (("ADD", True), ("DEL", False)):
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name, verb=verb: host.plugin.succeeds(verb, confs[name], **env_of(name)), names))
        assert [host.holds(number) for number in names.values()] == [there] * len(names)
