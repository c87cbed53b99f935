"""``dpctl bpf test``: one of our programs on a frame, by ``BPF_PROG_TEST_RUN``: the verdict, and what was rewritten.

The frame goes nowhere, but the program runs as for any packet: it counts, it remembers flows, it reports findings.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

import click

from control.checksums.frame import FrameError, LinkType, frames_of_text, link_type_of, parse
from control.checksums.pcap import is_capture, read_capture
from control.cli.bpf.contents import Row, in_words
from control.cli.bpf.group import bpf, index_of, loaded
from control.cli.bpf.names import Names, known_names
from control.cli.bpf.show import map_rows
from control.cli.frames import read_frame
from control.cli.output import json_option, print_json
from dataplane.abi import U32
from dataplane.errors import BpfError
from dataplane.programs import syscall
from dataplane.programs.door import KernelPrograms
from dataplane.types import IfIndex, Program

VERDICTS = {
    -1: "go on (TC_ACT_UNSPEC): the next program decides, then the stack",
    0: "accept (TC_ACT_OK)",
    2: "drop (TC_ACT_SHOT)",
}
_ETHERNET_HEADER = 14
_COUNTERS = ("checksum_counts", "filled", "isolation_drops", "guard_drops", "events_lost")
_MOST_FRAMES = 20


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes that a program rewrote, one after the other."""

    offset: int
    """From the beginning of the frame."""
    before: bytes
    after: bytes
    field: str
    """What they are, where that is known."""

    def __str__(self) -> str:
        what = f"  {self.field}" if self.field else ""
        return f"{self.offset:#06x}: {self.before.hex()} -> {self.after.hex()}{what}"


