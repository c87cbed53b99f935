"""What the kernel tells by itself: each kind of event, provoked by the commands that people and programs use."""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from dataplane.errors import KernelError
from dataplane.events import (
    AddressChanged,
    Event,
    ForwardingChanged,
    HookChanged,
    LinkChanged,
    NamespaceGone,
    NotificationsLost,
    PinsChanged,
    PortChanged,
    RulesetChanged,
    SysctlWritten,
)
from dataplane.monitors import Monitor, kernel_monitors
from dataplane.monitors.namespaces import NamespaceMonitor
from dataplane.monitors.pins import PinMonitor
from dataplane.monitors.route import RouteMonitor
from dataplane.monitors.ruleset import RulesetMonitor
from dataplane.monitors.sysctls import SysctlMonitor
from dataplane.netlink import own_port
from dataplane.nft.client import LibNftables
from dataplane.nft.objects import Table
from dataplane.programs.door import KernelPrograms
from dataplane.programs.loading import BASE
from dataplane.types import AttachMode, IfIndex, Program
from support.netns import Sandbox, wait_until

FORWARD = "net/ipv4/ip_forward"
NO_LINK = IfIndex(0)
TIME = 20.0  # seconds within which an event comes, however busy the machine is
FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO


def sh(command: str) -> None:
    """Run a line of shell."""
    subprocess.run(["sh", "-e", "-c", command], check=True, timeout=30)


def index(name: str) -> IfIndex:
    """The number of a link."""
    return IfIndex(socket.if_nametoindex(name))


def quiet(monitor: Monitor) -> None:
    """Read what came of the preparations, until nothing does."""
    while select.select([monitor], [], [], 0.05)[0]:
        monitor.read()


def told(monitor: Monitor, *wanted: Event) -> list[Event]:
    """Read until all of these came; everything that was read."""
    came: list[Event] = []

    def all_came() -> bool:
        came.extend(monitor.read())
        return set(wanted) <= set(came)

    wait_until(all_came, TIME, f"{wanted}")
    return came


def transaction(monitor: RulesetMonitor) -> RulesetChanged:
    """The next transaction."""
    came: list[Event] = []

    def one_came() -> bool:
        came.extend(monitor.read())
        return bool(came)

    wait_until(one_came, TIME, "a transaction")
    (event,) = came
    assert isinstance(event, RulesetChanged)
    return event


# ----------------------------------------------------------------------------------------------------------- rtnetlink


def _links() -> None:
    monitor = RouteMonitor()
    sh("ip link add br0 type bridge && ip link add v0 type veth peer name v1")
    bridge, port = index("br0"), index("v0")
    told(monitor, LinkChanged(bridge, "br0", "bridge", NO_LINK, False), LinkChanged(port, "v0", "veth", NO_LINK, False))
    sh("ip link set v0 master br0 up")
    told(monitor, LinkChanged(port, "v0", "veth", bridge, False), PortChanged(port, bridge, gone=False))
    quiet(monitor)
    sh("bridge link set dev v0 isolated on")
    told(monitor, PortChanged(port, bridge, gone=False))
    sh("ip link set br0 name br9")
    told(monitor, LinkChanged(bridge, "br9", "bridge", NO_LINK, False))
    sh("ip link set v0 nomaster")
    told(monitor, LinkChanged(port, "v0", "veth", NO_LINK, False), PortChanged(port, bridge, gone=True))
    sh("ip link del br9 && ip link del v1")
    came = told(
        monitor, LinkChanged(bridge, "br9", "bridge", NO_LINK, True), LinkChanged(port, "v0", "veth", NO_LINK, True)
    )
    assert NotificationsLost("route") not in came


def test_links_that_come_change_and_go(sandbox: Sandbox) -> None:
    """A link that appears, gets a bridge, another name or other port flags, leaves its bridge or vanishes is told."""
    sandbox.call(_links)


