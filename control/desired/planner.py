"""What must change: desired state as a value, and the steps from one desired state to another.

    before = desired([], others, facts, host)
    after  = desired([attachment], [*others, use_of(attachment)], facts, host)
    plan(before, after, host.variant)  ->  load, put entries, attach, set sysctls, run nft, flush flows

Only what an attachment can touch is compared: itself, those that share one of its addresses, and the uses of its
device. ADD, its repetition, DEL and the rollback of each are all this one function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from control.desired import adminchain, hooks, ruleset, zones
from control.desired.hooks import Entries, HostWide, NetworkFacts, Use
from control.desired.ruleset import Group, Variant
from control.model import Attachment, ForeignChain, IngressPolicy
from dataplane.abi import ADDRESS, U32, pack_address
from dataplane.doors import FlowFilter, PortFlags
from dataplane.nft.objects import Element
from dataplane.nft.transaction import Transaction
from dataplane.steps import (
    AttachLocalhost,
    AttachProgram,
    DeleteRules,
    DetachProgram,
    DropEntry,
    FlushFlows,
    ForgetCounts,
    InsertRules,
    LoadPrograms,
    PutEntry,
    RunNft,
    SetPortFlags,
    SetSysctl,
    Step,
)
from dataplane.types import Address, IfIndex, Program, Protocol

IPV4_FORWARDING = "net/ipv4/ip_forward"
IPV6_FORWARDING = "net/ipv6/conf/all/forwarding"


@dataclass(frozen=True, slots=True)
class PortUse:
    """The flags that a bridge port needs (True, or None for whichever it has), and those that it had before us."""

    needs: PortFlags
    former: PortFlags


_UNUSED_PORT = PortUse(PortFlags(), PortFlags())


@dataclass(frozen=True, slots=True)
class Desired:
    """What should be in the kernel for some attachments."""

    elements: frozenset[Element]
    groups: frozenset[Group]
    accepts: frozenset[tuple[ForeignChain, IfIndex]]
    hooks: frozenset[tuple[Program, IfIndex]]
    entries: Entries
    localhost: frozenset[Program]
    """Programs of the cgroups' root, which lead processes of the host to published ports. They stay when nobody needs
    them any more, until all of the dataplane is removed: an ADD need not wait for them again."""
    host_sysctls: Mapping[str, str]
    """Set when needed, never set back: others rely on them by then."""
    device_sysctls: Mapping[str, str]
    """Set back with the last attachment that needs them."""
    ports: Mapping[IfIndex, PortUse]
    admin_chains: frozenset[str]
    """Made when needed, never removed: what is in them is somebody's work."""
    sources: frozenset[tuple[str, Address]]
    """(zone of firewalld, address): counts where firewalld runs."""


def desired(
    attachments: Iterable[Attachment],
    uses: Iterable[Use],
    facts: Mapping[str, NetworkFacts],
    host: HostWide,
    gone: frozenset[IfIndex] = frozenset(),
) -> Desired:
    """Everything that attachments, and the uses of their devices, ask of the kernel.

    ``facts`` must know every network that ``attachments`` and ``uses`` name. Of links that are ``gone`` nothing is
    asked but elements, and the maps that these are in.
    """
    attachments = tuple(attachments)
    return replace(
        around_elements(attachments, uses, facts, host, gone),
        elements=frozenset(chain.from_iterable(ruleset.elements(attachment) for attachment in attachments)),
    )


def around_elements(
    attachments: Iterable[Attachment],
    uses: Iterable[Use],
    facts: Mapping[str, NetworkFacts],
    host: HostWide,
    gone: frozenset[IfIndex] = frozenset(),
) -> Desired:
    """The same without elements: of all attachments these are tens of thousands, and kept elsewhere (``contents``)."""
    attachments, everybodys = tuple(attachments), tuple(uses)
    uses = tuple(use for use in everybodys if use.device not in gone)
    ported = tuple(one for one in attachments if hooks.port_of(one) not in gone)
    return Desired(
        elements=frozenset(),
        groups=frozenset(chain.from_iterable(use.groups for use in everybodys)),
        accepts=frozenset((foreign, use.device) for use in uses for foreign in use.forward_chains),
        hooks=hooks.programs(uses, facts) | hooks.port_programs(ported, facts),
        entries=hooks.device_entries(uses, facts, host) | hooks.attachment_entries(attachments, facts, host),
        localhost=hooks.localhost_programs(everybodys, host),
        host_sysctls=dict.fromkeys(
            [IPV4_FORWARDING for use in uses if use.forwards4] + [IPV6_FORWARDING for use in uses if use.forwards6], "1"
        ),
        device_sysctls={
            route_localnet(use.device_name): "1"
            for use in uses
            if 4 in use.localhost and host.localnet and not host.cookie
        },
        ports=_port_uses(one for one in attachments if one.device.port and one.device.index not in gone),
        admin_chains=frozenset(use.admin_chain for use in everybodys if use.admin_chain),
        sources=sources(attachments),
    )


