"""Our programs on the hooks of devices: by tcx link, or as clsact filters.

    egress    isolation -> checksum -> fill     tcx: links pinned as links/<ifindex>-<program>
    ingress   guard                             clsact: priorities 101, 102, ...

A network's device gets tcx links where the kernel has tcx. A container's host veth gets clsact filters unless tcx is
asked for: it comes and goes with its container, which would wait each time for what a link waits for. But where others
have filters there, it gets tcx links too: those run before any filter, and no filter can take a packet away from them.

What is attached is asked of the kernel, never concluded from pins: programs of ours are known by their names, so a
fresh bpffs mounted over the pins does not lead to a second copy. Programs and filters of others are never touched.

Be aware: a tcx link waits for an RCU grace period (8-16 ms) when it is attached or detached, and has everybody wait who
changes links meanwhile; a filter takes 0.04 ms, and the first and the last one of a device that is up an expedited
grace period or two (some 0.3 ms each), for the sake of its qdisc; looking takes microseconds.
"""

from __future__ import annotations

import errno as errnos
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataplane.crashpoints import Point, reached
from dataplane.doors import Hooked
from dataplane.errors import BpfError
from dataplane.programs import clsact, syscall
from dataplane.types import DEVICE_PROGRAMS, AttachMode, Hook, IfIndex, Program

