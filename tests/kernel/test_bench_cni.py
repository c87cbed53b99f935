"""What proves a CNI call in a bench: rounds that do what they say are believed, and others are found out."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bench.cni import port
from bench.instruments.starter import Starter
from bench.native import BenchError
from bench.peers.plugins import Backend, GoPlugins, Peer, found
from bench.scenarios.cni_latency import oneport
from bench.stage import Stage, containers
from support import needs
from support.benched import smoke
from support.world import GO_PLUGINS


def go_peers() -> list[Peer]:
    """Those of the package."""
    needs.root()
    needs.file(GO_PLUGINS / "portmap", package="containernetworking-plugins")
    return found((GO_PLUGINS,))


def test_a_round_of_ours_is_believed_and_one_without_its_rules_is_not(stage: Stage) -> None:
    """Ports are asked of the kernel: with the agent, without one, and with one that has just been started."""
    with ExitStack() as stack:
        subjects = [*oneport.ours(stage, stack, 100), *oneport.without_agent(stage, stack, 100)]
        assert [oneport.prove(subject).doubt for subject in subjects] == [""] * len(subjects)
        assert all(timed.agent > 0 for timed in subjects[0].round())
        by_itself = next(one for one in subjects if one.name == oneport.BY_ITSELF)
        assert all(timed.agent == 0 and timed.cpu for timed in by_itself.round())
        fewer = replace(subjects[0], others=list(subjects[0].others)[1:])
        assert "after ADD 101 ports are published that are not the 100" in oneport.prove(fewer).doubt


def test_each_port_can_be_an_attachment_of_its_own(stage: Stage) -> None:
    """Two to a container, under ids, addresses and ports of their own: we know of as many, and a round beside them is
    believed."""
    with ExitStack() as stack:
        crowd = oneport.crowded(stage, stack, 200)
        assert oneport.prove(crowd).doubt == ""
        assert len(set(crowd.others)) == 200


def test_a_portmap_that_publishes_nothing_is_found_out(stage: Stage) -> None:
    """Its rules are asked of the backend that its name says, with those that were put in place for the others."""
    for place, peer in enumerate(go_peers()):
        with ExitStack() as stack:
            subject = oneport.portmap(stage, stack, 100, place, peer)
            assert oneport.prove(subject).doubt == ""
            elsewhere = replace(subject, published=partial(list, subject.others))
            assert "after ADD 100 ports are published that are not the 101" in oneport.prove(elsewhere).doubt


def test_rules_of_another_form_are_not_multiplied(stage: Stage) -> None:
    """A portmap that writes what is not known here is not measured beside what it would not have written."""
    peer = go_peers()[0]
    with stage.host("go") as host, Starter(host, stage.native) as starter:
        first = replace(containers(host, 1, 0)[0], ports=({**port(8080, 80), "hostIP": "10.77.0.1"},))
        with pytest.raises(BenchError, match="writes other rules than those that are known here"):
            GoPlugins(host, peer).preload(starter, [first])


def test_a_portmap_that_uses_another_backend_than_its_name_says_is_found_out(stage: Stage) -> None:
    """A table of nftables stays empty where iptables were written, however well the port is published."""
    peer = next(one for one in go_peers() if one.backend is not Backend.NFTABLES)
    with ExitStack() as stack:
        subject = oneport.portmap(stage, stack, 0, 0, peer)
        other = GoPlugins(stack.enter_context(stage.host("other")), replace(peer, backend=Backend.NFTABLES))
        assert "after ADD 0 ports" in oneport.prove(replace(subject, published=other.published)).doubt


@pytest.mark.parametrize("scenario", ["cni_latency", "concurrency"])
def test_a_scenario_runs_and_finds_nothing_wrong(scenario: str, tmp_path: Path) -> None:
    """All that is judged by counts is met, every verb was timed for ours and a peer, and the machine is as it was."""
    go_peers()
    figures = smoke(tmp_path, scenario)[scenario].values()
    assert not [one for one in figures if one["must"] == "0" and not one["met"]]
    assert not [one["what"] for one in figures if one["value"] is None]
    verbs = {one["what"].partition(" / dataplane")[2].partition(": ")[2][:3] for one in figures if one["unit"] == "x"}
    assert {"ADD", "DEL"} <= verbs
