"""``dpctl checksum`` on a real host: what the programs find, who published the port, and what is done about it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from dataplane.types import Protocol
from support import plan
from support.frames import Flow, flipped, frame, seed_stale_syn
from support.netns import Sandbox, wait_until
from support.traffic import send_frame
from support.world import DPCTL, Attached, World, publish

PORT = 8080


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """A host with one network."""
    world = World(sandbox, tmp_path)
    world.network(plan.FRONT)
    return world


@pytest.fixture
def web(world: World) -> Attached:
    """A container whose port 80 is published."""
    return world.attach("web", plan.FRONT, publish(f"{PORT}:80"))


def stale(web: Attached, source_port: int = 40000) -> bytes:
    """A frame to the container whose checksum is still right for the published port."""
    flow = Flow(Protocol.TCP, str(plan.CLIENT4), source_port, str(web.address(4)), 80)
    return frame(flow, b"hello", summed_for=flow.to(str(plan.HOST4), PORT))


def watched(world: World, *words: object) -> list[dict[str, object]]:
    """What ``watch`` prints of the events that have come."""
    return [json.loads(line) for line in world.dpctl("checksum", "watch", "--json", *words).splitlines()]


def test_watch_tells_stale_from_corrupt(world: World, web: Attached) -> None:
    """A stale checksum is shown with what it is right for and as repaired, a corrupt one as left alone."""
    send_frame(world.host, plan.FRONT.device, stale(web))
    send_frame(world.host, plan.FRONT.device, flipped(stale(web, 40001), 8 * 50 + 3))
    first, second = watched(world, "--count", 2, "--for", 10)
    owner = f"{plan.FRONT.name}/web/eth0"
    assert (first["translation"], first["network"], first["container"]) == ("published", plan.FRONT.name, owner)
    assert first["mapping"] == f"*:{PORT}/tcp -> {web.address(4)}:80 ({owner})"
    assert (second["translation"], second["container"], second["mapping"]) == ("none", owner, None)
    assert (first["kind"], first["action"]) == ("stale", "repaired")
    assert first["origin"] == {"address": str(plan.HOST4), "port": PORT}
    assert first["destination"] == {"address": str(web.address(4)), "port": 80}
    assert (second["kind"], second["action"], second["origin"]) == ("corrupt", "none", None)
    assert second["source"] == {"address": str(plan.CLIENT4), "port": 40001}


def test_watch_names_whose_it_is(world: World, web: Attached) -> None:
    """For people each finding is a line in columns, with the published port and its container; with an agent, too."""
    whose = f"{plan.FRONT.name}/web {PORT}/tcp"
    send_frame(world.host, plan.FRONT.device, stale(web))
    heading, line = world.dpctl("checksum", "watch", "--count", 1, "--for", 10).splitlines()
    assert (line.index("stale"), line.index(whose)) == (heading.index("CLASS"), heading.index("WHOSE"))
    assert line.index("repaired") == heading.index("ACTION")

    world.start_agent()
    watch = world.host.spawn(DPCTL, "checksum", "watch", "--count", "1", env=world.environment)
    number = 42000
    while watch.poll() is None:  # what came before it follows the agent's records is not told again
        send_frame(world.host, plan.FRONT.device, stale(web, number))
        number += 1
        time.sleep(0.2)
    assert watch.stdout is not None
    assert whose in watch.stdout.read()


def test_watch_ends_when_its_time_is_up(world: World, web: Attached) -> None:
    """Without anything to show, watch ends after the time it was given, and shows nothing."""
    assert web.name
    assert watched(world, "--for", 0.3) == []


def test_watch_without_programs(world: World) -> None:
    """Before the first container there is nothing to watch, which is said in one line."""
    done = world.host.run(DPCTL, "checksum", "watch", check=False, env=world.environment)
    assert done.returncode == 1
    assert done.stderr.startswith("dpctl: could not watch checksums: no programs are loaded")
    assert done.stderr.count("\n") == 1


def test_every_mode_can_be_chosen(world: World, web: Attached) -> None:
    """Whatever a conflist may say can be chosen by hand, and scan tells which it is."""
    assert web.name
    for mode in ("off", "observe", "repair", "fill"):
        world.dpctl("checksum", "mode", plan.FRONT.name, mode)
        networks = json.loads(world.dpctl("checksum", "scan", "--json", check=False))["networks"]
        assert [one["mode"] for one in networks] == [mode]


def test_an_agent_keeps_the_mode_that_was_chosen(world: World, web: Attached) -> None:
    """An agent that knew another mode puts back programs and entries by the one that was chosen beside it."""
    assert web.name
    world.start_agent()
    world.dpctl("bpf", "detach", plan.FRONT.device, "--force")  # has the agent read the modes
    wait_until(lambda: world.host.run(DPCTL, "status", check=False, env=world.environment).returncode == 0, 20)
    world.dpctl("checksum", "mode", plan.FRONT.name, "observe")
    world.dpctl("bpf", "detach", plan.FRONT.device, "--force")
    wait_until(lambda: world.host.run(DPCTL, "status", check=False, env=world.environment).returncode == 0, 20)
    (shown,) = json.loads(world.dpctl("bpf", "show", "networks", "--json"))["entries"]
    assert shown["checksum"] == "observe"


@pytest.mark.parametrize("way", ["tcx", "clsact"])
def test_scan_sees_the_program_either_way(sandbox: Sandbox, tmp_path: Path, way: str) -> None:
    """However programs are hooked, scan finds them at work, under each mode that has any."""
    world = World(sandbox, tmp_path, f'attach = "{way}"')
    world.network(plan.FRONT, checksum="fill")
    web = world.attach("web", plan.FRONT, publish(f"{PORT}:80"))
    send_frame(world.host, plan.FRONT.device, stale(web))
    (network,) = json.loads(world.dpctl("checksum", "scan", "--json"))["networks"]
    assert (network["verdicts"], network["unwatched"], network["mode"]) == (["repaired"], [], "fill")


def test_mode_changes_what_is_done(world: World, web: Attached) -> None:
    """``observe`` reports and leaves the checksum, ``off`` does neither."""
    said = json.loads(world.dpctl("checksum", "mode", plan.FRONT.name, "observe", "--json"))
    assert said == {"version": 1, "network": plan.FRONT.name, "checksum": "observe"}
    send_frame(world.host, plan.FRONT.device, stale(web))
    assert [event["action"] for event in watched(world, "--count", 1, "--for", 10)] == ["none"]

    world.dpctl("checksum", "mode", plan.FRONT.name, "off")
    send_frame(world.host, plan.FRONT.device, stale(web, 40001))
    assert watched(world, "--for", 0.5) == []


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("nowhere", "repair"), 1, 'network "nowhere"'),
        ((plan.FRONT.name, "fix"), 2, "'fix' is not one of"),
    ],
)
def test_mode_says_what_it_cannot_do(world: World, words: tuple[str, str], status: int, why: str) -> None:
    """A network without containers and an unknown mode are refused, each with its exit status."""
    done = world.host.run(DPCTL, "checksum", "mode", *words, check=False, env=world.environment)
    assert done.returncode == status
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_explain_names_the_mapping(world: World, web: Attached) -> None:
    """On the host that published the port, explain proves a stale checksum and names the container."""
    done = world.host.run(DPCTL, "checksum", "explain", "--json", stale(web).hex(), check=False, env=world.environment)
    assert done.returncode == 3
    found = json.loads(done.stdout)["findings"][0]
    assert (found["verdict"], found["certainty"]) == ("stale", "proved")
    rewrite = found["rewrite"]
    assert (rewrite["evidence"], rewrite["address"], rewrite["port"]) == ("mapping", str(plan.HOST4), PORT)
    assert rewrite["mapping"]["owner"] == f"{plan.FRONT.name}/web/eth0"


@pytest.mark.parametrize(
    ("address", "certainty", "evidence"),
    [("10.0.2.15/24", "likely", "host address"), ("192.0.2.1/24", "inferred", "neighbourhood")],
)
def test_explain_leaves_no_trace_on_a_host_without_state(
    sandbox: Sandbox, address: str, certainty: str, evidence: str
) -> None:
    """Where nothing was ever attached, explain goes by the host's addresses, and makes neither state nor lock."""
    sandbox.bridge("uplink", address)
    before = sandbox.run("find", "/run", "-xdev").stdout
    done = sandbox.run(DPCTL, "checksum", "explain", "--json", seed_stale_syn().hex(), check=False)
    assert done.returncode == 3, done.stderr
    said = json.loads(done.stdout)
    found = said["findings"][0]
    assert (found["certainty"], found["rewrite"]["evidence"]) == (certainty, evidence)
    assert said["judged_without_mappings"] is None
    assert sandbox.run("find", "/run", "-xdev").stdout == before