def of_ports(attachments: Iterable[Attachment], gone: frozenset[IfIndex]) -> Desired:
    """What attachments ask of their bridge ports alone."""
    ports = _port_uses(one for one in attachments if one.device.port and one.device.index not in gone)
    return replace(desired((), (), {}, HostWide(0)), ports=ports)


def of_veths(
    attachments: Iterable[Attachment], facts: Mapping[str, NetworkFacts], veths: Collection[IfIndex]
) -> Desired:
    """What all attachments of some containers ask of these host veths: programs, and what is in their maps for them."""
    attachments = tuple(attachments)
    asked = {hooks.port_of(one) for one in attachments}.intersection(veths)
    begins = {U32.pack(veth) for veth in asked}
    return replace(
        desired((), (), {}, HostWide(0)),
        hooks=frozenset(hook for hook in hooks.port_programs(attachments, facts) if hook[1] in asked),
        entries={
            entry: value
            for entry, value in hooks.port_entries(attachments, facts).items()
            if entry[1][: U32.size] in begins
        },
    )


def told_in_full(wanted: Desired, veths: Collection[IfIndex], addresses: Collection[Address]) -> Desired:
    """The same, of the maps that several attachments may have an entry in together only what is about these host
    veths and containers' addresses, all of whose attachments are known."""
    ends, hosts = {U32.pack(veth) for veth in veths}, {pack_address(address) for address in addresses}

    def is_told(name: str, key: bytes) -> bool:
        return key[: U32.size] in ends if name in hooks.PORT_MAPS else name != "origins" or key[: ADDRESS.size] in hosts

    return replace(wanted, entries={entry: value for entry, value in wanted.entries.items() if is_told(*entry)})


def of_map(name: str, attachments: Iterable[Attachment], facts: Mapping[str, NetworkFacts], host: HostWide) -> Desired:
    """What attachments ask of one of the maps about containers (``hooks.CONTAINER_MAPS``) alone."""
    return replace(
        desired((), (), {}, HostWide(0)), entries=hooks.container_entries(attachments, facts, host, frozenset({name}))
    )


def sources(attachments: Iterable[Attachment]) -> frozenset[tuple[str, Address]]:
    """The addresses that belong into zones of firewalld, each with its zone."""
    return frozenset(
        (one.options.firewalld_zone, address)
        for one in attachments
        if one.options.firewalld_zone
        for address in one.request.addresses
    )


def plan(
    before: Desired,
    after: Desired,
    variant: Variant,
    *,
    former: Mapping[str, str] | None = None,
) -> tuple[Step, ...]:
    """Steps from one desired state to another, in the order that never opens what is closed.

    ``former`` holds the values that device sysctls had before us.
    """
    return (
        *_build_hooks(before, after),
        *_set_sysctls(before, after, former or {}),
        *_set_port_flags(before, after),
        *_run_nft(before, after, variant),
        *zones.change(before.sources, after.sources),
        *_release_ports(before, after),
        *_remove_hooks(before, after),
    )


def flow_filters(attachments: Iterable[Attachment | None], local: tuple[Address, ...]) -> tuple[FlowFilter, ...]:
    """Which conntrack entries of UDP ports must go when these attachments come, change or leave.

    ``local``: the host's addresses, loopback included; a wildcard port claims exactly these, so that flows that are
    merely forwarded to the same port elsewhere live on.
    """
    filters: dict[FlowFilter, None] = {}
    for attachment in attachments:
        if attachment is None:
            continue
        versions = {address.version for address in ruleset.targets(attachment)}
        published = {version: frozenset(attachment.published(version)) for version in versions}
        for mapping in attachment.request.mappings:
            if mapping.protocol is not Protocol.UDP:
                continue
            host = mapping.host_address
            claimed = local if host is None or mapping.wildcard else (host,)
            families = {version for version in versions if mapping in published[version]}
            chosen = tuple(address for address in claimed if address.version in families)
            filters[FlowFilter(mapping.protocol, mapping.host_port, chosen)] = None
    return tuple(one for one in filters if one.addresses)


def masqueraded(attachments: Iterable[Attachment]) -> tuple[Address, ...]:
    """The addresses whose flows are masqueraded when they leave their network."""
    return tuple(address for one in attachments if one.options.ip_masq for address in one.request.addresses)


def flush_flows(filters: tuple[FlowFilter, ...], sources: tuple[Address, ...] = ()) -> tuple[Step, ...]:
    """The step for these filters and the untranslated flows from these addresses, if there are any."""
    return (FlushFlows(filters, sources),) if filters or sources else ()


def is_device_sysctl(name: str) -> bool:
    """Whether a sysctl is one of those that are set back."""
    return name.endswith("/route_localnet")


def route_localnet(device: str) -> str:
    """The sysctl that lets a device carry packets from 127.0.0.1."""
    return f"net/ipv4/conf/{device}/route_localnet"


