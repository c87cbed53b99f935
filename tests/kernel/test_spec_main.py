"""SPEC 1.1, sentence by sentence: what binds a plugin that makes interfaces. To delegate: test_spec_delegation.py."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plugin.versions import SUPPORTED_VERSIONS
from support import plan
from support.mainhost import (
    DNS,
    GATEWAY,
    LEASES,
    MAIN,
    Host,
    addresses_of,
    env_of,
    link_of,
    main_host,
)
from support.netns import Namespace, Sandbox, wait_until
from support.spec import quotes
from support.started import words_of
from support.traffic import ask, serve

MODERN = [version for version in SUPPORTED_VERSIONS if version >= "0.3.0"]
OLD = [version for version in SUPPORTED_VERSIONS if version not in MODERN]
"""Versions whose results hold no interfaces."""


@pytest.fixture(params=MAIN)
def host(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Host:
    """A host, once for each main plugin."""
    return main_host(request.param, sandbox, tmp_path)


# ADD


@quotes("create the interface defined by `CNI_IFNAME` inside the container at `CNI_NETNS`")
def test_add_makes_the_interface(host: Host) -> None:
    """It is there by this name, up, with the address of the result, and the way out leads over the gateway."""
    serve(host.sandbox, "host", "tcp", 7000)
    for name, ifname in {"web": "eth0", "other": "net1", "third": "a.b-c_d15chars0"}.items():
        result = host.attach(name, ifname)["prevResult"]
        inside = host.inside(name)
        assert "UP" in link_of(inside, ifname)["flags"]
        assert addresses_of(inside, ifname) == [result["ips"][0]["address"]]
        (route,) = json.loads(inside.ip("-json", "route", "show", "default"))
        assert (route["gateway"], route["dev"]) == (GATEWAY, ifname)
        assert ask(inside, GATEWAY, 7000) is not None


@quotes(
    "Plugins must output a JSON object with the following keys upon a successful `ADD` operation",
    "An array of all interfaces created by the attachment, including any host-level interfaces",
    "For interfaces created inside the container, this should be the value passed via `CNI_NETNS`.",
    "the index into the `interfaces` list for a CNI Plugin Result indicating which interface this IP configuration "
    "should be applied to.",
    "Routes created by this attachment",
    "a dictionary consisting of DNS configuration information",
)
def test_the_result(host: Host) -> None:
    """Each interface with the hardware address it has, the address on the container's, the route, and the DNS."""
    result = host.attach()["prevResult"]
    (veth,) = host.ports()
    assert result.keys() == {"cniVersion", "interfaces", "ips", "routes", "dns"}
    places: list[tuple[str, Namespace | Sandbox, str]] = [
        (plan.FRONT.device, host.sandbox, ""),
        (veth, host.sandbox, ""),
        ("eth0", host.inside(), "/run/netns/web"),
    ]
    for written, (name, place, netns) in zip(result["interfaces"], places, strict=True):
        link = link_of(place, name)
        assert written == {"name": name, "mac": link["address"], "mtu": link["mtu"]} | (
            {"sandbox": netns} if netns else {}
        )
    assert result["ips"] == [{"address": addresses_of(host.inside())[0], "gateway": GATEWAY, "interface": 2}]
    assert [route["dst"] for route in result["routes"]] == ["0.0.0.0/0"]
    assert result["dns"] == DNS


@quotes("The same version supplied on input")
def test_the_result_in_every_version(host: Host) -> None:
    """What a version does not know is not in its results."""
    for number, version in enumerate(MODERN):
        result = host.attach(f"web{number}", cniVersion=version)["prevResult"]
        assert result["cniVersion"] == version
        assert len(result["interfaces"]) == 3
        assert ["mtu" in one for one in result["interfaces"]] == [version == "1.1.0"] * 3
        assert [one.get("version") for one in result["ips"]] == ["4" if version < "1.0.0" else None]
        assert result["routes"][0]["dst"] == "0.0.0.0/0"


@quotes("The same version supplied on input")
def test_the_result_of_old_versions(host: Host) -> None:
    """Before 0.3.0 a result held one address and its routes, and no interface."""
    for number, version in enumerate(OLD):
        result = host.attach(f"web{number}", cniVersion=version)["prevResult"]
        assert result["cniVersion"] == version
        assert result["ip4"]["ip"] == addresses_of(host.inside(f"web{number}"))[0]
        assert result["ip4"]["routes"][0]["dst"] == "0.0.0.0/0"
        assert result.keys() <= {"cniVersion", "ip4", "dns"}


@quotes(
    "If an interface of the requested name already exists in the container, the CNI plugin MUST return with an error.",
)
def test_an_interface_that_exists(host: Host) -> None:
    """Whosever it is, it stays as it is; nothing is left of the call, and the error names the interface."""
    inside = host.sandbox.namespace("web")
    host.sandbox.link("foreign", inside, "eth0", peer_address="192.0.2.7/24")
    before = link_of(inside, "eth0")
    error = host.plugin.fails("ADD", host.conf(), **env_of("web"))
    assert "eth0" in words_of(error)
    assert host.left() == ([], set(), [])
    after = link_of(inside, "eth0")
    assert (after["ifindex"], addresses_of(inside)) == (before["ifindex"], ["192.0.2.7/24"])


