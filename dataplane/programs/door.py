"""``KernelPrograms``: the door to our BPF programs and their maps on the running kernel.

Be aware: one generation is kept open, and used until ``loaded`` or ``load`` finds it pinned no more; whoever asks for
what is pinned now, also after somebody mounted a fresh bpffs, asks that first. A door belongs to one thread, and to
its network namespace.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from dataplane import abi
from dataplane.doors import Hooked, MapSize
from dataplane.errors import BpfError
from dataplane.programs import loading, ringbuf, syscall
from dataplane.programs.attach import Hooks
from dataplane.programs.cgroups import CgroupHooks, netns_cookie, root_if_any
from dataplane.programs.generation import Generation, opened
from dataplane.types import LOCALHOST_PROGRAMS, AttachMode, IfIndex, Program

_CGROUPS = IfIndex(0)
"""In the place of a device: the root of the cgroups."""


class KernelPrograms:
    """``dataplane.doors.Programs`` on the running kernel."""

    def __init__(self, mode: AttachMode = AttachMode.AUTO) -> None:
        self._hooks = Hooks(mode, loading.LINKS)
        self._cgroup = CgroupHooks(loading.LINKS)
        self._open: Generation | None = None
        self._held: dict[IfIndex, dict[int, syscall.Fd]] = {}
        """Links by their ids, by the devices that they are held on."""

    @cached_property
    def digest(self) -> str:
        """Of the sources that this process came with."""
        return loading.digest()

    @property
    def directory(self) -> Path:
        """Where programs and maps of this digest are pinned."""
        return loading.BASE / self.digest

    def load(self) -> None:
        """Have what is pinned open; compile and pin the programs of this source where they are not. Raises
        ``BpfError`` or ``MissingDependencyError``."""
        if self.loaded():
            return
        if loading.load(self.digest):
            self._hooks.sweep()
        if not self.loaded():
            raise self._not_pinned()

    def open(self) -> None:
        """Have programs to use: those that are open, though their pins be gone; only where none are, ``load``."""
        if self._open is None:
            self.load()

    def loaded(self) -> bool:
        """Whether programs of this source are pinned. From now on these are used, whatever was before."""
        if self._open is None or not self._open.is_pinned(self.digest):
            self._open = opened(self.digest)
        return self._open is not None

    def unload(self) -> list[str]:
        """Unhook our programs everywhere in this namespace and remove all pins; what was removed, a line each."""
        removed = []
        for number, name in socket.if_nameindex():
            for hooked in self.hooked(IfIndex(number)):
                self.detach(hooked.program, hooked.ifindex)
                removed.append(f"program {hooked.program} on device {name}")
        led = self.detach_localhost(LOCALHOST_PROGRAMS)
        removed += [f"program {program} on the root of the cgroups" for program in sorted(led)]
        self._open = None
        return removed + [f"pins in {directory}" for directory in loading.unload()]

    def prune(self) -> list[str]:
        """Unpin programs and maps of other versions that run nowhere in this namespace; which directories went."""
        hooked = (one.program_id for number, _ in socket.if_nameindex() for one in self.hooked(IfIndex(number)))
        return loading.prune(self.digest, {*hooked, *(link.program_id for link in self._cgroup.pinned())})

    def attach(self, program: Program, ifindex: IfIndex) -> bool:
        """Hook a program to a device; one that is hooked is brought up to date. Whether it was not hooked before.
        Raises ``BpfError``."""
        new = self._hooks.attach(program, self._used()[program.function], ifindex)
        if ifindex in self._held:
            self._hold(ifindex, self._hooks.links_of(ifindex))
        return new

    def detach(self, program: Program, ifindex: IfIndex) -> bool:
        """Unhook ours from a device; whether it was hooked. No such device is not an error."""
        was_hooked = self._hooks.detach(program, ifindex)
        if self._held.get(ifindex):
            self._hold(ifindex, self._hooks.links_of(ifindex))
        return was_hooked

    def hooked(self, ifindex: IfIndex) -> tuple[Hooked, ...]:
        """Our programs on one device, also those whose pins are gone."""
        return self._hooks.hooked(ifindex)

    def current(self, ifindex: IfIndex) -> frozenset[Program]:
        """Our programs on one device that are there once, are those in use, and are pinned where they belong: those
        that ``attach`` would not change."""
        copies: defaultdict[Program, list[Hooked]] = defaultdict(list)
        for one in self.hooked(ifindex):
            copies[one.program].append(one)
        return frozenset(
            program
            for program, same in copies.items()
            if self._hooks.is_current(same, self._used().program_id(program.function))
        )

    def hold(self, devices: Collection[IfIndex], veths: Collection[IfIndex] = ()) -> None:
        """Keep what is hooked to these devices, and to the cgroups' root, there for as long as this process lives, also
        when its pins are removed; and let go of what is not hooked to any of them. ``veths``, of which there may be
        thousands, are asked once each: what this door hooks to them later is held, too."""
        wanted = {*devices, *veths}
        for gone in self._held.keys() - wanted - {_CGROUPS}:
            for link in self._held.pop(gone).values():
                link.close()
        for device in {*devices, *(wanted - self._held.keys())}:
            self._hold(device, self._hooks.links_of(device))
        self._hold(_CGROUPS, {link.id for link in self._cgroup.pinned()})

    def _hold(self, device: IfIndex, hooked: AbstractSet[int]) -> None:
        held = self._held.setdefault(device, {})
        for gone in held.keys() - hooked:
            held.pop(gone).close()
        for number in hooked - held.keys():
            with suppress(BpfError):  # detached since it was listed
                held[number] = syscall.link_by_id(number)

    def localhost_cookie(self) -> int:
        """The number by which programs on the cgroups' root know processes of this network namespace. Changes nothing.
        Raises ``BpfError`` where programs cannot be attached there, with the reason."""
        self._cgroup.require()
        if not self.loaded():
            loading.require_compiler()
        return netns_cookie()

    def attach_localhost(self, programs: Collection[Program]) -> None:
        """Have these programs on the cgroups' root, once each, and up to date. Raises ``BpfError``."""
        # Those that tell who answers come first: no process ever sees an address that it did not ask.
        with root_if_any() as root:
            for program in sorted(programs, key=LOCALHOST_PROGRAMS.index, reverse=True):
                self._cgroup.attach(program, self._used()[program.function], root)

    def detach_localhost(self, programs: Collection[Program]) -> frozenset[Program]:
        """Take ours of these off the cgroups' root; which were there."""
        with root_if_any() as root:
            return frozenset(
                program for program in LOCALHOST_PROGRAMS if program in programs and self._cgroup.detach(program, root)
            )

    def localhost(self) -> frozenset[Program]:
        """Our programs on the cgroups' root that serve this network namespace, in any version."""
        with root_if_any() as root:
            return frozenset(program for program in LOCALHOST_PROGRAMS if self._cgroup.copies(program, root))

    def current_localhost(self, programs: Collection[Program] = LOCALHOST_PROGRAMS) -> frozenset[Program]:
        """Those of these that ``attach_localhost`` would not change."""
        used = self._used()
        with root_if_any() as root:
            return frozenset(
                program
                for program in programs
                if self._cgroup.is_current(program, used.program_id(program.function), root)
            )

    def put(self, map_name: str, key: bytes, value: bytes) -> None:
        """Write one map entry. Raises ``BpfError``."""
        used = self._used()
        syscall.map_update(used[map_name], used.described(map_name), key, value)

    def create(self, map_name: str, key: bytes, value: bytes) -> bool:
        """Write one map entry unless there is one with this key, as always in an array; whether it was written. Raises
        ``BpfError``."""
        used = self._used()
        return syscall.map_create_entry(used[map_name], used.described(map_name), key, value)

    def drop(self, map_name: str, key: bytes) -> None:
        """Remove one map entry; missing is not an error."""
        used = self._used()
        syscall.map_delete(used[map_name], used.described(map_name), key)

    def get(self, map_name: str, key: bytes) -> bytes | None:
        """One map entry, or None. Per-CPU values come summed as 64-bit counters."""
        used = self._used()
        info = used.described(map_name)
        value = syscall.map_lookup(used[map_name], info, key)
        return _summed(value, info.value_size) if value is not None and info.per_cpu else value

    def entries(self, map_name: str) -> Iterator[tuple[bytes, bytes]]:
        """All entries of a map. Per-CPU values come summed as 64-bit counters."""
        used = self._used()
        info = used.described(map_name)
        entries = syscall.map_entries(used[map_name], info)
        if not info.per_cpu:
            yield from entries
            return
        for key, value in entries:
            yield key, _summed(value, info.value_size)

    def size(self, map_name: str) -> MapSize:
        """How many entries a map holds, and can hold. Raises ``BpfError``."""
        used = self._used()
        info = used.described(map_name)
        return MapSize(sum(1 for _ in syscall.map_entries(used[map_name], info)), info.max_entries)

    def events(self) -> ringbuf.EventReader:
        """A reader of the programs' events. Raises ``BpfError``, ``MissingDependencyError``."""
        return ringbuf.open_events(self._used()["events"])

    def events_lost(self) -> int:
        """How many events found the ring full since the programs were loaded."""
        lost = self.get("events_lost", abi.U32.pack(0))
        return int(abi.U64.unpack(lost)[0]) if lost else 0

    def program(self, program: Program) -> syscall.ProgramInfo:
        """What the kernel says about a program. Raises ``BpfError``."""
        return syscall.program_info(self._used()[program.function])

    def map(self, map_name: str) -> syscall.MapInfo:
        """What the kernel says about a map. Raises ``BpfError``."""
        return self._used().described(map_name)

    def _used(self) -> Generation:
        """What is open; where nothing is, what is pinned. Raises ``BpfError`` (``ENOENT``)."""
        if self._open is None:
            self._open = opened(self.digest)
        if self._open is None:
            raise self._not_pinned()
        return self._open

    def _not_pinned(self) -> BpfError:
        return BpfError(
            "open", "the BPF programs", f"not pinned in {self.directory}", errno.ENOENT, "load the programs"
        )


def _summed(value: bytes, size: int) -> bytes:
    """Add up per-CPU values, each padded to 8 bytes, word by word."""
    words = (size + 7) // 8
    totals = [0] * words
    for cpu in struct.iter_unpack(f"={words}Q", value):
        totals = [total + word for total, word in zip(totals, cpu, strict=True)]
    return struct.pack(f"={words}Q", *totals)
