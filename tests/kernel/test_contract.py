"""One table of cases for the fakes and for the running kernel: what a fake promises, the kernel keeps."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from control.conditions import Condition, parse
from control.desired import ruleset
from dataplane.abi import U32, HostSettings
from dataplane.conntrack import NetlinkFlows
from dataplane.doors import FlowFilter, Links, Nft, PortFlags, Programs, Sysctls
from dataplane.errors import BpfError, KernelError, LinkError, NftError
from dataplane.fakes import FakeLinks, FakeNft, FakePrograms, FakeSysctls
from dataplane.links import NetlinkLinks
from dataplane.nft.client import LibNftables
from dataplane.nft.elements import Held, pack, unpack
from dataplane.nft.objects import (
    Atom,
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
from dataplane.nft.transaction import Command, Transaction, add, create, delete, flush
from dataplane.programs.door import KernelPrograms
from dataplane.sysctl import ProcSysctls
from dataplane.types import LOCALHOST_PROGRAMS, Address, AttachMode, IfIndex, Program, Protocol
from support.loopback import with_cgroups
from support.netns import Sandbox

WEB4 = (IPv4Address("10.11.0.2"), Port(80))
WEB = Element("publish4", (Protocol.TCP, Port(8080)), WEB4, Comment("front/web/eth0"))
WEB6 = Element(
    "publish6_host", (IPv6Address("2001:db8::1"), Protocol.UDP, Port(53)), (IPv6Address("fd00::2"), Port(53))
)
SCTP = Element("publish4", (Protocol.SCTP, Port(8080)), WEB4)
MEMBER = Element("members4", (LinkIndex(IfIndex(4711)), IPv4Address("10.11.0.2")), comment=Comment("front/web/eth0"))
PUBLISH4 = next(declared for declared in ruleset.SETS if declared.name == WEB.set_name)
FOREIGN = ChainRef("inet", "filter", "forward")
OWNER = Comment("dataplane device 10")


def skeleton() -> Transaction:
    """The real skeleton, as an engine would load it."""
    return ruleset.skeleton(ruleset.Variant(), ())


def refused(nft: Nft, *commands: Command) -> int:
    """The errno with which a transaction is refused."""
    with pytest.raises(NftError) as error:
        nft.run(Transaction(commands))
    return error.value.errno


def no_table(nft: Nft) -> None:
    """Without our table nothing is there, and changing it is ENOENT."""
    assert nft.table_text() == nft.skeleton_text() == nft.fingerprint() == ""
    assert not nft.contains(WEB)
    assert refused(nft, create(WEB)) == errno.ENOENT
    assert refused(nft, delete()) == errno.ENOENT
    nft.run(Transaction())


def elements(nft: Nft) -> None:
    """Elements of every kind are created, found by key and value, and deleted."""
    nft.run(skeleton())
    made = (WEB, WEB6, SCTP, MEMBER)
    nft.run(Transaction(tuple(create(element) for element in made)))
    assert all(nft.contains(element) for element in made)
    assert not nft.contains(Element("publish4", WEB.key, (IPv4Address("10.11.0.3"), Port(80))))
    assert not nft.contains(Element("publish4", WEB.key, (IPv4Address("10.11.0.2"), Port(81))))
    assert "front/web/eth0" in nft.table_text()
    nft.run(Transaction(tuple(delete(element) for element in made)))
    assert not any(nft.contains(element) for element in made)
    assert refused(nft, delete(WEB)) == errno.ENOENT


def conflicts(nft: Nft) -> None:
    """A key that is taken is EEXIST for create, and for add with another value."""
    nft.run(skeleton() + Transaction((create(WEB),)))
    other = Element("publish4", WEB.key, (IPv4Address("10.11.0.3"), Port(80)))
    assert refused(nft, create(WEB)) == errno.EEXIST
    assert refused(nft, create(other)) == errno.EEXIST
    assert refused(nft, add(other)) == errno.EEXIST
    nft.run(Transaction((add(WEB), add(MEMBER), add(MEMBER))))
    assert nft.contains(WEB)


def atomicity(nft: Nft) -> None:
    """A transaction that is refused changes nothing, whatever came before the refusal."""
    nft.run(skeleton())
    before = nft.table_text()
    assert refused(nft, create(WEB), delete(SCTP)) == errno.ENOENT
    assert nft.table_text() == before


def schema_guard(nft: Nft) -> None:
    """A guarded transaction is refused by a table of another schema, and accepted by ours."""
    nft.run(ruleset.skeleton(ruleset.Variant(1), ()))
    guarded = ruleset.guarded(ruleset.Variant(), Transaction((create(WEB),)))
    assert refused(nft, *guarded.commands) == errno.ENOENT
    nft.run(skeleton())
    nft.run(guarded)
    assert nft.contains(WEB)


def skeleton_text_ignores_elements(nft: Nft) -> None:
    """The skeleton's text changes with chains and rules, not with elements."""
    nft.run(skeleton())
    before = nft.skeleton_text()
    nft.run(Transaction((create(WEB),)))
    assert nft.skeleton_text() == before
    nft.run(Transaction((flush(ruleset.CHAINS[0]),)))
    assert nft.skeleton_text() != before


