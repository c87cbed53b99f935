"""What the kernel has of our programs: those that are pinned, in any version, and those that are attached, by any link.

    found = take_inventory(digest)
    found.attached        on devices of this network namespace, and on cgroups
    found.pinned          those that are pinned on this bpffs; an attached one is among them, or its pins are lost

Nothing is changed. Programs are known by their names, as ``attach`` knows them.

Be aware: cgroups belong to the whole machine. Programs on them that serve another network namespace are left out.
"""

from __future__ import annotations

import errno as errnos
import fcntl
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dataplane import abi
from dataplane.errors import BpfError
from dataplane.programs import clsact, loading, syscall
from dataplane.programs.attach import Hooks, program_of
from dataplane.types import LOCALHOST_PROGRAMS, AttachMode, Hook, IfIndex, Program

ROOT_CGROUP = 1
"""The inode of the root of cgroup v2, in every mount of it."""

_SIOCGIFHWADDR = 0x8927
_ETHERNET = frozenset({1, 772})  # ARPHRD_ETHER, ARPHRD_LOOPBACK
_SO_NETNS_COOKIE = 71
_BY_FUNCTION = {program.function: program for program in Program}
_LOCALHOST = frozenset(program.function for program in LOCALHOST_PROGRAMS)
_TCX = {Hook.INGRESS: syscall.TCX_INGRESS, Hook.EGRESS: syscall.TCX_EGRESS}
_NO_DEVICE = IfIndex(0)
_NO_TCX = frozenset({errnos.EINVAL, errnos.EOPNOTSUPP, errnos.ENODEV, 524})  # 524: the kernel's internal ENOTSUPP


class How(StrEnum):
    """How a program is attached."""

    TCX = "tcx"
    CLSACT = "clsact"
    CGROUP = "cgroup"


@dataclass(frozen=True, slots=True)
class Pinned:
    """A program that is pinned."""

    program: Program
    digest: str
    path: str
    about: syscall.ProgramInfo


@dataclass(frozen=True, slots=True)
class Attachment:
    """A copy of a program of ours on a hook."""

    program: Program
    how: How
    about: syscall.ProgramInfo
    ifindex: IfIndex = _NO_DEVICE
    cgroup: int = 0
    link_id: int = 0
    link_pin: str = ""
    """Where its link is pinned; empty where it is not, or there is no link."""
    digest: str = ""
    """The version it is of; empty where that is pinned nowhere."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All of it."""

    digest: str
    """Of the sources that this process came with."""
    pinned: tuple[Pinned, ...]
    attached: tuple[Attachment, ...]

    @property
    def runs(self) -> dict[Program, tuple[int, int]]:
        """How often each program ran and the nanoseconds that took, all its versions together."""
        copies: dict[int, tuple[Program, syscall.ProgramInfo]] = {}
        copies |= {one.about.id: (one.program, one.about) for one in self.pinned}
        copies |= {one.about.id: (one.program, one.about) for one in self.attached}
        total = dict.fromkeys(Program, (0, 0))
        for program, about in copies.values():
            total[program] = (total[program][0] + about.runs, total[program][1] + about.run_ns)
        return total

    @property
    def idle(self) -> tuple[Pinned, ...]:
        """Programs that are pinned and attached nowhere in this network namespace."""
        busy = {one.about.id for one in self.attached}
        return tuple(one for one in self.pinned if one.about.id not in busy)

    def flaws(self, one: Attachment) -> list[str]:
        """What is wrong with a program that is attached, in words."""
        found = []
        if not one.digest:
            found.append("its pins are lost")
        elif one.digest != self.digest:
            found.append(f"of version {one.digest[:8]}")
        if one.how is not How.CLSACT and not one.link_pin:
            found.append("its link is not pinned")
        copies = [(other.program, other.ifindex, other.cgroup) for other in self.attached]
        if copies.count((one.program, one.ifindex, one.cgroup)) > 1:
            found.append("there more than once")
        return found


@dataclass(frozen=True, slots=True)
class Foreign:
    """A program of somebody else on a hook of a device."""

    hook: Hook
    how: How
    name: str
    program_id: int


def take_inventory(digest: str) -> Inventory:
    """Ask the kernel. Raises ``BpfError``."""
    programs, links = _pins()
    digests = {one.about.id: one.digest for one in programs}
    attached = [*_on_devices(digests, links), *_on_cgroups(digests, links)]
    return Inventory(digest, tuple(programs), tuple(attached))


