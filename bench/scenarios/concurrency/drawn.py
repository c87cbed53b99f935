"""What is drawn from containers that come at once: figures, plots, answers. Pure."""

from __future__ import annotations

from bench.figures import (
    Better,
    Figure,
    Results,
    count_figure,
    median_figure,
    ratio_figure,
    size_controls,
    tail_figure,
)
from bench.figures.answers import Answer, Beside, Growth, Kind
from bench.figures.measure import block_medians, interval, paired, percentile
from bench.figures.plots import Axis, Curves, Line, Plot, Point, Role, line
from bench.figures.rows import HUNDREDTH, doubt_of
from bench.hosts.chains import SINGLE, go_roles

AGAIN = f"{SINGLE} again"
VERBS = ("ADD", "DEL")
NEAR = 0.1
"""How surely a run must be as fast as itself: what is told here are multiples."""


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = list[Figure]()
    names = (SINGLE, *list(go_roles(results)))
    for verb in VERBS:
        for level in results.sizes(verb, SINGLE):
            where = f"{verb}, {level} at once"
            for name in names:
                calls = results.of(verb, name, level)
                rows.append(median_figure(f"{name}: {where}", calls, "ms"))
                rows.append(tail_figure(f"{name}: {where}", calls, "ms"))
                rows.append(median_figure(f"{name}: {where}, rate", results.of(rate(verb), name, level), "calls/s"))
                rows.append(median_figure(f"{name}: {where}, CPU a call", results.of(cpu(verb), name, level), "ms"))
            for name in names[1:]:
                theirs, own = (results.of(verb, who, level) for who in (name, SINGLE))
                what = f"{name} / {SINGLE}: {where}"
                rows.append(ratio_figure(what, theirs, own, better=Better.MORE, peer=True))
        rows += _control(results, verb)
    for name in names:
        judged = 0 if name == SINGLE else None
        for what in ("failures", "duplicates", "not published", "not freed", "left behind"):
            seen = results.every(what, name) + (results.every(what, AGAIN) if name == SINGLE else [])
            rows.append(
                count_figure(f"{name}: {what}", sum(one.value for one in seen) if seen else None, at_most=judged)
            )
    return rows


def plots(results: Results) -> list[Plot]:
    """An ADD among so many: its median, and the slowest of a hundred where there are as many; and how many a second."""
    roles = {SINGLE: Role.OURS, **go_roles(results)}
    medians, slowest, rates = list[Line](), list[Line](), list[Line]()
    for name, role in roles.items():
        levels = results.sizes("ADD", name)
        if not levels:
            continue
        by_level = {level: results.of("ADD", name, level) for level in levels}
        medians.append(line(name, role, by_level))
        points = tuple(
            Point(level, percentile([one.value for one in calls], 0.99))
            for level, calls in by_level.items()
            if len(calls) >= HUNDREDTH
        )
        slowest += [Line(name, role, points)] if points else []
        rates.append(line(name, role, {level: results.of(rate("ADD"), name, level) for level in levels}))
    if not medians:
        return []
    x = Axis("ADDs at once", log=True)
    title = "CNI ADD of a whole network among others at once"
    return [
        Curves("concurrency_p50", f"{title}: p50", x, Axis("p50, ms", log=True), tuple(medians)),
        Curves("concurrency_p99", f"{title}: p99", x, Axis("p99, ms", log=True), tuple(slowest)),
        Curves("concurrency_rate", "CNI ADDs of whole networks", x, Axis("calls a second", log=True), tuple(rates)),
    ]


def answers(results: Results) -> list[Answer]:
    """An ADD among most at once."""
    levels = results.sizes("ADD", SINGLE)
    own = results.of("ADD", SINGLE, levels[-1]) if levels else []
    besides = tuple(
        Beside(role, name, interval(ratios), _growth(results, name))
        for name, role in go_roles(results).items()
        if own and (ratios := paired(own, results.of("ADD", name, levels[-1])))
    )
    if not besides:
        return []
    wrong = any(
        one.value
        for what in ("failures", "duplicates", "not published", "not freed", "left behind")
        for name in (SINGLE, AGAIN)
        for one in results.every(what, name)
    )
    unsure = doubt_of(_control(results, "ADD"), [one.ratio for one in besides])
    doubts = (unsure, "calls failed, or did not do what they should" if wrong else "")
    return [
        Answer(
            Kind.UPDATE,
            f"CNI ADD of a whole network, {levels[-1]} at once, p50",
            "ms",
            interval(list(block_medians(own).values())),
            besides,
            _growth(results, SINGLE),
            ". ".join(why for why in doubts if why),
        )
    ]


def rate(verb: str) -> str:
    """The name of samples: calls a second."""
    return f"{verb}, calls a second"


def cpu(verb: str) -> str:
    """The name of samples: milliseconds of the processors for a call."""
    return f"{verb}, CPU a call"


def _control(results: Results, verb: str) -> list[Figure]:
    above, below = (results.of(verb, name) for name in (AGAIN, SINGLE))
    return size_controls(above, below, f"control: {verb}, the same twice", of=len(VERBS), within=NEAR)


def _growth(results: Results, name: str) -> Growth | None:
    levels = results.sizes("ADD", name)
    ratios = paired(results.of("ADD", name, levels[-1]), results.of("ADD", name, levels[0])) if levels[1:] else []
    return Growth(interval(ratios), levels[0], levels[-1], "ADDs at once") if ratios else None