@bpf.command("test")
@click.argument("program", type=click.Choice([one.value for one in Program]))
@click.argument("frame")
@click.option("--device", default="lo", show_default=True, help="The device that it runs on, and so the network.")
@click.option("--ingress-device", help="The device that the packet came in by.")
@click.option("--mark", type=click.IntRange(0, 0xFFFFFFFF), default=0, help="skb->mark.")
@click.option("--repeat", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Run it so often.")
@json_option
def try_program(
    program: str, frame: str, device: str, ingress_device: str | None, mark: int, repeat: int, as_json: bool
) -> None:
    """Run PROGRAM on FRAME: verdict, rewritten bytes, time.

    FRAME is hex text as tcpdump -xx writes it, with its Ethernet header; a file that holds it (PATH or @PATH), or a
    capture, of which the first 20 frames are run; or - for standard input.

    Be aware: the frame goes nowhere, but the run counts as any other: counters go up, findings are reported, and a
    flow that was looked at is remembered. Repeated runs each get what the run before left of the frame.
    """
    chosen = Program(program)
    if chosen.hook.of_cgroup:
        raise click.UsageError(f"{program} runs for sockets, and not on frames: the kernel has no test run for it")
    programs, names = loaded(f"test {program}"), known_names()
    ifindex = index_of(device)
    ingress = index_of(ingress_device) if ingress_device else IfIndex(0)
    frames = list(_frames(read_frame(frame)))
    before = _counters(programs, names)
    with syscall.obj_get(programs.directory / chosen.function) as pinned:
        results = [(one, _run(pinned.number, one, ifindex, ingress, mark, repeat)) for one in frames]
    counted = _counted(before, _counters(programs, names))
    if as_json:
        print_json(
            {
                "program": program,
                "device": device,
                "ingress_device": ingress_device,
                "mark": mark,
                "repeat": repeat,
                "runs": [_json(one, run) for one, run in results],
                "counted": counted,
            }
        )
        return
    place = names.behind(ifindex)
    click.echo(f"{program} on {device}" + (f" ({place})" if place else "") + f", {chosen.hook}")
    for number, (one, run) in enumerate(results, 1):
        _print(f"frame {number}: " if len(results) > 1 else "", one, run, repeat)
    _print_counted(counted)
    read = "ports" if chosen.of_port else "networks"
    if programs.get(read, U32.pack(ifindex)) is None:
        click.echo(f"note     {device} is not in the map {read}: {program} lets everything through there")


def changes(before: bytes, after: bytes) -> list[Change]:
    """Where two frames differ; the L4 checksum is named as such. Pure."""
    found = []
    at = 0
    shorter = min(len(before), len(after))
    while at < shorter:
        end = at
        while end < shorter and before[end] != after[end]:
            end += 1
        if end > at:
            found.append(Change(at, before[at:end], after[at:end], _field(before, after, at, end)))
        at = end + 1
    if len(before) != len(after):
        found.append(Change(shorter, before[shorter:], after[shorter:], "the frame's end"))
    return found


def _field(before: bytes, after: bytes, start: int, end: int) -> str:
    """The name of what is between two offsets: writing it alone into the old frame gives the new checksum."""
    try:
        old, new = parse(before), parse(after)
        probe = parse(before[:start] + after[start:end] + before[end:])
    except FrameError:
        return ""
    if probe.stored != old.stored and probe.data[:4] == old.data[:4]:
        return f"{old.protocol.upper()} checksum {old.stored:#06x} -> {new.stored:#06x}"
    return ""


def _run(program: int, frame: bytes, ifindex: IfIndex, ingress: IfIndex, mark: int, repeat: int) -> syscall.ProgramRun:
    try:
        return syscall.run_program(program, frame, ifindex=ifindex, ingress_ifindex=ingress, mark=mark, repeat=repeat)
    except BpfError as error:
        if error.errno != errno.EINVAL:
            raise
        least = "14 at least, 34 of IPv4, 54 of IPv6"
        reason = f"the kernel takes no frame of {len(frame)} bytes here: {least}, and less than a page"
        raise BpfError("run", "the program", reason, error.errno) from error


def _frames(raw: bytes) -> Iterator[bytes]:
    """What was given, as Ethernet frames. Raises ``FrameError``."""
    if is_capture(raw):
        records = ((record.link, record.frame) for record in read_capture(raw))
    else:
        texts = frames_of_text(raw.decode("ascii", errors="replace"))
        records = ((link_type_of(frame), frame) for frame in texts)
    number = 0
    for number, (link, frame) in enumerate(records, 1):
        if link not in {LinkType.ETHERNET, LinkType.RAW, LinkType.IPV4, LinkType.IPV6}:
            raise FrameError(
                f"could not run frame {number}: captured by {link.name}, without its Ethernet header; capture on one"
                " device (tcpdump -i DEVICE), not on any"
            )
        yield frame if link is LinkType.ETHERNET else _with_ethernet_header(frame)
        if number == _MOST_FRAMES:
            return
    if number == 0:
        raise FrameError("could not run a program: no frames in what was given")


def _with_ethernet_header(packet: bytes) -> bytes:
    """An IP packet behind an Ethernet header without addresses."""
    ethertype = b"\x86\xdd" if packet and packet[0] >> 4 == 6 else b"\x08\x00"
    return bytes(_ETHERNET_HEADER - 2) + ethertype + packet


def _counters(programs: KernelPrograms, names: Names) -> dict[tuple[object, ...], int]:
    """Every counter by its map, what it counts, and its field."""
    found: dict[tuple[object, ...], int] = {}
    for name in _COUNTERS:
        for key, _, row in map_rows(programs, name, names):
            about = (" to " if "from_network" in row else " ").join(
                value for value in row.values() if isinstance(value, str) and value
            )
            for field, value in row.items():
                if isinstance(value, int) and field != "ifindex":
                    found[name, key, about, field] = value
    return found


def _counted(before: dict[tuple[object, ...], int], after: dict[tuple[object, ...], int]) -> list[Row]:
    return [
        {"map": name, "what": about, "field": field, "more": value - before.get((name, key, about, field), 0)}
        for (name, key, about, field), value in after.items()
        if value != before.get((name, key, about, field), 0)
    ]


def _print(title: str, frame: bytes, run: syscall.ProgramRun, repeat: int) -> None:
    click.echo(f"{title}verdict  {VERDICTS.get(run.verdict, str(run.verdict))}")
    found = changes(frame, run.packet)
    for change in found:
        click.echo(f"  rewrote  {change}")
    if not found:
        click.echo(f"  rewrote  nothing of {len(frame)} bytes")
    if repeat > 1:
        click.echo(f"  took     {run.nanoseconds} ns a run, {repeat} runs")


def _print_counted(counted: list[Row]) -> None:
    for row in counted:
        click.echo(f"counted  {row['map']}: {in_words(row['what'])}, {row['field']} + {row['more']}")
    click.echo("note     runs are counted and reported as packets are; what other packets did meanwhile is in it")


def _json(frame: bytes, run: syscall.ProgramRun) -> Row:
    return {
        "verdict": run.verdict,
        "meaning": VERDICTS.get(run.verdict, ""),
        "changes": [
            {
                "offset": change.offset,
                "before": change.before.hex(),
                "after": change.after.hex(),
                "field": change.field or None,
            }
            for change in changes(frame, run.packet)
        ],
        "frame": run.packet.hex(),
        "nanoseconds": run.nanoseconds,
    }