@quotes(
    "a given container ID may be added to a specific network more than once only if each addition is done with a "
    "different interface name",
)
def test_two_interfaces_of_one_container(host: Host) -> None:
    """Each has an address of its own; one goes, and the other stays."""
    first, second = host.attach(), host.attach(ifname="net1")
    assert len(host.leases()) == 2
    host.plugin.succeeds("DEL", first, **env_of("web"))
    assert host.leases() == [second["prevResult"]["ips"][0]["address"].partition("/")[0]]
    assert len(host.ports()) == 1
    host.plugin.succeeds("CHECK", second, **env_of("web", "net1"))


# DEL


@quotes(
    "delete the interface defined by `CNI_IFNAME` inside the container at `CNI_NETNS`",
    "the `bridge` plugin should delegate the DEL action to the IPAM plugin and clean up its own resources even if "
    "the container network namespace and/or container network interface no longer exist.",
    "Plugins should generally complete a `DEL` action without error even if some resources are missing.",
    "Plugins MUST accept multiple `DEL` calls for the same (`CNI_CONTAINERID`, `CNI_IFNAME`) pair, and return "
    "success if the interface in question, or any modifications added, are missing.",
)
@pytest.mark.parametrize("missing", ["nothing", "CNI_NETNS", "namespace", "interface", "bridge", "lease", "prevResult"])
def test_delete(host: Host, missing: str) -> None:
    """Interface, veth, lease and state go, and a second DEL ends well, too; whatever is gone already, and however."""
    conf, env = host.attach(), env_of("web")
    match missing:
        case "CNI_NETNS":
            env["CNI_NETNS"] = ""
        case "namespace":
            host.sandbox.remove_namespace("web")
        case "interface":
            host.inside().ip("link", "delete", "eth0")
        case "bridge":
            host.sandbox.ip("link", "delete", plan.FRONT.device)
        case "lease":
            host.sandbox.run("rm", "-r", LEASES)
        case "prevResult":
            conf = host.conf()
    for _ in range(2):
        host.plugin.succeeds("DEL", conf, **env)
        assert host.left() == ([], set(), [])
    if missing != "namespace":
        assert host.inside().run("ip", "link", "show", "dev", "eth0", check=False).returncode != 0
    assert json.loads(host.sandbox.ip("-json", "link", "show", "type", "veth") or "[]") == []


# CHECK


@quotes(
    "The plugin must handle `CHECK` being called immediately after an `ADD`, and therefore should allow a reasonable "
    "convergence delay for any asynchronous resources.",
    "The plugin must allow for a later chained plugin to have modified networking resources, e.g. routes, on `ADD`.",
)
def test_check_of_what_is_well(host: Host) -> None:
    """Right after ADD, and with what later plugins added and changed by their results."""
    conf = host.attach()
    host.plugin.succeeds("CHECK", conf, **env_of("web"))
    inside = host.inside()
    inside.ip("link", "set", "eth0", "address", "02:00:00:00:00:99")
    inside.ip("address", "add", "203.0.113.7/24", "dev", "eth0")
    inside.ip("route", "add", "198.51.100.0/24", "via", GATEWAY)
    previous = conf["prevResult"]
    previous["interfaces"][2]["mac"] = "02:00:00:00:00:99"
    previous["interfaces"].append({"name": "tun0", "sandbox": "/run/netns/web"})
    previous["ips"].append({"address": "203.0.113.7/24", "interface": 2})
    previous["routes"].append({"dst": "198.51.100.0/24", "gw": GATEWAY})
    host.plugin.succeeds("CHECK", conf, **env_of("web"))


@quotes(
    "The plugin should return an error if a resource included in the CNI Result type (interface, address or route) "
    "was created by the plugin, and is listed in `prevResult`, but is missing or in an invalid state.",
    "The plugin should return an error if it is aware of a condition where the container is generally unreachable.",
    "IP reservations",
)
@pytest.mark.parametrize(
    "lost", ["address", "route", "interface", "its name", "up", "bridge port", "host veth up", "gateway", "lease"]
)
def test_check_of_what_is_lost(host: Host, lost: str) -> None:
    """The error of CHECK says what differs."""
    conf = host.attach()
    inside, (veth,) = host.inside(), host.ports()
    address = conf["prevResult"]["ips"][0]["address"]
    match lost:
        case "address":
            inside.ip("address", "delete", address, "dev", "eth0")
        case "route":
            inside.ip("route", "delete", "default")
        case "interface":
            inside.ip("link", "delete", "eth0")
        case "its name":
            inside.ip("link", "set", "eth0", "down", "name", "eth9")
        case "up":
            inside.ip("link", "set", "eth0", "down")
        case "bridge port":
            host.sandbox.ip("link", "set", veth, "nomaster")
        case "host veth up":
            host.sandbox.ip("link", "set", veth, "down")
        case "gateway":
            host.sandbox.ip("address", "delete", f"{GATEWAY}/24", "dev", plan.FRONT.device)
        case "lease":
            host.sandbox.run("rm", f"{LEASES}/{address.partition('/')[0]}")
    host.plugin.fails("CHECK", conf, **env_of("web"))


