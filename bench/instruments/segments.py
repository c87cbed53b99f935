"""What devices do to segments and sums, switched as ``ethtool -K`` does it: in whole, or as if a wire came next.

    switch(host.netns, "uplink", {Feature.GRO: True})            # SIOCETHTOOL; a device that cannot says so
    observed(host.netns, "uplink")                               # as the kernel tells it

Be aware: without transmit checksums a device does no segmentation either, whatever is asked for.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path

from bench.native import BenchError
from dataplane.namespaces import inside
from dataplane.offloads import features


class Feature(IntEnum):
    """What can be switched, by its number in linux/ethtool.h: ETHTOOL_STXCSUM, _STSO, _SGSO, _SGRO."""

    SUMS = 0x17
    TSO = 0x1F
    GSO = 0x24
    GRO = 0x2C


_SIOCETHTOOL = 0x8946
_KERNEL_NAMES = {
    Feature.SUMS: "tx-checksum-ip-generic",
    Feature.TSO: "tx-tcp-segmentation",
    Feature.GSO: "tx-generic-segmentation",
    Feature.GRO: "rx-gro",
}


def switch(netns: Path, device: str, wanted: Mapping[Feature, bool]) -> None:
    """Have a device of a network namespace do so, in this order. Raises ``BenchError`` where it does not."""

    def there() -> dict[Feature, bool]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            for feature, on in wanted.items():
                value = array.array("B", struct.pack("=II", feature, on))  # struct ethtool_value
                request = struct.pack("=16sQ16x", device.encode(), value.buffer_info()[0])
                fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        return _observed(device)

    with netns.open("rb") as opened:
        found = inside(opened.fileno(), there)
    for feature, on in wanted.items():
        if found[feature] is not on:
            raise BenchError(f'could not switch {feature.name} of device "{device}": it is {found[feature]}')


def observed(netns: Path, device: str) -> dict[Feature, bool]:
    """What a device of a network namespace does."""
    with netns.open("rb") as opened:
        return inside(opened.fileno(), lambda: _observed(device))


def _observed(device: str) -> dict[Feature, bool]:
    found = features(device)
    return {feature: found[name] for feature, name in _KERNEL_NAMES.items()}
