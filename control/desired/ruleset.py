"""From attachments to nftables: the table's skeleton as data, and what an attachment adds to it as elements.

    hook         chain            what it does, and why there
    prerouting   loopback_guard   raw (-300), before NAT, and only where nftables serves localhost: that needs
                                  route_localnet, by which nobody else must reach the host's 127.0.0.0/8
                                  (CVE-2020-8558)
    prerouting   publish_in       dstnat (-100): traffic to an address of this host, and no other (CVE-2025-67499),
    output       publish_out      is looked up in the publish maps: host-address-specific first (publish_host, for
                                  addresses that have such ports), then wildcard. From outside 127.0.0.0/8 is nobody's:
                                  the kernel drops that only behind this hook, where it had another address by then
    forward      forward          filter (0): published traffic is accepted and marked, so that the isolation program
                                  lets it cross networks; nothing else keeps that mark
    postrouting  source           srcnat (100): hairpin and localhost connections are masqueraded, or answers would
                                  bypass the host; egress where the network asks for it; nothing else, so that
                                  containers see their clients' addresses

What a client from outside pays to reach a published port is what the order of rules is for: IPv4 before IPv6, one
question for the route, one for its host address, one for the port, and on its way out one whether it is a container of
ours and one for ``masqAll``. Whatever only containers need is behind a jump that nobody else takes. Each look-up costs
half a hundredth of a first packet, one in an interval map with concatenated keys more than twice as much, though it be
empty; and each expression in ``forward`` is evaluated for all packets.

Containers appear only as elements. The one exception are ``conditionsV4/V6``: each distinct set of conditions (a
``Group``) has publish maps of its own behind its own rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from itertools import groupby

from control.conditions import Condition
from control.desired.owners import comment_of
from control.model import Attachment, ForeignChain, PortMapping
from dataplane.nft.objects import (
    BaseChain,
    Chain,
    ChainRef,
    Comment,
    Element,
    LinkIndex,
    Port,
    PortRange,
    Rule,
    Set,
    Table,
)
from dataplane.nft.transaction import Command, OwnedTable, Transaction, add, create, delete, flush
from dataplane.types import Address, IfIndex

DEFAULT_MARK = 1 << 27
"""Mark bit of published traffic. Clear of kube-proxy's (14, 15), portmap's (13), Tailscale's (16 to 23)."""

MIN_RANGE = 16
"""Ports from which a range becomes one element: interval maps cost about a millisecond a change, single ports 70 us."""

_HOST_KEY = {4: ("ipv4_addr", "inet_proto", "inet_service"), 6: ("ipv6_addr", "inet_proto", "inet_service")}
_ANY_KEY = ("inet_proto", "inet_service")
_RANGE_TARGET = {4: ("ipv4_addr",), 6: ("ipv6_addr",)}
_TARGET = {4: ("ipv4_addr", "inet_service"), 6: ("ipv6_addr", "inet_service")}
_ON_DEVICE = {4: ("iface_index", "ipv4_addr"), 6: ("iface_index", "ipv6_addr")}
_IP = {4: "ip", 6: "ip6"}
_PORT = "meta l4proto . th dport"

SHORTCUTS = tuple(
    declared
    for version in (4, 6)
    for declared in (
        # Addresses of this host that something is published on, and not on all of them.
        Set(f"specific{version}", _HOST_KEY[version][:1]),
        # Addresses of all attached containers.
        Set(f"sources{version}", _HOST_KEY[version][:1]),
    )
)
"""Sets that say nothing new, but whether it is worth asking further. Their elements are nobody's, and have no owner."""

SETS = SHORTCUTS + tuple(
    declared
    for version in (4, 6)
    for declared in (
        # Published ports; and ranges of ports that keep their numbers, an element each.
        Set(f"publish{version}_host", _HOST_KEY[version], _TARGET[version]),
        Set(f"publish{version}", _ANY_KEY, _TARGET[version]),
        Set(f"ranges{version}_host", _HOST_KEY[version], _RANGE_TARGET[version], interval=True),
        Set(f"ranges{version}", _ANY_KEY, _RANGE_TARGET[version], interval=True),
        # (device, address) of every attached container: who is on the same network as whom.
        Set(f"members{version}", _ON_DEVICE[version]),
        # Targets whose hairpin and localhost connections are masqueraded ("snat"), or all their connections.
        Set(f"snat{version}", _ON_DEVICE[version]),
        Set(f"masq_all{version}", _ON_DEVICE[version]),
        # Sources that are masqueraded when they leave their network ("ipMasq").
        Set(f"egress{version}", _HOST_KEY[version][:1]),
        # Members with a device of their own (ptp): a neighbour's packets leave by another device, and stay as they are.
        Set(f"routed{version}", _ON_DEVICE[version]),
    )
)

