"""The installed executable on a real kernel: bridge names change no rule, DEL always ends well, uninstall is whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from control.protocol.wire import Answer
from plugin.errors import Code
from plugin.install import install
from support.cni import configuration, environment, error_of, previous_result
from support.netns import NO_DROP_INS, Sandbox, wait_until

DATA = Path(__file__).parent.parent / "data"
HOSTILE: list[str] = json.loads((DATA / "hostile_names.json").read_text())["names"]
KEYWORDS = ["accept", "drop", "0x1", "-rf", "lo.", "ip", "meta", "any"]


class Plugin:
    """The executable, in a host that has a container's namespace."""

    def __init__(self, host: Sandbox, directory: Path) -> None:
        self.host, self.directory = host, directory
        install(directory / "bin", directory / "net.d")
        host.namespace("web")

    def call(self, verb: str, conf: dict[str, Any], **env: str | None) -> Answer:
        done = self.host.run(
            self.directory / "bin" / "dataplane", env=environment(verb, **env), input=json.dumps(conf), check=False
        )
        return Answer(done.stdout, done.stderr, done.returncode)

    def on_bridge(self, name: str) -> dict[str, Any]:
        """A configuration whose prevResult says that the container hangs on this bridge."""
        interfaces = [{"name": name}, {"name": "eth0", "sandbox": "/run/netns/web"}]
        return configuration(prevResult=previous_result(interfaces=interfaces, ips=[{"address": "10.11.0.10/24"}]))

    def has_bridge(self, name: str) -> bool:
        """Make a bridge, where the kernel (or iproute2) takes its name."""
        if not name or "\0" in name:
            return False
        return self.host.run("ip", "link", "add", "name", name, "type", "bridge", check=False).returncode == 0

    def uninstall(self) -> subprocess.CompletedProcess[str]:
        """Run dpctl uninstall."""
        options = ["--cni-bin", self.directory / "bin", "--conf", self.directory / "net.d", *NO_DROP_INS, "--json"]
        code = "import sys; from control.cli.root import main; main(sys.argv[1:])"
        return self.host.python(code, "uninstall", *options, check=False)

    def rules(self) -> list[Any]:
        """All rules of the machine, without handles."""
        listed = json.loads(self.host.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
        return [(one["rule"]["chain"], one["rule"]["expr"]) for one in listed if "rule" in one]


@pytest.fixture
def plugin(sandbox: Sandbox, tmp_path: Path) -> Plugin:
    """An installed plugin."""
    return Plugin(sandbox, tmp_path)


def test_hostile_bridge_names_change_nothing(plugin: Plugin) -> None:
    """The kernel has bridges by such names: the plugin refuses each, and leaves no rule behind."""
    made = [name for name in HOSTILE if name not in KEYWORDS and plugin.has_bridge(name)]
    assert len(made) > 10, "the kernel accepts most of these names"
    for name in made:
        error = error_of(plugin.call("ADD", plugin.on_bridge(name)))
        assert error["code"] == Code.INVALID_CONFIG
        assert error["details"].startswith("prevResult.interfaces[0].name:")
    assert plugin.rules() == []


def test_a_bridge_named_like_a_keyword_alters_no_rule(plugin: Plugin) -> None:
    """A bridge called "accept", or like a number or an option, gets the very rules of any other bridge."""
    assert plugin.has_bridge("br-front")
    assert plugin.call("ADD", plugin.on_bridge("br-front")).exit_code == 0
    expected = plugin.rules()
    assert plugin.call("DEL", configuration()).exit_code == 0
    made = [name for name in KEYWORDS if plugin.has_bridge(name)]
    assert {"accept", "drop", "0x1"} <= set(made)
    for name in made:
        answer = plugin.call("ADD", plugin.on_bridge(name))
        assert answer.exit_code == 0, (name, answer)
        assert plugin.rules() == expected
        assert plugin.call("DEL", configuration()).exit_code == 0


def test_delete_always_ends_well(plugin: Plugin) -> None:
    """Without prevResult, mappings, or a namespace, before any ADD, after one, and twice."""
    plugin.has_bridge("br-front")
    bare = {"cniVersion": "1.0.0", "name": "front", "type": "dataplane"}
    assert plugin.call("DEL", bare, CNI_NETNS=None) == Answer("", "", 0)
    for _ in range(2):
        assert plugin.call("ADD", plugin.on_bridge("br-front")).exit_code == 0
    listed = plugin.host.run("nft", "list", "ruleset").stdout
    assert listed.count("tcp . 8080") == 1, "a repeated ADD leaves one copy"
    for _ in range(2):
        assert plugin.call("DEL", bare, CNI_NETNS="/run/netns/gone") == Answer("", "", 0)
    assert "10.11.0.10" not in plugin.host.run("nft", "list", "ruleset").stdout


def test_gc_and_status(plugin: Plugin) -> None:
    """STATUS says that an ADD would work; GC removes what is not listed."""
    plugin.has_bridge("br-front")
    conf = {**plugin.on_bridge("br-front"), "cniVersion": "1.1.0"}
    assert plugin.call("STATUS", conf) == Answer("", "", 0)
    assert plugin.call("ADD", conf).exit_code == 0
    assert plugin.call("CHECK", conf) == Answer("", "", 0)
    for valid, left in (([{"containerID": "web", "ifname": "eth0"}], True), ([], False)):
        assert plugin.call("GC", conf | {"cni.dev/valid-attachments": valid}) == Answer("", "", 0)
        assert ("10.11.0.10" in plugin.host.run("nft", "list", "ruleset").stdout) is left
    assert error_of(plugin.call("CHECK", conf))["code"] == Code.DIFFERENCE


def test_uninstall_that_fails_can_be_finished(plugin: Plugin) -> None:
    """Where the kernel refuses, the conflist is gone, DEL still works, and the next uninstall removes the rest."""
    plugin.has_bridge("br-front")
    assert plugin.call("ADD", plugin.on_bridge("br-front")).exit_code == 0
    # A table that a living process owns can be changed by nobody else.
    plugin.host.run("nft", "delete", "table", "inet", "dataplane")
    owner = plugin.host.spawn("nft", "-i", stdin=subprocess.PIPE)
    assert owner.stdin is not None
    owner.stdin.write("add table inet dataplane { flags owner; }\n")
    owner.stdin.flush()
    wait_until(lambda: "inet dataplane" in plugin.host.run("nft", "list", "tables").stdout)
    done = plugin.uninstall()
    assert done.returncode == 1
    assert "could not remove everything from the kernel: could not" in done.stderr
    executable = plugin.directory / "bin" / "dataplane"
    assert (
        f"the conflist is removed, and {executable} stays until that is done: run dpctl uninstall again" in done.stderr
    )
    assert list((plugin.directory / "net.d").iterdir()) == []
    assert plugin.call("DEL", configuration()).exit_code == 0
    owner.stdin.close()
    owner.wait(timeout=10)
    document = json.loads(plugin.uninstall().stdout)
    assert [one["outcome"] for one in document["files"]] == ["absent", "removed", "removed", "absent", "absent"], (
        "conflist, executables, units"
    )
    assert plugin.host.run("nft", "list", "ruleset").stdout == ""
    assert not executable.exists()


def test_uninstall_leaves_nothing(plugin: Plugin) -> None:
    """dpctl uninstall removes files, table and programs, and says what it removed."""
    plugin.has_bridge("br-front")
    assert plugin.call("ADD", plugin.on_bridge("br-front")).exit_code == 0
    document = json.loads(plugin.uninstall().stdout)
    assert [one["outcome"] for one in document["files"]] == ["removed", "removed", "removed", "absent", "absent"], (
        "conflist, executables, units"
    )
    assert "attachment front/web/eth0" in document["kernel"]
    assert plugin.host.run("nft", "list", "ruleset").stdout == ""
    assert (
        not plugin.host.exists("/sys/fs/bpf/dataplane")
        or "dp_" not in plugin.host.run("find", "/sys/fs/bpf/dataplane").stdout
    )
    assert list((plugin.directory / "bin").iterdir()) == []
