"""Our nftables tables against what the attachments ask for: what is not right, and the least that puts it right.

    lack = tables.compare()
    lack.texts          a sentence for each thing that is wrong
    tables.repair(lack)

A main table whose chains or rules are not as they were written is replaced whole, in one transaction: no packet meets
half of it. Where only elements are wrong, only those are deleted and created.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from control.desired import adminchain, ruleset
from control.desired.hooks import Use
from control.desired.ruleset import PLAIN, Variant
from control.repair.skeleton import Chains, Skeleton
from control.state.mirror import Contents, Mirror
from control.state.store import Store
from dataplane.crashpoints import Point, reached
from dataplane.doors import Nft
from dataplane.errors import DataplaneError, NftError
from dataplane.nft.elements import Held, unpack
from dataplane.nft.objects import Element, Set, Table
from dataplane.nft.transaction import Batch, Transaction, add, create, delete

_ASKED_ALONE = 256
"""Missing elements that are asked for one by one before they are written."""
_ATTEMPTS = 3

_NOTHING = Contents()


@dataclass(frozen=True, slots=True)
class Lack:
    """What is not right about our tables."""

    skeleton: str = ""
    """The main table has to be replaced, and why."""
    missing: tuple[Element, ...] = ()
    surplus: tuple[Element, ...] = ()
    """Elements that nobody asks for, or that lead elsewhere than they should."""
    admin: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """A sentence for each thing that is wrong."""
        skeleton = (self.skeleton,) if self.skeleton else ()
        missing = (f"element {one.set_name} {{ {one.body(comment=False)} }} is missing" for one in self.missing)
        surplus = (
            f"no attachment asks for element {one.set_name} {{ {one.body(comment=False)} }}" for one in self.surplus
        )
        return (*skeleton, *missing, *surplus, *self.admin)


class Tables:
    """See the module. The caller holds the state's lock."""

    def __init__(
        self, nft: Nft, store: Store, skeleton: Skeleton, mirror: Mirror, variant: Variant, prepare: Callable[[], None]
    ) -> None:
        """``prepare`` puts sysctls back that only a guard of the former table made safe. Raises ``DataplaneError``."""
        self._nft, self._store, self._skeleton, self._mirror, self._variant = nft, store, skeleton, mirror, variant
        self._prepare = prepare
        self._owned = False

    def own(self) -> bool:
        """Let nobody else change the main table, from when it is written next. False where that cannot be had. Raises
        ``NftError``."""
        self._owned = self._nft.become_owner()
        return self._owned

    def compare(self) -> Lack:
        """Look at all of our tables. A host without attachments needs none of them."""
        attached = bool(self._mirror.attachments())
        uses = self._store.all_uses()
        lack = self._of_main(attached=attached, uses=uses)
        return Lack(
            lack.skeleton,
            lack.missing,
            lack.surplus,
            tuple(adminchain.differences(self._nft, _admin_chains(uses))),
        )

    def repair(self, lack: Lack) -> None:
        """Put right what was found. Raises ``NftError``; what was put right before stays so."""
        if lack.skeleton:
            self.replace()
        elif lack.missing or lack.surplus:
            gone = Transaction(tuple(delete(element) for element in lack.surplus))
            come = Transaction(tuple(create(one) if one.value else add(one) for one in lack.missing))
            try:
                with self._skeleton.untouched_by(1):
                    self._nft.run(ruleset.guarded(self._variant, gone + come))
                for name, value in self._skeleton.passed().items():
                    self._store.keep_fact(name, value)
            except NftError as error:
                if error.errno not in {errno.ENOENT, errno.EEXIST}:
                    raise
                # Not what was found a moment ago: whatever is there now, this is right.
                self.replace()
            reached(Point.ELEMENTS_REPAIRED)
        if lack.admin:
            self._nft.run(adminchain.transaction(_admin_chains(self._store.all_uses())))
            reached(Point.ADMIN_CHAINS_REPAIRED)

    def replace(self) -> None:
        """Write the main table anew, and have the admin chains, in one transaction. Raises ``DataplaneError``."""
        try:
            self._prepare()
        except DataplaneError:
            # Ports are published all the same, and behind the guard.
            self._write(replace(self._variant, localnet=True))
            raise
        self._write(self._variant)

    def _write(self, variant: Variant) -> None:
        uses = self._store.all_uses()
        groups = {group for use in uses for group in use.groups}
        fill = (
            Batch(Table.MAIN, name, tuple(wanted.printed.values()))
            for name, wanted in sorted(self._mirror.sets().items())
            if wanted.values
        )
        whole = (
            ruleset.skeleton(variant, groups, owned=self._owned)
            + Transaction(tuple(add(batch) for batch in fill))
            + adminchain.transaction(_admin_chains(uses))
        )
        # Where others write just then, nobody knows whether what is there is what was written; once more, it is. They
        # may write all the time, and to tables of their own: that must not keep us here.
        for _ in range(_ATTEMPTS):
            with self._skeleton.untouched_by(1):
                self._run_anew(whole)
            reached(Point.TABLE_REPLACED)
            if self._skeleton.keep():
                return

    def _run_anew(self, transaction: Transaction) -> None:
        try:
            self._nft.run(transaction)
        except NftError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            # A table that is owned, or outlived its owner, takes no "add table" without these flags. But it is there,
            # and the first command was only to make sure of that.
            self._nft.run(Transaction(transaction.commands[1:]))

    def remove_former(self) -> bool:
        """Remove the table by which earlier versions checked MAC addresses, as the guard does now; whether there was
        one. Raises ``NftError``."""
        there = Table.BRIDGE in self._nft.tables()
        if there:
            self._nft.run(Transaction((add(Table.BRIDGE), delete(Table.BRIDGE))))
        return there

    def _of_main(self, *, attached: bool, uses: Iterable[Use]) -> Lack:
        chains = self._skeleton.chains()
        if chains is not Chains.INTACT:
            # The table of a host on which nobody is attached is in nobody's way.
            return Lack(chains if attached else "")
        missing: list[Element] = []
        surplus: list[Element] = []
        for declared in self._declared(uses):
            wanted = self._mirror.sets().get(declared.name, _NOTHING)
            held = self._nft.values(declared)
            if held == wanted.values:
                continue
            lost = [one for key, one in wanted.printed.items() if held.get(key) != one.held.value]
            missing += [unpack(declared, one.held) for one in lost]
            strange = [(key, value) for key, value in held.items() if wanted.values.get(key) != value]
            try:
                surplus += [unpack(declared, Held(key, value, "")) for key, value in strange]
            except ValueError:
                # Nothing of ours could be written so, not even to delete it.
                return Lack(f"set {declared.name} of table {Table.MAIN} holds what is none of ours")
        if len(missing) <= _ASKED_ALONE:
            # A listing may lack what is there, while the kernel makes the set larger or smaller.
            missing = [one for one in missing if not self._nft.contains(one)]
        return Lack("", tuple(missing), tuple(surplus))

    @staticmethod
    def _declared(uses: Iterable[Use]) -> Iterator[Set]:
        yield from ruleset.SETS
        groups = {group for use in uses for group in use.groups} - set(PLAIN)
        for group in sorted(groups, key=lambda group: (group.version, group.suffix)):
            yield from group.maps()


def _admin_chains(uses: Iterable[Use]) -> list[str]:
    return sorted({use.admin_chain for use in uses if use.admin_chain})
