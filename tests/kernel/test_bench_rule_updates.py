"""Those who publish ports in the bench do it, and are not believed where they do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.cni import Container, configuration, environment, port
from bench.instruments.held import PORTMAP, PURE, Held
from bench.instruments.starter import Starter
from bench.peers.nft import Nft
from bench.scenarios import repair
from bench.scenarios.rule_updates import drawn as shown
from bench.scenarios.rule_updates.listings import OF_PORTMAP, RULESET, Lister, of_ours
from bench.scenarios.rule_updates.portmap import PortmapCalls
from bench.scenarios.rule_updates.publishers import EndToEnd, InProcess, LibraryMap, NftMap, PortmapRules, Publisher
from bench.scenarios.rule_updates.updates import MANY, ONE, RANGE, UPDATES, Update, Verb, elements
from bench.stage import Stage
from support.benched import smoke

PRESENT = 30
ADD, REPLACE, DEL = (Update(verb, ONE) for verb in Verb)


@pytest.mark.parametrize("make", [EndToEnd, InProcess, NftMap, LibraryMap, PortmapRules])
def test_every_update_of_everybody_is_proved(stage: Stage, make: Callable[..., Publisher]) -> None:
    """One port, 32 and a range come, change and go, twice; the kernel shows each, by the transactions that it takes."""
    with ExitStack() as stack:
        publisher = make(stage, stack, PRESENT)
        for update in (*UPDATES, *UPDATES):
            spent, doubt = publisher.proved(update)
            assert not doubt, update.name
            assert spent > 0


class Lazy(NftMap):
    """Says that it did what it did not."""

    def _make(self, _: Update) -> float:
        return 1.0


class Careless(NftMap):
    """Publishes, whatever it is asked for, a port that leads elsewhere."""

    def _make(self, update: Update) -> float:
        return super()._make(Update(Verb.REPLACE if update is REPLACE else Verb.ADD, ONE))


class Wordy(PortmapRules):
    """Adds its rules twice, as portmap does at a repeated ADD."""

    def _make(self, update: Update) -> float:
        return super()._make(update) + (self._calls.add(update.container(self._own)).milliseconds)

    def _transactions(self, _: Update) -> int:
        return 2


def test_what_was_not_done_is_not_believed(stage: Stage) -> None:
    """No transaction; a port that leads elsewhere; rules that are there twice: each is a doubt."""
    with ExitStack() as stack:
        assert Lazy(stage, stack, 0).proved(ADD) == (1.0, "0 transactions, and not 1")
        careless = Careless(stage, stack, PRESENT)
        assert not careless.proved(ADD)[1]
        assert not careless.proved(REPLACE)[1]
        careless.host.run("nft", "delete", "element", "ip", "published", "ports", "{ tcp . 40000 }")
        assert careless.proved(DEL)[1] == "the elements are not what they should be"
        assert "and not" in Wordy(stage, stack, 0).proved(ADD)[1]


def test_the_kernel_is_asked_for_the_very_element(stage: Stage) -> None:
    """Another value, another end of a range, or the absence of what should be there is noticed."""
    with ExitStack() as stack:
        own = Container("own", "", "10.77.3.2/16")
        host = NftMap(stage, stack, 0).host
        held, span = Held(host), Update(Verb.ADD, RANGE)
        host.run("nft", "add", "element", "ip", "published", "ports", "{ tcp . 40000 : 10.77.3.2 . 80 }")
        host.run("nft", "add", "element", "ip", "published", "ranges", "{ tcp . 42000-42098 : 10.77.3.2 }")
        assert held.as_expected(PURE, elements(ADD, own))
        assert not held.as_expected(PURE, elements(REPLACE, own))
        assert not held.as_expected(PURE, elements(DEL, own))
        assert not held.as_expected(PURE, elements(span, own))
        assert not held.as_expected(PURE, elements(Update(Verb.ADD, MANY), own))
        before = held.transactions()
        host.run("nft", "flush", "map", "ip", "published", "ports")
        assert held.transactions() == before + 1
        assert held.as_expected(PURE, elements(DEL, own))


def test_listings_tell_all_ports(stage: Stage) -> None:
    """Every way to ask, of our table and of portmap's; one that is not whole is not believed."""
    with ExitStack() as stack:
        ours, peer = EndToEnd(stage, stack, PRESENT), PortmapRules(stage, stack, PRESENT)
        starter, other = (stack.enter_context(Starter(one.host, stage.native)) for one in (ours, peer))
        for one in of_ours(ours.ours):
            assert Lister(starter, PRESENT).listed(one)[1] == ""
        for one in OF_PORTMAP:
            assert Lister(other, PRESENT).listed(one)[1] == ""
        assert "not of 31" in Lister(starter, PRESENT + 1).listed(RULESET)[1]
        began = time.monotonic()
        with Lister(starter, PRESENT).listing(RULESET) as under_way:
            pass
        assert began <= under_way.began < under_way.ended <= time.monotonic()


