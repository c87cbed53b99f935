"""``dpctl checksum scan`` and ``explain --capture`` on a real host: what is wrong with sums, and whose fault it is."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from dataplane import offloads, tracked
from dataplane.programs.door import KernelPrograms
from dataplane.types import IfIndex, Program, Protocol
from support import needs, plan
from support.frames import Flow, flipped, frame, ones_sum
from support.netns import Place, Sandbox, wait_until
from support.traffic import ask, send_frame
from support.world import DPCTL, ELSEWHERE4, Attached, World, publish

_NUMBERS = itertools.count(1)
TCP, UDP = Protocol.TCP, Protocol.UDP


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A host whose default route leaves by the client's link; each test has a network of its own on it."""
    needs.root()
    with Sandbox() as host:
        world = World(host, tmp_path_factory.mktemp("world"))
        host.ip("route", "add", "default", "via", plan.CLIENT4)
        yield world


@pytest.fixture
def net(world: World, request: pytest.FixtureRequest) -> plan.Network:
    """A network that masquerades and repairs."""
    number = next(_NUMBERS)
    name = f"n{number}"
    subnets = IPv4Network(f"10.20.{number}.0/24"), IPv6Network(f"fd00:20:{number}::/64")
    network = plan.Network(name, f"br-{name}", *subnets)
    world.network(network, ipMasq=True)
    return network


@pytest.fixture
def web(world: World, net: plan.Network) -> Attached:
    """A container whose ports 80 (TCP) and 53 (UDP) are published."""
    tcp, udp = published(net)
    return world.attach(f"web-{net.name}", net, publish(f"{tcp}:80"), publish(f"{udp}:53", "udp"))


def published(net: plan.Network) -> tuple[int, int]:
    """The host's ports that lead to 80 (TCP) and 53 (UDP) of its container."""
    number = int(net.name[1:])
    return 8000 + number, 5300 + number


def sent_to(one: Attached, source_port: int = 40000, protocol: Protocol = TCP, port: int = 80) -> Flow:
    """A packet from the client, as it comes to a container."""
    return Flow(protocol, str(plan.CLIENT4), source_port, str(one.address(4)), port)


def stale(one: Attached, source_port: int = 40000) -> bytes:
    """A frame to a container whose checksum is still right for the published port."""
    flow = sent_to(one, source_port)
    return addressed(one, frame(flow, b"hello", summed_for=flow.to(str(plan.HOST4), published(one.network)[0])))


def corrupt(one: Attached, source_port: int = 41000) -> bytes:
    """A frame to a container of which a bit was flipped."""
    return flipped(addressed(one, frame(sent_to(one, source_port), b"hello")), 8 * 56 + 3)


def addressed(one: Attached, raw: bytes) -> bytes:
    """The frame, for the MAC of the container."""
    return mac(one.netns, "eth0") + raw[6:]


def mac(place: Place, device: str) -> bytes:
    (link,) = json.loads(place.ip("-json", "link", "show", device))
    return bytes.fromhex(link["address"].replace(":", ""))


def port_of(world: World, one: Attached) -> str:
    """The container's host veth."""
    index = json.loads(one.netns.ip("-json", "link", "show", "eth0"))[0]["link_index"]
    return next(str(link["ifname"]) for link in json.loads(world.host.ip("-json", "link")) if link["ifindex"] == index)


def scanned(world: World, *words: object) -> tuple[int, dict[str, Any]]:
    """The exit status and what ``scan --json`` says of each network, by name; the host's by ``""``."""
    done = world.host.run(DPCTL, "checksum", "scan", "--json", *words, check=False, env=world.environment)
    said = json.loads(done.stdout)
    return done.returncode, {"": said["host"]} | {one["network"]: one for one in said["networks"]}


def text_of(world: World, *words: object) -> str:
    """What ``scan`` says to people."""
    return world.dpctl("checksum", "scan", *words, check=False)


