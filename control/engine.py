"""The engine: ADD, DEL, CHECK, GC and STATUS for attachments, on the kernel's doors and the state.

    with open_engine() as engine:
        engine.add(request)

One engine, two hosts: the agent keeps one open, a plugin without an agent opens one for a single request. Both take the
same lock, so they may even coexist.

State and kernel move together: a change is noted in the journal, made in the kernel, and then committed. When a note
outlives its request (a crash, a failed undo), or the kernel turns out not to be what the state says, a repair makes
the kernel equal to the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from control.changes import Changes
from control.claims import Claims, abandoned, vanished
from control.desired import planner
from control.desired.hooks import HostWide, NetworkFacts
from control.desired.planner import Desired
from control.devices import Devices
from control.errors import (
    DifferenceError,
    EngineError,
    LimitedConnectivityError,
    NotReadyError,
)
from control.ipam.leases import LeaseStore, Owner
from control.localhost import Means, choose
from control.lock import locked, locked_attachment
from control.model import Attachment, AttachmentKey, ChecksumPolicy, GuardPolicy, Request
from control.repair.differences import differences
from control.repair.reconciler import EVERYTHING, Outcome, Part, merged
from control.repair.repair import LOCALHOST_FACT, Repair
from control.repair.skeleton import Skeleton
from control.settings import LocalhostMode, Settings, SettingsError, read_settings
from control.state.database import Version
from control.state.mirror import Mirror
from control.state.store import Store
from control.teardown import tear_down
from dataplane.apply import apply
from dataplane.doors import Kernel
from dataplane.errors import DataplaneError
from dataplane.netns import scoped
from dataplane.types import AttachMode, IfIndex

if TYPE_CHECKING:
    from control.state.rebuild import Rebuilt

RUN_DIRECTORY = Path(scoped("/run/dataplane"))
STATE_FILE = "state.db"
_MARK_FACT = "mark"


@dataclass(frozen=True, slots=True)
class Watched:
    """What the kernel is to be watched for, on behalf of all attachments."""

    version: Version
    """Of the state that this is about."""
    readings: int
    """How often the mirror had to read the whole state."""
    sysctls: frozenset[str]
    namespaces: frozenset[str]
    """Their paths."""
    networks: Mapping[int, str]
    """Names by the numbers that the BPF programs know."""
    sizes: Mapping[str, int]
    """Interfaces by network."""
    containers: Mapping[IfIndex, str]
    """By their host veths."""


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
            self.store = Store(directory / STATE_FILE, self._read_back)
            if isinstance(settings, SettingsError):
                self._mark = int(self.store.fact(_MARK_FACT) or Settings().mark)
            else:
                self._mark = (settings or Settings()).mark
                if self.store.fact(_MARK_FACT) != str(self._mark):
                    self.store.keep_fact(_MARK_FACT, str(self._mark))
            self.localhost = choose(self._localhost_mode(settings), kernel.programs)
            """How processes of the host reach published ports by loopback addresses."""
            former = self.store.fact(LOCALHOST_FACT)
            # Programs of the cgroups outlive the last attachment: they are taken off when there is one again.
            if former not in {self.localhost.means, Means.CGROUPS} and not any(self.store.attachments()):
                self.store.keep_fact(LOCALHOST_FACT, self.localhost.means)
        host = HostWide(self._mark, self.localhost.cookie, localnet=self.localhost.means is Means.NFT)
        self._variant = host.variant
        self._skeleton = Skeleton(kernel.nft, self.store, host.variant)
        self.mirror = Mirror(self.store)
        self._repair = Repair(kernel, self.store, self._skeleton, self.mirror, host)
        self._changes = Changes(kernel, self.store, self._skeleton, self.mirror, self._repair, host)
        self._devices = Devices(kernel, self.store, self.mirror, self._changes, host)
        self._claims = Claims(kernel, self.store)

    @property
    def own_generations(self) -> frozenset[int]:
        """The last generations of the ruleset that were certainly this engine's doing. Any thread may ask."""
        return frozenset(self._skeleton.own)

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
                self._repair.resync()
            self._changes.make(change)
            self._hand_over(request.key)
            if change.new is not None:
                self._devices.note(change.new.device)

    def delete(self, key: AttachmentKey) -> None:
        """Detach. A key that is not attached is fine, and so is anything of it that is gone already."""
        with self._settled(removing=True):
            self._delete(key)

    def collect(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        """Remove the attachments of a network whose (container, ifname) is not valid. Goes on after an error; raises
        all in an ``ExceptionGroup``."""
        with self._settled(removing=True):
            self.store.recovery.recognise(network, valid)
            gone = [one.key for one in self.store.attachments(network)]
            self._delete_all(key for key in gone if (key.container, key.ifname) not in valid)

    def stale(self) -> list[Attachment]:
        """Attachments whose network namespace or device is gone: their runtime never sent a DEL."""
        with self._held():
            return [one for one in self.mirror.attachments() if vanished(self.kernel, one)]

    def collect_stale(self) -> list[Attachment]:
        """Remove what ``stale`` finds, with the leases of its addresses, and return it. Raises an ``ExceptionGroup``
        after having tried all."""
        return self._collect(vanished)

    def own_table(self) -> bool:
        """Have the kernel refuse changes of our table by anybody else for as long as this process lives; False where
        kernel or libnftables cannot. Raises ``DataplaneError``."""
        with self._held():
            return self._repair.own()

    def sync(self, parts: frozenset[Part], veths: frozenset[IfIndex] | None = None) -> Outcome:
        """Look at these parts of the kernel, and put right what is wrong about them. What fails is in the outcome.
        ``veths``: which of the containers' host veths to look at; see ``Repair.looks``."""
        return merged(self.looks(parts, veths))

    def looks(self, parts: frozenset[Part], veths: frozenset[IfIndex] | None = None) -> Iterator[Outcome]:
        """The same in pieces, each of which takes the lock for itself: between two of them any request may be served,
        here or in another process. None of these relies on what was looked at: each sees for itself that no change was
        interrupted, and compares what it touches."""
        left = dict.fromkeys(parts, "")
        try:
            yield from self._readings()
            if Part.LINKS in parts:
                yield self._follow_devices()
            failed = False
            for part, look in self._repair.looks(parts, veths):
                left[part] = ""  # a part may take several
                with self._held():
                    outcome = look()
                del left[part]
                failed |= bool(outcome.failed)
                yield outcome
            if parts >= EVERYTHING and not failed:
                left[Part.PROGRAMS] = ""
                with self._held():
                    self.kernel.programs.prune()
        except (DataplaneError, OSError) as error:
            yield Outcome(failed=dict.fromkeys(left, str(error)))
            return
        if Part.CONTAINERS in parts:
            yield self._collect_abandoned()

    def _readings(self) -> Iterator[Outcome]:
        """Have the mirror complete, a few attachments at a time."""
        complete = False
        while not complete:
            with self._held():
                complete = self.mirror.read_on()
            if not complete:
                yield Outcome()

    def _follow_devices(self) -> Outcome:
        lost: tuple[str, ...] = ()
        try:
            with self._held():
                lost = self._repair.load_lost()  # or a new bridge alone would be in new maps
                followed = self._devices.follow()
        except DataplaneError as error:
            return Outcome({Part.PROGRAMS: lost} if lost else {}, failed={Part.LINKS: str(error)})
        found = {Part.PROGRAMS: lost, Part.LINKS: tuple(followed.found)}
        return Outcome({part: texts for part, texts in found.items() if texts}, tuple(followed.left))

    def _collect_abandoned(self) -> Outcome:
        try:
            removed = self._collect(abandoned)
        except ExceptionGroup as group:
            return Outcome(failed={Part.CONTAINERS: "; ".join(map(str, group.exceptions))})
        except (DataplaneError, OSError) as error:
            return Outcome(failed={Part.CONTAINERS: str(error)})
        texts = tuple(f"attachment {one.key}: its container is gone, and no DEL came" for one in removed)
        return Outcome({Part.CONTAINERS: texts} if texts else {})

    def watched(self, former: Watched | None) -> Watched | None:
        """What an agent has to keep an eye on; None where that is what it was ``former``."""
        with self._held():
            version = self.store.version
            if former is not None and former.version == version:
                return None
            wanted = self._repair.of_devices()
            self.kernel.programs.hold({device for _, device in wanted.hooks}, self.mirror.veths())
            return Watched(
                version,
                self.mirror.readings,
                frozenset((*wanted.host_sysctls, *wanted.device_sysctls)),
                self.mirror.namespaces(),
                self.store.network_names(),
                self.mirror.sizes(),
                self.mirror.owners(),
            )

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
                self.kernel.programs.open()
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
                return any(self.store.attachments(network)) and any(self._repair.problems())
        except DataplaneError:
            return True  # it cannot even be looked at

    def problems(self) -> list[str]:
        """What is not as all attachments ask for, a sentence each."""
        with self._held():
            unusable = [] if self._unusable is None else [str(self._unusable)]
            stale = [
                f"attachment {one.key} is of a container that is gone; dpctl gc removes it"
                for one in self.mirror.attachments()
                if vanished(self.kernel, one)
            ]
            return [*unusable, *stale, *self._repair.problems()]

    def reconcile(self) -> tuple[list[str], list[str]]:
        """Make the kernel what the attachments ask for; the problems before and those that are left. Raises the
        kernel's error where it refuses."""
        if self._unusable is not None:
            raise self._unusable
        before = self.problems()
        if not before:
            return [], []
        with self._held():
            self._repair.resync()
        return before, self.problems()

    def attachments(self) -> list[Attachment]:
        """All attachments, ordered by key."""
        with self._held():
            return sorted(self.mirror.attachments(), key=lambda one: one.key)

    def networks(self) -> dict[str, NetworkFacts]:
        """All networks and what the state keeps about them."""
        with self._held():
            return self.store.facts(self.store.network_names().values())

    def set_checksum_mode(self, network: str, mode: ChecksumPolicy) -> None:
        """Let an operator's mode take precedence over the conflist's, for as long as anybody is attached."""
        with self._settled():
            if network not in self.store.network_names().values():
                raise EngineError(f'no attachment on network "{network}": its mode comes with its first ADD')
            before = self._repair.everything()
            former = self.store.facts([network])[network].checksum
            batch = self.store.begin(())
            self.store.set_checksum(network, mode)
            after = self._repair.everything()
            steps = (*planner.plan(before, after, self._variant), *self._repair.host_addresses(after))
            try:
                apply(steps, self.kernel)
            except DataplaneError:
                self.store.set_checksum(network, former)
                raise
            self.store.end(batch)

    def teardown(self) -> list[str]:
        """Remove everything of ours from the kernel and the state; what was removed, a line each. Raises
        ``EngineError``."""
        with self._held():
            return tear_down(self.kernel, self.store, self._repair, self._variant)

    # -- one change ---------------------------------------------------------------------------------------------------

    def _localhost_mode(self, settings: Settings | SettingsError | None) -> LocalhostMode:
        if not isinstance(settings, SettingsError):
            return (settings or Settings()).localhost
        former = self.store.fact(LOCALHOST_FACT)
        return LocalhostMode.AUTO if former in {None, Means.CGROUPS} else LocalhostMode(former)

    def _read_back(self) -> Rebuilt:
        from control.state.survey import read_back  # noqa: PLC0415 - for nothing but a state that was lost

        return read_back(self.kernel)

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
            if self._repair.is_due(removing=removing):
                try:
                    self._repair.resync()
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

    def _collect(self, is_gone: Callable[[Kernel, Attachment], bool]) -> list[Attachment]:
        """Remove attachments of containers that are gone, with their leases. Raises an ``ExceptionGroup``."""
        errors: list[Exception] = []
        with self._settled(removing=True):
            found = [one for one in self.mirror.attachments() if is_gone(self.kernel, one)]
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
        if self.store.recovery.is_rebuilt(request.key):
            if self._repair.is_due():
                self._repair.resync()
            # What the kernel could not tell of it, the request does.
            yield from self._differences(self._changes.of(request.key, self._claims.attachment(request)).after)
            return
        if stored is None:
            yield f"attachment {request.key} is not known here: it was removed, or never added"
            return
        asked = request.options
        if not stored.request.mac or (stored.options.guard, asked.guard) == (GuardPolicy.MAC, GuardPolicy.FULL):
            # Of an earlier version, which guarded nobody, or nothing but a MAC: what a running container may send is
            # left as it is.
            asked = replace(asked, guard=stored.options.guard)
        if stored.request.mappings != request.mappings or stored.options != asked:
            yield f"attachment {request.key} was added with other settings than these"
        # Plugins that come later in the chain may have added some.
        if not set(stored.request.addresses) <= set(request.addresses):
            yield f"attachment {request.key} was added with other addresses than prevResult's"
        yield from self._differences(self._changes.of(request.key, None).before)

    def _differences(self, wanted: Desired) -> Iterator[str]:
        return differences(self.kernel, wanted, self._skeleton.chains())


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
