"""Localhost by programs of the cgroups' root, or by nftables: what is decided, and what the kernel then holds."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from control.desired.hooks import HostWide, NetworkFacts, attachment_entries, device_entries, use_of
from control.desired.planner import Desired, desired, plan
from control.engine import Engine
from control.localhost import Localhost, Means, choose
from control.model import Attachment, ChecksumPolicy, GuardPolicy, IngressPolicy, Options
from control.repair.observation import complaints, observe, there
from control.repair.reconciler import EVERYTHING, Part
from control.settings import LocalhostMode, Settings, SettingsError, read_settings
from dataplane.abi import U32, HostSettings, PublishedKey, Target
from dataplane.apply import apply
from dataplane.errors import BpfError, DataplaneError, MissingDependencyError
from dataplane.fakes import FakeDoors, FakePrograms
from dataplane.steps import (
    AttachLocalhost,
    AttachProgram,
    DetachLocalhost,
    LoadPrograms,
    PutEntry,
    SetSysctl,
    Step,
)
from dataplane.types import DATAGRAM_PROGRAMS, LOCALHOST_PROGRAMS, IfIndex, Program
from support.attachments import attachment, key, port
from support.fakeworld import World

COOKIE = 4711
CGROUPS, NFT, OFF = HostWide(1, COOKIE), HostWide(1), HostWide(1, localnet=False)
FACTS = {"front": NetworkFacts(1), "back": NetworkFacts(2)}
ROUTE_LOCALNET = "net/ipv4/conf/br-front/route_localnet"
BARE = Options(ingress_policy=IngressPolicy.OPEN, checksum=ChecksumPolicy.OFF, guard=GuardPolicy.OFF)
"""A network that needs no program of its own."""


def state(host: HostWide, *attachments: Attachment) -> Desired:
    """What these attachments, and nobody else, ask for."""
    return desired(attachments, [use_of(one) for one in attachments], FACTS, host)


def led(*attachments: Attachment, host: HostWide = CGROUPS) -> dict[PublishedKey, Target]:
    """The map ``published``."""
    found = attachment_entries(attachments, FACTS, host)
    known = {
        PublishedKey(address, family, protocol, number).pack(): PublishedKey(address, family, protocol, number)
        for address in (None, *map(IPv4Address, ("0.0.0.0", "127.0.0.1", "192.0.2.1")), IPv6Address("::1"))
        for family in (4, 6)
        for protocol in (6, 17)
        for number in (8080, 53)
    }
    return {known[key]: Target.unpack(value) for (name, key), value in found.items() if name == "published"}


WEB4, WEB6 = IPv4Address("10.11.0.2"), IPv6Address("fd00:11::2")


def test_what_loopback_addresses_lead_to() -> None:
    """Each family leads to its own; [::1] leads to IPv4 under a key of its own where the container has nothing else,
    and the port is published on all addresses."""
    both = attachment("web", f"{WEB4} {WEB6}", port(8080), options=BARE)
    assert led(both) == {
        PublishedKey(None, 4, 6, 8080): Target(WEB4, 80, localhost=True),
        PublishedKey(None, 6, 6, 8080): Target(WEB6, 80, localhost=True),
    }
    four = attachment("web", str(WEB4), port(8080), port(53, 53, "udp", "0.0.0.0"), options=BARE)
    assert led(four) == {
        PublishedKey(None, 4, 6, 8080): Target(WEB4, 80, localhost=True),
        PublishedKey(IPv4Address("0.0.0.0"), 6, 6, 8080): Target(WEB4, 80, localhost=True),
        PublishedKey(None, 4, 17, 53): Target(WEB4, 53, localhost=True),
    }
    one = attachment("web", str(WEB4), port(8080, address="127.0.0.1"), options=BARE)
    assert led(one) == {PublishedKey(IPv4Address("127.0.0.1"), 4, 6, 8080): Target(WEB4, 80, localhost=True)}


def test_nobody_is_led_whom_the_settings_leave_out() -> None:
    """Without programs, without snat, and for SCTP there is nothing to lead to."""
    web = attachment("web", str(WEB4), port(8080), options=BARE)
    assert led(web, host=NFT) == {}
    kept = Options(snat=False, ingress_policy=IngressPolicy.OPEN, checksum=ChecksumPolicy.OFF)
    assert led(attachment("web", str(WEB4), port(8080), options=kept)) == {}
    assert led(attachment("web", str(WEB4), port(8080, protocol="sctp"), options=BARE)) == {}
    repaired = attachment("web", str(WEB4), port(8080), options=Options(snat=False))
    assert not any(target.localhost for target in led(repaired).values())


def test_the_programs_know_whose_processes_are_led() -> None:
    """The cookie is there as soon as anybody is to be led, though no device needs a program."""
    use = use_of(attachment("web", str(WEB6), port(8080), options=BARE))
    settings = {("settings", U32.pack(0)): HostSettings(1, COOKIE).pack()}
    assert device_entries([use], FACTS, CGROUPS) == settings
    assert device_entries([use], FACTS, NFT) == {}


def steps(*kinds: type[Step], of: tuple[Step, ...]) -> list[Step]:
    """The steps of these kinds, in order."""
    return [step for step in of if isinstance(step, kinds)]


def test_processes_are_led_once_the_maps_say_where() -> None:
    """All entries come first, then the programs; and no sysctl opens a device."""
    made = plan(state(CGROUPS), state(CGROUPS, attachment("web", str(WEB4), port(8080))), CGROUPS.variant)
    kinds = [type(step) for step in made]
    last_entry = max(place for place, kind in enumerate(kinds) if kind is PutEntry)
    assert kinds.index(LoadPrograms) < last_entry < kinds.index(AttachProgram) < kinds.index(AttachLocalhost)
    assert not [step for step in steps(SetSysctl, of=made) if "localnet" in str(step)]


def test_programs_of_processes_stay_when_the_last_container_leaves() -> None:
    """DEL does not wait for the cgroups, and the next ADD on the device finds them there."""
    one, other = (attachment(name, f"10.11.0.{host}", port(8000 + host)) for name, host in (("web", 2), ("db", 3)))
    assert not steps(AttachLocalhost, DetachLocalhost, of=plan(state(CGROUPS, one), state(CGROUPS), CGROUPS.variant))
    assert not steps(AttachLocalhost, of=plan(state(CGROUPS, one), state(CGROUPS, one, other), CGROUPS.variant))


def test_datagrams_wait_for_no_program_of_streams() -> None:
    """What every datagram socket of the machine would run is attached with the first UDP port."""
    web = attachment("web", str(WEB4), port(8080))
    assert state(CGROUPS, web).localhost == frozenset(LOCALHOST_PROGRAMS) - DATAGRAM_PROGRAMS
    dns = attachment("dns", "10.11.0.3", port(53, 53, "udp"))
    assert AttachLocalhost(DATAGRAM_PROGRAMS) in plan(state(CGROUPS, web), state(CGROUPS, web, dns), CGROUPS.variant)


@pytest.mark.parametrize(
    ("host", "addresses", "localnet", "leads"),
    [
        (CGROUPS, str(WEB4), False, True),
        (CGROUPS, str(WEB6), False, True),
        (NFT, str(WEB4), True, False),
        (NFT, str(WEB6), False, False),
        (OFF, str(WEB4), False, False),
    ],
)
def test_what_each_means_needs(host: HostWide, addresses: str, localnet: bool, leads: bool) -> None:
    """route_localnet is nft's alone, and for IPv4; programs serve containers of either family."""
    wanted = state(host, attachment("web", addresses, port(8080)))
    assert (ROUTE_LOCALNET in wanted.device_sysctls) == localnet
    assert bool(wanted.localhost) == leads