def fingerprints(nft: Nft) -> None:
    """A fingerprint changes with chains, rules and sets, and with what a rule lists by itself, not with elements; who
    writes the same again has the same."""
    nft.run(skeleton())
    before = nft.fingerprint()
    nft.run(Transaction((create(WEB),)))
    assert nft.fingerprint() == before
    changes = (
        flush(ruleset.CHAINS[0]),
        add(Set("another", ("mark",))),
        add(Chain("another")),
        add(Rule("forward", "accept")),
        add(Rule("another", "ip saddr { 192.0.2.1, 198.51.100.0/24 } accept")),
    )
    seen = {before}
    for change in changes:
        nft.run(Transaction((change,)))
        assert nft.fingerprint() not in seen
        seen.add(nft.fingerprint())
    for listed in ("192.0.2.1, 198.51.100.0/24", "192.0.2.1, 203.0.113.0/24", "192.0.2.2, 198.51.100.0/24"):
        anew = flush(Chain("another")), add(Rule("another", f"ip saddr {{ {listed} }} accept"))
        nft.run(Transaction(anew))
        found = nft.fingerprint()
        nft.run(Transaction(anew))
        assert nft.fingerprint() == found
        seen.add(found)
    assert len(seen) == 1 + len(changes) + 2
    nft.run(skeleton())
    assert nft.fingerprint() == before
    nft.run(Transaction((delete(),)))
    assert nft.fingerprint() == ""


def sets_by_name(nft: Nft) -> None:
    """Whether a set is there is told by its name, table by table; what it holds is no matter."""
    schema = ruleset.schema(ruleset.Variant())
    assert not nft.has_set(schema)
    nft.run(skeleton())
    assert nft.has_set(schema)
    assert nft.has_set(ruleset.SETS[0])
    assert not nft.has_set(ruleset.schema(ruleset.Variant(1)))
    assert not nft.has_set(replace(schema, table=Table.BRIDGE))


def groups(nft: Nft) -> None:
    """Maps of a condition group come and go while the skeleton's rules stay."""
    nft.run(skeleton())
    before = nft.skeleton_text()
    group = ruleset.Group(4, ruleset_conditions())
    nft.run(ruleset.regroup(frozenset(), frozenset({group})))
    assert group.map(host=False, ranges=True).name in nft.skeleton_text()
    nft.run(ruleset.regroup(frozenset({group}), frozenset()))
    assert nft.skeleton_text() == before


