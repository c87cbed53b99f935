"""A state that is lost, in part or whole, and what is read back from the kernel in its place; on fake doors."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.conditions import parse
from control.desired.owners import comment_of, key_of, known_as
from control.desired.ruleset import Group
from control.engine import Engine
from control.errors import PortConflictError
from control.model import AttachmentKey, ChecksumPolicy, GuardPolicy, IngressPolicy, Options, PortMapping, Request
from control.state.rebuild import rebuilt
from control.state.remains import Remains, Sandbox, groups_of
from control.state.survey import survey
from control.wiring.wire import alias_of
from dataplane.doors import Link, PortFlags
from dataplane.fakes import FakeDoors
from dataplane.types import Address, IfIndex, Protocol
from support.attachments import key, port, request
from support.fakeworld import World

OFF = GuardPolicy.OFF
MAPS = ("networks", "origins", "containers", "ports", "port_addresses", "fill_ports")
POLICIES = {"front": IngressPolicy.SAME_BRIDGE, "back": IngressPolicy.ISOLATED, "shared": IngressPolicy.OPEN}
BRIDGES = {"front": "br-front", "back": "br-back", "shared": "br-front"}
CONDITIONS = (
    parse(["ip", "saddr", "!=", "10.0.0.0/8"], 4),
    parse(["iifname", "{ eth0, eth1 }", "meta", "mark", "7"], 4),
)
CONDITIONS6 = parse(["ip6", "saddr", "{ fd00::/8, 2001:db8::5 }"], 6)

hosts: st.SearchStrategy[Address | None] = st.sampled_from(
    [None, None, IPv4Address(0), IPv6Address(0), IPv4Address("192.0.2.1"), IPv6Address("2001:db8:0:2::1")]
)
mappings = st.builds(PortMapping, st.integers(8000, 8012), st.sampled_from([80, 443]), st.sampled_from(Protocol), hosts)
ranges = st.builds(
    lambda first, host: [PortMapping(port, port, Protocol.UDP, host) for port in range(first, first + 20)],
    st.sampled_from([20000, 30000]),
    hosts,
)
options = st.builds(
    Options,
    snat=st.booleans(),
    masq_all=st.booleans(),
    ip_masq=st.booleans(),
    checksum=st.sampled_from(ChecksumPolicy),
    fill_ports=st.sampled_from([(68, 546), (67,), ()]),
    guard=st.sampled_from(GuardPolicy),
    conditions4=st.sampled_from([(), (), *CONDITIONS]),
    conditions6=st.sampled_from([(), CONDITIONS6]),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One interface of a container, and what it is asked to have."""

    container: int
    network: str
    second: bool
    """A second interface of the container."""
    versions: tuple[int, ...]
    more: bool
    """One more address of each family."""
    mappings: tuple[PortMapping, ...]
    options: Options
    parts: tuple[str, ...]
    guarded: bool
    long: bool


asked = st.builds(
    Asked,
    container=st.integers(1, 4),
    network=st.sampled_from(sorted(BRIDGES)),
    second=st.booleans(),
    versions=st.sampled_from([(4,), (4, 6), (6,)]),
    more=st.booleans(),
    mappings=st.one_of(st.lists(mappings, max_size=4, unique_by=lambda one: (one.host_port, one.protocol)), ranges).map(
        tuple
    ),
    options=options,
    parts=st.sampled_from([("dataplane",), ("bridge", "portmap", "firewall"), ("dataplane-bridge",)]),
    guarded=st.booleans(),
    long=st.booleans(),
)


@contextmanager
def engine_on(doors: FakeDoors, directory: Path) -> Iterator[Engine]:
    """An engine that ends with its use."""
    engine = Engine(doors.kernel(), directory)
    try:
        yield engine
    finally:
        engine.close()


def host() -> FakeDoors:
    """A host with two bridges."""
    doors = FakeDoors()
    for name in sorted(set(BRIDGES.values())):
        doors.links.link(name, "bridge")
    doors.links.addresses = (IPv4Address("192.0.2.1"), IPv6Address("2001:db8:0:2::1"))
    return doors