def test_each_verdict_of_scan(world: World, web: Attached) -> None:
    """fine, stale, corrupt and repaired are told apart, network by network, and only the repaired are no problem."""
    name = web.network.name
    world.dpctl("checksum", "mode", name, "observe")
    status, found = scanned(world, name)
    assert (status, found[name]["verdicts"]) == (0, ["fine"])

    send_frame(world.host, web.network.device, stale(web), 3)
    status, found = scanned(world, name)
    assert (status, found[name]["verdicts"]) == (3, ["stale"])
    assert found[name]["counts"]["stale"] == 3
    assert found[name]["receivers"][0]["dropped"]["TcpInCsumErrors"] == 3
    said = text_of(world, name)
    assert said.startswith(f"network {name}: stale sums seen, and left as they are\nhost: fine\n")
    assert f"have them repaired: `dpctl checksum mode {name} repair`" in said

    send_frame(world.host, web.network.device, corrupt(web))
    status, found = scanned(world, name)
    assert (status, found[name]["verdicts"]) == (3, ["corrupt", "stale"])
    assert "ethtool -K uplink" in text_of(world, name)


def test_repaired_is_no_problem(world: World, web: Attached) -> None:
    """What was repaired is told, with exit status 0: nobody has to do anything."""
    name = web.network.name
    send_frame(world.host, web.network.device, stale(web), 2)
    status, found = scanned(world, name)
    assert (status, found[name]["verdicts"], found[name]["problem"]) == (0, ["repaired"], False)
    assert text_of(world, name).startswith(f"network {name}: stale sums repaired\n")


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_what_did_not_pass_the_program_is_told(world: World, web: Attached, protocol: Protocol) -> None:
    """A wrong sum that came past the bridge's program is known by its receiver alone, and the namespace is named."""
    name = web.network.name
    wrong = frame(sent_to(web, 41000, protocol), b"hello", checksum=0x1234)
    send_frame(world.host, port_of(world, web), addressed(web, wrong), 2)
    status, found = scanned(world, name)
    assert (status, found[name]["verdicts"], found[name]["dropped_unseen"]) == (3, ["unseen"], 2)
    counter = "TcpInCsumErrors" if protocol is TCP else "UdpInCsumErrors"
    assert found[name]["receivers"][0]["dropped"][counter] == 2
    assert f"dpctl checksum explain --capture eth0 --netns {web.netns.path}" in text_of(world, name)


def test_an_interval_judges_what_happens_now(world: World, web: Attached) -> None:
    """--for judges the interval alone: an old corruption is none, and one that comes meanwhile is."""
    name = web.network.name
    send_frame(world.host, web.network.device, corrupt(web))
    assert scanned(world, name)[0] == 3
    status, found = scanned(world, name, "--for", 0.2)
    assert (status, found[name]["verdicts"], found[name]["counts"]["corrupt"]) == (0, ["fine"], 0)

    scan = world.host.spawn(DPCTL, "checksum", "scan", name, "--for", 2, "--json", env=world.environment)
    number = 42000
    while scan.poll() is None:
        send_frame(world.host, web.network.device, corrupt(web, number))
        number += 1
        time.sleep(0.1)
    assert scan.stdout is not None
    networks = {one["network"]: one for one in json.loads(scan.stdout.read())["networks"]}
    assert (scan.returncode, networks[name]["verdicts"]) == (3, ["corrupt"])


def test_a_missing_program_is_told(world: World, web: Attached) -> None:
    """Where the program was taken away, nothing is known, which is said, with what puts it back."""
    name = web.network.name
    assert web.name
    world.dpctl("bpf", "detach", web.network.device, "--force")
    status, found = scanned(world, name)
    assert (status, found[name]["verdicts"], found[name]["unwatched"]) == (3, ["unwatched"], [web.network.device])
    assert "dpctl reconcile" in text_of(world, name)


def test_off_is_fine_as_far_as_receivers_tell(world: World, web: Attached) -> None:
    """With the mode off nothing is verified, which is said; receivers still tell."""
    name = web.network.name
    world.dpctl("checksum", "mode", name, "off")
    assert text_of(world, name).startswith(f"network {name}: fine, as far as receivers tell: its mode is off")
    send_frame(world.host, web.network.device, stale(web))
    status, found = scanned(world, name)
    assert (status, found[name]["verdicts"]) == (3, ["unseen"])
    assert f"dpctl checksum mode {name} observe" in text_of(world, name)


def test_the_host_is_looked_at_too(world: World, web: Attached) -> None:
    """What the host itself dropped is told as its own, in both families."""
    name = web.network.name
    assert web.name
    flow = Flow(UDP, str(plan.CLIENT4), 40000, str(plan.HOST4), 9)
    raw = mac(world.host, "uplink") + frame(flow, b"hello", checksum=0x1234)[6:]
    send_frame(world.client, "eth0", raw)
    send_frame(world.client, "eth0", mac(world.host, "uplink") + udp6(str(plan.CLIENT6), str(plan.HOST6))[6:])
    status, found = scanned(world, name)
    assert status == 3
    assert (found[""]["dropped"]["UdpInCsumErrors"], found[""]["dropped"]["Udp6InCsumErrors"]) == (1, 1)
    said = text_of(world, name)
    assert "\nhost: it dropped 2 packets with wrong sums itself\n" in said
    assert "dpctl checksum explain --capture uplink" in said


