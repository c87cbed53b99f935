"""Which NAT a stale sum is proved by: published ports and masquerade, both ways, both families, one end and both."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.checksums.checksum import is_right
from control.checksums.frame import LinkType, parse
from dataplane.abi import ChecksumCounts, EventKind, NetworkEntry, Translation
from dataplane.errors import BpfError
from dataplane.types import ChecksumMode, IsolationPolicy, Protocol
from support import needs
from support.frames import (
    AUTHENTICATION,
    DESTINATION,
    HOP_BY_HOP,
    MOBILITY,
    ROUTED,
    WHOLE,
    Extension,
    Flow,
    frame,
    frame6,
    icmp6,
    pseudo_sum,
)
from support.programs import BRIDGE, Bench, Nat, Origins

TCP, UDP = Protocol.TCP, Protocol.UDP


@dataclass(frozen=True, slots=True)
class Plan:
    """One family's addresses: a container and a neighbour of it, one of another network, the host's, and a client."""

    container: str
    neighbour: str
    stranger: str
    gateway: str
    host: str
    client: str
    any: str
    loopback: str

    @property
    def hosts(self) -> tuple[str, str]:
        return self.gateway, self.host


PLAN4 = Plan("10.88.0.116", "10.88.3.77", "10.12.7.9", "10.88.0.1", "10.0.2.15", "192.0.2.55", "0.0.0.0", "127.0.0.1")
PLAN6 = Plan(
    "fd00:88::7474", "fd00:88::3:a577", "fd00:12::79b5", "fd00:88::1", "2001:db8:2::c15", "2001:db8::55", "::", "::1"
)
FAMILIES = pytest.mark.parametrize("plan", [PLAN4, PLAN6], ids=["ipv4", "ipv6"])
PROTOCOLS = pytest.mark.parametrize("protocol", [TCP, UDP])

UPLINK, FRONT, CLOSED = 40, 41, 42
SOURCES = {
    FRONT: NetworkEntry(9, IsolationPolicy.OPEN, ChecksumMode.REPAIR, masquerades=True),
    CLOSED: NetworkEntry(10, IsolationPolicy.OPEN, ChecksumMode.REPAIR),
}
HAIRPIN = 1
"""Packets came in by the device that they leave by."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    needs.root()
    with Bench() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def plain() -> Iterator[Bench]:
    """As on a kernel without BTF."""
    needs.root()
    with Bench(btf=False) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def completes(bench: Bench) -> None:
    """The kernel can have a test run on packets whose sum a device computed."""
    try:
        bench.checksum([packet(Flow(TCP, PLAN4.client, 1, PLAN4.container, 1))], complete=True)
    except BpfError as error:
        needs.that(error.errno != errno.EINVAL, "Linux 6.13 (BPF_F_TEST_SKB_CHECKSUM_COMPLETE)")
        raise


def packet(flow: Flow, payload: bytes = b"payload", summed_for: Flow | None = None) -> bytes:
    """A frame of either family."""
    return (frame6 if ":" in flow.source else frame)(flow, payload, summed_for=summed_for)


def tell(
    bench: Bench,
    flow: Flow,
    before: Flow,
    translation: Translation,
    *,
    nat: Nat,
    origins: Origins | None = None,
    hosts: Sequence[str] = (),
    packets: int = 1,
) -> None:
    """So many packets that are right for the tuple before NAT: the last is repaired, and said to be by what."""
    stale, right = packet(flow, summed_for=before), packet(flow)
    outcome = bench.checksum([stale] * packets, origins=origins, host_addresses=hosts, protocol=flow.protocol, nat=nat)
    assert outcome.packets == (*[stale] * (packets - 1), right)
    assert outcome.counts == ChecksumCounts(stale=1, repaired=1, corrupt=packets - 1)
    event = outcome.events[-1]
    assert (event.kind, event.translation) == (EventKind.STALE, translation)
    assert (str(event.origin_source), event.origin_source_port) == (before.source, before.source_port)
    assert (str(event.origin_destination), event.origin_destination_port) == (
        before.destination,
        before.destination_port,
    )