_NO_TCX = frozenset({errnos.EINVAL, errnos.EOPNOTSUPP, 524})  # 524 is the kernel's internal ENOTSUPP
_BY_FUNCTION = {program.function: program for program in DEVICE_PROGRAMS}
_ORDER = {program: place for place, program in enumerate(DEVICE_PROGRAMS)}
_ATTACH_TYPES = {Hook.INGRESS: syscall.TCX_INGRESS, Hook.EGRESS: syscall.TCX_EGRESS}


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of all devices of this network namespace."""

    mode: AttachMode
    links: Path
    """Directory of a bpffs where tcx links are pinned."""

    def attach(self, program: Program, fd: int, ifindex: IfIndex) -> bool:
        """Have exactly this program there, once; one that is there is replaced atomically. Whether there was none.
        Raises ``BpfError``."""
        if self.mode is AttachMode.CLSACT:
            return self._attach_clsact(program, fd, ifindex, made=clsact.make(ifindex))
        if self.mode is AttachMode.AUTO and program.of_port:
            made = self._make_clsact(ifindex)
            if made or (made is False and clsact.is_ours_alone(ifindex)):
                return self._attach_clsact(program, fd, ifindex, made=made)
        try:
            return self._attach_tcx(program, fd, ifindex)
        except BpfError as error:
            if self.mode is AttachMode.TCX or error.errno not in _NO_TCX:
                raise
        return self._attach_clsact(program, fd, ifindex, made=clsact.make(ifindex))

    def detach(self, program: Program, ifindex: IfIndex) -> bool:
        """Have no copy of this program there, attached either way; whether there was one. A device that is gone has
        none."""
        linked, filtered = self._detach_tcx(program, ifindex), self._detach_clsact(program, ifindex)
        return linked or filtered

    def hooked(self, ifindex: IfIndex) -> tuple[Hooked, ...]:
        """Every copy of our programs on a device, in the order in which they run."""
        return (*(one for hook in _ATTACH_TYPES for one in _tcx(ifindex, hook)), *_clsact(ifindex))

    @staticmethod
    def links_of(ifindex: IfIndex) -> frozenset[int]:
        """The ids of our links on a device; none where there is no such device."""
        return frozenset(one.link_id for hook in _ATTACH_TYPES for one in _tcx(ifindex, hook))

    def is_current(self, copies: Sequence[Hooked], program_id: int) -> bool:
        """Whether ``attach`` would change nothing about one program, of which these are all copies on a device: this
        very program is there, once, and its link is pinned."""
        if len(copies) != 1 or copies[0].program_id != program_id:
            return False
        if copies[0].mode is AttachMode.CLSACT:
            return True
        pin = self._pin(copies[0].program, copies[0].ifindex)
        return pin.exists() and self._pinned(pin).id == copies[0].link_id

    def sweep(self) -> None:
        """Unpin the links that are off their hooks, as those of devices that are gone."""
        if self.links.is_dir():
            for pin in list(self.links.iterdir()):
                if not self._pinned(pin).attached:
                    pin.unlink(missing_ok=True)

    # -- tcx ----------------------------------------------------------------------------------------------------------

    def _attach_tcx(self, program: Program, fd: int, ifindex: IfIndex) -> bool:
        ours = _tcx(ifindex, program.hook, strict=True)
        same = [hooked for hooked in ours if hooked.program is program]
        if same:
            self._update(same[0], fd)
            for extra in same[1:]:
                detach_link(extra.link_id)
        else:
            self._make_room(program, ifindex)
            later = [one.link_id for one in ours if _ORDER[one.program] > _ORDER[program]]
            others = [one.link_id for one in ours]
            attach_type = _ATTACH_TYPES[program.hook]
            if later:
                link = syscall.tcx_link_create(fd, ifindex, before=later[0], attach_type=attach_type)
            else:
                after = others[-1] if others else 0
                link = syscall.tcx_link_create(fd, ifindex, after=after, attach_type=attach_type)
            with link:
                reached(Point.TCX_LINKED)
                syscall.obj_pin(link.number, self._pin(program, ifindex))
                reached(Point.TCX_PINNED)
        return not self._detach_clsact(program, ifindex) and not same

    def _update(self, hooked: Hooked, fd: int) -> None:
        """Bring the program of a link up to date, and pin the link where its pin is lost."""
        pin = self._pin(hooked.program, hooked.ifindex)
        with syscall.link_by_id(hooked.link_id) as link:
            if syscall.program_info(fd).id != hooked.program_id:
                syscall.link_update(link.number, fd)
            if pin.exists() and self._pinned(pin).id == hooked.link_id:
                return
            self._make_room(hooked.program, hooked.ifindex)
            syscall.obj_pin(link.number, pin)

    def _make_room(self, program: Program, ifindex: IfIndex) -> None:
        """Remove a pin that a former device with this index left behind."""
        pin = self._pin(program, ifindex)
        self.links.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not pin.exists():
            return
        if self._pinned(pin).ifindex:
            raise BpfError(
                "pin",
                str(pin),
                "it holds the program of a device in another network namespace",
                errnos.EEXIST,
                "give each network namespace a bpffs of its own: mount -t bpf bpf /sys/fs/bpf",
            )
        pin.unlink(missing_ok=True)

    def _detach_tcx(self, program: Program, ifindex: IfIndex) -> bool:
        same = [hooked for hooked in _tcx(ifindex, program.hook) if hooked.program is program]
        for hooked in same:
            detach_link(hooked.link_id)
            reached(Point.TCX_DETACHED)
        pin = self._pin(program, ifindex)
        if pin.exists() and not self._pinned(pin).ifindex:  # ours just now, or of a device that is gone
            pin.unlink(missing_ok=True)
        return bool(same)

    def _pin(self, program: Program, ifindex: IfIndex) -> Path:
        return self.links / f"{ifindex}-{program.value}"

    @staticmethod
    def _pinned(pin: Path) -> syscall.LinkInfo:
        with syscall.obj_get(pin) as link:
            return syscall.link_info(link.number)

    @staticmethod
    def _make_clsact(ifindex: IfIndex) -> bool | None:
        """As ``clsact.make``; None where the kernel does not know the qdisc."""
        try:
            return clsact.make(ifindex)
        except BpfError as error:
            if error.errno != errnos.ENOENT:
                raise
            return None

    # -- clsact -------------------------------------------------------------------------------------------------------

    def _attach_clsact(self, program: Program, fd: int, ifindex: IfIndex, *, made: bool) -> bool:
        same = () if made else _copies(program, _filters(ifindex))
        clsact.attach(program, fd, ifindex, made=made)
        for found in same:
            if (found.priority, found.handle) != clsact.place_of(program):
                clsact.detach(found, ifindex, _filters(ifindex))  # where another version of ours put it
        return not self._detach_tcx(program, ifindex) and not same

    @staticmethod
    def _detach_clsact(program: Program, ifindex: IfIndex) -> bool:
        there = list(_filters(ifindex))
        same = _copies(program, there)
        for found in same:
            try:
                clsact.detach(found, ifindex, there)
                there.remove(found)
            except BpfError as error:
                if error.errno not in {errnos.ENOENT, errnos.ENODEV, errnos.EINVAL}:  # gone meanwhile
                    raise
        return bool(same)


def detach_link(number: int) -> None:
    """Take a link off its hook; one that is gone is fine. Raises ``BpfError``."""
    try:
        with syscall.link_by_id(number) as link:
            syscall.link_detach(link.number)
    except BpfError as error:
        if error.errno not in {errnos.ENOENT, errnos.ENOLINK}:  # gone meanwhile
            raise


def _tcx(ifindex: IfIndex, hook: Hook, *, strict: bool = False) -> tuple[Hooked, ...]:
    """Our links on a hook of a device; unless ``strict``, none where there is no such device or no tcx."""
    try:
        attached = syscall.tcx_query(ifindex, _ATTACH_TYPES[hook])
    except BpfError as error:
        if strict or error.errno not in _NO_TCX | {errnos.ENODEV}:
            raise
        return ()
    found = []
    for one in attached:
        about = program_of(one.program_id)
        program = _BY_FUNCTION.get(about.name) if about and one.link_id else None
        if about and program:
            found.append(Hooked(program, ifindex, AttachMode.TCX, about.id, one.link_id, about.tag))
    return tuple(found)


def program_of(number: int) -> syscall.ProgramInfo | None:
    """What is loaded under this id; None where it was unloaded meanwhile."""
    try:
        with syscall.program_by_id(number) as program:
            return syscall.program_info(program.number)
    except BpfError as error:
        if error.errno == errnos.ENOENT:  # detached since it was listed
            return None
        raise


def _clsact(ifindex: IfIndex) -> tuple[Hooked, ...]:
    return tuple(
        Hooked(_BY_FUNCTION[found.name], ifindex, AttachMode.CLSACT, found.program_id, 0, found.tag)
        for found in _filters(ifindex)
        if found.name in _BY_FUNCTION
    )


def _copies(program: Program, there: Iterable[clsact.Filter]) -> tuple[clsact.Filter, ...]:
    return tuple(found for found in there if found.name == program.function)


def _filters(ifindex: IfIndex) -> tuple[clsact.Filter, ...]:
    """All filters on a device, whosever they are; none where there is no such device."""
    try:
        return clsact.everything(ifindex)
    except BpfError as error:
        if error.errno in {errnos.ENODEV, errnos.EINVAL}:
            return ()
        raise