def test_undoing_leaves_programs_that_were_there() -> None:
    """A failed change takes them off only if it brought them; taking them off is undone, too."""
    doors = FakeDoors()
    doors.programs.cookie = COOKIE
    doors.programs.load()
    every = frozenset(LOCALHOST_PROGRAMS)
    undo = apply([AttachLocalhost(every - DATAGRAM_PROGRAMS)], doors.kernel())
    again = apply([AttachLocalhost(every)], doors.kernel())
    again(BpfError("try", "something", "it failed"))
    assert doors.programs.localhost() == every - DATAGRAM_PROGRAMS
    undo(BpfError("try", "something", "it failed"))
    assert not doors.programs.localhost()
    apply([DetachLocalhost()], doors.kernel())(BpfError("try", "something", "it failed"))
    assert not doors.programs.localhost()
    apply([AttachLocalhost(every)], doors.kernel())
    apply([DetachLocalhost()], doors.kernel())(BpfError("try", "something", "it failed"))
    assert doors.programs.localhost() == every


def test_what_is_missing_is_named_and_attached() -> None:
    """CHECK and status name each program; the repair is the step that an ADD has."""
    doors = FakeDoors()
    doors.programs.cookie = COOKIE
    wanted = state(CGROUPS, attachment("web", str(WEB4), port(8080), options=BARE))
    kernel = doors.kernel()
    apply(
        [step for step in plan(state(CGROUPS), wanted, CGROUPS.variant) if isinstance(step, LoadPrograms | PutEntry)],
        kernel,
    )
    observed = observe(kernel, wanted, {Part.PROGRAMS})
    texts = [text for _, text in complaints(wanted, observed, {Part.PROGRAMS})]
    assert texts[0] == "program connect4 is not attached to the root of the cgroups"
    assert len(texts) == len(wanted.localhost) == len(LOCALHOST_PROGRAMS) - len(DATAGRAM_PROGRAMS)
    repair = AttachLocalhost(wanted.localhost)
    assert plan(there(wanted, observed, {Part.PROGRAMS}), wanted, CGROUPS.variant) == (LoadPrograms(), repair)
    apply([repair], kernel)
    assert not list(complaints(wanted, observe(kernel, wanted, {Part.PROGRAMS}), {Part.PROGRAMS}))


