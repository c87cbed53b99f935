"""The door to firewalld on a real one, with a bus and a network namespace of its own: what its zones do to traffic."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from dataplane import firewalld
from dataplane.apply import apply
from dataplane.errors import FirewalldError, NftError
from dataplane.fakes import FakeDoors, FakeFirewalld
from dataplane.firewalld import SystemFirewalld
from dataplane.nft.objects import Table
from dataplane.nft.transaction import Transaction, delete
from dataplane.steps import DistrustSource, RunNft, Step, TrustSource
from support import plan
from support.firewallhost import BUS, FirewallHost, call_door, running
from support.netns import Place, Sandbox
from support.traffic import ask, serve
from support.world import World, publish

WEB4, WEB6 = plan.FRONT.host4(2), plan.FRONT.host6(2)


@pytest.fixture
def host(sandbox: Sandbox) -> FirewallHost:
    """A host whose firewalld is not started yet."""
    return FirewallHost(sandbox)


def contract(door: SystemFirewalld | FakeFirewalld) -> None:
    """Sources come and go once each, in one zone only; what is asked of a zone that is not there names it."""
    assert door.running()
    assert door.sources("trusted") == frozenset()
    for address in (WEB4, WEB6):
        assert door.add_source("trusted", address)
        assert not door.add_source("trusted", address)
    assert door.sources("trusted") == {WEB4, WEB6}
    with pytest.raises(FirewalldError, match=rf'could not put {WEB4} into firewalld zone "public": ZONE_CONFLICT'):
        door.add_source("public", WEB4)
    assert not door.remove_source("public", WEB4)
    assert door.remove_source("trusted", WEB4)
    assert not door.remove_source("trusted", WEB4)
    assert door.sources("trusted") == {WEB6}
    assert not door.remove_source("nowhere", WEB6)
    for ask_of in (lambda: door.add_source("nowhere", WEB4), lambda: door.sources("nowhere")):
        with pytest.raises(FirewalldError, match='firewalld zone "nowhere": INVALID_ZONE'):
            ask_of()


def without(door: SystemFirewalld | FakeFirewalld) -> None:
    """Where none runs there is nothing to take out, and putting in is an error."""
    assert not door.running()
    assert not door.remove_source("trusted", WEB4)
    for ask_of in (lambda: door.add_source("trusted", WEB4), lambda: door.sources("trusted")):
        with pytest.raises(FirewalldError, match='firewalld zone "trusted": '):
            ask_of()


def _on_system(case: Callable[[SystemFirewalld], None]) -> None:
    case(SystemFirewalld())


def test_the_fake_keeps_the_contract() -> None:
    """One table of cases for both."""
    fake = FakeFirewalld()
    without(fake)
    fake.start("public", "trusted")
    contract(fake)
    fake.stop()
    without(fake)


def test_firewalld_keeps_the_contract(host: FirewallHost) -> None:
    """One table of cases for both: without a bus, without firewalld on it, and with one."""
    host.sandbox.call(_on_system, without)
    host.start_bus()
    host.sandbox.call(_on_system, without)
    host.start()
    host.sandbox.call(_on_system, contract)
    host.stop()
    host.sandbox.call(_on_system, without)


def test_firewalld_agrees_with_what_the_door_says(host: FirewallHost) -> None:
    """What is added and removed is so for firewalld's own client; networks and MACs among the sources are left out."""
    host.start()
    host.door("add_source", "trusted", WEB4)
    assert host.holds("trusted", WEB4)
    for source in ("10.99.0.0/24", "02:42:ac:11:00:01"):
        assert host.client("--zone=trusted", f"--add-source={source}").returncode == 0
    assert host.door("sources", "trusted") == {WEB4}
    host.door("remove_source", "trusted", WEB4)
    assert not host.holds("trusted", WEB4)


def test_a_reload_forgets_the_sources(host: FirewallHost) -> None:
    """They are runtime configuration: after a reload they are gone, can be seen to be, and be added again."""
    host.start()
    host.door("add_source", "trusted", WEB4)
    assert host.client("--reload").returncode == 0
    assert host.door("sources", "trusted") == frozenset()
    assert host.door("add_source", "trusted", WEB4) is True


