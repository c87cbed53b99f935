"""Pins that go at the worst moment, after a look and before what it calls for: no program is ever left with maps that
others have filled in part."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from control.changes import Changes
from control.engine import open_engine
from control.repair.reconciler import EVERYTHING, Part
from control.repair.repair import Repair
from dataplane.abi import U32
from dataplane.doors import Hooked
from dataplane.programs import loading, syscall
from dataplane.programs.door import KernelPrograms
from dataplane.types import IfIndex, Program
from support import plan
from support.netns import Sandbox
from support.traffic import ask
from support.world import World, publish


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    """Two networks that are kept apart, each with a container, and no agent."""
    made = World(sandbox, tmp_path)
    made.network(plan.FRONT)
    made.network(plan.BACK)
    made.attach("web", plan.FRONT, publish("8080:80"))
    made.serve(made.attach("admin", plan.BACK))
    return made


@contextmanager
def pins_go_before(where: type, name: str, seen: list[Any]) -> Iterator[None]:
    """Within: the first time that this method is called, the pins of all programs and maps go before it does anything,
    and right after it is seen what is ``blind``."""
    method = getattr(where, name)

    def loses(*arguments: Any) -> Any:
        setattr(where, name, method)
        lose_pins()
        answer = method(*arguments)
        seen.append(blind())
        return answer

    setattr(where, name, loses)
    try:
        yield
    finally:
        setattr(where, name, method)


def isolating() -> list[Hooked]:
    """Inside the host: isolation, wherever it is hooked."""
    devices = [IfIndex(socket.if_nametoindex(network.device)) for network in (plan.FRONT, plan.BACK)]
    hooked = [one for device in devices for one in KernelPrograms().hooked(device)]
    return [one for one in hooked if one.program is Program.ISOLATION]


def blind() -> list[tuple[IfIndex, IfIndex]]:
    """Inside the host: (device whose isolation does not know a network, the device of that network)."""
    found = isolating()
    return [(one.ifindex, other.ifindex) for one in found for other in found if other.ifindex not in _known(one)]


def _known(hooked: Hooked) -> set[IfIndex]:
    """The devices in the map that this very program reads."""
    with syscall.program_by_id(hooked.program_id) as program:
        maps = syscall.program_info(program.number).map_ids
    for number in maps:
        with syscall.map_by_id(number) as opened:
            info = syscall.map_info(opened.number)
            if info.name == "networks":
                return {IfIndex(U32.unpack(key)[0]) for key, _ in syscall.map_entries(opened.number, info)}
    raise AssertionError("isolation reads no networks")


def look_while_pins_go() -> tuple[list[Any], list[Any], list[str], int]:
    """Inside the host: the engine finds the pin of a link gone, and with it go all others; what was blind right after
    the repair and at the end, what is wrong then, and how many programs isolate."""
    seen: list[Any] = []
    with open_engine() as engine:
        engine.sync(EVERYTHING)
        engine.watched(None)  # which holds the links
        for pin in loading.LINKS.glob("*-isolation"):
            pin.unlink()
        with pins_go_before(Repair, "_put_right", seen):
            engine.sync(frozenset({Part.PROGRAMS}))
        engine.sync(EVERYTHING)
        return seen, blind(), engine.problems(), len(isolating())


def test_pins_that_go_between_a_look_and_its_repair(world: World) -> None:
    """What is repaired in part is repaired by the programs that were looked at; new ones come when their maps hold
    everything."""
    seen, after, problems, isolated = world.host.call(look_while_pins_go)
    assert seen == [[]]
    assert (after, problems, isolated) == ([], [], 2)


def add_while_pins_go() -> tuple[list[Any], int]:
    """Inside the host: the container of the second network leaves, and comes when pins go; what was blind then, and how
    many programs isolate."""
    seen: list[Any] = []
    with open_engine() as engine:
        (admin,) = (one for one in engine.attachments() if one.key.network == plan.BACK.name)
        engine.delete(admin.key)
        with pins_go_before(Changes, "_attempt", seen):
            engine.add(admin.request)
        return seen, len(isolating())


def test_pins_that_go_while_a_request_is_served(world: World) -> None:
    """A network that comes then is kept apart from those that are there, and the next request has all in new maps."""
    seen, isolated = world.host.call(add_while_pins_go)
    assert (seen, isolated) == ([[]], 2)
    admin, web = world.attached("admin"), world.attached("web")
    assert ask(world.host, str(admin.address(4)), 80) is not None
    assert ask(web.netns, str(admin.address(4)), 80, timeout=0.4) is None
    world.attach("shop", plan.FRONT)
    assert world.host.call(blind) == []
    assert ask(web.netns, str(admin.address(4)), 80, timeout=0.4) is None
    assert world.host.call(problems) == []


def problems() -> list[str]:
    """Inside the host: what is wrong."""
    with open_engine() as engine:
        return engine.problems()


def lose_pins() -> None:
    """Inside the host: the pins of programs and maps go."""
    for pins in loading.BASE.iterdir():
        if pins != loading.LINKS:
            loading._remove(pins)


def networks() -> int:
    """Inside the host: of how many networks the maps know that are pinned now."""
    return sum(1 for _ in KernelPrograms().entries("networks"))


def test_programs_that_are_loaded_by_hand(world: World) -> None:
    """``dpctl bpf attach`` has new maps filled for everybody, and not for its device alone."""
    world.host.call(lose_pins)
    world.dpctl("bpf", "attach", plan.OUTSIDE.device)
    assert (world.host.call(networks), world.host.call(blind)) == (3, [])
