"""Is anything wrong with the checksums of a network: evidence in, verdict out. Pure.

    diagnose(evidence)                       -> Diagnosis: since counting began
    diagnose(later.since(earlier))           -> Diagnosis: of what happened in between

Two of the numbers decide. Ours: what the checksum program verified on the way to the containers, and found stale or
corrupt. The receivers': what the kernel dropped in the containers' namespaces because of its sum. What the receivers
dropped and we did not see came another way.

Be aware: where a container is attached to several networks, its receivers' drops are shown, and judged, on each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from control.model import ChecksumPolicy
from dataplane.abi import ChecksumCounts

Counters = Mapping[str, int]
"""Packets that a namespace's protocols dropped because of their sum, by the kernel's name of the counter."""

_TX = ("tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6")


class Health(StrEnum):
    """What can be said of a network, the worst first."""

    UNWATCHED = "the program is missing"
    CORRUPT = "corruption arriving (not NAT)"
    STALE = "stale sums seen, and left as they are"
    UNSEEN = "receivers drop packets that we did not see"
    REPAIRED = "stale sums repaired"
    FINE = "fine"

    @property
    def problem(self) -> bool:
        return self not in {Health.REPAIRED, Health.FINE}


class Role(StrEnum):
    """What a device is on the path of a network."""

    NETWORK = "network"  # the bridge, or the host veth of a routed network
    PORT = "port"  # a container's host veth on a bridge
    CONTAINER = "container"  # the container's own end
    UPLINK = "uplink"  # what the host's default route leaves by
    TUNNEL = "tunnel"  # vxlan, geneve


@dataclass(frozen=True, slots=True)
class Offloads:
    """What one device is trusted to do."""

    name: str
    role: Role
    kind: str
    """"bridge", "veth", "vxlan" ...; empty for hardware."""
    features: Mapping[str, bool] = field(default_factory=dict)
    """By the kernel's names; empty where they could not be read."""
    container: str = ""
    """Whose end or port it is."""

    @property
    def sums(self) -> bool:
        """Whether it is trusted to compute the sums of what it sends."""
        return any(self.features.get(name, False) for name in _TX)

    @property
    def suspect(self) -> bool:
        """Whether it is a tunnel with the setting that some kernels get wrong: a packet that NAT rewrites twice, inside
        and outside, leaves with a wrong sum (known of flannel and calico)."""
        return self.role is Role.TUNNEL and self.features.get("tx-checksum-ip-generic", False)


@dataclass(frozen=True, slots=True)
class Receiver:
    """A container, as the one who drops packets with wrong sums."""

    container: str
    ifname: str
    netns: str
    dropped: Counters = field(default_factory=dict)
    trouble: str = ""
    """Why its counters could not be read; empty where they were."""


@dataclass(frozen=True, slots=True)
class NetworkEvidence:
    """All that was found about one network."""

    name: str
    mode: ChecksumPolicy
    devices: tuple[Offloads, ...]
    receivers: tuple[Receiver, ...]
    unwatched: tuple[str, ...] = ()
    """Devices that the checksum program should run on and does not; under ``fill`` also ports, and the fill program."""
    counts: ChecksumCounts = field(default_factory=ChecksumCounts)
    """As they were after the receivers were looked at ..."""
    counts_before: ChecksumCounts = field(default_factory=ChecksumCounts)
    """... and before that: so that what was dropped in between is never taken for unseen."""
    filled: int = 0
    fill_ports: tuple[int, ...] = ()

    @property
    def dropped(self) -> int:
        """Packets that the receivers dropped because of their sum."""
        return sum(sum(receiver.dropped.values()) for receiver in self.receivers)

    @property
    def left(self) -> int:
        """Packets with a wrong sum that we let pass."""
        return self.counts.corrupt + self.counts.stale - self.counts.repaired

    @property
    def unseen(self) -> int:
        """Packets that receivers dropped and that we did not see."""
        return max(0, self.dropped - self.left)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was found about this host."""

    networks: tuple[NetworkEvidence, ...]
    host: Counters
    """What the host itself dropped."""
    devices: tuple[Offloads, ...] = ()
    """Uplinks and tunnels, which all networks share."""
    lost: int = 0
    """Findings that nobody read in time."""

    def since(self, earlier: Evidence) -> Evidence:
        """What happened since then. What was not there then counts as from 0."""
        before = {network.name: network for network in earlier.networks}
        return replace(
            self,
            networks=tuple(_since(one, before.get(one.name)) for one in self.networks),
            host=_minus(self.host, earlier.host),
            lost=max(0, self.lost - earlier.lost),
        )


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What can be said of one network."""

    evidence: NetworkEvidence
    found: tuple[Health, ...]
    """The worst first, at least one."""

    @property
    def worst(self) -> Health:
        return self.found[0]


def diagnose(network: NetworkEvidence) -> Diagnosis:
    """The verdict over a network."""
    counts = network.counts
    tests = {
        Health.UNWATCHED: bool(network.unwatched),
        Health.CORRUPT: counts.corrupt > 0,
        Health.STALE: counts.stale > counts.repaired,
        Health.UNSEEN: network.unseen > 0,
        Health.REPAIRED: counts.repaired > 0,
    }
    return Diagnosis(network, tuple(health for health, found in tests.items() if found) or (Health.FINE,))


def problem(evidence: Evidence) -> bool:
    """Whether anything is wrong."""
    return any(evidence.host.values()) or any(diagnose(one).worst.problem for one in evidence.networks)


def _since(now: NetworkEvidence, then: NetworkEvidence | None) -> NetworkEvidence:
    if then is None:
        return now
    former = {(one.container, one.ifname): one.dropped for one in then.receivers}
    receivers = tuple(
        replace(one, dropped=_minus(one.dropped, former.get((one.container, one.ifname), {}))) for one in now.receivers
    )
    names = ChecksumCounts.__slots__
    # A device that was made anew begins at 0 again.
    changes = (getattr(now.counts, name) - getattr(then.counts_before, name) for name in names)
    counts = ChecksumCounts(*(max(0, change) for change in changes))
    return replace(now, receivers=receivers, counts=counts, filled=max(0, now.filled - then.filled))


def _minus(now: Counters, then: Counters) -> Counters:
    return {name: max(0, count - then.get(name, 0)) for name, count in now.items()}
