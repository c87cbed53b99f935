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

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from control import adminchain, planner, ruleset, spoofcheck
from control.changes import Changes
from control.claims import Claims, vanished
from control.differences import differences
from control.errors import (
    DifferenceError,
    EngineError,
    LimitedConnectivityError,
    NotReadyError,
)
from control.hooks import NetworkFacts
from control.ipam.leases import LeaseStore, Owner
from control.lock import locked, locked_attachment
from control.model import Attachment, AttachmentKey, ChecksumPolicy, Request
from control.planner import Desired
from control.reconciler import Reconciler
from control.settings import Settings, SettingsError, read_settings
from control.skeleton import Skeleton
from control.store import Store
from dataplane.apply import apply, apply_all
from dataplane.doors import Kernel
from dataplane.errors import DataplaneError
from dataplane.netns import scoped
from dataplane.nft.objects import Table
from dataplane.steps import DetachProgram, RunNft
from dataplane.types import AttachMode

RUN_DIRECTORY = Path(scoped("/run/dataplane"))
STATE_FILE = "state.db"
_MARK_FACT = "mark"


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
        self._changes = Changes(kernel, self.store, self._skeleton, self._reconciler, self._mark)
        self._claims = Claims(kernel, self.store)

    def close(self) -> None:
        self.store.close()

    def heed(self) -> None:
        """Whether the answer is still wanted; here, in the caller's own process, it always is."""

    # -- requests -----------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Attach, or bring an attachment up to date. Raises ``PortConflictError``, ``DeviceNotFoundError`` or the
        kernel's error; then nothing is changed."""
        with self._settled():
            change = self._changes.of(request.key, self._claims.attachment(request))
            if change.old == change.new and any(self._differences(change.after)):
                self._reconciler.resync()
            self._changes.make(change)
            self._hand_over(request.key)

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
            return [one for one in self.store.attachments() if vanished(self.kernel, one)]

    def collect_stale(self) -> list[Attachment]:
        """Remove what ``stale`` finds, with the leases of its addresses, and return it. Raises an ``ExceptionGroup``
        after having tried all."""
        errors: list[Exception] = []
        with self._settled(removing=True):
            found = [one for one in self.store.attachments() if vanished(self.kernel, one)]
            try:
                self._delete_all(one.key for one in found)
            except ExceptionGroup as group:
                errors += group.exceptions
        for one in found:
            try:
                self._release(one)
            except (DataplaneError, OSError) as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup("could not remove everything that is stale", errors)
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
            stale = [
                f"attachment {one.key} is of a container that is gone; dpctl gc removes it"
                for one in self.store.attachments()
                if vanished(self.kernel, one)
            ]
            return [*unusable, *stale, *self._reconciler.problems()]

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
        self._changes.remove(key)
        self._hand_over(key)

    def _release(self, gone: Attachment) -> None:
        """Release the lease of an attachment that is gone, unless it was attached again meanwhile."""
        key = gone.key
        if not gone.request.lease_dir:
            return
        with locked_attachment(self._lock_path.parent, str(key)), self._held():
            if self.store.get(key) is None:
                LeaseStore(key.network, Path(gone.request.lease_dir)).release(Owner(key.container, key.ifname))

    def _hand_over(self, key: AttachmentKey) -> None:
        for heir in self._claims.heirs(key):
            try:
                self._changes.make(self._changes.of(heir.key, heir))
            except DataplaneError:
                # What was asked for is done; the next request makes the kernel what the state then says.
                self.store.commit(heir.key, heir)
                self.store.begin(())

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
        yield from self._differences(self._changes.of(request.key, None).before)

    def _differences(self, wanted: Desired) -> Iterator[str]:
        return differences(self.kernel, wanted, self._skeleton.text)


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