_LOOPBACK_GUARD = BaseChain("loopback_guard", "filter", "prerouting", -300)
CHAINS: tuple[Chain, ...] = (
    BaseChain("publish_in", "nat", "prerouting", -100),
    BaseChain("publish_out", "nat", "output", -100),
    BaseChain("forward", "filter", "forward", 0),
    BaseChain("source", "nat", "postrouting", 100),
    Chain("publish_host"),
    Chain("source_container"),
    Chain("source_published"),
)
"""Those of every variant."""

_LOOKUP_CHAINS = ("publish_in", "publish_out", "publish_host")
_FOREIGN_LOOPBACK = 'ip daddr 127.0.0.0/8 iif != "lo" counter drop'
_PUBLISHED = "ct status & (dnat | snat) == dnat"
_EGRESS = (
    "{ip} saddr @egress{version} oif . {ip} saddr != @members{version} oif . {ip} daddr != @routed{version}"
    " {ip} daddr != {multicast} masquerade"
)
_RULES = (
    Rule("forward", "ct status dnat meta mark set meta mark | {mark} accept"),
    # The mark is a way through isolation: nothing else leaves this chain with it, whoever set it.
    Rule("forward", "meta mark & {mark} != 0x00000000 meta mark set meta mark & {others}"),
    Rule("forward", "ct state established,related accept"),
    Rule("source", "ip saddr @sources4 goto source_container"),
    Rule("source", f"oif . ip daddr @masq_all4 {_PUBLISHED} masquerade"),
    Rule("source", "ip6 saddr @sources6 goto source_container"),
    Rule("source", f"oif . ip6 daddr @masq_all6 {_PUBLISHED} masquerade"),
    Rule("source_container", f"{_PUBLISHED} jump source_published"),
    Rule("source_container", _EGRESS.format(ip="ip", version=4, multicast="224.0.0.0/4")),
    Rule("source_container", _EGRESS.format(ip="ip6", version=6, multicast="ff00::/8")),
    Rule("source_published", "oif . ip daddr @masq_all4 masquerade"),
    Rule("source_published", "oif . ip6 daddr @masq_all6 masquerade"),
    Rule("source_published", "oif . ip saddr @members4 oif . ip daddr @snat4 masquerade"),
    Rule("source_published", "oif . ip6 saddr @members6 oif . ip6 daddr @snat6 masquerade"),
    # What reaches a container of ours otherwise is answered through this host: its client keeps its address.
    Rule("source_published", "oif . ip daddr @members4 accept"),
    Rule("source_published", "oif . ip6 daddr @members6 accept"),
)
_LOCALNET_RULES = (
    Rule("loopback_guard", _FOREIGN_LOOPBACK),
    Rule("source", f"ip saddr 127.0.0.0/8 oif . ip daddr @snat4 {_PUBLISHED} masquerade"),
)


@dataclass(frozen=True, slots=True)
class Variant:
    """Which skeleton: what is written for one variant is refused by the table of another."""

    mark: int = DEFAULT_MARK
    localnet: bool = True
    """Whether nftables serves localhost, by connections of 127.0.0.0/8 that leave for a container."""


@dataclass(frozen=True, slots=True)
class Group:
    """One distinct set of conditions, and the maps of the ports that are published under it."""

    version: int
    conditions: tuple[Condition, ...]

    @property
    def suffix(self) -> str:
        """What its maps' names end with; empty for ports without conditions, which are the skeleton's."""
        if not self.conditions:
            return ""
        text = " ".join(str(condition) for condition in self.conditions)
        return "_c" + sha256(text.encode()).hexdigest()[:12]

    def map(self, *, host: bool, ranges: bool) -> Set:
        """One of its four maps: for one host address or all, for single ports or ranges."""
        return Set(
            f"{'ranges' if ranges else 'publish'}{self.version}{'_host' if host else ''}{self.suffix}",
            _HOST_KEY[self.version] if host else _ANY_KEY,
            (_RANGE_TARGET if ranges else _TARGET)[self.version],
            interval=ranges,
        )

    def maps(self) -> tuple[Set, ...]:
        """All four."""
        return tuple(self.map(host=host, ranges=ranges) for host in (True, False) for ranges in (False, True))

    def lookups(self, chain: str, *, host: bool) -> tuple[Rule, ...]:
        """The two rules of a chain by which its ports are found: for one host address or all."""
        ip = _IP[self.version]
        when = "".join(f"{condition} " for condition in self.conditions)
        key = f"{ip} daddr . {_PORT}" if host else _PORT
        return tuple(
            Rule(chain, f"{when}dnat {ip} to {key} map @{self.map(host=host, ranges=ranges).name}")
            for ranges in (False, True)
        )


