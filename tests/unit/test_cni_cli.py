"""``dpctl cni``: what it asks of the plugins, what it prints, and what it refuses; interchangeable with cnitool."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from control.cli import root
from plugin.runtime.cli import container_id, namespace_path
from support.recorders import Recorders


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    def fields(self) -> dict[str, Any]:
        """What it printed for programs."""
        printed: dict[str, Any] = json.loads(self.stdout)
        return printed


class World(Recorders):
    """A directory with the network "front", its plugins, and a file for a namespace."""

    def __init__(self, directory: Path, captured: pytest.CaptureFixture[str]) -> None:
        super().__init__(directory / "bin")
        self._captured = captured
        self.conf, self.cache, self.netns = directory / "net.d", directory / "cache", directory / "netns"
        self.conf.mkdir()
        self.netns.touch()
        self.write()

    def write(self, version: str = "1.1.0", name: str = "front", **more: object) -> Path:
        path = self.conf / "10-front.conflist"
        path.write_text(self.conflist(version, name, **more))
        return path

    def dpctl(self, *words: object) -> Ended:
        status = root.run(["cni", *map(str, words), "--cache", str(self.cache)])
        return Ended(status, *self._captured.readouterr())

    def on(self, verb: str, *words: object) -> Ended:
        """A verb on the attachment."""
        return self.dpctl(verb, "front", self.netns, *words)


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> World:
    """A network, told to dpctl as to cnitool."""
    for name in ("CAP_ARGS", "CNI_ARGS", "CNI_IFNAME", "DATAPLANE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    made = World(tmp_path, capsys)
    monkeypatch.setenv("CNI_PATH", os.pathsep.join(["/nowhere", str(made.directory)]))
    monkeypatch.setenv("NETCONFPATH", str(made.conf))
    return made


def test_add_check_del(world: World) -> None:
    """ADD prints the CNI result and nothing else; CHECK and DEL say what they did; plugins' notes go to stderr."""
    added = world.on("add")
    assert added.status == 0
    assert added.fields() == {"ips": [{"address": "10.11.0.10/24"}], "by": ["first", "second"], "cniVersion": "1.1.0"}
    assert added.stderr == "first was here\nsecond was here\n"
    container = container_id(str(world.netns))
    for verb, said in (("check", "is as it should be"), ("del", "is deleted"), ("del", "is deleted")):
        ended = world.on(verb)
        assert (ended.status, ended.stdout) == (0, f"front: eth0 of {container} {said}\n")
    calls = world.calls()
    assert [verb for _, verb, _, _ in calls] == ["ADD", "ADD", "CHECK", "CHECK", "DEL", "DEL", "DEL", "DEL"]
    for _, _, _, environment in calls:
        assert environment["CNI_CONTAINERID"] == container
        assert environment["CNI_NETNS"] == str(world.netns)
        assert environment["CNI_IFNAME"] == "eth0"
        assert environment["CNI_PATH"] == f"/nowhere:{world.directory}"


def test_the_container_id_is_cnitools() -> None:
    """The same path of a namespace gives the ID that cnitool derives: "cnitool-" and 10 bytes of its SHA-512."""
    # printf /var/run/netns/web | sha512sum | cut -c -20
    assert container_id("/var/run/netns/web") == "cnitool-3993dc6bfc7ca7d2ea3c"


