"""The driver: libcni's part of the protocol, played against plugins that write down how they were called."""

from __future__ import annotations

import base64
import io
import json
import pickle
import threading
from pathlib import Path

import pytest

from plugin.errors import CniError, Code, ConfigError
from plugin.runtime.driver import ConfList, Driver
from support.recorders import Recorders

PORTS: dict[str, object] = {"portMappings": [{"hostPort": 80, "containerPort": 80}], "mac": "02:00:00:00:00:01"}
MADE = {"cniVersion": "1.1.0", "ips": [{"address": "10.11.0.10/24"}]}


class World(Recorders):
    """Two plugins, first and second, and a driver that finds them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "bin")
        self.stderr = io.StringIO()
        self.cache = directory / "cache" / "results"
        self.driver = Driver([directory / "none", self.directory], directory / "cache", self.stderr)

    def network(self, version: str = "1.1.0", name: str = "front", **more: object) -> ConfList:
        return ConfList.parse(self.conflist(version, name, **more))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Plugins and a driver."""
    return World(tmp_path)


def test_add_chains_the_results(world: World) -> None:
    """ADD runs in order; each plugin gets the result of the one before, and the last result is the answer."""
    result = world.driver.add(world.network(), "web", "/run/netns/web", "eth0", PORTS, {"IP": "10.0.0.9", "K": "v"})
    assert result == {**MADE, "by": ["first", "second"]}
    (first, verb, first_conf, environment), (second, _, second_conf, _) = world.calls()
    assert (first, second, verb) == ("first", "second", "ADD")
    assert first_conf == {"type": "first", "key": 1, "name": "front", "cniVersion": "1.1.0"}
    assert second_conf["prevResult"] == {**MADE, "by": ["first"]}
    assert environment["CNI_CONTAINERID"] == "web"
    assert environment["CNI_NETNS"] == "/run/netns/web"
    assert environment["CNI_IFNAME"] == "eth0"
    assert environment["CNI_ARGS"] == "IP=10.0.0.9;K=v"
    assert environment["CNI_PATH"].endswith(f":{world.directory}")


def test_only_declared_capabilities_arrive(world: World) -> None:
    """A plugin gets the capability arguments that its entry declares to be true, and no runtimeConfig without one."""
    world.driver.add(world.network(), "web", "/n", "eth0", PORTS)
    (_, _, first, _), (_, _, second, _) = world.calls()
    assert "runtimeConfig" not in first
    assert second["runtimeConfig"] == {"portMappings": [{"hostPort": 80, "containerPort": 80}]}


def test_delete_runs_in_reverse_with_the_final_result(world: World) -> None:
    """DEL takes result and arguments from the cache, and forgets them afterwards."""
    conflist = world.network()
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
    world.driver.add(world.network("0.3.1"), "web", "/n", "eth0")
    world.calls()
    world.driver.delete(world.network("0.3.1"), "web", "/n", "eth0")
    assert all("prevResult" not in conf for _, _, conf, _ in world.calls())


def test_a_delete_that_fails_is_not_forgotten(world: World) -> None:
    """What could not be deleted stays in the cache, with its arguments, for the next try."""
    world.driver.add(world.network(), "web", "/n", "eth0", PORTS)
    world.fail("first", "DEL", '{"code": 11, "msg": "busy"}')
    with pytest.raises(CniError):
        world.driver.delete(world.network(), "web", "/n", "eth0")
    assert world.driver.attached(world.network(), "web", "eth0")
    (world.directory / "first-DEL").unlink()
    world.driver.delete(world.network(), "web", "/n", "eth0")
    assert not world.driver.attached(world.network(), "web", "eth0")


def test_delete_of_what_cannot_be_read(world: World) -> None:
    """A cached result that is damaged keeps no attachment alive: DEL goes without, CHECK says which file it is."""
    world.driver.add(world.network(), "web", "/n", "eth0")
    (world.cache / "front-web-eth0").write_text("{")
    world.calls()
    with pytest.raises(CniError, match="front-web-eth0"):
        world.driver.check(world.network(), "web", "/n", "eth0")
    world.driver.delete(world.network(), "web", "/n", "eth0")
    assert all("prevResult" not in conf for _, _, conf, _ in world.calls())
    assert list(world.cache.iterdir()) == []


def test_the_cache_is_libcnis(world: World) -> None:
    """The file is by libcni's name and in its format, so that tools made of it can go on where this one stopped."""
    conflist = world.network()
    result = world.driver.add(conflist, "web", "/run/netns/web", "eth0", PORTS, "K=v;L=w")
    (path,) = world.cache.iterdir()
    assert path.name == "front-web-eth0"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    document = json.loads(path.read_text())
    assert base64.b64decode(document.pop("config")).decode() == conflist.text
    assert document == {
        "kind": "cniCacheV1",
        "containerId": "web",
        "ifName": "eth0",
        "networkName": "front",
        "netns": "/run/netns/web",
        "cniArgs": [["K", "v"], ["L", "w"]],
        "capabilityArgs": PORTS,
        "result": result,
    }


