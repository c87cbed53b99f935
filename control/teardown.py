"""Taking everything of ours out of the kernel, and out of the state."""

from __future__ import annotations

from collections.abc import Iterator

from control.desired import adminchain, planner, ruleset
from control.desired.ruleset import Variant
from control.errors import EngineError
from control.repair.repair import Repair
from control.state.store import Store
from dataplane.apply import apply_all
from dataplane.doors import Kernel, Nft
from dataplane.errors import DataplaneError
from dataplane.nft.objects import Table
from dataplane.steps import DetachLocalhost, DetachProgram, RunNft


def tear_down(kernel: Kernel, store: Store, repair: Repair, variant: Variant) -> list[str]:
    """Remove everything; what was removed, a line each. Rules that users put into an admin chain are not ours.

    What the kernel refuses does not stop the rest; it is raised at the end, as one ``EngineError``, and the state is
    kept for another try. The caller holds the state's lock, so no agent repairs what is being removed.
    """
    everything, nothing = repair.everything(living=False), repair.nothing()
    steps = planner.plan(everything, nothing, variant, former=store.former_sysctls())
    removed = [f"attachment {one.key}" for one in store.attachments()]
    removed += [f"program {step.program} of device {step.ifindex}" for step in steps if isinstance(step, DetachProgram)]
    store.begin(())
    errors: list[DataplaneError] = []
    try:
        removed += [f"program {program} on the root of the cgroups" for program in sorted(kernel.programs.localhost())]
    except DataplaneError as error:
        errors.append(error)
    errors += apply_all((*(step for step in steps if not isinstance(step, RunNft)), DetachLocalhost()), kernel)
    try:
        removed += _remove_tables(kernel.nft, repair)
        removed += kernel.programs.unload()
    except DataplaneError as error:
        errors.append(error)
    if errors:
        raise EngineError("; ".join(map(str, errors)))
    store.clear()
    store.settle()
    return removed


def _remove_tables(nft: Nft, repair: Repair) -> Iterator[str]:
    if nft.skeleton_text():
        nft.run(ruleset.removal())
        yield f"table {Table.MAIN}"
    if repair.remove_former():
        yield f"table {Table.BRIDGE}"
    admin = nft.chains(Table.ADMIN)
    if filled := adminchain.filled(admin):
        yield f"table {Table.ADMIN} stays: chain {', '.join(filled)} holds rules that are not ours"
    elif admin:
        nft.run(adminchain.removal())
        yield f"table {Table.ADMIN}"
