"""What only the kernel knows, as samples for ``control.agent.metrics``: BPF maps, dropped packets, checksums.

    samples, remarks = sample(kernel, {1: "front"}, (one.key for one in attachments), queued=0)

What cannot be read is not there, and a remark says why: a scrape shows as much as it can.

Be aware: asks for what is pinned now, and for every entry of some maps, about 3 us each. Series are of networks and
devices that stay; the host ends of routed containers (ptp) are one series together, for they come and go as containers
do. What guard dropped of a container that is gone counts as of "gone": the series of its network grows smaller with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress

from control.agent import metrics
from control.agent.metrics import Sample
from control.drops import GONE, network_name
from dataplane import abi
from dataplane.abi import ChecksumCounts, GuardReason, Port
from dataplane.doors import Kernel
from dataplane.errors import DataplaneError
from dataplane.types import IfIndex

MAPS = (
    "networks",
    "origins",
    "published",
    "containers",
    "ports",
    "port_addresses",
    "host_addresses",
    "fill_ports",
    "checksum_counts",
)
"""Maps that can be full. The others have a fixed size, or make room by themselves (LRU)."""

_ROUTED = "veth"


def sample(
    kernel: Kernel, networks: Mapping[int, str], sizes: Mapping[str, int], queued: int
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Samples, and why some are missing.

    ``networks`` are names by the id that the BPF programs know, ``sizes`` interfaces by the name of their network.
    """
    found = [
        Sample(metrics.QUEUE_LENGTH, (), queued),
        *(Sample(metrics.ATTACHMENTS, (network,), number) for network, number in sizes.items()),
    ]
    remarks = []
    with suppress(DataplaneError):  # what is refused here is refused below, and said
        kernel.programs.loaded()
    for part in (
        _sizes(kernel),
        _drops(kernel, networks),
        _guard_drops(kernel, networks),
        _filled(kernel, networks),
        _checksums(kernel),
    ):
        try:
            found += part
        except DataplaneError as error:
            remarks.append(str(error))
    return tuple(found), tuple(dict.fromkeys(remarks))


def _sizes(kernel: Kernel) -> Iterator[Sample]:
    for name in MAPS:
        size = kernel.programs.size(name)
        yield Sample(metrics.MAP_ENTRIES, (name,), size.entries)
        yield Sample(metrics.MAP_MAX, (name,), size.maximum)
    yield Sample(metrics.RINGBUF_LOST, (), kernel.programs.events_lost())


def _drops(kernel: Kernel, networks: Mapping[int, str]) -> Iterator[Sample]:
    for key, value in kernel.programs.entries("isolation_drops"):
        source, destination = (network_name(number, networks) for number in abi.NETWORK_PAIR.unpack(key))
        (packets,) = abi.U64.unpack(value)
        yield Sample(metrics.DROPS, ("isolation", f"{source} to {destination}"), packets)


def _guard_drops(kernel: Kernel, networks: Mapping[int, str]) -> Iterator[Sample]:
    for key, value in kernel.programs.entries("guard_drops"):
        index, reason = abi.GUARD_DROP_KEY.unpack(key)
        port = kernel.programs.get("ports", abi.U32.pack(index))
        network = GONE if port is None else network_name(Port.unpack(port).network, networks)
        (packets,) = abi.U64.unpack(value)
        yield Sample(metrics.GUARD_DROPS, (network, GuardReason(reason).name.lower()), packets)


def _filled(kernel: Kernel, networks: Mapping[int, str]) -> Iterator[Sample]:
    for key, value in kernel.programs.entries("filled"):
        (number,), (packets,) = abi.U32.unpack(key), abi.U64.unpack(value)
        yield Sample(metrics.CSUM_FILLED, (network_name(number, networks),), packets)


def _checksums(kernel: Kernel) -> Iterator[Sample]:
    wrong, repaired, observed = 0, Counter[str](), Counter[str]()
    for key, value in kernel.programs.entries("checksum_counts"):
        counts, device = ChecksumCounts.unpack(value), _device(kernel, IfIndex(*abi.U32.unpack(key)))
        wrong += counts.stale + counts.corrupt
        repaired[device] += counts.repaired
        observed[device] += counts.stale - counts.repaired
    for kind, packets in (("repaired", repaired), ("observed", observed)):
        yield from (Sample(metrics.CSUM_FIXUPS, (device, kind), number) for device, number in packets.items())
    yield Sample(metrics.CSUM_BAD_SEEN, (), wrong)


def _device(kernel: Kernel, index: IfIndex) -> str:
    link = kernel.links.get(index)
    if link is None:
        return GONE
    return _ROUTED if link.kind == "veth" else link.name