def ranges(nft: Nft) -> None:
    """A range is one element: found as itself, not as a part of it, and in the way of whatever overlaps it."""
    nft.run(skeleton())
    made = span(20000, 29999)
    nft.run(Transaction((create(made),)))
    assert nft.contains(made)
    assert not nft.contains(span(20000, 20999))
    assert refused(nft, create(span(25000, 30999))) == errno.EEXIST
    grown = span(20000, 30999)
    nft.run(Transaction((delete(made), create(grown))))
    assert nft.contains(grown)
    assert not nft.contains(made)


def span(first: int, last: int) -> Element:
    """A range of published ports."""
    ports = PortRange(Port(first), Port(last))
    return Element("ranges4", (Protocol.TCP, ports), (IPv4Address("10.11.0.2"),), Comment("front/web/eth0"))


def sets_in_use(nft: Nft) -> None:
    """A set that a rule looks into cannot be deleted."""
    nft.run(skeleton())
    assert refused(nft, delete(Set("publish4", ("inet_proto",)))) == errno.EBUSY


def foreign_rules(nft: Nft) -> None:
    """Our rules in a foreign chain are found by their comment and removed alone; no such chain is ENOENT."""
    nft.insert_rules(FOREIGN, ruleset.accept_rules(IfIndex(10)), OWNER)
    assert len(nft.rule_handles(FOREIGN, OWNER)) == 3
    assert nft.rule_handles(FOREIGN, Comment("somebody else")) == ()
    nft.delete_rules(FOREIGN, OWNER)
    nft.delete_rules(FOREIGN, OWNER)
    assert nft.rule_handles(FOREIGN, OWNER) == ()
    nowhere = ChainRef("inet", "filter", "nowhere")
    nft.delete_rules(nowhere, OWNER)
    with pytest.raises(NftError, match=r"in chain inet filter nowhere: No such file or directory"):
        nft.insert_rules(nowhere, ("accept",), OWNER)


def generations(nft: Nft) -> None:
    """Each transaction that was applied counts once, whosoever; reading and what is refused do not."""
    first = nft.generation()
    nft.run(skeleton() + Transaction((create(WEB),)))
    assert nft.generation() == first + 1
    nft.contains(WEB)
    nft.skeleton_text()
    assert refused(nft, create(WEB)) == errno.EEXIST
    assert nft.generation() == first + 1
    nft.insert_rules(FOREIGN, ruleset.accept_rules(IfIndex(10)), OWNER)
    assert nft.generation() == first + 2
    nft.delete_rules(FOREIGN, OWNER)
    nft.delete_rules(FOREIGN, OWNER)
    assert nft.generation() == first + 3


def sizes(nft: Nft) -> None:
    """Elements are counted by set, a range as one."""
    assert nft.sizes() == {}
    nft.run(skeleton() + Transaction((create(WEB), create(SCTP), create(MEMBER), create(span(20000, 29999)))))
    counted = {name: size for name, size in nft.sizes().items() if size}
    assert counted == {"publish4": 2, "members4": 1, "ranges4": 1}
    assert nft.sizes()["publish6"] == 0


ATOMS: dict[str, tuple[Atom, Atom]] = {
    "ipv4_addr": (IPv4Address("10.11.0.2"), IPv4Address("192.0.2.255")),
    "ipv6_addr": (IPv6Address("fd00::2"), IPv6Address("2001:db8::ff00")),
    "inet_proto": (Protocol.TCP, Protocol.SCTP),
    "inet_service": (Port(80), Port(65535)),
    "iface_index": (LinkIndex(IfIndex(1)), LinkIndex(IfIndex(0x01020304))),
}
SPAN = PortRange(Port(20000), Port(29999))
"""Two parts of an element for each of nft's types, and what an interval has in the place of a port."""


def filled(declared: Set) -> tuple[Element, ...]:
    """Two elements for a set or map, one with a comment; and a range, where it takes any."""

    def made(key: tuple[Atom, ...], which: int, comment: Comment | None = None) -> Element:
        value = tuple(ATOMS[word][which] for word in declared.value)
        return Element(declared.name, key, value, comment, table=declared.table)

    first, second = (tuple(ATOMS[word][which] for word in declared.key) for which in (0, 1))
    ranges = [made((*first[:-1], SPAN), 0, WEB.comment)] if declared.interval else []
    return (made(first, 0, WEB.comment), made(second, 1), *ranges)


