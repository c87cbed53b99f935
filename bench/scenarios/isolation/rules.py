"""Who keeps networks apart, by which rules, and what proves that these rules were in force. Pure.

    given = crowd(1000)                              # networks, in the order in which they came
    restored({1000: given})                          # for iptables-restore: what the firewall plugin writes
    linear(given), sets(given)                       # tables of nft, asleep
    turn((Variant.SETS, 2), (Variant.LINEAR, 1000))  # nft commands that put one to sleep, and wake another

Those of the firewall plugin are in ``bench.peers.firewall``, which says what a packet meets there.

Be aware: tables of all sizes are there at once. Those that are not asked about are dormant, which takes their chains
off their hooks; of iptables' one table the chain FORWARD is written anew, without the comment that the plugin's jump
has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from bench.figures.plots import Role
from bench.peers.firewall import ACCEPTS, ADMIN, FIRST, SECOND, Network, accepts, stages
from dataplane.nft.objects import Table
from dataplane.types import Program

HERE, THERE = "br-here", "br-there"
"""Two of the networks that are kept apart: datagrams from there to here are denied."""

FILTER = "ip filter"
DROPS = "isolation_drops"
"""The map in which the isolation program counts."""
_CROWD = IPv4Address("10.80.0.0")
_ASLEEP = "{ flags dormant; }"


class Variant(StrEnum):
    """What keeps networks apart."""

    NOTHING = "no isolation"
    STAGES = "iptables, rules of ingressPolicy"
    PLUGIN = "iptables, all rules of the firewall plugin"
    LINEAR = "nft, two rules a network"
    SETS = "nft, sets"
    ALONE = "dataplane, isolation alone"
    AGAIN = "dataplane, isolation alone, again"
    DEFAULTS = "dataplane, all defaults"

    @property
    def role(self) -> Role:
        """Its colour."""
        return _ROLES[self]

    @property
    def of_iptables(self) -> bool:
        """Whether its rules are those of the firewall plugin."""
        return self in {Variant.STAGES, Variant.PLUGIN}

    @property
    def of_ours(self) -> bool:
        """Whether it is a program of ours that drops."""
        return self in {Variant.ALONE, Variant.AGAIN, Variant.DEFAULTS}

    @property
    def scans(self) -> bool:
        """Whether a packet meets rule after rule."""
        return self.of_iptables or self is Variant.LINEAR


_ROLES = {
    Variant.NOTHING: Role.FLOOR,
    Variant.STAGES: Role.TODAY,
    Variant.PLUGIN: Role.TODAY_TOO,
    Variant.LINEAR: Role.TODAY_TOO,
    Variant.SETS: Role.PURE,
    Variant.ALONE: Role.OURS_TOO,
    Variant.AGAIN: Role.OURS_TOO,
    Variant.DEFAULTS: Role.OURS,
}


HERE_NETWORK = Network(HERE, IPv4Address("10.77.0.2"))
THERE_NETWORK = Network(THERE, IPv4Address("10.77.1.2"))
OPEN_NETWORKS = (Network("br-open", IPv4Address("10.77.2.2")), Network("br-open-too", IPv4Address("10.77.3.2")))
"""Two that nobody keeps apart, beside those that are."""


@dataclass(frozen=True, slots=True)
class Path:
    """A way that packets are allowed to go."""

    name: str
    listen: int


ROUTED = Path("container to outside", 9001)
PUBLISHED = Path("published port", 9000)
OPEN = Path("between open networks", 9002)
PATHS = (ROUTED, PUBLISHED, OPEN)


@dataclass(frozen=True, slots=True)
class Denied:
    """What became of datagrams that were to be dropped."""

    sent: int
    refused: int
    arrived: int
    dropped: int
    """As the rule or the program counted."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What saw the packets of so many round trips."""

    trips: int
    scanned: int = 0
    """Packets that met all rules of the first stage."""
    runs: Mapping[Program, int] = field(default_factory=dict)
    """How often each program ran."""


def crowd(size: int) -> list[Network]:
    """So many networks that are kept apart, an even number; those that packets go between are in the middle, so that
    what is denied meets half of the rules of each stage. One alone has nobody to be kept apart from."""
    if size == 1:
        return [HERE_NETWORK]
    others = [Network(f"br{number:04}", _CROWD + 256 * number + 2) for number in range(size - 2)]
    half = len(others) // 2
    return [*others[:half], HERE_NETWORK, THERE_NETWORK, *others[half:]]


def restored(sizes: Mapping[int, Sequence[Network]]) -> str:
    """The plugin's rules for each size, for iptables-restore; FORWARD leads to none of them.

    A container of an open network is one of the plugin's, too: it is in CNI-FORWARD, and in no stage.
    """
    lines = ["*filter", ":FORWARD ACCEPT [0:0]", f":{ADMIN} - [0:0]"]
    for size in sizes:
        lines += [f":{chain}-{size} - [0:0]" for chain in (FIRST, SECOND, ACCEPTS)]
    for size, networks in sizes.items():
        half = len(networks) // 2
        lines += stages(networks, f"-{size}")
        lines += accepts([*networks[:half], *OPEN_NETWORKS, *networks[half:]], f"-{size}")
    return "\n".join([*lines, "COMMIT", ""])


