"""Names that the kernel accepts and that mean something to nft, a shell or a path never change what a rule means."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support import plan
from support.netns import NO_DROP_INS, Sandbox
from support.world import World

HOSTILE = json.loads((Path(__file__).parents[1] / "data" / "hostile_names.json").read_text())["names"]


def add(world: World, network: str, container: str, ifname: str, bridge: str, **options: object) -> dict[str, object]:
    """ADD by the plugin alone, after a main plugin that named its bridge so; the plugin's JSON."""
    conf = {
        "cniVersion": "1.0.0",
        "name": network,
        "type": "dataplane",
        "ipMasq": True,
        **options,
        "capabilities": {"portMappings": True},
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": bridge}, {"name": "veth0"}, {"name": ifname, "sandbox": "/run/netns/web"}],
            "ips": [{"address": "10.11.0.2/24", "gateway": "10.11.0.1", "interface": 2}],
        },
    }
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": container,
        "CNI_NETNS": "/run/netns/web",
        "CNI_IFNAME": ifname,
        "CNI_PATH": str(world.plugins),
        **world.environment,
    }
    done = world.host.run(world.plugins / "dataplane", input=json.dumps(conf), env=environment, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    assert done.returncode == (1 if "code" in answer else 0)
    return answer


def ruleset(world: World) -> str:
    """Our table, with the bridge's name taken out of nft's listing."""
    return re.sub(r'(?m)^(\s*elements = \{ |\s+)"[^\n]*" \. 10\.', r"\1BRIDGE . 10.", world.ruleset())


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with a container's namespace."""
    made = World(sandbox, tmp_path)
    sandbox.namespace("web")
    return made


def _make_bridge(name: str) -> bool:
    from pyroute2 import IPRoute, NetlinkError

    with IPRoute() as links:
        try:
            links.link("add", ifname=name, kind="bridge")
        except (NetlinkError, ValueError, UnicodeError):
            return False
        return bool(links.link_lookup(ifname=name))


def test_a_bridge_by_any_name_is_only_a_bridge(world: World) -> None:
    """A bridge whose name is a keyword, a wildcard or worse gives the very ruleset of a harmless one, or an error."""
    world.host.bridge("br-front", f"{plan.FRONT.gateway4}/24")
    assert "code" not in add(world, "front", "web", "eth0", "br-front")
    harmless = ruleset(world)
    made = 0
    for name in filter(None, HOSTILE):
        world.dpctl("uninstall", "--cni-bin", world.plugins / "none", "--conf", world.plugins / "none", *NO_DROP_INS)
        world.host.call(_make_bridge, name)
        answer = add(world, "front", "web", "eth0", name)
        if "code" in answer:
            assert answer["code"] == 7, name
            assert "8080" not in world.ruleset(), name
        else:
            assert ruleset(world) == harmless, name
            made += 1
    assert made > 3, "accept, drop, 0x1 and the like are names as good as any"


def test_a_bridge_named_like_an_index_is_not_that_index(world: World) -> None:
    """A link called "7" beside the link with index 7: the rules are about the one that prevResult named."""
    world.host.bridge("br-front", f"{plan.FRONT.gateway4}/24")
    world.host.run("nft", "add table inet filter; add chain inet filter forward")
    (front,) = json.loads(world.host.ip("-json", "link", "show", "br-front"))
    world.host.bridge(str(front["ifindex"]))
    answer = add(world, "front", "web", "eth0", "br-front", forwardChains=["inet filter forward"])
    assert "code" not in answer
    assert '"br-front" . 10.11.0.2' in world.ruleset()
    assert f'"{front["ifindex"]}" .' not in world.ruleset()
    assert 'iif "br-front" accept' in world.host.run("nft", "list", "table", "inet", "filter").stdout


@pytest.mark.parametrize("field", ["network", "container", "ifname"])
def test_a_hostile_name_is_refused_or_harmless(world: World, field: str) -> None:
    """As network, container or interface name: an error that says which, or the ruleset of any other name."""
    world.host.bridge("br-front")
    names = {"network": "front", "container": "web", "ifname": "eth0"}
    # A NUL cannot be handed to a process in its environment; it can in JSON.
    for name in (name for name in HOSTILE if field == "network" or "\0" not in name):
        answer = add(world, **{**names, field: name}, bridge="br-front")
        if "code" in answer:
            assert answer["code"] in {4, 7}, name
            assert "8080" not in world.ruleset(), name
            assert not json.loads(world.dpctl("ps", "--json"))["attachments"], name
        else:
            comment = "/".join({**names, field: name}.values())
            assert world.ruleset().count(f'comment "{comment}"') == 4, name
        world.dpctl("uninstall", "--cni-bin", world.plugins / "none", "--conf", world.plugins / "none", *NO_DROP_INS)
