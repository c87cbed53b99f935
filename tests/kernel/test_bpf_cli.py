"""``dpctl bpf`` on a real kernel: what it prints, what it refuses, and its exit status."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

import control.cli.bpf  # noqa: F401 - imported here once, and not in each forked child
from control.cli import root
from dataplane import abi
from dataplane.abi import NetworkEntry
from dataplane.programs import inventory, loading, syscall
from dataplane.programs.compile import ATTACH_TYPES
from dataplane.programs.door import KernelPrograms
from dataplane.types import ChecksumMode, Hook, IfIndex, IsolationPolicy, Program, Protocol
from support import foreign, needs, plan
from support.cgroups import Cgroup
from support.frames import Flow, frame
from support.netns import Sandbox
from support.traffic import send_frame
from support.world import DPCTL, Attached, World, publish

LO = IfIndex(1)
MANUAL = 0x80000001
"""The network by hand of lo."""
SYN = Flow(Protocol.TCP, "192.0.2.55", 40000, "10.11.0.2", 80)
WIDTH = 120
U32_ONE = abi.U32.pack(1)


def run(host: Sandbox, *words: object) -> tuple[int, str, str]:
    """The command in a sandbox: exit status, standard output, standard error."""

    def inside() -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = root.run(("bpf", *map(str, words)))
        return status, out.getvalue(), err.getvalue()

    return host.call(inside)


def answer(host: Sandbox, *words: object, status: int = 0) -> dict[str, Any]:
    """The JSON that a command prints; it must end with this status, and be versioned."""
    found, out, err = run(host, *words, "--json")
    assert (found, err) == (status, ""), out
    content: dict[str, Any] = json.loads(out)
    assert content["version"] == 1
    return content


def attached(host: Sandbox) -> list[tuple[str, str, str]]:
    """Device, program and way of what ``ls`` lists on devices."""
    return [
        (one["device"], one["program"], one["mode"])
        for one in answer(host, "ls")["attached"]
        if one["mode"] != "cgroup"  # of the whole machine
    ]


def entries(host: Sandbox, name: str) -> list[dict[str, Any]]:
    """What ``show`` says a map holds, without the raw bytes."""
    found: list[dict[str, Any]] = answer(host, "show", name)["entries"]
    return [{field: value for field, value in one.items() if field not in {"key", "value"}} for one in found]


def claim(host: Sandbox) -> None:
    """Give lo to network 5, as an attachment would."""

    def inside() -> None:
        programs = KernelPrograms()
        programs.load()
        entry = NetworkEntry(5, IsolationPolicy.ISOLATED, ChecksumMode.OBSERVE, masquerades=True)
        programs.put("networks", abi.U32.pack(LO), entry.pack())

    host.call(inside)


# -- a life by hand ---------------------------------------------------------------------------------------------------


def test_a_whole_life_by_hand(sandbox: Sandbox) -> None:
    """Nothing loaded; attach; list, show, count; detach; nothing attached, and no entry left."""
    assert answer(sandbox, "ls")["loaded"] is False
    said = answer(sandbox, "attach", "lo", "--policy", "isolated")
    assert said["attached"] == ["isolation", "checksum"]
    assert said["network"] == {"id": MANUAL, "name": "by hand (lo)", "policy": "isolated", "checksum": "repair"}

    assert attached(sandbox) == [("lo", "isolation", "tcx"), ("lo", "checksum", "tcx")]
    listed = answer(sandbox, "ls")
    assert {one["program"] for one in listed["programs"]} == set(Program)
    assert {one["program"] for one in listed["programs"] if one["attached"]} == {"isolation", "checksum"}
    assert {one["name"]: one["entries"] for one in listed["maps"]}["networks"] == 1
    assert listed["attached"][0]["link_pin"].endswith("/links/1-isolation")
    (entry,) = entries(sandbox, "networks")
    assert (entry["device"], entry["network"], entry["policy"]) == ("lo", "by hand (lo)", "isolated")
    assert answer(sandbox, "stats")["checksums"] == []
    shown = answer(sandbox, "show", "lo")
    assert [one["program"] for one in shown["attached"]] == ["isolation", "checksum"]
    assert shown["entries"]["networks"][0]["policy"] == "isolated"

    assert len(answer(sandbox, "detach", "lo")["detached"]) == 2
    assert attached(sandbox) == []
    assert entries(sandbox, "networks") == []


def test_show_tells_what_the_verifier_made_of_a_program(sandbox: Sandbox) -> None:
    """Instructions, bytes, stack, maps by name, and where it is attached; the same numbers as ``ls``."""
    answer(sandbox, "attach", "lo")
    shown = answer(sandbox, "show", "isolation")
    assert shown["verified_instructions"] >= shown["instructions"] > 100
    assert shown["xlated_bytes"] == 8 * shown["instructions"]
    assert 0 < shown["stack_bytes"] <= 512
    assert {"networks", "settings", "isolation_drops", "events"} <= set(shown["maps"])
    assert 0 <= shown["loaded"] < 3600  # seconds ago
    assert shown["attached"][0]["device"] == "lo"
    listed = next(one for one in answer(sandbox, "ls")["programs"] if one["program"] == "isolation")
    assert (listed["tag"], listed["id"]) == (shown["tag"], shown["id"])
    assert (listed["verified_instructions"], listed["pin"]) == (shown["verified_instructions"], shown["pin"])


def test_show_tells_the_kind_and_size_of_a_map(sandbox: Sandbox) -> None:
    """Of each map, also of the ring, which has no entries to look at."""
    answer(sandbox, "attach", "lo")
    shown = answer(sandbox, "show", "checksum_counts")
    assert (shown["kind"], shown["key_bytes"], shown["value_bytes"]) == ("per-CPU hash", 4, 56)
    assert shown["max_entries"] == 16384
    assert shown["memory_bytes"] > 0
    ring = answer(sandbox, "show", "events")
    assert (ring["kind"], ring["entries"]) == ("ring buffer", [])


def test_a_dry_run_does_nothing(sandbox: Sandbox) -> None:
    """It says what it would do, and the kernel stays as it is."""
    status, out, _ = run(sandbox, "attach", "lo", "--dry-run")
    assert status == 0
    assert out.startswith("would attach isolation and checksum to lo: network by hand (lo), policy same-bridge")
    assert answer(sandbox, "ls")["loaded"] is False
    answer(sandbox, "attach", "lo")
    assert run(sandbox, "detach", "lo", "--dry-run")[1] == "would detach isolation and checksum from lo\n"
    assert len(attached(sandbox)) == 2


def test_a_network_by_hand_without_isolation_is_open(sandbox: Sandbox) -> None:
    """Else what comes in by an uplink whose checksums are looked at could reach no container; and so it is again once
    isolation is detached."""
    assert answer(sandbox, "attach", "lo", "--program", "checksum")["network"]["policy"] == "open"
    assert answer(sandbox, "attach", "lo")["network"]["policy"] == "same-bridge"
    answer(sandbox, "detach", "lo", "--program", "isolation")
    assert attached(sandbox) == [("lo", "checksum", "tcx")]
    assert [one["policy"] for one in entries(sandbox, "networks")] == ["open"]


def test_guard_and_fill_by_hand(sandbox: Sandbox) -> None:
    """They are told what a container's port needs, their entries are there, and go with the last of them."""
    status, out, err = run(sandbox, "attach", "lo", "--program", "guard")
    assert (status, out) == (2, "")
    assert "guard has to know what may be sent: --mac MAC" in err
    guard = ("attach", "lo", "--program", "guard", "--mac", "02:00:00:00:00:0A", "--address", "10.11.0.2")
    assert answer(sandbox, *guard)["port"]["guard"] == "full"
    answer(sandbox, "attach", "lo", "--program", "fill", "--udp-port", "68")
    assert sorted(attached(sandbox)) == [("lo", "fill", "clsact"), ("lo", "guard", "clsact")]
    (port,) = entries(sandbox, "ports")
    assert (port["device"], port["network"], port["guard"], port["mac"]) == (
        "lo", "by hand (lo)", "full", "02:00:00:00:00:0a",
    )  # fmt: skip
    assert [one["address"] for one in entries(sandbox, "port_addresses")] == ["10.11.0.2"]
    assert entries(sandbox, "fill_ports") == [{"network": "by hand (lo)", "udp_port": 68}]
    answer(sandbox, "detach", "lo", "--program", "guard")
    assert len(entries(sandbox, "ports")) == 1
    answer(sandbox, "detach", "lo")
    assert [entries(sandbox, name) for name in ("ports", "port_addresses", "fill_ports")] == [[], [], []]


