"""Bridges and veth pairs: made in one go, where they belong, and described as the kernel has them."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from dataplane import rtnetlink
from dataplane.doors import Link
from dataplane.errors import LinkError
from dataplane.links import NetlinkLinks
from dataplane.namespaces import inside
from dataplane.types import IfIndex
from dataplane.vlans import VlanRange, add_vlan, remove_vlan, vlans
from dataplane.wires import Veth, change_link, create_bridge, create_veth, delete_link, links
from support.netns import Sandbox, wait_until

BOX = "/run/netns/box"
PAIR = Veth("vethbox", "eth0", mac="02:00:00:00:00:01", peer_mac="02:00:00:00:00:02", mtu=1400, alias="box/eth0")


@contextmanager
def box() -> Iterator[int]:
    """The other namespace's descriptor."""
    descriptor = os.open(BOX, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def found(name: str) -> Link:
    link = NetlinkLinks().find(name)
    assert link is not None, f"no link {name}"
    return link


def names() -> set[str]:
    return {link.name for link in links()}


def _bridge() -> None:
    made = create_bridge("br0", mtu=1400)
    assert (made.name, made.kind, made.mtu, made.up, made.running) == ("br0", "bridge", 1400, False, False)
    assert made == found("br0")
    with pytest.raises(LinkError, match=r'^could not create bridge "br0": File exists') as error:
        create_bridge("br0")
    assert error.value.errno == errno.EEXIST
    with pytest.raises(LinkError, match="mtu less than device minimum"):
        create_bridge("br1", mtu=10)
    assert names() == {"lo", "br0"}


def test_a_bridge_is_made_once(sandbox: Sandbox) -> None:
    """With the MTU that was asked for, and EEXIST for the next; what the kernel says besides its errno is passed on."""
    sandbox.call(_bridge)


def _monitor() -> socket.socket:
    monitor = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    monitor.bind((0, 1))  # RTMGRP_LINK
    return monitor


def _events(monitor: socket.socket) -> list[tuple[int, Link]]:
    """What a monitor heard so far: (RTM_NEWLINK or RTM_DELLINK, the link)."""
    heard: list[tuple[int, Link]] = []
    monitor.setblocking(False)
    while True:
        try:
            raw = monitor.recv(1 << 16)
        except BlockingIOError:
            return heard
        length, kind, *_ = struct.unpack_from("=IHHII", raw)
        if raw[16] == socket.AF_UNSPEC:  # not what the bridge says of its ports
            heard.append((kind, rtnetlink.link_of(raw[16:length])))


def _veth() -> None:
    bridge = create_bridge("br0")
    with box() as netns, _monitor() as here, inside(netns, _monitor) as there:
        made = create_veth(Veth(PAIR.name, PAIR.peer, PAIR.mac, PAIR.peer_mac, PAIR.mtu, bridge.index), netns)
        outside, inner = _events(here), _events(there)
        peer = inside(netns, lambda: found("eth0"))
    assert made == found(PAIR.name)
    assert (made.mac, made.mtu, made.master, made.up) == (PAIR.mac, 1400, bridge.index, False)
    assert (peer.mac, peer.mtu, peer.master, peer.up, peer.kind) == (PAIR.peer_mac, 1400, 0, False, "veth")
    assert (made.peer, peer.peer) == (peer.index, made.index)
    assert {kind for kind, _ in outside + inner} == {rtnetlink.NEWLINK}
    assert {(link.name, link.mac, link.mtu) for _, link in outside if link.name != "br0"} == {
        (PAIR.name, PAIR.mac, PAIR.mtu)
    }
    assert {(link.name, link.mac, link.mtu) for _, link in inner} == {("eth0", PAIR.peer_mac, PAIR.mtu)}


def test_a_pair_is_made_in_one_go(sandbox: Sandbox) -> None:
    """Whoever listens never hears of the container's end outside, nor of another name, MAC or MTU of either."""
    sandbox.namespace("box")
    sandbox.call(_veth)


def _ready() -> None:
    with box() as netns:
        made = create_veth(Veth("vethbox", "eth0", up=True, alias="box/eth0"), netns)
        assert (made.alias, made.up, made.running) == ("box/eth0", True, False)
        assert made == found("vethbox")
        peer = inside(netns, lambda: found("eth0"))
        inside(netns, lambda: change_link(peer.index, up=True))
        wait_until(lambda: found("vethbox").running and inside(netns, lambda: found("eth0").running))
        inside(netns, lambda: change_link(peer.index, up=False))
        wait_until(lambda: not found("vethbox").running)
        assert found("vethbox").up
    assert found("lo").running  # its state is "unknown"


def test_a_pair_runs_when_both_ends_are_up(sandbox: Sandbox) -> None:
    """An end that is up runs as soon as the other one is, and no longer."""
    sandbox.namespace("box")
    sandbox.call(_ready)


def _refused() -> None:
    bridge = create_bridge("br0")
    with box() as netns:
        create_veth(Veth("taken", "eth0"), netns)
        before, beside = names(), inside(netns, names)
        for wanted, number, text in (
            (Veth("taken", "eth1"), errno.EEXIST, 'there is a link "taken" already'),
            (Veth("vethbox", "eth0"), errno.EEXIST, 'its namespace has a link "eth0" already'),
            (Veth("vethbox", "eth1", master=IfIndex(4711)), errno.EINVAL, "there is no link 4711 to be a port of"),
            (Veth("vethbox", "eth1", master=IfIndex(1)), errno.EOPNOTSUPP, ""),
            (Veth("vethbox", "eth1", peer_mac="01:00:00:00:00:02"), errno.EADDRNOTAVAIL, ""),
            (Veth("vethbox", "eth1", mtu=10, master=bridge.index), errno.EINVAL, ""),
            (Veth("vethbox", "eth1", alias="a" * 300), errno.ERANGE, "could not change link "),
            (Veth("vethbox", "eth1/x"), errno.EINVAL, 'could not create veth pair "vethbox" and "eth1/x"'),
        ):
            with pytest.raises(LinkError) as error:
                create_veth(wanted, netns)
            assert error.value.errno == number, error.value
            assert text in str(error.value)
            assert (names(), inside(netns, names)) == (before, beside)
        with pytest.raises(LinkError, match="Bad file descriptor"):
            create_veth(Veth("vethbox", "eth1"), 4711)


def test_a_pair_that_is_refused_is_not_there(sandbox: Sandbox) -> None:
    """The error says which name is taken, or what else is wrong, and neither end is left."""
    sandbox.namespace("box")
    sandbox.call(_refused)


def _changes() -> None:
    bridge = create_bridge("br0")
    with box() as netns:
        first = create_veth(Veth("veth0", "eth0", mtu=1500), netns)
    change_link(first.index)
    assert found("veth0") == first
    change_link(first.index, mtu=1400, mac="02:00:00:00:00:09", alias="box", master=bridge.index, promiscuous=True)
    change_link(first.index, name="veth1", up=True)
    held = found("veth1")
    assert (held.index, held.mtu, held.mac, held.alias) == (first.index, 1400, "02:00:00:00:00:09", "box")
    assert (held.master, held.promiscuous, held.up) == (bridge.index, True, True)
    change_link(first.index, promiscuous=False)
    held = found("veth1")
    assert (held.promiscuous, held.up, held.alias, held.mtu) == (False, True, "box", 1400)
    change_link(first.index, up=False, master=IfIndex(0), alias="")
    held = found("veth1")
    assert (held.up, held.master, held.alias) == (False, 0, "")
    assert {link.index: link for link in links()} == {link.index: found(link.name) for link in links()}
    for refused, cause in (
        (partial(change_link, first.index, name="br0"), "File exists"),
        (partial(change_link, first.index, mtu=10), "mtu less than device minimum"),
        (partial(change_link, IfIndex(4711), up=True), "No such device"),
    ):
        with pytest.raises(LinkError, match=cause):
            refused()


def test_links_are_changed_in_what_is_named(sandbox: Sandbox) -> None:
    """Everything that was not named stays as it was."""
    sandbox.namespace("box")
    sandbox.call(_changes)


def _deleted() -> None:
    with box() as netns:
        made = create_veth(Veth("vethbox", "eth0"), netns)
        delete_link(made.index)
        delete_link(made.index)
        assert (names(), inside(netns, names)) == ({"lo"}, {"lo"})
    with pytest.raises(LinkError, match="could not delete link 1: "):
        delete_link(IfIndex(1))


def test_a_pair_is_deleted_with_both_ends(sandbox: Sandbox) -> None:
    """Deleting what is gone is no error; what cannot be deleted is one."""
    sandbox.namespace("box")
    sandbox.call(_deleted)


def _pinned() -> None:
    with box() as netns:
        for name, pin in (("br0", False), ("br1", True)):
            bridge = create_bridge(name)
            change_link(bridge.index, mac="06:00:00:00:00:01") if pin else None
            before = found(name).mac
            create_veth(Veth(f"veth{name}", f"eth{name}", mac="02:00:00:00:00:01", master=bridge.index), netns)
            assert (found(name).mac == before) is pin


def test_a_bridge_keeps_the_mac_that_it_was_given(sandbox: Sandbox) -> None:
    """A port with a lower MAC takes its place only in a bridge that was never given one."""
    sandbox.namespace("box")
    sandbox.call(_pinned)


def _described(listed: str) -> None:
    for shown in json.loads(listed):
        held = found(shown["ifname"])
        assert held == NetlinkLinks().get(IfIndex(shown["ifindex"]))
        assert (held.mac, held.mtu) == (shown["address"], shown["mtu"])
        assert held.up == ("UP" in shown["flags"])
        assert held.running == (shown["operstate"] in {"UP", "UNKNOWN"})
        assert held.kind == shown.get("linkinfo", {}).get("info_kind", "")
        assert held.peer == shown.get("link_index", 0)


def test_links_are_described_as_ip_does(sandbox: Sandbox) -> None:
    """Loopback, a bridge, its port and a link that is down: what ``ip`` shows of each."""
    sandbox.bridge("br0", "10.11.0.1/24")
    sandbox.plug("br0", "vethbox", sandbox.namespace("box"))
    sandbox.ip("link", "add", "name", "br1", "type", "bridge")
    wait_until(lambda: "LOWERLAYERDOWN" not in sandbox.ip("link"))
    sandbox.call(_described, sandbox.ip("-d", "-j", "link"))


def _port_of(bridge: Link) -> Link:
    with box() as netns:
        return create_veth(Veth("vethbox", "eth0", master=bridge.index), netns)


def _without_vlans() -> None:
    with pytest.raises(LinkError) as refused:
        create_bridge("br0", vlan_filtering=True)
    assert refused.value.errno == errno.EOPNOTSUPP
    assert "CONFIG_BRIDGE_VLAN_FILTERING" in refused.value.hint
    assert names() == {"lo"}
    bridge = create_bridge("br0")
    for link in (bridge, _port_of(bridge)):
        assert vlans(link.index) == ()
        with pytest.raises(LinkError, match=r"could not add VLAN 10-20 .*CONFIG_BRIDGE_VLAN_FILTERING"):
            add_vlan(link.index, 10, 20)
        remove_vlan(link.index, 10, 20)


def _with_vlans() -> None:
    bridge = create_bridge("br0", vlan_filtering=True)
    port = _port_of(bridge)
    by_default = VlanRange(1, 1, untagged=True, pvid=True)
    assert vlans(port.index) == vlans(bridge.index) == (by_default,)
    add_vlan(port.index, 10, 20)
    add_vlan(port.index, 30, untagged=True, pvid=True)
    add_vlan(bridge.index, 30)
    remove_vlan(port.index, 1)
    assert vlans(port.index) == (VlanRange(10, 20), VlanRange(30, 30, untagged=True, pvid=True))
    assert vlans(bridge.index) == (by_default, VlanRange(30, 30))


def test_vlans_come_and_go_where_the_kernel_has_them(sandbox: Sandbox) -> None:
    """On a port and on the bridge itself; a kernel without them refuses, and the error names its option."""
    sandbox.namespace("box")
    made = sandbox.run("ip", "link", "add", "name", "probe", "type", "bridge", "vlan_filtering", "1", check=False)
    sandbox.run("ip", "link", "delete", "probe", check=made.returncode == 0)
    sandbox.call(_with_vlans if made.returncode == 0 else _without_vlans)
