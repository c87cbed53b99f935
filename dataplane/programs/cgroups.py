"""Our programs on the root of the cgroups, which lead processes of the host to published ports by loopback addresses.

    connect4 connect6 sendmsg4 sendmsg6 recvmsg4 recvmsg6 getpeername4 getpeername6
    by links that are pinned as links/cgroup-<program>, after the programs of others

The hierarchy is the machine's, while we serve one network namespace of it: other namespaces may have copies of their
own there. Ours are those whose pins we have, and those whose ``settings`` hold the cookie of our namespace, so that a
fresh bpffs mounted over the pins does not lead to a second copy. Nobody else's are touched.

Be aware: only the real root will do. What a cgroup namespace shows as the root is somebody's cgroup, in which the
processes of the host need not be. Attaching takes longer, the more cgroups there are: it is done once.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataplane import netns
from dataplane.abi import SETTINGS, U32, HostSettings
from dataplane.crashpoints import Point, reached
from dataplane.errors import BpfError
from dataplane.programs import syscall
from dataplane.programs.attach import detach_link, program_of
from dataplane.programs.compile import ATTACH_TYPES
from dataplane.programs.syscall import LinkInfo
from dataplane.types import LOCALHOST_PROGRAMS, Program

Root = syscall.Fd | None
"""The open directory of the root; None where there is none."""
_Place = tuple[int, int]
"""A file: its file system and its inode."""

_USUAL = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_MOUNTS = Path("/proc/self/mountinfo")
_MAX_STRANGERS = 4096
_CGROUP2_MAGIC = 0x63677270
_NOT_ON_ROOT = "cgroup.type"
"""A file that every cgroup has but the root: cgroup-v2.rst, "Core Interface Files"."""


def netns_cookie() -> int:
    """The number by which programs know the network namespace of this thread. Raises ``BpfError``."""
    try:
        return netns.cookie()
    except OSError as error:
        hint = "Linux 5.14 tells it"
        raise BpfError.from_errno("ask for", "the cookie of this network namespace", error.errno or 0, hint) from error


def find_root() -> str:
    """Where the root of the cgroup2 hierarchy is mounted. Raises ``BpfError``, which says what is there instead."""
    partial = ""
    for path in _candidates():
        if not _is_cgroup2(path):
            continue
        if not os.path.exists(f"{path}/{_NOT_ON_ROOT}"):  # noqa: PTH110 - asked by each process that serves a call
            return path
        partial = path
    cause = f"{partial} is the cgroup of a container, not the root" if partial else "no cgroup2 is mounted"
    hint = "" if partial else "mount -t cgroup2 none /sys/fs/cgroup/unified"
    raise BpfError("find", "the root of the cgroups", cause, hint=hint)


def _candidates() -> Iterator[str]:
    yield from _USUAL
    for line in _MOUNTS.read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if source.startswith("cgroup2 "):
            yield mount.split()[4]


_libc = ctypes.CDLL(None, use_errno=True)


def _is_cgroup2(path: str) -> bool:
    buffer = (ctypes.c_long * 32)()  # struct statfs starts with f_type, a long
    return _libc.statfs(os.fsencode(path), buffer) == 0 and buffer[0] & 0xFFFFFFFF == _CGROUP2_MAGIC


@dataclass(frozen=True, slots=True)
class CgroupHooks:
    """The hooks of the cgroups' root, as far as they serve the network namespace of this thread."""

    links: Path
    """Directory of a bpffs where links are pinned."""
    _strangers: set[int] = field(default_factory=set)
    """Programs that are asked for no more: none of ours, or of another network namespace. The kernel gives no number
    twice before it has given two billion others."""
    _current: dict[Program, tuple[_Place, int]] = field(default_factory=dict)
    """Of programs that were found current: where their pin is, which stays the same link's, and their number."""

    def require(self) -> None:
        """See that programs can be attached; nothing is changed. Raises ``BpfError`` with the reason."""
        with opened_root() as root:
            for program in LOCALHOST_PROGRAMS:
                found = syscall.cgroup_query(root.number, _attach_type(program))
                if not found.takes_more and not any(self.serves_us(number, program) for number in found.program_ids):
                    raise BpfError(
                        "attach",
                        f"program {program} to the root of the cgroups",
                        f"{len(found.program_ids)} programs of others are there, and allow no more",
                    )

    def attach(self, program: Program, fd: int, root: Root) -> None:
        """Have exactly this program there, once; one that is there is replaced atomically. Raises ``BpfError``."""
        wanted = syscall.program_info(fd).id
        pinned = self._pinned(program)
        others = self._unpinned(program, pinned, root)
        if pinned is None:
            self._pin(program).unlink(missing_ok=True)  # of a link that somebody detached
            self._attach_anew(program, fd, root, others.pop() if others else None)
        elif pinned.program_id != wanted:
            with syscall.link_by_id(pinned.id) as link:
                syscall.link_update(link.number, fd)
        for extra in others:
            detach_link(extra.id)

    def detach(self, program: Program, root: Root) -> bool:
        """Have no copy of ours there; whether there was one."""
        copies = self.copies(program, root)
        for one in copies:
            detach_link(one.id)
            reached(Point.CGROUP_DETACHED)
        self._pin(program).unlink(missing_ok=True)
        return bool(copies)

    def is_current(self, program: Program, program_id: int, root: Root) -> bool:
        """Whether ``attach`` would change nothing: this very program is there, once, and its link is pinned."""
        place = self._place(program)
        if place and root and self._current.get(program) == (place, program_id):
            # The same link is pinned. If its program were another one, or it were off its hook, this one would not be
            # there: most requests need not open it to know that.
            there = syscall.cgroup_query(root.number, _attach_type(program)).program_ids
            if there.count(program_id) == 1 and self._strangers.issuperset(set(there) - {program_id}):
                return True
        pinned = self._pinned(program)
        found = pinned is not None and pinned.program_id == program_id and not self._unpinned(program, pinned, root)
        if found and place:
            self._current[program] = place, program_id
        return found

    def pinned(self) -> Iterator[LinkInfo]:
        """The links that are pinned and attached."""
        for program in LOCALHOST_PROGRAMS:
            if link := self._pinned(program):
                yield link

    def _attach_anew(self, program: Program, fd: int, root: Root, there: LinkInfo | None) -> None:
        """Attach by a link that is there, whose pin was lost, or by a new one; and pin it."""
        self.links.mkdir(mode=0o700, parents=True, exist_ok=True)
        if there is not None:
            with syscall.link_by_id(there.id) as link:
                syscall.link_update(link.number, fd)
                syscall.obj_pin(link.number, self._pin(program))
            return
        if root is None:
            find_root()  # which says why there is none
            raise BpfError.from_errno("attach", f"program {program} to the root of the cgroups", errno.ENOENT)
        with syscall.cgroup_link_create(fd, root.number, _attach_type(program)) as link:
            reached(Point.CGROUP_LINKED)
            syscall.obj_pin(link.number, self._pin(program))
            reached(Point.CGROUP_PINNED)

    def copies(self, program: Program, root: Root) -> list[LinkInfo]:
        """The links of all copies of ours that are there, the pinned one first."""
        pinned = self._pinned(program)
        return [*([pinned] if pinned else []), *self._unpinned(program, pinned, root)]

    def _pinned(self, program: Program) -> LinkInfo | None:
        """The link of our pin, unless it is off its hook."""
        try:
            with syscall.obj_get(f"{self.links}/{_pin_name(program)}") as link:  # no Path: asked in each request
                found = syscall.link_info(link.number)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return found if found.attached else None

    def _unpinned(self, program: Program, pinned: LinkInfo | None, root: Root) -> list[LinkInfo]:
        """Links that serve this namespace, and are not the one that is pinned."""
        if root is None:
            return []
        there = list(syscall.cgroup_query(root.number, _attach_type(program)).program_ids)
        if pinned and pinned.program_id in there:
            there.remove(pinned.program_id)
        there = [number for number in there if number not in self._strangers]
        ours = {number for number in there if self.serves_us(number, program)}
        if not ours:
            return []
        return [
            link
            for link in _links()
            if link.program_id in ours and link.attached and (pinned is None or link.id != pinned.id)
        ]

    def serves_us(self, number: int, program: Program) -> bool:
        """Whether a program is a copy of ours, of any version, for this network namespace."""
        about = program_of(number)
        if about is None:
            return False
        cookie = _serves(about) if about.name == program.function else None
        if cookie == 0:  # of one that is being set up
            return False
        ours = cookie is not None and cookie == netns_cookie()
        if not ours:
            if len(self._strangers) >= _MAX_STRANGERS:
                self._strangers.clear()
            self._strangers.add(number)
        return ours

    def _place(self, program: Program) -> _Place | None:
        try:
            about = os.stat(f"{self.links}/{_pin_name(program)}")  # noqa: PTH116 - as there
        except OSError as _not_pinned:
            return None
        return about.st_dev, about.st_ino

    def _pin(self, program: Program) -> Path:
        return self.links / _pin_name(program)


