"""Our ``bridge`` and containernetworking's, side by side: the same configuration, and what each leaves of it.

Each has a host of its own. After ADD and after DEL all their links, addresses, routes and sysctls are compared; what
may differ is listed in ACCEPTED with its reason. Not compared: the name of the host's end, which ours derives from the
attachment and Go's draws by lot.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import pytest

from support import needs, plan
from support.bridged import Left, differences, in_roles, left_by, settled
from support.netns import Namespace, Sandbox, outer_state
from support.started import Plugin, install
from support.traffic import ask, serve
from support.world import GO_PLUGINS

BRIDGE = plan.FRONT.device
V4, V6 = {"subnet": str(plan.FRONT.subnet4)}, {"subnet": str(plan.FRONT.subnet6)}
MAC = "02:00:5e:00:53:07"
RESOLV_CONF = "/run/resolv.conf"
SETTLED_WITHIN = 3.0
CLEAR = """
for link in $(ip -o link | sed 's/^[0-9]*: \\([^:@]*\\).*/\\1/'); do ip link delete $link 2>/dev/null; done
rm -rf /var/lib/cni/networks
echo 0 >/proc/sys/net/ipv4/ip_forward
echo 0 >/proc/sys/net/ipv6/conf/all/forwarding
"""

ACCEPTED = {
    "host link PORT ifalias": "whose interface it is, for people and for GC, which finds by it what is stale",
    "* link * txqlen": "the kernel's default length of the queue; 1.1.1 makes veths without one, upstream does no more",
    "* address * nodad": "told for each address, as sysctls may be read-only; so the gateway is of use at once",
    "container sysctl net/ipv6/conf/eth0/keep_addr_on_down": "addresses outlive a link set down; upstream now",
    "container sysctl net/ipv6/conf/eth0/ndisc_notify": "arp_notify's counterpart: neighbours learn the new MAC",
}
"""What may differ, and why; patterns of the lines that are compared."""

ACCEPTED_WITHOUT_GATEWAY = {
    "host link br-front address": "a bridge that we make keeps its MAC, also where it is no gateway",
    "host link * bridge_id": "made from the MAC that the bridge keeps",
    "host link * root_id": "made from the MAC that the bridge keeps",
}
"""What may differ besides where the bridge has no address."""


def host_local(*subnets: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A configuration of IPAM with a set of addresses for each subnet."""
    return {"type": "host-local", "ranges": [[subnet] for subnet in subnets], **more}


DUAL = host_local(V4, V6)
STATIC = {
    "type": "static",
    "addresses": [{"address": "10.11.0.7/24", "gateway": "10.11.0.1"}, {"address": "fd00:11::7/64"}],
    "routes": [{"dst": "203.0.113.0/24"}, {"dst": "198.51.100.0/24", "gw": "10.11.0.99"}],
}
DNS = {"nameservers": ["192.0.2.54"], "domain": "front.example", "search": ["front.example"], "options": ["ndots:2"]}


@dataclass(frozen=True, slots=True)
class Case:
    """A configuration, what the call says besides, and how the host is before."""

    conf: dict[str, Any] = field(default_factory=dict)
    args: str = ""
    before: tuple[str, ...] = ()
    bridge: str = BRIDGE
    mac: str = ""
    """Which the container's interface must have."""

    @property
    def accepted(self) -> dict[str, str]:
        """What may differ."""
        has_gateway = self.conf.get("ipam") and {"isgateway", "isdefaultgateway"} & {key.lower() for key in self.conf}
        return ACCEPTED if has_gateway else ACCEPTED | ACCEPTED_WITHOUT_GATEWAY


