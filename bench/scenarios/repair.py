"""How long are published ports gone when somebody else removes our rules, and until when?

On hosts with 1, 1,000 and 10,000 published ports, three things are done with ``nft``: the whole ruleset is flushed, our
table is deleted, one element is deleted. A listener of its own notes when each nftables transaction was in force, and a
machine outside connects to a published port every millisecond.

Peers      none: portmap's rules do not come back
Unit       milliseconds from the transaction that removed to the one that restored, as the kernel announces them; and
           from the first refused connection to the first that was accepted again
Fair       "restored" is believed when all elements are there again; nobody looks before the agent has made a
           transaction, for a look would take its processor away. Of several transactions the last counts. Sizes and
           damages take turns, and no host is damaged so often that its agent takes that for a fight
Falsified  by more than 10, 50 and 250 ms after a flush, or by a port that does not come back

Where nothing was restored within the limit it says so, ``dpctl reconcile`` does it, and that is asked no more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from bench.figures import Figure, Results, count_figure, median_figure
from bench.figures.answers import Answer, Growth, Kind
from bench.figures.measure import block_medians, interval, paired
from bench.figures.plots import Axis, Curves, Plot, Role, line
from bench.hosts.traffic import TCP_PORT, Knock, World
from bench.instruments.watcher import Commit, Watcher
from bench.making import at_once
from bench.native import BenchError
from bench.stage import Extent, Stage
from control.desired.ruleset import SETS
from control.repair.reconciler import PATIENCE, WINDOW
from dataplane.namespaces import inside
from dataplane.nft.dump import held

SIZES = (1, 1_000, 10_000)
_MEASURED = {Extent.FULL: SIZES, Extent.QUICK: (SIZES[0], SIZES[-1]), Extent.SMOKE: SIZES[:1]}
MUST = {1: 10.0, 1_000: 50.0, 10_000: 250.0}
DAMAGE: dict[str, tuple[str, ...]] = {
    "nft flush ruleset": ("flush", "ruleset"),
    "nft delete table": ("delete", "table", "inet", "dataplane"),
    "nft delete element": (
        "delete", "element", "inet", "dataplane", "publish4", f"{{ tcp . {TCP_PORT} }}",
    ),
}  # fmt: skip

SECONDS = (120, 10)

_PACE = 1000  # microseconds between two attempts to connect
_QUIET = 0.05
"""Seconds without a transaction after which a repair is taken for done, and looked at."""
_OFTEN = PATIENCE - 2
"""So often a host may be damaged within ``WINDOW``: who is damaged more often takes it for a fight, and slows down."""
_ACCEPTED = 0.3
"""Seconds after a repair in which a connection must have been accepted."""
_BY = "nft"


@dataclass(frozen=True, slots=True)
class _Scene:
    stage: Stage
    world: World
    watcher: Watcher
    size: int
    damaged: deque[float] = field(default_factory=lambda: deque(maxlen=_OFTEN))

    def elements(self) -> int:
        """How many ports are published, as the kernel holds them."""
        maps = [declared for declared in SETS if declared.name.startswith("publish")]
        with self.world.host.netns.open("rb") as netns:
            return inside(netns.fileno(), lambda: sum(len(held(declared)) for declared in maps))

    def rest(self) -> None:
        """Wait until it may be damaged again."""
        if len(self.damaged) == _OFTEN:
            time.sleep(max(self.damaged[0] + WINDOW - time.monotonic(), 0.0))
        self.damaged.append(time.monotonic())


def run(stage: Stage) -> None:
    """Measure."""
    sizes = _MEASURED[stage.extent]
    with ExitStack() as stack:
        stage.log.progress(f"making hosts with {', '.join(f'{size:,}' for size in sizes)} published")
        makers = {size: partial(_scene, stage, size) for size in sorted(sizes, reverse=True)}
        scenes = at_once(stack, makers, len(makers)).values()
        turns = {f"{what}, {scene.size:,}": (what, scene) for scene in scenes for what in DAMAGE}
        stage.log.progress("removing what is there")
        failed = set[str]()
        for turn in stage.turns(sorted(turns), stage.amount(8, 2, 1)):
            what, scene = turns[turn.variant]
            if turn.variant not in failed and not _round(scene, what, turn.block):
                failed.add(turn.variant)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = []
    measured = {one.size for one in results.samples if one.measure in {"restored", "not restored"}}
    for what in DAMAGE:
        for size in sorted(measured) or SIZES:
            must = MUST[size] if what == "nft flush ruleset" else None
            where = f"{what}, {size:,} published"
            failed = results.every("not restored", what, size)
            note = f"not restored within {failed[0].value:g} s" if failed else ""
            rows.append(median_figure(f"{where}: to restored", results.of("restored", what, size), "ms", must, note))
            rows.append(median_figure(f"{where}: seen from outside", results.of("closed", what, size), "ms"))
    tried = [one for what in DAMAGE for measure in ("restored", "not restored") for one in results.every(measure, what)]
    lost = sum(one.measure == "not restored" for one in tried)
    rows.append(count_figure("damage that was not repaired", lost if tried else None, at_most=0))
    return rows


def plots(results: Results) -> list[Plot]:
    """How long after a flush, against how much there is."""
    what = next(iter(DAMAGE))
    lines = [
        line(name, role, {size: found for size in SIZES if (found := results.of(measure, what, size))})
        for name, role, measure in (
            ("until all ports are restored", Role.OURS, "restored"),
            ("connections from outside are refused", Role.OURS_TOO, "closed"),
        )
    ]
    drawn = tuple(one for one in lines if one.points and all(point.y > 0 for point in one.points))
    remark = "Without an agent they do not come back at all, and neither do portmap's."
    title = f"After {what}: how long ports are gone"
    axes = Axis("published ports", log=True), Axis("p50, ms", log=True)
    return [Curves("repair", title, *axes, drawn, remark)] if drawn else []


def answers(results: Results) -> list[Answer]:
    """A flush, at the largest size; there is nobody to stand beside."""
    what = next(iter(DAMAGE))
    sizes = results.sizes("restored", what)
    if not sizes:
        return []
    few, many = results.of("restored", what, sizes[0]), results.of("restored", what, sizes[-1])
    ratios = paired(many, few) if len(sizes) > 1 else []
    growth = Growth(interval(ratios), sizes[0], sizes[-1], "published ports") if ratios else None
    lost = any(one.measure == "not restored" for one in results.samples)
    doubt = "not every damage was repaired" if lost else ""
    text = f"restored after {what}, {sizes[-1]:,} published"
    return [Answer(Kind.UPDATE, text, "ms", interval(list(block_medians(many).values())), (), growth, doubt)]


def closed(knocks: Sequence[Knock]) -> float:
    """Milliseconds from the first attempt that failed to the first after it that did not; 0 where none failed.

    Raises ``ValueError`` where none succeeded after one that failed.
    """
    failed = next((one for one in knocks if one.errno), None)
    if failed is None:
        return 0.0
    again = next((one for one in knocks if one.began > failed.began and not one.errno), None)
    if again is None:
        raise ValueError("no connection after the one that failed")
    return (again.ended - failed.began) / 1e6


def _scene(stage: Stage, size: int, stack: ExitStack) -> _Scene:
    """A host with so many ports published, by the agent that repairs them."""
    host = stack.enter_context(stage.host(f"ours-{size}"))
    world = World(host, stage.native, size)
    stack.enter_context(world.ours.agent())
    world.publish()
    stack.enter_context(world.server())
    scene = _Scene(stage, world, stack.enter_context(Watcher(host, stage.native)), size)
    if scene.elements() != size:
        raise BenchError(f"could not begin: {scene.elements()} ports are published, not {size}")
    return scene


def _round(scene: _Scene, what: str, block: int) -> bool:
    """Do damage once; whether it was repaired."""
    stage, limit = scene.stage, scene.stage.amount(10, 5, 2)
    scene.rest()
    mark = scene.watcher.mark()
    knocks = scene.world.knock(_PACE, seconds=limit + 1)
    time.sleep(0.1)
    scene.world.host.run("nft", *DAMAGE[what])
    restored = _restored(scene, mark, time.monotonic() + limit)
    time.sleep(_ACCEPTED if restored is not None else 0.0)
    tried = knocks.stop()
    if restored is None:
        stage.log.sample("not restored", what, limit, size=scene.size, block=block)
        stage.log.note(f"{what}, {scene.size:,} published: not restored within {limit} s; dpctl reconcile did it")
        scene.world.ours.dpctl("reconcile", check=False)
        scene.watcher.settle(scene.watcher.mark(), _QUIET, time.monotonic() + limit)
        return False
    stage.log.sample("restored", what, restored, size=scene.size, block=block)
    try:
        stage.log.sample("closed", what, closed(tried), size=scene.size, block=block)
    except ValueError:
        stage.log.note(
            f"{what}, {scene.size:,} published: restored, and no connection was accepted {_ACCEPTED:g} s later"
        )
    return True


def _restored(scene: _Scene, mark: int, until: float) -> float | None:
    """Milliseconds between damage and repair; None where it was not repaired in time."""
    watcher = scene.watcher
    if not watcher.wait(mark, until):
        raise BenchError("could not follow nftables: the damage itself was not announced")
    begun = watcher.since(mark)[0]
    looked = mark + 1
    while watcher.wait(looked, until):
        looked = watcher.settle(looked, _QUIET, until)
        ours = [one for one in watcher.since(mark)[: looked - mark] if one.program != _BY]
        if ours and scene.elements() == scene.size:
            return _milliseconds(begun, ours[-1])
    return None


def _milliseconds(first: Commit, last: Commit) -> float:
    return (last.nanoseconds - first.nanoseconds) / 1e6
