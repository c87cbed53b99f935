"""A run as it is told: two scenarios, one with rows in the table of all, that wins, loses and does not know."""

from __future__ import annotations

from bench.figures import Better, Figure, grid
from bench.figures.answers import Answer, Beside, Growth, Kind
from bench.figures.measure import Interval
from bench.figures.plots import Role
from bench.report.summary import Summary, Told
from support.plotted import BARS, CURVES

RUN = {
    "version": 2,
    "run": "0123456789ab",
    "time": "2026-01-02T03:04:05Z",
    "commit": "abcdef012345",
    "extent": "full",
    "cpu": "Some CPU",
    "cpus": 2,
    "kernel": "6.18.0",
    "nft": "nftables v1.0.6 (Lester Gooch #5)",
    "hypervisor": "kvm",
    "mitigations": {"meltdown": "Not affected", "spectre_v2": "Mitigation: Retpolines"},
    "packages": {"nftables": "1.0.6-2"},
}


def around(middle: float, share: float = 0.02, count: int = 30) -> Interval:
    """An interval so far to both sides."""
    return Interval(middle * (1 - share), middle, middle * (1 + share), count)


PORTMAP = "rules of Go portmap <1.1.1>"

TRIP = Answer(
    Kind.PACKET,
    "UDP round trip, published port",
    "us",
    around(9.6),
    (
        Beside(Role.FLOOR, "raw veth", around(1.5)),
        Beside(Role.PURE, "nft map", around(1.0)),
        Beside(
            Role.TODAY, "rules of Go portmap <1.1.1>", around(0.25), Growth(around(7.5), 1, 10_000, "published ports")
        ),
    ),
    Growth(around(1.0), 1, 60_000, "published ports"),
)
UPDATE = Answer(
    Kind.UPDATE,
    "add one mapping | of many",
    "ms",
    around(1.0),
    (Beside(Role.PURE, "libnftables", around(1.4)), Beside(Role.TODAY, "Go portmap", around(0.9, 0.3))),
    Growth(around(1.2), 1, 60_000, "published ports"),
    "control: differs",
)

PACKETS = Told(
    "layers",
    "What does each layer cost?",
    RUN,
    (
        Figure("round trip, ours", 9.6, "us", 9.4, 9.8, 30),
        Figure("ours / raw veth", 1.5, "x", 1.47, 1.53, 30, "<= 2 x", met=True, better=Better.LESS),
        Figure("control: the same twice", 1.0, "x", 0.99, 1.01, 30, "1 within 5%", met=True, control=True),
        Figure("lost", 0.0, "", count=1, must="0", met=True),
    ),
    (TRIP,),
    (CURVES, BARS),
    (grid("layers, side by side", ("", "us"), [("veth", "6.2 **!**"), ("a|b", "<b>1</b>")]),),
    ("peers are <as shipped>",),
    (0.0, 0.001, 0.05),
)
UPDATES = Told(
    "updates",
    "What does an update take?",
    RUN,
    (
        Figure("add, ours", 1.0, "ms", 0.9, 1.1, 30),
        Figure("Go portmap / ours", 1.1, "x", 0.9, 1.3, 30, better=Better.MORE),
        Figure(
            "control: the same twice", 1.2, "x", 1.1, 1.3, 30, "1 within 5%", met=False, control=True,
            note="RUN INVALID: the machine differs from itself by up to 30%",
        ),
    ),
    (UPDATE,),
    cut="interrupted: only what was measured before is here",
)  # fmt: skip
SUMMARY = Summary((PACKETS, UPDATES), {"storm.jsonl": "could not read storm.jsonl: it does not begin with a run"})