def _build_hooks(before: Desired, after: Desired) -> Iterable[Step]:
    # Slots of "origins" are read up to the first gap, so the last ones are written first: a growing list shows what it
    # showed before until it shows all.
    changed = sorted((item for item in after.entries.items() if before.entries.get(item[0]) != item[1]), reverse=True)
    attached = sorted(after.hooks - before.hooks, key=_hook_order)
    leads = after.localhost - before.localhost
    if changed or attached or leads:
        yield LoadPrograms()
    # The maps first: a program that runs before it finds its network lets everything pass.
    yield from (PutEntry(map_name, key, value) for (map_name, key), value in changed)
    yield from (AttachProgram(program, device) for program, device in attached)
    if leads:
        yield AttachLocalhost(leads)


def _remove_hooks(before: Desired, after: Desired) -> Iterable[Step]:
    yield from (DetachProgram(*hook) for hook in sorted(before.hooks - after.hooks, key=_hook_order))
    # Slots of "origins" are read up to the first gap: the last go first. Settings are the host's, not a network's.
    gone = sorted((entry for entry in before.entries if entry not in after.entries), reverse=True)
    yield from (DropEntry(*entry) for entry in gone if entry[0] != "settings")
    for program, device in before.hooks - after.hooks:
        if program is Program.CHECKSUM:
            yield ForgetCounts(device)


def _set_sysctls(before: Desired, after: Desired, former: Mapping[str, str]) -> Iterable[Step]:
    for name, value in {**after.host_sysctls, **after.device_sysctls}.items():
        if {**before.host_sysctls, **before.device_sysctls}.get(name) != value:
            yield SetSysctl(name, value)
    for name in before.device_sysctls:
        if name not in after.device_sysctls and name in former:
            yield SetSysctl(name, former[name], optional=True)


def _set_port_flags(before: Desired, after: Desired) -> Iterable[Step]:
    for port, use in after.ports.items():
        held = before.ports.get(port, _UNUSED_PORT)
        if use.needs != held.needs:
            # What we turned on gets its former value back: the bridge plugin has keys for both flags, too.
            back = held.former.where(held.needs)
            yield SetPortFlags(port, PortFlags(use.needs.hairpin or back.hairpin, use.needs.isolated or back.isolated))


def _release_ports(before: Desired, after: Desired) -> Iterable[Step]:
    for port, use in before.ports.items():
        if port not in after.ports and use.needs != PortFlags():
            yield SetPortFlags(port, use.former.where(use.needs), optional=True)


def _run_nft(before: Desired, after: Desired, variant: Variant) -> Iterable[Step]:
    growing, shrinking = before.groups | after.groups, after.groups
    there, back = ruleset.both_ways(before.elements, after.elements)
    do = ruleset.regroup(before.groups, growing) + there + ruleset.regroup(growing, shrinking)
    undo = ruleset.regroup(after.groups, growing) + back + ruleset.regroup(growing, before.groups)
    if do:
        yield RunNft(ruleset.guarded(variant, do), ruleset.guarded(variant, undo))
    if chains := after.admin_chains - before.admin_chains:
        yield RunNft(adminchain.transaction(chains), Transaction())
    accept = sorted(after.accepts - before.accepts, key=str)
    retract = sorted(before.accepts - after.accepts, key=str)
    for foreign, device in accept:
        rules, owner = ruleset.accept_rules(device), ruleset.accept_owner(device)
        yield InsertRules(ruleset.chain_ref(foreign), rules, owner, optional=foreign.optional)
    for foreign, device in retract:
        yield DeleteRules(ruleset.chain_ref(foreign), ruleset.accept_rules(device), ruleset.accept_owner(device))


def _port_uses(attachments: Iterable[Attachment]) -> dict[IfIndex, PortUse]:
    uses: dict[IfIndex, PortUse] = {}
    for one in attachments:
        use, other = _port_use(one), uses.get(one.device.port, _UNUSED_PORT)
        # Parts of one interface share its port; those that need something know what was there before all of them.
        needs = PortFlags(use.needs.hairpin or other.needs.hairpin, use.needs.isolated or other.needs.isolated)
        uses[one.device.port] = PortUse(needs, other.former if use.former == PortFlags() else use.former)
    return uses


def _port_use(attachment: Attachment) -> PortUse:
    # br_netfilter rewrites a bridged packet in place, without routing it: to come back to its sender through a
    # published port, it must be allowed to leave by the port it came in by.
    needs = PortFlags(
        hairpin=True if attachment.request.mappings else None,
        isolated=True if attachment.options.ingress_policy is IngressPolicy.ISOLATED else None,
    )
    return PortUse(needs, attachment.device.port_flags)


def _hook_order(hook: tuple[Program, IfIndex]) -> tuple[int, int]:
    return hook[1], tuple(Program).index(hook[0])
