"""The cases of one packet: each way through each program, the maps that all of them need, and what proves each.

    ready(door, devices)               # writes the maps, for all of them at once; all else is pure
    cases(devices)                     # "isolation: no entry", "isolation: from the host itself" ...

A case is proved by what the program says and writes: its verdict, the packet it leaves, the counters that rise by just
so many, and where nothing rises a *witness*, the same case with one thing changed that must end otherwise.

What a packet is besides its bytes is the kernel's to say: one that it makes up for a run is never partial (its sum left
to a device), unless it is to be segmented. So what fill does to partial ones is told by round trips alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address

from bench.scenarios.program_cost.frames import SYN, Flow, frame
from dataplane import abi
from dataplane.abi import ChecksumCounts
from dataplane.programs.door import KernelPrograms
from dataplane.types import ChecksumMode, GuardLevel, IfIndex, IsolationPolicy, Program, Protocol

CONTINUE, DROP = -1, 2
DEVICES = ("t-none", "t-net", "t-off", "t-sum", "t-fill", "t-mac", "t-full")
"""Links that play a network's device, or a host veth: none is ever up."""
CROWD = 1_000
"""Networks where there are many; otherwise there are two, and one that is open."""

_CLIENT, _CONTAINER, _HOST, _ELSEWHERE = "10.0.2.2", "10.77.1.2", "10.0.2.15", "10.99.9.9"
_PUBLISHED, _INNER, _DHCP = 18080, 80, 68
"""What these ports and addresses add up to differs in more bits than damage may have flipped."""
_MARK = 1 << 27
_OWN, _SAME, _OTHER, _OPEN, _NOWHERE = 7, 1 << 20, 1 << 20 | 1, 1 << 20 | 2, 1 << 20 | 3
"""The number of the network of all devices; then indexes of links that packets came in by, of links that are not."""
_IDS = {_SAME: _OWN, _OTHER: 8, _OPEN: 9}
_STRANGER = "02:00:00:00:00:99"
_SEGMENT = 32  # bytes


@dataclass(frozen=True, slots=True)
class Witness:
    """What the same case comes to once it is changed so: shows that the maps are in force."""

    frame: bytes
    ingress: int
    verdict: int = DROP


@dataclass(frozen=True, slots=True)
class Case:
    """One way through a program."""

    program: Program
    what: str
    device: str
    frame: bytes
    ingress: int = 0
    mark: int = 0
    gso_size: int = 0
    verdict: int = CONTINUE
    becomes: bytes = b""
    """The packet afterwards, where it is another."""
    restore: int = 0
    """Offset of two bytes that are put back before each run."""
    watched: tuple[str, bytes] = ("", b"")
    """Map and key of counters."""
    rises: tuple[int | None, ...] = ()
    """By how much each run raises them; None: that does not matter."""
    witness: Witness | None = None
    first: bytes = b""
    """A frame that must have gone before."""
    ring: str = ""
    """What the ring of events is: "read" or "full"."""
    networks: int = 2

    @property
    def name(self) -> str:
        return f"{self.program}: {self.what}"


@dataclass(frozen=True, slots=True)
class Devices:
    """Indexes of ``DEVICES``."""

    indexes: Mapping[str, IfIndex] = field(default_factory=dict)

    def key(self, name: str) -> bytes:
        return abi.U32.pack(self.indexes[name])


def cases(devices: Devices) -> list[Case]:
    """All of them, program by program."""
    return [*_isolation(), *_checksum(devices), *_fill(), *_guard(devices)]


def ready(door: KernelPrograms, devices: Devices) -> None:
    """Write all maps that the cases need: no two of them share a device in different states."""
    door.put("settings", abi.U32.pack(0), abi.HostSettings(_MARK).pack())
    for link, number in _IDS.items():
        policy = IsolationPolicy.OPEN if link == _OPEN else IsolationPolicy.SAME_BRIDGE
        door.put("networks", abi.U32.pack(link), abi.NetworkEntry(number, policy, ChecksumMode.OFF).pack())
    for device, policy, mode in (
        ("t-net", IsolationPolicy.SAME_BRIDGE, ChecksumMode.OFF),
        ("t-off", IsolationPolicy.SAME_BRIDGE, ChecksumMode.OFF),
        ("t-sum", IsolationPolicy.OPEN, ChecksumMode.REPAIR),
    ):
        door.put("networks", devices.key(device), abi.NetworkEntry(_OWN, policy, mode).pack())
    origin = abi.OriginKey(ip_address(_CONTAINER), Protocol.TCP.number, _INNER, 0)
    door.put("origins", origin.pack(), abi.Origin(ip_address(_HOST), _PUBLISHED).pack())
    door.put("host_addresses", abi.host_address_key(ip_address(_HOST)), abi.pack_address(ip_address(_HOST)))
    door.put("containers", abi.container_key(_OWN, ip_address(_CONTAINER)), abi.pack_address(ip_address(_CONTAINER)))
    mac = _sent(Protocol.TCP).source_mac
    for device, level in (("t-fill", GuardLevel.OFF), ("t-mac", GuardLevel.MAC), ("t-full", GuardLevel.FULL)):
        door.put("ports", devices.key(device), abi.Port(_OWN, level, mac).pack())
    own = abi.port_address_key(devices.indexes["t-full"], ip_address(_CONTAINER))
    door.put("port_addresses", own, abi.U32.pack(1))
    door.put("fill_ports", abi.fill_key(_OWN, _DHCP), abi.U32.pack(1))


