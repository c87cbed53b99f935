"""Attachments read back from what they left in the kernel, for a state that was deleted or cannot be read. Pure.

    found = rebuilt(survey(kernel))            # control/state/survey.py asks the kernel
    found.attachments, found.numbers, found.notes

    what the kernel holds                 tells
    comments of elements                  network, container, interface, plugin
    members, routed                       addresses; device, and whether containers are routed to each other
    publish, ranges                       ports, and the address that they lead to; their group the conditions
    snat, masq_all, egress                what is masqueraded
    networks, containers (BPF), hooks     policy, checksum mode, the network's number
    ports, port_addresses (BPF)           the host veth, what the container may send, its MAC, the network's number
    fill_ports (BPF)                      UDP ports whose partial sums are completed
    aliases, peers in namespaces          the host veth, and the path of the container's namespace
    leases                                the directory of leases

Where the kernel was told nothing, what closes is assumed: the policy and mode of a device are those of all who use it,
what one part of an interface has guarded all have, and a port's flags before us are those it has now, so that a DEL
leaves them. A part of an interface that has no element
of its own is not told from its siblings; what it asked for goes with them.

Be aware: the order of ports, the host address of a port where 0.0.0.0 and none mean the same, ports that another
interface of the container holds, an operator's checksum mode, ``forwardChains``, and zones of firewalld other than
"trusted" are told by nothing; nor, where its name had to be cut, that a container has two interfaces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from control.desired.hooks import GUARDS, MODES, POLICIES, port_of
from control.desired.owners import is_cut
from control.model import (
    DEFAULT_FILL_PORTS,
    Attachment,
    AttachmentKey,
    ChecksumPolicy,
    Claim,
    Device,
    GuardPolicy,
    IngressPolicy,
    Options,
    PortMapping,
    Request,
)
from control.state.remains import TRUSTED, Place, Publication, Remains, Sandbox, Traces, interface_of
from control.wiring.wire import alias_of
from dataplane.abi import MANUAL_NETWORK
from dataplane.doors import PortFlags
from dataplane.types import Address, IfIndex, Program, Protocol

_POLICY_OF = {policy: name for name, policy in POLICIES.items()}
_MODE_OF = {mode: name for name, mode in MODES.items()}
_GUARD_OF = {level: name for name, level in GUARDS.items()}
_ANY: dict[int, Address] = {4: IPv4Address(0), 6: IPv6Address(0)}
_NO_LINK = IfIndex(0)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was read back."""

    attachments: tuple[Attachment, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Of networks."""
    notes: tuple[str, ...] = ()
    """What could not be, a sentence each."""


def rebuilt(remains: Remains) -> Rebuilt:
    """The attachments that have left what there is."""
    traces = Traces(remains)
    rebuilding = _Rebuilding(remains, traces)
    found = tuple(one for key in sorted(traces.keys()) if (one := rebuilding.attachment(key)) is not None)
    found = _isolated_as_found(found, remains)
    return Rebuilt(found, rebuilding.numbers(found), tuple(dict.fromkeys(rebuilding.notes)))


class _Rebuilding:
    """Attachments as they are put together from their traces."""

    def __init__(self, remains: Remains, traces: Traces) -> None:
        self._remains, self._traces = remains, traces
        self.notes: list[str] = []
        if traces.nobodys:
            self.notes.append(f"{traces.nobodys} elements do not tell whose they are: what they publish ends")

    def attachment(self, key: AttachmentKey) -> Attachment | None:
        """One of them; None where not even its device is known."""
        remains, traces, published = self._remains, self._traces, self._openly_published(key)
        led = {one.target for one in published}
        siblings = [other for other in traces.places if interface_of(other) == interface_of(key)]
        places = {place for other in siblings for kind in traces.places[other].values() for place in kind}
        index = self._device(key, places, led)
        if index is None:
            self.notes.append(f"attachment {key} has no device any more: what is left of it is removed")
            return None
        addresses = _ordered({address for device, address in places if device == index} | led | traces.egress[key], led)
        sandbox, port = self._sandbox(key, index, addresses)
        port = port or self._veth(index, addresses)
        link = remains.links.get(index)
        if link is None:
            self.notes.append(f"attachment {key} is of a device that is gone: dpctl gc removes it")
        elif link.kind != "bridge":
            port = _NO_LINK
        mappings, yielded = self._mappings(key, published, {address.version for address in addresses})
        veth = port or index
        options = self._options(key, (index, veth), addresses, published)
        if is_cut(key):
            self.notes.append(f"attachment {key} has a longer name, which its runtime's next call tells")
        # What is not going to be changed need not be known.
        changed = port and (mappings or options.ingress_policy is IngressPolicy.ISOLATED)
        names = (remains.links[one].name for one in (index, port) if one in remains.links)
        return Attachment(
            Request(
                key,
                addresses,
                tuple(names),
                mappings,
                options,
                netns=sandbox.path if sandbox else "",
                netns_inode=sandbox.inode if sandbox else 0,
                mac=remains.ports[veth].mac if veth in remains.ports else "",
                lease_dir=remains.lease_dir if key in remains.leased else "",
            ),
            Device(
                index,
                link.name if link else "",
                port,
                remains.flags.get(port, PortFlags()) if changed else PortFlags(),
                routed=any((index, address) in traces.everywhere["routed"] for address in addresses),
            ),
            yielded,
        )

    def numbers(self, found: Iterable[Attachment]) -> dict[str, int]:
        """The numbers of the networks, as far as the devices' entries tell them apart."""
        users: defaultdict[IfIndex, set[str]] = defaultdict(set)
        numbers: dict[str, int] = {}
        for one in found:
            users[one.device.index].add(one.key.network)
            known = {entry.network for entry in (self._remains.ports.get(port_of(one)),) if entry}
            known = known or {number for number, address in self._remains.watched if address in one.request.addresses}
            if len(known - {0}) == 1:  # an address may be one of several networks
                numbers.setdefault(one.key.network, max(known))
        entries = {device: one.id for device, one in self._remains.networks.items() if not one.id & MANUAL_NETWORK}
        # First those that have a device for themselves; of those that share one, it has the number of one of them.
        for device, number in sorted(entries.items(), key=lambda item: (len(users[item[0]]), item)):
            unnumbered = sorted(users[device] - numbers.keys())
            if unnumbered and number not in numbers.values():
                numbers[unnumbered[0]] = number
        return numbers

    def _openly_published(self, key: AttachmentKey) -> list[Publication]:
        """Its ports, without those whose conditions are lost: these were never open to all."""
        mine = self._traces.published[key]
        kept = [one for one in mine if self._traces.conditions(one) is not None]
        lost = sorted(port for one in mine if one not in kept for port in one.ports)
        if lost:
            ports = ", ".join(map(str, lost))
            self.notes.append(f"attachment {key} had conditions for ports {ports} that cannot be read: they are closed")
        return kept

    def _device(self, key: AttachmentKey, places: Collection[Place], led: Collection[Address]) -> IfIndex | None:
        devices = {device for device, _ in places}
        devices = devices or {device for device, address in self._traces.everywhere["members"] if address in led}
        if not devices:
            link = self._traces.aliased.get(alias_of(key))
            devices = {link.master or link.index} if link else set()
        # The newest, where somebody made it anew.
        return max(devices, default=None)

    def _sandbox(
        self, key: AttachmentKey, device: IfIndex, addresses: Collection[Address]
    ) -> tuple[Sandbox | None, IfIndex]:
        """The container's namespace and the host's end of its interface, as far as they are found."""
        named = self._traces.aliased.get(alias_of(key))
        for sandbox in self._remains.sandboxes:
            for inner in sandbox.links:
                outer = self._remains.links.get(inner.peer)
                if outer is None or (outer.kind, outer.peer, inner.name) != ("veth", inner.index, key.ifname):
                    continue
                held = sandbox.addresses.get(inner.index, frozenset())
                same = outer == named or not held.isdisjoint(addresses)
                if same and device in {outer.index, outer.master}:
                    return sandbox, outer.index
        return None, named.index if named is not None and named.master == device else _NO_LINK

    def _veth(self, device: IfIndex, addresses: Collection[Address]) -> IfIndex:
        """The port of a bridge that the programs know by these addresses."""
        known = {veth for veth, address in self._remains.port_addresses if address in addresses}
        links = (link for veth in known if (link := self._remains.links.get(veth)))
        return max((link.index for link in links if link.master == device), default=_NO_LINK)

    def _mappings(
        self, key: AttachmentKey, published: Collection[Publication], versions: set[int]
    ) -> tuple[tuple[PortMapping, ...], frozenset[Claim]]:
        groups = {one.version: one.suffix for one in published}
        served: defaultdict[PortMapping, set[int]] = defaultdict(set)
        for one in published:
            for mapping in one.mappings():
                served[mapping].add(one.version)
        found: list[PortMapping] = []
        yielded: set[Claim] = set()
        for mapping, families in served.items():
            missing = versions - families
            holders = [
                self._traces.wildcards.get((version, groups.get(version, ""), mapping.protocol, mapping.host_port))
                for version in missing
            ]
            if mapping.host_address is not None or not missing:
                found.append(mapping)
            elif all(holder is not None and holder.container == key.container for holder in holders):
                # Another interface of the container has it for the other family.
                found.append(mapping)
                yielded |= {(mapping, version) for version in missing}
            else:
                found.append(replace(mapping, host_address=_ANY[min(families)]))
        order = sorted(found, key=lambda one: (one.protocol, one.host_port, str(one.host_address)))
        return tuple(order), frozenset(yielded)

    def _options(
        self,
        key: AttachmentKey,
        links: tuple[IfIndex, IfIndex],
        addresses: tuple[Address, ...],
        published: list[Publication],
    ) -> Options:
        """Those of an attachment to a device, by a host veth."""
        remains, traces, (device, veth) = self._remains, self._traces, links
        mine = traces.places[key]
        targets = {(device, one.target) for one in published}
        # Of elements that several ask for the kernel keeps the first one's comment.
        masq_all = bool(mine["masq_all"]) or (
            not mine["snat"] and bool(targets) and targets <= traces.everywhere["masq_all"]
        )
        snat = not targets or targets <= traces.everywhere["snat"]
        if masq_all:
            snat = self._answers_on_loopback(device, published)
        owners = [traces.masqueraded.get(address) for address in addresses]
        shared = bool(owners) and all(owner and interface_of(owner) != interface_of(key) for owner in owners)
        conditions = {one.version: traces.conditions(one) or () for one in published}
        return Options(
            snat=snat,
            masq_all=masq_all,
            ip_masq=bool(traces.egress[key]) or shared,
            ingress_policy=self._policy(device),
            checksum=self._checksum(links, addresses, published),
            fill_ports=self._fill_ports(links),
            guard=self._guard(veth),
            conditions4=conditions.get(4, ()),
            conditions6=conditions.get(6, ()),
            # Where there are several, nobody knows whose each was; they stay all the same.
            admin_chain=remains.admin_chains[0] if len(remains.admin_chains) == 1 else "",
            firewalld_zone=TRUSTED if addresses and remains.trusted.issuperset(addresses) else "",
        )

    def _answers_on_loopback(self, device: IfIndex, published: Collection[Publication]) -> bool:
        """Whether published ports do, by what the programs know of them or else by the device's sysctl."""
        ports = {
            (one.target, one.protocol.number, mapping.container_port) for one in published for mapping in one.mappings()
        }
        told = {localhost for *port, localhost in self._remains.targets if tuple(port) in ports}
        if told:
            return True in told
        return device in self._remains.localhost or not any(one.version == 4 for one in published)

    def _policy(self, device: IfIndex) -> IngressPolicy:
        if entry := self._remains.networks.get(device):
            return _POLICY_OF[entry.policy]
        hooked = (Program.ISOLATION, device) in self._remains.hooks
        return IngressPolicy.SAME_BRIDGE if hooked else IngressPolicy.OPEN

    def _checksum(
        self, links: tuple[IfIndex, IfIndex], addresses: Collection[Address], published: Iterable[Publication]
    ) -> ChecksumPolicy:
        remains, (device, veth) = self._remains, links
        entry = remains.networks.get(device)
        if entry is None:
            return ChecksumPolicy.REPAIR if (Program.CHECKSUM, device) in remains.hooks else ChecksumPolicy.OFF
        known = {
            (one.target, one.protocol.number, mapping.container_port) in remains.origins
            for one in published
            for mapping in one.mappings()
            if one.protocol is not Protocol.SCTP
        }
        # Ports tell of this part, addresses of all parts of the interface.
        if known == {False} or (not known and not any(one in addresses for _, one in remains.watched)):
            return ChecksumPolicy.OFF
        mode = _MODE_OF[entry.checksum]
        if mode is ChecksumPolicy.FILL and (Program.FILL, veth) not in remains.hooks:
            return ChecksumPolicy.REPAIR  # it is another network of this device that fills
        return mode

    def _fill_ports(self, links: tuple[IfIndex, IfIndex]) -> tuple[int, ...]:
        device, veth = links
        if (Program.FILL, veth) not in self._remains.hooks:
            return DEFAULT_FILL_PORTS
        numbers = {one.network for one in (self._remains.ports.get(veth),) if one}
        numbers = numbers or {one.id for one in (self._remains.networks.get(device),) if one}
        return tuple(sorted(port for network, port in self._remains.fill_ports if network in numbers))

    def _guard(self, veth: IfIndex) -> GuardPolicy:
        if entry := self._remains.ports.get(veth):
            return _GUARD_OF[entry.guard]
        return GuardPolicy.FULL if (Program.GUARD, veth) in self._remains.hooks else GuardPolicy.OFF


def _isolated_as_found(found: tuple[Attachment, ...], remains: Remains) -> tuple[Attachment, ...]:
    """Of networks that share a device with an isolated one, those are isolated that have isolated ports; where no port
    is, all are: somebody has set the flags back."""

    def has_isolated_port(one: Attachment) -> bool:
        return bool(remains.flags.get(one.device.port, PortFlags()).isolated)

    strict = {(one.device.index, one.key.network) for one in found if has_isolated_port(one)}
    devices = {device for device, _ in strict}

    def as_found(one: Attachment) -> Attachment:
        policy, device = one.options.ingress_policy, one.device.index
        entry = remains.networks.get(device)
        if entry is None and policy is IngressPolicy.SAME_BRIDGE and (device, one.key.network) in strict:
            # Nothing but the hook is left of its entry.
            return _with_policy(one, IngressPolicy.ISOLATED)
        if policy is IngressPolicy.ISOLATED and device in devices and (device, one.key.network) not in strict:
            return _with_policy(one, IngressPolicy.SAME_BRIDGE)
        return one

    return tuple(map(as_found, found))


def _with_policy(one: Attachment, policy: IngressPolicy) -> Attachment:
    return replace(one, request=replace(one.request, options=replace(one.options, ingress_policy=policy)))


def _ordered(addresses: Iterable[Address], first: Collection[Address]) -> tuple[Address, ...]:
    """By version, those that ports lead to before others."""
    return tuple(sorted(addresses, key=lambda one: (one.version, one not in first, int(one))))