# -- means ------------------------------------------------------------------------------------------------------------


def test_the_means_that_a_host_has() -> None:
    """auto takes the programs where it can, and else tells why not; what is chosen is not asked for."""
    programs = FakePrograms()
    fallen_back = choose(LocalhostMode.AUTO, programs)
    assert (fallen_back.means, fallen_back.cookie) == (Means.NFT, 0)
    assert fallen_back.why == "could not find the root of the cgroups: no cgroup2 is mounted"
    programs.cookie = COOKIE
    assert choose(LocalhostMode.AUTO, programs) == Localhost(Means.CGROUPS, COOKIE)
    assert choose(LocalhostMode.NFT, programs) == Localhost(Means.NFT)
    assert choose(LocalhostMode.OFF, programs) == Localhost(Means.OFF)
    assert [str(one) for one in (fallen_back, Localhost(Means.NFT))] == [
        "127.0.0.0/8 alone, by nftables and route_localnet",
        "127.0.0.0/8 alone, by nftables and route_localnet, as the settings say",
    ]


@pytest.mark.parametrize(
    "error", [BpfError("load", "it", "no bcc"), MissingDependencyError("could not find bpf/abi.h")]
)
def test_a_host_that_cannot_have_programs_still_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: DataplaneError
) -> None:
    """Whatever is missing, an engine comes up, for a DEL above all, and tells what it was."""

    def refuse() -> int:
        raise error

    doors = FakeDoors()
    monkeypatch.setattr(doors.programs, "localhost_cookie", refuse)
    with engine(tmp_path, doors) as made:
        assert made.localhost == Localhost(Means.NFT, why=str(error))
        made.delete(key("never"))