# -- what is not ours -------------------------------------------------------------------------------------------------


def test_a_network_of_a_conflist_is_not_opened_by_accident(sandbox: Sandbox) -> None:
    """Its entry is kept by attach, and detach asks for --force, which keeps the entry too."""
    claim(sandbox)
    said = answer(sandbox, "attach", "lo")["network"]
    assert said == {"id": 5, "name": "#5", "policy": "isolated", "checksum": "observe"}
    assert [one["masquerades"] for one in entries(sandbox, "networks")] == [True]
    status, out, err = run(sandbox, "detach", "lo")
    assert (status, out) == (1, "")
    assert err.startswith('dpctl: could not detach from "lo": it is the device of network "#5"')
    status, _, err = run(sandbox, "attach", "lo", "--policy", "open")
    assert status == 1
    assert 'could not change "lo"' in err
    assert len(answer(sandbox, "detach", "lo", "--force")["detached"]) == 2
    assert len(entries(sandbox, "networks")) == 1


def test_programs_of_others_stay(sandbox: Sandbox) -> None:
    """Attach and detach name them and leave them; show lists them."""
    answer(sandbox, "attach", "lo")
    answer(sandbox, "attach", "lo", "--program", "fill")  # which makes the qdisc
    sandbox.call(foreign.hook, "lo")
    before = sandbox.call(foreign.hooked, "lo")
    theirs = (before[0], [foreign.NAME])
    assert [one["name"] for one in answer(sandbox, "show", "lo")["foreign"]] == ["foreign", "foreign"]
    assert answer(sandbox, "detach", "lo")["foreign"] == ["foreign", "foreign"]
    assert "programs of others on it stay: foreign, foreign" in run(sandbox, "attach", "lo")[1]
    assert sandbox.call(foreign.hooked, "lo") == theirs