def requests_of(one: Asked, doors: FakeDoors) -> list[Request]:
    """What the plugins of its chain ask for; its link is made."""
    # One whose name is cut is not known to have another interface.
    container = f"{'c' * 120}{one.network}{one.container}{one.second:d}" if one.long else f"c{one.container}"
    ifname = "eth1" if one.second else "eth0"
    name = f"veth{one.network}{one.container}{one.second:d}"
    bridge = doors.links.find(BRIDGES[one.network])
    assert bridge is not None
    if doors.links.find(name) is None:
        doors.links.link(name, "veth", bridge.index)
    number = 16 * one.container + 4 * sorted(BRIDGES).index(one.network) + 2 * one.second
    offsets = (number, number + 1) if one.more else (number,)
    bases = {4: int(IPv4Address("10.11.0.0")), 6: int(IPv6Address("fd00:11::"))}
    addresses = tuple(ip_address(bases[version] + offset) for version in one.versions for offset in offsets)
    policy = POLICIES[one.network]
    publishing = one.parts[min(1, len(one.parts) - 1)]
    closing = one.parts[-1]
    found = []
    for plugin in one.parts:
        chosen = one.options if plugin == publishing else Options(guard=GuardPolicy.MAC if one.guarded else OFF)
        chosen = replace(chosen, ingress_policy=policy if plugin == closing else IngressPolicy.OPEN)
        found.append(
            Request(
                AttachmentKey(one.network, container, ifname, plugin),
                addresses,
                (bridge.name, name),
                one.mappings if plugin == publishing else (),
                chosen,
                mac=f"02:00:00:00:00:{number:02x}" if one.guarded else "",
            )
        )
    return found


def picture(doors: FakeDoors) -> dict[str, object]:
    """All that the kernel holds of ours."""
    maps = {name: dict(doors.programs.entries(name)) if doors.programs.loaded() else {} for name in MAPS}
    links = doors.links.all_links()
    return {
        "table": sorted(doors.nft.table_text().splitlines()),
        "maps": maps,
        "hooks": sorted((one.ifindex, one.program) for link in links for one in doors.programs.hooked(link.index)),
        "flags": {link.name: doors.links.port_flags(link.index) for link in links if link.master},
        "sysctls": dict(doors.sysctls.values),
    }


@given(st.lists(asked, min_size=1, max_size=6, unique_by=lambda one: (one.container, one.network, one.second)))
@settings(max_examples=60, deadline=None)
def test_losing_the_state_changes_nothing_in_the_kernel(chosen: list[Asked]) -> None:
    """Whatever is attached, once the state is gone the next request leaves tables, maps, hooks, flags and sysctls as
    they are; and the DELs that come take all of it away."""
    with tempfile.TemporaryDirectory() as directory:
        doors = host()
        keys = []
        with engine_on(doors, Path(directory)) as engine:
            for one in chosen:
                for wanted in requests_of(one, doors):
                    try:
                        engine.add(wanted)
                    except PortConflictError:
                        continue
                    keys.append(wanted.key)
            before = picture(doors)
            number = engine.networks().get("back")
        (Path(directory) / "state.db").unlink()
        with engine_on(doors, Path(directory)) as engine:
            # Of networks that share a bridge only one number is told.
            assert engine.networks().get("back") == number
            engine.delete(key("nobody"))
            assert picture(doors) == before
            assert engine.problems() == []
            for gone in keys:
                engine.delete(gone)
            assert engine.attachments() == []
        left = picture(doors)
        assert left["maps"] == {name: {} for name in MAPS}
        assert left["hooks"] == []
        assert not [line for line in left["table"] if "comment" in line]  # type: ignore[attr-defined]
        assert all(value == "0" for name, value in doors.sysctls.values.items() if name.endswith("/route_localnet"))


def lose(world: World) -> None:
    """Delete the state under a running engine."""
    (world.directory / "state.db").unlink()


