"""The engine: ADD, DEL, CHECK, GC and STATUS for attachments, on the kernel's doors and the state.

    with open_engine() as engine:
        engine.add(request)

One engine, two hosts: the agent keeps one open, a plugin without an agent opens one for a single request. Both take the
same lock, so they may even coexist.

State and kernel move together: a change is noted in the journal, made in the kernel, and then committed. When a note
outlives its request (a crash, a failed undo), or the kernel turns out not to be what the state says, ``resync`` makes
the kernel equal to the state, in one transaction for nftables.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from control import hooks, planner, ruleset
from control.errors import DeviceNotFoundError, DifferenceError, EngineError, NotReadyError, PortConflictError
from control.hooks import NetworkFacts, use_of
from control.lock import locked
from control.model import Attachment, AttachmentKey, ChecksumPolicy, Device, Request
from control.settings import Settings, read_settings
from control.store import Store
from dataplane.apply import apply, apply_all
from dataplane.doors import Kernel, Link
from dataplane.errors import DataplaneError, NftError
from dataplane.netns import scoped
from dataplane.steps import DropEntry, PutEntry, RunNft, SetPortFlags, SetSysctl, Step
from dataplane.types import Address, IfIndex, Protocol

RUN_DIRECTORY = Path(scoped("/run/dataplane"))
_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_SKELETON_FACT = "skeleton"
_NETWORK_MAPS = ("networks", "origins")


@dataclass(frozen=True, slots=True)
class _Change:
    """What one key is to become, with all that the change can touch."""

    key: AttachmentKey
    old: Attachment | None
    new: Attachment | None
    before: planner.Desired
    after: planner.Desired


class Engine:
    """See the module. Methods take the lock themselves; each is one request."""

    def __init__(self, kernel: Kernel, directory: Path = RUN_DIRECTORY, settings: Settings | None = None) -> None:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self.kernel = kernel
        self.settings = settings or Settings()
        self._lock_path = directory / "lock"
        with locked(self._lock_path):
            self.store = Store(directory / "state.db")

    def close(self) -> None:
        self.store.close()

    def add(self, request: Request) -> None:
        """Attach, or bring an attachment up to date. Raises ``PortConflictError``, ``DeviceNotFoundError`` or the
        kernel's error; then nothing is changed."""
        with self._settled():
            attachment = Attachment(request, self._device(request))
            self._refuse_conflicts(attachment)
            change = self._change(request.key, attachment)
            self._make(change, (*self._host_address_steps(attachment), *self._steps(change)))

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
        with locked(self._lock_path):
            return [one for one in self.store.attachments() if self._vanished(one)]

    def collect_stale(self) -> list[Attachment]:
        """Remove what ``stale`` finds, and return it. Raises an ``ExceptionGroup`` after having tried all."""
        with self._settled(removing=True):
            found = [one for one in self.store.attachments() if self._vanished(one)]
            self._delete_all(one.key for one in found)
            return found

    def check(self, request: Request) -> None:
        """Compare kernel and state with what was asked for. Raises ``DifferenceError``."""
        with locked(self._lock_path):
            differences = tuple(self._differences(request))
        if differences:
            raise DifferenceError(differences)

    def status(self) -> None:
        """Whether an ADD can be served. Raises ``NotReadyError`` with the reason."""
        try:
            with locked(self._lock_path):
                self.kernel.nft.table_text()
                self.kernel.programs.load()
        except DataplaneError as error:
            raise NotReadyError(str(error)) from error

    def attachments(self) -> list[Attachment]:
        """All attachments."""
        with locked(self._lock_path):
            return list(self.store.attachments())

    def networks(self) -> dict[str, NetworkFacts]:
        """All networks and what the state keeps about them."""
        with locked(self._lock_path):
            return self.store.facts(self.store.network_names().values())

    def set_checksum_mode(self, network: str, mode: ChecksumPolicy) -> None:
        """Let an operator's mode take precedence over the conflist's, for as long as anybody is attached."""
        with self._settled():
            if network not in self.store.network_names().values():
                raise EngineError(f'no attachment on network "{network}": its mode comes with its first ADD')
            before = self._everything()
            former = self.store.facts([network])[network].checksum
            self.store.begin(())
            self.store.set_checksum(network, mode)
            try:
                apply(planner.plan(before, self._everything(), self.settings.mark), self.kernel)
            except DataplaneError:
                self.store.set_checksum(network, former)
                raise
            self.store.settle()

    def resync(self) -> None:
        """Make the kernel what the state says, whatever is there."""
        with locked(self._lock_path):
            self._resync()

    def teardown(self) -> list[str]:
        """Remove everything of ours from the kernel and the state; what was removed, a line each."""
        removed: list[str] = []
        with locked(self._lock_path):
            everything = self._everything()
            nothing = planner.desired((), (), {}, self.settings.mark)
            steps = planner.plan(everything, nothing, self.settings.mark, former=self.store.former_sysctls())
            self.store.begin(self.store.attachments())
            for attachment in list(self.store.attachments()):
                self.store.commit(attachment.key, None)
                removed.append(f"attachment {attachment.key}")
            failed = apply_all((step for step in steps if not isinstance(step, RunNft)), self.kernel)
            removed.extend(f"not removed: {error}" for error in failed)
            self.store.forget_sysctls(list(self.store.former_sysctls()))
            if self.kernel.nft.table_text():
                self.kernel.nft.run(ruleset.removal())
                removed.append("table inet dataplane")
            removed.extend(self.kernel.programs.unload())
            self.store.settle()
        return removed

    # -- one change ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _settled(self, *, removing: bool = False) -> Iterator[None]:
        """Hold the lock, with state and kernel in agreement as far as is known.

        A repair that fails is the caller's error, except when ``removing``: what can be removed is removed, and the
        repair stays due.
        """
        with locked(self._lock_path):
            if self._repair_is_due():
                try:
                    self._resync()
                except DataplaneError:
                    if not removing:
                        raise
            yield

    def _repair_is_due(self) -> bool:
        """A change was interrupted; or no table was made yet; or the programs are another version's, or lost."""
        if self.store.interrupted() or self.store.fact(_SKELETON_FACT) is None:
            return True
        return not self.kernel.programs.loaded() and bool(self._everything().hooks)

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
        self.store.begin([old])
        errors = apply_all(self._steps(change), self.kernel)
        self._commit(change)
        if errors:
            # Something was not as the state said (flushed, or half there): what is left must equal the state again.
            self.store.begin([old])
            self._resync()

    def _make(self, change: _Change, steps: tuple[Step, ...]) -> None:
        self._remember_sysctls(steps)
        touched = [one for one in (change.old, change.new) if one is not None]
        self.store.begin(touched)
        try:
            self._apply(touched, steps)
        except DataplaneError as error:
            # Undone, as far as that went; if something resisted, the journal keeps its note and the next request
            # makes the kernel equal to the state.
            if not getattr(error, "__notes__", ()):
                self.store.settle()
            raise
        self._commit(change)

    def _apply(self, touched: Iterable[Attachment], steps: tuple[Step, ...]) -> None:
        try:
            apply(steps, self.kernel)
        except NftError as error:
            if error.errno not in {errno.ENOENT, errno.EEXIST}:
                raise
            # Our table was flushed, is another version's, or holds elements that the state knows nothing of.
            self._resync()
            self.store.begin(touched)
            apply(steps, self.kernel)

    def _commit(self, change: _Change) -> None:
        self.store.commit(change.key, change.new)
        self.store.forget_sysctls(change.before.device_sysctls.keys() - change.after.device_sysctls.keys())

    def _change(self, key: AttachmentKey, new: Attachment | None) -> _Change:
        old = self.store.get(key)
        ours = [one for one in (old, new) if one is not None]
        others = self.store.sharing(ours, key)
        uses = self.store.uses({one.device.index for one in ours}, key)
        facts = self.store.facts({key.network, *(one.key.network for one in others), *(use.network for use in uses)})

        def state(one: Attachment | None) -> planner.Desired:
            mine = () if one is None else (one,)
            return planner.desired((*others, *mine), (*uses, *map(use_of, mine)), facts, self.settings.mark)

        return _Change(key, old, new, state(old), state(new))

    def _steps(self, change: _Change) -> tuple[Step, ...]:
        filters = planner.flow_filters((change.old, change.new), ())
        if filters or _publishes_udp(change):
            local = (*_LOOPBACK, *self.kernel.links.host_addresses())
            filters = planner.flow_filters((change.old, change.new), local)
        return (
            *planner.plan(change.before, change.after, self.settings.mark, former=self.store.former_sysctls()),
            *planner.flush_flows(filters),
        )

    def _host_address_steps(self, attachment: Attachment) -> Iterator[Step]:
        """Tell the checksum program the host's addresses: wildcard ports are proved against them."""
        if attachment.options.checksum is ChecksumPolicy.OFF or not any(
            mapping.wildcard for mapping in attachment.request.mappings
        ):
            return
        self.kernel.programs.load()
        for (map_name, key), value in hooks.host_address_entries(self.kernel.links.host_addresses()).items():
            if self.kernel.programs.get(map_name, key) != value:
                yield PutEntry(map_name, key, value)

    def _remember_sysctls(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, SetSysctl) and "/conf/" in step.name and step.name != planner.IPV6_FORWARDING:
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
            return Device(bridge.index, bridge.name, _port_of(bridge, port))
        if port is not None:
            return Device(port.index, port.name)
        names = ", ".join(request.host_interfaces) or "none"
        raise DeviceNotFoundError(f"none of the host interfaces of prevResult exists ({names})")

    def _refuse_conflicts(self, attachment: Attachment) -> None:
        for (_, address, protocol, port), holder in self.store.holders(attachment):
            where = "" if address in {"v4", "v6"} else f" on {address}"
            raise PortConflictError(
                f"could not publish {port}/{protocol}{where}: already published by container "
                f'"{holder.container}" (network "{holder.network}")'
            )

    # -- the whole state ----------------------------------------------------------------------------------------------

    def _everything(self, besides: Iterable[Attachment] = ()) -> planner.Desired:
        """What the whole state, and attachments besides, ask of the kernel; nothing of devices that are gone."""
        attachments = (*self.store.attachments(), *besides)
        uses = {*self.store.all_uses(), *map(use_of, besides)}
        uses = {use for use in uses if self.kernel.links.get(use.device) is not None}
        facts = self.store.facts({one.key.network for one in attachments})
        return planner.desired(attachments, uses, facts, self.settings.mark)

    def _resync(self) -> None:
        everything = self._everything()
        left = self._everything(self.store.touched())
        nft = self.kernel.nft
        nft.run(ruleset.skeleton(self.settings.mark, everything.groups) + ruleset.fill(everything.elements))
        self.store.keep_fact(_SKELETON_FACT, nft.skeleton_text())
        mark, former = self.settings.mark, self.store.former_sysctls()
        nothing = planner.desired((), (), {}, mark)
        # First away with what an interrupted change may have left, then all that should be there once more.
        steps = (*planner.plan(left, everything, mark, former=former), *planner.plan(nothing, everything, mark))
        mine = [step for step in steps if not isinstance(step, RunNft | SetPortFlags)]
        errors = apply_all([*self._surplus_entries(everything), *mine], self.kernel)
        if errors:
            raise errors[0]
        self.store.forget_sysctls(left.device_sysctls.keys() - everything.device_sysctls.keys())
        self.store.settle()

    def _surplus_entries(self, everything: planner.Desired) -> list[Step]:
        if not self.kernel.programs.loaded():
            return []
        return [
            DropEntry(map_name, key)
            for map_name in _NETWORK_MAPS
            for key, value in self.kernel.programs.entries(map_name)
            if (map_name, key) not in everything.entries and not hooks.is_manual(map_name, value)
        ]

    # -- CHECK --------------------------------------------------------------------------------------------------------

    def _differences(self, request: Request) -> Iterator[str]:
        stored = self.store.get(request.key)
        if stored is None:
            yield f"attachment {request.key} is not known here: it was removed, or never added"
            return
        if stored.request.mappings != request.mappings or stored.options != request.options:
            yield f"attachment {request.key} was added with other settings than these"
        if set(stored.request.addresses) != set(request.addresses):
            yield f"attachment {request.key} was added with other addresses than prevResult's"
        change = self._change(request.key, None)
        yield from self._ruleset_differences(change.before)
        yield from self._hook_differences(change.before)

    def _ruleset_differences(self, wanted: planner.Desired) -> Iterator[str]:
        text = self.kernel.nft.skeleton_text()
        if not text:
            yield "table inet dataplane was wiped"
            return
        if text != self.store.fact(_SKELETON_FACT):
            yield "chains or rules of table inet dataplane were altered"
        for element in sorted(wanted.elements, key=str):
            if not self.kernel.nft.contains(element):
                yield f"element {element.set_name} {{ {element.body(comment=False)} }} is missing"

    def _hook_differences(self, wanted: planner.Desired) -> Iterator[str]:
        for program, device in sorted(wanted.hooks):
            if not any(hooked.program is program for hooked in self.kernel.programs.hooked(device)):
                yield f"program {program} is not attached to device {device}"
        for (map_name, key), value in wanted.entries.items():
            found = self.kernel.programs.get(map_name, key)
            if found != value:
                yield f"BPF map {map_name}: entry {key.hex()} is {'wiped' if found is None else 'altered'}"
        for name, setting in {**wanted.host_sysctls, **wanted.device_sysctls}.items():
            current = self.kernel.sysctls.read(name)
            if current != setting:
                yield f"sysctl {name} is {current}, not {setting}"

    def _vanished(self, attachment: Attachment) -> bool:
        if self.kernel.links.get(attachment.device.index) is None:
            return True
        request = attachment.request
        if not request.netns or not request.netns_inode:
            return False
        try:
            return Path(request.netns).stat().st_ino != request.netns_inode
        except OSError:
            return True