def _addresses() -> None:
    sh("ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up")
    link = index("v0")
    # Of a link without carrier, the kernel does not tell IPv6 addresses before it has one.
    wait_until(lambda: " state UP " in subprocess.check_output(["ip", "link", "show", "v0"], text=True), TIME)
    monitor = RouteMonitor()
    quiet(monitor)
    for address in ("10.9.9.1/24", "fd00:9::1/64"):
        sh(f"ip address add {address} dev v0 {'nodad' if ':' in address else ''}")
        told(monitor, AddressChanged(link, gone=False))
        sh(f"ip address del {address} dev v0")
        told(monitor, AddressChanged(link, gone=True))


def test_addresses_that_come_and_go(sandbox: Sandbox) -> None:
    """Addresses of both families are told, by the link that has them."""
    sandbox.call(_addresses)


def _hooks() -> None:
    sh("ip link add v0 type veth peer name v1")
    link = index("v0")
    programs = KernelPrograms(AttachMode.CLSACT)
    programs.load()
    monitor = RouteMonitor()
    quiet(monitor)
    changes: tuple[tuple[Callable[[], object], bool], ...] = (
        (lambda: programs.attach(Program.ISOLATION, link), True),  # qdisc and filter
        (lambda: programs.attach(Program.CHECKSUM, link), True),  # a filter
        (lambda: programs.detach(Program.CHECKSUM, link), True),
        (lambda: sh("tc filter del dev v0 egress"), False),
        (lambda: sh("tc qdisc del dev v0 clsact"), False),
    )
    for change, ours in changes:
        quiet(monitor)
        change()
        came = _hook_changes(monitor)
        assert {one.index for one in came} == {link}
        assert {one.port == own_port(socket.NETLINK_ROUTE) for one in came} == {ours}


def _hook_changes(monitor: RouteMonitor) -> list[HookChanged]:
    """Those that come first, and whatever comes with them."""
    came: list[HookChanged] = []

    def any_came() -> bool:
        came.extend(one for one in monitor.read() if isinstance(one, HookChanged))
        return bool(came)

    wait_until(any_came, TIME, "a change of a hook")
    return came


def test_qdiscs_and_filters_that_come_and_go(sandbox: Sandbox) -> None:
    """What is hooked to a link by tc, and unhooked by whomever, is told by that link, and whether it was our doing."""
    sandbox.call(_hooks)


def _forwarding() -> None:
    sh("ip link add v0 type veth peer name v1")
    link = index("v0")
    monitor = RouteMonitor()
    for value in (1, 0):
        quiet(monitor)
        sh(f"echo {value} > /proc/sys/net/ipv4/ip_forward")
        told(monitor, ForwardingChanged(NO_LINK), ForwardingChanged(link))
        quiet(monitor)
        sh(f"echo {value} > /proc/sys/net/ipv6/conf/v0/forwarding")
        told(monitor, ForwardingChanged(link))


def test_forwarding_that_is_turned(sandbox: Sandbox) -> None:
    """Forwarding is told for all links and for one, whichever way it was turned."""
    sandbox.call(_forwarding)


def _overrun() -> tuple[Event, ...]:
    monitor = RouteMonitor(buffer=4096)
    sh("ip link add v0 type veth peer name v1; for mtu in $(seq 1000 1100); do ip link set v0 mtu $mtu; done")
    first = monitor.read()
    quiet(monitor)
    sh("ip link set v0 name v9")
    told(monitor, LinkChanged(index("v9"), "v9", "veth", NO_LINK, False))
    return first


def test_an_overrun_is_told_and_survived(sandbox: Sandbox) -> None:
    """More than the buffer holds is NotificationsLost, behind what was kept; what comes after it is told as ever."""
    came = sandbox.call(_overrun)
    assert len(came) > 1
    assert [event for event in came if isinstance(event, NotificationsLost)] == [came[-1]]