def held(nft: Nft) -> None:
    """Every set and map is read as its elements pack, comments included, and unpacks to them; what is not there holds
    nothing."""
    group = ruleset.Group(6, parse(["ip6", "saddr", "fd00::/8"], 6))
    bridge = (Set("guarded", ("iface_index",), table=Table.BRIDGE),)
    every = (*ruleset.SETS, *group.maps(), *bridge)
    assert all(nft.held(declared) == () for declared in every)
    nft.run(skeleton() + ruleset.regroup(frozenset(), frozenset({group})))
    assert all(nft.held(declared) == () for declared in every)
    nft.run(Transaction((add(Table.BRIDGE), *(add(declared) for declared in bridge))))
    nft.run(Transaction(tuple(create(element) for declared in every for element in filled(declared))))
    for declared in every:
        wanted = {element: element.comment.text if element.comment else "" for element in filled(declared)}
        there = nft.held(declared)
        assert sorted(there) == sorted(Held(*pack(element), comment) for element, comment in wanted.items())
        assert nft.values(declared) == dict(map(pack, wanted))
        read = [unpack(declared, one) for one in there]
        assert {element: element.comment.text if element.comment else "" for element in read} == wanted
        assert {one.packed for one in there} == {pack(element) for element in wanted}


def many_held(nft: Nft) -> None:
    """Of more elements than one answer of the kernel can carry, each is read once."""
    nft.run(skeleton())
    made = [Element("publish4", (Protocol.TCP, Port(port)), WEB4, WEB.comment) for port in range(1, 3000)]
    nft.run(Transaction(tuple(create(element) for element in made)))
    assert sorted(one.packed for one in nft.held(PUBLISH4)) == sorted(map(pack, made))


def tables(nft: Nft) -> None:
    """Our tables are found by family and name."""
    assert nft.tables() == frozenset()
    for table in Table:
        nft.run(Transaction((add(table),)))
        assert nft.tables() == {table}
        nft.run(Transaction((delete(table),)))
    nft.run(Transaction(tuple(add(table) for table in Table)))
    assert nft.tables() == frozenset(Table)


def ruleset_conditions() -> tuple[Condition, ...]:
    """Conditions of every kind that can be written."""
    return parse(["ip", "saddr", "!=", "10.0.0.0/8", "iifname", "eth1"], 4)


NFT_CASES = [
    no_table,
    elements,
    conflicts,
    atomicity,
    schema_guard,
    skeleton_text_ignores_elements,
    fingerprints,
    sets_by_name,
    groups,
    ranges,
    sets_in_use,
    foreign_rules,
    generations,
    sizes,
    held,
    many_held,
    tables,
]


@pytest.mark.parametrize("case", NFT_CASES, ids=lambda case: case.__name__)
def test_nft_fake(case: Callable[[Nft], None]) -> None:
    """The fake keeps the contract."""
    nft = FakeNft()
    nft.foreign_chain(FOREIGN)
    case(nft)


def _on_kernel(case: Callable[[Nft], None]) -> None:
    subprocess.run(["nft", "add table inet filter; add chain inet filter forward"], check=True)
    case(LibNftables())


@pytest.mark.parametrize("case", NFT_CASES, ids=lambda case: case.__name__)
def test_nft_kernel(case: Callable[[Nft], None], sandbox: Sandbox) -> None:
    """The kernel keeps the contract."""
    sandbox.call(_on_kernel, case)