def crowded(door: KernelPrograms, before: int, networks: int) -> int:
    """Have so many networks, of which ``before`` were made by this; how many are now."""
    entry = abi.NetworkEntry(_OWN + 10, IsolationPolicy.SAME_BRIDGE, ChecksumMode.OFF).pack()
    wanted = networks - len(_IDS) if networks > len(_IDS) else 0
    for number in range(before, wanted):
        door.put("networks", abi.U32.pack(1 << 21 | number), entry)
    for number in range(wanted, before):
        door.drop("networks", abi.U32.pack(1 << 21 | number))
    return wanted


def _sent(protocol: Protocol, port: int = 4000, inner: int = _INNER) -> Flow:
    return Flow(protocol, _CLIENT, port, _CONTAINER, inner)


PLAIN = Case(Program.ISOLATION, "", "t-none", frame(_sent(Protocol.TCP), 64), restore=_sent(Protocol.TCP).check_at)


def _isolation() -> list[Case]:
    packet = frame(_sent(Protocol.TCP), 64)
    case = Case(Program.ISOLATION, "", "t-net", packet, witness=Witness(packet, _OTHER))
    dropped = replace(case, ingress=_OTHER, verdict=DROP, rises=(1,), witness=None)
    pair = ("isolation_drops", abi.NETWORK_PAIR.pack(_IDS[_OTHER], _OWN))
    lost = ("events_lost", abi.U32.pack(0))
    return [
        replace(case, what="no entry", device="t-none", ingress=_NOWHERE, witness=None),
        replace(case, what="from the host itself"),
        replace(case, what="from outside", ingress=_NOWHERE),
        replace(case, what="same network", ingress=_SAME),
        replace(case, what="other network, open", ingress=_OPEN),
        replace(case, what="other network, open", ingress=_OPEN, networks=CROWD),
        replace(case, what="published (marked)", ingress=_OTHER, mark=_MARK),
        replace(dropped, what="dropped, event read", ring="read", watched=pair),
        replace(dropped, what="dropped, ring full", ring="full", watched=lost),
    ]


def _checksum(devices: Devices) -> list[Case]:
    flow, again = _sent(Protocol.TCP), _sent(Protocol.TCP, 4001)
    packet, partial = frame(flow, 64), frame(_sent(Protocol.TCP, 4002), 64, partial=True)
    before = again.to(_HOST, _PUBLISHED)
    watched = ("checksum_counts", devices.key("t-sum"))
    case = Case(Program.CHECKSUM, "", "t-sum", packet, watched=watched)
    none = replace(case, watched=("", b""))
    stale = replace(case, restore=again.check_at, rises=_counts(stale=None, repaired=1))
    found = [
        replace(none, what="no entry", device="t-none"),
        replace(none, what="network off", device="t-off"),
        replace(case, what="flow known good", first=frame(flow, 64, flags=SYN), rises=_counts()),
    ]
    for length in (64, 1500):
        first, right = frame(_sent(Protocol.TCP, 4003), length, flags=SYN), frame(again, length)
        wrong = frame(again, length, summed_for=before)
        found += [
            replace(case, what=f"first packet verified, {length:,} bytes", frame=first, rises=_counts(good=1)),
            replace(stale, what=f"stale, repaired, {length:,} bytes", frame=wrong, becomes=right),
        ]
    return [
        *found,
        replace(case, what="partial (to be segmented)", frame=partial, gso_size=_SEGMENT, rises=_counts(partial=1)),
    ]


def _fill() -> list[Case]:
    """Of packets that have nothing to be filled."""
    served = frame(_sent(Protocol.UDP, 67, _DHCP), 300)
    case = Case(Program.FILL, "", "t-fill", served, watched=("filled", abi.U32.pack(_OWN)), rises=(0,))
    return [replace(case, what="no entry", device="t-none"), replace(case, what="named port, sum complete")]


def _guard(devices: Devices) -> list[Case]:
    own = Flow(Protocol.TCP, _CONTAINER, _INNER, _CLIENT, 4000)
    packet, spoofed = frame(own, 64), frame(replace(own, source=_ELSEWHERE), 64)
    strange = frame(replace(own, source_mac=_STRANGER), 64)
    case = Case(Program.GUARD, "", "t-full", packet, witness=Witness(spoofed, 0))
    reason = abi.GUARD_DROP_KEY.pack(devices.indexes["t-full"], abi.GuardReason.SOURCE_ADDRESS)
    return [
        replace(case, what="no entry", device="t-none", witness=None),
        replace(case, what="mac", device="t-mac", witness=Witness(strange, 0)),
        replace(case, what="full"),
        replace(
            case, what="dropped, event read", frame=spoofed, verdict=DROP, witness=None, ring="read",
            watched=("guard_drops", reason), rises=(1,),
        ),
    ]  # fmt: skip


def _counts(**each: int | None) -> tuple[int | None, ...]:
    return tuple(each.get(one.name, 0) for one in fields(ChecksumCounts))