CASES = {
    "layer 2": Case({}),
    "layer 2, empty ipam": Case({"ipam": {}, "isDefaultGateway": True}),
    "no gateway": Case({"ipam": DUAL}),
    "bridge": Case({"bridge": None, "ipam": DUAL, "isGateway": True}, bridge="cni0"),
    "letter case": Case({"ISGATEWAY": True, "ipam": DUAL}),
    "isGateway": Case({"ipam": DUAL, "isGateway": True}),
    "isDefaultGateway": Case({"ipam": DUAL, "isDefaultGateway": True}),
    "isDefaultGateway, IPv4": Case({"ipam": host_local(V4), "isDefaultGateway": True}),
    "isDefaultGateway, IPv6": Case({"ipam": host_local(V6), "isDefaultGateway": True}),
    "isDefaultGateway, route with gateway": Case(
        {"ipam": host_local(V4, routes=[{"dst": "0.0.0.0/0", "gw": "10.11.0.9"}]), "isDefaultGateway": True}
    ),
    "gateway of its own": Case({"ipam": host_local(V4 | {"gateway": "10.11.0.254"}), "isGateway": True}),
    "two subnets of a family": Case({"ipam": host_local(V6, {"subnet": "fd00:13::/64"}), "isDefaultGateway": True}),
    "forceAddress": Case(
        {"ipam": DUAL, "isGateway": True, "forceAddress": True},
        before=(
            f"link add {BRIDGE} type bridge",
            f"address add 10.99.0.1/16 dev {BRIDGE}",
            f"address add fd00:11::9/48 dev {BRIDGE} nodad",
            f"address add fd00:99::1/64 dev {BRIDGE} nodad",
        ),
    ),
    "a bridge that is there": Case(
        {"ipam": DUAL, "isGateway": True},
        before=(
            f"link add {BRIDGE} mtu 1400 type bridge",
            f"address add 10.11.0.1/24 dev {BRIDGE}",
            f"link set {BRIDGE} up",
        ),
    ),
    "mtu": Case({"ipam": DUAL, "isGateway": True, "mtu": 1400}),
    "hairpinMode": Case({"ipam": DUAL, "isGateway": True, "hairpinMode": True}),
    "promiscMode": Case({"ipam": DUAL, "isGateway": True, "promiscMode": True}),
    "vlan 0": Case({"ipam": DUAL, "vlan": 0}),
    "mac by CNI_ARGS": Case({"ipam": DUAL}, args=f"IgnoreUnknown=1;MAC={MAC}", mac=MAC),
    "mac by args": Case(
        {"ipam": DUAL, "args": {"cni": {"mac": MAC}}}, args="IgnoreUnknown=1;MAC=02:00:5e:00:53:01", mac=MAC
    ),
    "mac by runtimeConfig": Case(
        {"args": {"cni": {"mac": "02:00:5e:00:53:02"}}, "runtimeConfig": {"mac": MAC}},
        args="IgnoreUnknown=1;MAC=02:00:5e:00:53:01",
        mac=MAC,
    ),
    "address by CNI_ARGS": Case({"ipam": DUAL}, args="IgnoreUnknown=true;IP=10.11.0.77"),
    "address by args": Case({"ipam": DUAL, "args": {"cni": {"ips": ["10.11.0.78"]}}}),
    "address by runtimeConfig": Case({"ipam": DUAL, "runtimeConfig": {"ips": ["10.11.0.79/24", "fd00:11::79"]}}),
    "dns": Case({"ipam": host_local(V4, resolvConf=RESOLV_CONF), "dns": DNS}),
    "routes": Case(
        {
            "ipam": host_local(
                V4, V6, routes=[{"dst": "198.51.100.0/24"}, {"dst": "2001:db8:51::/48", "gw": "fd00:11::9"}]
            )
        }
    ),
    "static": Case({"ipam": STATIC, "isDefaultGateway": True}),
}

