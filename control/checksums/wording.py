"""The words of ``dpctl checksum scan``: the verdict first, the evidence below it, and what to do last. Pure.

network front: stale sums repaired
  seen      12 packets: 4 right, 5 stale (5 repaired), 0 corrupt, ...
  dropped   by receivers: 0
  to do     nothing ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields

from control.checksums.health import Counters, Diagnosis, Evidence, Health, NetworkEvidence, Offloads, Role
from control.model import ChecksumPolicy
from dataplane.abi import ChecksumCounts

Note = tuple[str, str]
"""A label, and what is said under it."""

_SHOWN = {
    "tx": ("tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6"),
    "rx": ("rx-checksum",),
    "tso": ("tx-tcp-segmentation",),
    "gso": ("tx-generic-segmentation",),
    "gro": ("rx-gro",),
    "udp_tnl": ("tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"),
}
"""Groups of features, by the words that people know from ethtool -k; udp_tnl is of tunnels' outer packets."""
_ALIKE = 3
"""How many devices with the same settings are named."""


def notes(diagnosis: Diagnosis, *, since: str, uplink: str) -> Iterator[Note]:
    """What is said below the verdict over a network; ``since`` is when counting began, in words."""
    network = diagnosis.evidence
    yield "mode", _mode(network)
    yield "seen", f"{_seen(network)} ({since})"
    yield "dropped", _dropped(network)
    for receiver in network.receivers:
        if receiver.trouble:
            yield "not read", f"container {receiver.container[:12]}: {receiver.trouble}"
    for text in alike(network.devices):
        yield "offloads", text
    if network.mode is ChecksumPolicy.FILL:
        yield "filled", _filled(network)
    for text in advices(diagnosis, uplink):
        yield "to do", text


def host_notes(evidence: Evidence) -> Iterator[Note]:
    """What is said below the verdict over the host itself."""
    yield "dropped", _counted(evidence.host) or "nothing, because of its sum"
    for text in alike(evidence.devices):
        yield "offloads", text
    if evidence.lost:
        yield "lost", f"{evidence.lost} findings that nobody read in time; the counters have them all the same"
    for device in evidence.devices:
        if device.suspect:
            yield "suspect", _suspicion(device)
    if any(evidence.host.values()):
        yield "to do", f"see what arrives: `dpctl checksum explain --capture {uplink(evidence)} --for 60`"


def uplink(evidence: Evidence) -> str:
    """The device by which packets come from outside, or a word for it."""
    return next((one.name for one in evidence.devices if one.role is Role.UPLINK), "UPLINK")


def advices(diagnosis: Diagnosis, uplink: str) -> list[str]:
    """What to do, about the worst first; what needs nothing is left out where something else needs something."""
    needy = [health for health in diagnosis.found if health.problem] or list(diagnosis.found)
    return [advice(health, diagnosis.evidence, uplink) for health in needy]


def host_headline(evidence: Evidence) -> str:
    """The verdict over the host itself."""
    dropped = sum(evidence.host.values())
    return f"host: {f'it dropped {_packets(dropped)} with wrong sums itself' if dropped else 'fine'}"


def headline(diagnosis: Diagnosis) -> str:
    """The verdict over a network."""
    network = diagnosis.evidence
    found = "; ".join(diagnosis.found)
    if diagnosis.worst is Health.FINE and network.mode is ChecksumPolicy.OFF:
        found = "fine, as far as receivers tell: its mode is off, and nothing is verified"
    return f"network {network.name}: {found}"