def test_a_stopped_firewalld_stays_stopped(host: FirewallHost) -> None:
    """No call of ours has the bus start it, though the bus knows how to."""
    host.sandbox.run("mkdir", "-p", "/run/dbus-services")
    host.sandbox.run("mount", "-t", "tmpfs", "tmpfs", "/usr/share/dbus-1/system-services")
    service = "[D-BUS Service]\nName=org.fedoraproject.FirewallD1\nExec=/bin/touch /run/started\nUser=root\n"
    path = "/usr/share/dbus-1/system-services/org.fedoraproject.FirewallD1.service"
    host.sandbox.run("tee", path, input=service)
    host.start_bus()
    host.sandbox.call(_on_system, without)
    assert not host.sandbox.exists("/run/started")


def _hanging(method: str, arguments: tuple[object, ...]) -> float:
    firewalld.TIME_LIMIT = 0.3
    start = time.monotonic()
    with pytest.raises(FirewalldError, match=r"no answer by D-Bus within 0.3 seconds"):
        call_door(method, arguments)
    return time.monotonic() - start


def test_whoever_does_not_answer_is_waited_for_only_so_long(host: FirewallHost) -> None:
    """A firewalld or a bus that hangs is an error that says so, and not a hanging ADD."""
    host.start()
    host.freeze(bus=False)
    assert host.door("running") is True
    assert host.sandbox.call(_hanging, "add_source", ("trusted", WEB4)) < 3
    host.freeze(bus=True)
    assert host.sandbox.call(_hanging, "running", ()) < 3


def _asked_elsewhere(address: str) -> bool:
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = address
    return SystemFirewalld().running()


def test_the_bus_may_be_elsewhere(host: FirewallHost) -> None:
    """DBUS_SYSTEM_BUS_ADDRESS names the bus; one where nobody listens has no firewalld, and nonsense is an error."""
    host.start()
    host.sandbox.run("mv", BUS, "/run/elsewhere")
    assert not host.sandbox.call(running)
    assert host.sandbox.call(_asked_elsewhere, "unix:path=/run/elsewhere")
    assert not host.sandbox.call(_asked_elsewhere, "unix:path=/run/nowhere")
    with pytest.raises(FirewalldError, match="see DBUS_SYSTEM_BUS_ADDRESS"):
        host.sandbox.call(_asked_elsewhere, "tcp:host=192.0.2.1,port=1")


# -- steps ------------------------------------------------------------------------------------------------------------

REFUSED = RunNft(Transaction((delete(Table.MAIN),)), Transaction())
"""There is no table to delete: a step that fails."""


def _apply(steps: tuple[Step, ...]) -> None:
    apply(steps, replace(FakeDoors().kernel(), firewalld=SystemFirewalld()))


def test_steps_are_undone_as_far_as_they_did_something(host: FirewallHost) -> None:
    """When a later step fails, what was added is taken out and what was taken out is back; the rest is as it was."""
    host.start()
    kept, old = IPv4Address("10.11.0.8"), IPv4Address("10.11.0.9")
    for address in (kept, old):
        host.door("add_source", "trusted", address)
    steps = (
        TrustSource("trusted", WEB4),
        TrustSource("trusted", kept),
        DistrustSource("trusted", old),
        DistrustSource("trusted", IPv6Address("fd00::99")),
    )
    with pytest.raises(NftError) as error:
        host.sandbox.call(_apply, (*steps, REFUSED))
    assert error.value.errno == errno.ENOENT
    assert host.door("sources", "trusted") == {kept, old}
    host.sandbox.call(_apply, steps)
    assert host.door("sources", "trusted") == {kept, WEB4}


def test_steps_do_nothing_where_no_firewalld_runs(sandbox: Sandbox) -> None:
    """Both are done at once, and cost nothing, on a host without one."""
    sandbox.call(_apply, (TrustSource("trusted", WEB4), DistrustSource("trusted", WEB6)))


# -- traffic ----------------------------------------------------------------------------------------------------------


class Answer(StrEnum):
    """What became of a connection."""

    ANSWERED = "answered"
    REJECTED = "rejected"
    """By firewalld's own answer: administratively prohibited."""


