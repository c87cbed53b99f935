"""Delegation: an IPAM of another type, run by the specification: by a plugin that writes down how it was called."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from control.ipam import Lease
from dataplane.types import Route
from plugin.environment import Invocation, Verb
from plugin.errors import CniError, Code
from plugin.ipam.choice import Ipam, ipam_of
from plugin.ipam.delegate import execute, find, parse_result
from plugin.ipam.result import parse_interface

# Appends its call to the file "calls" and prints what the file "answer-VERB" holds; "status-VERB" is its exit status.
PLUGIN = """#!{python} -IS
import json, os, pathlib, sys
here, verb = pathlib.Path(__file__).parent, os.environ["CNI_COMMAND"]
with (here / "calls").open("a") as calls:
    print(json.dumps([verb, json.load(sys.stdin), dict(os.environ)]), file=calls)
answer, status = here / f"answer-{{verb}}", here / f"status-{{verb}}"
print(answer.read_text() if answer.exists() else "")
sys.exit(int(status.read_text()) if status.exists() else 0)
"""
RESULT: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "ips": [{"address": "10.11.0.7/24", "gateway": "10.11.0.1"}, {"address": "fd00:11::7/64"}],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.99.0.0/16", "gw": "10.11.0.9", "mtu": 1400}],
    "dns": {"nameservers": ["192.0.2.53"]},
}
ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "web",
    "CNI_NETNS": "/run/netns/web",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "K=V",
    "TRACEPARENT": "00-1-2-3",
}


class World:
    """A directory of plugins with one, ``other``."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        (directory / "other").write_text(PLUGIN.format(python=sys.executable))
        (directory / "other").chmod(0o755)
        self.answer(Verb.ADD, RESULT)

    def answer(self, verb: Verb, answer: object, status: int = 0) -> None:
        (self.path / f"answer-{verb}").write_text(answer if isinstance(answer, str) else json.dumps(answer))
        (self.path / f"status-{verb}").write_text(str(status))

    def conf(self, version: str = "1.1.0") -> dict[str, Any]:
        ipam = {"type": "other", "key": [1, None, "ü"]}
        return {"cniVersion": version, "name": "front", "type": "bridge", "ipam": ipam, "x-vendor": {"kept": True}}

    def ipam(self, verb: Verb = Verb.ADD, version: str = "1.1.0") -> Ipam:
        path = ("/nowhere", str(self.path))
        environment = {**ENVIRONMENT, "CNI_COMMAND": verb, "CNI_PATH": ":".join(path)}
        invocation = Invocation(verb, "web", "eth0", "/run/netns/web", "K=V", path)
        ipam = ipam_of(invocation, self.conf(version), environment)
        assert ipam is not None
        return ipam

    def calls(self) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
        path = self.path / "calls"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        return [verb for verb, _, _ in self.calls()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def lease(text: str, gateway: str = "") -> Lease:
    interface = parse_interface(text)
    assert interface is not None
    return Lease(interface, ip_address(gateway) if gateway else None)


def test_a_delegate_gets_the_call_as_it_came(world: World) -> None:
    """The delegate reads the whole configuration, in the caller's environment with nothing but the verb changed."""
    result = world.ipam().add()
    assert result.addresses == (lease("10.11.0.7/24", "10.11.0.1"), lease("fd00:11::7/64"))
    four, narrow = ip_network("0.0.0.0/0"), ip_network("10.99.0.0/16")
    assert result.routes == (Route(four), Route(narrow, ip_address("10.11.0.9"), mtu=1400))
    assert result.dns == {"nameservers": ["192.0.2.53"]}
    ((verb, conf, environment),) = world.calls()
    assert (verb, conf) == ("ADD", world.conf())
    assert ENVIRONMENT.items() <= environment.items()
    assert environment["CNI_PATH"] == f"/nowhere:{world.path}"
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("version", "verbs"),
    [
        ("1.1.0", ["ADD", "CHECK", "GC", "STATUS", "DEL"]),
        ("1.0.0", ["ADD", "CHECK", "DEL"]),
        ("0.4.0", ["ADD", "CHECK", "DEL"]),
        ("0.3.1", ["ADD", "DEL"]),
        ("0.2.0", ["ADD", "DEL"]),
    ],
)
def test_verbs_are_delegated_that_the_version_knows(world: World, version: str, verbs: list[str]) -> None:
    """CHECK is delegated since 0.4.0, GC and STATUS since 1.1.0, ADD and DEL always; each under its own name."""
    ipam = world.ipam(version=version)
    ipam.add()
    ipam.check()
    ipam.collect(frozenset())
    ipam.status()
    ipam.delete()
    assert world.verbs() == verbs