@quotes("The plugin must consult the `prevResult` to determine the expected interfaces and addresses.")
@pytest.mark.parametrize("changed", ["none", "address", "mac", "route"])
def test_check_reads_the_previous_result(host: Host, changed: str) -> None:
    """CHECK fails without one, and with one that says what never was."""
    conf = host.attach()
    match changed:
        case "none":
            del conf["prevResult"]
        case "address":
            conf["prevResult"]["ips"][0]["address"] = f"{plan.FRONT.host4(77)}/24"
        case "mac":
            conf["prevResult"]["interfaces"][2]["mac"] = "02:00:00:00:00:99"
        case "route":
            conf["prevResult"]["routes"].append({"dst": "198.51.100.0/24", "gw": GATEWAY})
    host.plugin.fails("CHECK", conf, **env_of("web"))


# STATUS


@quotes(
    "A plugin must exit with a zero (success) return code if the plugin is ready to service ADD requests.",
    "it must exit with a non-zero return code and output an error on standard out",
    "The plugin is not available (i.e. cannot service `ADD` requests)",
    "if a plugin has a limited number of resources (e.g. IP addresses, hardware queues), it should return an error "
    "if those resources are exhausted",
    "Plugins should always expect other CNI operations (like `ADD`, `DEL`, etc) even if `STATUS` returns an error.",
)
def test_status_when_addresses_are_exhausted(host: Host) -> None:
    """Two addresses: ready, ready, then 50; ADD says no and leaves nothing, DEL makes it ready again."""
    tiny = {"type": "host-local", "subnet": str(plan.FRONT.subnet4), "rangeStart": "10.11.0.2", "rangeEnd": "10.11.0.3"}
    confs = []
    for name in ("web", "other"):
        host.plugin.succeeds("STATUS", host.conf(ipam=tiny))
        confs.append(host.attach(name, ipam=tiny))
    error = host.plugin.fails("STATUS", host.conf(ipam=tiny))
    assert error["code"] == 50
    assert plan.FRONT.name in words_of(error)
    host.sandbox.namespace("third")
    host.plugin.fails("ADD", host.conf(ipam=tiny), **env_of("third"))
    assert (len(host.leases()), len(host.ports())) == (2, 2)
    host.plugin.succeeds("CHECK", confs[1], **env_of("other"))
    host.plugin.succeeds("DEL", confs[0], **env_of("web"))
    host.plugin.succeeds("STATUS", host.conf(ipam=tiny))
    host.attach("third", ipam=tiny)


# GC


@quotes(
    "A plugin SHOULD remove as many stale resources as possible.",
    "a plugin should remove any IPAM reservations associated with attachments not in the provided list.",
    "Plugins should generally complete a `GC` action without error.",
)
def test_gc(host: Host) -> None:
    """Leases, veths and state of all but the valid go, also where the namespace is gone; without a list nothing."""
    confs = {name: host.attach(name) for name in ("web", "other", "third")}
    host.sandbox.remove_namespace("third")
    leased = host.leases()
    host.plugin.succeeds("GC", host.conf())
    assert host.leases() == leased
    wait_until(lambda: len(host.ports()) == 2, what="the wire to go with its namespace")
    host.plugin.succeeds("GC", host.conf() | {"cni.dev/valid-attachments": [{"containerID": "web", "ifname": "eth0"}]})
    assert host.leases() == [confs["web"]["prevResult"]["ips"][0]["address"].partition("/")[0]]
    assert len(host.ports()) == 1
    host.plugin.succeeds("CHECK", confs["web"], **env_of("web"))
    host.plugin.succeeds("GC", host.conf() | {"cni.dev/valid-attachments": []})
    assert host.left() == ([], set(), [])


# Lifecycle


@quotes(
    "Plugins must handle being executed concurrently across different containers.",
    "If necessary, they must implement locking on shared resources (e.g. IPAM databases).",
)
def test_many_at_once(host: Host) -> None:
    """Twelve containers come at the same time and no address is given twice; they go at the same time."""
    names = [f"web{number}" for number in range(12)]
    for name in names:
        host.sandbox.namespace(name)
    with ThreadPoolExecutor(len(names)) as pool:
        confs = dict(zip(names, pool.map(host.attach, names), strict=True))
        assert len({conf["prevResult"]["ips"][0]["address"] for conf in confs.values()}) == len(names)
        assert (len(host.leases()), len(host.ports())) == (len(names), len(names))
        list(pool.map(lambda name: host.plugin.succeeds("DEL", confs[name], **env_of(name)), names))
    assert host.left() == ([], set(), [])