def test_an_uplink_is_not_isolated_by_accident(sandbox: Sandbox) -> None:
    """isolation would cut containers off; checksum is fine there."""
    sandbox.ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
    sandbox.ip("addr", "add", "192.0.2.1/24", "dev", "up0")
    sandbox.ip("link", "set", "up0", "up")
    sandbox.ip("route", "add", "default", "via", "192.0.2.254")
    status, _, err = run(sandbox, "attach", "up0")
    assert status == 1
    assert err.startswith('dpctl: could not attach isolation to "up0": it is an uplink')
    assert answer(sandbox, "attach", "up0", "--program", "checksum")["network"]["policy"] == "open"
    assert answer(sandbox, "attach", "up0", "--force")["network"]["policy"] == "same-bridge"


def test_a_device_without_ethernet_headers_is_refused(sandbox: Sandbox) -> None:
    """The programs would read nonsense there."""
    sandbox.ip("tuntap", "add", "tun0", "mode", "tun")
    status, _, err = run(sandbox, "attach", "tun0")
    assert status == 1
    assert err.startswith('dpctl: could not attach to "tun0": its frames have no Ethernet header')


# -- how --------------------------------------------------------------------------------------------------------------


def test_the_attach_mode_is_a_switch(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the settings file says, unless the command line says otherwise."""
    settings = tmp_path / "dataplane.toml"
    settings.write_text('attach = "clsact"\n')
    monkeypatch.setenv("DATAPLANE_CONFIG", str(settings))
    answer(sandbox, "attach", "lo")
    assert {mode for _, _, mode in attached(sandbox)} == {"clsact"}
    answer(sandbox, "attach", "lo", "--attach-mode", "tcx")
    assert {mode for _, _, mode in attached(sandbox)} == {"tcx"}


def test_lost_pins_and_other_versions_are_marked(sandbox: Sandbox) -> None:
    """A program that is attached and pinned nowhere, one of another version, one whose link is not pinned: exit
    status 3, and a line that says which."""
    answer(sandbox, "attach", "lo")

    def unpin_a_link() -> None:
        (loading.LINKS / "1-checksum").unlink()

    # A link that nothing pins would be gone with it: somebody has to hold it.
    def hold_and_list() -> list[list[str]]:
        programs = KernelPrograms()
        programs.hold([LO])
        unpin_a_link()
        out = io.StringIO()
        with redirect_stdout(out):
            assert root.run(("bpf", "ls", "--json")) == 3
        programs.attach(Program.CHECKSUM, LO)
        return [one["flaws"] for one in json.loads(out.getvalue())["attached"] if one["device"] == "lo"]

    assert sandbox.call(hold_and_list) == [[], ["its link is not pinned"]]

    def rename() -> None:
        (loading.BASE / KernelPrograms().digest).rename(loading.BASE / "0123456789abcdef")

    sandbox.call(rename)
    status, out, _ = run(sandbox, "ls")
    assert status == 3
    assert out.startswith("not loaded")
    assert "PROBLEM      isolation on lo: of version 01234567" in out

    def remove() -> None:
        for pin in (loading.BASE / "0123456789abcdef").iterdir():
            pin.unlink()

    sandbox.call(remove)
    assert "PROBLEM      checksum on lo: its pins are lost\n" in run(sandbox, "ls")[1]


def test_programs_of_cgroups_are_listed(sandbox: Sandbox) -> None:
    """With the cgroup, the link and its pin, for the host's processes; not those of another network namespace."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    mounted = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    needs.that(mounted, "cgroup v2 (mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)")
    cgroup = mounted[0] / Cgroup("bpf").name

    def attach_and_list() -> list[dict[str, Any]]:
        programs = KernelPrograms()
        programs.load()
        loading.LINKS.mkdir(exist_ok=True)
        directory = os.open(cgroup, os.O_RDONLY)
        attach_type = ATTACH_TYPES[Hook.GETPEERNAME4]
        with (
            syscall.obj_get(programs.directory / "dp_getpeername4") as program,
            syscall.cgroup_link_create(program.number, directory, attach_type) as link,
        ):
            syscall.obj_pin(link.number, loading.LINKS / "getpeername4")
        os.close(directory)
        out = io.StringIO()
        with redirect_stdout(out):
            assert root.run(("bpf", "ls", "--json")) == 0
        return [one for one in json.loads(out.getvalue())["attached"] if one["link_pin"]]

    cgroup.mkdir()
    try:
        (found,) = sandbox.call(attach_and_list)
        assert (found["program"], found["hook"], found["mode"]) == ("getpeername4", "getpeername4", "cgroup")
        assert (found["cgroup"], found["device"], found["flaws"]) == (cgroup.stat().st_ino, None, [])
        assert found["link_id"] > 0
        assert f"cgroup {cgroup.stat().st_ino}" in run(sandbox, "ls")[1]
        beside = sandbox.namespace("beside")
        assert json.loads(beside.run(DPCTL, "bpf", "ls", "--json").stdout)["attached"] == []
    finally:
        cgroup.rmdir()


def test_a_program_is_known_by_the_namespace_it_serves(sandbox: Sandbox) -> None:
    """By the settings that it reads: so one on a cgroup is ours, or another namespace's, also where pins are lost."""

    def serves() -> tuple[bool, bool, bool]:
        programs = KernelPrograms()
        programs.load()
        with socket.socket() as here:
            cookie = int.from_bytes(here.getsockopt(socket.SOL_SOCKET, 71, 8), sys.byteorder)  # SO_NETNS_COOKIE
        answers = []
        for one in (cookie, cookie + 1):
            programs.put("settings", abi.U32.pack(0), abi.HostSettings(1, one).pack())
            answers.append(inventory._serves_here(programs.program(Program.ISOLATION)))
        return answers[0], answers[1], inventory._serves_here(programs.program(Program.FILL))

    assert sandbox.call(serves) == (True, False, False)


def test_what_cannot_be_done_is_one_line_and_a_status(sandbox: Sandbox) -> None:
    """1 where it failed, 2 where the command line is wrong; nothing on standard output, no traceback."""
    for words, status, said in (
        (("attach", "nowhere"), 1, 'dpctl: could not find device "nowhere": '),
        (("stats",), 1, "dpctl: could not read statistics: the programs are not loaded; "),
        (("show", "isolation"), 1, "dpctl: could not show program isolation: the programs are not loaded; "),
        (("show", "flows"), 1, "dpctl: could not show map flows: the programs are not loaded; "),
        (("test", "isolation", "00"), 1, "dpctl: could not test isolation: the programs are not loaded; "),
        (("show", "nonsense"), 2, "'nonsense' is neither a device nor a program or map of ours"),
        (("attach", "lo", "--program", "nonsense"), 2, "'nonsense' is not one of 'isolation', 'checksum'"),
        (("attach", "lo", "--program", "connect4"), 2, "connect4 runs for sockets of the host's processes"),
        (("attach", "lo", "--program", "fill", "--policy", "open"), 2, "--policy and --checksum-mode are for"),
        (("test", "connect4", "00"), 2, "connect4 runs for sockets, and not on frames"),
    ):
        result = run(sandbox, *words)
        assert (result[0], result[1]) == (status, ""), words
        assert said in result[2], words
        assert "Traceback" not in result[2]


# -- counting ---------------------------------------------------------------------------------------------------------


def test_watching_counts_runs_for_as_long_as_it_lasts(sandbox: Sandbox) -> None:
    """Packets by finding and device, and runs with their time, of an interval; else all since the start."""
    answer(sandbox, "attach", "lo", "--program", "checksum")

    def send_and_watch() -> tuple[str, list[str]]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            out = io.StringIO()
            sender.sendto(b"x", ("127.0.0.1", 9))  # before the watch
            with redirect_stdout(out):
                assert root.run(("bpf", "stats", "--json")) == 0
            later = threading.Timer(0.2, lambda: [sender.sendto(b"x", ("127.0.0.1", 9)) for _ in range(3)])
            later.start()
            watched = io.StringIO()
            with redirect_stdout(watched):
                assert root.run(("bpf", "stats", "--watch", "--count", "1", "--interval", "2", "--json")) == 0
            later.join()
            return out.getvalue(), watched.getvalue().splitlines()

    before, lines = sandbox.call(send_and_watch)
    assert (json.loads(before)["checksums"][0]["device"], json.loads(before)["checksums"][0]["partial"]) == ("lo", 1)
    (interval,) = map(json.loads, lines)
    (counts,) = interval["checksums"]
    assert counts["device"] == "lo"
    assert counts["partial"] >= 3  # its own sender's: computed later, if at all
    assert interval["total"]["checksums"][0]["partial"] == counts["partial"] + 1
    ran = {one["program"]: one for one in interval["programs"]}["checksum"]
    assert ran["runs"] >= 3
    assert ran["ns_per_run"] > 0
    assert interval["seconds"] >= 2


# -- trying out -------------------------------------------------------------------------------------------------------


def stale() -> bytes:
    """A frame whose checksum is right for 10.0.2.15:8080, and not for where it is going."""
    return frame(SYN, b"hello", summed_for=SYN.to("10.0.2.15", 8080))


def test_a_program_is_tried_on_a_frame(sandbox: Sandbox) -> None:
    """The verdict in words, the rewritten checksum by name and offset, and that it was counted."""
    answer(sandbox, "attach", "lo", "--program", "checksum")

    def publish_it() -> None:
        key = abi.OriginKey(plan.FRONT.host4(2), 6, 80, 0)
        KernelPrograms().put("origins", key.pack(), abi.Origin(IPv4Address("10.0.2.15"), 8080).pack())

    sandbox.call(publish_it)
    tried = answer(sandbox, "test", "checksum", stale().hex())
    (outcome,) = tried["runs"]
    assert outcome["verdict"] == -1
    assert outcome["meaning"].startswith("go on (TC_ACT_UNSPEC)")
    (change,) = outcome["changes"]
    assert change["field"].startswith("TCP checksum 0x")
    assert outcome["frame"] == frame(SYN, b"hello").hex()
    assert {(one["field"], one["more"]) for one in tried["counted"]} == {("stale", 1), ("repaired", 1)}
    status, out, _ = run(sandbox, "test", "checksum", stale().hex(), "--repeat", "10")
    assert status == 0
    assert "rewrote  0x" in out
    assert "ns a run, 10 runs" in out
    assert "counted  checksum_counts: lo, repaired + 1\n" in out  # the other nine ran on what it left


def test_a_trial_knows_devices_and_marks(sandbox: Sandbox) -> None:
    """isolation drops what comes from another network, unless it carries the mark; without an entry it says that it
    lets everything through."""
    sandbox.ip("link", "add", "other0", "type", "veth", "peer", "name", "peer0")
    answer(sandbox, "attach", "lo")
    answer(sandbox, "attach", "other0", "--program", "isolation")

    def mark() -> None:
        KernelPrograms().put("settings", abi.U32.pack(0), abi.HostSettings(0x10).pack())

    sandbox.call(mark)
    words = ("test", "isolation", stale().hex(), "--ingress-device", "other0")
    dropped = answer(sandbox, *words)
    assert dropped["runs"][0]["meaning"] == "drop (TC_ACT_SHOT)"
    assert dropped["counted"][0]["what"] == "by hand (other0) to by hand (lo)"
    assert answer(sandbox, *words, "--mark", 0x10)["runs"][0]["verdict"] == -1
    (last,) = entries(sandbox, "offenders")
    assert (last["source"], last["destination"], last["protocol"]) == ("192.0.2.55:40000", "10.11.0.2:80", "tcp")
    assert 0 <= last["when"] < 3600
    status, out, _ = run(sandbox, "test", "isolation", stale().hex(), "--device", "peer0")
    assert status == 0
    assert "peer0 is not in the map networks: isolation lets everything through there" in out


def test_what_is_no_frame_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    """No hex digits, too short a frame, a capture without Ethernet headers: one line."""
    answer(sandbox, "attach", "lo")
    cooked = tmp_path / "any.pcap"
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 113)  # LINUX_SLL
    cooked.write_bytes(header + struct.pack("<IIII", 0, 0, 4, 4) + bytes(4))
    for given, said in (
        ("xx yy", "could not read line 1: not hex digits"),
        ("0011", "the kernel takes no frame of 2 bytes here"),
        (stale()[:33].hex(), "no frame of 33 bytes here: 14 at least, 34 of IPv4"),
        (f"@{cooked}", "without its Ethernet header"),
        ("@/nonexistent", 'could not read frame "/nonexistent": it is no hex text, and there is no such file'),
    ):
        status, out, err = run(sandbox, "test", "isolation", given)
        assert (status, out) == (1, "")
        assert said in err


