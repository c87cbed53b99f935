"""How long are published ports gone when somebody else removes our rules, and until when?

On hosts with 1, 1,000 and 10,000 published ports, three things are done with ``nft``: the whole ruleset is flushed, our
table is deleted, one element is deleted. A listener of its own notes when each nftables transaction was in force, and a
machine outside connects to a published port every millisecond.

Peers      none: portmap's rules do not come back
Unit       milliseconds from the transaction that removed to the one that restored, as the kernel announces them; and
           from the first refused connection to the first that was accepted again
Fair       "restored" is believed when all elements are listed again; nobody looks before the agent has made a
           transaction, for a listing would take its processor away. Of several transactions the last counts
Falsified  by more than 10, 50 and 250 ms after a flush, or by a port that does not come back

Where nothing was restored within the limit it says so, ``dpctl reconcile`` does it, and the next question is asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench.native import BenchError
from bench.report import Figure, Results, count_figure, median_figure
from bench.stage import Stage
from bench.traffic import TCP_PORT, Knock, World
from bench.watcher import Commit, Watcher
from dataplane.namespaces import inside
from dataplane.nft.client import LibNftables

SIZES = (1, 1_000, 10_000)
MUST = {1: 10.0, 1_000: 50.0, 10_000: 250.0}
DAMAGE: dict[str, tuple[str, ...]] = {
    "nft flush ruleset": ("flush", "ruleset"),
    "nft delete table": ("delete", "table", "inet", "dataplane"),
    "nft delete element": (
        "delete", "element", "inet", "dataplane", "publish4", f"{{ tcp . {TCP_PORT} }}",
    ),
}  # fmt: skip

_PACE = 1000  # microseconds between two attempts to connect
_QUIET = 0.05
"""Seconds without a transaction after which a repair is taken for done, and looked at."""
_PAUSE = 2.0
"""Seconds between two rounds: repeated damage is what a repair may slow down for, and is not the question here."""
_ACCEPTED = 0.3
"""Seconds after a repair in which a connection must have been accepted."""
_BY = "nft"


@dataclass(frozen=True, slots=True)
class _Scene:
    stage: Stage
    world: World
    watcher: Watcher
    size: int

    def elements(self) -> int:
        """How many ports are published, as the kernel lists them."""
        with self.world.host.netns.open("rb") as netns:
            sizes = inside(netns.fileno(), lambda: LibNftables().sizes())
        return sum(count for name, count in sizes.items() if name.startswith("publish"))


def run(stage: Stage) -> None:
    """Measure."""
    for size in SIZES[: stage.amount(3, 3, 1)]:
        with ExitStack() as stack:
            stage.log.progress(f"making a host with {size:,} published")
            host = stack.enter_context(stage.host(f"ours-{size}"))
            world = World(host, stage.native, size)
            stack.enter_context(world.ours.agent())
            world.publish()
            stack.enter_context(world.server())
            scene = _Scene(stage, world, stack.enter_context(Watcher(host, stage.native)), size)
            if scene.elements() != size:
                raise BenchError(f"could not begin: {scene.elements()} ports are published, not {size}")
            for what in DAMAGE:
                for block in range(stage.amount(20, 8, 1)):
                    if not _round(scene, what, block):
                        break


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = []
    for what in DAMAGE:
        for size in SIZES:
            must = MUST[size] if what == "nft flush ruleset" else None
            where = f"{what}, {size:,} published"
            failed = results.of("not restored", what, size)
            note = f"not restored within {failed[0].value:g} s" if failed else ""
            rows.append(median_figure(f"{where}: to restored", results.of("restored", what, size), "ms", must, note))
            rows.append(median_figure(f"{where}: seen from outside", results.of("closed", what, size), "ms"))
    tried = [one for what in DAMAGE for measure in ("restored", "not restored") for one in results.of(measure, what)]
    lost = sum(one.measure == "not restored" for one in tried)
    rows.append(count_figure("damage that was not repaired", lost if tried else None, at_most=0))
    return rows


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


def _round(scene: _Scene, what: str, block: int) -> bool:
    """Do damage once; whether it was repaired."""
    stage, limit = scene.stage, scene.stage.amount(10, 5, 2)
    time.sleep(_PAUSE if block else 0.0)
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