# -- published ports --------------------------------------------------------------------------------------------------


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("stale", ["address", "port", "both"])
@pytest.mark.parametrize("wildcard", [False, True], ids=["one address", "every address"])
def test_a_published_port(bench: Bench, plan: Plan, protocol: Protocol, stale: str, wildcard: bool) -> None:
    """DNAT forgot the address, the port, or both, in either family."""
    flow = Flow(protocol, plan.client, 40000, plan.container, 80)
    before = flow.to(plan.container if stale == "port" else plan.host, 80 if stale == "address" else 8080)
    origins = {(plan.container, 80): [(plan.any if wildcard else plan.host, 8080)]}
    tell(bench, flow, before, Translation.PUBLISHED, nat=Nat(), origins=origins, hosts=plan.hosts)


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("stale", ["address", "port", "both"])
@pytest.mark.parametrize("wildcard", [False, True], ids=["one address", "every address"])
def test_a_reply_of_a_published_port(bench: Bench, plan: Plan, protocol: Protocol, stale: str, wildcard: bool) -> None:
    """On the way back, the source is what was forgotten."""
    flow = Flow(protocol, plan.host, 8080, plan.container, 40000)
    before = flow.of(plan.host if stale == "port" else plan.stranger, 8080 if stale == "address" else 443)
    published = {(plan.any if wildcard else plan.host, 8080): (plan.stranger, 443)}
    tell(bench, flow, before, Translation.REPLY, nat=Nat(published), hosts=plan.hosts)


@FAMILIES
def test_a_reply_is_of_an_address_of_the_host(bench: Bench, plan: Plan) -> None:
    """A port that is published on every address says nothing about packets of somebody else's from such a port."""
    flow = Flow(TCP, plan.client, 8080, plan.container, 40000)
    stale = packet(flow, summed_for=flow.of(plan.stranger, 443))
    nat = Nat({(plan.any, 8080): (plan.stranger, 443)})
    outcome = bench.checksum([stale, stale], host_addresses=plan.hosts, nat=nat)
    assert outcome.packets == (stale, stale)
    assert outcome.counts == ChecksumCounts(corrupt=2)


# -- masquerade: two packets have to say it ---------------------------------------------------------------------------


@FAMILIES
@PROTOCOLS
def test_a_reply_to_a_masqueraded_container(bench: Bench, plan: Plan, protocol: Protocol) -> None:
    """Un-masquerading forgot the destination: which of the host's addresses it was is found by what is missing."""
    flow = Flow(protocol, plan.client, 53, plan.container, 40000)
    nat = Nat(containers={BRIDGE: [plan.container]}, masquerades=True, ingress=UPLINK)
    tell(bench, flow, flow.to(plan.host, 40000), Translation.UNMASQUERADE, nat=nat, hosts=plan.hosts, packets=2)


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("ingress", [FRONT, HAIRPIN], ids=["other network", "hairpin"])
def test_a_masqueraded_container(bench: Bench, plan: Plan, protocol: Protocol, ingress: int) -> None:
    """Masquerading forgot the source, which was a container of the network that the packet came in from."""
    was, network = (plan.stranger, 9) if ingress == FRONT else (plan.neighbour, BRIDGE)
    flow = Flow(protocol, plan.gateway, 40000, plan.container, 80)
    nat = Nat(containers={network: [was]}, ingress=ingress, sources=SOURCES)
    tell(bench, flow, flow.of(was, 40000), Translation.MASQUERADE, nat=nat, hosts=plan.hosts, packets=2)


def test_icmpv6_is_masqueraded_too(bench: Bench) -> None:
    """Its sum covers the addresses; it has no ports."""
    addresses = (PLAN6.client, PLAN6.container)
    stale = icmp6(*addresses, b"ping", summed_for=(PLAN6.client, PLAN6.host))
    other = icmp6(PLAN6.stranger, PLAN6.container, b"right")
    nat = Nat(containers={BRIDGE: [PLAN6.container]}, masquerades=True, ingress=UPLINK)
    outcome = bench.checksum([stale, stale, other, other], host_addresses=PLAN6.hosts, nat=nat)
    assert outcome.packets == (stale, icmp6(*addresses, b"ping"), other, other)
    assert outcome.counts == ChecksumCounts(good=1, stale=1, repaired=1, corrupt=1)
    assert outcome.events[-1].translation is Translation.UNMASQUERADE


