"""Networks that are kept apart when it is measured, on this kernel: by whose rules, and whether anything leaks."""

from __future__ import annotations

import os
from pathlib import Path

from bench.native import Native
from bench.place import Host
from bench.scenarios.isolation import firewalls
from bench.scenarios.isolation import rules as isolations
from bench.scenarios.isolation.networks import Scene
from bench.scenarios.isolation.rules import THERE_NETWORK, Variant
from dataplane.programs.door import KernelPrograms
from support import needs
from support.benched import smoke
from support.world import GO_PLUGINS

SIZES = (1, 2, 10)
BATCHES = 128
"""So many that the drops of a few turns would fill the ring of events, were it not read."""
FLOWS = 1000
CPU = max(os.sched_getaffinity(0))


def test_the_scenario_runs_and_leaves_nothing(tmp_path: Path) -> None:
    """Every way has figures, no round trip is lost, no datagram arrives, and each variant is what its name says."""
    needs.command("iptables-restore", package="iptables")
    figures = smoke(tmp_path, "isolation")["isolation"]
    for path in isolations.PATHS:
        for peer in (Variant.NOTHING, Variant.SETS, Variant.LINEAR, Variant.STAGES, Variant.PLUGIN):
            assert figures[f"{path.name}, 10 networks: {Variant.ALONE} / {peer}"]["value"] > 0
    assert figures[f"denied, 10 networks: {Variant.ALONE} / {Variant.SETS}"]["value"] > 0
    *_, lost, arrived, unproved = figures.values()
    assert lost["met"] is arrived["met"] is unproved["met"] is True


def test_the_firewall_plugin_writes_these_rules(host: Host) -> None:
    """Chain for chain and in this order; and where there is one rule more, that is seen."""
    needs.command("iptables-save", package="iptables")
    needs.file(GO_PLUGINS / firewalls.PLUGIN, package="containernetworking-plugins")
    assert firewalls.backend(host) == "iptables-nft"
    assert firewalls.verbatim(host, GO_PLUGINS / firewalls.PLUGIN)
    host.run("iptables", "-A", "CNI-ISOLATION-STAGE-2", "-j", "RETURN")
    assert not firewalls.verbatim(host, GO_PLUGINS / firewalls.PLUGIN)


def test_each_variant_denies_and_counts(host: Host, native: Native) -> None:
    """From one network to another nothing arrives, of one flow or many, and whoever drops has counted it all; of ours,
    each drop found room for its event. What nobody denies arrives: with the table asleep, too, and where the other
    network is open."""
    needs.command("iptables-restore", package="iptables")
    with Scene(host, native, SIZES, list(Variant)) as scene, scene.flood(native, CPU) as flood:
        for variant in (*Variant, Variant.NOTHING):
            for size in SIZES:
                scene.take(variant, size)
                denied, each = scene.denied(flood, BATCHES)
                if size == 1:
                    assert denied.arrived == denied.sent > 0, f"{variant} keeps one network from nobody"
                    continue
                assert not list(isolations.leaks(variant, denied)), f"{variant}, {size}"
                assert each > 0
                if variant is not Variant.NOTHING:
                    denied, _ = scene.denied(flood, BATCHES, FLOWS)
                    assert not list(isolations.leaks(variant, denied)), f"{variant}, {size}, many flows"
        assert host.inside(lambda: KernelPrograms().events_lost()) == 0


def test_a_rule_that_is_missing_leaks(host: Host, native: Native) -> None:
    """Where one network of two is taken out of the sets, its datagrams arrive, and that is said."""
    with Scene(host, native, SIZES[:2], [Variant.SETS]) as scene, scene.flood(native, CPU) as flood:
        name = f'{{ "{THERE_NETWORK.bridge}" }}'
        host.run("nft", "delete", "element", *isolations.table(Variant.SETS, 2).split(), "bridges", name)
        scene.take(Variant.SETS, 2)
        denied, _ = scene.denied(flood, BATCHES)
        assert denied.arrived == denied.sent > 0
        assert len(list(isolations.leaks(Variant.SETS, denied))) == 2
