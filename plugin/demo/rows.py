"""The demo's table: what is tried, what should be seen, what was seen."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from dataplane.abi import U32, U64, ChecksumCounts
from dataplane.doors import Kernel
from dataplane.types import IfIndex
from plugin.demo.traffic import Answer, ask, knock, send
from plugin.demo.world import CLIENT_ADDRESS, ELSEWHERE_ADDRESS, HOST, HOST_ADDRESS, NETNS, World
from plugin.errors import CniError

# The SYN of the known issue of greenpau/cni-plugins, rebuilt from its tcpdump line: NAT wrote web's address over
# 10.0.2.15 and left the checksum at 0xd776; right would be 0xd8b9.
STALE_SYN = bytes.fromhex(
    "ea56b4c64fc7ee583f4d1f230800"
    "4500002c228c00003f0642730a0002020a580074"
    "d30100508b4c4a01000000006002ffffd7760000020405b4"
)
_FLIPPED = 14 + 20 + 14  # a byte of the TCP window

NOTHING = "nothing"
LEFT = ("networks", "origins", "published", "containers", "ports", "port_addresses")
"""Maps that must be empty once nobody is attached."""

_REPAIRED_WITHIN, _PAUSE = 10.0, 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was tried."""

    what: str
    expected: str
    seen: str

    @property
    def right(self) -> bool:
        return self.seen == self.expected


def traffic_rows(world: World) -> Iterator[Row]:
    """Connections from everywhere to everywhere."""
    web, gateway = world.addresses["web"], "10.88.0.1"
    yield _asked("published port, from outside", NETNS / "client", HOST_ADDRESS, 8080, Answer("web", CLIENT_ADDRESS))
    yield _asked("published port, from the host", HOST, HOST_ADDRESS, 8080, Answer("web", HOST_ADDRESS))
    yield _asked("published port, by localhost", HOST, "127.0.0.1", 8080, Answer("web", gateway))
    yield _asked("published port, by localhost", HOST, "::1", 8080, Answer("web", gateway))
    for bridged in (0, 1):
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text(str(bridged), encoding="ascii")
        note = f"(bridge-nf-call-iptables {bridged})"
        yield _asked(f"hairpin to itself {note}", NETNS / "web", HOST_ADDRESS, 8080, Answer("web", gateway))
        yield _asked(f"from a neighbour {note}", NETNS / "shop", HOST_ADDRESS, 8080, Answer("web", gateway))
    admin = world.addresses["admin"]
    yield _asked("published port, from the other network", NETNS / "admin", HOST_ADDRESS, 8080, Answer("web", admin))
    yield _asked("the other way round", NETNS / "web", HOST_ADDRESS, 5432, Answer("db", web))
    yield _asked("the other network directly", NETNS / "admin", web, 80, None)
    yield _asked("the own network directly", NETNS / "shop", web, 80, Answer("web", world.addresses["shop"]))
    yield _asked(
        "forwarded to the same port elsewhere", NETNS / "client", ELSEWHERE_ADDRESS, 8080,
        Answer("elsewhere", CLIENT_ADDRESS),
    )  # fmt: skip
    yield _asked(
        "from a container to the outside", NETNS / "shop", ELSEWHERE_ADDRESS, 8080, Answer("elsewhere", "198.51.100.1")
    )


def checksum_rows(kernel: Kernel) -> Iterator[Row]:
    """The stale frame, and the same frame with a bit flipped besides."""
    yield _knocked("frame that NAT left stale", kernel, STALE_SYN, "answered, repaired 1, corrupt 0")
    flipped = bytearray(STALE_SYN)
    flipped[_FLIPPED] ^= 1
    yield _knocked("the same, one bit corrupted", kernel, bytes(flipped), "no answer, repaired 0, corrupt 1")


def guard_rows(world: World, kernel: Kernel) -> Iterator[Row]:
    """A container that tells its neighbours that the gateway is here."""
    before = _guarded(kernel)
    send(NETNS / "shop", "eth0", _gratuitous_arp(world.macs["shop"], "10.88.0.1"))
    yield Row("ARP of a container: the gateway is me", "dropped 1", f"dropped {_guarded(kernel) - before}")


