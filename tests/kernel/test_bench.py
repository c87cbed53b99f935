"""A bench from its command to its table, on this kernel, with hardly any rounds: the figures themselves say nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from support import needs
from support.netns import outer_state
from support.started import DPCTL
from support.world import GO_PLUGINS

SCENARIO = "single_entry"
"""The quickest of those that start everything there is to start: our agent and plugins, and the Go plugins."""


def test_a_bench_runs_and_leaves_nothing(tmp_path: Path) -> None:
    """Raw results, summary and table are written, and say on what it was measured; the machine is as it was."""
    needs.root()
    needs.file(GO_PLUGINS / "portmap", package="containernetworking-plugins")
    before = outer_state()
    done = subprocess.run(
        [DPCTL, "bench", "run", SCENARIO, "--smoke", "--out", tmp_path],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert outer_state() == before
    summary = json.loads((tmp_path / "summary.json").read_text())["scenarios"][SCENARIO]
    figures = {one["what"]: one for one in summary["figures"]}
    for verb in ("ADD", "DEL"):
        for variant in ("dataplane-bridge", "chain on our drop-ins", "Go chain"):
            assert figures[f"{variant}, {verb}"]["value"] > 0
        assert figures[f"Go chain / dataplane-bridge, {verb}"]["count"] > 0
    run, *lines = [json.loads(line) for line in (tmp_path / f"{SCENARIO}.jsonl").read_text().splitlines()]
    assert {"run", "commit", "kernel", "cpu", "packages"} <= run.keys()
    assert {line["kind"] for line in lines} == {"sample", "block", "note"}
    assert f"### {SCENARIO}: " in (tmp_path / "summary.md").read_text()
    assert "write their rules by" in done.stdout