def links_case(links: Links, bridge: str, port: str) -> None:
    """Links are found by name and index; flags belong to bridge ports only."""
    master = links.find(bridge)
    veth = links.find(port)
    assert master is not None
    assert veth is not None
    assert (master.kind, veth.kind, veth.master) == ("bridge", "veth", master.index)
    assert links.get(veth.index) == veth
    assert {master, veth} <= set(links.all_links())
    assert links.find("nowhere") is None
    assert links.get(IfIndex(9999)) is None
    assert links.port_flags(veth.index) == PortFlags(hairpin=False, isolated=False)
    links.set_port_flags(veth.index, PortFlags(hairpin=True))
    links.set_port_flags(veth.index, PortFlags(isolated=True))
    assert links.port_flags(veth.index) == PortFlags(hairpin=True, isolated=True)
    links.set_port_flags(veth.index, PortFlags(hairpin=False))
    assert links.port_flags(veth.index) == PortFlags(hairpin=False, isolated=True)
    for none in (master.index, IfIndex(9999)):
        with pytest.raises(LinkError) as unread:
            links.port_flags(none)
        with pytest.raises(LinkError) as unchanged:
            links.set_port_flags(none, PortFlags(hairpin=True))
        assert unread.value.errno == unchanged.value.errno == errno.ENODEV


def test_links_fake() -> None:
    """The fake keeps the contract."""
    links = FakeLinks()
    bridge = links.link("br0", "bridge")
    links.link("veth0", "veth", bridge.index)
    links_case(links, "br0", "veth0")


def _links_on_kernel() -> None:
    links = NetlinkLinks()
    links_case(links, "br0", "veth0")
    addresses = links.host_addresses()
    assert addresses == (IPv4Address("10.11.0.1"), IPv6Address("fd00:11::1"))
    for name in ("", "x" * 16, "a" * 300, "a\0b", "\ud800"):
        assert links.find(name) is None


def test_links_kernel(sandbox: Sandbox) -> None:
    """The kernel keeps the contract, also for what cannot be a link's name."""
    sandbox.bridge("br0", "10.11.0.1/24 fd00:11::1/64")
    sandbox.plug("br0", "veth0", sandbox.namespace("web"))
    sandbox.call(_links_on_kernel)


def _all_addresses() -> int:
    return len(NetlinkLinks().host_addresses())


def test_a_long_dump_is_read_to_its_end(sandbox: Sandbox) -> None:
    """A host with more addresses than one message of the kernel can hold has all of them."""
    sandbox.bridge("br0")
    batch = "".join(f"address add 10.{number // 250}.{number % 250}.1/32 dev br0\n" for number in range(2000))
    sandbox.run("ip", "-batch", "-", input=batch)
    assert sandbox.call(_all_addresses) == 2000


def sysctls_case(sysctls: Sysctls) -> None:
    """Sysctls are read back as written; one that is not there is None, and an error to write."""
    sysctls.write("net/ipv4/ip_forward", "1")
    assert sysctls.read("net/ipv4/ip_forward") == "1"
    assert sysctls.read("net/ipv4/conf/nowhere/route_localnet") is None
    with pytest.raises(KernelError):
        sysctls.write("net/ipv4/conf/nowhere/route_localnet", "1")


def test_sysctls_fake() -> None:
    """The fake keeps the contract."""
    sysctls = FakeSysctls()
    sysctls.missing.add("net/ipv4/conf/nowhere/route_localnet")
    sysctls_case(sysctls)


def _sysctls_on_kernel() -> None:
    sysctls_case(ProcSysctls())


def test_sysctls_kernel(sandbox: Sandbox) -> None:
    """The kernel keeps the contract."""
    sandbox.call(_sysctls_on_kernel)


