"""The planner: from one desired state to another, as steps a reader can check."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from itertools import permutations

import pytest

from control.desired.hooks import HostWide, NetworkFacts, use_of
from control.desired.planner import Desired, desired, flow_filters, plan
from control.desired.ruleset import Variant
from control.model import (
    Attachment,
    AttachmentKey,
    ChecksumPolicy,
    Device,
    ForeignChain,
    GuardPolicy,
    IngressPolicy,
    Options,
)
from dataplane.abi import U32, NetworkEntry, Origin, OriginKey, Port, fill_key, port_address_key
from dataplane.doors import FlowFilter, PortFlags
from dataplane.steps import (
    AttachProgram,
    DeleteRules,
    DetachProgram,
    DropEntry,
    InsertRules,
    LoadPrograms,
    PutEntry,
    RunNft,
    SetPortFlags,
    SetSysctl,
    Step,
)
from dataplane.types import ChecksumMode, GuardLevel, IfIndex, IsolationPolicy, Program, Protocol
from support.attachments import attachment, port

MARK = 1 << 27
VARIANT = Variant(MARK)
FACTS = {"front": NetworkFacts(1), "back": NetworkFacts(2)}
BRIDGE, VETH = IfIndex(10), IfIndex(20)


def state(*attachments: Attachment, facts: dict[str, NetworkFacts] | None = None) -> Desired:
    """What these attachments, and nobody else, ask for."""
    return desired(attachments, [use_of(one) for one in attachments], facts or FACTS, HostWide(MARK))


def steps(*kinds: type[Step], of: tuple[Step, ...]) -> list[Step]:
    """The steps of these kinds, in order."""
    return [step for step in of if isinstance(step, kinds)]


def test_the_first_attachment_of_a_network_fills_the_maps_before_it_attaches() -> None:
    """A program never runs on a device whose network its maps do not know."""
    made = plan(state(), state(attachment("web", "10.11.0.2", port(8080))), VARIANT)
    kinds = [type(step) for step in made]
    assert kinds.index(LoadPrograms) < kinds.index(PutEntry) < kinds.index(AttachProgram) < kinds.index(RunNft)
    assert steps(AttachProgram, of=made) == [
        AttachProgram(Program.ISOLATION, BRIDGE),
        AttachProgram(Program.CHECKSUM, BRIDGE),
        AttachProgram(Program.GUARD, VETH),
    ]
    network = NetworkEntry(1, IsolationPolicy.SAME_BRIDGE, ChecksumMode.REPAIR)
    assert PutEntry("networks", U32.pack(BRIDGE), network.pack()) in made
    origin = OriginKey(IPv4Address("10.11.0.2"), 6, 80, 0)
    assert PutEntry("origins", origin.pack(), Origin(None, 8080).pack()) in made


def test_the_second_attachment_attaches_to_its_own_veth_alone() -> None:
    """A network's programs are hooked once, and not per container."""
    first, second = attachment("web", "10.11.0.2"), attachment("db", "10.11.0.3", port(5432), veth=21)
    made = plan(state(first), state(first, second), VARIANT)
    assert steps(AttachProgram, DetachProgram, of=made) == [AttachProgram(Program.GUARD, IfIndex(21))]
    assert SetPortFlags(IfIndex(21), PortFlags(hairpin=True)) in made


def test_the_same_attachment_again_is_no_work() -> None:
    """A repeated ADD leaves one copy, because there is nothing to do."""
    one = state(attachment("web", "10.11.0.2", port(8080)))
    assert plan(one, one, VARIANT) == ()


def test_the_last_detachment_takes_everything_back() -> None:
    """DEL undoes ADD: programs, entries, elements, and the sysctl that was changed for it."""
    one = state(attachment("web", "10.11.0.2", port(8080)))
    name = "net/ipv4/conf/br-front/route_localnet"
    made = plan(one, state(), VARIANT, former={name: "0"})
    assert steps(DetachProgram, of=made) == [
        DetachProgram(Program.ISOLATION, BRIDGE),
        DetachProgram(Program.CHECKSUM, BRIDGE),
        DetachProgram(Program.GUARD, VETH),
    ]
    assert {step.map_name for step in made if isinstance(step, DropEntry)} == {
        "networks",
        "origins",
        "published",
        "containers",
        "ports",
        "port_addresses",
    }
    assert SetSysctl(name, "0", optional=True) in made
    assert [type(step) for step in made].index(RunNft) < [type(step) for step in made].index(DetachProgram)


def test_undoing_a_transaction_is_its_opposite() -> None:
    """What RunNft undoes is what doing it the other way round would do."""
    one, nothing = state(attachment("web", "10.11.0.2", port(8080))), state()
    (forth,) = (step for step in plan(nothing, one, VARIANT) if isinstance(step, RunNft))
    (back,) = (step for step in plan(one, nothing, VARIANT) if isinstance(step, RunNft))
    assert forth.undo == back.do
    assert forth.do == back.undo


