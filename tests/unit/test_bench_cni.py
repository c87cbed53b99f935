"""Whom CNI calls are compared with, and what is drawn from what was measured of them."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.figures import Better, Figure, Results
from bench.figures.measure import Sample
from bench.figures.plots import Curves, Role
from bench.hosts.chains import SINGLE, Called
from bench.instruments.starter import Done
from bench.native import BenchError
from bench.peers.plugins import PORTMAP, Backend, Peer, found
from bench.scenarios import cni_latency, concurrency, single_entry
from bench.scenarios.cni_latency import oneport

PLUGINS = ("bridge", "host-local", "portmap", "firewall")
OLD, NEW, NEW_NFT = "portmap 1.1.1, iptables-nft", "portmap 1.9.1, iptables-nft", "portmap 1.9.1, nftables"
CHAIN = "Go chain 1.1.1, iptables-nft"
BLOCKS = 6


def directory(path: Path, version: str, *, nftables: bool = True) -> Path:
    """Plugins that say which version they are, and that know nftables by the name of portmap's table."""
    path.mkdir(parents=True)
    for name in PLUGINS:
        said = f"CNI {name} plugin {version}"
        (path / name).write_text(f"#!/bin/sh\necho '{said}' >&2\n# {'cni_hostport' if nftables else ''}\n")
        (path / name).chmod(0o755)
    return path


def samples(measure: str, by_variant: Mapping[tuple[str, int], float]) -> list[Sample]:
    """The same value in each block, by variant and size."""
    return [
        Sample(measure, variant, value, size, block)
        for (variant, size), value in by_variant.items()
        for block in range(BLOCKS)
    ]


def rows(figures: list[Figure]) -> dict[str, Figure]:
    """By what they are about, of which no two are the same."""
    named = {one.what: one for one in figures}
    assert len(named) == len(figures)
    return named


def measured(*more: Sample, old: float = 400.0) -> Results:
    """ADDs at 0 and 10,000 ports: ours in 2 ms, portmap's in 20 ms, and where there are many in much more."""
    clock = {
        (oneport.OURS, 0): 2.0, (oneport.OURS, 10_000): 2.2, (oneport.AGAIN, 0): 2.0, (oneport.AGAIN, 10_000): 2.2,
        (OLD, 0): 20.0, (OLD, 10_000): old, (NEW_NFT, 0): 20.0, (NEW_NFT, 10_000): 11.0,
        (oneport.NFT, 0): 1.0, (oneport.NFT, 10_000): 1.0,
    }  # fmt: skip
    both = samples("ADD, CPU in all", {key: value / 2 for key, value in clock.items()})
    return Results({}, (*samples("ADD", clock), *both, *more))


def test_each_directory_is_a_peer_by_each_backend_that_its_portmap_knows(tmp_path: Path) -> None:
    """nftables has to be asked for, and only where the binary knows it; the version is what the plugin says."""
    newer = found((directory(tmp_path / "newer", "v1.6.2"),))
    assert newer[-1] == Peer(tmp_path / "newer", "1.6.2", Backend.NFTABLES)
    assert newer[-1].keys == {"backend": "nftables"}
    assert newer[-1].name == "portmap 1.6.2, nftables"
    for other in newer[:-1]:
        assert other.backend in {Backend.IPTABLES_NFT, Backend.IPTABLES_LEGACY}
        assert not other.keys


def test_peers_have_names_of_their_own(tmp_path: Path) -> None:
    """Two directories of one version are told apart, and one without a version by where it is."""
    paths = [directory(tmp_path / name, "v1.6.2") for name in ("a", "b")]
    unknown = directory(tmp_path / "c", "version unknown")
    names = [peer.name for peer in found((*paths, unknown))]
    assert len(set(names)) == len(names)
    assert f"portmap of {unknown}, nftables" in names