def test_what_is_read_back_is_what_was_asked_for(world: World) -> None:
    """Of an attachment with everything that the kernel is told, nothing is missing."""
    world.attach(
        "web",
        "10.11.0.2 10.11.0.3 fd00:11::2",
        port(8080),
        port(8081, 443, "udp", "192.0.2.1"),
        *(port(number, number, "udp", "::") for number in range(30000, 30040)),
        options=Options(
            snat=False,
            ip_masq=True,
            ingress_policy=IngressPolicy.ISOLATED,
            checksum=ChecksumPolicy.OBSERVE,
            conditions4=CONDITIONS[1],
            conditions6=CONDITIONS6,
        ),
    )
    (before,) = world.engine.attachments()
    lose(world)
    (found,) = world.engine.attachments()
    by_text = sorted(before.request.mappings, key=lambda one: (one.protocol, one.host_port))
    assert found == replace(
        before,
        request=replace(before.request, mappings=tuple(by_text)),
        device=replace(before.device, port_flags=PortFlags(hairpin=True, isolated=True)),
    )


@pytest.mark.parametrize("guard", GuardPolicy)
def test_a_guarded_veth(world: World, guard: GuardPolicy) -> None:
    """What the container may send, its MAC, its veth and the veth's flags as they are now come back; of one that is
    not guarded, only its namespace tells which of the bridge's ports is its own."""
    veth = world.doors.links.link("vethweb", "veth", world.bridge.index)
    asked_for = request("web", "10.11.0.2", port(8080), interfaces=("br-front", veth.name))
    asked_for = replace(asked_for, mac="02:00:00:00:00:01", options=Options(guard=guard))
    world.engine.add(asked_for)
    (before,) = world.engine.attachments()
    lose(world)
    (found,) = world.engine.attachments()
    if guard is GuardPolicy.OFF:
        assert (found.device.port, found.request.mac, found.options.guard) == (0, "", guard)
    else:
        flags = PortFlags(hairpin=True, isolated=False)
        assert found == replace(before, device=replace(before.device, port_flags=flags))
    world.engine.delete(key("nobody"))
    world.engine.check(asked_for)


@pytest.mark.parametrize("ports", [(68, 546), (67,), ()])
def test_a_network_that_fills(world: World, ports: tuple[int, ...]) -> None:
    """Mode and ports come back."""
    options = Options(checksum=ChecksumPolicy.FILL, fill_ports=ports, guard=GuardPolicy.OFF)
    world.attach("web", "10.11.0.2", options=options)
    lose(world)
    assert [one.options for one in world.engine.attachments()] == [options]


def test_a_check_after_a_loss_compares_with_the_kernel(world: World) -> None:
    """What the kernel could not tell is no difference; an ADD tells it again."""
    asked_for = world.attach(
        "web", "10.11.0.2", port(9000), port(8080), options=Options(forward_chains=(), firewalld_zone="trusted")
    )
    lose(world)
    world.engine.check(asked_for)
    assert world.engine.attachments()[0].options.firewalld_zone == ""
    world.engine.add(asked_for)
    assert world.engine.attachments()[0].request == asked_for
    world.engine.check(asked_for)


def test_a_delete_is_the_first_request_after_a_loss(world: World) -> None:
    """It takes its attachment away, and no other."""
    world.attach("web", "10.11.0.2", port(8080))
    db = world.attach("db", "10.11.0.3", port(8081))
    lose(world)
    world.engine.delete(key("web"))
    assert not world.published(8080, "10.11.0.2")
    world.engine.check(db)


def test_a_port_that_is_held_is_refused_after_a_loss(world: World) -> None:
    """The holder is known by its name."""
    world.attach("web", "10.11.0.2", port(8080))
    lose(world)
    with pytest.raises(PortConflictError, match='already published by container "web"'):
        world.attach("db", "10.11.0.3", port(8080))


@pytest.mark.parametrize("gone", ["web", "db"])
def test_a_port_of_one_family_is_no_claim_to_the_other(world: World, gone: str) -> None:
    """web has the port for IPv4, and for IPv6 behind conditions by another interface; db has it for IPv6 from all.
    Whoever goes first leaves the others what they have."""
    for container, addresses, ifname, host, options in (
        ("web", "fd00:11::3", "eth1", None, Options(conditions6=CONDITIONS6)),
        ("db", "fd00:11::4", "eth0", None, Options()),
        ("web", "10.11.0.2 fd00:11::2", "eth0", "0.0.0.0", Options()),
    ):
        wanted = request(container, addresses, port(8080, address=host), interfaces=("br-front",), options=options)
        world.engine.add(replace(wanted, key=replace(wanted.key, ifname=ifname)))
    before = picture(world.doors)
    lose(world)
    first = AttachmentKey("front", gone, "eth1" if gone == "web" else "eth0")
    world.engine.delete(first)
    assert picture(world.doors) != before
    assert first not in [one.key for one in world.engine.attachments()]
    assert world.engine.problems() == []
    rest = [one.key for one in world.engine.attachments()]
    assert len(rest) == 2
    for one in rest:
        world.engine.delete(one)
    assert world.engine.attachments() == []