def test_an_open_network_without_checksums_needs_no_bpf() -> None:
    """Whoever turns all of it off needs neither bcc nor a bpffs."""
    options = Options(ingress_policy=IngressPolicy.OPEN, checksum=ChecksumPolicy.OFF, guard=GuardPolicy.OFF)
    made = plan(state(), state(attachment("web", "10.11.0.2", port(8080), options=options)), VARIANT)
    assert not steps(LoadPrograms, AttachProgram, of=made)
    assert not [step for step in made if isinstance(step, PutEntry) and step.map_name != "origins"]


MAC = "02:00:00:00:00:02"


def guarded(one: Attachment, guard: GuardPolicy, checksum: ChecksumPolicy = ChecksumPolicy.REPAIR) -> Attachment:
    """The attachment with a MAC and this guard."""
    options = replace(one.options, guard=guard, checksum=checksum)
    return replace(one, request=replace(one.request, mac=MAC, options=options))


def veths(*attachments: Attachment) -> tuple[set[Program], list[Port], set[bytes]]:
    """The programs on the host veth, its entry, and the keys of its addresses."""
    found = state(*attachments)
    assert {device for program, device in found.hooks if program.of_port} <= {VETH}
    return (
        {program for program, _ in found.hooks if program.of_port},
        [Port.unpack(value) for (name, _), value in found.entries.items() if name == "ports"],
        {key for name, key in found.entries if name == "port_addresses"},
    )


@pytest.mark.parametrize("level", [GuardLevel.MAC, GuardLevel.FULL])
def test_a_guarded_container_is_known_by_its_veth(level: GuardLevel) -> None:
    """The guard knows network, MAC and addresses of the container behind the veth."""
    one = guarded(attachment("web", "10.11.0.2 fd00:11::2"), GuardPolicy[level.name])
    keys = {port_address_key(VETH, address) for address in one.request.addresses}
    assert veths(one) == ({Program.GUARD}, [Port(1, level, MAC)], keys)


def test_a_container_may_send_from_its_address_on_another_network() -> None:
    """What is answered to one of its addresses may leave by another of its interfaces."""
    one = attachment("web", "10.11.0.2")
    other = attachment("web", "10.12.0.2", network="back", device=11, veth=21)
    other = replace(other, request=replace(other.request, key=replace(other.key, ifname="eth1")))
    found = state(one, other).entries
    held = {key: value for (name, key), value in found.items() if name == "port_addresses"}
    own, elsewhere = U32.pack(1), U32.pack(2)
    ((first,), (second,)) = (made.request.addresses for made in (one, other))
    assert held == {
        port_address_key(VETH, first): own,
        port_address_key(VETH, second): elsewhere,
        port_address_key(IfIndex(21), first): elsewhere,
        port_address_key(IfIndex(21), second): own,
    }


def test_a_container_that_is_not_guarded_leaves_its_veth_alone() -> None:
    """Neither program nor entry."""
    assert veths(guarded(attachment("web", "10.11.0.2"), GuardPolicy.OFF)) == (set(), [], set())


def test_the_strictest_part_of_an_interface_guards_it() -> None:
    """In whichever order the parts come: what one lets pass another may not."""
    bare = attachment("web", "10.11.0.2")
    parts = [guarded(bare, guard) for guard in (GuardPolicy.OFF, GuardPolicy.FULL, GuardPolicy.MAC)]
    keys = [AttachmentKey("front", "web", "eth0", plugin) for plugin in ("bridge", "portmap", "firewall")]
    parts = [replace(one, request=replace(one.request, key=key)) for one, key in zip(parts, keys, strict=True)]
    for order in permutations(parts):
        assert veths(*order)[:2] == ({Program.GUARD}, [Port(1, GuardLevel.FULL, MAC)])


def test_without_addresses_none_is_wrong() -> None:
    """On a network of layer 2 nobody knows the container's addresses: its MAC is guarded, and nothing else."""
    assert veths(guarded(attachment("vm", ""), GuardPolicy.FULL))[1] == [Port(1, GuardLevel.MAC, MAC)]


def test_the_host_veth_of_a_routed_network_is_its_device() -> None:
    """Behind ptp, network and container have one device between them."""
    one = guarded(attachment("web", "10.11.0.2", veth=0), GuardPolicy.FULL)
    routed = replace(one, device=Device(VETH, "veth0", routed=True))
    assert veths(routed)[0] == {Program.GUARD}
    assert {device for _, device in state(routed).hooks} == {VETH}