REFUSED = {
    "another address": Case(
        {"ipam": DUAL, "isGateway": True},
        before=(f"link add {BRIDGE} type bridge", f"address add 10.99.0.1/16 dev {BRIDGE}"),
    ),
    "an IPv6 subnet that overlaps": Case(
        {"ipam": host_local(V6), "isGateway": True},
        before=(f"link add {BRIDGE} type bridge", f"address add fd00:11::9/48 dev {BRIDGE} nodad"),
    ),
    "no bridge": Case({"ipam": DUAL}, before=(f"link add {BRIDGE} type veth peer name other",)),
    "an interface that is there": Case({"ipam": DUAL}, before=("link add foreign type veth peer name eth0 netns web",)),
    "hairpinMode and promiscMode": Case({"ipam": DUAL, "hairpinMode": True, "promiscMode": True}),
    "vlan": Case({"ipam": DUAL, "vlan": 4095}),
    "mtu": Case({"ipam": DUAL, "mtu": 20}),
    "mac": Case({"ipam": DUAL, "runtimeConfig": {"mac": "02:00:5e:00:53"}}),
    "address": Case({"ipam": DUAL, "runtimeConfig": {"ips": ["10.99.0.7"]}}),
    "ipam": Case({"ipam": {"type": "not-installed"}}),
    "ipam fails": Case({"ipam": {"type": "static"}}),
}

SERVED = {
    "a default route without gateway": (
        Case({"ipam": host_local(V4, V6, routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]), "isDefaultGateway": True}),
        "it leads over the gateway, and is not added a second time",
    ),
    "CNI_ARGS of others": (
        Case({"ipam": DUAL}, args="MAC=02:00:5e:00:53:07;SOMETHING=else"),
        "they are for every plugin of a chain, which knows its own",
    ),
}
"""What Go's plugin refuses and ours does not, and why."""


class Side:
    """One of the plugins on its host."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin, self.host = plugin, plugin.host
        # Without duplicate address detection on the bridge, so that there is nothing to wait for.
        self.host.sysctl("net/ipv6/conf/default/accept_dad", 0)
        self.host.run("tee", RESOLV_CONF, input="nameserver 192.0.2.53\nsearch example\n")

    def call(self, verb: str, conf: dict[str, Any], args: str = "", container: str = "web") -> dict[str, Any]:
        """A call that must succeed."""
        return self.plugin.succeeds(verb, conf, **self.environment(container, args))

    def environment(self, container: str = "web", args: str = "") -> dict[str, str | None]:
        """The parameters of an attachment; the foreign IPAM plugins are Debian's."""
        path = f"{self.plugin.path.parent}:{GO_PLUGINS}"
        netns = f"/run/netns/{container}"
        return {"CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_ARGS": args, "CNI_PATH": path}

    def before(self, case: Case) -> None:
        """Bring about what the case says is there."""
        self.host.namespace("web")
        for words in case.before:
            self.host.ip(*words.split())

    def clear(self, *containers: str) -> None:
        """Take away whatever is left."""
        for container in containers:
            self.host.remove_namespace(container)
        self.host.run("sh", "-c", CLEAR)

    def leases(self) -> set[str]:
        """host-local's files, without its lock and marks of the last address."""
        listed = self.host.run("find", "/var/lib/cni/networks", "-name", "*[.:]*", check=False).stdout.split()
        return {path for path in listed if "last_reserved" not in path}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    """Go's and ours."""
    needs.root()
    go = needs.file(GO_PLUGINS / "bridge", package="containernetworking-plugins")
    outside = outer_state()
    with Sandbox("go") as first, Sandbox("ours") as second:
        yield Side(Plugin(first, go)), Side(install(second, tmp_path_factory.mktemp("ours"), "bridge"))
    assert outer_state() == outside


def configuration(version: str = "1.0.0", **changed: Any) -> dict[str, Any]:
    """A configuration; ``key=None`` takes a key away."""
    written = {"cniVersion": version, "name": plan.FRONT.name, "type": "bridge", "bridge": BRIDGE, **changed}
    return {name: value for name, value in written.items() if value is not None}


def unaccepted(case: Case, go: Left, ours: Left) -> dict[str, tuple[Any, Any]]:
    """The differences that are not listed."""
    found = differences(go, ours)
    return {line: both for line, both in found.items() if not any(fnmatchcase(line, one) for one in case.accepted)}