def state_rows(world: World) -> Iterator[Row]:
    """Whether the kernel is what the attachments ask for, by the plugin's own CHECK."""
    nothing = "no difference"
    try:
        world.check()
    except CniError as error:
        yield Row("CHECK of all four attachments", nothing, str(error))
    else:
        yield Row("CHECK of all four attachments", nothing, nothing)


def repair_rows(repaired: Callable[[], str]) -> Iterator[Row]:
    """What others break, with an agent that repairs it; ``repaired`` tells the last repair as ``dpctl events`` does."""
    expected = Answer("web", CLIENT_ADDRESS)
    for what, words in (
        ("after nft flush ruleset, with an agent", ("nft", "flush", "ruleset")),
        ("after ip link del br-front, with an agent", ("ip", "link", "del", "br-front")),
    ):
        subprocess.run(words, capture_output=True, text=True, check=True)
        end = time.monotonic() + _REPAIRED_WITHIN
        while (seen := ask(NETNS / "client", HOST_ADDRESS, 8080)) != expected and time.monotonic() < end:
            time.sleep(_PAUSE)
        yield Row(f"{what}: {HOST_ADDRESS}:8080", str(expected), str(seen or "no answer"))
        if words[0] == "nft":
            told = repaired()
            yield Row("dpctl events names who did it", "nft", "nft" if "by nft (" in told else told or "nobody")


def teardown_rows() -> Iterator[Row]:
    """What is left after ``dpctl uninstall``: nothing."""
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    left = [table for table in tables.splitlines() if "dataplane" in table]
    left += [str(path) for path in Path("/sys/fs/bpf").glob("dataplane*/*")]
    yield Row("left after uninstall: table, pins", NOTHING, ", ".join(left) or NOTHING)


def residue_rows(world: World, kernel: Kernel, devices: dict[str, IfIndex]) -> Iterator[Row]:
    """What is left after every DEL: nothing."""
    elements = [line.strip() for line in kernel.nft.table_text().splitlines() if "elements" in line]
    yield Row("left after DEL: nft elements", NOTHING, ", ".join(elements) or NOTHING)
    hooked = [
        f"{program.program} on {name}" for name, index in devices.items() for program in kernel.programs.hooked(index)
    ]
    yield Row("left after DEL: BPF programs", NOTHING, ", ".join(hooked) or NOTHING)
    entries = [name for name in LEFT for _ in kernel.programs.entries(name)]
    yield Row("left after DEL: BPF map entries", NOTHING, ", ".join(entries) or NOTHING)
    yield Row("left after DEL: leases", NOTHING, ", ".join(world.leases()) or NOTHING)


def _asked(what: str, source: Path, address: str, port: int, expected: Answer | None) -> Row:
    seen = ask(source, address, port)
    return Row(f"{what}: {address}:{port}", str(expected or "no answer"), str(seen or "no answer"))


def _knocked(what: str, kernel: Kernel, frame: bytes, expected: str) -> Row:
    device = kernel.links.find("br-front")
    key = U32.pack(device.index) if device else b""
    before = _counts(kernel, key)
    answered = knock(HOST, "br-front", frame)
    after = _counts(kernel, key)
    seen = (
        f"{'answered' if answered else 'no answer'}, repaired {after.repaired - before.repaired}, "
        f"corrupt {after.corrupt - before.corrupt}"
    )
    return Row(f"{what}: 0xd776 for 0xd8b9", expected, seen)


def _gratuitous_arp(mac: str, address: str) -> bytes:
    """An answer that nobody asked for (RFC 826): the address is at this MAC."""
    own, claimed = bytes.fromhex(mac.replace(":", "")), IPv4Address(address).packed
    everybody = b"\xff" * 6
    return everybody + own + bytes.fromhex("0806 0001 0800 06 04 0002") + own + claimed + everybody + claimed


def _guarded(kernel: Kernel) -> int:
    return sum(int(U64.unpack(packets)[0]) for _, packets in kernel.programs.entries("guard_drops"))


def _counts(kernel: Kernel, key: bytes) -> ChecksumCounts:
    raw = kernel.programs.get("checksum_counts", key)
    return ChecksumCounts.unpack(raw) if raw else ChecksumCounts()