def _pin_name(program: Program) -> str:
    return f"cgroup-{program.value}"


def _serves(about: syscall.ProgramInfo) -> int | None:
    """The cookie of the network namespace that one of our programs serves; None where it reads no settings of ours."""
    for map_id in about.map_ids:
        try:
            with syscall.map_by_id(map_id) as opened:
                info = syscall.map_info(opened.number)
                if info.name == "settings" and info.value_size == SETTINGS.size:
                    raw = syscall.map_lookup(opened.number, info, U32.pack(0))
                    return 0 if raw is None else HostSettings.unpack(raw).netns_cookie
        except BpfError as error:
            if error.errno != errno.ENOENT:  # detached since it was listed
                raise
    return None


@contextmanager
def root_if_any() -> Iterator[Root]:
    """The root of the cgroups, open; None where none can be found."""
    try:
        opened = opened_root()
    except BpfError as _nowhere_to_be:
        yield None
        return
    with opened:
        yield opened


def opened_root() -> syscall.Fd:
    """The root of the cgroups, open. Raises ``BpfError``."""
    root = find_root()
    try:
        return syscall.Fd(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise BpfError.from_errno("open", f"the root of the cgroups {root}", error.errno or 0) from error


def _links() -> Iterator[LinkInfo]:
    """All links to cgroups, whoever made them."""
    for number in syscall.link_ids():
        try:
            with syscall.link_by_id(number) as link:
                found = syscall.link_info(link.number)
        except BpfError as _gone_meanwhile:
            continue
        if found.type == syscall.LINK_CGROUP:
            yield found


def _attach_type(program: Program) -> int:
    return ATTACH_TYPES[program.hook]