def advice(health: Health, network: NetworkEvidence, uplink: str) -> str:
    """What to do about it."""
    name = network.name
    match health:
        case Health.FINE:
            return "nothing"
        case Health.REPAIRED:
            return "nothing: what NAT broke was repaired. Which flows these are: `dpctl checksum watch`"
        case Health.STALE if network.mode in {ChecksumPolicy.REPAIR, ChecksumPolicy.FILL}:
            again = f"`dpctl checksum scan {name} --for 60`"
            return f"make sure that this is over, for the mode is {network.mode} by now: {again}"
        case Health.STALE:
            return f"have them repaired: `dpctl checksum mode {name} {ChecksumPolicy.REPAIR}`"
        case Health.CORRUPT:
            return (
                "find where they come from; they are never repaired. Which flows: `dpctl checksum watch`. Whether they "
                f"arrive so: `dpctl checksum explain --capture {uplink} --for 60`. If they do, the sender, the wire or "
                f"the device is at fault (`ethtool -K {uplink} rx off` has the kernel check what the device let pass)"
            )
        case Health.UNSEEN if network.mode is ChecksumPolicy.OFF:
            return f"have them looked at: `dpctl checksum mode {name} {ChecksumPolicy.OBSERVE}`"
        case Health.UNSEEN:
            worst = max(network.receivers, key=lambda one: sum(one.dropped.values()))
            return (
                "look inside: they came from a neighbour on the same bridge, by another interface, or while no program "
                f"ran. `dpctl checksum explain --capture {worst.ifname} --netns {worst.netns} --for 60`; "
                "then `dpctl checksum scan --for 60`"
            )
        case Health.UNWATCHED:
            return f"put the program back on {', '.join(network.unwatched)}: `dpctl reconcile`"


def alike(devices: Iterable[Offloads]) -> Iterator[str]:
    """A sentence for all devices of a role with the same settings."""
    groups: dict[tuple[Role, str], list[Offloads]] = {}
    for device in devices:
        groups.setdefault((device.role, settings(device)), []).append(device)
    for (role, said), members in groups.items():
        named = [one.name if role is not Role.CONTAINER else f"{one.name} in {one.container[:12]}" for one in members]
        more = f" and {len(named) - _ALIKE} more" if len(named) > _ALIKE else ""
        kind = f" ({members[0].kind})" if members[0].kind and role is not Role.CONTAINER else ""
        yield f"{role} {', '.join(named[:_ALIKE])}{more}{kind}: {said}"


def settings(device: Offloads) -> str:
    """The groups of features that matter here, each on or off."""
    if not device.features:
        return "not told by its driver"
    return ", ".join(
        f"{word} {'on' if any(device.features.get(name, False) for name in names) else 'off'}"
        for word, names in _SHOWN.items()
        if (word, device.kind) != ("rx", "bridge")  # which receives nothing itself, and says "off" to that
    )


def _mode(network: NetworkEvidence) -> str:
    missing = f", but no program is on {', '.join(network.unwatched)}" if network.unwatched else ""
    return f"{network.mode}{missing}"


def _seen(network: NetworkEvidence) -> str:
    counts = network.counts
    if not any(getattr(counts, field.name) for field in fields(ChecksumCounts)):
        return "no packet that had to be looked at"
    parts = [f"{counts.good} right", f"{counts.stale} stale ({counts.repaired} repaired)", f"{counts.corrupt} corrupt"]
    parts += [f"{counts.partial} partial (never an error here)"] if counts.partial else []
    parts += [f"{counts.verified} verified by a device"] if counts.verified else []
    parts += [f"{counts.unreadable} not readable"] if counts.unreadable else []
    return ", ".join(parts)


def _dropped(network: NetworkEvidence) -> str:
    lines = [f"{one.container[:12]}: {_counted(one.dropped)}" for one in network.receivers if any(one.dropped.values())]
    if not lines:
        return "nothing, by any receiver, because of its sum"
    told = f"; {network.unseen} of them were not seen on the way" if network.unseen else ""
    return "; ".join(lines) + told


def _filled(network: NetworkEvidence) -> str:
    ports = ", ".join(map(str, network.fill_ports))
    off = [one.name for one in network.devices if one.role is Role.PORT and one.features and not one.sums]
    needless = f"; needless on {', '.join(off)}, where tx is off and the kernel computes them itself" if off else ""
    return f"{_packets(network.filled)} to UDP ports {ports}{needless}"


def _suspicion(device: Offloads) -> str:
    return (
        f"{device.name} ({device.kind}) is trusted with sums, and on some kernels leaves those wrong that NAT rewrites "
        f"inside and outside of the tunnel. If packets through it are lost or take 63 s: "
        f"`ethtool -K {device.name} tx-checksum-ip-generic off`"
    )


def _counted(counters: Counters) -> str:
    return ", ".join(f"{name} {count}" for name, count in counters.items() if count)


def _packets(count: int) -> str:
    return f"{count} packet{'' if count == 1 else 's'}"