def test_what_an_executable_says_is_read_whole(stage: Stage) -> None:
    """Listings are longer than any pipe."""
    with ExitStack() as stack:
        starter = stack.enter_context(Starter(stack.enter_context(stage.host("any")), stage.native))
        done = starter.run(Path("/usr/bin/head"), {}, words=("-c", "5000000", "/dev/zero"))
        assert done.output == "\0" * 5_000_000


def test_portmap_calls_nft_as_the_bench_does(stage: Stage, newer: Path, tmp_path: Path) -> None:
    """An ADD and a DEL of the executable, and of the bench: the same words, and the same on standard input, in the same
    order."""
    nft = shutil.which("nft")
    recorder, log = tmp_path / "recorder", tmp_path / "calls"
    recorder.mkdir()
    (recorder / "nft").write_text(
        f'#!/bin/sh\necho "nft $*" >>{log}\n'
        f'case "$*" in *"-f -") tee -a {log} | {nft} "$@"; exit;; esac\nexec {nft} "$@"\n'
    )
    (recorder / "nft").chmod(0o755)
    with ExitStack() as stack:
        host = stack.enter_context(stage.host("real"))
        place = host.namespace("own")
        ports = (port(40000, 80), port(40001, 81, "udp"))
        own = Container("own", place.path, "10.77.3.2/16", ports=ports)
        text = configuration("portmap", "bench", ports, own.previous_result(), backend="nftables")
        recorded = []
        for verb in ("ADD", "DEL"):
            env = {**environment(verb, own, str(newer.parent)), "PATH": f"{recorder}:{os.environ['PATH']}"}
            host.run(newer, text=text, env=env)
        recorded.append(log.read_text())
        log.unlink()
        imitated = stack.enter_context(stage.host("imitated"))
        starter = stack.enter_context(Starter(imitated, stage.native, stderr=subprocess.DEVNULL))
        calls = PortmapCalls(Nft(starter, recorder / "nft"))
        assert calls.add(own).calls == 3
        gone = calls.delete(own)
        assert (gone.calls, gone.rules) == (12, 4)
        recorded.append(log.read_text())
        assert recorded[0] == recorded[1]
        assert Held(host).rules(PORTMAP) == Held(imitated).rules(PORTMAP)


def test_updates_are_measured_from_the_command_to_the_table(tmp_path: Path) -> None:
    """Everybody at each size, and every update and listing was proved."""
    made = smoke(tmp_path, "rule_updates")["rule_updates"]
    for variant in shown.ROLES:
        for update in UPDATES:
            for size in (0, 100):
                assert made[f"{variant}, {update.name}, {size} present"]["value"] > 0
    assert made["updates and listings that were not proved"]["met"] is True


def test_repairs_are_measured_from_the_command_to_the_table(tmp_path: Path) -> None:
    """Every damage is repaired, and how long that took is told."""
    made = smoke(tmp_path, "repair")["repair"]
    for what in repair.DAMAGE:
        assert made[f"{what}, 1 published: to restored"]["value"] > 0
    assert made["damage that was not repaired"]["met"] is True
