"""Beside the real host-local: one set of leases, whoever serves a call; and real delegation to the plugin static."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from plugin.environment import Invocation, Verb
from plugin.errors import CniError
from plugin.ipam.choice import ipam_of
from support import needs

CNI = "/usr/lib/cni"
PACKAGE = "containernetworking-plugins"
WRITERS = 64

# The drop-in as a process without an agent. It says when it waits for its input, so that many can be set off at once.
OURS = """
import os, sys
from control.protocol.wire import CniCall
from plugin.ipam import hostlocal
from plugin.skel import dispatch
print("ready", file=sys.stderr, flush=True)
answer = dispatch(CniCall(dict(os.environ), sys.stdin.read(), plugin="host-local"), None, None)
print(answer.stdout)
sys.exit(answer.exit_code)
"""


class FailedError(Exception):
    """A plugin printed an error."""


class Plugins:
    """The same network, served by host-local or by us."""

    def __init__(self, directory: Path) -> None:
        self.leases = directory / "front"
        self.ipam: dict[str, Any] = {
            "type": "host-local",
            "dataDir": str(directory),
            "ranges": [[{"subnet": "10.11.0.0/24"}], [{"subnet": "fd00:11::/64"}]],
        }

    def start(
        self, who: str, verb: str, container: str = "", ifname: str = "eth0", args: str = "", **more: Any
    ) -> subprocess.Popen[str]:
        conf = {"cniVersion": "1.0.0", "name": "front", "type": "bridge", "ipam": self.ipam, **more}
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": "/dev/null",
            "CNI_IFNAME": ifname,
            "CNI_PATH": CNI,
            "CNI_ARGS": args,
        }
        command = [f"{CNI}/host-local"] if who == "theirs" else [sys.executable, "-c", OURS]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(conf))
        process.stdin.flush()
        if who == "ours":
            assert process.stderr is not None
            assert process.stderr.readline() == "ready\n"
        return process

    @staticmethod
    def go(process: subprocess.Popen[str]) -> None:
        """Let a started plugin read the end of its input."""
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
        stdout, stderr = process.communicate(timeout=60)
        assert not stderr, stderr
        if process.returncode:
            raise FailedError(stdout)
        answer: dict[str, Any] = json.loads(stdout) if stdout.strip() else {}
        return answer

    def call(self, who: str, verb: str, container: str = "", **more: Any) -> dict[str, Any]:
        return self.finish(self.start(who, verb, container, **more))

    def add(self, who: str, container: str, **more: Any) -> list[str]:
        return [one["address"] for one in self.call(who, "ADD", container, **more)["ips"]]

    def files(self) -> dict[str, bytes]:
        """Everything there is, the lock and the places in the circle as well."""
        return {one.name: one.read_bytes() for one in self.leases.iterdir()}

    def held(self) -> dict[str, bytes]:
        """The leases alone."""
        return {name: text for name, text in self.files().items() if name[0] in "0123456789f"}

    def residue(self) -> set[str]:
        return set(self.files()) - {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    needs.file(f"{CNI}/host-local", package=PACKAGE)
    return Plugins(tmp_path)


def test_both_write_the_same_files(plugins: Plugins, tmp_path: Path) -> None:
    """The same calls, served by either, leave the same files with the same bytes and print the same results."""
    left, printed = {}, {}
    for who in ("ours", "theirs"):
        one = Plugins(tmp_path / who)
        one.ipam["routes"] = [{"dst": "0.0.0.0/0"}, {"dst": "10.99.0.0/16", "gw": "10.11.0.9"}]
        printed[who] = [one.call(who, "ADD", f"c{number}") for number in range(3)]
        one.call(who, "DEL", "c1")
        printed[who].append(one.call(who, "ADD", "asked", args="IgnoreUnknown=1;IP=10.11.0.77"))
        printed[who].append(one.call(who, "ADD", "after"))
        left[who] = one.files()
    assert left["ours"] == left["theirs"]
    assert printed["ours"] == printed["theirs"]


@pytest.mark.parametrize(("first", "second"), [("ours", "theirs"), ("theirs", "ours")])
def test_either_takes_over_from_the_other(plugins: Plugins, first: str, second: str) -> None:
    """After a switch leases are kept, the circle goes on, and what the other one leased is checked and freed."""
    assert plugins.add(first, "a") == ["10.11.0.2/24", "fd00:11::2/64"]
    assert plugins.add(first, "b") == ["10.11.0.3/24", "fd00:11::3/64"]
    plugins.call(second, "CHECK", "a", prevResult={"cniVersion": "1.0.0", "ips": [{"address": "10.11.0.2/24"}]})
    with pytest.raises(FailedError):
        plugins.call(second, "CHECK", "nobody", prevResult={"cniVersion": "1.0.0"})
    plugins.call(second, "DEL", "a")
    assert plugins.add(second, "c") == ["10.11.0.4/24", "fd00:11::4/64"]
    with pytest.raises(FailedError, match=r"10\.11\.0\.3"):
        plugins.add(second, "d", args="IP=10.11.0.3")
    plugins.call(first, "DEL", "c")
    plugins.call(second, "DEL", "b")
    assert plugins.residue() == set()


def test_a_killed_add_of_ours_is_undone_by_theirs(plugins: Plugins) -> None:
    """What an ADD that was killed somewhere leaves is whole leases, which host-local's DEL releases, and which no other
    ADD is given."""
    partial: Counter[int] = Counter()
    for delay in (0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 10, 50, 500):  # milliseconds; an ADD takes one or two
        process = plugins.start("ours", "ADD", "killed")
        plugins.go(process)
        time.sleep(delay / 1000)
        process.kill()
        process.communicate(timeout=30)
        if not plugins.leases.exists():
            continue
        held = plugins.held()
        partial[len(held)] += 1
        assert set(held.values()) <= {b"killed\r\neth0"}
        assert not {one.partition("/")[0] for one in plugins.add("theirs", "other")} & set(held)
        plugins.call("theirs", "DEL", "other")
        plugins.call("theirs", "DEL", "killed")
        assert plugins.residue() <= {".lease"}
    plugins.call("ours", "DEL", "killed")
    assert plugins.residue() == set()
    assert sum(partial.values()), "no ADD got far enough"


def test_a_repeated_add_is_answered(plugins: Plugins) -> None:
    """Where host-local refuses a second ADD of an attachment, ours gives what it holds, be it host-local's lease."""
    first = plugins.add("theirs", "web")
    with pytest.raises(FailedError, match="duplicate allocation"):
        plugins.add("theirs", "web")
    assert plugins.add("ours", "web") == first
    assert len(plugins.held()) == 2