def test_a_namespace_that_is_gone_ends_nothing(world: World, web: Attached) -> None:
    """A container whose namespace is gone is named, and the others are looked at."""
    name = web.network.name
    world.attach(f"shop-{name}", web.network)
    world.host.run("umount", web.netns.path)
    world.host.run("rm", web.netns.path)
    _, found = scanned(world, name)
    troubles = {one["container"]: one["trouble"] for one in found[name]["receivers"]}
    assert troubles[f"shop-{name}"] is None
    assert "No such file" in troubles[web.name]


def test_offloads_are_those_of_the_path(world: World, web: Attached) -> None:
    """Bridge, port, container's end, uplink and tunnels are told; a tunnel that is trusted with sums is suspected."""
    name = web.network.name
    world.host.ip("link", "add", "vx0", "type", "vxlan", "id", 7, "dstport", 4789, "local", plan.HOST4)
    _, found = scanned(world, name)
    roles = {one["role"]: one["device"] for one in found[name]["devices"]}
    assert roles == {"network": web.network.device, "port": port_of(world, web), "container": "eth0"}
    shared = {one["device"]: one for one in found[""]["devices"]}
    assert (shared["vx0"]["role"], shared["uplink"]["role"]) == ("tunnel", "uplink")
    trusted = shared["vx0"]["features"]["tx-checksum-ip-generic"]
    assert shared["vx0"]["suspect"] == trusted
    assert ("ethtool -K vx0 tx-checksum-ip-generic off" in text_of(world, name)) == trusted
    world.host.call(switch, "vx0", "tx-checksum-ip-generic")
    _, found = scanned(world, name)
    shared = {one["device"]: one for one in found[""]["devices"]}
    assert shared["vx0"]["suspect"] != trusted


def test_fill_is_told_where_it_is_needless(world: World, web: Attached) -> None:
    """Under ``fill`` a port whose device computes no sums is named: the kernel completes them all there."""
    name = web.network.name
    world.dpctl("checksum", "mode", name, "fill")
    assert "UDP ports 68, 546" in text_of(world, name)
    assert "needless" not in text_of(world, name)
    port = port_of(world, web)
    assert world.host.call(offloads.features, port)["tx-checksum-ip-generic"]
    world.host.call(switch, port, "tx-checksum-ip-generic")
    assert f"needless on {port}" in " ".join(text_of(world, name).split())


def test_a_port_without_fill_is_told(world: World, web: Attached) -> None:
    """Under ``fill`` each container's port has a program of its own, and the one that lacks it is named."""
    name, port = web.network.name, port_of(world, web)
    world.dpctl("checksum", "mode", name, "fill")
    assert scanned(world, name)[1][name]["unwatched"] == []
    world.host.call(unfill, port)
    status, found = scanned(world, name)
    assert (status, found[name]["verdicts"], found[name]["unwatched"]) == (3, ["unwatched"], [port])


@pytest.mark.parametrize(("words", "why"), [(("nowhere",), 'network "nowhere"'), (("--for", "0"), "--for")])
def test_scan_says_what_it_cannot_do(world: World, web: Attached, words: tuple[str, ...], why: str) -> None:
    """A network that nobody is attached to, and no interval at all, are refused."""
    assert web.name
    done = world.host.run(DPCTL, "checksum", "scan", *words, check=False, env=world.environment)
    assert done.returncode in {1, 2}
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_scan_of_a_host_without_state(sandbox: Sandbox) -> None:
    """Where nothing was ever attached, scan says so, and makes neither state nor lock."""
    before = sandbox.run("find", "/run", "-xdev").stdout
    done = sandbox.run(DPCTL, "checksum", "scan")
    assert done.stdout.startswith("no network: nothing is attached\nhost: fine\n")
    assert sandbox.run("find", "/run", "-xdev").stdout == before


# -- capture ----------------------------------------------------------------------------------------------------------