def _repetitions() -> list[Event]:
    sh("ip link add v0 type veth peer name v1")
    monitor = RouteMonitor()
    sh("ip link set v0 name a0; ip link set a0 name b0; ip link set b0 name a0")
    wanted = [LinkChanged(index("a0"), name, "veth", NO_LINK, False) for name in ("b0", "a0")]
    return [event for event in told(monitor, *wanted) if event in wanted]


def test_repetitions_are_told_once(sandbox: Sandbox) -> None:
    """The same event several times in one reading is one, in the place of the last: what comes last is how it is."""
    names = [event.name for event in sandbox.call(_repetitions) if isinstance(event, LinkChanged)]
    assert names == ["b0", "a0"]


# ------------------------------------------------------------------------------------------------------------ nftables

MAIN, ADMIN, BRIDGE = (f"add table {table}" for table in Table)
FILLED = f"{MAIN}; add set {Table.MAIN} s {{ type ipv4_addr; }}; add element {Table.MAIN} s {{ 10.0.0.1, 10.0.0.2 }}"


@pytest.mark.parametrize(
    ("before", "command", "tables", "removed", "others"),
    [
        ("", MAIN, {Table.MAIN}, set(), False),
        ("", f"{ADMIN}; {BRIDGE}", {Table.ADMIN, Table.BRIDGE}, set(), False),
        (FILLED, f"delete element {Table.MAIN} s {{ 10.0.0.1 }}", {Table.MAIN}, set(), False),
        (FILLED, f"flush set {Table.MAIN} s", {Table.MAIN}, set(), False),
        (f"{FILLED}; {BRIDGE}", "flush ruleset", {Table.MAIN, Table.BRIDGE}, {Table.MAIN, Table.BRIDGE}, False),
        (f"{FILLED}; add table ip x", "flush ruleset", {Table.MAIN}, {Table.MAIN}, True),
        (FILLED, f"delete table {Table.MAIN}; {MAIN}", {Table.MAIN}, {Table.MAIN}, False),
        (FILLED, f"add chain {Table.MAIN} c; add rule {Table.MAIN} c accept", {Table.MAIN}, set(), False),
        (MAIN, "add table ip x; add chain ip x c { type filter hook input priority 0; }", set(), set(), True),
        # Names that are nearly ours.
        ("", "add table ip dataplane; add table inet dataplane_; add table bridge dataplane_admin", set(), set(), True),
        ("", 'add table ip x { comment "inet dataplane"; }', set(), set(), True),
        (MAIN, f"add table ip x; add chain {Table.MAIN} c", {Table.MAIN}, set(), True),
    ],
)  # fmt: skip
def test_transactions_by_the_tables_they_change(
    sandbox: Sandbox, before: str, command: str, tables: set[Table], removed: set[Table], others: bool
) -> None:
    """A transaction is one event, with the tables of ours that it changed or deleted, and whether there were others."""
    event = sandbox.call(_transaction, before, command)
    assert (set(event.tables), set(event.removed), event.others) == (tables, removed, others)


def _transaction(before: str, command: str) -> RulesetChanged:
    monitor = RulesetMonitor()
    if before:
        sh(f"nft '{before}'")
        transaction(monitor)
    sh(f"nft '{command}'")
    event = transaction(monitor)
    assert event.generation == LibNftables().generation()
    return event


_TELL = """
from dataplane.monitors.ruleset import RulesetMonitor
import select
monitor = RulesetMonitor()
print("ready", flush=True)
while True:
    select.select([monitor], [], [])
    for event in monitor.read():
        print(event.pid, event.program, flush=True)
"""
_IN_THREAD = """
import threading
from concurrent.futures import ThreadPoolExecutor
from dataplane.nft.client import LibNftables
from dataplane.nft.objects import Table
from dataplane.nft.transaction import Transaction, add
def run():
    print(threading.get_native_id())
    LibNftables().run(Transaction((add(Table.BRIDGE),)))
with ThreadPoolExecutor() as threads:
    threads.submit(run).result()
"""


