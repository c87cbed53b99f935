"""What the kernel holds of what is wanted, and in which words to say what it lacks.

    observed = observe(kernel, wanted)            questions to the doors; of the wanted parts only
    complaints(wanted, observed)                  -> (part, sentence) for all that is not as wanted; pure
    there(wanted, observed)                       -> the wanted state as far as it is there; pure

From ``there`` to what is wanted ``planner.plan`` has the steps: repair is the same function as ADD. Our own tables are
compared elsewhere (``control.repair.tables``), because they are too large to be read for each question.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from control.desired import ruleset
from control.desired.hooks import PORT_MAPS, is_as_good
from control.desired.planner import Desired, PortUse
from control.model import ForeignChain
from control.repair.reconciler import Part
from dataplane.doors import Kernel, PortFlags
from dataplane.errors import LinkError
from dataplane.types import IfIndex, Program

_EVERYTHING = frozenset(Part)
_BY_PROGRAMS = frozenset({Part.PROGRAMS, Part.VETHS})
_UNTOUCHED = PortUse(PortFlags(), PortFlags())


@dataclass(frozen=True, slots=True)
class Observed:
    """What was found of what is wanted; a part that was not asked about is empty."""

    loaded: bool = True
    """Whether the programs of today's source are pinned."""
    hooked: frozenset[tuple[Program, IfIndex]] = frozenset()
    """In any version."""
    current: frozenset[tuple[Program, IfIndex]] = frozenset()
    """In today's version, once."""
    entries: Mapping[tuple[str, bytes], bytes] = field(default_factory=dict)
    localhost: frozenset[Program] = frozenset()
    """On the root of the cgroups, in any version."""
    current_localhost: frozenset[Program] = frozenset()
    """In today's version, once."""
    names: Mapping[IfIndex, str] = field(default_factory=dict)
    """Of devices that lack a program, for people; of a few."""
    sysctls: Mapping[str, str | None] = field(default_factory=dict)
    ports: Mapping[IfIndex, PortFlags | None] = field(default_factory=dict)
    """None: no bridge port."""
    accepts: Mapping[tuple[ForeignChain, IfIndex], int | None] = field(default_factory=dict)
    """How many of our rules a foreign chain holds; None: there is no such chain."""


def observe(kernel: Kernel, wanted: Desired, parts: Collection[Part] = _EVERYTHING) -> Observed:
    """Ask the kernel. Raises a ``DataplaneError`` where it cannot be asked."""
    observed = Observed()
    if _BY_PROGRAMS & set(parts) and (wanted.hooks or wanted.entries or wanted.localhost):
        observed = _programs(kernel, wanted)
    if Part.SYSCTLS in parts:
        names = (*wanted.host_sysctls, *wanted.device_sysctls)
        observed = replace(observed, sysctls={name: kernel.sysctls.read(name) for name in names})
    if Part.LINKS in parts:
        asked = (port for port, use in wanted.ports.items() if use.needs != PortFlags())
        observed = replace(observed, ports={port: _flags(kernel, port) for port in asked})
    if Part.FOREIGN in parts:
        found = {(chain, device): _accepts(kernel, chain, device) for chain, device in wanted.accepts}
        observed = replace(observed, accepts=found)
    return observed


def complaints(
    wanted: Desired, observed: Observed, parts: Collection[Part] = _EVERYTHING
) -> Iterator[tuple[Part, str]]:
    """What is not as it is wanted, a sentence each, with the part that it is about."""
    if _BY_PROGRAMS & set(parts):
        yield from (about for about in _about_programs(wanted, observed) if about[0] in parts)
    if Part.SYSCTLS in parts:
        for name, value in {**wanted.host_sysctls, **wanted.device_sysctls}.items():
            if (found := observed.sysctls.get(name)) != value:
                yield Part.SYSCTLS, f"sysctl {name} is {found}, not {value}"
    if Part.LINKS in parts:
        for port, use in wanted.ports.items():
            if use.needs != PortFlags():
                yield from ((Part.LINKS, text) for text in _about_port(port, use.needs, observed.ports.get(port)))
    if Part.FOREIGN in parts:
        for chain, device in sorted(wanted.accepts, key=str):
            found_rules, needed = observed.accepts.get((chain, device)), len(ruleset.accept_rules(device))
            if found_rules != needed and not (found_rules is None and chain.optional):
                yield Part.FOREIGN, f"chain {chain} has {found_rules or 0} of the {needed} accepts that it needs"


def there(wanted: Desired, observed: Observed, parts: Collection[Part] = _EVERYTHING) -> Desired:
    """What is wanted, without what the kernel lacks of it in these parts."""
    found = wanted
    if _BY_PROGRAMS & set(parts):
        held = {
            entry: wanted.entries[entry] if is_as_good(entry, value, wanted.entries[entry]) else value
            for entry, value in observed.entries.items()
            if entry in wanted.entries
        }
        leading = wanted.localhost & observed.current_localhost
        found = replace(found, hooks=wanted.hooks & observed.current, entries=held, localhost=leading)
    if Part.SYSCTLS in parts:
        found = replace(
            found,
            host_sysctls=_as_found(wanted.host_sysctls, observed),
            device_sysctls=_as_found(wanted.device_sysctls, observed),
        )
    if Part.LINKS in parts:
        found = replace(found, ports={port: _use_as_found(port, use, observed) for port, use in wanted.ports.items()})
    if Part.FOREIGN in parts:
        whole = (pair for pair in wanted.accepts if observed.accepts.get(pair) == len(ruleset.accept_rules(pair[1])))
        # A chain that is gone gets no rules; its network is told of it, and nobody else waits.
        gone = (pair for pair in wanted.accepts if observed.accepts.get(pair) is None)
        found = replace(found, accepts=frozenset((*whole, *gone)))
    return found