PLAIN = (Group(4, ()), Group(6, ()))


@cache
def schema(variant: Variant) -> Set:
    """A set without elements whose name says which skeleton this is: flushing it fails unless the table is that one."""
    parts = [declared.declaration() for declared in SETS]
    parts += [chain.declaration() for chain in _chains(variant)]
    parts += [rule.declaration() for rule in (*_static_rules(variant), *_lookups(PLAIN))]
    return Set("schema_" + sha256("\n".join(parts).encode()).hexdigest()[:12], ("mark",))


def skeleton(variant: Variant, groups: Iterable[Group], *, owned: bool = False) -> Transaction:
    """The table without a container: replaces whatever is there."""
    groups = _sorted({*PLAIN, *groups})
    commands: list[Command] = [add(), delete(), add(OwnedTable(Table.MAIN) if owned else Table.MAIN)]
    commands += [add(declared) for declared in (*SETS, schema(variant))]
    commands += [add(chain) for chain in _chains(variant)]
    commands += [add(rule) for rule in _static_rules(variant)]
    commands += [add(declared) for group in groups if group.conditions for declared in group.maps()]
    return Transaction((*commands, *map(add, _lookups(groups))))


def removal() -> Transaction:
    """Our table goes; it is there."""
    return Transaction((delete(),))


def fill(wanted: Iterable[Element]) -> Transaction:
    """All these elements, into empty sets."""
    return Transaction(tuple(add(element) for element in sorted(wanted, key=_order)))


def regroup(before: frozenset[Group], after: frozenset[Group]) -> Transaction:
    """Go from one collection of condition groups to another; empty where they are the same."""
    if before == after:
        return Transaction()
    make = [add(declared) for group in _sorted(after - before) for declared in group.maps()]
    clear = [flush(Chain(name)) for name in _LOOKUP_CHAINS]
    look_up = map(add, _lookups({*PLAIN, *after}))
    drop = [delete(declared) for group in _sorted(before - after) for declared in group.maps()]
    return Transaction((*make, *clear, *look_up, *drop))


def guarded(variant: Variant, transaction: Transaction) -> Transaction:
    """The transaction, refused by the kernel (ENOENT) when our table is missing, another version's or variant's."""
    return Transaction((flush(schema(variant)),)) + transaction if transaction else transaction


def change(before: frozenset[Element], after: frozenset[Element]) -> Transaction:
    """Go from one collection of elements to another. A port that somebody else holds is refused (EEXIST)."""
    there, _ = both_ways(before, after)
    return there


def both_ways(before: frozenset[Element], after: frozenset[Element]) -> tuple[Transaction, Transaction]:
    """As ``change``, and the way back."""
    gone = sorted(before - after, key=_order)
    new = sorted(after - before, key=_order)
    return _exchange(gone, new), _exchange(new, gone)


def _exchange(gone: Iterable[Element], new: Iterable[Element]) -> Transaction:
    commands = [delete(element) for element in gone]
    # Sets are shared: another attachment with the same address may have added the same element.
    commands += [create(element) if element.value else add(element) for element in new]
    return Transaction(tuple(commands))


def elements(attachment: Attachment) -> Iterator[Element]:
    """What an attachment adds to the sets and maps."""
    yield from around_ports(attachment)
    owner = owner_of(attachment)
    for address in targets(attachment):
        group = group_of(attachment, address.version)
        for run in runs(attachment.published(address.version)):
            yield published(run, address, group, owner)


def owner_of(attachment: Attachment) -> Comment:
    """The comment that its elements carry."""
    return comment_of(attachment.key)


def around_ports(attachment: Attachment) -> Iterator[Element]:
    """The same, but for the published ports themselves."""
    request, options = attachment.request, attachment.options
    device, owner = LinkIndex(attachment.device.index), owner_of(attachment)
    for address in request.addresses:
        on_device = (device, address)
        yield Element(f"members{address.version}", on_device, comment=owner)
        yield Element(f"sources{address.version}", (address,))
        if attachment.device.routed:
            yield Element(f"routed{address.version}", on_device, comment=owner)
        if options.ip_masq:
            yield Element(f"egress{address.version}", (address,), comment=owner)
    for address in targets(attachment):
        served = attachment.published(address.version)
        if served and options.masq_all:
            yield Element(f"masq_all{address.version}", (device, address), comment=owner)
        elif served and options.snat:
            yield Element(f"snat{address.version}", (device, address), comment=owner)
    yield from map(specific, host_addresses(attachment))


