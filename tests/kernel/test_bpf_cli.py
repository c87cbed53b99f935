"""``dpctl bpf`` on a real kernel: what it prints, what it refuses, and its exit status."""

from __future__ import annotations

import json
import socket
from typing import Any

from click.testing import CliRunner, Result

from dataplane import abi
from dataplane.abi import NetworkEntry
from dataplane.cli import bpf
from dataplane.programs.door import KernelPrograms
from dataplane.types import ChecksumMode, IfIndex, IsolationPolicy
from support.netns import Sandbox

LO = IfIndex(1)


def run(host: Sandbox, *words: str) -> tuple[int, str, str]:
    """The command in a sandbox: exit status, standard output, standard error."""

    def inside() -> tuple[int, str, str]:
        result: Result = CliRunner().invoke(bpf, words)
        return result.exit_code, result.stdout, result.stderr

    return host.call(inside)


def answer(host: Sandbox, *words: str) -> dict[str, Any]:
    """The JSON that a command prints; it must succeed and be versioned."""
    status, out, err = run(host, *words, "--json")
    assert (status, err) == (0, "")
    content: dict[str, Any] = json.loads(out)
    assert content["version"] == 1
    return content


def claim(host: Sandbox) -> None:
    """Give lo to network 5, as an attachment would."""

    def inside() -> None:
        programs = KernelPrograms()
        programs.load()
        entry = NetworkEntry(5, IsolationPolicy.ISOLATED, ChecksumMode.OBSERVE)
        programs.put("networks", abi.U32.pack(LO), entry.pack())

    host.call(inside)


def test_a_whole_life_by_hand(sandbox: Sandbox) -> None:
    """Nothing loaded; attach; list, show, count; detach; nothing attached."""
    assert answer(sandbox, "ls")["loaded"] is False
    attached = answer(sandbox, "attach", "lo", "--policy", "isolated")
    assert attached["attached"] == ["isolation", "checksum"]
    assert attached["network"] == {"id": 0x80000001, "policy": "isolated", "checksum": "repair"}

    listed = answer(sandbox, "ls")
    assert [(one["device"], one["program"], one["mode"]) for one in listed["attached"]] == [
        ("lo", "isolation", "tcx"),
        ("lo", "checksum", "tcx"),
    ]
    assert {one["name"]: one["entries"] for one in listed["maps"]}["networks"] == 1
    assert answer(sandbox, "show", "checksum")["attached"][0]["device"] == "lo"
    (entry,) = answer(sandbox, "show", "networks")["entries"]
    assert entry["value"] == "lo: network 2147483649, isolated, checksum repair"
    assert answer(sandbox, "stats")["checksums"] == []

    assert len(answer(sandbox, "detach", "lo")["detached"]) == 2
    listed = answer(sandbox, "ls")
    assert listed["attached"] == []
    assert {one["name"]: one["entries"] for one in listed["maps"]}["networks"] == 0


def test_statistics_name_devices_and_runs(sandbox: Sandbox) -> None:
    """Packets by finding and device; runs and their time where the kernel counts them."""
    answer(sandbox, "attach", "lo", "--program", "checksum")
    sandbox.sysctl("kernel/bpf_stats_enabled", 1)
    try:

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for _ in range(3):
                    sender.sendto(b"x", ("127.0.0.1", 9))

        sandbox.call(send)
        stats = answer(sandbox, "stats")
    finally:
        sandbox.sysctl("kernel/bpf_stats_enabled", 0)
    (counts,) = stats["checksums"]
    assert counts["device"] == "lo"
    assert counts["partial"] >= 3  # its own sender's: computed later, if at all
    runs = {one["name"]: one for one in stats["programs"]}["dp_checksum"]
    assert runs["runs"] >= 3
    assert runs["run_ns"] > 0


def test_a_dry_run_does_nothing(sandbox: Sandbox) -> None:
    """It says what it would do, and the kernel stays as it is."""
    status, out, _ = run(sandbox, "attach", "lo", "--dry-run")
    assert status == 0
    assert out.startswith("would attach isolation and checksum to lo")
    assert answer(sandbox, "ls")["loaded"] is False
    answer(sandbox, "attach", "lo")
    assert run(sandbox, "detach", "lo", "--dry-run")[1] == "would detach isolation and checksum from lo\n"
    assert len(answer(sandbox, "ls")["attached"]) == 2


def test_a_network_of_a_conflist_is_not_opened_by_accident(sandbox: Sandbox) -> None:
    """Its entry is kept by attach, and detach asks for --force, which keeps the entry too."""
    claim(sandbox)
    assert answer(sandbox, "attach", "lo")["network"] == {"id": 5, "policy": "isolated", "checksum": "observe"}
    status, out, err = run(sandbox, "detach", "lo")
    assert (status, out) == (1, "")
    assert err.startswith("Error: could not detach from lo: it belongs to network 5 of a conflist")
    status, _, err = run(sandbox, "attach", "lo", "--policy", "open")
    assert status == 1
    assert "could not change lo" in err
    assert len(answer(sandbox, "detach", "lo", "--force")["detached"]) == 2
    assert len(answer(sandbox, "show", "networks")["entries"]) == 1


def test_detaching_one_program_keeps_the_other_and_its_network(sandbox: Sandbox) -> None:
    """The entry goes with the last program."""
    answer(sandbox, "attach", "lo")
    answer(sandbox, "detach", "lo", "--program", "isolation")
    assert [one["program"] for one in answer(sandbox, "ls")["attached"]] == ["checksum"]
    assert len(answer(sandbox, "show", "networks")["entries"]) == 1


def test_the_attach_mode_is_a_switch(sandbox: Sandbox) -> None:
    """clsact on demand."""
    assert run(sandbox, "--attach-mode", "clsact", "attach", "lo")[0] == 0
    assert {one["mode"] for one in answer(sandbox, "ls")["attached"]} == {"clsact"}


def test_what_cannot_be_done_is_one_line_and_a_status(sandbox: Sandbox) -> None:
    """1 where it failed, 2 where the command line is wrong; nothing on standard output, no traceback."""
    for words, status, said in (
        (("attach", "nowhere"), 1, 'Error: could not find link "nowhere": '),
        (("stats",), 1, "Error: could not read statistics: the programs are not loaded"),
        (("show", "isolation"), 1, 'Error: could not open BPF object "dp_isolation": not pinned in /sys/fs/bpf/'),
        (("show", "nonsense"), 2, "'nonsense' is neither a program nor a map of ours"),
        (("attach", "lo", "--program", "nonsense"), 2, "'nonsense' is not one of 'isolation', 'checksum'"),
    ):
        result = run(sandbox, *words)
        assert (result[0], result[1]) == (status, ""), words
        assert said in result[2]
        assert "Traceback" not in result[2]
