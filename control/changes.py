"""One change: what a key is, what it is to become, and both kernel and state made so together.

    change = changes.of(key, attachment)      before and after, of all that it can touch
    changes.make(change)                      noted in the journal, made in the kernel, committed
    changes.remove(key)

The kernel's part is undone where it fails. A note that outlives its request makes the reconciler due.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from control import planner
from control.differences import port_differences
from control.hooks import use_of
from control.model import Attachment, AttachmentKey
from control.planner import Desired
from control.reconciler import Reconciler
from control.skeleton import Skeleton
from control.store import Store
from dataplane.apply import apply, apply_all
from dataplane.doors import Kernel
from dataplane.errors import DataplaneError, ForeignChainError, NftError
from dataplane.steps import DeleteRules, InsertRules, RunNft, SetSysctl, Step
from dataplane.types import Address

_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


@dataclass(frozen=True, slots=True)
class Change:
    """What one key is to become, with all that the change can touch."""

    key: AttachmentKey
    old: Attachment | None
    new: Attachment | None
    before: Desired
    after: Desired
    considered: frozenset[AttachmentKey]
    """Whose attachments ``before`` and ``after`` are about."""

    @property
    def touched(self) -> list[Attachment]:
        return [one for one in (self.old, self.new) if one is not None]

    @property
    def regroups(self) -> bool:
        """Whether chains and maps change, and not only elements."""
        return self.before.groups != self.after.groups


class Changes:
    """See the module. The caller holds the state's lock."""

    def __init__(self, kernel: Kernel, store: Store, skeleton: Skeleton, reconciler: Reconciler, mark: int) -> None:
        self._kernel, self._store, self._skeleton = kernel, store, skeleton
        self._reconciler, self._mark = reconciler, mark

    def of(self, key: AttachmentKey, new: Attachment | None) -> Change:
        """What a key is to become; None: nothing."""
        old = self._store.get(key)
        ours = [one for one in (old, new) if one is not None]
        others = tuple(dict.fromkeys((*self._store.sharing(ours, key), *self._store.siblings(key))))
        uses = self._store.uses([one.device for one in ours], key)
        facts = self._store.facts({key.network, *(one.key.network for one in others), *(use.network for use in uses)})

        def state(one: Attachment | None) -> Desired:
            mine = () if one is None else (one,)
            return planner.desired((*others, *mine), (*uses, *map(use_of, mine)), facts, self._mark)

        before, after = state(old), state(new)
        considered = frozenset({key, *(one.key for one in others)})
        return Change(key, old, new, before if new is None else self._as_found(before, after), after, considered)

    def make(self, change: Change) -> None:
        """Make a change, or nothing of it. Raises the kernel's error."""
        try:
            self._attempt(change)
        except NftError as error:
            if isinstance(error, ForeignChainError) or error.errno not in {errno.ENOENT, errno.EEXIST}:
                raise
            # Elements were taken away, or are there that the state knows nothing of.
            self._reconciler.resync()
            self._attempt(change)

    def remove(self, key: AttachmentKey) -> None:
        """Take an attachment away, as far as the kernel lets us; what is left is repaired by the next request."""
        old = self._store.get(key)
        if old is None:
            return
        change = self.of(key, None)
        batch = self._store.begin([old])
        steps = self._steps(change)
        with self._skeleton.untouched_by(_transactions(steps)):
            errors = apply_all(steps, self._kernel)
        if not errors:
            self._commit(change, batch)
            return
        # Something was not as the state said (flushed, or half there): what is left must equal the state again. The
        # attachment is gone either way; where the repair fails, its note stays and the next request tries again.
        self._store.commit(key, None)
        try:
            self._reconciler.resync()
        except DataplaneError:
            return

    def _attempt(self, change: Change) -> None:
        steps = (*self._reconciler.host_addresses(change.after), *self._steps(change))
        self._remember_sysctls(steps)
        batch = self._store.begin(change.touched)
        try:
            with self._skeleton.untouched_by(_transactions(steps)):
                apply(steps, self._kernel)
        except DataplaneError as error:
            # Undone, as far as that went; if something resisted, the note stays and the next request repairs.
            if not getattr(error, "__notes__", ()):
                self._store.end(batch)
            raise
        self._commit(change, batch)

    def _commit(self, change: Change, batch: int) -> None:
        if change.regroups:
            self._skeleton.keep()
        self._store.commit(change.key, change.new, batch)
        self._store.forget_sysctls(change.before.device_sysctls.keys() - change.after.device_sysctls.keys())

    def _as_found(self, before: Desired, after: Desired) -> Desired:
        """``before`` without the settings that the kernel does not have any more: others change sysctls and port flags
        too, and a device may have been made anew under its name. What is still wanted is thus set again."""
        wanted = {**after.host_sysctls, **after.device_sysctls}
        lost = {name for name, value in wanted.items() if self._kernel.sysctls.read(name) != value}
        return replace(
            before,
            host_sysctls={name: value for name, value in before.host_sysctls.items() if name not in lost},
            device_sysctls={name: value for name, value in before.device_sysctls.items() if name not in lost},
            ports={
                port: use
                for port, use in before.ports.items()
                if port not in after.ports or not any(port_differences(self._kernel, port, use.needs))
            },
        )

    def _steps(self, change: Change) -> tuple[Step, ...]:
        filters = planner.flow_filters(change.touched, _LOOPBACK)
        if filters:
            local = (*_LOOPBACK, *self._kernel.links.host_addresses())
            filters = planner.flow_filters(change.touched, local)
        plan = planner.plan(
            change.before,
            change.after,
            self._mark,
            former=self._store.former_sysctls(),
            guarded_elsewhere=self._store.guards_others(change.considered),
        )
        return (
            *plan,
            *planner.flush_flows(filters),
        )

    def _remember_sysctls(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, SetSysctl) and planner.is_device_sysctl(step.name):
                value = self._kernel.sysctls.read(step.name)
                if value is not None and value != step.value:
                    self._store.remember_sysctl(step.name, value)


def _transactions(steps: Iterable[Step]) -> int:
    """How many transactions of nftables these steps are; more where rules of foreign chains are among them."""
    return sum(2 if isinstance(step, InsertRules | DeleteRules) else isinstance(step, RunNft) for step in steps)