def answer(place: Place, address: object, port: int) -> Answer:
    """What becomes of a connection; no answer at all is a failure of the test."""
    try:
        assert ask(place, address, port, timeout=3.0) is not None
    except OSError as error:
        assert error.errno in {errno.EHOSTUNREACH, errno.EACCES}  # noqa: PT017 - the two ICMP versions' words for it
        return Answer.REJECTED
    return Answer.ANSWERED


def router(host: FirewallHost) -> Callable[[int], Answer]:
    """A container behind a bridge of the host and a server outside; what the one gets of the other, by IP version."""
    sandbox = host.sandbox
    sandbox.sysctl("net/ipv6/conf/default/accept_dad", 0)
    sandbox.bridge("br-front", f"{plan.FRONT.gateway4}/24 {plan.FRONT.gateway6}/64")
    web, client = sandbox.namespace("web"), sandbox.namespace("client")
    for place in (web, client):
        place.sysctl("net/ipv6/conf/default/accept_dad", 0)
    sandbox.plug("br-front", "vethweb", web, address=f"{WEB4}/24 {WEB6}/64")
    sandbox.link("uplink", client, "eth0", f"{plan.HOST4}/24 {plan.HOST6}/64", f"{plan.CLIENT4}/24 {plan.CLIENT6}/64")
    for place, hop4, hop6 in ((web, plan.FRONT.gateway4, plan.FRONT.gateway6), (client, plan.HOST4, plan.HOST6)):
        place.ip("route", "add", "default", "via", hop4)
        place.ip("-6", "route", "add", "default", "via", hop6)
    sandbox.sysctl("net/ipv4/ip_forward", 1)
    sandbox.sysctl("net/ipv6/conf/all/forwarding", 1)
    serve(client, "client", "tcp", 80, "::")
    targets = {4: plan.CLIENT4, 6: plan.CLIENT6}
    return lambda version: answer(web, targets[version], 80)


def test_forwarding_is_refused_outside_the_zone_and_allowed_in_it(host: FirewallHost) -> None:
    """firewalld rejects what a container sends through the host, until its address is in the zone "trusted"."""
    outside = router(host)

    def answers() -> tuple[Answer, Answer]:
        return outside(4), outside(6)

    assert answers() == (Answer.ANSWERED, Answer.ANSWERED)
    host.start()
    assert answers() == (Answer.REJECTED, Answer.REJECTED)
    host.sandbox.call(_apply, (TrustSource("trusted", WEB4),))
    assert answers() == (Answer.ANSWERED, Answer.REJECTED)
    host.sandbox.call(_apply, (TrustSource("trusted", WEB6), DistrustSource("trusted", WEB4)))
    assert answers() == (Answer.REJECTED, Answer.ANSWERED)
    host.sandbox.call(_apply, (DistrustSource("trusted", WEB6),))
    assert answers() == (Answer.REJECTED, Answer.REJECTED)


@pytest.mark.parametrize("version", [4, 6])
def test_published_ports_answer_beside_firewalld(host: FirewallHost, tmp_path: Path, version: int) -> None:
    """Ports of ours are reached from outside, trusted or not, and a trusted container reaches others' as well."""
    world = World(host.sandbox, tmp_path)
    world.network(plan.FRONT, ipMasq=True)
    world.network(plan.BACK, ipMasq=True)
    web = world.attach("web", plan.FRONT, publish("8080:80"))
    shop = world.attach("shop", plan.BACK)
    world.serve(web)
    serve(world.client, "client", "tcp", 80, "::")
    address, outside = {4: (plan.HOST4, plan.CLIENT4), 6: (plan.HOST6, plan.CLIENT6)}[version]
    host.start()
    assert answer(world.client, address, 8080) is Answer.ANSWERED
    assert answer(shop.netns, outside, 80) is Answer.REJECTED
    host.sandbox.call(_apply, tuple(TrustSource("trusted", one.address(version)) for one in (web, shop)))
    assert answer(world.client, address, 8080) is Answer.ANSWERED
    assert answer(shop.netns, address, 8080) is Answer.ANSWERED
    assert answer(shop.netns, outside, 80) is Answer.ANSWERED