def test_transactions_by_who_sent_them(sandbox: Sandbox) -> None:
    """A transaction is told with the name and the number of the thread that sent it, as this machine counts them."""
    if Path("/proc/self/ns/pid").stat().st_ino != FIRST_PID_NAMESPACE:
        pytest.skip("the kernel tells process ids of its first pid namespace, and this is another")
    teller = sandbox.spawn(sys.executable, "-c", _TELL)
    assert teller.stdout is not None
    assert teller.stdout.readline() == "ready\n"
    inside = ["nsenter", f"--target={sandbox.pid}", "--mount", "--net"]
    with subprocess.Popen([*inside, "nft", MAIN]) as process:
        assert process.wait(timeout=30) == 0
    assert teller.stdout.readline() == f"{process.pid} nft\n"
    script = [*inside, sys.executable, "-c", _IN_THREAD]
    thread = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True, timeout=30).stdout.strip()
    assert teller.stdout.readline().split()[0] == thread


def fill(monitor: RulesetMonitor, table: str) -> None:
    """A transaction that takes hundreds of datagrams to tell, in a table that it has told of."""
    sh(f"nft 'add table {table}; add set {table} s {{ type ipv4_addr; }}'")
    transaction(monitor)
    elements = ", ".join(f"10.{number >> 8}.{number & 255}.1" for number in range(20_000))
    subprocess.run(["nft", "-f", "-"], input=f"add element {table} s {{ {elements} }}".encode(), check=True)


def _large() -> tuple[list[Event], int]:
    monitor = RulesetMonitor()
    fill(monitor, "ip x")
    came: list[Event] = []
    reads = 0
    while select.select([monitor], [], [], 0)[0]:
        came.extend(monitor.read())
        reads += 1
    return came, reads


def test_a_large_transaction_is_read_in_turns(sandbox: Sandbox) -> None:
    """Twenty thousand elements of somebody else come to one event, in readings between which others have a turn."""
    came, reads = sandbox.call(_large)
    (event,) = came
    assert isinstance(event, RulesetChanged)
    assert (event.tables, event.others) == (frozenset(), True)
    assert reads > 1


def _ruleset_overrun() -> tuple[tuple[Event, ...], RulesetChanged]:
    monitor = RulesetMonitor(buffer=1 << 19)
    fill(monitor, Table.MAIN)
    first = monitor.read()
    assert not select.select([monitor], [], [], 0)[0]
    sh("nft add table ip x")
    return first, transaction(monitor)


def test_what_was_lost_is_blamed_on_nobody_else(sandbox: Sandbox) -> None:
    """After an overrun all that was kept is read at once, and the next transaction is told with its own tables only."""
    first, event = sandbox.call(_ruleset_overrun)
    assert first == (NotificationsLost("ruleset"),)
    assert (event.tables, event.others) == (frozenset(), True)


# --------------------------------------------------------------------------------------------------------------- files


def watches(monitor: Monitor) -> int:
    """How many inodes it watches."""
    return Path(f"/proc/self/fdinfo/{monitor.fileno()}").read_text().count("inotify wd:")


def _sysctls() -> None:
    sh("ip link add v0 type veth peer name v1")
    local = "net/ipv4/conf/v0/route_localnet"
    monitor = SysctlMonitor()
    assert monitor.follow([FORWARD, local, "net/ipv4/conf/nowhere/route_localnet"]) == {
        "net/ipv4/conf/nowhere/route_localnet"
    }
    sh("echo 1 > /proc/sys/net/ipv4/conf/v0/route_localnet")
    told(monitor, SysctlWritten(local))
    quiet(monitor)
    sh(f"echo 1 > /proc/sys/{FORWARD}; cat /proc/sys/{local} > /dev/null")
    assert told(monitor, SysctlWritten(FORWARD)) == [SysctlWritten(FORWARD)]
    quiet(monitor)
    # Another link of the name: told to follow again, it is the new one's file that counts.
    sh("ip link del v0; ip link add v0 type veth peer name v1")
    assert monitor.follow([local]) == frozenset()
    sh(f"echo 1 > /proc/sys/{FORWARD}; echo 1 > /proc/sys/{local}")
    assert told(monitor, SysctlWritten(local)) == [SysctlWritten(local)]
    monitor.follow([])
    assert watches(monitor) == 0
    assert not monitor._files