def programs_case(programs: Programs) -> None:
    """Nothing before they are loaded; then entries and hooks as told; and nothing again after they were unloaded."""
    lo = IfIndex(1)
    assert not programs.loaded()
    assert programs.hooked(lo) == ()
    with pytest.raises(BpfError):
        programs.get("networks", bytes(4))
    with pytest.raises(BpfError):
        programs.put("networks", bytes(4), bytes(8))
    programs.load()
    programs.load()
    assert programs.loaded()
    programs.put("networks", U32.pack(1), bytes(8))
    programs.put("networks", U32.pack(1), bytes([1]) * 8)
    assert programs.get("networks", U32.pack(1)) == bytes([1]) * 8
    assert list(programs.entries("networks")) == [(U32.pack(1), bytes([1]) * 8)]
    assert not programs.create("networks", U32.pack(1), bytes(8))
    assert programs.create("networks", U32.pack(2), bytes(8))
    assert dict(programs.entries("networks")) == {U32.pack(1): bytes([1]) * 8, U32.pack(2): bytes(8)}
    for _ in range(2):
        programs.drop("networks", U32.pack(1))
    assert programs.get("networks", U32.pack(1)) is None
    for program in (Program.CHECKSUM, Program.ISOLATION, Program.CHECKSUM):
        programs.attach(program, lo)
    assert [hooked.program for hooked in programs.hooked(lo)] == [Program.ISOLATION, Program.CHECKSUM]
    programs.detach(Program.ISOLATION, lo)
    programs.detach(Program.ISOLATION, lo)
    assert [hooked.program for hooked in programs.hooked(lo)] == [Program.CHECKSUM]
    assert (programs.localhost(), programs.detach_localhost(LOCALHOST_PROGRAMS)) == (frozenset(), frozenset())
    cookie = programs.localhost_cookie()
    programs.put("settings", U32.pack(0), HostSettings(1, cookie).pack())
    for some in ({Program.CONNECT4}, LOCALHOST_PROGRAMS, LOCALHOST_PROGRAMS):
        programs.attach_localhost(some)
        assert programs.localhost() == programs.current_localhost() == frozenset(some)
    assert programs.detach_localhost({Program.CONNECT4}) == {Program.CONNECT4}
    assert programs.current_localhost() == frozenset(LOCALHOST_PROGRAMS) - {Program.CONNECT4}
    assert "program connect6 on the root of the cgroups" in programs.unload()
    assert programs.localhost() == frozenset()
    assert programs.hooked(lo) == ()
    assert not programs.loaded()


def lost_pins_case(programs: Programs, lose: Callable[[], None]) -> None:
    """What is used stays in use when its pins go, until the door is asked what is loaded: then all is new and empty."""
    lo, key, value = IfIndex(1), U32.pack(1), bytes([1]) * 8
    programs.open()
    programs.put("networks", key, value)
    programs.attach(Program.ISOLATION, lo)
    lose()
    programs.open()
    assert programs.get("networks", key) == value
    programs.put("networks", U32.pack(2), value)
    programs.attach(Program.CHECKSUM, lo)
    assert programs.current(lo) == {Program.ISOLATION, Program.CHECKSUM}
    assert not programs.loaded()
    assert len(programs.hooked(lo)) == 2
    with pytest.raises(BpfError) as error:
        programs.put("networks", key, value)
    assert error.value.errno == errno.ENOENT
    programs.open()
    assert (programs.loaded(), programs.current(lo), list(programs.entries("networks"))) == (True, frozenset(), [])
    programs.put("networks", key, value)
    assert not programs.attach(Program.ISOLATION, lo)
    assert programs.current(lo) == {Program.ISOLATION}
    lose()
    programs.load()
    assert (programs.loaded(), programs.current(lo), programs.get("networks", key)) == (True, frozenset(), None)
    programs.unload()


def test_programs_fake() -> None:
    """The fake keeps the contract."""
    fake = FakePrograms()
    fake.cookie = 4711
    programs_case(fake)
    lost_pins_case(fake, fake.lose_pins)


def _programs_on_kernel(mode: AttachMode) -> None:
    programs_case(KernelPrograms(mode))
    programs = KernelPrograms(mode)
    lost_pins_case(programs, lambda: shutil.rmtree(programs.directory))


