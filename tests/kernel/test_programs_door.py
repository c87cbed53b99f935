"""The door to the programs on a real kernel: loading, hooks of both kinds, and what real traffic sees of them."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from dataplane import abi
from dataplane.abi import ChecksumCounts, EventKind, NetworkEntry
from dataplane.doors import Hooked
from dataplane.errors import BpfError
from dataplane.programs import attach, clsact, loading, ringbuf, syscall
from dataplane.programs.door import KernelPrograms
from dataplane.programs.source import MAPS, source_directory
from dataplane.types import (
    DEVICE_PROGRAMS,
    NETWORK_PROGRAMS,
    AttachMode,
    ChecksumMode,
    Hook,
    IfIndex,
    IsolationPolicy,
    Program,
)
from support import foreign
from support.frames import flipped, seed_stale_syn
from support.netns import Namespace, Sandbox, wait_until
from support.plan import BACK, FRONT
from support.traffic import ask, send_frame, serve

MODES = pytest.mark.parametrize("mode", [AttachMode.TCX, AttachMode.CLSACT])
OURS = [Program.ISOLATION, Program.CHECKSUM]
MARK = 1 << 27


def index(device: str) -> IfIndex:
    """Inside a sandbox: the number of a device."""
    return IfIndex(socket.if_nametoindex(device))


def loaded(mode: AttachMode = AttachMode.AUTO) -> KernelPrograms:
    """Inside a sandbox: the door, with programs pinned."""
    programs = KernelPrograms(mode)
    programs.load()
    return programs


def attach_all(mode: AttachMode, device: str) -> tuple[Hooked, ...]:
    """Inside a sandbox: both programs on a device, checksum first on purpose; what is hooked then."""
    programs = loaded(mode)
    for program in (Program.CHECKSUM, Program.ISOLATION):
        programs.attach(program, index(device))
    return programs.hooked(index(device))


def kinds(found: tuple[Hooked, ...]) -> list[tuple[Program, AttachMode]]:
    """What is hooked how, in order."""
    return [(hooked.program, hooked.mode) for hooked in found]


def pins(directory: Path) -> list[str]:
    """Inside a sandbox: the names in a directory of the bpffs."""
    return sorted(pin.name for pin in directory.iterdir()) if directory.is_dir() else []


# -- loading ----------------------------------------------------------------------------------------------------------


def test_a_second_start_compiles_nothing(sandbox: Sandbox) -> None:
    """Programs are found by digest: a new process uses those that are pinned, with no compiler in reach."""

    def first() -> tuple[bool, bool, int]:
        programs = KernelPrograms()
        before = programs.loaded()
        programs.load()
        return before, programs.loaded(), programs.program(Program.CHECKSUM).id

    def second() -> int:
        sys.executable = "/nonexistent/python"  # what would compile
        return loaded().program(Program.CHECKSUM).id

    before, after, identity = sandbox.call(first)
    assert (before, after) == (False, True)
    assert sandbox.call(second) == identity


def test_everything_is_pinned_for_root_alone(sandbox: Sandbox) -> None:
    """One directory, named by the digest, 0700, with all programs and maps, 0600."""

    def look() -> tuple[list[str], list[str], set[int], set[int]]:
        programs = loaded()
        names = pins(programs.directory)
        files = {(programs.directory / name).stat().st_mode & 0o777 for name in names}
        directories = {path.stat().st_mode & 0o777 for path in (loading.BASE, programs.directory)}
        return pins(loading.BASE), names, files, directories

    directories, names, files, modes = sandbox.call(look)
    assert len(directories) == 1
    assert names == sorted([*MAPS, *(program.function for program in Program)])
    assert (files, modes) == ({0o600}, {0o700})


def test_loaders_that_start_together_make_one_set(sandbox: Sandbox) -> None:
    """All end well, and all use the same programs."""
    identity = (
        f"import sys; sys.path.insert(0, {str(source_directory().parent)!r})\n"
        "from dataplane.programs.door import KernelPrograms; from dataplane.types import Program\n"
        "programs = KernelPrograms(); programs.load(); print(programs.program(Program.ISOLATION).id)"
    )
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: sandbox.python(identity).stdout, range(4)))
    assert len(set(answers)) == 1
    assert len(sandbox.call(pins, loading.BASE)) == 1


def test_a_loader_that_is_killed_holds_up_nobody(sandbox: Sandbox) -> None:
    """Whoever loads next waits for the compiler that a killed process left, and then makes the programs anew."""
    code = (
        f"import sys; sys.path.insert(0, {str(source_directory().parent)!r})\n"
        "from dataplane.programs.door import KernelPrograms; KernelPrograms().load()"
    )
    for delay in (0.0, 0.1, 0.2):
        sandbox.call(loading.unload)
        first = sandbox.spawn(sys.executable, "-c", code)
        wait_until(lambda: any(name.endswith("-unfinished") for name in sandbox.call(pins, loading.BASE)))
        time.sleep(delay)
        sandbox.signal(first, signal.SIGKILL)
        sandbox.python(code)
        assert len(sandbox.call(pins, loading.BASE)) == 1


def test_what_a_killed_loader_left_is_replaced(sandbox: Sandbox) -> None:
    """Half a set never counts as loaded, and is gone after the next load."""

    def run() -> tuple[bool, list[str]]:
        programs = KernelPrograms()
        loading.BASE.mkdir(mode=0o700)
        for name in (programs.digest, f"{programs.digest}-unfinished"):
            (loading.BASE / name).mkdir()
        before = programs.loaded()
        programs.load()
        return before, pins(loading.BASE)

    before, after = sandbox.call(run)
    assert not before
    assert len(after) == 1


def test_compiler_and_verifier_are_content(sandbox: Sandbox) -> None:
    """No warning of the compiler, and less than half of the instructions that the verifier would still go through."""
    sandbox.run("mkdir", "/sys/fs/bpf/compiled")
    environment = {"PYTHONPATH": str(source_directory().parent)}
    code = "import sys; from dataplane.programs.compile import main; sys.exit(main())"
    compiled = sandbox.python(code, "/sys/fs/bpf/compiled", env=environment)
    assert compiled.stderr == ""

    def verified() -> list[int]:
        return [loaded().program(program).verified_instructions for program in Program]

    assert max(sandbox.call(verified)) < 500_000  # of 1,000,000


def test_a_bpffs_is_mounted_where_there_is_none(sandbox: Sandbox) -> None:
    """A host without systemd has none."""
    sandbox.run("umount", "/sys/fs/bpf")
    sandbox.call(attach_all, AttachMode.AUTO, "lo")
    assert " /sys/fs/bpf " in sandbox.run("grep", "bpf", "/proc/mounts").stdout


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("return CONTINUE; /* the host's own */", "isolation.c:"),
        ("return *(int *)(long)skb->len;", "lines omitted|processed [0-9]+ insns|R[0-9] invalid mem access"),
    ],
    ids=["compiler", "verifier"],
)
def test_a_refusal_says_what_compiler_or_verifier_said(
    sandbox: Sandbox, tmp_path: Path, broken: str, said: str
) -> None:
    """The error carries the reason, and nothing is left in the bpffs."""
    root = source_directory().parent
    for folder in ("bpf", "dataplane"):
        shutil.copytree(root / folder, tmp_path / folder)
    isolation = tmp_path / "bpf" / "isolation.c"
    text = isolation.read_text()
    good = "return CONTINUE; /* the host's own */"
    assert good in text
    isolation.write_text(text.replace(good, broken.replace(";", "", 1) if broken == good else broken))
    failed = sandbox.python(
        "from dataplane.programs.door import KernelPrograms; KernelPrograms().load()",
        env={"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert failed.returncode == 1
    assert "dataplane.errors.BpfError: could not compile the BPF programs: " in failed.stderr
    assert re.search(said, failed.stderr)
    assert sandbox.call(pins, loading.BASE) == []


def test_without_bcc_the_package_and_the_interpreter_are_named(sandbox: Sandbox, tmp_path: Path) -> None:
    """What to install, and for which Python."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("raise ImportError('No module named bcc')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(source_directory().parent)!r})\n"
        "from dataplane.programs.door import KernelPrograms; KernelPrograms().load()"
    )
    failed = sandbox.python(code, env={"PYTHONPATH": str(tmp_path)}, check=False)
    last = failed.stderr.splitlines()[-1]
    assert last.startswith(f"dataplane.errors.MissingDependencyError: could not import bcc with {sys.executable}: ")
    assert "apt-get install python3-bpfcc" in last