def test_a_host_that_lets_nobody_ask_of_programs_is_served(
    tmp_path: Path, doors: FakeDoors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where bpf(2) is refused, what needs no program comes and goes, and is looked after."""

    def refuse() -> int:
        raise BpfError.from_errno("query", "the root of the cgroups", errno.EPERM)

    monkeypatch.setattr(doors.programs, "localhost_cookie", refuse)
    monkeypatch.setattr(doors.programs, "localhost", refuse)
    with engine(tmp_path, doors) as made:
        world = World(made, doors, doors.links.all_links()[0], tmp_path)
        web = world.attach("web", "10.11.0.2", port(8080), options=BARE)
        assert made.problems() == []
        assert not made.sync(EVERYTHING).failed
        made.delete(web.key)
    assert not world.published(8080, "10.11.0.2")


@pytest.mark.parametrize("mode", LocalhostMode)
def test_the_means_are_a_setting(tmp_path: Path, mode: LocalhostMode) -> None:
    """By their names, and by nothing else."""
    path = tmp_path / "dataplane.toml"
    path.write_text(f'localhost = "{mode}"')
    assert read_settings(path) == Settings(localhost=mode)
    for wrong in ("true", '"cgroups"', '"on"'):
        path.write_text(f"localhost = {wrong}")
        with pytest.raises(SettingsError, match='localhost must be "auto", "nft" or "off"'):
            read_settings(path)


@contextmanager
def engine(directory: Path, doors: FakeDoors, settings: Settings | SettingsError | None = None) -> Iterator[Engine]:
    """An engine, as a process has it that reads these settings."""
    made = Engine(doors.kernel(), directory, settings)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def doors() -> FakeDoors:
    """A host with cgroups and a bridge."""
    made = FakeDoors()
    made.programs.cookie = COOKIE
    made.links.link("br-front", "bridge")
    made.links.addresses = (IPv4Address("192.0.2.1"),)
    return made


def is_led(doors: FakeDoors) -> bool:
    """Whether programs lead to a published port."""
    return bool(doors.programs.localhost()) and any(
        Target.unpack(value).localhost for _, value in doors.programs.entries("published")
    )


def test_means_follow_the_settings_and_leave_nothing_of_the_former(tmp_path: Path, doors: FakeDoors) -> None:
    """The first request of a process with other settings changes over; what a sysctl was before us it is again."""
    doors.sysctls.values[ROUTE_LOCALNET] = "0"
    nft, off = Settings(localhost=LocalhostMode.NFT), Settings(localhost=LocalhostMode.OFF)
    with engine(tmp_path, doors, nft) as former:
        World(former, doors, doors.links.all_links()[0], tmp_path).attach("web", "10.11.0.2", port(8080))
    for settings, localnet, programs in (
        (Settings(), "0", True),
        (nft, "1", False),
        (off, "0", False),
        (nft, "1", False),
    ):
        with engine(tmp_path, doors, settings) as now:
            assert [text for text in now.problems() if "by other means" in text]
            assert now.reconcile()[1] == []
        assert doors.sysctls.values[ROUTE_LOCALNET] == localnet
        assert bool(doors.programs.localhost()) == programs
        assert is_led(doors) == programs
    with engine(tmp_path, doors, nft) as last:
        last.delete(key("web"))
    assert doors.sysctls.values[ROUTE_LOCALNET] == "0"


def test_an_agent_changes_over_by_itself(tmp_path: Path, doors: FakeDoors) -> None:
    """Its first look at everything puts right what an earlier version left, and tells what it was."""
    with engine(tmp_path, doors, Settings(localhost=LocalhostMode.NFT)) as former:
        World(former, doors, doors.links.all_links()[0], tmp_path).attach("web", "10.11.0.2", port(8080))
    with engine(tmp_path, doors) as agent:
        outcome = agent.sync(EVERYTHING)
        assert outcome.found[Part.STATE] == (
            "published ports answer on localhost by other means (nft) than they are to (cgroups)",
        )
        assert not agent.sync(EVERYTHING).found
    assert doors.sysctls.values[ROUTE_LOCALNET] == "0"
    assert is_led(doors)


def test_a_host_without_containers_changes_nothing(tmp_path: Path, doors: FakeDoors) -> None:
    """Other means are no problem where nobody is served by them."""
    for settings in (Settings(), Settings(localhost=LocalhostMode.NFT), Settings()):
        with engine(tmp_path, doors, settings) as asked:
            assert asked.problems() == []
    assert not doors.programs.localhost()


def test_programs_that_outlived_the_last_container_go_with_the_next(tmp_path: Path, doors: FakeDoors) -> None:
    """Settings that change while nobody is attached leave no program on the cgroups' root behind."""
    with engine(tmp_path, doors) as former:
        world = World(former, doors, doors.links.all_links()[0], tmp_path)
        former.delete(world.attach("web", "10.11.0.2", port(8080)).key)
    assert doors.programs.localhost()
    with engine(tmp_path, doors, Settings(localhost=LocalhostMode.OFF)) as agent:
        World(agent, doors, doors.links.all_links()[0], tmp_path).attach("db", "10.11.0.3", port(5432))
        agent.sync(EVERYTHING)
        assert not agent.sync(EVERYTHING).found
        assert not agent.problems()
    assert not doors.programs.localhost()


def test_settings_that_cannot_be_read_keep_the_means(tmp_path: Path, doors: FakeDoors) -> None:
    """A DEL must work, and is no reason to change how the others are reached."""
    with engine(tmp_path, doors) as before:
        world = World(before, doors, doors.links.all_links()[0], tmp_path)
        world.attach("web", "10.11.0.2", port(8080))
        world.attach("db", "10.11.0.3", port(5432))
    with engine(tmp_path, doors, SettingsError("could not read the settings")) as broken:
        assert broken.localhost.means is Means.CGROUPS
        broken.delete(key("db"))
    assert is_led(doors)


def test_teardown_takes_the_programs_off(tmp_path: Path, doors: FakeDoors) -> None:
    """And says so, a line each."""
    with engine(tmp_path, doors) as torn_down:
        World(torn_down, doors, doors.links.all_links()[0], tmp_path).attach("web", "10.11.0.2", port(8080))
        removed = torn_down.teardown()
    assert "program connect4 on the root of the cgroups" in removed
    assert not doors.programs.localhost()


def test_lost_programs_come_back_with_their_entries(tmp_path: Path, doors: FakeDoors) -> None:
    """Pins of another version, or none: on a network that has no other program, too."""
    with engine(tmp_path, doors) as agent:
        World(agent, doors, doors.links.all_links()[0], tmp_path).attach("web", "10.11.0.2", port(8080), options=BARE)
        doors.programs.unload()
        found = agent.sync(frozenset({Part.PROGRAMS})).found
        assert Part.PROGRAMS in found
    assert is_led(doors)
    assert doors.programs.hooked(IfIndex(2)) == ()
    assert Program.CONNECT4 in doors.programs.current_localhost()


def test_a_kernel_that_refuses_makes_an_add_fail_whole(
    tmp_path: Path, doors: FakeDoors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could be attached a moment ago and cannot now is told, and nothing of the ADD is left."""

    def refuse(_: object) -> None:
        raise BpfError.from_errno("attach a BPF program to", "the root of the cgroups", errno.E2BIG)

    with engine(tmp_path, doors) as asked:
        monkeypatch.setattr(doors.programs, "attach_localhost", refuse)
        world = World(asked, doors, doors.links.all_links()[0], tmp_path)
        with pytest.raises(BpfError, match="the root of the cgroups"):
            world.attach("web", "10.11.0.2", port(8080))
        assert asked.attachments() == []
        assert not world.published(8080, "10.11.0.2")