# -- by name ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with one network that masquerades."""
    world = World(sandbox, tmp_path)
    world.network(plan.FRONT, ipMasq=True)
    return world


@pytest.fixture
def web(world: World) -> Attached:
    """A container whose port 80 is published."""
    return world.attach("web", plan.FRONT, publish("8080:80"))


def test_networks_and_containers_are_known_by_name(world: World, web: Attached) -> None:
    """In ls, in every map, and in what was counted; as wide as a terminal."""
    host = world.host
    send_frame(host, plan.FRONT.device, frame(Flow(Protocol.TCP, str(plan.CLIENT4), 40000, str(web.address(4)), 80)))
    container = answer(host, "ls")["attached"][0]
    assert (container["device"], container["networks"]) == (plan.FRONT.device, [plan.FRONT.name])
    status, out, _ = run(host, "ls")
    assert status == 0
    assert max(map(len, out.splitlines())) <= WIDTH
    row = next(line.split() for line in out.splitlines() if line.startswith("checksum "))
    assert row[1:5] == ["egress", plan.FRONT.device, plan.FRONT.name, "tcx"]

    (network,) = entries(host, "networks")
    assert (network["network"], network["masquerades"]) == (plan.FRONT.name, True)
    origins = {one["port"]: (one["container"], one["published_on"]) for one in entries(host, "origins")}
    name = origins[f"{web.address(4)}:80"][0]
    assert name
    assert origins == {
        f"{web.address(4)}:80": (name, "*:8080"),
        f"[{web.address(6)}]:80": (name, "*:8080"),
    }
    published = {(one["family"], one["container"], one["leads_to"]) for one in entries(host, "published")}
    assert (4, name, f"{web.address(4)}:80") in published
    assert {one["container"] for one in entries(host, "containers")} == {name}
    assert {one["network"] for one in entries(host, "containers")} == {plan.FRONT.name}
    assert str(plan.HOST4) in {one["address"] for one in entries(host, "host_addresses")}
    assert [one["device"] for one in entries(host, "checksum_counts")] == [plan.FRONT.device]
    for what in ("checksum", "networks", "origins", "flows", plan.FRONT.device):
        status, out, _ = run(host, "show", what)
        assert status == 0
        assert plan.FRONT.device in out or name in out, what
        assert max(map(len, out.splitlines())) <= WIDTH, what