def test_gc_after_a_loss_knows_long_names(world: World) -> None:
    """A container whose name does not fit into a comment is as valid as before."""
    name = "c" * 200
    kept = world.attach("x", "10.11.0.2", port(8080))
    long = replace(kept, key=AttachmentKey("front", name, "eth1"), addresses=(IPv4Address("10.11.0.9"),), mappings=())
    world.engine.add(long)
    lose(world)
    world.engine.collect("front", frozenset({("x", "eth0"), (name, "eth1")}))
    assert [one.key for one in world.engine.attachments()] == [long.key, kept.key]
    world.engine.collect("front", frozenset({("x", "eth0")}))
    assert [one.key for one in world.engine.attachments()] == [kept.key]


@given(
    st.lists(st.text("abc.-_0", min_size=1, max_size=255).map(lambda text: "n" + text[:254]), min_size=2, max_size=2)
)
def test_a_comment_tells_its_owner(names: list[str]) -> None:
    """Names that fit are told whole, others by a name that is as good as theirs, for every part of the interface."""
    for plugin in ("dataplane", "portmap"):
        own = AttachmentKey(names[0], names[1], "eth0", plugin)
        told = key_of(comment_of(own).text)
        assert told == known_as(own)
        assert told is not None
        assert comment_of(told) == comment_of(own)
        assert (told == own) == (len(f"{names[0]}/{names[1]}/eth0") <= 103)
        assert told.siblings(known_as(replace(own, plugin="bridge")))


@pytest.mark.parametrize(
    "text", ["", "front/web", "a/b/c/d/e", "front/we b/eth0", "front/web/" + "e" * 16, "+/web/eth0"]
)
def test_a_comment_of_somebody_else_tells_nobody(text: str) -> None:
    """Whatever stands there, it is no reason to stop."""
    assert key_of(text) is None


def rules_of(group: Group) -> str:
    """Look-up rules as nft lists them."""
    return "\n".join(
        f"\t\t{rule.text} # handle 7".partition(" # ")[0] for rule in group.lookups("publish_in", host=False)
    )


@pytest.mark.parametrize("conditions", CONDITIONS)
def test_conditions_are_read_from_their_rules(conditions: tuple[object, ...]) -> None:
    """A group comes back when its name is that of these conditions, and as unknown where it is not."""
    group = Group(4, conditions)  # type: ignore[arg-type]
    assert groups_of(rules_of(group)) == ((4, group.suffix, group),)
    forged = rules_of(group).replace(group.suffix, "_c0123456789ab")
    assert groups_of(forged) == ((4, "_c0123456789ab", None),)


def test_ports_whose_conditions_are_lost_are_closed(world: World) -> None:
    """They were never open to all."""
    web = world.attach("web", "10.11.0.2", port(8080), options=Options(conditions4=CONDITIONS[0]))
    remains = survey(world.doors.kernel())
    found = rebuilt(replace(remains, rules=remains.rules.replace("10.0.0.0/8", "10.0.0.0/9")))
    assert found.attachments[0].request.mappings == ()
    assert found.notes == (
        "attachment front/web/eth0 had conditions for ports 8080 that cannot be read: they are closed",
    )
    assert rebuilt(remains).attachments[0].request.mappings == web.mappings


def test_an_interface_without_addresses_is_known_by_its_alias() -> None:
    """Of an interface of ours for layer 2 the alias tells whose it is, so that its network stays as closed as it is."""
    bridge = Link(IfIndex(5), "br-front", "bridge", IfIndex(0))
    veth = Link(IfIndex(6), "veth1", "veth", bridge.index, alias=alias_of(key("web")))
    (found,) = rebuilt(Remains(links={5: bridge, 6: veth})).attachments  # type: ignore[dict-item]
    assert (found.key.container, found.key.plugin) == ("web", "some-main-plugin")
    assert (found.device.index, found.device.port) == (5, 6)


