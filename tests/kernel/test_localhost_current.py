"""Whether programs on the root of the cgroups are as they should be: asked by each ADD, and never taken for granted."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest

from dataplane import netns
from dataplane.abi import U32, HostSettings
from dataplane.programs import syscall
from dataplane.programs.cgroups import opened_root
from dataplane.programs.compile import ATTACH_TYPES
from dataplane.programs.door import KernelPrograms
from dataplane.programs.loading import LINKS
from dataplane.types import LOCALHOST_PROGRAMS, Program
from support.netns import Sandbox

PIN = LINKS / f"cgroup-{Program.CONNECT4.value}"
OTHERS = frozenset(LOCALHOST_PROGRAMS) - {Program.CONNECT4}


def loaded(leading: Collection[Program] = LOCALHOST_PROGRAMS) -> KernelPrograms:
    """A door, with these programs on the root."""
    programs = KernelPrograms()
    programs.load()
    programs.put("settings", U32.pack(0), HostSettings(1, netns.cookie()).pack())
    programs.attach_localhost(leading)
    return programs


def unpin(_: KernelPrograms) -> None:
    """Take the pin away, and the link with it."""
    PIN.unlink()


def detach(_: KernelPrograms) -> None:
    """Take the link off its hook, and leave it pinned."""
    with syscall.obj_get(PIN) as link:
        syscall.link_detach(link.number)


def attach_twice(programs: KernelPrograms) -> syscall.Fd:
    """Attach the program once more, by a link that is not pinned."""
    with opened_root() as root, syscall.obj_get(programs.directory / Program.CONNECT4.function) as program:
        return syscall.cgroup_link_create(program.number, root.number, ATTACH_TYPES[Program.CONNECT4.hook])


def pin_a_copy(programs: KernelPrograms) -> syscall.Fd:
    """Attach the program once more, and put that link's pin in the place of the other's."""
    copy = attach_twice(programs)
    with syscall.obj_get(PIN) as former:
        PIN.unlink()
        syscall.obj_pin(copy.number, PIN)
        return syscall.link_by_id(syscall.link_info(former.number).id)


@pytest.mark.parametrize("spoil", [unpin, detach, attach_twice, pin_a_copy], ids=lambda spoil: str(spoil.__name__))
def test_what_was_spoilt_is_seen_at_the_next_look(sandbox: Sandbox, spoil: Callable[[KernelPrograms], object]) -> None:
    """A door that has found all as it should be finds a single thing that is not, and what puts it right does."""

    def run() -> None:
        programs = loaded()
        for _ in range(2):
            assert programs.current_localhost() == frozenset(LOCALHOST_PROGRAMS)
        held = spoil(programs)
        assert programs.current_localhost() == OTHERS
        programs.attach_localhost(LOCALHOST_PROGRAMS)
        assert programs.current_localhost() == frozenset(LOCALHOST_PROGRAMS)
        if isinstance(held, syscall.Fd):
            held.close()
        programs.unload()

    sandbox.call(run)


def test_a_pin_of_another_link_is_not_taken_for_ours(sandbox: Sandbox) -> None:
    """A program that is on its hook is not pinned because something is, by the name of its pin."""

    def run() -> None:
        programs = loaded()
        assert programs.current_localhost() == frozenset(LOCALHOST_PROGRAMS)
        with syscall.obj_get(PIN), syscall.obj_get(LINKS / f"cgroup-{Program.CONNECT6.value}") as other:
            PIN.unlink()
            syscall.obj_pin(other.number, PIN)
            assert programs.current_localhost() == OTHERS
        programs.unload()

    sandbox.call(run)


def test_only_those_that_are_asked_about_are_looked_at(sandbox: Sandbox) -> None:
    """Whoever needs some of them is not told of others."""

    def run() -> None:
        programs = loaded({Program.CONNECT4, Program.CONNECT6})
        assert programs.current_localhost({Program.CONNECT4, Program.SENDMSG4}) == {Program.CONNECT4}
        programs.unload()

    sandbox.call(run)