# -- hooks ------------------------------------------------------------------------------------------------------------


@MODES
def test_isolation_runs_before_checksum(sandbox: Sandbox, mode: AttachMode) -> None:
    """Whichever was attached first."""
    assert kinds(sandbox.call(attach_all, mode, "lo")) == [(program, mode) for program in OURS]


@MODES
def test_attaching_again_changes_nothing(sandbox: Sandbox, mode: AttachMode) -> None:
    """One copy, the same one."""
    assert sandbox.call(attach_all, mode, "lo") == sandbox.call(attach_all, mode, "lo")


@MODES
def test_programs_of_one_device_run_in_order_whenever_they_came(sandbox: Sandbox, mode: AttachMode) -> None:
    """fill is the last of its hook, also where isolation comes after it; guard has a hook of its own."""

    def attached() -> list[tuple[Program, AttachMode]]:
        programs = loaded(mode)
        for program in (Program.FILL, Program.GUARD, Program.ISOLATION, Program.CHECKSUM):
            programs.attach(program, index("lo"))
        return kinds(programs.hooked(index("lo")))

    found = sandbox.call(attached)
    assert {how for _, how in found} == {mode}
    assert [one for one, _ in found if one.hook is Hook.EGRESS] == [Program.ISOLATION, Program.CHECKSUM, Program.FILL]
    assert [one for one, _ in found if one.hook is Hook.INGRESS] == [Program.GUARD]