def test_a_storm_of_both_hands_out_no_address_twice(plugins: Plugins) -> None:
    """64 ADDs at once, half of them host-local's, get 64 addresses of each family; 64 DELs at once leave nothing."""
    names = {f"c{number}": ("ours", "theirs")[number % 2] for number in range(WRITERS)}
    results = dict(storm(plugins, "ADD", names))
    leased = [one["address"] for answer in results.values() for one in answer["ips"]]
    assert len(leased) == len(set(leased)) == 2 * WRITERS
    assert plugins.held() == {
        one["address"].partition("/")[0]: f"{name}\r\neth0".encode()
        for name, answer in results.items()
        for one in answer["ips"]
    }
    dict(storm(plugins, "DEL", {name: ("theirs", "ours")[who == "theirs"] for name, who in names.items()}))
    assert plugins.residue() == set()


def test_a_storm_on_a_range_that_is_too_small(plugins: Plugins) -> None:
    """64 ADDs at once on 29 addresses: 29 get one each, 35 are told that none is free, and hold nothing."""
    plugins.ipam["ranges"] = [[{"subnet": "fd00:11::/64"}], [{"subnet": "10.11.0.0/27"}]]
    processes = {f"c{number}": plugins.start("ours", "ADD", f"c{number}") for number in range(WRITERS)}
    for process in processes.values():
        plugins.go(process)
    served, refused = {}, []
    for name, process in processes.items():
        try:
            served[name] = plugins.finish(process)
        except FailedError as error:
            refused.append(json.loads(str(error)))
    assert (len(served), len(refused)) == (29, 35)
    assert {error["code"] for error in refused} == {105}
    assert all("range set 1" in error["details"] for error in refused)
    assert {text.decode().partition("\r\n")[0] for text in plugins.held().values()} == set(served)
    assert len(plugins.held()) == 58


def storm(plugins: Plugins, verb: str, names: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A verb on all containers at once, each by the plugin that is named for it."""
    processes = {name: plugins.start(who, verb, name) for name, who in names.items()}
    for process in processes.values():
        plugins.go(process)
    for name, process in processes.items():
        yield name, plugins.finish(process)


def delegated(verb: Verb, version: str = "1.0.0", **ipam: Any) -> tuple[Invocation, dict[str, Any], dict[str, str]]:
    conf = {"cniVersion": version, "name": "front", "type": "bridge", "ipam": {"type": "static", **ipam}}
    environment = {
        "CNI_COMMAND": verb.value,
        "CNI_CONTAINERID": "web",
        "CNI_NETNS": "/dev/null",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": CNI,
    }
    return Invocation(verb, "web", "eth0", "/dev/null", path=(CNI,)), conf, environment


@pytest.mark.parametrize("version", ["0.2.0", "0.4.0", "1.0.0"])
def test_the_plugin_static_is_delegated_to(version: str) -> None:
    """A real IPAM plugin serves ADD, CHECK and DEL by its executable, and its result is read in every version."""
    needs.file(f"{CNI}/static", package=PACKAGE)
    addresses = [{"address": "10.11.0.7/24", "gateway": "10.11.0.1"}, {"address": "fd00:11::7/64"}]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "2000::/3", "gw": "fd00:11::1"}]
    ipam = ipam_of(
        *delegated(Verb.ADD, version, addresses=addresses, routes=routes, dns={"nameservers": ["192.0.2.53"]})
    )
    assert ipam is not None
    result = ipam.add()
    assert [str(lease.address) for lease in result.addresses] == ["10.11.0.7/24", "fd00:11::7/64"]
    assert str(result.addresses[0].gateway) == "10.11.0.1"
    assert sorted(str(route.destination) for route in result.routes) == ["0.0.0.0/0", "2000::/3"]
    assert result.dns["nameservers"] == ["192.0.2.53"]
    ipam.status()
    ipam.delete()


def test_an_error_of_static_keeps_its_words() -> None:
    """What the real plugin refuses is said in its words, under its name."""
    needs.file(f"{CNI}/static", package=PACKAGE)
    ipam = ipam_of(*delegated(Verb.ADD, addresses=[{"address": "10.11.0.7"}]))
    assert ipam is not None
    with pytest.raises(CniError, match=r'IPAM plugin "static" failed to ADD: .*10\.11\.0\.7'):
        ipam.add()