@pytest.mark.parametrize("mode", [AttachMode.TCX, AttachMode.CLSACT])
def test_programs_kernel(sandbox: Sandbox, mode: AttachMode) -> None:
    """The kernel keeps the contract, either way of hooking."""
    with_cgroups(sandbox)
    sandbox.call(_programs_on_kernel, mode)


def _flush(filters: tuple[FlowFilter, ...]) -> int:
    return NetlinkFlows().flush(filters)


@pytest.mark.parametrize("besides", [0, 100], ids=["one port", "many ports"])
@pytest.mark.parametrize("version", [4, 6])
def test_flows_are_flushed_by_protocol_port_and_address(sandbox: Sandbox, version: int, besides: int) -> None:
    """Only entries of that protocol, original port and original address go; every other flow stays tracked."""
    here, other, target = {
        4: ("192.0.2.1", "192.0.2.99", "10.0.0.9"),
        6: ("2001:db8::1", "2001:db8::99", "fd00::9"),
    }[version]
    conntrack = ["conntrack", "-I", "-t", "100", "-s", target]
    for number, (protocol, destination, port) in enumerate(
        [("udp", here, 53), ("udp", here, 53), ("udp", other, 53), ("udp", here, 54), ("tcp", here, 53)]
    ):
        state = ["--state", "ESTABLISHED"] if protocol == "tcp" else []
        sandbox.run(*conntrack, "-p", protocol, "-d", destination, "--sport", 1000 + number, "--dport", port, *state)
    address = IPv6Address(here) if version == 6 else IPv4Address(here)
    wanted = tuple(FlowFilter(Protocol.UDP, number, (address,)) for number in (53, *range(1000, 1000 + besides)))
    assert sandbox.call(_flush, wanted) == 2
    assert sandbox.call(_flush, wanted) == 0
    left = sandbox.run("conntrack", "-L", "-f", f"ipv{version}").stdout
    assert left.count("dport=") == 6, left


def _flush_untranslated(sources: tuple[Address, ...]) -> int:
    return NetlinkFlows().flush_untranslated(sources)


@pytest.mark.parametrize("version", [4, 6])
def test_untranslated_flows_are_flushed_by_source(sandbox: Sandbox, version: int) -> None:
    """Those of a container that nobody translated and nobody answered; not the translated, not the answered, and no
    other's."""
    mine, neighbour, host, far = {
        4: ("10.0.0.9", "10.0.0.10", "192.0.2.1", "198.51.100.9"),
        6: ("fd00::9", "fd00::10", "2001:db8::1", "2001:db8:51::9"),
    }[version]
    insert = ["conntrack", "-I", "-t", "100", "-d", far]
    translated = ["--src-nat", host]
    answered = ["-p", "tcp", "--state", "ESTABLISHED", "-u", "SEEN_REPLY,ASSURED"]
    for number, words in enumerate(
        [
            ["-s", mine, "-p", "udp"],
            ["-s", mine, "-p", "tcp", "--state", "SYN_SENT"],
            ["-s", mine, "-p", "udp", *translated],
            ["-s", mine, *answered],
            ["-s", neighbour, "-p", "udp"],
        ]
    ):
        sandbox.run(*insert, *words, "--sport", 1000 + number, "--dport", 53)
    source = ip_address(mine)
    assert sandbox.call(_flush_untranslated, (source,)) == 2
    assert sandbox.call(_flush_untranslated, (source,)) == 0
    left = sandbox.run("conntrack", "-L", "-f", f"ipv{version}").stdout
    assert [f"sport={number}" in left for number in range(1000, 1005)] == [False, False, True, True, True], left


def test_no_filter_flushes_nothing(sandbox: Sandbox) -> None:
    """Without addresses there is nothing to flush, and nothing is asked."""
    assert sandbox.call(_flush_untranslated, ()) == 0
    assert sandbox.call(_flush, (FlowFilter(Protocol.UDP, 53, ()),)) == 0
