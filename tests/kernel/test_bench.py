"""A bench from its command to its table, on this kernel, with hardly any rounds: the figures themselves say nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bench.hosts.variants import BARE, FROM_HOST, PUBLISHED, ROUTED
from bench.place import wait_for
from bench.running import STOPPED
from dataplane.types import Program
from support import needs
from support.benched import run, smoke, untouched
from support.started import DPCTL
from support.world import GO_PLUGINS

SCENARIO = "single_entry"
"""The quickest of those that start everything there is to start: our agent and plugins, and the Go plugins."""

COST = "program_cost"
MEASURING = "round trips routed, published, from the host: measuring"
STOPPED_BY_HAND = 130


def test_a_bench_runs_and_leaves_nothing(tmp_path: Path) -> None:
    """Raw results, summary and report are written, and say on what it was measured; the machine is as it was."""
    needs.file(GO_PLUGINS / "portmap", package="containernetworking-plugins")
    done = run(tmp_path, SCENARIO)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())["scenarios"][SCENARIO]
    figures = {one["what"]: one for one in summary["figures"]}
    for verb in ("ADD", "DEL"):
        for variant in ("dataplane-bridge", "chain on our drop-ins"):
            assert figures[f"{variant}, {verb}"]["value"] > 0
        beside = re.compile(rf"Go chain \S+, \S+ / dataplane-bridge, {verb}")
        assert all(one["count"] > 0 for what, one in figures.items() if beside.fullmatch(what))
        assert any(beside.fullmatch(what) for what in figures)
    first, *lines = [json.loads(line) for line in (tmp_path / f"{SCENARIO}.jsonl").read_text().splitlines()]
    assert {"run", "commit", "kernel", "cpu", "packages", "nft", "mitigations", "memory_mib"} <= first.keys()
    assert {line["kind"] for line in lines} == {"sample", "block", "end"}
    assert f"## {SCENARIO}: " in (tmp_path / "report.md").read_text()
    assert f"{SCENARIO}: " in (tmp_path / "report.html").read_text()


def test_each_program_is_measured_on_one_packet_and_on_its_way(tmp_path: Path) -> None:
    """Isolation and checksum go the ways that their cases say, every path has its round trips, and none is lost."""
    figures = smoke(tmp_path, COST)[COST]
    for program in (Program.ISOLATION, Program.CHECKSUM):
        ways = [one for what, one in figures.items() if what.startswith(f"{program}: ")]
        assert len(ways) > 5
        assert not [one for one in ways if one["value"] is None or one["note"]]
    for path in (BARE, ROUTED, PUBLISHED, FROM_HOST):
        for name in ("isolation idle", "isolation hit", "checksum hit", "all idle", "all hit"):
            assert figures[f"{path.name}: {name}"]["value"] > 0
    assert figures["udp connect() to a container: no port published"]["value"] > 0
    (lost,) = (one for what, one in figures.items() if what.startswith("round trips and connections lost"))
    assert lost["met"] is True


def begun(out: Path, *words: str) -> subprocess.Popen[str]:
    """A bench that runs, in a session of its own."""
    return subprocess.Popen(
        [DPCTL, "bench", *words, "--out", out],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_bench_leaves_nothing_but_what_it_measured(tmp_path: Path, number: signal.Signals) -> None:
    """Told to stop while programs are attached, and told again by who cannot wait: no link, no namespace, no cgroup, no
    process stays; what was measured is reported, as not all there was to be."""
    needs.root()
    needs.command("cc", package="gcc")
    with untouched():
        running = begun(tmp_path, "packet", "--quick")
        with running:
            assert running.stderr is not None
            assert any(f"{COST}: {MEASURING}" in line for line in running.stderr), "it never came so far"
            for _ in range(2):
                os.kill(running.pid, number)
                time.sleep(0.1)
            said = running.stderr.read()
            assert running.wait(timeout=60) == STOPPED_BY_HAND, said
        assert f"{number.name}: taking down what was made" in said
    assert not [path for path in Path("/proc").glob("[0-9]*/stat") if _session(path) == running.pid]
    summary = json.loads((tmp_path / "summary.json").read_text())["scenarios"][COST]
    assert STOPPED in summary["notes"]
    assert [one for one in summary["figures"] if one["value"] is not None]


def test_who_interrupts_the_first_phase_does_not_wait_for_it(tmp_path: Path) -> None:
    """Programs are run on one packet for minutes: told to stop, the bench does not run them to the end of that, and the
    table is that of the blocks that were whole."""
    needs.root()
    needs.command("cc", package="gcc")
    wanted, raw = 32, tmp_path / f"{COST}.jsonl"
    with untouched():
        running = begun(tmp_path, "run", COST)
        with running:
            assert wait_for(raw.exists, 90), "it never measured a block"
            running.send_signal(signal.SIGINT)
            assert running.wait(timeout=60) == STOPPED_BY_HAND
    kinds = [json.loads(line) for line in raw.read_text().splitlines()]
    assert 1 <= len([one for one in kinds if one["kind"] == "block"]) < wanted // 2
    assert STOPPED in [one["text"] for one in kinds if one["kind"] == "note"]


def test_former_results_outlive_a_run_that_is_stopped_before_it_measures(tmp_path: Path) -> None:
    """Told to stop before a block was whole, the bench leaves what another run measured."""
    needs.root()
    needs.command("cc", package="gcc")
    raw = tmp_path / f"{COST}.jsonl"
    raw.write_text('{"kind": "run", "run": "former"}\n')
    with untouched():
        running = begun(tmp_path, "run", COST)
        with running:
            assert running.stderr is not None
            assert any("each program on one packet" in line for line in running.stderr), "it never came so far"
            running.send_signal(signal.SIGINT)
            said = running.stderr.read()
            assert running.wait(timeout=60) == STOPPED_BY_HAND, said
    assert "the former results stay" in said
    assert json.loads(raw.read_text())["run"] == "former"
    assert [path.name for path in tmp_path.iterdir()] == [raw.name]


def test_what_cannot_be_measured_does_not_keep_others_from_it(tmp_path: Path) -> None:
    """Without the plugins that ours are compared with one scenario fails, says why, and the next is measured."""
    empty = tmp_path / "none"
    empty.mkdir()
    done = run(tmp_path, SCENARIO, "agent_cost", "--peer", empty)
    assert done.returncode == 1, done.stderr
    assert f"{SCENARIO} was not measured to its end: could not find" in done.stderr
    assert "agent_cost: " in done.stdout


def _session(stat: Path) -> int:
    """The session of a process; 0 where it has ended, though nobody may have reaped it."""
    try:
        state, _, _, session, *_ = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state == "Z" else int(session)
