"""SPEC 1.1, sentence by sentence: what binds a plugin that delegates to IPAM, and one that is IPAM itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support import plan, recorder
from support.mainhost import GATEWAY, IPAM, LEASES, MAIN, Host, addresses_of, env_of, main_host
from support.netns import Sandbox
from support.recorder import Recorder
from support.spec import quotes
from support.started import install, words_of

DELEGATED: dict[str, Any] = {"type": recorder.NAME, "of-its-own": [1, {"two": None}]}
LEASED: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "ips": [{"address": f"{plan.FRONT.host4(7)}/24", "gateway": GATEWAY}],
    "routes": [{"dst": "198.51.100.0/24"}],
    "dns": {"nameservers": ["192.0.2.53"]},
}
"""What the recorded IPAM plugin gives."""
LOST: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "code": 142,
    "msg": "the lease is lost",
    "details": "ask the administrator",
}


@pytest.fixture(params=MAIN)
def host(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Host:
    """A host, once for each main plugin."""
    return main_host(request.param, sandbox, tmp_path)


@pytest.fixture
def ipam(tmp_path: Path) -> Recorder:
    """An IPAM plugin that gives one address."""
    made = Recorder(tmp_path / "ipam")
    made.answers("ADD", LEASED)
    return made


def path_with(ipam: Recorder, host: Host) -> dict[str, str]:
    """CNI_PATH by which the IPAM plugin is found, in a directory that is not the first."""
    return {"CNI_PATH": f"/nonexistent:{ipam.directory}:{host.plugin.path.parent}"}


# Delegation


@quotes(
    "Refers to the filename of the IPAM plugin executable. Must not contain characters disallowed in file paths for "
    "the system (e.g. / or \\).",
)
def test_an_ipam_type_that_is_a_path(host: Host, ipam: Recorder) -> None:
    """It is refused, and nothing is executed."""
    host.sandbox.namespace("web")
    for name in ("../ipam/recorder", "/bin/true", ".", ".."):
        error = host.plugin.fails("ADD", host.conf(ipam={"type": name}), **env_of("web", **path_with(ipam, host)))
        assert error["code"] == 7, name
        assert name in words_of(error)
    assert ipam.calls == []
    assert host.left() == ([], set(), [])


@quotes(
    "Plugins MUST, additionally, forward any GC calls to delegated plugins they are configured to use",
    "If an error is encountered, a plugin should continue; removing as many resources as possible, and report the "
    "errors back to the runtime.",
)
def test_gc_continues_where_ipam_fails(host: Host, ipam: Recorder) -> None:
    """The delegate's error is reported, and the veth is removed all the same."""
    env = path_with(ipam, host)
    host.sandbox.namespace("web")
    host.plugin.succeeds("ADD", host.conf(ipam=DELEGATED), **env_of("web", **env))
    ipam.fails("GC", LOST)
    conf = host.conf(ipam=DELEGATED) | {"cni.dev/valid-attachments": []}
    error = host.plugin.fails("GC", conf, **env)
    assert ipam.configuration("GC") == conf
    assert LOST["msg"] in words_of(error)
    assert host.left() == ([], set(), [])


@quotes(
    "The IPAM plugin must determine the interface IP/subnet, Gateway and Routes and return this information to the "
    '"main" plugin to apply.',
    "Look up the plugin binary by searching the directories provided in `CNI_PATH` environment variable.",
)
def test_what_ipam_gives_is_applied(host: Host, ipam: Recorder) -> None:
    """Address, gateway and route are the delegate's; so is the DNS, where the configuration has none."""
    host.sandbox.namespace("web")
    env = env_of("web", **path_with(ipam, host))
    result = host.plugin.succeeds("ADD", host.conf(ipam=DELEGATED, dns=None), **env)
    inside = host.inside()
    assert addresses_of(inside) == [f"{plan.FRONT.host4(7)}/24"]
    (route,) = json.loads(inside.ip("-json", "route", "show", "198.51.100.0/24"))
    assert route["gateway"] == GATEWAY
    assert result["ips"] == [LEASED["ips"][0] | {"interface": 2}]
    assert result["dns"] == LEASED["dns"]
    assert ipam.calls == ["ADD"]


