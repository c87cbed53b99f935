"""A host that is broken while it is used: an agent, traffic through published ports, and what must hold afterwards.

    scene = Scene(sandbox, tmp_path)
    with scene.traffic() as seen:
        scene.resident.again(signal.SIGKILL)
    seen.expect_nothing_lost()

Numbered packets, a long conversation and new connections go through published ports from outside; two places ask all
the time for what isolation forbids; and programs of others hang beside ours.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support import foreign, plan
from support.netns import Sandbox
from support.prober import Prober
from support.resident import Resident
from support.stream import STALLED, Arrived, Conversation, Knocked, Knocks, Packets, Talked
from support.world import World, publish

RATE = 5000
"""Packets a second."""
METRICS = "/run/dataplane/metrics.sock"


@dataclass(slots=True)
class Seen:
    """What the clients saw; there when the traffic has ended."""

    packets: Arrived = field(init=False)
    talk: Talked = field(init=False)
    knocks: Knocked = field(init=False)

    def expect_nothing_lost(self) -> None:
        """Running flows and new connections alike."""
        self.expect_running_flows()
        assert (self.knocks.refused, self.knocks.unanswered) == (0, 0), self

    def expect_running_flows(self) -> None:
        """Whoever was connected before."""
        assert (self.packets.lost, self.packets.twice) == (0, 0), self
        assert self.talk.broken == "", self
        assert min(self.packets.sent, self.talk.rounds, self.knocks.answered) > 10, f"too little to tell: {self}"


class Scene:
    """A host with two networks that are kept apart, published ports, foreign programs, and an agent."""

    def __init__(self, host: Sandbox, directory: Path) -> None:
        self.host, self.directory = host, directory
        self.world = World(host, directory, "collect_after = 1")
        self.resident = Resident(self.world)
        self.world.network(plan.FRONT, ingressPolicy="isolated")
        self.world.network(plan.BACK)
        ports = publish("8080:80"), publish("8053:53", "udp")
        self._web = self.world.attach("web", plan.FRONT, *ports)
        self._others = [self.world.attach("admin", plan.BACK), self.world.attach("shop", plan.FRONT)]
        self.host.run("tc", "qdisc", "add", "dev", plan.FRONT.device, "clsact")
        self.host.call(foreign.hook, plan.FRONT.device)
        self._foreign = self.host.call(foreign.hooked, plan.FRONT.device)

    def overruns(self) -> int:
        """How often notifications were lost, as the agent's metrics have it."""
        shown = self.host.call(_metrics)
        (value,) = (line.split()[1] for line in shown.splitlines() if line.startswith("dp_netlink_overruns_total "))
        return int(value)

    def packets(self, rate: int) -> Packets:
        """A flow of numbered packets through the published UDP port."""
        return Packets(self.world.client, plan.HOST4, 8053, self._web.netns, 53, rate=rate)

    @contextmanager
    def traffic(self, rate: int = RATE, patience: float = STALLED) -> Iterator[Seen]:
        """Traffic while something happens; who talks waits for an answer so many seconds.

        Afterwards: isolation was never open, nothing is wrong, each program is there once, and those of others are as
        they were.
        """
        seen, client, web = Seen(), self.world.client, self._web
        talk = Conversation(client, plan.HOST4, 8080, web.netns, 80, patience=patience)
        probers = [Prober(one.netns, web.address(4), 80) for one in self._others]
        packets = self.packets(rate)
        knocks = Knocks(client, plan.HOST4, 8080)
        yield seen
        self.resident.settle()
        probed = [prober.stop() for prober in probers]
        seen.knocks, seen.packets, seen.talk = knocks.stop(), packets.stop(), talk.stop()
        assert [one.answers for one in probed] == [0, 0], "isolation was open"
        assert all(one.tries > 10 for one in probed)
        devices = (plan.BACK.device, plan.FRONT.device)
        hooked = [(device, program) for device, program, _ in self.resident.hooked()]
        ours = [one for one in hooked if one[0] in devices]
        assert ours == [(device, program) for device in devices for program in ("checksum", "isolation")]
        guarded = [device for device, program in hooked if program == "guard"]
        assert len(guarded) == len(set(guarded)) == len(hooked) - len(ours) > len(self._others)
        assert self.host.call(foreign.hooked, plan.FRONT.device) == self._foreign


def _metrics() -> str:
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(METRICS)
        asked.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: asked.recv(65536), b"")).decode()