def test_filling_is_done_on_every_veth_of_the_network() -> None:
    """By mode fill, of conflist or operator, and guarded or not; another network on the bridge is left alone."""
    web = guarded(attachment("web", "10.11.0.2"), GuardPolicy.OFF, ChecksumPolicy.FILL)
    assert veths(web)[0] == {Program.FILL}
    made = state(web, guarded(attachment("db", "10.11.0.3", network="back", veth=21), GuardPolicy.OFF))
    assert {device for program, device in made.hooks if program is Program.FILL} == {VETH}
    assert {key for name, key in made.entries if name == "fill_ports"} == {fill_key(1, 68), fill_key(1, 546)}
    told = {**FACTS, "back": NetworkFacts(2, ChecksumPolicy.FILL)}
    other = attachment("db", "10.11.0.3", network="back", veth=21)
    assert (Program.FILL, IfIndex(21)) in state(other, facts=told).hooks


def test_a_veth_that_is_gone_is_asked_nothing() -> None:
    """Of a container that died only the entries stay, until its DEL."""
    one = attachment("web", "10.11.0.2")
    left = desired([one], [use_of(one)], FACTS, HostWide(MARK), gone=frozenset({VETH}))
    assert not [program for program, _ in left.hooks if program.of_port]
    assert left.entries == state(one).entries


def test_two_networks_on_one_device_get_the_stricter_of_both() -> None:
    """A device carries one policy: no network can loosen another's."""
    loose = attachment("a", "10.11.0.2", options=Options(ingress_policy=IngressPolicy.OPEN))
    strict = attachment("b", "10.11.0.3", network="back", options=Options(ingress_policy=IngressPolicy.ISOLATED))
    entry = NetworkEntry.unpack(state(loose, strict).entries["networks", U32.pack(BRIDGE)])
    assert entry == NetworkEntry(1, IsolationPolicy.ISOLATED, ChecksumMode.REPAIR)


def test_the_operators_checksum_mode_beats_the_conflists() -> None:
    """``dpctl checksum mode`` holds until the network is gone."""
    facts = {"front": NetworkFacts(1, ChecksumPolicy.OBSERVE)}
    entries = state(attachment("web", "10.11.0.2", port(8080)), facts=facts).entries
    assert NetworkEntry.unpack(entries["networks", U32.pack(BRIDGE)]).checksum is ChecksumMode.OBSERVE


def test_isolated_isolates_the_bridge_port() -> None:
    """Containers of one isolated network are kept apart by their bridge ports, without br_netfilter."""
    options = Options(ingress_policy=IngressPolicy.ISOLATED)
    made = plan(state(), state(attachment("web", "10.11.0.2", options=options)), VARIANT)
    assert SetPortFlags(IfIndex(20), PortFlags(hairpin=None, isolated=True)) in made


def test_a_foreign_chain_gets_our_accept_and_loses_it() -> None:
    """The accept in somebody else's chain comes with the first attachment and goes with the last."""
    options = Options(forward_chains=(ForeignChain("inet", "filter", "forward"),))
    one = state(attachment("web", "10.11.0.2", options=options))
    (accept,) = steps(InsertRules, of=plan(state(), one, VARIANT))
    assert isinstance(accept, InsertRules)
    assert accept.rules[0] == 'iif "0000000000000010" accept'
    assert [type(step) for step in plan(one, state(), VARIANT)].count(DeleteRules) == 1


def test_a_container_port_published_twice_fills_two_slots() -> None:
    """Each publication of a container port can be proved: slots are filled without a gap."""
    entries = state(attachment("web", "10.11.0.2", port(8080), port(8081, address="192.0.2.1"))).entries
    slots = [OriginKey.unpack(key).slot for name, key in entries if name == "origins"]
    assert sorted(slots) == [0, 1]


def test_a_growing_list_of_origins_never_shows_a_gap_or_a_loss() -> None:
    """Slots are written from the last to the first, so that readers find all former origins at each moment."""
    one = attachment("web", "10.11.0.2", port(9000))
    both = attachment("web", "10.11.0.2", port(9000), port(8000))
    slots = [
        OriginKey.unpack(step.key).slot
        for step in plan(state(one), state(both), VARIANT)
        if isinstance(step, PutEntry) and step.map_name == "origins"
    ]
    assert slots == [1, 0]


def test_a_wildcard_udp_port_claims_the_hosts_own_addresses_only() -> None:
    """A flow that is merely forwarded to the same port elsewhere keeps its conntrack entry."""
    local = (IPv4Address("127.0.0.1"), IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
    both = attachment("dns", "10.11.0.2 fd00:11::2", port(53, 53, "udp"), port(80))
    assert flow_filters([both], local) == (FlowFilter(Protocol.UDP, 53, local),)
    one = attachment("dns", "10.11.0.2", port(53, 53, "udp", address="192.0.2.9"))
    assert flow_filters([one, None], local) == (FlowFilter(Protocol.UDP, 53, (IPv4Address("192.0.2.9"),)),)
