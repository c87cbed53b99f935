"""The guard on a port where others shape or filter: it sees what comes first, and leaves theirs as it was."""

from __future__ import annotations

import json
import socket

import pytest

from dataplane.abi import GuardReason
from dataplane.errors import BpfError
from dataplane.programs.door import KernelPrograms
from dataplane.types import AttachMode, IfIndex, Program
from support.crafted import (
    WEB_MAC,
    arp,
    ethernet,
)
from support.guarding import DB4, HOST4, PORT, WEB4, WEB6, Heard, configure, drops, guard, plugged, say, unguard
from support.netns import Sandbox


def index() -> IfIndex:
    """Inside the host: of the container's port."""
    return IfIndex(socket.if_nametoindex(PORT))


def current() -> frozenset[Program]:
    """Inside the host: what is attached as it should be."""
    return KernelPrograms().current(index())


def traffic_control(host: Sandbox) -> str:
    """The qdiscs and filters of the container's port; a qdisc of either kind has its filters listed by this parent."""
    return (
        host.run("tc", "qdisc", "show", "dev", PORT).stdout
        + host.run("tc", "filter", "show", "dev", PORT, "parent", "ffff:").stdout
    )


LIE = ethernet(arp(2, WEB_MAC, HOST4, DB4))


def shape(host: Sandbox) -> None:
    """What the bandwidth plugin makes for a limit of what a container sends: an ifb device, through which it goes."""
    host.ip("link", "add", "ifb7", "type", "ifb")
    host.ip("link", "set", "ifb7", "up")
    host.run("tc", "qdisc", "add", "dev", PORT, "handle", "ffff:", "ingress")
    match = ("protocol", "all", "prio", "1", "u32", "match", "u32", "0", "0")
    redirect = ("action", "mirred", "egress", "redirect", "dev", "ifb7")
    host.run("tc", "filter", "add", "dev", PORT, "parent", "ffff:", *match, *redirect)
    host.run("tc", "qdisc", "add", "dev", "ifb7", "root", "tbf", "rate", "1gbit", "burst", "100k", "latency", "1s")


def shaped(host: Sandbox) -> int:
    """How many packets went that way."""
    return int(json.loads(host.ip("-j", "-s", "link", "show", "ifb7"))[0]["stats64"]["tx"]["packets"])


@pytest.mark.parametrize("mode", [AttachMode.AUTO, AttachMode.TCX])
def test_a_shaped_container_is_guarded_all_the_same(sandbox: Sandbox, mode: AttachMode) -> None:
    """The bandwidth plugin takes every packet away by a filter of its own: ours sees them first, and leaves the rest
    to it; detached, qdisc and filters are as they were."""
    web, _ = plugged(sandbox)
    configure(web, WEB4, WEB6)
    shape(sandbox)
    before = traffic_control(sandbox)
    assert "ingress" in before
    assert say(sandbox, [LIE]) == Heard(frozenset({0}), frozenset({0}))
    guard(sandbox, PORT, mode)
    assert sandbox.call(current) == {Program.GUARD}
    sent = shaped(sandbox)
    assert say(sandbox, [LIE]) == Heard(frozenset(), frozenset())
    assert drops(sandbox) == {GuardReason.ARP: 1}
    assert shaped(sandbox) > sent
    unguard(sandbox, PORT)
    assert traffic_control(sandbox) == before
    assert say(sandbox, [LIE]) == Heard(frozenset({0}), frozenset({0}))


@pytest.mark.parametrize("mode", list(AttachMode))
def test_a_container_can_be_shaped_later(sandbox: Sandbox, mode: AttachMode) -> None:
    """An ingress qdisc that is there already is used where filters are asked for, is found once, and stays."""
    web, _ = plugged(sandbox)
    configure(web, WEB4, WEB6)
    sandbox.run("tc", "qdisc", "add", "dev", PORT, "handle", "ffff:", "ingress")
    before = traffic_control(sandbox)
    for _ in range(2):
        guard(sandbox, PORT, mode)
        (hooked,) = sandbox.call(lambda: KernelPrograms().hooked(index()))
        assert hooked.mode is (AttachMode.CLSACT if mode is AttachMode.CLSACT else AttachMode.TCX)
        assert sandbox.call(current) == {Program.GUARD}
        assert say(sandbox, [LIE]) == Heard(frozenset(), frozenset())
    assert drops(sandbox) == {GuardReason.ARP: 2}
    unguard(sandbox, PORT)
    assert traffic_control(sandbox) == before


def test_the_programs_of_a_port_share_a_qdisc(sandbox: Sandbox) -> None:
    """One of ours for both directions, which goes with the last of them."""
    plugged(sandbox)
    before = sandbox.run("tc", "qdisc", "show", "dev", PORT).stdout

    def attach() -> list[AttachMode]:
        programs = KernelPrograms()
        programs.load()
        for program in (Program.GUARD, Program.FILL):
            programs.attach(program, index())
        assert programs.current(index()) == {Program.GUARD, Program.FILL}
        return [hooked.mode for hooked in programs.hooked(index())]

    def detach() -> None:
        for program in (Program.GUARD, Program.FILL):
            KernelPrograms().detach(program, index())

    assert sandbox.call(attach) == [AttachMode.CLSACT] * 2
    assert "clsact" in sandbox.run("tc", "qdisc", "show", "dev", PORT).stdout
    sandbox.call(detach)
    assert sandbox.run("tc", "qdisc", "show", "dev", PORT).stdout == before


def test_an_ingress_qdisc_has_no_egress(sandbox: Sandbox) -> None:
    """It would take a filter for the other direction and run it in its own: that is refused, or done by tcx."""
    plugged(sandbox)
    sandbox.run("tc", "qdisc", "add", "dev", PORT, "handle", "ffff:", "ingress")
    before = traffic_control(sandbox)

    def fill(mode: AttachMode) -> AttachMode:
        programs = KernelPrograms(mode)
        programs.load()
        programs.attach(Program.FILL, index())
        (hooked,) = programs.hooked(index())
        return hooked.mode

    with pytest.raises(BpfError, match=r'could not attach "fill" to the egress .* kind ingress is there'):
        sandbox.call(fill, AttachMode.CLSACT)
    assert sandbox.call(fill, AttachMode.AUTO) is AttachMode.TCX
    assert traffic_control(sandbox) == before