def test_writes_to_sysctls(sandbox: Sandbox) -> None:
    """A write to a followed sysctl is told by its name, whatever wrote it; reading is not, nor what is not followed."""
    sandbox.call(_sysctls)


def _pins() -> None:
    programs = KernelPrograms()
    monitor = PinMonitor()
    sh(f"mkdir {BASE.parent}/others {BASE.parent}/others/below")
    assert monitor.read() == ()
    programs.load()
    told(monitor, PinsChanged())
    changes = (
        f"rm {programs.directory}/dp_isolation",
        f"mv {programs.directory}/dp_checksum {programs.directory}/other",
        f"mkdir {BASE}/links2",
        f"mv {BASE}/links2 {BASE}/links3",
        f"rm -r {BASE}",
        f"mkdir {BASE}",
        f"mkdir {BASE}/again",
        f"rmdir {BASE}/again",
        "mount -t bpf bpf /sys/fs/bpf",
        f"mkdir {BASE}",
        f"mkdir {BASE}/again",
        "umount /sys/fs/bpf",
        "umount -l /sys/fs/bpf",
        "mount -t bpf bpf /sys/fs/bpf",
        f"mkdir {BASE}",
    )
    for change in changes:
        quiet(monitor)
        sh(change)
        assert select.select([monitor], [], [], TIME)[0], change
        told(monitor, PinsChanged())
    quiet(monitor)
    sh("mkdir /run/elsewhere; mount -t tmpfs tmpfs /run/elsewhere")
    assert monitor.read() == ()


def test_pins_that_come_and_go(sandbox: Sandbox) -> None:
    """Unlinked pins, removed and renamed directories, and a bpffs that is mounted over ours or unmounted are told; what
    others pin and mount is not."""
    sandbox.call(_pins)


def _namespaces() -> None:
    sh("ip netns add one; ip netns add two; ip netns add three; ln -s /run /var/lib/run")
    monitor = NamespaceMonitor()
    unwatched = monitor.follow(
        ["/run/netns/one", "/var/lib/run/netns/one", "/run/netns/two", "/run/netns/none", "/none/x", "/proc/1/ns/net"]
    )
    assert unwatched == {"/run/netns/none", "/none/x", "/proc/1/ns/net"}
    sh("ip netns del one; ip netns del three")
    both = [NamespaceGone("/run/netns/one"), NamespaceGone("/var/lib/run/netns/one")]
    assert told(monitor, *both) == both
    monitor.follow([])
    assert watches(monitor) == 0
    sh("ip netns del two")
    assert monitor.read() == ()


def test_namespaces_that_are_deleted(sandbox: Sandbox) -> None:
    """A followed namespace that is deleted is told by each of its paths; which nobody would tell of is answered."""
    sandbox.call(_namespaces)


def _followed() -> None:
    names = [f"/run/netns/{number}" for number in range(4)]
    sh("for number in 0 1 2 3; do ip netns add $number; done")
    monitor = NamespaceMonitor()
    assert monitor.follow(names[:2]) == frozenset()
    with patch("dataplane.monitors.namespaces.os.path.exists", wraps=os.path.exists) as asked:
        assert monitor.follow(names[1:3]) == frozenset()
        assert [call.args[0] for call in asked.call_args_list] == names[2:3], "who was watched is not looked at again"
    sh("ip netns del 0; ip netns del 2")
    assert told(monitor, NamespaceGone(names[2])) == [NamespaceGone(names[2])], "and 0 is followed no more"
    assert monitor.follow(names[1:]) == {names[2]}, "as long as it is not there, it is answered"
    assert monitor.follow(names[1:]) == {names[2]}
    sh("ip netns add 2")
    assert monitor.follow(names[1:]) == frozenset()
    sh("ip netns del 2")
    assert told(monitor, NamespaceGone(names[2])) == [NamespaceGone(names[2])]
    sh("ip netns add 2; ip netns del 2")
    assert told(monitor, NamespaceGone(names[2])) == [NamespaceGone(names[2])], (
        "one that came back before anybody asked"
    )


