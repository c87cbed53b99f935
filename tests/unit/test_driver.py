"""The driver: libcni's part of the protocol, played against plugins that write down how they were called."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from plugin.driver import ConfList, Driver
from plugin.errors import CniError, Code, ConfigError

# A plugin: appends its call to calls.json and answers what answer-VERB says, or adds its name to prevResult.
PLUGIN = """#!{python} -IS
import json, os, pathlib, sys
here, name = pathlib.Path(__file__).parent, pathlib.Path(__file__).name
verb, conf = os.environ["CNI_COMMAND"], json.load(sys.stdin)
cni = {{key: value for key, value in os.environ.items() if key.startswith("CNI_")}}
with (here / "calls").open("a") as calls:
    print(json.dumps([name, verb, conf, cni]), file=calls)
failure = here / f"{{name}}-{{verb}}"
if failure.exists():
    print(failure.read_text())
    sys.exit(1)
if verb == "ADD":
    result = conf.get("prevResult", {{"cniVersion": conf["cniVersion"], "by": []}})
    print(json.dumps({{**result, "by": [*result["by"], name]}}))
"""
PORTS: dict[str, object] = {"portMappings": [{"hostPort": 80, "containerPort": 80}], "mac": "02:00:00:00:00:01"}


class World:
    """Two plugins, first and second, and a driver that finds them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "bin"
        self.directory.mkdir()
        for name in ("first", "second"):
            (self.directory / name).write_text(PLUGIN.format(python=sys.executable))
            (self.directory / name).chmod(0o755)
        self.driver = Driver([directory / "none", self.directory], directory / "cache")

    @staticmethod
    def conflist(version: str = "1.1.0", name: str = "front") -> ConfList:
        plugins = [
            {"type": "first", "key": 1},
            {"type": "second", "capabilities": {"portMappings": True, "mac": False}},
        ]
        return ConfList.parse(json.dumps({"cniVersion": version, "name": name, "plugins": plugins}))

    def fail(self, plugin: str, verb: str, answer: str) -> None:
        (self.directory / f"{plugin}-{verb}").write_text(answer)

    def calls(self) -> list[tuple[str, str, dict[str, Any], dict[str, str]]]:
        path = self.directory / "calls"
        calls = [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return calls

    def order(self) -> list[tuple[str, str]]:
        return [(name, verb) for name, verb, _, _ in self.calls()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Plugins and a driver."""
    return World(tmp_path)


def test_add_chains_the_results(world: World) -> None:
    """ADD runs in order; each plugin gets the result of the one before, and the last result is the answer."""
    result = world.driver.add(world.conflist(), "web", "/run/netns/web", "eth0", PORTS, {"IP": "10.0.0.9", "K": "v"})
    assert result == {"cniVersion": "1.1.0", "by": ["first", "second"]}
    (first, verb, first_conf, environment), (second, _, second_conf, _) = world.calls()
    assert (first, second, verb) == ("first", "second", "ADD")
    assert first_conf == {"type": "first", "key": 1, "name": "front", "cniVersion": "1.1.0"}
    assert second_conf["prevResult"] == {"cniVersion": "1.1.0", "by": ["first"]}
    assert environment["CNI_CONTAINERID"] == "web"
    assert environment["CNI_NETNS"] == "/run/netns/web"
    assert environment["CNI_IFNAME"] == "eth0"
    assert environment["CNI_ARGS"] == "IP=10.0.0.9;K=v"
    assert environment["CNI_PATH"].endswith(f":{world.directory}")


def test_only_declared_capabilities_arrive(world: World) -> None:
    """A plugin gets the capability arguments that its entry declares to be true, and no runtimeConfig without one."""
    world.driver.add(world.conflist(), "web", "/n", "eth0", PORTS)
    (_, _, first, _), (_, _, second, _) = world.calls()
    assert "runtimeConfig" not in first
    assert second["runtimeConfig"] == {"portMappings": [{"hostPort": 80, "containerPort": 80}]}


def test_delete_runs_in_reverse_with_the_final_result(world: World) -> None:
    """DEL takes result and arguments from the cache, and forgets them afterwards."""
    conflist = world.conflist()
    result = world.driver.add(conflist, "web", "/n", "eth0", PORTS)
    world.calls()
    world.driver.delete(conflist, "web", "", "eth0")
    (first, _, conf, environment), (second, *_) = world.calls()
    assert (first, second) == ("second", "first")
    assert conf["prevResult"] == result
    assert conf["runtimeConfig"] == {"portMappings": PORTS["portMappings"]}
    assert environment["CNI_NETNS"] == ""
    world.driver.delete(conflist, "web", "", "eth0")
    assert "prevResult" not in world.calls()[0][2]


def test_delete_before_0_4_0_has_no_result(world: World) -> None:
    """prevResult came to DEL with CNI 0.4.0."""
    world.driver.add(world.conflist("0.3.1"), "web", "/n", "eth0")
    world.calls()
    world.driver.delete(world.conflist("0.3.1"), "web", "/n", "eth0")
    assert all("prevResult" not in conf for _, _, conf, _ in world.calls())


def test_check_runs_in_order(world: World) -> None:
    """CHECK gets the final result in every plugin."""
    result = world.driver.add(world.conflist(), "web", "/n", "eth0", PORTS)
    world.calls()
    world.driver.check(world.conflist(), "web", "/n", "eth0")
    calls = world.calls()
    assert [(name, verb) for name, verb, _, _ in calls] == [("first", "CHECK"), ("second", "CHECK")]
    assert all(conf["prevResult"] == result for _, _, conf, _ in calls)


def test_a_failed_add_is_deleted(world: World) -> None:
    """The error is the plugin's own; all plugins get a DEL, and a DEL that fails is noted on it."""
    world.fail("second", "ADD", '{"code": 101, "msg": "port in use", "details": "by web"}')
    world.fail("first", "DEL", "no JSON")
    with pytest.raises(CniError) as raised:
        world.driver.add(world.conflist(), "db", "/n", "eth0")
    error = raised.value
    assert (error.code, error.msg, error.details, error.plugin) == (101, "port in use", "by web", "second")
    assert str(error) == "plugin second: port in use; by web (CNI code 101)"
    assert "plugin first" in error.__notes__[0]
    assert world.order() == [("first", "ADD"), ("second", "ADD"), ("second", "DEL"), ("first", "DEL")]


@pytest.mark.parametrize("answer", ["", "Traceback (most recent call last)", "[]", '{"code": "7"}'])
def test_failures_without_a_cni_error(world: World, answer: str) -> None:
    """A plugin that dies without CNI's words is reported with its own."""
    world.fail("first", "ADD", answer)
    with pytest.raises(CniError) as raised:
        world.driver.add(world.conflist(), "web", "/n", "eth0")
    assert raised.value.code == Code.INTERNAL
    assert answer.strip() in raised.value.details


def test_gc(world: World) -> None:
    """GC first DELs what is cached and not valid, of this network only, then tells every plugin what is valid."""
    for network, container in (("front", "web"), ("front", "db"), ("back", "old")):
        world.driver.add(world.conflist(name=network), container, f"/n/{container}", "eth0")
    world.calls()
    world.driver.gc(world.conflist(), [("web", "eth0")])
    calls = world.calls()
    assert [(name, verb) for name, verb, _, _ in calls] == [
        ("second", "DEL"), ("first", "DEL"), ("first", "GC"), ("second", "GC"),
    ]  # fmt: skip
    assert calls[0][3]["CNI_CONTAINERID"] == "db"
    assert calls[0][3]["CNI_NETNS"] == "/n/db"
    assert calls[2][2]["cni.dev/valid-attachments"] == [{"containerID": "web", "ifname": "eth0"}]


def test_gc_before_1_1_0_only_deletes(world: World) -> None:
    """The verb GC came with CNI 1.1.0; before, what is cached can still be deleted."""
    world.driver.add(world.conflist("1.0.0"), "web", "/n", "eth0")
    world.calls()
    world.driver.gc(world.conflist("1.0.0"), [])
    assert world.order() == [("second", "DEL"), ("first", "DEL")]


def test_gc_goes_on_after_an_error(world: World) -> None:
    """All errors of a GC are raised together."""
    world.fail("first", "GC", '{"code": 11, "msg": "busy"}')
    world.fail("second", "GC", '{"code": 104, "msg": "no"}')
    with pytest.raises(ExceptionGroup) as raised:
        world.driver.gc(world.conflist(), [])
    assert [error.code for error in raised.value.exceptions if isinstance(error, CniError)] == [11, 104]


def test_status(world: World) -> None:
    """STATUS asks every plugin, and is about no attachment."""
    world.driver.status(world.conflist())
    calls = world.calls()
    assert [verb for _, verb, _, _ in calls] == ["STATUS", "STATUS"]
    assert calls[0][3]["CNI_CONTAINERID"] == ""


@pytest.mark.parametrize("name", ["../bin/first", "/bin/sh", "", ".", "..", "a\0b", "none"])
def test_plugins_that_are_not_found(world: World, name: str) -> None:
    """CVE-2021-20206: the type of a plugin is a name, and no path."""
    with pytest.raises(CniError):
        world.driver.find(name)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"name": "x", "cniVersion": "1.0.0", "plugins": []}', '{"name": "x", "plugins": [{"type": "a"}]}',
     '{"name": "x", "cniVersion": "1.0.0", "plugins": [{}]}', '{"name": "x", "cniVersion": "1.0.0", "plugins": [7]}'],
)  # fmt: skip
def test_what_is_no_conflist(text: str) -> None:
    """A file that is no conflist is refused as a whole."""
    with pytest.raises(ValueError, match=r"."):
        ConfList.parse(text)


@pytest.mark.parametrize("error", [CniError(101, "a", "b", "c"), ConfigError("snat", "is bad")])
def test_errors_cross_processes(error: CniError) -> None:
    """A driver in a sandbox hands its errors out unchanged."""
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code) == (type(error), str(error), error.code)