def host_addresses(attachment: Attachment) -> frozenset[Address]:
    """The addresses of this host that an attachment has ports on which are not on all of them."""
    return frozenset(
        mapping.host_address
        for target in targets(attachment)
        for mapping in attachment.published(target.version)
        if mapping.host_address is not None and not mapping.wildcard
    )


def specific(address: Address) -> Element:
    """The element by which ports on this address of the host are looked up at all; all that have some share it."""
    return Element(f"specific{address.version}", (address,))


def runs(mappings: Iterable[PortMapping]) -> list[tuple[PortMapping, ...]]:
    """Mappings as they become elements: ranges of at least ``MIN_RANGE`` ports that keep their numbers, and single
    ones. Shorter ranges are cheaper as single elements."""

    def kept(mapping: PortMapping) -> tuple[str, str, int, int]:
        return (
            str(mapping.host_address),
            mapping.protocol,
            mapping.host_port - mapping.container_port,
            mapping.host_port,
        )

    ordered = sorted(mappings, key=kept)
    found: list[tuple[PortMapping, ...]] = []
    # Neighbours in a range have the same difference between port and place.
    for _, group in groupby(enumerate(ordered), key=lambda item: (*kept(item[1])[:3], item[1].host_port - item[0])):
        run = tuple(mapping for _, mapping in group)
        if len(run) >= MIN_RANGE and run[0].host_port == run[0].container_port:
            found.append(run)
        else:
            found.extend((mapping,) for mapping in run)
    return found


def published(run: tuple[PortMapping, ...], address: Address, group: Group, owner: Comment) -> Element:
    """The map element of one published port, or of a range of them."""
    first, last = run[0], run[-1]
    host = None if first.wildcard else first.host_address
    where = () if host is None else (host,)
    into = group.map(host=host is not None, ranges=len(run) > 1)
    if len(run) > 1:
        ports = PortRange(Port(first.host_port), Port(last.host_port))
        return Element(into.name, (*where, first.protocol, ports), (address,), owner)
    value = (address, Port(first.container_port))
    return Element(into.name, (*where, first.protocol, Port(first.host_port)), value, owner)


def targets(attachment: Attachment) -> tuple[Address, ...]:
    """Where published ports lead: the first address of each family."""
    first: dict[int, IPv4Address | IPv6Address] = {}
    for address in attachment.request.addresses:
        first.setdefault(address.version, address)
    return tuple(first.values())


def group_of(attachment: Attachment, version: int) -> Group:
    """The condition group of an attachment's ports of one family."""
    options = attachment.options
    return Group(version, options.conditions4 if version == 4 else options.conditions6)


def accept_rules(device: IfIndex) -> tuple[str, ...]:
    """What a foreign forward chain needs to let a network's traffic through; isolation is not nft's and stays."""
    link = LinkIndex(device)
    return (
        f"iif {link} accept",
        f"oif {link} ct status dnat accept",
        f"oif {link} ct state established,related accept",
    )


def accept_owner(device: IfIndex) -> Comment:
    """The comment that tells our rules in a foreign chain, by device."""
    return Comment(f"dataplane device {int(device)}")


def chain_ref(chain: ForeignChain) -> ChainRef:
    """The chain, in nft's words."""
    return ChainRef(chain.family, chain.table, chain.chain)


def _sorted(groups: Iterable[Group]) -> list[Group]:
    # In the order of their rules: ports with conditions before those without, as the narrower match.
    return sorted(groups, key=lambda group: (group.version, group.suffix == "", group.suffix))


def _chains(variant: Variant) -> tuple[Chain, ...]:
    return (_LOOPBACK_GUARD, *CHAINS) if variant.localnet else CHAINS


def _static_rules(variant: Variant) -> tuple[Rule, ...]:
    bit, others = f"{variant.mark:#010x}", f"{variant.mark ^ 0xFFFFFFFF:#010x}"
    rules = (*_RULES, *_LOCALNET_RULES) if variant.localnet else _RULES
    return tuple(Rule(rule.chain, rule.text.replace("{mark}", bit).replace("{others}", others)) for rule in rules)


def _lookups(groups: Iterable[Group]) -> Iterator[Rule]:
    """The rules of the chains that look ports up, all of them."""
    groups = _sorted(groups)
    for chain in ("publish_in", "publish_out"):
        yield Rule(chain, "fib daddr type != local accept")
        if chain == "publish_in":
            yield Rule(chain, _FOREIGN_LOOPBACK)
        for version in (4, 6):
            yield Rule(chain, f"{_IP[version]} daddr @specific{version} jump publish_host")
            for group in groups:
                if group.version == version:
                    yield from group.lookups(chain, host=False)
    for group in groups:
        yield from group.lookups("publish_host", host=True)


def _order(element: Element) -> tuple[str, str]:
    return element.set_name, element.key_text()