@pytest.mark.parametrize(
    "result",
    [
        {"ip4": {"ip": "10.11.0.7/24", "gateway": "10.11.0.1", "routes": [{"dst": "0.0.0.0/0"}]}, "dns": {}},
        {
            "cniVersion": "0.2.0",
            "ip4": {"ip": "10.11.0.7/24", "gateway": "10.11.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {
            "cniVersion": "0.4.0",
            "ips": [{"version": "4", "address": "10.11.0.7/24", "gateway": "10.11.0.1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": ""}],
        },
    ],
)
def test_results_of_every_version_are_read(result: dict[str, Any]) -> None:
    """A delegate may answer in any version of CNI: addresses and routes are found in all of its shapes."""
    parsed = parse_result(json.dumps(result), "other")
    assert parsed.addresses == (lease("10.11.0.7/24", "10.11.0.1"),)
    assert parsed.routes == (Route(ip_network("0.0.0.0/0")),)
    assert parsed.dns == {}


def test_both_families_of_an_old_result() -> None:
    """An old result holds an address of each family."""
    old = {"ip6": {"ip": "fd00::7/64"}, "ip4": {"ip": "10.11.0.7/24"}}
    assert parse_result(json.dumps(old), "other").addresses == (lease("10.11.0.7/24"), lease("fd00::7/64"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("", "no JSON object: it is empty"),
        ("[]", "no JSON object"),
        ("{}", "holds no address"),
        ('{"ips": []}', "holds no address"),
        ('{"ips": [{"address": "10.11.0.7"}]}', 'ips[0].address: "10.11.0.7" is not an address with its prefix length'),
        ('{"ips": 7}', "ips: 7 is an integer, not a list"),
        ('{"ips": [], "dns": 7}', "dns: 7 is an integer, not an object"),
    ],
)
def test_a_result_without_addresses_is_given_back(world: World, answer: str, words: str) -> None:
    """An ADD whose result is of no use ends with an error that names the plugin, and a DEL."""
    world.answer(Verb.ADD, answer)
    with pytest.raises(CniError) as refused:
        world.ipam().add()
    assert refused.value.code == Code.DECODE
    assert 'IPAM plugin "other"' in refused.value.msg
    assert words in refused.value.details
    assert world.verbs() == ["ADD", "DEL"]


def test_a_failed_undo_is_told_too(world: World) -> None:
    """Where the DEL after a useless result fails, both failures are said."""
    world.answer(Verb.ADD, "{}")
    world.answer(Verb.DEL, {"code": 11, "msg": "not now"}, status=1)
    with pytest.raises(CniError, match=r"holds no address.*the DEL after it failed, too: .*not now"):
        world.ipam().add()


@pytest.mark.parametrize("verb", [Verb.ADD, Verb.DEL, Verb.CHECK, Verb.GC, Verb.STATUS])
def test_an_error_of_the_delegate_is_passed_on(world: World, verb: Verb) -> None:
    """What a delegate says no to keeps its code and its words, and says whose and which verb it was."""
    world.answer(verb, {"cniVersion": "1.1.0", "code": 50, "msg": "no lease", "details": "DHCP is silent"}, status=1)
    ipam = world.ipam(verb)
    calls = {
        Verb.ADD: ipam.add,
        Verb.DEL: ipam.delete,
        Verb.CHECK: ipam.check,
        Verb.GC: lambda: ipam.collect(frozenset()),
        Verb.STATUS: ipam.status,
    }
    with pytest.raises(CniError) as failed:
        calls[verb]()
    assert (failed.value.code, failed.value.details) == (50, "DHCP is silent")
    assert failed.value.msg == f'IPAM plugin "other" failed to {verb}: no lease'
    # SPEC 1.1: a delegated ADD that fails is followed by a DEL.
    assert world.verbs() == ([verb, Verb.DEL] if verb is Verb.ADD else [verb])


def test_an_end_without_words_shows_what_was_printed(world: World) -> None:
    """A plugin that fails without a CNI error is quoted with its status."""
    world.answer(Verb.ADD, "panic: out of luck", status=2)
    with pytest.raises(CniError) as failed:
        world.ipam().add()
    assert failed.value.code == Code.FAILED
    assert "ended with status 2" in failed.value.msg
    assert failed.value.details == "panic: out of luck"


def test_a_missing_plugin_is_looked_for_where_cni_path_says(world: World) -> None:
    """A type without an executable names the directories; one that cannot be executed does not count."""
    (world.path / "plain").write_text("")
    (world.path / "folder").mkdir()
    for name in ("nosuch", "plain", "folder"):
        with pytest.raises(CniError, match=f'could not find plugin "{name}"') as failed:
            find(name, ["/nowhere", world.path])
        assert f"/nowhere, {world.path}" in failed.value.details
    with pytest.raises(CniError, match="CNI_PATH, which is empty"):
        find("other", [])


def test_what_cannot_be_executed_says_why(world: World) -> None:
    """An executable file that is no program ends with the kernel's words."""
    (world.path / "other").write_text("no program")
    with pytest.raises(CniError) as failed:
        world.ipam().add()
    assert failed.value.code == Code.IO
    assert "Exec format error" in failed.value.details


def test_a_plugin_that_is_being_installed_is_waited_for(world: World) -> None:
    """An executable that is still open for writing is started as soon as it is not."""
    with (world.path / "other").open("a") as copying:
        end_of_copy = threading.Timer(0.1, copying.close)
        end_of_copy.start()
        assert world.ipam().add().addresses
        end_of_copy.join()
    assert world.verbs() == ["ADD"]


def test_a_plugin_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """After the time limit the plugin and its children are killed, and the error says after how long."""
    script = tmp_path / "slow"
    script.write_text(f"#!/bin/sh\nsleep 60 & echo $! >{tmp_path}/child; wait\n")
    script.chmod(0o755)
    started = time.monotonic()
    with pytest.raises(CniError, match=r"after 0\.5 s without an answer"):
        execute(script, {}, {}, lambda _: None, timeout=0.5)
    assert time.monotonic() - started < 10
    child = Path("/proc") / (tmp_path / "child").read_text().strip()
    deadline = time.monotonic() + 5
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < deadline, "the plugin's child lives on"
        time.sleep(0.01)