def test_namespaces_that_come_and_go_while_they_are_followed(sandbox: Sandbox) -> None:
    """Each end is told, however often somebody says anew what to follow; and nobody is looked at twice for nothing."""
    sandbox.call(_followed)


def _replaced() -> None:
    directory = Path("/run/ours")
    directory.mkdir()
    path = directory / "one"
    path.touch()
    monitor = NamespaceMonitor()
    assert monitor.follow([str(path)]) == frozenset()
    directory.rename("/run/former")
    assert monitor.follow([str(path)]) == {str(path)}
    directory.mkdir()
    path.touch()
    assert monitor.follow([str(path)]) == frozenset()
    Path("/run/former/one").unlink()
    path.unlink()
    assert told(monitor, NamespaceGone(str(path))) == [NamespaceGone(str(path))]
    path.touch()
    assert monitor.follow([str(path)]) == frozenset()
    path.unlink()
    directory.rmdir()
    assert told(monitor, NamespaceGone(str(path))) == [NamespaceGone(str(path))]
    assert monitor.follow([str(path)]) == {str(path)}
    assert monitor.follow([]) == frozenset()
    assert watches(monitor) == 0


def test_a_directory_of_namespaces_that_is_replaced(sandbox: Sandbox) -> None:
    """What is there now is watched, and not what was there under the same name."""
    sandbox.call(_replaced)


# ----------------------------------------------------------------------------------------------------------------- all


def _all() -> None:
    with kernel_monitors() as monitors, selectors.DefaultSelector() as selector:
        monitors.sysctls.follow([FORWARD])
        sh("ip netns add one")
        monitors.namespaces.follow(["/run/netns/one"])
        for monitor in monitors:
            quiet(monitor)
            assert monitor.read() == ()
            assert not os.get_inheritable(monitor.fileno())
            selector.register(monitor, selectors.EVENT_READ, monitor)
        sh(f"ip link add v0 type veth; nft {MAIN}; echo 1 > /proc/sys/{FORWARD}; mkdir {BASE}; ip netns del one")
        came: set[type] = set()

        def all_came() -> bool:
            for key, _ in selector.select(0.1):
                came.update(map(type, key.data.read()))
            return came >= {LinkChanged, RulesetChanged, SysctlWritten, PinsChanged, NamespaceGone}

        wait_until(all_came, TIME, "an event of each monitor")
    monitors.close()


def test_one_loop_for_all(sandbox: Sandbox) -> None:
    """All monitors wait in one selector, none blocks, and no program that is started inherits them."""
    sandbox.call(_all)


def _not_allowed() -> Sequence[int]:
    os.setresuid(65534, 65534, 65534)
    with pytest.raises(KernelError, match="could not subscribe to notifications of route: ") as refused:
        kernel_monitors()
    return [refused.value.errno]


def test_who_may_not_is_told(sandbox: Sandbox) -> None:
    """Without CAP_NET_ADMIN opening them is an error that says so."""
    assert sandbox.call(_not_allowed) == [errno.EPERM]


def test_nothing_is_left_open(sandbox: Sandbox) -> None:
    """Opened and closed, all descriptors are given back, also where opening failed half way."""
    assert sandbox.call(_descriptors) == 0


def _descriptors() -> int:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    with kernel_monitors() as monitors:
        monitors.sysctls.follow([FORWARD])
        assert count() > before
    return count() - before