def test_a_namespace_is_known_by_the_other_end_of_its_link(world: World) -> None:
    """The port of a bridge that others made, and the path of the namespace, are told by the link inside."""
    world.attach("web", "10.11.0.2", port(8080))
    remains = survey(world.doors.kernel())
    port_index = next(link.index for link in remains.links.values() if link.name == "vethweb")
    inner = Link(IfIndex(2), "eth0", "veth", IfIndex(0), peer=port_index)
    outer = replace(remains.links[port_index], peer=inner.index)
    own = frozenset({ip_address("10.11.0.2")})
    sandbox = Sandbox("/run/netns/web", 4711, (inner,), {inner.index: own})
    stranger = replace(sandbox, path="/run/netns/other", addresses={inner.index: frozenset({ip_address("10.11.0.3")})})
    links = {**remains.links, port_index: outer}
    (found,) = rebuilt(replace(remains, links=links, sandboxes=(stranger, sandbox))).attachments
    assert (found.request.netns, found.request.netns_inode) == ("/run/netns/web", 4711)
    assert found.device == replace(
        world.engine.attachments()[0].device, port_flags=PortFlags(hairpin=True, isolated=False)
    )


def test_bpf_maps_that_cannot_be_read_leave_a_network_closed(world: World) -> None:
    """The programs on a device tell that it was isolated."""
    world.attach("web", "10.11.0.2", options=Options(ingress_policy=IngressPolicy.SAME_BRIDGE))
    remains = replace(survey(world.doors.kernel()), networks={}, origins=frozenset())
    assert rebuilt(remains).attachments[0].options.ingress_policy is IngressPolicy.SAME_BRIDGE


def flip(world: World, found: bytes, changed: bytes) -> None:
    """Damage every place of the file where these bytes are."""
    path = world.directory / "state.db"
    raw = path.read_bytes()
    assert found in raw
    path.write_bytes(raw.replace(found, changed))


@pytest.mark.parametrize(
    ("found", "changed"),
    [(b'"masqAll":false', b'"masqAll":true '), (b"10.11.0.2", b"10.11.0.\xff")],
    ids=["a word", "no text"],
)
def test_a_row_that_was_damaged(world: World, found: bytes, changed: bytes) -> None:
    """A byte that flipped is noticed by whoever reads it, and the attachment is what the kernel says it is."""
    web = world.attach("web", "10.11.0.2", port(8080))
    world.attach("db", "10.11.0.3", port(8081))
    before = world.engine.attachments()
    world.engine.close()
    flip(world, found, changed)
    with engine_on(world.doors, world.directory) as engine:
        assert [one.key for one in engine.attachments()] == [one.key for one in before]
        engine.check(web)
        engine.delete(web.key)
        assert not world.published(8080, "10.11.0.2")
        assert engine.problems() == []


@pytest.mark.parametrize("size", [0, 100, 4096, 9000])
def test_a_state_that_was_truncated(world: World, size: int) -> None:
    """Wherever the file ends, the next request goes on with what the kernel holds."""
    for number in range(2, 30):
        world.attach(f"c{number}", f"10.11.0.{number}", port(8000 + number))
    world.engine.close()
    path = world.directory / "state.db"
    path.write_bytes(path.read_bytes()[:size])
    with engine_on(world.doors, world.directory) as engine:
        engine.add(request("late", "10.11.0.99", port(9999), interfaces=("br-front",)))
        assert len(engine.attachments()) == 29
        assert engine.problems() == []