def test_namespaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name is one of /run/netns; a path is made absolute as Go does it, with links left as they are."""
    monkeypatch.chdir(tmp_path)
    assert namespace_path("web") == "/run/netns/web"
    assert namespace_path("/var/run/netns/../netns//web") == "/var/run/netns/web"
    assert namespace_path("./web") == f"{tmp_path}/web"


def test_options(world: World) -> None:
    """Interface, container ID, CNI_ARGS and capability arguments reach the plugins; DEL takes the last two from ADD."""
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}
    who = ("--ifname", "net1", "--id", "web")
    assert world.on("add", *who, "--args", "IP=10.0.0.9;K=v", "--cap", json.dumps(ports)).status == 0
    assert world.on("del", *who).status == 0
    for name, verb, conf, environment in world.calls():
        assert (environment["CNI_IFNAME"], environment["CNI_CONTAINERID"]) == ("net1", "web"), (name, verb)
        assert environment["CNI_ARGS"] == "IP=10.0.0.9;K=v"
        assert conf.get("runtimeConfig") == (ports if name == "second" else None)


def test_environment_of_cnitool(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cnitool reads from the environment is read here, too."""
    monkeypatch.setenv("CAP_ARGS", '{"portMappings": []}')
    monkeypatch.setenv("CNI_ARGS", "K=v")
    monkeypatch.setenv("CNI_IFNAME", "net7")
    world.on("add")
    _, _, conf, environment = world.calls()[1]
    assert conf["runtimeConfig"] == {"portMappings": []}
    assert (environment["CNI_ARGS"], environment["CNI_IFNAME"]) == ("K=v", "net7")


def test_a_network_by_its_file(world: World) -> None:
    """NET may be the path of a file, wherever it is."""
    path = world.write(name="elsewhere")
    assert world.dpctl("status", path).stdout == "elsewhere: ready\n"


def test_json(world: World) -> None:
    """With --json every verb prints one object with what it was about."""
    about = {
        "network": "front",
        "container": container_id(str(world.netns)),
        "netns": str(world.netns),
        "ifname": "eth0",
    }
    added = world.on("add", "--json").fields()
    assert added.pop("result")["by"] == ["first", "second"]
    assert added == {"version": 1, "verb": "ADD", **about}
    assert world.on("check", "--json").fields() == {"version": 1, "verb": "CHECK", **about}
    assert world.on("del", "--json").fields() == {"version": 1, "verb": "DEL", **about}
    valid = [{"containerID": "web", "ifname": "eth0"}]
    collected = world.dpctl("gc", "front", "--valid", "web/eth0", "--json").fields()
    assert collected == {"version": 1, "verb": "GC", "network": "front", "valid": valid}
    ready = world.dpctl("status", "front", "--json").fields()
    assert ready == {"version": 1, "verb": "STATUS", "network": "front", "ready": True, "errors": []}


@pytest.mark.parametrize(("verb", "does"), [("add", "add"), ("check", "check"), ("del", "delete")])
def test_errors(world: World, verb: str, does: str) -> None:
    """A plugin's error is one line with its words and code, and an object for programs; exit status 1."""
    world.fail("second", verb.upper(), '{"code": 101, "msg": "port in use", "details": "8080/tcp by web"}')
    ended = world.on(verb, "--id", "db")
    assert (ended.status, ended.stdout) == (1, "")
    line = next(one for one in ended.stderr.splitlines() if one.startswith("dpctl: "))
    assert line.startswith(f"dpctl: could not {does} eth0 of db ")
    assert line.endswith(": plugin second: port in use; 8080/tcp by web (CNI code 101)")
    (error,) = world.on(verb, "--id", "db", "--json").fields()["errors"]
    expected = {"code": 101, "msg": "port in use", "details": "8080/tcp by web", "plugin": "second", "notes": []}
    assert error == expected


def test_a_second_add_is_refused(world: World) -> None:
    """It would fail, and the DEL after it would take the first one's interface away: no plugin is called."""
    world.on("add")
    world.calls()
    ended = world.on("add")
    assert ended.status == 1
    assert "it is there already; dpctl cni del it first" in ended.stderr
    assert world.order() == []
    assert world.on("add", "--ifname", "eth1").status == 0