def test_the_version_of_a_package_is_in_its_changelog(tmp_path: Path) -> None:
    """Distributions build plugins that do not know theirs."""
    lib = directory(tmp_path / "usr/lib/cni", "version unknown")
    documents = tmp_path / "usr/share/doc/containernetworking-plugins"
    documents.mkdir(parents=True)
    with gzip.open(documents / "changelog.Debian.gz", "wt", encoding="utf-8") as text:
        text.write("golang-plugins (2:1.7.1+ds1-3) unstable; urgency=medium\n")
    assert {peer.version for peer in found((lib,))} == {"1.7.1"}


def test_a_directory_without_plugins_is_refused(tmp_path: Path) -> None:
    """With their names, and what to install."""
    (directory(tmp_path / "some", "v1.6.2") / "firewall").unlink()
    with pytest.raises(BenchError, match=r"could not find firewall in .*: install the package"):
        found((tmp_path / "some",))


def test_a_directory_is_asked_only_for_what_is_started(tmp_path: Path) -> None:
    """Who compares portmap alone does without the others."""
    (directory(tmp_path / "some", "v1.6.2") / "firewall").unlink()
    assert {peer.version for peer in found((tmp_path / "some",), PORTMAP)} == {"1.6.2"}


def test_every_portmap_is_held_against_ours_at_each_size() -> None:
    """The limit of ten times is each one's own."""
    named = rows(cni_latency.figures(measured()))
    old = named[f"{OLD} / dataplane: ADD, 10,000 ports present"]
    assert old.value == pytest.approx(400 / 2.2)
    assert old.met is True
    assert named[f"{NEW_NFT} / dataplane: ADD, 10,000 ports present"].met is False
    assert named[f"{OLD} / dataplane: ADD, 0 ports present, CPU in all"].value == pytest.approx(10)
    assert named["dataplane ADD, 10,000 ports / none"].met is True
    assert named[f"{OLD}: ADD, 10,000 ports / none"].value == pytest.approx(20)


def test_attachments_are_held_against_none_and_against_as_many_ports() -> None:
    """A fifth more at 10,000 attachments than at none is not flat; where none were made, there is no row."""
    crowd = samples("ADD", {(oneport.CROWDED, 10_000): 2.5})
    named = rows(cni_latency.figures(measured(*crowd)))
    assert named["dataplane ADD, 10,000 attachments present"].met is True
    assert named["dataplane ADD, 10,000 attachments present / none"].met is False
    alike = named["dataplane ADD, 10,000 attachments present / as many ports of 100"]
    assert alike.value == pytest.approx(2.5 / 2.2)
    assert alike.better is Better.LESS
    assert not [what for what in rows(cni_latency.figures(measured())) if "attachments" in what]


def test_who_was_left_out_has_no_row() -> None:
    """With a container for each port, some are measured at no more than 100."""
    named = rows(cni_latency.figures(measured(*samples("DEL", {(oneport.BY_ITSELF, 0): 5.0, (oneport.OURS, 0): 2.0}))))
    assert named[f"{oneport.BY_ITSELF}: DEL, 0 ports present"].value == 5.0
    assert not [what for what in named if what.startswith(oneport.BY_ITSELF) and "10,000" in what]


def test_the_answer_is_ours_beside_each_at_the_most_ports() -> None:
    """Ratios are ours to theirs, what grows is told of both, and a pure nft that is quicker is in the row."""
    (answer,) = cni_latency.answers(measured())
    beside = {one.name: one for one in answer.besides}
    assert beside[OLD].role is Role.TODAY
    assert beside[NEW_NFT].role is Role.TODAY_TOO
    assert beside[OLD].ratio.middle == pytest.approx(2.2 / 400)
    assert beside[f"{oneport.NFT}, one element of a map"].ratio.middle > 1
    ours, theirs = answer.growth, beside[OLD].growth
    assert ours is not None
    assert theirs is not None
    assert (ours.smaller, ours.larger) == (0, 10_000)
    assert ours.ratio.middle == pytest.approx(1.1)
    assert theirs.ratio.middle == pytest.approx(20)
    assert not answer.doubt


def test_what_the_kernel_did_not_confirm_makes_an_answer_doubtful() -> None:
    """And is counted in a row of the figures."""
    proved = Sample("unproved", oneport.OURS, 0.0, 0)
    wrong = Sample("unproved", OLD, 1.0, 10_000)
    results = measured(proved, wrong)
    named = rows(cni_latency.figures(results))
    assert named["variants that did not publish what they should, of 2"].met is False
    assert "what their names say" in cni_latency.answers(results)[0].doubt
    assert not cni_latency.answers(measured(proved))[0].doubt