@quotes(
    'Delegated plugins are provided the *complete network configuration* passed to the "upper" plugin.',
    "Execute that plugin with the same environment and configuration that it received.",
)
def test_the_delegate_is_called_as_we_were(host: Host, ipam: Recorder) -> None:
    """By every verb, with the configuration as it is, keys included that are not IPAM's, and with every parameter."""
    host.sandbox.namespace("web")
    env = env_of("web", CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAME=web", **path_with(ipam, host))
    conf = host.conf(ipam=DELEGATED, args={"labels": {"tier": "front"}})
    previous = host.plugin.succeeds("ADD", conf, **env)
    confs = {
        "ADD": conf,
        "CHECK": conf | {"prevResult": previous},
        "STATUS": conf,
        "GC": conf | {"cni.dev/valid-attachments": [{"containerID": "web", "ifname": "eth0"}]},
        "DEL": conf | {"prevResult": previous},
    }
    for verb, sent in confs.items():
        if verb != "ADD":
            host.plugin.succeeds(verb, sent, **env)
        assert ipam.configuration(verb) == sent
        received = ipam.environment(verb)
        assert {name: received.get(name) for name in (*env, "CNI_COMMAND")} == {**env, "CNI_COMMAND": verb}
    assert ipam.calls == list(confs)


@quotes(
    "The delegated plugin must receive all the same environment variables that were passed in to the CNI plugin.",
)
def test_the_delegate_gets_every_variable(host: Host, ipam: Recorder) -> None:
    """Also those that are not CNI's: a site may have told its IPAM plugin something by one."""
    host.sandbox.namespace("web")
    env = env_of("web", A_SITE_OF_ITS_OWN="rack 7", **path_with(ipam, host))
    host.plugin.succeeds("ADD", host.conf(ipam=DELEGATED), **env)
    assert ipam.environment("ADD").get("A_SITE_OF_ITS_OWN") == "rack 7"


@quotes("Ensure that the delegated plugin's stderr is output to the calling plugin's stderr.")
def test_the_delegates_words_for_people(host: Host, ipam: Recorder) -> None:
    """They are on our standard error, of a call that succeeds and of one that fails."""
    host.sandbox.namespace("web")
    env = env_of("web", **path_with(ipam, host))
    assert recorder.SAID in host.plugin("ADD", host.conf(ipam=DELEGATED), **env).stderr
    ipam.fails("DEL", LOST)
    assert recorder.SAID in host.plugin("DEL", host.conf(ipam=DELEGATED), **env).stderr


@quotes(
    "it must also execute any delegated plugins. If any of the delegated plugins return error, error should be "
    "returned by the upper plugin.",
    "The plugin should call `CHECK` on any delegated (e.g. IPAM) plugins and pass any errors on to its caller.",
    "If a plugin relies on a delegated plugin (e.g. IPAM) to service `ADD` requests, it must also execute a `STATUS` "
    "request to that plugin",
    "If the delegated plugin return an error result, the executing plugin should return an error result.",
)
@pytest.mark.parametrize("verb", ["CHECK", "DEL", "STATUS"])
def test_the_delegates_error_is_ours(host: Host, ipam: Recorder, verb: str) -> None:
    """A verb that the delegate says no to fails with its code and words; a DEL has removed all that is ours before."""
    host.sandbox.namespace("web")
    env = env_of("web", **path_with(ipam, host))
    conf = host.conf(ipam=DELEGATED)
    conf |= {"prevResult": host.plugin.succeeds("ADD", conf, **env)}
    ipam.forget()
    host.plugin.succeeds(verb, conf, **env)
    assert ipam.calls == [verb]
    if verb == "DEL":
        host.plugin.succeeds("ADD", conf, **env)
    ipam.fails(verb, LOST)
    error = host.plugin.fails(verb, conf, **env)
    assert error["code"] == LOST["code"]
    assert LOST["msg"] in words_of(error)
    if verb == "DEL":
        assert host.left() == ([], set(), [])


@quotes(
    'If, on `ADD`, a delegated plugin fails, the "upper" plugin should execute again with `DEL` before returning '
    "failure.",
)
@pytest.mark.parametrize("failure", ["it says no", "its result is of no use", "a later step fails"])
def test_an_add_that_fails_gives_back_the_lease(host: Host, ipam: Recorder, failure: str) -> None:
    """The delegate gets a DEL, and nothing is left in the container or on the host."""
    env = path_with(ipam, host)
    host.sandbox.namespace("web")
    conf = host.conf(ipam=DELEGATED)
    match failure:
        case "it says no":
            ipam.fails("ADD", LOST)
        case "its result is of no use":
            ipam.answers("ADD", {"cniVersion": "1.1.0", "ips": [{"address": "somewhere"}]})
        case "a later step fails":
            conf["runtimeConfig"] = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
            host.sandbox.namespace("other")
            ipam.answers("ADD", LEASED | {"ips": [{"address": f"{plan.FRONT.host4(8)}/24", "gateway": GATEWAY}]})
            host.plugin.succeeds("ADD", conf, **env_of("other", **env))
            ipam.answers("ADD", LEASED)
    before = host.left()
    ipam.forget()
    host.plugin.fails("ADD", conf, **env_of("web", **env))
    assert ipam.calls == ["ADD", "DEL"]
    assert host.left() == before
    assert host.inside().run("ip", "link", "show", "dev", "eth0", check=False).returncode != 0


# IPAM


@quotes(
    "Delegated IPAM plugins must return an abbreviated _Success_ object. Specifically, it is missing the "
    "`interfaces` array, as well as the `interface` entry in `ips`.",
    "The IPAM plugin must determine the interface IP/subnet, Gateway and Routes and return this information to the "
    '"main" plugin to apply.',
)
def test_our_host_local_abbreviates(sandbox: Sandbox, tmp_path: Path) -> None:
    """As host-local, ours gives address, gateway and routes, and no interface."""
    plugin = install(sandbox, tmp_path, "host-local")
    sandbox.namespace("web")
    conf = {"cniVersion": "1.1.0", "name": plan.FRONT.name, "type": "bridge", "ipam": IPAM}
    result = plugin.succeeds("ADD", conf, **env_of("web"))
    assert result.keys() <= {"cniVersion", "ips", "routes", "dns"}
    assert result["ips"] == [{"address": f"{plan.FRONT.host4(2)}/24", "gateway": GATEWAY}]
    assert result["routes"] == [{"dst": "0.0.0.0/0"}]


@quotes(
    "an IPAM plugin should generally release an IP allocation and return success even if the container network "
    "namespace no longer exists",
)
@pytest.mark.parametrize("netns", ["/run/netns/web", ""])
def test_our_host_local_releases_without_a_namespace(sandbox: Sandbox, tmp_path: Path, netns: str) -> None:
    """Its DEL needs container and interface name, and nothing else."""
    plugin = install(sandbox, tmp_path, "host-local")
    sandbox.namespace("web")
    conf = {"cniVersion": "1.1.0", "name": plan.FRONT.name, "type": "bridge", "ipam": IPAM}
    plugin.succeeds("ADD", conf, **env_of("web"))
    sandbox.remove_namespace("web")
    for _ in range(2):
        plugin.succeeds("DEL", conf, **(env_of("web") | {"CNI_NETNS": netns}))
        assert sandbox.run("find", LEASES, "-name", "10.*").stdout == ""