@MODES
@pytest.mark.parametrize("program", [Program.FILL, Program.GUARD])
def test_a_program_of_a_port_goes_without_a_trace(sandbox: Sandbox, mode: AttachMode, program: Program) -> None:
    """No filter, no qdisc, no link, no pin."""

    def come_and_go() -> tuple[object, ...]:
        programs = loaded(mode)
        for _ in range(2):
            programs.attach(program, index("lo"))
        there = kinds(programs.hooked(index("lo")))
        for _ in range(2):
            programs.detach(program, index("lo"))
        return there, programs.hooked(index("lo")), pins(loading.LINKS)

    there, left, pinned = sandbox.call(come_and_go)
    assert (there, left, pinned) == ([(program, mode)], (), [])
    assert "clsact" not in sandbox.run("tc", "qdisc", "show", "dev", "lo").stdout


def test_auto_spares_a_containers_port_the_wait_for_a_link(sandbox: Sandbox) -> None:
    """A network's device gets links, a port filters."""

    def attached() -> list[tuple[Program, AttachMode]]:
        programs = loaded(AttachMode.AUTO)
        for program in DEVICE_PROGRAMS:
            programs.attach(program, index("lo"))
        return kinds(programs.hooked(index("lo")))

    assert dict(sandbox.call(attached)) == {
        Program.ISOLATION: AttachMode.TCX,
        Program.CHECKSUM: AttachMode.TCX,
        Program.FILL: AttachMode.CLSACT,
        Program.GUARD: AttachMode.CLSACT,
    }


def test_auto_takes_tcx(sandbox: Sandbox) -> None:
    """Where the kernel has it, as this one."""
    assert {mode for _, mode in kinds(sandbox.call(attach_all, AttachMode.AUTO, "lo"))} == {AttachMode.TCX}


