"""The whole state against the whole kernel: what differs, and making the kernel what the state says.

    repair.is_due()       whether kernel and state are known to differ: a change was interrupted, chains were altered
    repair.resync()       they agree again, whatever is there
    repair.looks(parts)   a look at each of these parts, which changes only what is wrong about it
    repair.problems()     what a sync would find, a sentence each

A single request compares and changes only what it touches (``control.changes``); this is for everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from control.desired import hooks, planner, zones
from control.desired.hooks import HostWide, NetworkFacts, Use, port_of, use_of
from control.desired.planner import Desired
from control.model import Attachment
from control.repair.observation import Observed, complaints, observe, there
from control.repair.reconciler import EVERYTHING, Outcome, Part
from control.repair.skeleton import Skeleton
from control.repair.tables import Tables
from control.state.database import Version
from control.state.mirror import Mirror
from control.state.store import Store
from dataplane.abi import U32
from dataplane.apply import apply_all
from dataplane.doors import FlowFilter, Kernel
from dataplane.errors import DataplaneError, FirewalldError, ForeignChainError, LinkError
from dataplane.nft.objects import Table
from dataplane.steps import DetachLocalhost, DetachProgram, DropEntry, PutEntry, RunNft, SetSysctl, Step, TrustSource
from dataplane.types import NETWORK_PROGRAMS, PORT_PROGRAMS, Address, IfIndex

_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_NETWORK_MAPS = ("networks", "origins", "published", "containers", "ports", "port_addresses", "fill_ports")
INTERRUPTED = "a change was interrupted"
LOCALHOST_FACT, _FIRST_MEANS = "localhost", "nft"
"""By which means the kernel was last set up to serve localhost; states of earlier versions do not tell."""
_FEW_LINKS = 64
"""Links that are asked for one by one; more are listed with all others."""
_IN_TURN = 16
"""Host veths that are looked at in turn, each time that it is merely time to look."""
_PROGRAMS_OF = {"networks": NETWORK_PROGRAMS, "ports": PORT_PROGRAMS}
"""What is hooked to the devices that these maps know."""


_Looked = tuple[tuple[str, ...], tuple[str, ...]]
"""What was wrong, and what is wrong still."""


class Repair:
    """See the module. The caller holds the state's lock."""

    def __init__(self, kernel: Kernel, store: Store, skeleton: Skeleton, mirror: Mirror, host: HostWide) -> None:
        self._kernel, self._store, self._skeleton, self._mirror, self._host = kernel, store, skeleton, mirror, host
        self._tables = Tables(kernel.nft, store, skeleton, mirror, host.variant, self._put_sysctls_back)
        self._told_addresses: tuple[Address, ...] | None = None
        self._maps_due: frozenset[str] = frozenset()
        """The maps about containers at all entries of which the next look at the programs is, and not only at those of
        devices."""
        self._uses: tuple[Version, tuple[Use, ...], dict[str, NetworkFacts]] | None = None
        self._looked_at = IfIndex(0)
        """The last host veth that was looked at in turn."""

    def nothing(self) -> Desired:
        """What no attachment asks for."""
        return planner.desired((), (), {}, self._host)

    def everything(self, besides: Iterable[Attachment] = (), *, living: bool = True) -> Desired:
        """What the whole state, and attachments besides, ask of the kernel; but for elements, which the mirror has.

        Of devices that are gone only elements and their maps, which are deleted with their attachment; unless all is
        asked for (``living=False``), to take it away.
        """
        besides = tuple(besides)
        attachments = (*self._mirror.attachments(), *besides)
        uses = {*self._known_uses()[1], *map(use_of, besides)}
        links = (*(use.device for use in uses), *map(port_of, attachments))
        gone = self._gone(links) if living else frozenset()
        facts = self._store.facts({use.network for use in uses})
        return planner.around_elements(attachments, uses, facts, self._host, gone)

    def own(self) -> bool:
        """Let nobody else change our main table; False where that cannot be had. Raises ``DataplaneError``."""
        owned = self._tables.own()
        if owned and Table.MAIN in self._kernel.nft.tables():
            # The kernel gives no owner to a table that was made without.
            self._tables.replace()
        return owned

    def is_due(self, *, removing: bool = False) -> bool:
        """Whether a change was interrupted, the programs are another version's or lost, or chains and rules of our
        table are not as written, or localhost is served otherwise; the last two are nothing that ``removing`` needs."""
        if self._store.interrupted() or not (removing or (self._skeleton.intact() and not self._otherwise_served())):
            return True
        return not self._kernel.programs.loaded() and self._needs_programs()

    def remove_former(self) -> bool:
        """Remove what only earlier versions made; whether there was anything. Raises ``NftError``."""
        return self._tables.remove_former()

    def resync(self) -> None:
        """Make the kernel what the state says, whatever is there. Due until it has succeeded."""
        self._store.begin(())
        self._told_addresses = None
        everything = self.everything()
        if everything.entries or everything.hooks or everything.localhost:
            self._kernel.programs.load()  # it may be due for something else, and the pins be gone as well
        left = self.everything(self._store.touched(), living=False)
        self._tables.replace()
        self._remember_sysctls(everything)
        former = self._store.former_sysctls()
        # First away with what an interrupted change may have left, then all that should be there once more.
        away = planner.plan(left, everything, self._host.variant, former=former)
        again = planner.plan(self.nothing(), everything, self._host.variant)
        steps = [step for step in (*away, *again) if not isinstance(step, RunNft)]
        flows = planner.flush_flows(self.flow_filters(self._store.touched()))
        self._run([*self._surplus(everything), *steps, *self.host_addresses(everything), *flows])
        self._store.forget_sysctls(left.device_sysctls.keys() - everything.device_sysctls.keys())
        self._store.keep_fact(LOCALHOST_FACT, self._host.localhost)
        self.remove_former()
        self._store.settle()

    def looks(
        self, parts: Collection[Part], veths: frozenset[IfIndex] | None = None
    ) -> Iterator[tuple[Part, Callable[[], Outcome]]]:
        """A look at each of these parts of the kernel, to be called in this order: it changes what is wrong about its
        part, and nothing else; some parts take several. Requests may come between two of them.

        ``veths``: which of the containers' host veths to look at. None is all, and an empty set the next few in turn.
        """
        if frozenset(parts) >= EVERYTHING:
            self._maps_due = hooks.CONTAINER_MAPS
        for part, look in self._looks(veths).items():
            if part in parts:
                yield part, partial(_outcome, part, look)
            if part is Part.PROGRAMS and part in parts:
                for name in sorted(self._maps_due):
                    yield part, partial(_outcome, part, partial(self._sync_map, name))

    def problems(self) -> Iterator[str]:
        """What the kernel lacks of all that the attachments ask for, and what it has besides; a sentence each."""
        if self._store.interrupted():
            yield INTERRUPTED
        if otherwise := self._otherwise_served():
            yield f"{otherwise}; restart the agent where one runs"
        everything = self.everything()
        yield from self._tables.compare().texts
        if any(self._mirror.attachments()):
            yield from (text for _, text in complaints(everything, observe(self._kernel, everything)))
            yield from zones.differences(self._kernel.firewalld, everything.sources)
        for step in self._surplus(everything):
            if isinstance(step, DropEntry):
                yield f"BPF map {step.map_name}: no attachment asks for entry {step.key.hex()}"
            elif isinstance(step, DetachLocalhost):
                yield "programs on the root of the cgroups lead to published ports, and the settings say otherwise"

    def _put_sysctls_back(self) -> None:
        """What nobody wants any more, such as route_localnet once localhost is served by other means, before the table
        goes that kept others from using it. Raises ``DataplaneError``."""
        former = self._store.former_sysctls()
        if stale := former.keys() - self.of_devices().device_sysctls.keys():
            self._run(SetSysctl(name, former[name], optional=True) for name in sorted(stale))
            self._store.forget_sysctls(stale)

    def _remember_sysctls(self, wanted: Desired) -> None:
        """Keep what device sysctls are before they are set, where nobody has yet."""
        known = self._store.former_sysctls(wanted.device_sysctls)
        for name, value in wanted.device_sysctls.items():
            found = None if name in known else self._kernel.sysctls.read(name)
            if found is not None and found != value:
                self._store.remember_sysctl(name, found)

    def host_addresses(self, wanted: Desired) -> list[Step]:
        """Tell the checksum program the host's addresses, if there is anything to be proved against them."""
        if not hooks.needs_host_addresses(wanted.hooks):
            return []
        addresses = self._kernel.links.host_addresses()
        if addresses == self._told_addresses:
            return []
        self._kernel.programs.open()
        held = dict(self._kernel.programs.entries("host_addresses"))
        entries = hooks.host_address_entries(addresses)
        steps: list[Step] = [
            PutEntry("host_addresses", key, value) for key, value in entries.items() if held.get(key) != value
        ]
        steps += [DropEntry("host_addresses", key) for key in held.keys() - entries.keys()]
        if not steps:
            self._told_addresses = addresses
        return steps

    def flow_filters(self, touched: Iterable[Attachment]) -> tuple[FlowFilter, ...]:
        """Which flows go elsewhere when these attachments come, change or leave, or may have gone astray meanwhile."""
        touched = tuple(touched)
        if not planner.flow_filters(touched, _LOOPBACK):
            return ()
        return planner.flow_filters(touched, (*_LOOPBACK, *self._kernel.links.host_addresses()))

    # -- the parts ----------------------------------------------------------------------------------------------------

    def _looks(self, veths: frozenset[IfIndex] | None) -> dict[Part, Callable[[], _Looked]]:
        """What each part is looked at and repaired by, in the order in which nothing is open meanwhile: what was wrong,
        and what is wrong still."""
        return {
            Part.STATE: self._sync_state,
            Part.PROGRAMS: self._sync_programs,
            Part.VETHS: lambda: self._sync_veths(veths),
            Part.LINKS: lambda: self._sync_by_steps(Part.LINKS, self._of_ports),
            Part.TABLES: self._sync_tables,
            Part.SYSCTLS: lambda: self._sync_by_steps(Part.SYSCTLS, self.of_devices),
            Part.FOREIGN: self._sync_foreign,
            Part.ADDRESSES: self._sync_addresses,
        }

    def _sync_state(self) -> _Looked:
        otherwise = self._otherwise_served()
        if not (self._store.interrupted() or otherwise):
            return (), ()
        self.resync()
        return (otherwise or INTERRUPTED,), ()

    def _otherwise_served(self) -> str:
        """What is wrong where the kernel was set up to serve localhost by other means; nothing where nobody is."""
        found, wanted = self._store.fact(LOCALHOST_FACT) or _FIRST_MEANS, self._host.localhost
        if found == wanted or not any(self._store.attachments()):
            return ""
        return f"published ports answer on localhost by other means ({found}) than they are to ({wanted})"

    def _sync_tables(self) -> _Looked:
        lack = self._tables.compare()
        self._tables.repair(lack)
        if lack.skeleton or lack.missing:
            # Conntrack decides with a flow's first packet: one that came meanwhile went to the host itself, or left
            # with its container's address.
            attachments = self._mirror.attachments()
            filters = tuple(replace(one, astray=True) for one in self.flow_filters(attachments))
            self._run(planner.flush_flows(filters, planner.masqueraded(attachments)))
        return lack.texts, ()

    def load_lost(self) -> tuple[str, ...]:
        """Have programs, where attachments need them, whose maps hold everything, also where their pins are gone; what
        was wrong."""
        if not self._needs_programs() or self._kernel.programs.loaded():
            return ()
        # New maps are empty: they get everything, before a program that reads them runs. Until they have, nothing that
        # changes a part of them will do, whoever serves the next request.
        wanted, self._told_addresses, self._maps_due = self.everything(), None, hooks.CONTAINER_MAPS
        note = self._store.begin(())
        self._kernel.programs.load()
        self._put_right(Part.PROGRAMS, wanted, observe(self._kernel, wanted, {Part.PROGRAMS}))
        self._run(self.host_addresses(wanted))
        self._store.end(note)
        self._maps_due = frozenset()
        return ("the BPF programs are not loaded: their pins are gone, or of another version",)

    def _sync_programs(self) -> _Looked:
        if not self._needs_programs():
            return (), ()
        if lost := self.load_lost():
            return lost, ()
        outcome = self._sync_by_steps(Part.PROGRAMS, self.of_devices)
        if any(outcome):
            # Where something was taken away, more may have been.
            self._maps_due = hooks.CONTAINER_MAPS
        return outcome

    def _sync_map(self, name: str) -> _Looked:
        """Look at all entries of one of the maps about containers, unless that has been done."""
        if name not in self._maps_due or not self._needs_programs():
            return (), ()
        outcome = self._sync_by_steps(Part.PROGRAMS, lambda: self._of_map(name))
        self._maps_due -= {name}
        return outcome

    def _sync_veths(self, veths: frozenset[IfIndex] | None) -> _Looked:
        if lost := self.load_lost():
            return lost, ()
        if veths is None:
            outcome = self._sync_by_steps(Part.VETHS, lambda: self._of_veths(self._mirror.veths()))
            self.remove_former()
            return outcome
        chosen = veths or self._next_veths()
        return self._sync_by_steps(Part.VETHS, lambda: self._of_veths(chosen))

    def _sync_foreign(self) -> _Looked:
        found, left = self._sync_by_steps(Part.FOREIGN, self.of_devices)
        sources = planner.sources(self._mirror.attachments())
        if not sources:
            return found, left
        lost = tuple(zones.differences(self._kernel.firewalld, sources))
        if lost:
            self._run([TrustSource(*source) for source in sorted(sources, key=str)])
        return (*found, *lost), left

    def _sync_addresses(self) -> _Looked:
        watched = hooks.needs_host_addresses(self.of_devices().hooks)
        # Most news are of link-local addresses, one for each new veth.
        if watched and self._kernel.links.host_addresses() != self._told_addresses:
            lost = self.load_lost()
            self._run(self.host_addresses(self.of_devices()))
            return lost, ()
        return (), ()

    def _sync_by_steps(self, part: Part, ask: Callable[[], Desired]) -> _Looked:
        wanted = ask()
        observed = observe(self._kernel, wanted, {part})
        if not observed.loaded:
            return self.load_lost(), ()  # the pins went just now, and what is wanted here is a part
        found = tuple(text for _, text in complaints(wanted, observed, {part}))
        if not found:
            return (), ()
        self._put_right(part, wanted, observed)
        wanted = ask()  # containers go while their links are looked at
        left = tuple(text for _, text in complaints(wanted, observe(self._kernel, wanted, {part}), {part}))
        return tuple(text for text in found if text not in left), left

    def _put_right(self, part: Part, wanted: Desired, observed: Observed) -> None:
        self._run(planner.plan(there(wanted, observed, {part}), wanted, self._host.variant))

    def _run(self, steps: Iterable[Step]) -> None:
        errors = apply_all(steps, self._kernel)
        # A foreign chain, a bridge port or a zone that is gone is one network's trouble, which CHECK and status tell,
        # and nobody else's.
        serious = [error for error in errors if not isinstance(error, ForeignChainError | LinkError | FirewalldError)]
        if serious:
            raise serious[0]

    def of_devices(self) -> Desired:
        """What the devices of all attachments ask for: programs, sysctls, accepts. Quick, however many there are."""
        _, uses, facts = self._known_uses()
        return planner.desired((), uses, facts, self._host, gone=self._gone(use.device for use in uses))

    def _known_uses(self) -> tuple[Version, tuple[Use, ...], dict[str, NetworkFacts]]:
        version = self._store.version
        if self._uses is None or self._uses[0] != version:
            uses = self._store.all_uses()
            self._uses = (version, uses, self._store.facts({use.network for use in uses}))
        return self._uses

    def _needs_programs(self) -> bool:
        """Whether any attachment needs a program. Quick, however many there are."""
        _, uses, facts = self._known_uses()
        return hooks.needs_programs(uses, facts) or bool(hooks.localhost_programs(uses, self._host))

    def _of_map(self, name: str) -> Desired:
        """What the whole state asks of one of the maps about containers."""
        _, _, facts = self._known_uses()
        return planner.of_map(name, self._mirror.attachments(), facts, self._host)

    def _of_veths(self, veths: Collection[IfIndex]) -> Desired:
        """What attachments ask of these host veths, as far as they are there."""
        _, _, facts = self._known_uses()
        living = frozenset(veths) - self._gone(veths)
        return planner.of_veths(self._mirror.behind(living), facts, living)

    def _next_veths(self) -> frozenset[IfIndex]:
        """The next few host veths, from the lowest again after the highest."""
        every = sorted(self._mirror.veths())
        turn = ([veth for veth in every if veth > self._looked_at] or every)[:_IN_TURN]
        self._looked_at = turn[-1] if turn else IfIndex(0)
        return frozenset(turn)

    def _of_ports(self) -> Desired:
        """What all attachments ask of their bridge ports."""
        attachments = self._mirror.attachments()
        return planner.of_ports(attachments, self._gone(one.device.index for one in attachments))

    def _gone(self, devices: Iterable[IfIndex]) -> frozenset[IfIndex]:
        asked = {device for device in devices if device}
        if len(asked) > _FEW_LINKS:
            return frozenset(asked - {link.index for link in self._kernel.links.all_links()})
        return frozenset(device for device in asked if self._kernel.links.get(device) is None)

    def _surplus(self, everything: Desired) -> Iterator[Step]:
        loaded = self._kernel.programs.loaded()
        # A host on which there never were any may not even let us ask.
        led = loaded or self._store.fact(LOCALHOST_FACT) == "cgroups"
        if led and not self._host.cookie and self._kernel.programs.localhost():
            yield DetachLocalhost()
        if not loaded:
            return
        ports = self._kernel.programs.entries("ports")
        manual_ports = {key for key, value in ports if hooks.is_manual("ports", value)}
        for map_name in _NETWORK_MAPS:
            for key, value in self._kernel.programs.entries(map_name):
                if (map_name, key) in everything.entries:
                    continue
                if hooks.is_manual(map_name, value) or hooks.is_of_manual(map_name, key, manual_ports):
                    continue
                if map_name in _PROGRAMS_OF:
                    device = IfIndex(U32.unpack(key)[0])
                    yield from (DetachProgram(program, device) for program in _PROGRAMS_OF[map_name])
                yield DropEntry(map_name, key)


def _outcome(part: Part, look: Callable[[], _Looked]) -> Outcome:
    """What a look at one part came to."""
    try:
        wrong, still = look()
    except DataplaneError as error:
        return Outcome(failed={part: str(error)})
    return Outcome({part: wrong} if wrong else {}, still)