def test_the_cache_holds_nothing_empty(world: World) -> None:
    """Like Go's, the file leaves out what an ADD was not given."""
    world.driver.add(world.network(), "web", "", "eth0")
    (path,) = world.cache.iterdir()
    assert json.loads(path.read_text()).keys() == {
        "kind", "containerId", "config", "ifName", "networkName", "result",
    }  # fmt: skip


def test_what_libcni_cached(world: World) -> None:
    """A file as Go writes it, without what is empty, is read."""
    world.cache.mkdir(parents=True)
    kept = {"kind": "cniCacheV1", "containerId": "web", "config": "e30=", "ifName": "eth0", "networkName": "front"}
    (world.cache / "front-web-eth0").write_text(json.dumps({**kept, "result": MADE}))
    world.driver.check(world.network(), "web", "/n", "eth0")
    assert [conf["prevResult"] for _, _, conf, _ in world.calls()] == [MADE, MADE]


def test_cached_results_follow_the_list(world: World) -> None:
    """Where the list was moved to another version since the ADD, CHECK and DEL get the result in that version."""
    world.driver.add(world.network("1.1.0"), "web", "/n", "eth0")
    world.calls()
    world.driver.check(world.network("0.4.0"), "web", "/n", "eth0")
    previous = world.calls()[0][2]["prevResult"]
    assert previous["cniVersion"] == "0.4.0"
    assert previous["ips"] == [{"version": "4", "address": "10.11.0.10/24"}]


def test_results_get_the_lists_version(world: World) -> None:
    """A plugin may leave the version of its result out; it is then that of the list."""
    assert world.driver.add(world.network("0.3.1"), "web", "/n", "eth0")["cniVersion"] == "0.3.1"


def test_check_that_a_version_or_a_list_has_not(world: World) -> None:
    """CHECK came with CNI 0.4.0, and a list can say disableCheck."""
    with pytest.raises(CniError, match="does not allow CHECK") as raised:
        world.driver.check(world.network("0.3.1"), "web", "/n", "eth0")
    assert raised.value.code == Code.INCOMPATIBLE_VERSION
    world.driver.check(world.network(disableCheck=True), "web", "/n", "eth0")
    assert world.order() == []


def test_status_before_1_1_0(world: World) -> None:
    """STATUS came with CNI 1.1.0; before, no plugin is asked."""
    world.driver.status(world.network("1.0.0"))
    assert world.order() == []


@pytest.mark.parametrize(("container", "ifname"), [("", "eth0"), ("a/b", "eth0"), ("web", ""), ("web", "a b")])
def test_attachments_that_cannot_be(world: World, container: str, ifname: str) -> None:
    """A container ID or interface name that the specification forbids reaches no plugin."""
    with pytest.raises(CniError) as raised:
        world.driver.add(world.network(), container, "/n", ifname)
    assert raised.value.code == Code.INVALID_ENVIRONMENT
    assert world.order() == []


def test_a_result_that_cannot_be_kept(world: World) -> None:
    """Without its result an attachment could not be checked: the ADD fails, and is deleted."""
    world.cache.parent.write_text("no directory")
    with pytest.raises(CniError, match="could not keep the result"):
        world.driver.add(world.network(), "web", "/n", "eth0")
    assert world.order()[-2:] == [("second", "DEL"), ("first", "DEL")]


def test_an_executable_that_is_being_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in libcni, "text file busy" is waited for: a package manager may be at work."""
    monkeypatch.setattr("plugin.runtime.driver.BUSY_PAUSE", 0.05)
    busy = (world.directory / "first").open("a")
    threading.Timer(0.1, busy.close).start()
    world.driver.status(world.network())
    assert world.order() == [("first", "STATUS"), ("second", "STATUS")]


def test_an_executable_that_stays_busy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for without end."""
    monkeypatch.setattr("plugin.runtime.driver.BUSY_PAUSE", 0.01)
    with (world.directory / "first").open("a"), pytest.raises(CniError, match="Text file busy") as raised:
        world.driver.status(world.network())
    assert (raised.value.code, raised.value.plugin) == (Code.IO, "first")


def test_a_plugin_that_does_not_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that hangs is stopped, and the error says so."""
    (world.directory / "first").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("plugin.runtime.driver.TIMEOUT", 0.1)
    with pytest.raises(CniError, match=r"first did not end within 0\.1 seconds"):
        world.driver.status(world.network())


def test_what_plugins_say_beside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes of plugins that succeed are passed on; the trace context of the caller arrives."""
    monkeypatch.setenv("TRACEPARENT", "00-1-2-01")
    world.driver.status(world.network())
    assert world.stderr.getvalue() == "first was here\nsecond was here\n"
    assert world.calls()[0][3]["TRACEPARENT"] == "00-1-2-01"