@FAMILIES
@pytest.mark.parametrize("between", ["right", "damaged"])
def test_the_second_packet_follows_the_first(bench: Bench, plan: Plan, between: str) -> None:
    """With a packet in between that says something else, one has to begin again; then each is repaired."""
    flow = Flow(UDP, plan.client, 53, plan.container, 40000)
    stale, right = packet(flow, summed_for=flow.to(plan.host, 40000)), packet(flow)
    other = packet(flow, b"other") if between == "right" else packet(flow, b"other", summed_for=flow.to(plan.client, 9))
    nat = Nat(containers={BRIDGE: [plan.container]}, masquerades=True, ingress=UPLINK)
    outcome = bench.checksum([stale, other, stale, stale, stale], host_addresses=plan.hosts, nat=nat)
    if between == "right":  # of a flow known good, nothing is looked at any more
        assert outcome.packets == (stale, other, stale, stale, stale)
    else:
        assert outcome.packets == (stale, other, stale, right, right)


@FAMILIES
@pytest.mark.parametrize("why", ["not masqueraded", "no container", "no address of the host", "the host's own"])
def test_what_masquerade_does_not_explain(bench: Bench, plan: Plan, why: str) -> None:
    """A network that is not masqueraded, a destination that is nobody's, an address that is not the host's."""
    flow = Flow(UDP, plan.client, 53, plan.container, 40000)
    stale = packet(flow, summed_for=flow.to(plan.client if why == "no address of the host" else plan.host, 40000))
    nat = Nat(containers={BRIDGE: [plan.container]}, masquerades=True, ingress=UPLINK)
    if why == "not masqueraded":
        nat = replace(nat, masquerades=False)
    if why == "no container":
        nat = replace(nat, containers={9: [plan.container]})
    if why == "the host's own":
        flow = Flow(UDP, plan.gateway, 53, plan.container, 40000)
        stale = packet(flow, summed_for=flow.of(plan.neighbour, 53))
        nat = replace(nat, containers={BRIDGE: [plan.container, plan.neighbour]}, ingress=0)
    outcome = bench.checksum([stale] * 3, host_addresses=plan.hosts, nat=nat, protocol=UDP)
    assert outcome.packets == (stale,) * 3
    assert outcome.counts == ChecksumCounts(corrupt=3)


@FAMILIES
@pytest.mark.parametrize("ingress", [CLOSED, UPLINK], ids=["a network without masquerade", "no network"])
def test_a_source_that_was_not_masqueraded(bench: Bench, plan: Plan, ingress: int) -> None:
    """What came in from elsewhere than a masqueraded network has no container for its source."""
    flow = Flow(TCP, plan.gateway, 40000, plan.container, 80)
    stale = packet(flow, summed_for=flow.of(plan.stranger, 40000))
    nat = Nat(
        containers={9: [plan.stranger], 10: [plan.stranger], 0: [plan.stranger]}, ingress=ingress, sources=SOURCES
    )
    outcome = bench.checksum([stale] * 3, host_addresses=plan.hosts, nat=nat)
    assert outcome.counts == ChecksumCounts(corrupt=3)


# -- both ends --------------------------------------------------------------------------------------------------------


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("port", [80, 8080], ids=["addresses", "addresses and port"])
@pytest.mark.parametrize("published", ["on the host's", "on its gateway's", "on every address"])
def test_hairpin(bench: Bench, plan: Plan, protocol: Protocol, port: int, published: str) -> None:
    """A container reached its neighbour by the host: destination and source were replaced, and forgotten."""
    flow = Flow(protocol, plan.gateway, 40000, plan.container, 80)
    reached = plan.host if published == "on the host's" else plan.gateway
    origin = plan.any if published == "on every address" else reached
    nat = Nat(containers={BRIDGE: [plan.neighbour, plan.container]}, ingress=HAIRPIN)
    before = flow.of(plan.neighbour, 40000).to(reached, port)
    origins = {(plan.container, 80): [(origin, 8080)]}
    tell(bench, flow, before, Translation.BOTH, nat=nat, origins=origins, hosts=plan.hosts, packets=2)


@PROTOCOLS
@pytest.mark.parametrize("port", [80, 8080], ids=["addresses", "addresses and port"])
@FAMILIES
def test_localhost(bench: Bench, plan: Plan, protocol: Protocol, port: int) -> None:
    """A process of the host reached a container by loopback: both ends were loopback addresses."""
    flow = Flow(protocol, plan.gateway, 40000, plan.container, 80)
    before = flow.of(plan.loopback, 40000).to(plan.loopback, port)
    origins = {(plan.container, 80): [(plan.any, 8080)]}
    tell(bench, flow, before, Translation.BOTH, nat=Nat(), origins=origins, hosts=plan.hosts, packets=2)


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("port", [80, 8080], ids=["addresses", "addresses and port"])
def test_the_reply_of_hairpin(bench: Bench, plan: Plan, protocol: Protocol, port: int) -> None:
    """The neighbour's answer comes from the published port again, and to the container and no longer to the host."""
    flow = Flow(protocol, plan.host, 8080, plan.container, 40000)
    before = flow.of(plan.neighbour, 80 if port == 8080 else 8080).to(plan.gateway, 40000)
    nat = Nat({(plan.host, 8080): (plan.neighbour, 80)}, {BRIDGE: [plan.container]}, ingress=HAIRPIN)
    tell(bench, flow, before, Translation.BOTH, nat=nat, hosts=plan.hosts, packets=2)


