"""The metrics: exactly these names and labels, bounded, and readable to Prometheus."""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from control.agent import metrics as families
from control.agent.metrics import FAMILIES, MAX_SERIES, Kind, Metrics, Sample
from control.agent.samples import sample
from dataplane import abi
from dataplane.abi import CHECKSUM_COUNTS, MANUAL_NETWORK, Port
from dataplane.types import GuardLevel
from support.fakeworld import World

_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{(?P<labels>(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? (?P<value>\S+)'
)
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\[\\"n])*)"')
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Series:
    """Read the text format strictly: HELP and TYPE once and in front of each family, no series twice, no line else."""
    assert text.endswith("\n")
    found: Series = {}
    family, kind, seen = "", "", set()
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert family not in seen, f"{family} comes twice"
            seen.add(family)
            kind = ""
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family
        elif not line.startswith("#"):
            match = _SAMPLE.fullmatch(line)
            assert match, f"no sample: {line!r}"
            assert kind
            assert match["name"] in {family + suffix for suffix in _SUFFIXES[kind]}
            labels = tuple((name, _unescaped(value)) for name, value in _LABEL.findall(match["labels"] or ""))
            assert (match["name"], labels) not in found
            found[match["name"], labels] = float(match["value"])
    return found


def _unescaped(value: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value)


def test_the_names_are_these() -> None:
    """Dashboards and alerts name these families and labels: none changes unnoticed."""
    assert {family.name: family.labels for family in FAMILIES} == {
        "dp_build_info": ("version",),
        "dp_cni_requests_total": ("cmd", "code"),
        "dp_cni_seconds": ("cmd",),
        "dp_reconcile_seconds": (),
        "dp_rules_lost_total": ("by",),
        "dp_netlink_overruns_total": (),
        "dp_queue_length": (),
        "dp_attachments": ("network",),
        "dp_map_entries": ("map",),
        "dp_map_max": ("map",),
        "dp_ringbuf_lost_total": (),
        "dp_drops_total": ("reason", "where"),
        "dp_guard_drops_total": ("network", "reason"),
        "dp_csum_fixups_total": ("if", "kind"),
        "dp_csum_filled_total": ("network",),
        "dp_csum_bad_seen_total": (),
    }
    assert all((family.kind is Kind.COUNTER) == family.name.endswith("_total") for family in FAMILIES)


def test_what_is_counted_is_what_is_read() -> None:
    """Requests by verb and code, lost rules by writer, overruns from 0."""
    metrics = Metrics()
    assert parse(metrics.text())["dp_netlink_overruns_total", ()] == 0
    for _ in range(3):
        metrics.served("ADD", 0, 0.0021)
    metrics.served("ADD", 101, 0.002)
    metrics.rules_lost("nft", 12)
    metrics.rules_lost("")
    metrics.netlink_overrun()
    read = parse(metrics.text())
    assert read["dp_cni_requests_total", (("cmd", "ADD"), ("code", "0"))] == 3
    assert read["dp_cni_requests_total", (("cmd", "ADD"), ("code", "101"))] == 1
    assert read["dp_rules_lost_total", (("by", "nft"),)] == 12
    assert read["dp_rules_lost_total", (("by", "unknown"),)] == 1
    assert read["dp_netlink_overruns_total", ()] == 1


def test_a_histogram_is_cumulative() -> None:
    """Each bucket counts what is at most its bound, the last one everything, and sum and count fit."""
    metrics = Metrics()
    observed = (0.0005, 0.002, 0.0021, 0.3, 99.0)
    for seconds in observed:
        metrics.served("ADD", 0, seconds)
    read = parse(metrics.text())
    for bound in (*families.CNI_SECONDS.buckets, math.inf):
        text = "+Inf" if bound == math.inf else str(int(bound) if bound == int(bound) else bound)
        below = sum(seconds <= bound for seconds in observed)
        assert read["dp_cni_seconds_bucket", (("cmd", "ADD"), ("le", text))] == below
    assert read["dp_cni_seconds_count", (("cmd", "ADD"),)] == len(observed)
    assert read["dp_cni_seconds_sum", (("cmd", "ADD"),)] == pytest.approx(sum(observed))


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a\\nb", 'x"} 1\ndp_forged 1', "ü\u2028", ""])
def test_a_hostile_name_stays_a_label(name: str) -> None:
    """Whatever a network is called, it is one label of one series."""
    read = parse(Metrics().text([Sample(families.ATTACHMENTS, (name,), 1)]))
    assert read["dp_attachments", (("network", name),)] == 1
    assert "dp_forged" not in {name for name, _ in read}


def test_a_remark_is_a_comment() -> None:
    """Why something is missing stands in front, and cannot pass for anything else."""
    text = Metrics().text(remarks=["could not open:\n# TYPE x gauge\nx 1"])
    assert text.startswith("# note: could not open: # TYPE x gauge x 1\n")
    assert "x" not in {name for name, _ in parse(text)}


def _series(read: Series, name: str) -> list[tuple[tuple[str, str], ...]]:
    return [labels for found, labels in read if found == name]


def test_series_are_bounded() -> None:
    """However many writers, verbs, networks or devices there are: the rest is one series, and nothing is lost."""
    metrics = Metrics()
    for number in range(1000):
        metrics.rules_lost(f"evil-{number}")
        metrics.served(f"VERB{number}", 0, 0.1)
        metrics.served("ADD", number, 0.1)
    networks = [Sample(families.ATTACHMENTS, (f"net{number}",), 1) for number in range(1000)]
    kinds = ("repaired", "observed")
    devices = [Sample(families.CSUM_FIXUPS, (f"br{n}", kind), 1) for n in range(500) for kind in kinds]
    read = parse(metrics.text([*networks, *devices]))
    for name in ("dp_rules_lost_total", "dp_cni_requests_total", "dp_attachments", "dp_csum_fixups_total"):
        assert len(_series(read, name)) <= MAX_SERIES + 2
    assert sum(value for (name, _), value in read.items() if name == "dp_rules_lost_total") == 1000
    assert sum(value for (name, _), value in read.items() if name == "dp_csum_fixups_total") == 1000
    assert read["dp_attachments", (("network", "other"),)] == 1000 - MAX_SERIES
    assert _series(read, "dp_cni_seconds_count") == [(("cmd", "ADD"),), (("cmd", "other"),)]
    assert {kind for labels in _series(read, "dp_csum_fixups_total") for _, kind in labels[1:]} == {
        "repaired",
        "observed",
    }


def test_threads_lose_no_count() -> None:
    """Calls are served by a thread each; a scrape in between sees a whole."""
    metrics = Metrics()

    def work(_: int) -> None:
        for _ in range(500):
            metrics.served("DEL", 0, 0.001)
            metrics.text()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    read = parse(metrics.text())
    assert read["dp_cni_requests_total", (("cmd", "DEL"), ("code", "0"))] == 4000
    assert read["dp_cni_seconds_count", (("cmd", "DEL"),)] == 4000


def _pair(source: int, destination: int) -> bytes:
    return abi.NETWORK_PAIR.pack(source, destination)


def test_the_kernel_is_asked_when_somebody_asks(world: World) -> None:
    """Attachments, maps, drops by names of networks, checksums by names of devices; what came and went is "gone"."""
    programs, kernel = world.doors.programs, world.doors.kernel()
    programs.load()
    veth = world.doors.links.link("veth12345678")
    for key, packets in ((_pair(1, 2), 5), (_pair(0, 1), 1), (_pair(9, 1), 2), (_pair(MANUAL_NETWORK | 7, 1), 3)):
        programs.put("isolation_drops", key, abi.U64.pack(packets))
    for index, (stale, repaired, corrupt) in {
        world.bridge.index: (7, 4, 1),
        veth.index: (2, 2, 0),
        4711: (1, 1, 1),
    }.items():
        counts = CHECKSUM_COUNTS.pack(100, stale, repaired, corrupt, 0, 0, 0)
        programs.put("checksum_counts", abi.U32.pack(index), counts)
    samples, remarks = sample(kernel, {1: "front", 2: "back"}, {"front": 12}, queued=3)
    assert remarks == ()
    read = parse(Metrics().text(samples))
    assert read["dp_queue_length", ()] == 3
    assert read["dp_attachments", (("network", "front"),)] == 12
    assert read["dp_map_entries", (("map", "checksum_counts"),)] == 3
    assert read["dp_map_max", (("map", "checksum_counts"),)] > 3
    drops = {dict(labels)["where"]: value for (name, labels), value in read.items() if name == "dp_drops_total"}
    assert drops == {"front to back": 5, "outside to front": 1, "gone to front": 2, "by hand to front": 3}
    fixups = {labels: value for (name, labels), value in read.items() if name == "dp_csum_fixups_total"}
    assert fixups[("if", "br-front"), ("kind", "repaired")] == 4
    assert fixups[("if", "br-front"), ("kind", "observed")] == 3
    assert fixups[("if", "veth"), ("kind", "repaired")] == 2, "no series for a container's own link"
    assert fixups[("if", "gone"), ("kind", "repaired")] == 1
    assert read["dp_csum_bad_seen_total", ()] == 12
    assert read["dp_ringbuf_lost_total", ()] == 0


def test_guard_and_fill_are_sampled_by_network(world: World) -> None:
    """Dropped by guard, by network and reason, ports that are gone together; completed by fill, by network."""
    programs = world.doors.programs
    programs.load()
    for number, network in ((20, 1), (21, 1), (22, 2)):
        programs.put("ports", abi.U32.pack(number), Port(network, GuardLevel.FULL).pack())
    for index, reason, packets in ((20, 5, 3), (21, 5, 4), (22, 1, 2), (99, 1, 8)):
        programs.put("guard_drops", abi.GUARD_DROP_KEY.pack(index, reason), abi.U64.pack(packets))
    programs.put("filled", abi.U32.pack(2), abi.U64.pack(6))
    samples, remarks = sample(world.doors.kernel(), {1: "front", 2: "back"}, {}, queued=0)
    assert remarks == ()
    read = parse(Metrics().text(samples))
    dropped = {tuple(dict(labels).values()): n for (name, labels), n in read.items() if name == "dp_guard_drops_total"}
    assert dropped == {("front", "router"): 7, ("back", "source_mac"): 2, ("gone", "source_mac"): 8}
    assert read["dp_csum_filled_total", (("network", "back"),)] == 6


def test_what_cannot_be_read_is_said(world: World) -> None:
    """Without programs the rest is there all the same, and a comment says what is missing and why."""
    world.doors.programs.unload()
    samples, remarks = sample(world.doors.kernel(), {}, {"front": 1}, queued=0)
    text = Metrics().text(samples, remarks)
    assert parse(text)["dp_attachments", (("network", "front"),)] == 1
    assert _series(parse(text), "dp_drops_total") == []
    assert text.startswith("# note: could not open the BPF programs")