@contextmanager
def open_engine(directory: Path = RUN_DIRECTORY) -> Iterator[Engine]:
    """An engine on the running kernel, hosted in this process."""
    settings = read_settings()
    engine = Engine(running_kernel(settings), directory, settings)
    try:
        yield engine
    finally:
        engine.close()


def running_kernel(settings: Settings) -> Kernel:
    """The doors of the kernel that this process runs on. Nothing is opened before it is used."""
    from dataplane.conntrack import NetlinkFlows  # noqa: PLC0415
    from dataplane.links import NetlinkLinks  # noqa: PLC0415
    from dataplane.nft.client import LibNftables  # noqa: PLC0415
    from dataplane.programs.door import KernelPrograms  # noqa: PLC0415
    from dataplane.sysctl import ProcSysctls  # noqa: PLC0415

    return Kernel(
        nft=LibNftables(),
        links=NetlinkLinks(),
        programs=KernelPrograms(settings.attach),
        flows=NetlinkFlows(),
        sysctls=ProcSysctls(),
    )


def _port_of(bridge: Link, port: Link | None) -> IfIndex:
    return port.index if port is not None and port.master == bridge.index else IfIndex(0)


def _publishes_udp(change: _Change) -> bool:
    return any(
        mapping.protocol is Protocol.UDP
        for one in (change.old, change.new)
        if one is not None
        for mapping in one.request.mappings
    )