def test_curves_have_no_point_at_nothing() -> None:
    """Axes are logarithmic: who is measured counts as a port, too."""
    curves = [plot for plot in cni_latency.plots(measured()) if isinstance(plot, Curves)]
    assert [plot.name for plot in curves] == ["cni_add"]
    lines = {line.name: [(point.x, point.y) for point in line.points] for line in curves[0].lines}
    assert lines[OLD] == [(1, 20.0), (10_001, 400.0)]
    assert oneport.AGAIN not in lines


def test_nothing_measured_draws_nothing() -> None:
    """No plot, no answer and no table of an empty run; the figures say that they are missing."""
    for scenario in (cni_latency, single_entry, concurrency):
        assert not scenario.plots(Results({}))
        assert not scenario.answers(Results({}))
        assert all(one.value is None for one in scenario.figures(Results({})))
    assert not cni_latency.tables(Results({}))


def test_the_whole_chain_is_held_against_each_chain() -> None:
    """Eight times, in an ADD."""
    clock = {(SINGLE, 0): 5.0, (single_entry.AGAIN, 0): 5.0, (CHAIN, 0): 50.0}
    results = Results({}, tuple(samples("ADD", clock)))
    assert rows(single_entry.figures(results))[f"{CHAIN} / {SINGLE}, ADD"].met is True
    (answer,) = single_entry.answers(results)
    (beside,) = answer.besides
    assert beside.name == CHAIN
    assert beside.ratio.middle == pytest.approx(0.1)


def called(*addresses: str, status: int = 0) -> Called:
    """An ADD's answer."""
    return Called("ADD", (Done(1, 1, status, "broken"),), {"ips": [{"address": one} for one in addresses]})


def test_an_address_that_two_got_is_a_duplicate() -> None:
    """Of those that succeeded: who failed holds none."""
    assert concurrency.duplicates([called("10.77.0.2/16"), called("10.77.0.3/16", "fd00::3/64")]) == 0
    assert concurrency.duplicates([called("10.77.0.2/16"), called("10.77.0.2/16"), called("10.77.0.2/16")]) == 2
    assert concurrency.duplicates([called("10.77.0.2/16"), called("10.77.0.2/16", status=1)]) == 0


def test_only_our_failures_are_judged() -> None:
    """Those of a peer are told: what it does under load is no failure of ours, and no reason to hide its times."""
    clock = {(SINGLE, 1): 5.0, (SINGLE, 32): 80.0, (concurrency.AGAIN, 1): 5.0, (concurrency.AGAIN, 32): 80.0}
    clock |= {(CHAIN, 1): 50.0, (CHAIN, 32): 1600.0}
    failures = samples("failures", {(SINGLE, 32): 0.0, (CHAIN, 32): 1.0})
    named = rows(concurrency.figures(Results({}, (*samples("ADD", clock), *failures))))
    assert named[f"{SINGLE}: failures"].met is True
    assert (named[f"{CHAIN}: failures"].value, named[f"{CHAIN}: failures"].met) == (BLOCKS, None)
    ours_failed = Results({}, (*samples("ADD", clock), *samples("failures", {(concurrency.AGAIN, 32): 1.0})))
    assert rows(concurrency.figures(ours_failed))[f"{SINGLE}: failures"].met is False
    (answer,) = concurrency.answers(ours_failed)
    assert "calls failed" in answer.doubt
    assert answer.growth is not None
    assert answer.growth.ratio.middle == pytest.approx(16)
    assert answer.besides[0].ratio.middle == pytest.approx(0.05)


def test_ratios_to_ours_say_that_more_is_better() -> None:
    """Of the clock and of the processors: a comparison of two runs judges both."""
    ratios = [one for one in cni_latency.figures(measured()) if " / dataplane: " in one.what]
    assert ratios
    assert {one.better for one in ratios} == {Better.MORE}