def foreign(ifindex: IfIndex) -> tuple[Foreign, ...]:
    """The programs of others on the hooks of a device. Raises ``BpfError``."""
    found = []
    for hook, attach_type in _TCX.items():
        try:
            on_hook = syscall.tcx_query(ifindex, attach_type)
        except BpfError as error:
            if error.errno not in _NO_TCX:
                raise
            on_hook = ()
        for one in on_hook:
            about = program_of(one.program_id)
            if about and about.name not in _BY_FUNCTION:
                found.append(Foreign(hook, How.TCX, about.name, about.id))
    found += [
        Foreign(one.hook, How.CLSACT, one.name, one.program_id)
        for one in clsact.filters(ifindex)
        if one.name not in _BY_FUNCTION
    ]
    return tuple(found)


def has_ethernet_headers(device: str) -> bool:
    """Whether frames of a device begin with an Ethernet header, which every program reads. Raises ``BpfError``."""
    request = device.encode().ljust(40, b"\0")  # struct ifreq
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked, _SIOCGIFHWADDR, request)
        except OSError as error:
            raise BpfError.from_errno("inspect", f'device "{device}"', error.errno or 0) from error
    return int.from_bytes(answer[16:18], sys.byteorder) in _ETHERNET


def _pins() -> tuple[list[Pinned], dict[int, str]]:
    """Programs that are pinned, and the pins of links by their ids."""
    programs: list[Pinned] = []
    links: dict[int, str] = {}
    for directory, pin in _files():
        try:
            with syscall.obj_get(pin) as opened:
                kind = str(Path(f"/proc/self/fd/{opened.number}").readlink())
                if kind.endswith("bpf-prog"):
                    about = syscall.program_info(opened.number)
                    if about.name in _BY_FUNCTION:
                        programs.append(Pinned(_BY_FUNCTION[about.name], directory.name, str(pin), about))
                elif kind.endswith(("bpf_link", "bpf-link")):
                    links[syscall.link_info(opened.number).id] = str(pin)
        except BpfError as error:
            if error.errno != errnos.ENOENT:  # unpinned since it was listed
                raise
    order = {program: place for place, program in enumerate(Program)}
    programs.sort(key=lambda one: (one.digest, order[one.program]))
    return programs, links


def _files() -> Iterator[tuple[Path, Path]]:
    """Each pin, and the directory it is in."""
    try:
        for directory in sorted(loading.BASE.iterdir()):
            pins = sorted(directory.iterdir()) if directory.is_dir() else [directory]
            yield from ((directory, pin) for pin in pins)
    except FileNotFoundError:
        return
    except OSError as error:
        number = error.errno or 0
        hint = "run it as root" if number in {errnos.EACCES, errnos.EPERM} else ""
        raise BpfError.from_errno("list", str(loading.BASE), number, hint) from error


def _on_devices(digests: dict[int, str], links: dict[int, str]) -> Iterator[Attachment]:
    hooks = Hooks(AttachMode.AUTO, loading.LINKS)
    for number, _ in socket.if_nameindex():
        for one in hooks.hooked(IfIndex(number)):
            about = program_of(one.program_id)
            if about:
                yield Attachment(
                    program=one.program,
                    how=How(one.mode.value),
                    about=about,
                    ifindex=one.ifindex,
                    link_id=one.link_id,
                    link_pin=links.get(one.link_id, ""),
                    digest=digests.get(about.id, ""),
                )


def _on_cgroups(digests: dict[int, str], links: dict[int, str]) -> list[Attachment]:
    """Those of this network namespace: pinned here, or serving it, or sharing maps with one that does."""
    found = []
    for number in syscall.link_ids():
        try:
            with syscall.link_by_id(number) as link:
                about_link = syscall.link_info(link.number)
        except BpfError as error:
            if error.errno == errnos.ENOENT:  # gone since it was listed
                continue
            raise
        about = program_of(about_link.program_id) if about_link.type == syscall.LINK_CGROUP else None
        if about and about.name in _LOCALHOST and about_link.cgroup_id:
            found.append(
                Attachment(
                    program=_BY_FUNCTION[about.name],
                    how=How.CGROUP,
                    about=about,
                    cgroup=about_link.cgroup_id,
                    link_id=number,
                    link_pin=links.get(number, ""),
                    digest=digests.get(about.id, ""),
                )
            )
    ours = [one for one in found if one.digest or one.link_pin or _serves_here(one.about)]
    maps = {number for one in ours for number in one.about.map_ids}
    return [one for one in found if one in ours or maps & set(one.about.map_ids)]


def _serves_here(about: syscall.ProgramInfo) -> bool:
    """Whether the settings that a program reads name this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        cookie = int.from_bytes(here.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
    for number in about.map_ids:
        try:
            with syscall.map_by_id(number) as opened:
                described = syscall.map_info(opened.number)
                if described.name == "settings":
                    settings = syscall.map_lookup(opened.number, described, abi.U32.pack(0))
                    return settings is not None and abi.HostSettings.unpack(settings).netns_cookie == cookie
        except BpfError as error:
            if error.errno != errnos.ENOENT:  # gone since it was listed
                raise
    return False
