"""The engine: ADD, DEL, CHECK, GC and STATUS for attachments, on the kernel's doors and the state.

    with open_engine() as engine:
        engine.add(request)

One engine, two hosts: the agent keeps one open, a plugin without an agent opens one for a single request. Both take the
same lock, so they may even coexist.

State and kernel move together: a change is noted in the journal, made in the kernel, and then committed. When a note
outlives its request (a crash, a failed undo), or the kernel turns out not to be what the state says, the reconciler
makes the kernel equal to the state.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from control import adminchain, planner, ruleset, spoofcheck
from control.differences import differences, port_differences
from control.errors import (
    DeviceNotFoundError,
    DifferenceError,
    EngineError,
    LimitedConnectivityError,
    NotReadyError,
    PortConflictError,
)
from control.hooks import NetworkFacts, use_of
from control.ipam.leases import LeaseStore, Owner
from control.lock import locked
from control.model import Attachment, AttachmentKey, ChecksumPolicy, Device, IngressPolicy, Request
from control.planner import Desired
from control.reconciler import Reconciler
from control.settings import Settings, SettingsError, read_settings
from control.skeleton import Skeleton
from control.store import Store
from dataplane.apply import apply, apply_all
from dataplane.doors import Kernel, Link, PortFlags
from dataplane.errors import DataplaneError, ForeignChainError, NftError
from dataplane.netns import scoped
from dataplane.nft.objects import Table
from dataplane.steps import DeleteRules, DetachProgram, InsertRules, RunNft, SetSysctl, Step
from dataplane.types import Address, AttachMode

RUN_DIRECTORY = Path(scoped("/run/dataplane"))
STATE_FILE = "state.db"
_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_MARK_FACT = "mark"
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


@dataclass(frozen=True, slots=True)
class _Change:
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


class Engine:
    """See the module. Methods take the lock themselves; each is one request.

    With a ``SettingsError`` in place of settings it can still remove attachments: whatever is wrong with a file, DEL
    must work. Everything else raises that error.
    """

    def __init__(
        self, kernel: Kernel, directory: Path = RUN_DIRECTORY, settings: Settings | SettingsError | None = None
    ) -> None:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self.kernel = kernel
        self._lock_path = directory / "lock"
        self._unusable = settings if isinstance(settings, SettingsError) else None
        self.agent_required = isinstance(settings, Settings) and settings.agent_required
        with locked(self._lock_path):
            self.store = Store(directory / STATE_FILE)
            if isinstance(settings, SettingsError):
                self._mark = int(self.store.fact(_MARK_FACT) or Settings().mark)
            else:
                self._mark = (settings or Settings()).mark
                self.store.keep_fact(_MARK_FACT, str(self._mark))
        self._skeleton = Skeleton(kernel.nft, self.store)
        self._reconciler = Reconciler(kernel, self.store, self._skeleton, self._mark)

    def close(self) -> None:
        self.store.close()

    def heed(self) -> None:
        """Whether the answer is still wanted; here, in the caller's own process, it always is."""

    # -- requests -----------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Attach, or bring an attachment up to date. Raises ``PortConflictError``, ``DeviceNotFoundError`` or the
        kernel's error; then nothing is changed."""
        with self._settled():
            attachment = self._yielding(Attachment(request, self._device(request)))
            self._refuse_conflicts(attachment)
            change = self._change(request.key, attachment)
            if change.old == change.new and any(self._differences(change.after)):
                self._reconciler.resync()
            self._make(change)
            for heir in self._heirs(request.key):
                self._make(self._change(heir.key, heir))

    def delete(self, key: AttachmentKey) -> None:
        """Detach. A key that is not attached is fine, and so is anything of it that is gone already."""
        with self._settled(removing=True):
            self._delete(key)

    def collect(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        """Remove the attachments of a network whose (container, ifname) is not valid. Goes on after an error; raises
        all in an ``ExceptionGroup``."""
        with self._settled(removing=True):
            gone = [one.key for one in self.store.attachments(network)]
            self._delete_all(key for key in gone if (key.container, key.ifname) not in valid)

    def stale(self) -> list[Attachment]:
        """Attachments whose network namespace or device is gone: their runtime never sent a DEL."""
        with self._held():
            return [one for one in self.store.attachments() if self._vanished(one)]

    def collect_stale(self) -> list[Attachment]:
        """Remove what ``stale`` finds, with the leases of its addresses, and return it. Raises an ``ExceptionGroup``
        after having tried all."""
        with self._settled(removing=True):
            found = [one for one in self.store.attachments() if self._vanished(one)]
            self._delete_all(one.key for one in found)
        for one in found:
            if one.request.lease_dir:
                store = LeaseStore(one.key.network, Path(one.request.lease_dir))
                store.release(Owner(one.key.container, one.key.ifname))
        return found

    def check(self, request: Request) -> None:
        """Compare kernel and state with what was asked for. Raises ``DifferenceError``."""
        with self._held():
            found = tuple(self._checked(request))
        if found:
            raise DifferenceError(found)

    def require_kernel(self) -> None:
        """See that everything is there that an ADD needs. Raises ``NotReadyError``."""
        try:
            with self._settled():
                self.kernel.programs.load()
        except DataplaneError as error:
            raise NotReadyError(str(error)) from error

    def status(self, network: str) -> None:
        """Whether an ADD can be served. Raises ``NotReadyError`` with the reason, or where containers of the network
        are not served either ``LimitedConnectivityError``."""
        try:
            self.require_kernel()
        except NotReadyError as error:
            if self._is_limited(network):
                raise LimitedConnectivityError(str(error)) from error
            raise

    def _is_limited(self, network: str) -> bool:
        try:
            with self._held():
                return any(self.store.attachments(network)) and any(self._reconciler.problems())
        except DataplaneError:
            return True  # it cannot even be looked at

    def problems(self) -> list[str]:
        """What is not as all attachments ask for, a sentence each."""
        with self._held():
            unusable = [] if self._unusable is None else [str(self._unusable)]
            vanished = [
                f"attachment {one.key} is of a container that is gone; dpctl gc removes it"
                for one in self.store.attachments()
                if self._vanished(one)
            ]
            return [*unusable, *vanished, *self._reconciler.problems()]

    def reconcile(self) -> tuple[list[str], list[str]]:
        """Make the kernel what the attachments ask for; the problems before and those that are left. Raises the
        kernel's error where it refuses."""
        if self._unusable is not None:
            raise self._unusable
        before = self.problems()
        if not before:
            return [], []
        with self._held():
            self._reconciler.resync()
        return before, self.problems()

    def attachments(self) -> list[Attachment]:
        """All attachments."""
        with self._held():
            return list(self.store.attachments())

    def networks(self) -> dict[str, NetworkFacts]:
        """All networks and what the state keeps about them."""
        with self._held():
            return self.store.facts(self.store.network_names().values())

    def set_checksum_mode(self, network: str, mode: ChecksumPolicy) -> None:
        """Let an operator's mode take precedence over the conflist's, for as long as anybody is attached."""
        with self._settled():
            if network not in self.store.network_names().values():
                raise EngineError(f'no attachment on network "{network}": its mode comes with its first ADD')
            before = self._reconciler.everything()
            former = self.store.facts([network])[network].checksum
            batch = self.store.begin(())
            self.store.set_checksum(network, mode)
            after = self._reconciler.everything()
            steps = (*planner.plan(before, after, self._mark), *self._reconciler.host_addresses(after))
            try:
                apply(steps, self.kernel)
            except DataplaneError:
                self.store.set_checksum(network, former)
                raise
            self.store.end(batch)

    def teardown(self) -> list[str]:
        """Remove everything of ours from the kernel and the state; what was removed, a line each. Rules that users put
        into an admin chain are not ours.

        What the kernel refuses does not stop the rest; it is raised at the end, as one error, and the state is kept for
        another try.
        """
        with self._held():
            everything, nothing = self._reconciler.everything(living=False), self._reconciler.nothing()
            steps = planner.plan(everything, nothing, self._mark, former=self.store.former_sysctls())
            removed = [f"attachment {one.key}" for one in self.store.attachments()]
            removed += [f"program {s.program} of device {s.ifindex}" for s in steps if isinstance(s, DetachProgram)]
            self.store.begin(())
            errors = apply_all((step for step in steps if not isinstance(step, RunNft)), self.kernel)
            try:
                removed += self._remove_tables()
                removed += self.kernel.programs.unload()
            except DataplaneError as error:
                errors.append(error)
            if errors:
                raise EngineError("; ".join(map(str, errors)))
            self.store.clear()
            self.store.settle()
        return removed

    def _remove_tables(self) -> Iterator[str]:
        nft = self.kernel.nft
        if nft.skeleton_text():
            nft.run(ruleset.removal())
            yield f"table {Table.MAIN}"
        if nft.chains(Table.BRIDGE):
            nft.run(spoofcheck.rebuild((), there=True))
            yield f"table {Table.BRIDGE}"
        admin = nft.chains(Table.ADMIN)
        if filled := adminchain.filled(admin):
            yield f"table {Table.ADMIN} stays: chain {', '.join(filled)} holds rules that are not ours"
        elif admin:
            nft.run(adminchain.removal())
            yield f"table {Table.ADMIN}"

    # -- one change ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _held(self) -> Iterator[None]:
        with locked(self._lock_path):
            self.store.follow()
            yield

    @contextmanager
    def _settled(self, *, removing: bool = False) -> Iterator[None]:
        """Hold the lock, with state and kernel in agreement as far as is known.

        A repair that fails is the caller's error, except when ``removing``: what can be removed is removed, and the
        repair stays due.
        """
        if self._unusable is not None and not removing:
            raise self._unusable
        with self._held():
            if self._reconciler.is_due(removing=removing):
                try:
                    self._reconciler.resync()
                except DataplaneError:
                    if not removing:
                        raise
            yield

    def _delete_all(self, keys: Iterable[AttachmentKey]) -> None:
        errors: list[DataplaneError] = []
        for key in list(keys):
            try:
                self._delete(key)
            except DataplaneError as error:
                error.add_note(f"while removing {key}")
                errors.append(error)
        if errors:
            raise ExceptionGroup("could not remove every stale attachment", errors)

    def _delete(self, key: AttachmentKey) -> None:
        old = self.store.get(key)
        if old is None:
            return
        change = self._change(key, None)
        batch = self.store.begin([old])
        steps = self._steps(change)
        with self._skeleton.untouched_by(_transactions(steps)):
            errors = apply_all(steps, self.kernel)
        if not errors:
            self._commit(change, batch)
            self._hand_over(key)
            return
        # Something was not as the state said (flushed, or half there): what is left must equal the state again. The
        # attachment is gone either way; where the repair fails, its note stays and the next request tries again.
        self.store.commit(key, None)
        try:
            self._reconciler.resync()
        except DataplaneError:
            return

    def _yielding(self, attachment: Attachment) -> Attachment:
        """The attachment without the ports that another interface of its container publishes."""
        key, bare = attachment.key, replace(attachment, yielded=frozenset())
        others = ((claim, holder) for claim, holder in self.store.holders(bare) if holder.container == key.container)
        return replace(bare, yielded=frozenset(claim for claim, holder in others if not holder.siblings(key)))

    def _heirs(self, key: AttachmentKey) -> Iterator[Attachment]:
        """The other interfaces of this one's container that may publish more now, as they are to be."""
        for one in self.store.of_container(key.container):
            if one.yielded and one.key != key and (heir := self._yielding(one)) != one:
                yield heir

    def _hand_over(self, key: AttachmentKey) -> None:
        for heir in self._heirs(key):
            try:
                self._make(self._change(heir.key, heir))
            except DataplaneError:
                # The DEL is done; the next request makes the kernel what the state then says.
                self.store.commit(heir.key, heir)
                self.store.begin(())

    def _make(self, change: _Change) -> None:
        try:
            self._attempt(change)
        except NftError as error:
            if isinstance(error, ForeignChainError) or error.errno not in {errno.ENOENT, errno.EEXIST}:
                raise
            # Elements were taken away, or are there that the state knows nothing of.
            self._reconciler.resync()
            self._attempt(change)

    def _attempt(self, change: _Change) -> None:
        steps = (*self._reconciler.host_addresses(change.after), *self._steps(change))
        self._remember_sysctls(steps)
        batch = self.store.begin(change.touched)
        try:
            with self._skeleton.untouched_by(_transactions(steps)):
                apply(steps, self.kernel)
        except DataplaneError as error:
            # Undone, as far as that went; if something resisted, the note stays and the next request repairs.
            if not getattr(error, "__notes__", ()):
                self.store.end(batch)
            raise
        self._commit(change, batch)

    def _commit(self, change: _Change, batch: int) -> None:
        if change.regroups:
            self._skeleton.keep()
        self.store.commit(change.key, change.new, batch)
        self.store.forget_sysctls(change.before.device_sysctls.keys() - change.after.device_sysctls.keys())

    def _change(self, key: AttachmentKey, new: Attachment | None) -> _Change:
        old = self.store.get(key)
        ours = [one for one in (old, new) if one is not None]
        others = tuple(dict.fromkeys((*self.store.sharing(ours, key), *self.store.siblings(key))))
        uses = self.store.uses([one.device for one in ours], key)
        facts = self.store.facts({key.network, *(one.key.network for one in others), *(use.network for use in uses)})

        def state(one: Attachment | None) -> Desired:
            mine = () if one is None else (one,)
            return planner.desired((*others, *mine), (*uses, *map(use_of, mine)), facts, self._mark)

        before, after = state(old), state(new)
        considered = frozenset({key, *(one.key for one in others)})
        return _Change(key, old, new, before if new is None else self._as_found(before, after), after, considered)

    def _as_found(self, before: Desired, after: Desired) -> Desired:
        """``before`` without the settings that the kernel does not have any more: others change sysctls and port flags
        too, and a device may have been made anew under its name. What is still wanted is thus set again."""
        wanted = {**after.host_sysctls, **after.device_sysctls}
        lost = {name for name, value in wanted.items() if self.kernel.sysctls.read(name) != value}
        return replace(
            before,
            host_sysctls={name: value for name, value in before.host_sysctls.items() if name not in lost},
            device_sysctls={name: value for name, value in before.device_sysctls.items() if name not in lost},
            ports={
                port: use
                for port, use in before.ports.items()
                if port not in after.ports or not any(port_differences(self.kernel, port, use.needs))
            },
        )

    def _steps(self, change: _Change) -> tuple[Step, ...]:
        filters = planner.flow_filters(change.touched, _LOOPBACK)
        if filters:
            local = (*_LOOPBACK, *self.kernel.links.host_addresses())
            filters = planner.flow_filters(change.touched, local)
        plan = planner.plan(
            change.before,
            change.after,
            self._mark,
            former=self.store.former_sysctls(),
            guarded_elsewhere=self.store.guards_others(change.considered),
        )
        return (
            *plan,
            *planner.flush_flows(filters),
        )

    def _remember_sysctls(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, SetSysctl) and planner.is_device_sysctl(step.name):
                value = self.kernel.sysctls.read(step.name)
                if value is not None and value != step.value:
                    self.store.remember_sysctl(step.name, value)

    def _device(self, request: Request) -> Device:
        links = [link for name in request.host_interfaces if (link := self.kernel.links.find(name))]
        bridge = next((link for link in links if link.kind == "bridge"), None)
        port = next((link for link in links if link.kind != "bridge"), None)
        if bridge is None and port is not None and port.master:
            bridge = self.kernel.links.get(port.master)
        if bridge is not None:
            device = self._bridge(bridge, port if port and port.master == bridge.index else None, request)
            if request.options.ingress_policy is IngressPolicy.ISOLATED and not device.port:
                raise DeviceNotFoundError(
                    f"prevResult.interfaces: none is a port of bridge {bridge.name}; ingressPolicy isolated needs one"
                )
            return device
        if port is not None:
            return Device(port.index, port.name, routed=True)
        # Of a container whose link has no end here (macvlan, host-device), packets leave by whatever routes say.
        routed = (self.kernel.links.towards(address) for address in request.addresses)
        way = None if request.host_interfaces else next(filter(None, routed), None)
        if way is not None:
            return Device(way.index, way.name)
        names = ", ".join(request.host_interfaces) or "none"
        raise DeviceNotFoundError(
            f"prevResult.interfaces: none of the host's is there ({names}), and the host has no route to the container"
        )

    def _bridge(self, bridge: Link, port: Link | None, request: Request) -> Device:
        if port is None:
            return Device(bridge.index, bridge.name)
        # A part of this interface that was there before may have changed them already, and knows what they were.
        known = (self.store.get(request.key), *self.store.siblings(request.key))
        former = (one.device.port_flags for one in known if one is not None and one.device.port == port.index)
        flags = next((one for one in former if one != PortFlags()), PortFlags())
        # What is not going to be changed need not be read.
        if flags == PortFlags() and (request.mappings or request.options.ingress_policy is IngressPolicy.ISOLATED):
            flags = self.kernel.links.port_flags(port.index)
        return Device(bridge.index, bridge.name, port.index, flags)

    def _refuse_conflicts(self, attachment: Attachment) -> None:
        for (mapping, _), holder in self.store.holders(attachment):
            where = "" if mapping.wildcard else f" on {mapping.host_address}"
            port = f"{mapping.host_port}/{mapping.protocol}{where}"
            if holder.siblings(attachment.key):
                raise PortConflictError(
                    f"could not publish {port}: plugin {holder.plugin} of the same conflist has done so; "
                    "leave port mappings to one of them"
                )
            held = self.store.get(holder)
            hint = "; that container is gone: dpctl gc frees the port" if held and self._vanished(held) else ""
            raise PortConflictError(
                f"could not publish {port}: already published by container "
                f'"{holder.container}" (network "{holder.network}"){hint}'
            )

    # -- CHECK --------------------------------------------------------------------------------------------------------

    def _checked(self, request: Request) -> Iterator[str]:
        stored = self.store.get(request.key)
        if stored is None:
            yield f"attachment {request.key} is not known here: it was removed, or never added"
            return
        if stored.request.mappings != request.mappings or stored.options != request.options:
            yield f"attachment {request.key} was added with other settings than these"
        # Plugins that come later in the chain may have added some.
        if not set(stored.request.addresses) <= set(request.addresses):
            yield f"attachment {request.key} was added with other addresses than prevResult's"
        yield from self._differences(self._change(request.key, None).before)

    def _differences(self, wanted: Desired) -> Iterator[str]:
        return differences(self.kernel, wanted, self._skeleton.text)

    def _vanished(self, attachment: Attachment) -> bool:
        if self.kernel.links.get(attachment.device.index) is None:
            return True
        request = attachment.request
        if not request.netns or not request.netns_inode:
            return False
        try:
            return Path(request.netns).stat().st_ino != request.netns_inode
        except OSError as error:
            # Only a clear no: what cannot be looked at may well be there.
            return error.errno in _GONE


@contextmanager
def open_engine(directory: Path = RUN_DIRECTORY) -> Iterator[Engine]:
    """An engine on the running kernel, hosted in this process."""
    try:
        settings: Settings | SettingsError = read_settings()
    except SettingsError as error:
        settings = error
    attach = AttachMode.AUTO if isinstance(settings, SettingsError) else settings.attach
    engine = Engine(running_kernel(attach), directory, settings)
    try:
        yield engine
    finally:
        engine.close()


def running_kernel(attach: AttachMode = AttachMode.AUTO) -> Kernel:
    """The doors of the kernel that this process runs on. Nothing is opened before it is used."""
    from dataplane.conntrack import NetlinkFlows  # noqa: PLC0415
    from dataplane.firewalld import SystemFirewalld  # noqa: PLC0415
    from dataplane.links import NetlinkLinks  # noqa: PLC0415
    from dataplane.nft.client import LibNftables  # noqa: PLC0415
    from dataplane.programs.door import KernelPrograms  # noqa: PLC0415
    from dataplane.sysctl import ProcSysctls  # noqa: PLC0415

    return Kernel(
        nft=LibNftables(),
        links=NetlinkLinks(),
        programs=KernelPrograms(attach),
        flows=NetlinkFlows(),
        sysctls=ProcSysctls(),
        firewalld=SystemFirewalld(),
    )


def _transactions(steps: Iterable[Step]) -> int:
    """How many transactions of nftables these steps are; more where rules of foreign chains are among them."""
    return sum(2 if isinstance(step, InsertRules | DeleteRules) else isinstance(step, RunNft) for step in steps)