def test_a_state_of_a_later_version_is_read_back(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody here can read is set aside."""
    world.attach("web", "10.11.0.2", port(8080))
    world.engine.close()
    with closing(sqlite3.connect(world.directory / "state.db", isolation_level=None)) as database:
        database.execute("PRAGMA user_version = 99")
    with engine_on(world.doors, world.directory) as engine:
        assert [one.key.container for one in engine.attachments()] == ["web"]
    assert "its schema is 99" in capsys.readouterr().err


def test_a_state_of_the_third_schema_is_taken_over(world: World) -> None:
    """All that it knew is there, also what the kernel could not tell."""
    options = Options(firewalld_zone="trusted", guard=OFF)
    web = world.attach("web", "10.11.0.2", port(8080), options=options)
    world.engine.set_checksum_mode("front", ChecksumPolicy.OBSERVE)
    before, networks = world.engine.attachments(), world.engine.networks()
    world.engine.close()
    with closing(sqlite3.connect(world.directory / "state.db", isolation_level=None)) as database:
        (document,) = database.execute("SELECT document FROM attachments").fetchone()
        old = document.partition("\n")[0].replace('"schema":5', '"schema":3')
        database.execute("UPDATE attachments SET document = ?", (old,))
        database.execute("DROP TABLE rebuilt")
        database.execute("DROP TABLE former")
        database.execute("PRAGMA user_version = 3")
    generation = world.doors.nft.generation()
    with engine_on(world.doors, world.directory) as engine:
        assert engine.attachments() == before
        assert engine.networks() == networks
        # It guarded nobody; who runs already is guarded from the next ADD on.
        engine.check(replace(web, options=replace(options, guard=GuardPolicy.FULL), mac="02:00:00:00:00:01"))
        assert engine.reconcile() == ([], [])
    assert world.doors.nft.generation() == generation


@pytest.mark.parametrize("mac", ["", "02:00:00:00:00:01"])
def test_a_state_of_the_fourth_schema_is_taken_over(world: World, mac: str) -> None:
    """Running containers are checked, repaired and removed as before: guarded by their MAC, or not at all."""
    guard = GuardPolicy.MAC if mac else OFF
    web = world.attach("web", "10.11.0.2", port(8080), options=Options(guard=guard))
    world.engine.close()
    with closing(sqlite3.connect(world.directory / "state.db", isolation_level=None)) as database:
        (document,) = database.execute("SELECT document FROM attachments").fetchone()
        raw = json.loads(document.partition("\n")[0])
        raw |= {"schema": 4, "guardedMac": mac}
        raw["options"] = {name: value for name, value in raw["options"].items() if name not in {"guard", "fillPorts"}}
        del raw["mac"]
        old = json.dumps(raw)
        database.execute("UPDATE attachments SET document = ?", (f"{old}\n{sha256(old.encode()).hexdigest()[:16]}",))
        database.execute("ALTER TABLE attachments ADD COLUMN guarded INTEGER")
        database.execute("CREATE INDEX attachments_guarded ON attachments (guarded) WHERE guarded")
        database.execute("DELETE FROM facts WHERE name = 'localhost'")
        database.execute("PRAGMA user_version = 4")
    with engine_on(world.doors, world.directory) as engine:
        (found,) = engine.attachments()
        assert (found.options.guard, found.request.mac) == (guard, mac)
        engine.reconcile()
        engine.check(replace(web, options=Options(), mac="02:00:00:00:00:01"))
        engine.delete(web.key)
        assert engine.problems() == []


def test_a_host_on_which_nothing_is_attached(tmp_path: Path) -> None:
    """A state that begins empty there asks for nothing, and makes no table."""
    doors = FakeDoors()
    with engine_on(doors, tmp_path) as engine:
        engine.delete(key("web"))
        assert engine.store.recovery.lost == ""
    assert doors.nft.tables() == frozenset()


def test_attachments_of_the_journal_are_not_read_back(world: World) -> None:
    """What an interrupted change may have left is taken away, and not mistaken for an attachment."""
    web = world.attach("web", "10.11.0.2", port(8080))
    store = world.engine.store
    (attachment,) = world.engine.attachments()
    store.begin([attachment])
    store._db.run("DELETE FROM attachments")
    store.keep_fact("lost", "a test says so")
    world.engine.close()
    with engine_on(world.doors, world.directory) as engine:
        engine.delete(key("nobody"))
        assert engine.attachments() == []
    assert not world.published(8080, "10.11.0.2")
    assert web.key == attachment.key


def test_other_processes_take_what_one_has_read_back(world: World) -> None:
    """The state is read back once, whoever sees first that it is lost."""
    world.attach("web", "10.11.0.2", port(8080))
    lose(world)
    with engine_on(world.doors, world.directory) as other:
        assert [one.key.container for one in other.attachments()] == ["web"]
        assert [one.key.container for one in world.engine.attachments()] == ["web"]
        other.delete(key("web"))
        assert world.engine.attachments() == []