def test_auto_falls_back_where_tcx_is_unknown(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel answers EINVAL to an attach type that it does not know: then it is clsact."""
    monkeypatch.setitem(attach._ATTACH_TYPES, Hook.EGRESS, 200)  # of no kernel yet
    assert kinds(sandbox.call(attach_all, AttachMode.AUTO, "lo")) == [(program, AttachMode.CLSACT) for program in OURS]


def test_a_filter_that_an_older_version_left_elsewhere_is_removed(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is known by its name, not by priority and handle."""
    with monkeypatch.context() as older:
        older.setattr(clsact, "PRIORITIES", {Program.ISOLATION: 7, Program.CHECKSUM: 8})
        older.setattr(clsact, "HANDLE", 3)
        before = sandbox.call(attach_all, AttachMode.CLSACT, "lo")
    assert len(before) == 2
    assert sandbox.call(attach_all, AttachMode.CLSACT, "lo") == before


@pytest.mark.parametrize(
    ("first", "second"), [(AttachMode.TCX, AttachMode.CLSACT), (AttachMode.CLSACT, AttachMode.TCX)]
)
def test_a_change_of_mode_leaves_one_copy(sandbox: Sandbox, first: AttachMode, second: AttachMode) -> None:
    """The other kind of hook is emptied."""
    sandbox.call(attach_all, first, "lo")
    assert kinds(sandbox.call(attach_all, second, "lo")) == [(program, second) for program in OURS]


@MODES
def test_detaching_leaves_nothing(sandbox: Sandbox, mode: AttachMode) -> None:
    """No program, no pin, no qdisc; a second time, or with no such device, is not an error."""

    def run() -> tuple[tuple[Hooked, ...], list[str]]:
        attach_all(mode, "lo")
        programs = KernelPrograms(mode)
        for ifindex in (index("lo"), index("lo"), IfIndex(9999)):
            for program in NETWORK_PROGRAMS:
                programs.detach(program, ifindex)
        return programs.hooked(index("lo")), pins(loading.LINKS)

    assert sandbox.call(run) == ((), [])
    assert "clsact" not in sandbox.run("tc", "qdisc", "show", "dev", "lo").stdout


@MODES
def test_unloading_leaves_nothing(sandbox: Sandbox, mode: AttachMode) -> None:
    """Programs, maps and links are gone with their pins and said to be; a load brings them back."""

    def run() -> tuple[list[str], tuple[Hooked, ...], bool]:
        attach_all(mode, "lo")
        removed = KernelPrograms().unload()
        assert KernelPrograms().unload() == []
        return removed, KernelPrograms().hooked(index("lo")), loading.BASE.exists()

    removed, hooked, left = sandbox.call(run)
    assert removed[:2] == ["program isolation on device lo", "program checksum on device lo"]
    assert (hooked, left) == ((), False)
    assert "clsact" not in sandbox.run("tc", "qdisc", "show", "dev", "lo").stdout
    assert len(sandbox.call(attach_all, mode, "lo")) == 2


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_door_that_is_dropped_leaves_no_descriptor(sandbox: Sandbox) -> None:
    """What it had open closes with it, and what is used no more with the next look; not under who reads it."""

    def run() -> tuple[int, int, list[int], int]:
        programs = loaded()
        for number in range(3):
            programs.put("networks", abi.U32.pack(number), bytes(8))
        several = descriptors()
        reading = programs.entries("networks")
        found = [next(reading)]
        shutil.rmtree(programs.directory)
        assert not programs.loaded()
        found += reading
        before = descriptors()
        for _ in range(3):
            loaded().get("networks", bytes(4))
        return several, before, sorted(int(*abi.U32.unpack(key)) for key, _ in found), descriptors()

    several, before, found, after = sandbox.call(run)
    assert several > before + len(MAPS)
    assert (found, after) == ([0, 1, 2], before)


def test_without_root_the_error_says_so(sandbox: Sandbox) -> None:
    """One readable error, no traceback of the file system's."""

    def run() -> None:
        loaded()
        os.setuid(65534)
        KernelPrograms().loaded()

    with pytest.raises(BpfError, match=r"could not list /sys/fs/bpf/dataplane/.*: Permission denied; run it as root"):
        sandbox.call(run)


@MODES
def test_a_fresh_bpffs_over_ours_makes_no_second_copy(sandbox: Sandbox, mode: AttachMode) -> None:
    """The pins are out of sight, the programs still run: they are found by name and replaced by the new ones."""
    before = sandbox.call(attach_all, mode, "lo")
    sandbox.run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
    assert sandbox.call(KernelPrograms(mode).hooked, IfIndex(1)) == before
    after = sandbox.call(attach_all, mode, "lo")
    assert kinds(after) == [(program, mode) for program in OURS]
    assert {one.program_id for one in after}.isdisjoint(one.program_id for one in before)
    assert sandbox.call(pins, loading.LINKS) == (["1-checksum", "1-isolation"] if mode is AttachMode.TCX else [])


def test_a_reused_number_of_a_device_is_recognised(sandbox: Sandbox) -> None:
    """A pin of a device that is gone does not stand in the way of the next device with its number."""
    for _ in range(2):
        sandbox.ip("link", "add", "name", "br-reused", "index", "77", "type", "bridge")
        assert kinds(sandbox.call(attach_all, AttachMode.TCX, "br-reused")) == [
            (program, AttachMode.TCX) for program in OURS
        ]
        sandbox.ip("link", "delete", "br-reused")
    assert sandbox.call(pins, loading.LINKS) == ["77-checksum", "77-isolation"]

    def clean() -> list[str]:
        for program in NETWORK_PROGRAMS:
            KernelPrograms().detach(program, IfIndex(77))
        return pins(loading.LINKS)

    assert sandbox.call(clean) == []


def test_a_device_of_another_namespace_keeps_its_program(sandbox: Sandbox) -> None:
    """The same number in another network namespace: refused with what to do, and nothing is detached there."""
    other = sandbox.namespace("other")
    before = sandbox.call(attach_all, AttachMode.TCX, "lo")
    with pytest.raises(BpfError, match="another network namespace; give each network namespace a bpffs of its own"):
        other.call(attach_all, AttachMode.TCX, "lo")
    assert sandbox.call(KernelPrograms().hooked, IfIndex(1)) == before


def test_a_foreign_tcx_program_survives(sandbox: Sandbox) -> None:
    """Attached before, ours around it, replaced and detached: it stays, and in its place."""

    def run() -> list[list[int]]:
        device = index("lo")
        seen = []
        with syscall.tcx_link_create(foreign.load(), device) as link:
            its = syscall.link_info(link.number).program_id
            seen.append([one.program_id for one in syscall.tcx_query(device, syscall.TCX_EGRESS)])
            attach_all(AttachMode.TCX, "lo")
            attach_all(AttachMode.TCX, "lo")
            assert len(syscall.tcx_query(device, syscall.TCX_EGRESS)) == 3
            for program in NETWORK_PROGRAMS:
                KernelPrograms().detach(program, device)
            seen.append([one.program_id for one in syscall.tcx_query(device, syscall.TCX_EGRESS)])
        return [[its], *seen]

    its, before, after = sandbox.call(run)
    assert its == before == after


def test_a_foreign_clsact_filter_survives(sandbox: Sandbox) -> None:
    """Its filters on both hooks stay, and so does the qdisc; ours come and go."""
    sandbox.run("tc", "qdisc", "add", "dev", "lo", "clsact")

    def run() -> tuple[int, int]:
        device = index("lo")
        foreign.filter_by_clsact(foreign.load(), device)
        attach_all(AttachMode.CLSACT, "lo")
        between = len(clsact.filters(device))
        for program in NETWORK_PROGRAMS:
            KernelPrograms(AttachMode.CLSACT).detach(program, device)
        return between, len(clsact.filters(device))

    assert sandbox.call(run) == (3, 1)
    assert "foreign" in sandbox.run("tc", "filter", "show", "dev", "lo", "egress").stdout


# -- maps -------------------------------------------------------------------------------------------------------------


def test_map_entries_come_and_go(sandbox: Sandbox) -> None:
    """Written, read, listed, removed; removing what is not there is not an error."""

    def run() -> tuple[list[bytes | None], list[int], int]:
        programs = loaded()
        entry = NetworkEntry(7, IsolationPolicy.OPEN, ChecksumMode.OFF)
        seen = [programs.get("networks", abi.U32.pack(5))]
        for number in range(1, 1001):
            programs.put("networks", abi.U32.pack(number), entry.pack())
        seen.append(programs.get("networks", abi.U32.pack(5)))
        listed = sorted(abi.U32.unpack(key)[0] for key, _ in programs.entries("networks"))
        for key, _ in programs.entries("networks"):  # while they are walked
            programs.drop("networks", key)
            programs.drop("networks", key)
        return seen, listed, len(list(programs.entries("networks")))

    seen, listed, left = sandbox.call(run)
    assert seen == [None, NetworkEntry(7, IsolationPolicy.OPEN, ChecksumMode.OFF).pack()]
    assert listed == list(range(1, 1001))
    assert left == 0


def test_a_wrong_size_is_refused_before_the_kernel_reads_it(sandbox: Sandbox) -> None:
    """A short key or value would have the kernel read past its end."""
    with pytest.raises(BpfError, match='could not use BPF map "networks": a key of 3 bytes, not 4'):
        sandbox.call(lambda: loaded().get("networks", b"abc"))
    with pytest.raises(BpfError, match='could not write BPF map "networks": a value of 1 bytes, not 8'):
        sandbox.call(lambda: loaded().put("networks", bytes(4), b"x"))


# -- real traffic -----------------------------------------------------------------------------------------------------


@contextmanager
def two_networks(host: Sandbox, mode: AttachMode) -> Iterator[tuple[Namespace, Namespace]]:
    """A container in each of two networks, both attached and kept apart."""
    places = []
    for network, number in ((FRONT, 1), (BACK, 2)):
        host.bridge(network.device, f"{network.gateway4}/24")
        place = host.namespace(network.name)
        host.plug(network.device, f"veth{number}", place, address=f"{network.host4(2)}/24")
        place.ip("route", "add", "default", "via", network.gateway4)
        places.append(place)
    host.sysctl("net/ipv4/ip_forward", 1)

    def hook() -> None:
        programs = loaded(mode)
        programs.put("settings", abi.U32.pack(0), abi.HostSettings(MARK).pack())
        for network, number in ((FRONT, 1), (BACK, 2)):
            entry = NetworkEntry(number, IsolationPolicy.SAME_BRIDGE, ChecksumMode.REPAIR)
            programs.put("networks", abi.U32.pack(index(network.device)), entry.pack())
            for program in NETWORK_PROGRAMS:
                programs.attach(program, index(network.device))

    host.call(hook)
    yield places[0], places[1]


@MODES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_networks_are_kept_apart_in_real_traffic(sandbox: Sandbox, mode: AttachMode, protocol: str) -> None:
    """Direct access is dropped and counted; marked traffic, the host's own and that of one network pass."""
    with two_networks(sandbox, mode) as (front, back):
        serve(back, "back", protocol, 8000)
        server = BACK.host4(2)
        assert ask(front, server, 8000, protocol, timeout=0.3) is None
        answer = ask(sandbox, server, 8000, protocol)
        assert answer
        assert answer.server == "back"

        def found() -> tuple[dict[bytes, bytes], list[tuple[int, int, int, str]]]:
            programs = KernelPrograms()
            with programs.events() as events:
                seen = [event for event in events.poll(0.1) if event.kind is EventKind.ISOLATED]
            return dict(programs.entries("isolation_drops")), [
                (event.source_network, event.destination_network, event.destination_port, str(event.destination))
                for event in seen
            ]

        drops, events = sandbox.call(found)
        assert list(drops) == [abi.NETWORK_PAIR.pack(1, 2)]
        assert events[0] == (1, 2, 8000, str(server))

        sandbox.run(
            "nft", "add table inet t; add chain inet t f { type filter hook forward priority 0; };"
            f"add rule inet t f meta mark set {MARK}"
        )  # fmt: skip
        marked = ask(front, server, 8000, protocol)
        assert marked
        assert marked.address == str(FRONT.host4(2))


def flood(address: str, ports: range) -> None:
    """Inside a namespace: a datagram to each port, all dropped by isolation. No faster than the kernel takes them."""
    programs, pair = KernelPrograms(), abi.NETWORK_PAIR.pack(1, 2)

    def dropped() -> int:
        return int(abi.U64.unpack(programs.get("isolation_drops", pair) or bytes(8))[0])

    before = dropped()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for sent, port in enumerate(ports, start=1):
            out.sendto(b"", (address, port))
            if not sent % 250 or sent == len(ports):
                wait_until(lambda sent=sent: dropped() - before == sent)  # type: ignore[misc]


def test_a_reading_of_events_is_bounded(sandbox: Sandbox) -> None:
    """One takes so many events at most; the rest stays readable for the next ones, and each event comes once."""
    ports = range(10_000, 10_000 + 2 * ringbuf.AT_ONCE + 500)
    server = str(BACK.host4(2))

    def readings() -> list[list[int]]:
        found = []
        with KernelPrograms().events() as events:
            while select.select([events], [], [], 0)[0]:
                found.append([event.destination_port for event in events.poll()])
        return found

    with two_networks(sandbox, AttachMode.AUTO) as (front, _back):
        assert ask(front, server, 8000, "udp", timeout=0.3) is None  # the host knows the server's MAC from now on
        sandbox.call(readings)
        front.call(flood, server, ports)
        assert sandbox.call(KernelPrograms().events_lost) == 0
        found = sandbox.call(readings)
    assert [len(one) for one in found] == [ringbuf.AT_ONCE, ringbuf.AT_ONCE, 500]
    assert [port for one in found for port in one] == list(ports)


def syn_ack_after(frame: bytes) -> bool:
    """Inside a sandbox: send a frame out of the bridge; whether a SYN/ACK of port 80 comes in by it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as sniffer:
        sniffer.bind(("br0", 0x0800))
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind(("br0", 0))
            out.send(frame)
        end = time.monotonic() + 0.5
        while (left := end - time.monotonic()) > 0:
            sniffer.settimeout(left)
            try:
                came = sniffer.recv(2048)
            except TimeoutError:
                return False
            if came[23] == 6 and came[34:36] == b"\x00\x50" and came[47] & 0x12 == 0x12:
                return True
    return False


@MODES
def test_the_seed_frame_is_answered_when_it_is_repaired(sandbox: Sandbox, mode: AttachMode) -> None:
    """A real listener answers the stale SYN in mode repair; not in mode observe, and not with one more bit flipped."""
    sandbox.bridge("br0", "10.88.0.1/16")
    web = sandbox.namespace("web")
    sandbox.plug("br0", "veth0", web)
    web.ip("link", "set", "eth0", "address", "ea:56:b4:c6:4f:c7")
    web.ip("address", "add", "10.88.0.116/16", "dev", "eth0")
    web.ip("route", "add", "default", "via", "10.88.0.1")
    serve(web, "web", "tcp", 80)
    seed = seed_stale_syn()

    def prepare() -> None:
        programs = loaded(mode)
        key = abi.OriginKey(IPv4Address("10.88.0.116"), 6, 80, 0)
        programs.put("origins", key.pack(), abi.Origin(IPv4Address("10.0.2.15"), 80).pack())
        programs.attach(Program.CHECKSUM, index("br0"))

    def answered(checksum: ChecksumMode, frame: bytes) -> tuple[bool, ChecksumCounts]:
        programs = KernelPrograms()
        key = abi.U32.pack(index("br0"))
        programs.put("networks", key, NetworkEntry(7, IsolationPolicy.OPEN, checksum).pack())
        programs.drop("checksum_counts", key)
        came = syn_ack_after(frame)
        counts = programs.get("checksum_counts", key)
        # Neighbour discovery of IPv6 is verified as well, and goes on meanwhile.
        return came, replace(ChecksumCounts.unpack(counts), good=0) if counts else ChecksumCounts()

    sandbox.call(prepare)
    send_frame(sandbox, "br0", seed)  # the bridge learns; the neighbour entry of the way back is resolved
    assert sandbox.call(answered, ChecksumMode.OBSERVE, seed) == (False, ChecksumCounts(stale=1))
    for bit in ((14 + 20 + 4) * 8, (14 + 20 + 14) * 8 + 7, len(seed) * 8 - 1):
        assert sandbox.call(answered, ChecksumMode.REPAIR, flipped(seed, bit)) == (False, ChecksumCounts(corrupt=1))
    assert sandbox.call(answered, ChecksumMode.REPAIR, seed) == (True, ChecksumCounts(stale=1, repaired=1))