def assert_the_same(sides: tuple[Side, Side], case: Case) -> None:
    """Both have left the same, at once or as soon as the kernel has noticed all carriers."""
    end = time.monotonic() + SETTLED_WITHIN
    found = None
    while found != {} and time.monotonic() < end:
        found = unaccepted(case, *(left_by(side.host, "web", case.bridge) for side in sides))
    assert found == {}


@pytest.mark.parametrize("name", CASES)
def test_the_same_is_left(sides: tuple[Side, Side], name: str) -> None:
    """The same links, addresses, routes and sysctls after ADD and after DEL, the same result, and the same leases."""
    case = CASES[name]
    conf = configuration(**case.conf)
    try:
        for side in sides:
            side.before(case)
        go, ours = (side.call("ADD", conf, case.args) for side in sides)
        assert in_roles(go) == in_roles(ours)
        assert case.mac in {"", ours["interfaces"][2]["mac"]}
        assert sides[0].leases() == sides[1].leases()
        assert_the_same(sides, case)
        for side in sides:
            side.call("DEL", conf, case.args)
            assert side.leases() == set()
        go, ours = (settled(left_by(side.host, "web", case.bridge)) for side in sides)
        assert unaccepted(case, go, ours) == {}
    finally:
        for side in sides:
            side.clear("web")


@pytest.mark.parametrize("name", REFUSED)
def test_the_same_is_refused(sides: tuple[Side, Side], name: str) -> None:
    """What Go's plugin refuses, ours refuses too, and leaves host and container as they were."""
    case = REFUSED[name]
    for side in sides:
        try:
            side.before(case)
            before = left_by(side.host, "web", case.bridge)
            assert side.plugin("ADD", configuration(**case.conf), **side.environment("web", case.args)).exit_code == 1
            after = left_by(side.host, "web", case.bridge)
            assert side.leases() == set()
            if side is sides[1]:
                kept = {line: both for line, both in differences(before, after).items() if BRIDGE not in line}
                assert kept == {}
        finally:
            side.clear("web")


@pytest.mark.parametrize("name", SERVED)
def test_what_only_ours_serves(sides: tuple[Side, Side], name: str) -> None:
    """What Go's plugin refuses for no reason of the user's; CHECK is content with what ours makes of it."""
    case, _ = SERVED[name]
    conf = configuration(**case.conf)
    try:
        for side in sides:
            side.before(case)
        assert sides[0].plugin("ADD", conf, **sides[0].environment("web", case.args)).exit_code == 1
        conf |= {"prevResult": sides[1].call("ADD", conf, case.args)}
        sides[1].call("CHECK", conf, case.args)
    finally:
        for side in sides:
            side.clear("web")


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_the_same_result_in_every_version(sides: tuple[Side, Side], version: str) -> None:
    """Each version that both know has the same words for dual stack, routes and DNS."""
    ipam = host_local(V4, V6, routes=[{"dst": "198.51.100.0/24"}, {"dst": "2001:db8:51::/48", "gw": "fd00:11::9"}])
    conf = configuration(version, ipam=ipam, isDefaultGateway=True, dns=DNS)
    results = []
    for side in sides:
        try:
            side.before(CASES["layer 2"])
            results.append(in_roles(side.call("ADD", conf)))
        finally:
            side.clear("web")
    assert results[0] == results[1]


def test_the_same_several_interfaces(sides: tuple[Side, Side]) -> None:
    """Two on one network and one on another, in one container; the second goes, and the others stay as they are."""
    front = configuration(ipam=DUAL, isGateway=True)
    ranges = host_local({"subnet": str(plan.BACK.subnet4)}, {"subnet": str(plan.BACK.subnet6)})
    back = configuration(name=plan.BACK.name, bridge=plan.BACK.device, ipam=ranges, isGateway=True)
    lefts = []
    for side in sides:
        try:
            side.before(CASES["layer 2"])
            for conf, ifname in ((front, "eth0"), (front, "eth1"), (back, "eth2")):
                side.plugin.succeeds("ADD", conf, **side.environment() | {"CNI_IFNAME": ifname})
            side.plugin.succeeds("DEL", front, **side.environment() | {"CNI_IFNAME": "eth1"})
            found = left_by(side.host, "web", BRIDGE)
            lefts.append({line: value for line, value in found.items() if line.startswith("container address eth")})
            assert len(side.leases()) == 4
        finally:
            side.clear("web")
    assert unaccepted(CASES["layer 2"], *lefts) == {}
    assert {line.split()[2] for line in lefts[1]} == {"eth0", "eth2"}