def test_gc_must_be_told_what_is_valid(world: World) -> None:
    """Unlike cnitool's, a gc that names nothing deletes nothing; nor does one that contradicts itself."""
    world.on("add", "--id", "web")
    world.on("add", "--id", "db")
    world.calls()
    for words in ((), ("--valid", "web/eth0", "--none-valid")):
        ended = world.dpctl("gc", "front", *words)
        assert ended.status == 2
        assert "--none-valid to delete all of them" in ended.stderr
    for pair in ("web", "/eth0", "web/", "web/eth0/x"):
        assert world.dpctl("gc", "front", "--valid", pair).status == 2
    assert world.order() == []

    assert world.dpctl("gc", "front", "--valid", "web/eth0").status == 0
    calls = world.calls()
    assert [verb for _, verb, _, _ in calls] == ["DEL", "DEL", "GC", "GC"]
    assert calls[0][3]["CNI_CONTAINERID"] == "db"
    assert calls[2][2]["cni.dev/valid-attachments"] == [{"containerID": "web", "ifname": "eth0"}]
    assert world.dpctl("gc", "front", "--none-valid").status == 0
    assert world.calls()[2][2]["cni.dev/valid-attachments"] == []


def test_gc_errors(world: World) -> None:
    """All errors of a GC are shown."""
    world.fail("first", "GC", '{"code": 11, "msg": "busy"}')
    world.fail("second", "GC", '{"code": 104, "msg": "no"}')
    ended = world.dpctl("gc", "front", "--none-valid")
    assert ended.status == 1
    assert "plugin first: busy (CNI code 11); plugin second: no (CNI code 104)" in ended.stderr


def test_status_not_ready(world: World) -> None:
    """A plugin that is not ready is a finding, not a failure: exit status 3, with the reason."""
    world.fail("second", "STATUS", '{"code": 50, "msg": "not available", "details": "no bpffs"}')
    ended = world.dpctl("status", "front")
    assert ended.status == 3
    assert ended.stdout == "front: not ready: plugin second: not available; no bpffs (CNI code 50)\n"
    ended = world.dpctl("status", "front", "--json")
    assert ended.status == 3
    assert ended.fields()["ready"] is False
    assert ended.fields()["errors"][0]["code"] == 50


@pytest.mark.parametrize(
    ("words", "more", "note"),
    [
        (("check",), {"disableCheck": True}, "note: the list says disableCheck: no plugin was asked\n"),
        (("gc", "--none-valid"), {"disableGC": True}, "note: the list says disableGC: nothing was done\n"),
        (("gc", "--none-valid"), {"version": "1.0.0"}, "note: CNI 1.0.0 has no GC: only attachments in "),
        (("status",), {"version": "1.0.0"}, "note: CNI 1.0.0 has no STATUS: no plugin was asked\n"),
    ],
)
def test_verbs_that_are_not_asked(world: World, words: tuple[str, ...], more: dict[str, Any], note: str) -> None:
    """A verb that the list's version has not, or that the list forbids, calls no plugin, and that is said."""
    world.write(**more)
    verb, *options = words
    ended = world.dpctl(verb, "front", *([world.netns] if verb == "check" else []), *options)
    assert ended.status == 0
    assert ended.stderr.startswith(note)
    assert world.order() == []


def test_what_is_not_there(world: World) -> None:
    """A network or a namespace that there is none of is named, with where it was looked for."""
    ended = world.dpctl("add", "back", world.netns)
    assert (ended.status, ended.stderr) == (1, f'dpctl: no network "back" in {world.conf}: it holds front\n')
    ended = world.dpctl("add", "front", "no-such-namespace")
    assert (ended.status, "/run/netns/no-such-namespace" in ended.stderr) == (1, True)
    assert world.order() == []
    # A DEL of what vanished with its namespace must still reach the plugins.
    assert world.dpctl("del", "front", "no-such-namespace").status == 0
    assert world.order() == [("second", "DEL"), ("first", "DEL")]


@pytest.mark.parametrize("text", ["", "x", "[]", "7"])
def test_bad_capability_arguments(world: World, text: str) -> None:
    """What is no JSON object is refused before anything is done."""
    assert world.on("add", f"--cap={text}").status == 2
    assert world.order() == []


def test_bad_arguments(world: World) -> None:
    """CNI_ARGS that is not NAME=VALUE reaches no plugin."""
    ended = world.on("add", "--args", "IP")
    assert ended.status == 1
    assert "CNI_ARGS: 'IP' is not NAME=VALUE" in ended.stderr
    assert world.order() == []