class Capture:
    """``explain --capture`` under way on a link."""

    def __init__(self, world: World, place: Place, link: str, *words: object, inside: Place | None = None) -> None:
        self._place = inside or place
        before = self._sockets()
        self.process: subprocess.Popen[str] = place.spawn(
            DPCTL, "checksum", "explain", "--json", "--capture", link, *words, env=world.environment
        )
        wait_until(lambda: self._sockets() > before, 20, "the packet socket")

    def found(self) -> tuple[int, list[dict[str, Any]], dict[str, int]]:
        """Exit status, findings, and verdicts by their number, once it has ended."""
        out, _ = self.process.communicate(timeout=30)
        said = json.loads(out)
        return self.process.returncode, said["findings"], said["counts"]

    def unread(self) -> int:
        """Bytes that it was sent and has not read."""
        lines = self._place.run("cat", "/proc/net/packet").stdout.splitlines()[1:]
        return sum(int(line.split()[6]) for line in lines)

    def _sockets(self) -> int:
        return len(self._place.run("cat", "/proc/net/packet").stdout.splitlines())


def test_capture_tells_partial_from_wrong(world: World, web: Attached) -> None:
    """Traffic of this kernel's own is partial, by the kernel's word, and no problem; a stale frame beside it is one."""
    name = web.network.name
    world.serve(web, "tcp", 80)
    world.dpctl("checksum", "mode", name, "observe")
    capture = Capture(world, world.host, web.network.device, "--for", 3, "--all")
    assert ask(world.client, plan.HOST4, published(web.network)[0]) is not None
    send_frame(world.host, web.network.device, stale(web))
    status, findings, counts = capture.found()
    assert (status, counts["stale"], counts["corrupt"]) == (3, 1, 0)
    assert counts["partial"] > 3
    assert {one["state"] for one in findings if one["verdict"] == "partial"} == {"partial"}
    (found,) = [one for one in findings if one["verdict"] == "stale"]
    assert (found["state"], found["rewrite"]["translation"], found["receiver"]) == (
        "unknown",
        "published",
        f"{name}/{web.name}/eth0",
    )


def test_capture_without_a_problem(world: World, web: Attached) -> None:
    """Where sums are merely not computed yet, that is what is said first, and the exit status is 0."""
    world.serve(web, "tcp", 80)
    process = world.host.spawn(
        DPCTL, "checksum", "explain", "--capture", web.network.device, "-c", 4, env=world.environment
    )
    wait_until(lambda: len(world.host.run("cat", "/proc/net/packet").stdout.splitlines()) > 1, 20, "the packet socket")
    assert ask(world.client, plan.HOST4, published(web.network)[0]) is not None
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "not computed yet (partial), which is no error on the sender's own side" in out.splitlines()[0]


def test_conntrack_proves_what_many_addresses_do_not(world: World, web: Attached) -> None:
    """On a host with forty addresses a wildcard port proves nothing by itself; conntrack's tuple of the flow does, of a
    frame in hex as of one that is captured."""
    name = web.network.name
    udp = published(web.network)[1]
    for number in range(40):
        world.host.ip("address", "add", f"203.0.113.{number + 1}/32", "dev", "lo")
    world.dpctl("checksum", "mode", name, "observe")
    world.serve(web, "udp", 53)
    flow = sent_to(web, 40001, UDP, 53)
    raw = addressed(web, frame(flow, b"hello", summed_for=flow.to(str(plan.HOST4), udp)))
    explain = (DPCTL, "checksum", "explain", "--json", raw.hex())

    def certainty() -> tuple[str, str]:
        done = world.host.run(*explain, check=False, env=world.environment)
        (found,) = json.loads(done.stdout)["findings"]
        return found["certainty"], found["rewrite"]["evidence"]

    assert certainty() == ("likely", "mapping")
    assert ask(world.client, plan.HOST4, udp, "udp", plan.CLIENT4, 40001) is not None
    assert certainty() == ("proved", "conntrack")
    capture = Capture(world, world.host, web.network.device, "--for", 2)
    send_frame(world.host, web.network.device, raw)
    status, (found,), _ = capture.found()
    assert (status, found["certainty"], found["rewrite"]["evidence"]) == (3, "proved", "conntrack")
    assert found["rewrite"]["mapping"]["host_port"] == udp
    assert found["tracked"]["destination"] == {"address": str(plan.HOST4), "port": udp}