def test_without_names_numbers_do(sandbox: Sandbox) -> None:
    """Where the state cannot be read, standard error says so, and all else is shown."""
    claim(sandbox)
    answer(sandbox, "attach", "lo")
    sandbox.run("mkdir", "-p", "/run/dataplane/state.db")
    status, out, err = run(sandbox, "show", "networks")
    assert status == 0
    assert err.startswith("dpctl: names of networks and containers are not known: ")
    assert "#5" in out


def test_what_is_attached_for_a_network_is_detached_by_force_alone(world: World, web: Attached) -> None:
    """The refusal names the network; reconcile puts back what was forced."""
    status, _, err = run(world.host, "detach", plan.FRONT.device)
    assert status == 1
    assert f'it is the device of network "{plan.FRONT.name}"' in err
    answer(world.host, "detach", plan.FRONT.device, "--force")
    assert [program for _, program, _ in attached(world.host)] == ["guard"], "that of the container's port stays"
    world.dpctl("reconcile")
    assert {program for _, program, _ in attached(world.host)} == {"isolation", "checksum", "guard"}


def test_what_was_attached_by_hand_outlives_a_repair(world: World, web: Attached) -> None:
    """reconcile takes what no attachment asks for out of the maps, and leaves what a person put there."""
    maps = ("networks", "ports", "port_addresses", "fill_ports")
    answer(world.host, "attach", "lo", "--program", "checksum")
    answer(world.host, "attach", "lo", "--program", "fill")
    answer(world.host, "attach", "lo", "--program", "guard", "--mac", "02:00:00:00:00:01", "--address", "10.11.0.9")

    def put_nonsense() -> None:
        KernelPrograms().put("port_addresses", abi.port_address_key(IfIndex(99), IPv4Address("10.11.0.8")), U32_ONE)

    before = {name: entries(world.host, name) for name in maps}
    world.host.call(put_nonsense)
    world.dpctl("reconcile")
    assert {name: entries(world.host, name) for name in maps} == before
    assert [program for device, program, _ in attached(world.host) if device == "lo"] == ["checksum", "fill", "guard"]
