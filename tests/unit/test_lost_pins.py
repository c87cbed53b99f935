"""Pins that go in the middle of anything, before each single call to the programs' door: no program is ever attached
whose maps lack a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.model import ChecksumPolicy
from control.repair.reconciler import EVERYTHING, Part
from dataplane.doors import Programs
from dataplane.types import Program
from support.attachments import port, request
from support.fakeworld import World, fake_world

CALLS = [name for name in vars(Programs) if not name.startswith("_")]


class Losing:
    """The programs of a world, watched: while ``left`` is set, the pins go before the call that it counts down to."""

    def __init__(self, world: World) -> None:
        self._world, self._programs = world, world.doors.programs
        self.left: int | None = None
        """Calls until the pins go."""
        for name in CALLS:
            setattr(self._programs, name, self._watched(getattr(self._programs, name)))

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            if self.left is not None:
                self.left -= 1
                if self.left == 0:
                    self._programs.lose_pins()
            answer = call(*arguments)
            self._expect_nobody_is_blind()
            return answer

        return watched

    def _expect_nobody_is_blind(self) -> None:
        devices = {index for index, program in self._programs._hooked if program is Program.ISOLATION}
        living = {index for index in devices if self._world.doors.links.get(index) is not None}
        for device in living:
            seen = self._programs.seen_by(Program.ISOLATION, device, "networks")
            known = {int.from_bytes(key, "little") for key in seen}
            assert living <= known, f"the isolation of device {device} knows {known}, not {living}"


def attach(world: World, container: str, address: str, network: str) -> None:
    """ADD a container to a network of its own bridge."""
    bridge = world.doors.links.find(f"br-{network}") or world.doors.links.link(f"br-{network}", "bridge")
    veth = world.doors.links.link(f"veth{container}", "veth", bridge.index)
    interfaces = (bridge.name, veth.name)
    world.engine.add(request(container, address, port(8000 + veth.index), network=network, interfaces=interfaces))


def without_isolation(world: World) -> None:
    """Somebody detaches isolation from one network."""
    world.doors.programs.detach(Program.ISOLATION, world.bridge.index)


def without_a_bridge(world: World) -> None:
    """Somebody makes a bridge anew, and its number is another one."""
    world.doors.links.remove(world.bridge.index)
    world.doors.links.link("br-front", "bridge")


def with_another_address(world: World) -> None:
    """The host has another address."""
    world.doors.links.addresses = ()


def synced(*parts: Part) -> Callable[[World], None]:
    """A look at these parts that does not fail."""

    def look(world: World) -> None:
        assert not world.engine.sync(frozenset(parts)).failed

    return look


def nothing(_world: World) -> None:
    """All is well."""


def without_guards(world: World) -> None:
    """Somebody detaches all guards."""
    for link in world.doors.links.all_links():
        world.doors.programs.detach(Program.GUARD, link.index)


SCENES: dict[str, tuple[Callable[[World], None], Callable[[World], object]]] = {
    "a look at everything": (without_isolation, synced(*EVERYTHING)),
    "a look at programs": (without_isolation, synced(Part.PROGRAMS)),
    "a look at veths": (without_guards, lambda world: world.engine.sync(frozenset({Part.VETHS}), frozenset())),
    "a look at addresses": (with_another_address, synced(Part.ADDRESSES)),
    "a look at bridges": (without_a_bridge, synced(Part.LINKS)),
    "ADD to a new network": (nothing, lambda world: attach(world, "late", "10.13.0.2", "late")),
    "ADD again": (without_isolation, lambda world: world.engine.add(world.engine.attachments()[0].request)),
    "DEL": (nothing, lambda world: world.engine.delete(world.engine.attachments()[0].key)),
    "another mode": (nothing, lambda world: world.engine.set_checksum_mode("front", ChecksumPolicy.FILL)),
    "STATUS": (nothing, lambda world: world.engine.status("front")),
    "reconcile": (without_isolation, lambda world: world.engine.reconcile()),
}


@pytest.mark.parametrize("scene", SCENES)
def test_pins_that_go_before_any_call(scene: str, tmp_path: Path) -> None:
    """Whatever is done then succeeds, and so does the ADD after it; nobody is blind at any time; and the next look at
    everything leaves all well."""
    spoil, act = SCENES[scene]
    calls, last = -1, False
    while not last:
        calls += 1
        with fake_world(tmp_path / str(calls)) as world:
            attach(world, "web", "10.11.0.2", "front")
            attach(world, "admin", "10.12.0.2", "back")
            spoil(world)
            losing = Losing(world)
            if not calls:  # gone before, and the agent was started anew
                world.doors.programs.lose_pins()
                assert not world.doors.programs.loaded()
            losing.left = calls
            act(world)
            attach(world, "later", "10.14.0.2", "later")
            last, losing.left = losing.left > 0, None
            world.engine.sync(EVERYTHING)
            world.engine.sync(EVERYTHING)
            assert not world.engine.problems()
    assert calls > 1