def test_the_same_masquerade(sides: tuple[Side, Side]) -> None:
    """With ipMasq the world sees the host's address, and other containers the container's own; without, both see it."""
    for side in sides:
        seen = []
        for masquerade in (True, False):
            outside = side.host.namespace("outside")
            try:
                seen.append(_seen(side, outside, masquerade=masquerade))
            finally:
                side.clear("web", "db", "outside")
        assert seen == [(str(plan.HOST4), "10.11.0.2"), ("10.11.0.2", "10.11.0.2")], side.plugin.path


def _seen(side: Side, outside: Namespace, *, masquerade: bool) -> tuple[str, str]:
    side.host.link("uplink", outside, "eth0", f"{plan.HOST4}/24", f"{plan.CLIENT4}/24")
    outside.ip("route", "add", "default", "via", plan.HOST4)
    conf = configuration(ipam=host_local(V4), isDefaultGateway=True, ipMasq=masquerade)
    for container in ("web", "db"):
        side.host.namespace(container)
        side.call("ADD", conf, container=container)
    db, web = side.host.namespace("db"), side.host.namespace("web")
    serve(outside, "outside", "tcp", 80)
    serve(db, "db", "tcp", 80)
    abroad, at_home = ask(web, plan.CLIENT4, 80), ask(web, "10.11.0.3", 80)
    for container in ("web", "db"):
        side.call("DEL", conf, container=container)
    assert abroad is not None
    assert at_home is not None
    return abroad.address, at_home.address


def test_every_accepted_difference_is_one(sides: tuple[Side, Side]) -> None:
    """What is listed as accepted does differ, so that the list does not hide what comes to be the same."""
    found: set[str] = set()
    for conf in (configuration(), configuration(ipam=DUAL, isGateway=True)):
        try:
            for side in sides:
                side.before(CASES["layer 2"])
                side.call("ADD", conf)
            found.update(differences(*(left_by(side.host, "web", BRIDGE) for side in sides)))
        finally:
            for side in sides:
                side.clear("web")
    assert [
        one for one in ACCEPTED | ACCEPTED_WITHOUT_GATEWAY if not any(fnmatchcase(line, one) for line in found)
    ] == []


# Switching over


@pytest.mark.parametrize("direction", ["to ours", "to Go's"])
def test_the_one_removes_what_the_other_made(sides: tuple[Side, Side], direction: str) -> None:
    """A container that is there while the plugin is replaced: CHECK is content, and DEL leaves nothing of it."""
    go, ours = sides
    first, second = (go, ours) if direction == "to ours" else (ours, go)
    host = ours.host
    makes, removes = (Plugin(host, one.plugin.path) for one in (first, second))
    conf = configuration("0.4.0", ipam=DUAL, isDefaultGateway=True)
    environment = ours.environment("switched")
    try:
        host.namespace("switched")
        conf |= {"prevResult": makes.succeeds("ADD", conf, **environment)}
        if second is go:
            removes.succeeds("CHECK", conf, **environment)
        else:
            # The interface is as it should be; that nobody told us of it is all there is to say.
            error = removes.fails("CHECK", conf, **environment)
            assert error["details"] == (
                "attachment front/switched/eth0 (bridge) is not known here: it was removed, or never added"
            )
        removes.succeeds("DEL", conf, **environment)
        left = left_by(host, "switched", BRIDGE)
        assert not [line for line in left if "veth" in line or " eth0 " in line]
        assert ours.leases() == set()
        makes.succeeds("DEL", conf, **environment)
    finally:
        ours.clear("switched")
