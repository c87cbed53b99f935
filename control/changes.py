"""One change: what a key is, what it is to become, and both kernel and state made so together.

    change = changes.of(key, attachment)      before and after, of all that it can touch
    changes.make(change)                      noted in the journal, made in the kernel, committed
    changes.remove(key)

The kernel's part is undone where it fails. A note that outlives its request makes a repair due.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from control.desired import hooks, planner, ruleset
from control.desired.hooks import HostWide, mode_for, port_of, use_of
from control.desired.planner import Desired
from control.model import Attachment, AttachmentKey
from control.repair.observation import port_complaints
from control.repair.repair import Repair
from control.repair.skeleton import Skeleton
from control.state.database import StateError
from control.state.mirror import Mirror
from control.state.store import Store
from dataplane.apply import apply, apply_all
from dataplane.doors import Kernel
from dataplane.errors import DataplaneError, ForeignChainError, NftError
from dataplane.steps import DeleteRules, InsertRules, RunNft, SetSysctl, Step
from dataplane.types import ChecksumMode


@dataclass(frozen=True, slots=True)
class Change:
    """What one key is to become, with all that the change can touch."""

    key: AttachmentKey
    old: Attachment | None
    new: Attachment | None
    before: Desired
    after: Desired

    @property
    def touched(self) -> list[Attachment]:
        return [one for one in (self.old, self.new) if one is not None]

    @property
    def regroups(self) -> bool:
        """Whether chains and maps change, and not only elements."""
        return self.before.groups != self.after.groups


class Changes:
    """See the module. The caller holds the state's lock."""

    def __init__(
        self, kernel: Kernel, store: Store, skeleton: Skeleton, mirror: Mirror, repair: Repair, host: HostWide
    ) -> None:
        self._kernel, self._store, self._skeleton, self._mirror = kernel, store, skeleton, mirror
        self._repair, self._host = repair, host

    def of(self, key: AttachmentKey, new: Attachment | None) -> Change:
        """What a key is to become; None: nothing."""
        return self._of(key, self._store.get(key), new)

    def _of(self, key: AttachmentKey, old: Attachment | None, new: Attachment | None) -> Change:
        ours = [one for one in (old, new) if one is not None]
        same = self._store.beside(key)
        others = tuple(dict.fromkeys((*self._store.sharing(ours, key), *same)))
        uses = self._store.uses([one.device for one in ours], key)
        facts = self._store.facts({key.network, *(one.key.network for one in others), *(use.network for use in uses)})

        # UDP ports that are filled are a network's, not a device's: whoever else is on it as a rule asks for the same.
        fills = any(mode_for(one, facts) is ChecksumMode.FILL for one in ours)
        filled = hooks.fill_entries(map(use_of, self._store.fellows(key)), facts) if fills else {}

        # Of one whose container is gone without a DEL, the host veth went with it. Ours had another one before that.
        veths = {port_of(one) for one in (*others, *ours)} - {port_of(one) for one in ours[-1:]}
        missing = frozenset(veth for veth in veths if veth and self._kernel.links.get(veth) is None)
        gone = missing - {port_of(one) for one in ours}

        ends = {port_of(one) for one in (*ours, *same)}
        addresses = {address for one in ours for address in one.request.addresses}

        hosts = {address for one in ours for address in ruleset.host_addresses(one)}
        shared = frozenset(map(ruleset.specific, self._store.published_on(hosts, key)))

        def state(one: Attachment | None) -> Desired:
            mine = () if one is None else (one,)
            wanted = planner.desired((*others, *mine), (*uses, *map(use_of, mine)), facts, self._host, gone)
            told = planner.told_in_full(wanted, ends, addresses)
            if not (filled or missing or shared):
                return told  # as nearly always
            ports = {port: use for port, use in wanted.ports.items() if port not in missing}
            return replace(told, elements=told.elements | shared, entries={**told.entries, **filled}, ports=ports)

        before, after = state(old), state(new)
        return Change(key, old, new, before if new is None else self._as_found(before, after), after)

    def make(self, change: Change) -> None:
        """Make a change, or nothing of it. Raises the kernel's error."""
        try:
            self._attempt(change)
        except NftError as error:
            if isinstance(error, ForeignChainError) or error.errno not in {errno.ENOENT, errno.EEXIST}:
                raise
            # Elements were taken away, or are there that the state knows nothing of.
            self._repair.resync()
            self._attempt(change)

    def remove(self, key: AttachmentKey) -> None:
        """Take an attachment away, as far as the kernel lets us; what is left is repaired by the next request."""
        old = self._store.get(key)
        if old is None:
            # Of an ADD that was killed before it touched anything the number of its network may be left.
            self._store.forget_unused()
            return
        change = self._of(key, old, None)
        batch = self._store.begin([old])
        steps = self._steps(change)
        with self._skeleton.untouched_by(_transactions(steps)) as errors:
            errors.extend(apply_all(steps, self._kernel))
        if not errors:
            self._commit(change, batch)
            return
        # Something was not as the state said (flushed, or half there): what is left must equal the state again. The
        # attachment is gone either way; where the repair fails, its note stays and the next request tries again.
        self._store.commit(key, None)
        try:
            self._repair.resync()
        except DataplaneError:
            return

    def _attempt(self, change: Change) -> None:
        steps = (*self._repair.host_addresses(change.after), *self._steps(change))
        batch = self._store.begin(change.touched)
        remembered = self._remember_sysctls(steps)
        undo: Callable[[DataplaneError], None] | None = None
        try:
            with self._skeleton.untouched_by(_transactions(steps)):
                undo = apply(steps, self._kernel)
            self._commit(change, batch)
        except DataplaneError as error:
            if undo is not None:
                # The state cannot be written: who is told that an ADD failed must not find its port in the kernel.
                undo(error)
            self._withdraw(error, batch, remembered)
            raise

    def _withdraw(self, error: DataplaneError, batch: int, remembered: list[str]) -> None:
        """Drop the note of a change that was undone, as far as that went; if something resisted, the note stays and the
        next request repairs."""
        if getattr(error, "__notes__", ()):
            return
        try:
            self._store.forget_sysctls(remembered)
            self._store.end(batch)
        except StateError as resisted:
            error.add_note(f"while undoing: {resisted}")

    def _commit(self, change: Change, batch: int) -> None:
        if change.regroups and not self._skeleton.keep():
            self._skeleton.doubt()
        restored = change.before.device_sysctls.keys() - change.after.device_sysctls.keys()
        self._store.commit(change.key, change.new, batch, restored, self._skeleton.passed())
        gone, come = change.before.elements - change.after.elements, change.after.elements - change.before.elements
        self._mirror.changed(change.key, change.new, gone, come)

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
                if port not in after.ports or not any(port_complaints(self._kernel, port, use.needs))
            },
        )

    def _steps(self, change: Change) -> tuple[Step, ...]:
        former = self._store.former_sysctls(change.before.device_sysctls)
        return (
            *planner.plan(change.before, change.after, self._host.variant, former=former),
            *planner.flush_flows(self._repair.flow_filters(change.touched)),
        )

    def _remember_sysctls(self, steps: Iterable[Step]) -> list[str]:
        """Keep what device sysctls were before us; the names of those that nobody had changed before this."""
        wanted = {one.name: one.value for one in steps if isinstance(one, SetSysctl)}
        wanted = {name: value for name, value in wanted.items() if planner.is_device_sysctl(name)}
        remembered = []
        for name in wanted.keys() - self._store.former_sysctls(wanted).keys():
            value = self._kernel.sysctls.read(name)
            if value is not None and value != wanted[name]:
                self._store.remember_sysctl(name, value)
                remembered.append(name)
        return remembered


def _transactions(steps: Iterable[Step]) -> int:
    """How many transactions of nftables these steps are; more where rules of foreign chains are among them."""
    return sum(2 if isinstance(step, InsertRules | DeleteRules) else isinstance(step, RunNft) for step in steps)