# -- what proves nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [81, 80 + 0x4000, 80 + 0x1020, 80 - 0x0010])
def test_a_delta_that_two_flipped_bits_make_proves_nothing(bench: Bench, port: int) -> None:
    """80 published as 81 by an address that stayed: damage is likelier, however often it is said."""
    flow = Flow(TCP, PLAN4.client, 40000, PLAN4.container, 80)
    stale = packet(flow, summed_for=flow.to(PLAN4.container, port))
    outcome = bench.checksum([stale] * 3, origins={(PLAN4.container, 80): [(PLAN4.host, port)]})
    assert outcome.packets == (stale,) * 3
    assert outcome.counts == ChecksumCounts(corrupt=3)


@FAMILIES
def test_flipped_bits_are_never_repaired_where_everything_is_published(bench: Bench, plan: Plan) -> None:
    """The addresses of host, gateway and containers next to each other, ports beside theirs, published everywhere, and
    masqueraded: of 4,000 packets with one or two flipped bits, none is changed."""
    rng = random.Random(5)  # noqa: S311 - the same bytes in every run
    base = plan.gateway[:-1]
    near = [f"{base}{number}" for number in range(1, 10)]
    origins = {(near[2], 80): [(plan.any, 81), (near[0], 82), (plan.any, 80), (near[3], 8080)]}
    published = {(plan.any, port): (near[4], port + 1) for port in (80, 81, 8080)}
    nat = Nat(published, {BRIDGE: near}, masquerades=True, ingress=HAIRPIN)
    sent = []
    for number in range(4000):
        flow = Flow(TCP, rng.choice((near[0], plan.client)), rng.choice((80, 81, 1024 + number)), near[2], 80)
        whole = bytearray(packet(flow, rng.randbytes(rng.randrange(2, 100))))
        payload_at = len(packet(flow, b""))
        for _ in range(rng.choice((1, 2))):
            bit = rng.randrange(payload_at * 8, len(whole) * 8)
            whole[bit // 8] ^= 0x80 >> bit % 8
        if bytes(whole) != packet(flow, bytes(whole[payload_at:])):  # two flips may undo each other, in the sum as well
            sent.append(bytes(whole))
    outcome = bench.checksum(sent, origins=origins, host_addresses=near[:2], nat=nat)
    assert outcome.packets == tuple(sent)
    assert outcome.counts.stale == outcome.counts.good == 0


# -- wherever the sum is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extensions",
    [
        pytest.param([HOP_BY_HOP], id="hop by hop"),
        pytest.param([DESTINATION], id="destination options"),
        pytest.param([AUTHENTICATION], id="authentication"),
        pytest.param([WHOLE], id="fragment header, whole"),
        pytest.param([ROUTED], id="routing header, arrived"),
        pytest.param([HOP_BY_HOP, DESTINATION, ROUTED, WHOLE, AUTHENTICATION, MOBILITY], id="six of them"),
    ],
)
def test_extension_headers_move_the_checksum_field(bench: Bench, extensions: list[Extension]) -> None:
    """The field is found behind up to six extension headers of any kind."""
    flow = Flow(UDP, PLAN6.client, 40000, PLAN6.container, 80)
    sent = frame6(flow, b"data", summed_for=flow.to(PLAN6.host, 80), extensions=extensions)
    outcome = bench.checksum([sent], origins={(PLAN6.container, 80): [(PLAN6.host, 80)]}, protocol=UDP)
    assert outcome.packets == (frame6(flow, b"data", extensions=extensions),)


_PORTS = st.integers(1, 65535)
_PAYLOADS = st.binary(max_size=1500)
_ADDRESSES4 = st.ip_addresses(v=4, network="198.18.0.0/15").map(str)
_ADDRESSES6 = st.ip_addresses(v=6, network="2001:db8::/32").map(str)