def test_capture_inside_a_container(world: World, web: Attached) -> None:
    """A link of a container's namespace is captured from, and what comes there is held against the host's mappings."""
    capture = Capture(world, world.host, "eth0", "--for", 2, "--netns", web.netns.path, inside=web.netns)
    send_frame(world.host, port_of(world, web), stale(web))
    status, (found,), _ = capture.found()
    assert (status, found["verdict"], found["rewrite"]["mapping"]["owner"]) == (
        3,
        "stale",
        f"{web.network.name}/{web.name}/eth0",
    )


def test_a_capture_is_ended_by_a_signal(world: World, web: Attached) -> None:
    """Interrupted, a capture without an end says what it found until then."""
    capture = Capture(world, world.host, web.network.device)
    for number in (41000, 41001):  # once the second was read, the first was judged
        send_frame(world.host, web.network.device, corrupt(web, number))
        wait_until(lambda: not capture.unread(), 20, "an empty socket")
    world.host.signal(capture.process, signal.SIGINT)
    status, findings, _ = capture.found()
    assert (status, findings[0]["verdict"]) == (3, "corrupt")


def test_capture_of_a_link_that_is_not_there(world: World) -> None:
    """No such link is one line, and exit status 1."""
    done = world.host.run(DPCTL, "checksum", "explain", "--capture", "nosuch0", check=False, env=world.environment)
    assert (done.returncode, done.stderr) == (1, 'dpctl: could not capture from link "nosuch0": No such device\n')


def test_what_conntrack_says_was_before(world: World, web: Attached) -> None:
    """Published, its reply, masquerade and its reply: each packet after NAT is led back to what it was; IPv6, too."""
    udp = published(web.network)[1]
    world.serve(web, "udp", 53)
    assert ask(world.client, plan.HOST4, udp, "udp", plan.CLIENT4, 40001) is not None
    serve_elsewhere(world)
    assert ask(web.netns, ELSEWHERE4, 9000, "udp", web.address(4), 40002) is not None
    container, own = web.address(4), ELSEWHERE4 - 8
    pairs = [
        ((plan.CLIENT4, 40001, container, 53), (plan.CLIENT4, 40001, plan.HOST4, udp)),
        ((plan.HOST4, udp, plan.CLIENT4, 40001), (container, 53, plan.CLIENT4, 40001)),
        ((own, 40002, ELSEWHERE4, 9000), (container, 40002, ELSEWHERE4, 9000)),
        ((ELSEWHERE4, 9000, container, 40002), (ELSEWHERE4, 9000, own, 40002)),
    ]
    for now, before in pairs:
        assert world.host.call(tracked.before, tracked.Tuple(UDP, *now)) == tracked.Tuple(UDP, *before)
    assert ask(world.client, plan.HOST6, udp, "udp", plan.CLIENT6, 40003) is not None
    now6 = tracked.Tuple(UDP, plan.CLIENT6, 40003, web.address(6), 53)
    before6 = tracked.Tuple(UDP, plan.CLIENT6, 40003, plan.HOST6, udp)
    assert world.host.call(tracked.before, now6) == before6
    unknown = tracked.Tuple(UDP, plan.CLIENT4, 40009, container, 53)
    assert world.host.call(tracked.before, unknown) is None


def serve_elsewhere(world: World) -> None:
    from support.traffic import serve

    serve(world.elsewhere, "elsewhere", "udp", 9000)


def unfill(link: str) -> None:
    """Take the fill program off a port."""
    KernelPrograms().detach(Program.FILL, IfIndex(socket.if_nametoindex(link)))


def switch(link: str, feature: str) -> None:
    """Turn a feature of a link to what it is not, as ``ethtool -K`` does."""
    from pyroute2.ethtool.ioctl import IoctlEthtool

    asked = IoctlEthtool(link)
    features = asked.get_features()
    features[feature] = not features[feature]
    asked.set_features(features)
    asked.close()


def udp6(source: str, destination: str) -> bytes:
    """A UDP datagram over IPv6 with a wrong sum."""
    from struct import pack

    addresses = IPv6Address(source).packed + IPv6Address(destination).packed
    datagram = pack("!HHHH", 40000, 9, 8, 0)
    right = ~ones_sum(addresses + pack("!II", 8, 17) + datagram) & 0xFFFF
    header = pack("!IHBB", 6 << 28, 8, 17, 64) + addresses
    return bytes(12) + b"\x86\xdd" + header + datagram[:6] + pack("!H", right ^ 1)
