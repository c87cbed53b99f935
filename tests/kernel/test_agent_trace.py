"""One name for a request: in the agent's log, and in what the runtime's log gets from the plugin."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from support import plan
from support.cni import configuration
from support.netns import Sandbox
from support.started import Plugin
from support.world import World

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("handed_on", ["", TRACE])
def test_a_failure_is_found_in_both_logs(sandbox: Sandbox, tmp_path: Path, handed_on: str) -> None:
    """By the trace that the runtime handed on (W3C), else by a name of the agent's own."""
    world = World(sandbox, tmp_path)
    world.network(plan.FRONT)
    agent = world.start_agent()
    plugin = Plugin(sandbox, world.plugins / "dataplane")
    answer = plugin("ADD", configuration(snat="yes"), CNI_NETNS="/proc/self/ns/net", TRACEPARENT=handed_on or None)
    assert answer.exit_code == 1
    told = re.search(r"^dataplane: .+ \(trace (\S+)\)$", answer.stderr, re.MULTILINE)
    assert told, answer.stderr
    assert told[1] == handed_on or (not handed_on and re.fullmatch(r"[0-9a-f]{8}", told[1]))
    world.host.signal(agent, signal.SIGTERM)
    assert agent.stderr is not None
    assert f"(trace {told[1]})" in agent.stderr.read()