@given(
    packets=st.lists(
        st.tuples(st.sampled_from((PLAN4, PLAN6)), _ADDRESSES4, _ADDRESSES6, _PORTS, _PAYLOADS, st.booleans()),
        min_size=20,
        max_size=40,
    ),
    protocol=st.sampled_from((TCP, UDP)),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_by_another_arithmetic(
    bench: Bench, packets: list[tuple[Plan, str, str, int, bytes, bool]], protocol: Protocol
) -> None:
    """Any packets, stale and right: what comes out is right by the sums of ``dpctl checksum explain``, which are
    another implementation, and is unchanged where it was right before."""
    sent = []
    for plan, client4, client6, port, payload, stale in packets:
        flow = Flow(protocol, client4 if plan is PLAN4 else client6, port, plan.container, 80)
        sent.append(packet(flow, payload, flow.to(plan.host, 8080) if stale else None))
    origins = {(plan.container, 80): [(plan.host, 8080)] for plan in (PLAN4, PLAN6)}
    outcome = bench.checksum(sent, origins=origins, protocol=protocol)
    for one, (before, came) in enumerate(zip(sent, outcome.packets, strict=True)):
        assert is_right(parse(came, LinkType.ETHERNET)) or not packets[one][-1]
        assert packets[one][-1] or before == came


# -- whatever the kernel says about it --------------------------------------------------------------------------------


@FAMILIES
@PROTOCOLS
@pytest.mark.usefixtures("completes")
def test_the_sum_that_a_device_computed_goes_along(bench: Bench, plan: Plan, protocol: Protocol) -> None:
    """CHECKSUM_COMPLETE: after a repair, skb->csum is the sum of the packet as it is then; the kernel compares."""
    flow = Flow(protocol, plan.client, 40000, plan.container, 80)
    sent = [packet(flow, summed_for=flow.to(plan.host, 8080)), packet(replace(flow, source_port=40001))]
    origins = {(plan.container, 80): [(plan.host, 8080)]}
    outcome = bench.checksum(sent, origins=origins, protocol=protocol, complete=True)
    assert outcome.packets == (packet(flow), sent[1])
    assert outcome.counts == ChecksumCounts(good=1, stale=1, repaired=1)


@FAMILIES
@PROTOCOLS
def test_a_sum_that_equals_the_pseudo_headers_is_a_sum(bench: Bench, plan: Plan, protocol: Protocol) -> None:
    """Whether a sum is computed yet is asked of the kernel, and not guessed: this one is, and is wrong."""
    flow = Flow(protocol, plan.client, 40000, plan.container, 80)
    outcome = bench.checksum([_looking_partial(flow)])
    assert outcome.counts == ChecksumCounts(corrupt=1)


@FAMILIES
@PROTOCOLS
@pytest.mark.usefixtures("completes")
def test_without_btf_it_is_taken_for_a_partial_one(plain: Bench, plan: Plan, protocol: Protocol) -> None:
    """Where the kernel cannot be asked, such a sum is left; but not in a packet whose sum a device computed."""
    flow = Flow(protocol, plan.client, 40000, plan.container, 80)
    sent = _looking_partial(flow)
    outcome = plain.checksum([sent])
    assert outcome.packets == (sent,)
    assert outcome.counts == ChecksumCounts(partial=1)
    assert plain.checksum([sent], complete=True).counts == ChecksumCounts(corrupt=1)


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.usefixtures("completes")
def test_without_btf_stale_sums_are_repaired_too(plain: Bench, plan: Plan, protocol: Protocol, complete: bool) -> None:
    """Everything else is as with it."""
    flow = Flow(protocol, plan.client, 40000, plan.container, 80)
    stale, damaged = packet(flow, summed_for=flow.to(plan.host, 80)), packet(flow, summed_for=flow.to(plan.client, 9))
    other = packet(replace(flow, source_port=40001))
    origins = {(plan.container, 80): [(plan.host, 80)]}
    outcome = plain.checksum([stale, damaged, other], origins=origins, protocol=protocol, complete=complete)
    assert outcome.packets == (packet(flow), damaged, other)
    assert outcome.counts == ChecksumCounts(good=1, stale=1, repaired=1, corrupt=1)


def _looking_partial(flow: Flow) -> bytes:
    """A packet whose checksum field holds the pseudo header's sum, as a partial one's does."""
    length = len(b"hello") + (20 if flow.protocol is TCP else 8)
    build = frame6 if ":" in flow.source else frame
    return build(flow, b"hello", checksum=pseudo_sum(flow, length))
