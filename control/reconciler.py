"""The whole state against the whole kernel: what differs, and making the kernel what the state says.

    reconciler.problems()   -> sentences, for people
    reconciler.is_due()     -> whether kernel and state are known to differ
    reconciler.resync()     -> they agree again, in one transaction for nftables

A single request compares and changes only what it touches (``control.engine``); this is for everything else: a change
that was interrupted, a table that was flushed, programs that were lost.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from control import adminchain, hooks, planner, ruleset, spoofcheck
from control.differences import differences
from control.hooks import use_of
from control.model import Attachment
from control.planner import Desired
from control.skeleton import Skeleton
from control.store import Store
from dataplane.abi import U32
from dataplane.apply import apply_all
from dataplane.doors import Kernel
from dataplane.errors import FirewalldError, ForeignChainError, LinkError
from dataplane.nft.objects import Table
from dataplane.steps import DetachProgram, DropEntry, PutEntry, RunNft, Step
from dataplane.types import IfIndex, Program

_NETWORK_MAPS = ("networks", "origins")


class Reconciler:
    """See the module. The caller holds the state's lock."""

    def __init__(self, kernel: Kernel, store: Store, skeleton: Skeleton, mark: int) -> None:
        self._kernel, self._store, self._skeleton, self._mark = kernel, store, skeleton, mark

    def nothing(self) -> Desired:
        """What no attachment asks for."""
        return planner.desired((), (), {}, self._mark)

    def everything(self, besides: Iterable[Attachment] = (), *, living: bool = True) -> Desired:
        """What the whole state, and attachments besides, ask of the kernel.

        Of devices that are gone only elements and their maps, which are deleted with their attachment; unless all is
        asked for (``living=False``), to take it away.
        """
        besides = tuple(besides)
        attachments = (*self._store.attachments(), *besides)
        uses = {*self._store.all_uses(), *map(use_of, besides)}
        gone = {use.device for use in uses if self._kernel.links.get(use.device) is None} if living else set()
        facts = self._store.facts({one.key.network for one in attachments})
        return planner.desired(attachments, uses, facts, self._mark, gone=frozenset(gone))

    def is_due(self, *, removing: bool = False) -> bool:
        """Whether a change was interrupted, the programs are another version's or lost, or chains and rules of our
        table are not as written; the last is nothing that ``removing`` needs."""
        if self._store.interrupted() or not (removing or self._skeleton.intact()):
            return True
        return not self._kernel.programs.loaded() and bool(self.everything().hooks)

    def resync(self) -> None:
        """Make the kernel what the state says, whatever is there. Due until it has succeeded."""
        if self._skeleton.text is None and self._kernel.nft.skeleton_text():
            _tell_lost_state()
        self._store.begin(())
        everything = self.everything()
        left = self.everything(self._store.touched(), living=False)
        self._kernel.nft.run(
            ruleset.skeleton(self._mark, everything.groups)
            + ruleset.fill(everything.elements)
            + adminchain.transaction(everything.admin_chains)
        )
        self._kernel.nft.run(spoofcheck.rebuild(everything.guards, there=bool(self._kernel.nft.chains(Table.BRIDGE))))
        self._skeleton.keep()
        former = self._store.former_sysctls()
        # First away with what an interrupted change may have left, then all that should be there once more.
        away = planner.plan(left, everything, self._mark, former=former)
        again = planner.plan(self.nothing(), everything, self._mark)
        steps = [step for step in (*away, *again) if not isinstance(step, RunNft)]
        errors = apply_all([*self._surplus(everything), *steps, *self.host_addresses(everything)], self._kernel)
        # A foreign chain, a bridge port or a zone that is gone is one network's trouble, which CHECK and status tell,
        # and nobody else's.
        serious = [error for error in errors if not isinstance(error, ForeignChainError | LinkError | FirewalldError)]
        if serious:
            raise serious[0]
        self._store.forget_sysctls(left.device_sysctls.keys() - everything.device_sysctls.keys())
        self._store.settle()

    def problems(self) -> Iterator[str]:
        """What the kernel lacks of all that the attachments ask for, and what it has besides; a sentence each."""
        if self._store.interrupted():
            yield "a change was interrupted"
        everything = self.everything()
        if any(self._store.attachments()):
            yield from differences(self._kernel, everything, self._skeleton.text)
        expected = Counter(element.set_name for element in everything.elements)
        for name, size in self._kernel.nft.sizes().items():
            if size > expected[name]:
                yield f"set {name} holds {size} elements where the attachments ask for {expected[name]}"
        for step in self._surplus(everything):
            if isinstance(step, DropEntry):
                yield f"BPF map {step.map_name}: no attachment asks for entry {step.key.hex()}"

    def host_addresses(self, wanted: Desired) -> list[Step]:
        """Tell the checksum program the host's addresses, if wildcard ports are to be proved against them."""
        if not hooks.needs_host_addresses(wanted.entries):
            return []
        self._kernel.programs.load()
        entries = hooks.host_address_entries(self._kernel.links.host_addresses())
        return [
            PutEntry(map_name, key, value)
            for (map_name, key), value in entries.items()
            if self._kernel.programs.get(map_name, key) != value
        ]

    def _surplus(self, everything: Desired) -> Iterator[Step]:
        if not self._kernel.programs.loaded():
            return
        for map_name in _NETWORK_MAPS:
            for key, value in self._kernel.programs.entries(map_name):
                if (map_name, key) in everything.entries or hooks.is_manual(map_name, value):
                    continue
                if map_name == "networks":
                    device = IfIndex(U32.unpack(key)[0])
                    yield from (DetachProgram(program, device) for program in Program)
                yield DropEntry(map_name, key)


def _tell_lost_state() -> None:
    print(
        "dataplane: table inet dataplane is there, and the state knows nothing of it: the state was lost, and the table"
        " is made anew; containers that run must be restarted to be published again",
        file=sys.stderr,
    )