def port_complaints(kernel: Kernel, port: IfIndex, needs: PortFlags) -> Iterator[str]:
    """What one bridge port lacks."""
    return _about_port(port, needs, _flags(kernel, port))


def _programs(kernel: Kernel, wanted: Desired) -> Observed:
    programs = kernel.programs
    loaded = programs.loaded()
    devices = sorted({device for _, device in wanted.hooks})
    current = {(program, device) for device in devices for program in programs.current(device)} if loaded else set()
    # What else is there is asked of those alone that lack something: there may be thousands.
    lacking = sorted({device for _, device in wanted.hooks - current})
    hooked = current | {(one.program, device) for device in lacking for one in programs.hooked(device)}
    maps = sorted({name for name, _ in wanted.entries}) if loaded else []
    entries: dict[tuple[str, bytes], bytes] = {}
    for name in maps:
        mine = [key for held, key in wanted.entries if held == name]
        if len(mine) > _FEW:
            entries |= {(name, key): value for key, value in programs.entries(name)}
        else:
            values = ((key, programs.get(name, key)) for key in mine)
            entries |= {(name, key): value for key, value in values if value is not None}
    links = (kernel.links.get(device) for device in (lacking if len(lacking) <= _FEW else ()))
    names = {link.index: link.name for link in links if link is not None}
    found = Observed(loaded, frozenset(hooked), frozenset(current), entries, names=names)
    if not wanted.localhost:
        return found
    localhost = programs.current_localhost() if loaded else frozenset[Program]()
    there = localhost if localhost >= wanted.localhost else programs.localhost()
    return replace(found, localhost=there, current_localhost=localhost)


_FEW = 64
"""Entries that are asked for one by one; more are read with their whole map. And devices whose names are asked for."""


def _about_programs(wanted: Desired, observed: Observed) -> Iterator[tuple[Part, str]]:
    for program, device in sorted(wanted.hooks):
        part = Part.VETHS if program.of_port else Part.PROGRAMS
        name = f"device {device} ({observed.names[device]})" if device in observed.names else f"device {device}"
        if (program, device) not in observed.hooked:
            yield part, f"program {program} is not attached to {name}"
        elif observed.loaded and (program, device) not in observed.current:
            yield part, f"program {program} on {name} is there twice, not pinned, or of another version"
    if wanted.localhost:
        yield from ((Part.PROGRAMS, text) for text in _about_localhost(wanted, observed))
    if not (wanted.entries or wanted.localhost):
        return
    if not observed.loaded:
        yield Part.PROGRAMS, "the BPF programs are not loaded: their pins are gone, or of another version"
        return
    held = observed.entries
    # Of a hundred thousand, at once; then one by one the few that differ.
    differing = [(entry, value) for entry, value in wanted.entries.items() if held.get(entry) != value]
    for (map_name, key), value in differing:
        entry = held.get((map_name, key))
        if not is_as_good((map_name, key), entry, value):
            part = Part.VETHS if map_name in PORT_MAPS else Part.PROGRAMS
            yield part, f"BPF map {map_name}: entry {key.hex()} is {'wiped' if entry is None else 'altered'}"


def _about_localhost(wanted: Desired, observed: Observed) -> Iterator[str]:
    for program in sorted(wanted.localhost):
        if program not in observed.localhost:
            yield f"program {program} is not attached to the root of the cgroups"
        elif observed.loaded and program not in observed.current_localhost:
            yield f"program {program} on the root of the cgroups is there twice, not pinned, or of another version"


def _about_port(port: IfIndex, needs: PortFlags, found: PortFlags | None) -> Iterator[str]:
    if found is None:
        yield f"link {port} is no bridge port any more"
        return
    for name in ("hairpin", "isolated"):
        if getattr(needs, name) and not getattr(found, name):
            yield f"bridge port {port} is not {name}"


def _flags(kernel: Kernel, port: IfIndex) -> PortFlags | None:
    try:
        return kernel.links.port_flags(port)
    except LinkError:
        return None


def _accepts(kernel: Kernel, chain: ForeignChain, device: IfIndex) -> int | None:
    where = ruleset.chain_ref(chain)
    found = len(kernel.nft.rule_handles(where, ruleset.accept_owner(device)))
    return found if found or kernel.nft.has_chain(where) else None


def _as_found(wanted: Mapping[str, str], observed: Observed) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if observed.sysctls.get(name) == value}


def _use_as_found(port: IfIndex, use: PortUse, observed: Observed) -> PortUse:
    found = observed.ports.get(port)
    if found is None or not any(_about_port(port, use.needs, found)):
        return use  # nothing is missing; or the port is gone, and nothing can be set
    return replace(_UNTOUCHED, former=use.former)
