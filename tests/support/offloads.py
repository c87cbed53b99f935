"""What devices do to checksums and segments, switched as ``ethtool -K`` does it (SIOCETHTOOL), which may not be there.

switch(host, "veth0", False, TX_CHECKSUM, GSO, TSO, GRO)
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

from support.netns import Place

TX_CHECKSUM, TSO, GSO, GRO = 0x17, 0x1F, 0x24, 0x2C
"""ETHTOOL_STXCSUM, _STSO, _SGSO, _SGRO (linux/ethtool.h)."""
ALL = (TX_CHECKSUM, TSO, GSO, GRO)

_SIOCETHTOOL = 0x8946


def switch(place: Place, device: str, on: bool, *features: int) -> None:
    """Switch offloads of a device on or off; scatter-gather and segmentation go off with the checksums."""
    place.call(_switch, device, on, features)


def _switch(device: str, on: bool, features: tuple[int, ...]) -> None:
    with socket.socket() as any_socket:
        for feature in features:
            value = array.array("B", struct.pack("=II", feature, on))  # struct ethtool_value
            request = struct.pack("16sP16x", device.encode(), value.buffer_info()[0])
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