def linear(networks: Sequence[Network]) -> str:
    """The two stages as a person writes them in nft: no comment to match, else the same."""
    newest = [network.bridge for network in reversed(networks)]
    return _table(
        table(Variant.LINEAR, len(networks)),
        _chain("stage2", (f'oifname "{bridge}" counter drop' for bridge in newest)),
        _chain(
            "stage1",
            (*(f'iifname "{bridge}" oifname != "{bridge}" counter jump stage2' for bridge in newest), "counter return"),
        ),
        _chain("forward", ("type filter hook forward priority filter; policy accept;", "counter jump stage1")),
    )


def sets(networks: Sequence[Network]) -> str:
    """The best of nft: what is established passes at once, and for the rest there is one rule with sets of devices, by
    index, for names take longer. What is published passes, as it does with ours."""
    bridges = [f'"{network.bridge}"' for network in networks]
    return _table(
        table(Variant.SETS, len(networks)),
        _set("bridges", "iface_index", bridges),
        _set("same", "iface_index . iface_index", [f"{bridge} . {bridge}" for bridge in bridges]),
        _chain(
            "forward",
            (
                "type filter hook forward priority filter; policy accept;",
                "ct state established,related accept",
                "iif @bridges oif @bridges iif . oif != @same ct status ! dnat counter drop",
            ),
        ),
    )


def turn(before: tuple[Variant, int] | None, after: tuple[Variant, int]) -> str:
    """nft commands, one transaction, that put the table of a variant and a size to sleep and wake another's; FORWARD
    leads to the rules of that size."""
    sleeping, awake = (table(*before) if before else "", table(*after))
    variant, size = after
    lines = []
    if variant.of_iptables:
        chains = (FIRST, ACCEPTS) if variant is Variant.PLUGIN else (FIRST,)
        lines.append(f"flush chain {FILTER} FORWARD")
        lines += [f"add rule {FILTER} FORWARD counter jump {chain}-{size}" for chain in chains]
    if sleeping != awake:
        lines += [f"add table {sleeping} {_ASLEEP}"] if sleeping else []
        lines += [f"add table {awake}"] if awake else []
    return "".join(f"{line}\n" for line in lines)


def table(variant: Variant, size: int) -> str:
    """The table of a variant, with its family; "" where it has none."""
    return FILTER if variant.of_iptables else _tables(size).get(variant, "")


def asleep(tables: Iterable[str]) -> str:
    """nft commands that take tables off their hooks."""
    return "".join(f"add table {name} {_ASLEEP}\n" for name in tables)


def dropping(variant: Variant, size: int) -> str:
    """What counts datagrams from there to here that it drops: a chain with its table, our map, or "" for nobody."""
    if variant.of_iptables:
        return f"{FILTER} {SECOND}-{size}"
    match variant:
        case Variant.NOTHING:
            return ""
        case Variant.LINEAR:
            return f"{table(variant, size)} stage2"
        case Variant.SETS:
            return f"{table(variant, size)} forward"
        case _:
            return DROPS


def scanning(variant: Variant, size: int) -> str:
    """The chain whose last rule counts packets that met all of the others; "" where none does."""
    if variant.of_iptables:
        return f"{FILTER} {FIRST}-{size}"
    return f"{table(variant, size)} stage1" if variant is Variant.LINEAR else ""


def leaks(variant: Variant, denied: Denied) -> Iterator[str]:
    """Why datagrams from there to here were not denied as the variant's name says."""
    if denied.refused or not denied.sent:
        yield f"the sender sent {denied.sent:,} datagrams, and was refused {denied.refused:,} times"
    if variant is Variant.NOTHING:
        if denied.arrived != denied.sent:
            yield f"{denied.arrived:,} of {denied.sent:,} datagrams arrived, and nobody keeps them from it"
        return
    if denied.arrived:
        yield f"{denied.arrived:,} of {denied.sent:,} datagrams arrived, and none may"
    if denied.dropped != denied.sent:
        yield f"{denied.dropped:,} drops were counted, of {denied.sent:,} datagrams"


def doubts(variant: Variant, passed: Passed) -> Iterator[str]:
    """Why the packets of round trips did not meet what the variant's name says."""
    if variant.scans and passed.scanned < 2 * max(passed.trips, 1):
        yield f"{passed.scanned:,} packets met all rules, of {passed.trips:,} round trips"
    for program, runs in passed.runs.items():
        attached = program in programs(variant)
        if attached and runs < max(passed.trips, 1):
            yield f"{program} ran {runs:,} times in {passed.trips:,} round trips"
        if not attached and runs:
            yield f"{program} ran {runs:,} times, and is not attached"


def programs(variant: Variant) -> frozenset[Program]:
    """The programs of ours that are attached."""
    if variant is Variant.DEFAULTS:
        return frozenset({Program.ISOLATION, Program.CHECKSUM, Program.GUARD})
    return frozenset({Program.ISOLATION}) if variant.of_ours else frozenset()


def _tables(size: int) -> dict[Variant, str]:
    return {
        Variant.LINEAR: f"inet bench_rules_{size}",
        Variant.SETS: f"inet bench_sets_{size}",
        Variant.DEFAULTS: str(Table.MAIN),
    }


def _table(name: str, *parts: str) -> str:
    return "\n".join([f"table {name} {{", "\tflags dormant;", *parts, "}", ""])


def _set(name: str, kind: str, elements: Sequence[str]) -> str:
    return f"\tset {name} {{\n\t\ttype {kind};\n\t\telements = {{ {', '.join(elements)} }}\n\t}}"


def _chain(name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"\tchain {name} {{", *(f"\t\t{line}" for line in lines), "\t}"])
