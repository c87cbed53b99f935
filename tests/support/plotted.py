"""Plots as large as they get, with names as long as they get: what a drawing must have room for."""

from __future__ import annotations

from bench.figures.plots import Axis, Bar, Bars, Box, Boxes, Curves, Line, Point, Role

SIZES = (1, 10, 100, 1_000, 10_000, 60_000)

_VARIANTS = (
    ("dataplane, by the engine", Role.OURS, 17.9, 0.0),
    ("dataplane, end to end with executable and agent", Role.OURS_TOO, 19.0, 0.0),
    ("nft map, in process by libnftables", Role.PURE, 18.0, 0.0),
    ("nft map, by nft -f as a process", Role.PURE, 18.6, 0.0),
    ("Go portmap 1.1.1, iptables-nft, a rule a port (Debian's containernetworking-plugins)", Role.TODAY, 18.5, 0.0123),
    ("Go portmap 1.9.0, nftables backend, a rule a port, as shipped", Role.TODAY, 18.1, 0.0118),
    ("nft, a rule a port", Role.TODAY_TOO, 18.4, 0.0119),
    ("raw veth, with no table at all", Role.FLOOR, 12.1, 0.0),
)

CURVES = Curves(
    "first_packet",
    "First packet of a UDP flow to a published port, by how many ports are published",
    Axis("published ports", log=True),
    Axis("latency of the first round trip, median, us", log=True),
    tuple(
        Line(name, role, tuple(
            Point(size, y := base + slope * size, y * 0.96, y * 1.05) for size in SIZES if slope == 0 or size <= 10_000
        ))
        for name, role, base, slope in _VARIANTS
    ),
    "Client, container and softirq on one processor. Rules are looked through one by one, a map is not: its lines are "
    "flat, and lie upon each other. Rules beyond 10,000 were not measured, for it takes half an hour to make them.",
)  # fmt: skip

BARS = Bars(
    "layers",
    "UDP round trip by layer",
    Axis("latency of a round trip, median, us"),
    tuple(
        Bar(name, role, value, value * 0.97, value * 1.04)
        for name, role, value in (
            ("loopback", Role.FLOOR, 5.58),
            ("raw veth", Role.FLOOR, 6.22),
            ("bridge, br_netfilter off", Role.FLOOR, 7.3),
            ("bridge, br_netfilter on, conntrack", Role.FLOOR, 8.92),
            ("routed and bridged, no conntrack", Role.FLOOR, 8.98),
            ("routed and bridged, conntrack", Role.FLOOR, 9.28),
            ("published port, pure nft map", Role.PURE, 9.51),
            ("published port, dataplane with isolation, checksum and guard", Role.OURS, 9.62),
            ("published port, dataplane without any eBPF program attached to anything", Role.OURS_TOO, 9.5),
            ("published port, Go portmap's iptables rules", Role.TODAY, 11.2),
            ("100 networks isolated by a rule each", Role.TODAY, 12.89),
            ("1,000 networks isolated by a rule each", Role.TODAY_TOO, 41.07),
        )
    ),
    "Both ends and softirq on one processor.",
)

BOXES = Boxes(
    "layers_spread",
    "How single round trips are distributed",
    Axis("latency of a round trip, us", log=True),
    tuple(
        Box(one.name, one.role, *(one.value * factor for factor in (0.9, 0.96, 1.0, 1.08, 1.5, 3.1)))
        for one in BARS.bars
    ),
)

PLOTS = (CURVES, BARS, BOXES)