def test_check_runs_in_order(world: World) -> None:
    """CHECK gets the final result in every plugin."""
    result = world.driver.add(world.network(), "web", "/n", "eth0", PORTS)
    world.calls()
    world.driver.check(world.network(), "web", "/n", "eth0")
    calls = world.calls()
    assert [(name, verb) for name, verb, _, _ in calls] == [("first", "CHECK"), ("second", "CHECK")]
    assert all(conf["prevResult"] == result for _, _, conf, _ in calls)


def test_a_failed_add_is_deleted(world: World) -> None:
    """The error is the plugin's own; all plugins get a DEL, and a DEL that fails is noted on it."""
    world.fail("second", "ADD", '{"code": 101, "msg": "port in use", "details": "by web"}')
    world.fail("first", "DEL", "no JSON")
    with pytest.raises(CniError) as raised:
        world.driver.add(world.network(), "db", "/n", "eth0")
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
        world.driver.add(world.network(), "web", "/n", "eth0")
    assert raised.value.code == Code.INTERNAL
    assert answer.strip() in raised.value.details


def test_gc(world: World) -> None:
    """GC first DELs what is cached and not valid, of this network only, then tells every plugin what is valid."""
    for network, container in (("front", "web"), ("front", "db"), ("back", "old")):
        world.driver.add(world.network(name=network), container, f"/n/{container}", "eth0")
    world.calls()
    world.driver.gc(world.network(), [("web", "eth0")])
    calls = world.calls()
    assert [(name, verb) for name, verb, _, _ in calls] == [
        ("second", "DEL"), ("first", "DEL"), ("first", "GC"), ("second", "GC"),
    ]  # fmt: skip
    assert calls[0][3]["CNI_CONTAINERID"] == "db"
    assert calls[0][3]["CNI_NETNS"] == "/n/db"
    assert calls[2][2]["cni.dev/valid-attachments"] == [{"containerID": "web", "ifname": "eth0"}]


def test_gc_before_1_1_0_only_deletes(world: World) -> None:
    """The verb GC came with CNI 1.1.0; before, what is cached can still be deleted."""
    world.driver.add(world.network("1.0.0"), "web", "/n", "eth0")
    world.calls()
    world.driver.gc(world.network("1.0.0"), [])
    assert world.order() == [("second", "DEL"), ("first", "DEL")]


def test_gc_that_is_disabled(world: World) -> None:
    """A list that says disableGC is left alone."""
    world.driver.add(world.network(), "web", "/n", "eth0")
    world.calls()
    world.driver.gc(world.network(disableGC=True), [])
    assert world.order() == []


def test_gc_uses_the_arguments_of_the_add(world: World) -> None:
    """The DEL of what is not valid gets what its ADD was given."""
    world.driver.add(world.network(), "db", "/n/db", "eth0", PORTS, "K=v")
    world.calls()
    world.driver.gc(world.network(), [])
    _, _, conf, environment = world.calls()[0]
    assert conf["runtimeConfig"] == {"portMappings": PORTS["portMappings"]}
    assert environment["CNI_ARGS"] == "K=v"


def test_gc_passes_by_what_it_cannot_read(world: World) -> None:
    """A cache that holds other things is no reason to stop; they are left as they are."""
    world.driver.add(world.network(), "web", "/n", "eth0")
    world.calls()
    others = {"front-a-eth0": "x", "front-b-eth0": "{}", "front-c-eth0": '{"kind": "cniCacheV1", "config": "?"}'}
    for name, text in others.items():
        (world.cache / name).write_text(text)
    world.driver.gc(world.network(), [])
    assert world.order()[:2] == [("second", "DEL"), ("first", "DEL")]
    assert {path.name: path.read_text() for path in world.cache.iterdir()} == others


def test_gc_goes_on_after_an_error(world: World) -> None:
    """All errors of a GC are raised together."""
    world.fail("first", "GC", '{"code": 11, "msg": "busy"}')
    world.fail("second", "GC", '{"code": 104, "msg": "no"}')
    with pytest.raises(ExceptionGroup) as raised:
        world.driver.gc(world.network(), [])
    assert [error.code for error in raised.value.exceptions if isinstance(error, CniError)] == [11, 104]


def test_status(world: World) -> None:
    """STATUS asks every plugin, and is about no attachment."""
    world.driver.status(world.network())
    calls = world.calls()
    assert [(name, verb) for name, verb, _, _ in calls] == [("first", "STATUS"), ("second", "STATUS")]
    assert calls[0][3]["CNI_CONTAINERID"] == ""


@pytest.mark.parametrize("name", ["../bin/first", "/bin/sh", "", ".", "..", "a\0b", "none"])
def test_plugins_that_are_not_found(world: World, name: str) -> None:
    """CVE-2021-20206: the type of a plugin is a name, and no path."""
    with pytest.raises(CniError):
        world.driver.find(name)


@pytest.mark.parametrize("error", [CniError(101, "a", "b", "c"), ConfigError("snat", "is bad")])
def test_errors_cross_processes(error: CniError) -> None:
    """A driver in a sandbox hands its errors out unchanged."""
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code) == (type(error), str(error), error.code)
