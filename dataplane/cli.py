"""``dpctl bpf``: our BPF programs and maps, where they are attached, and what they counted.

    dpctl bpf ls | show PROGRAM|MAP | attach DEVICE --program isolation | detach DEVICE | stats [--watch]

Reads the kernel directly and needs no agent. Networks are shown by number: their names are known one layer up.

Be aware: an attach by hand gives the device a network of its own, number 0x80000000 + ifindex, unless it has one.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

import click

from dataplane import abi
from dataplane.abi import MANUAL_NETWORK, ChecksumCounts, NetworkEntry
from dataplane.doors import Hooked
from dataplane.errors import BpfError, DataplaneError
from dataplane.programs.door import KernelPrograms
from dataplane.programs.source import MAPS
from dataplane.types import NETWORK_PROGRAMS, AttachMode, ChecksumMode, IfIndex, IsolationPolicy, Program

VERSION = 1
"""Of the JSON that ``--json`` prints."""

Arguments = ParamSpec("Arguments")
Json = dict[str, object]

_POLICIES = {policy.name.lower().replace("_", "-"): policy for policy in IsolationPolicy}
_CHECKSUMS = {mode.name.lower(): mode for mode in ChecksumMode}
_PROGRAMS = click.Choice([program.value for program in NETWORK_PROGRAMS])

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


@click.group()
@click.option(
    "--attach-mode",
    type=click.Choice([mode.value for mode in AttachMode]),
    default=AttachMode.AUTO.value,
    envvar="DATAPLANE_ATTACH_MODE",
    show_default=True,
    help="How programs are hooked to a device; auto takes tcx where the kernel has it.",
)
@click.pass_context
def bpf(context: click.Context, attach_mode: str) -> None:
    """BPF programs and maps: list, show, attach, detach, count."""
    context.obj = KernelPrograms(AttachMode(attach_mode))


def _command(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Failures of the kernel as one line on standard error and exit status 1."""

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except DataplaneError as error:
            raise click.ClickException(str(error)) from error

    return run


@bpf.command("ls")
@_json
@click.pass_obj
@_command
def list_programs(programs: KernelPrograms, as_json: bool) -> None:
    """Programs, where they are attached, and maps."""
    if not programs.loaded():
        _print({"loaded": False, "digest": programs.digest, "programs": [], "maps": []}, as_json, "not loaded\n")
        return
    found = [programs.program(program) for program in Program]
    hooks = [hooked for _, ifindex in _devices() for hooked in programs.hooked(ifindex)]
    maps = [(programs.map(name), sum(1 for _ in _entries(programs, name))) for name in MAPS]
    content: Json = {
        "loaded": True,
        "digest": programs.digest,
        "directory": str(programs.directory),
        "programs": [
            {"name": one.name, "id": one.id, "tag": one.tag, "verified_instructions": one.verified_instructions}
            for one in found
        ],
        "attached": [_hook_json(hooked) for hooked in hooks],
        "maps": [
            {"name": one.name, "id": one.id, "entries": entries, "max_entries": one.max_entries}
            for one, entries in maps
        ],
    }
    text = (
        f"pinned in {programs.directory}\n\n"
        + _table(("PROGRAM", "ID", "TAG"), [(one.name, one.id, one.tag) for one in found])
        + "\n"
        + _table(
            ("DEVICE", "PROGRAM", "HOW", "PROGRAM ID", "LINK ID"),
            [(_name(one.ifindex), one.program, one.mode, one.program_id, one.link_id or "-") for one in hooks],
        )
        + "\n"
        + _table(("MAP", "ID", "ENTRIES", "AT MOST"), [(one.name, one.id, n, one.max_entries) for one, n in maps])
    )
    _print(content, as_json, text)


@bpf.command()
@click.argument("name", metavar="PROGRAM|MAP")
@_json
@click.pass_obj
@_command
def show(programs: KernelPrograms, name: str, as_json: bool) -> None:
    """One program, or the entries of one map."""
    if name in [program.value for program in Program]:
        _show_program(programs, Program(name), as_json)
    elif name in MAPS:
        _show_map(programs, name, as_json)
    else:
        known = ", ".join([*(program.value for program in Program), *MAPS])
        raise click.UsageError(f"{name!r} is neither a program nor a map of ours: {known}")


@bpf.command()
@click.argument("device")
@click.option("--program", "chosen", type=_PROGRAMS, multiple=True, help="Which one; both by default.")
@click.option("--policy", type=click.Choice(list(_POLICIES)), help="Policy of a network that is made for the device.")
@click.option("--checksum-mode", type=click.Choice(list(_CHECKSUMS)), help="Checksum mode of the same.")
@_dry_run
@_json
@click.pass_obj
@_command
def attach(
    programs: KernelPrograms,
    device: str,
    chosen: tuple[str, ...],
    policy: str | None,
    checksum_mode: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Attach programs to the egress of DEVICE."""
    ifindex = _index(device)
    wanted = [program for program in NETWORK_PROGRAMS if not chosen or program.value in chosen]
    key = abi.U32.pack(ifindex)
    entry = _network(programs, ifindex)
    if entry and not entry.id & MANUAL_NETWORK and (policy or checksum_mode):
        raise click.ClickException(
            f"could not change {device}: it belongs to network {entry.id} of a conflist; change it there"
        )
    wished = NetworkEntry(
        id=entry.id if entry else MANUAL_NETWORK | ifindex,
        policy=_POLICIES[policy] if policy else entry.policy if entry else IsolationPolicy.SAME_BRIDGE,
        checksum=_CHECKSUMS[checksum_mode] if checksum_mode else entry.checksum if entry else ChecksumMode.REPAIR,
    )
    if not dry_run:
        programs.load()
        if wished != entry:
            programs.put("networks", key, wished.pack())
        for program in wanted:
            programs.attach(program, ifindex)
    _print(
        {"device": device, "ifindex": ifindex, "attached": [*wanted], "network": _network_json(wished),
         "dry_run": dry_run},
        as_json,
        f"{'would attach' if dry_run else 'attached'} {' and '.join(wanted)} to {device}, network {wished.id}"
        f" ({_word(wished.policy)}, checksum {_word(wished.checksum)})\n",
    )  # fmt: skip


@bpf.command()
@click.argument("device")
@click.option("--program", "chosen", type=_PROGRAMS, multiple=True, help="Which one; both by default.")
@click.option("--force", is_flag=True, help="Also where the device belongs to a network of a conflist.")
@_dry_run
@_json
@click.pass_obj
@_command
def detach(
    programs: KernelPrograms, device: str, chosen: tuple[str, ...], force: bool, dry_run: bool, as_json: bool
) -> None:
    """Detach our programs from DEVICE. Those of others stay."""
    ifindex = _index(device)
    entry = _network(programs, ifindex)
    if entry and not entry.id & MANUAL_NETWORK and not force:
        raise click.ClickException(
            f"could not detach from {device}: it belongs to network {entry.id} of a conflist, whose containers would be"
            " open to each other's networks; use --force if that is wanted"
        )
    wanted = [program for program in NETWORK_PROGRAMS if not chosen or program.value in chosen]
    found = [hooked for hooked in programs.hooked(ifindex) if hooked.program in wanted]
    if not dry_run:
        for program in wanted:
            programs.detach(program, ifindex)
        if entry and entry.id & MANUAL_NETWORK and not programs.hooked(ifindex):
            programs.drop("networks", abi.U32.pack(ifindex))
            programs.drop("checksum_counts", abi.U32.pack(ifindex))
    names = " and ".join(hooked.program.value for hooked in found) or "nothing"
    _print(
        {"device": device, "ifindex": ifindex, "detached": [_hook_json(hooked) for hooked in found],
         "dry_run": dry_run},
        as_json,
        f"{'would detach' if dry_run else 'detached'} {names} from {device}\n",
    )  # fmt: skip


@bpf.command()
@click.option("--watch", is_flag=True, help="Print again every second, until interrupted.")
@_json
@click.pass_obj
@_command
def stats(programs: KernelPrograms, watch: bool, as_json: bool) -> None:
    """What the programs counted: checksums per device, isolation drops per pair of networks, runs."""
    if not programs.loaded():
        raise click.ClickException("could not read statistics: the programs are not loaded; dpctl bpf attach does that")
    while True:
        _print_stats(programs, as_json, heading=watch)
        if not watch:
            return
        time.sleep(1)


def _print_stats(programs: KernelPrograms, as_json: bool, *, heading: bool) -> None:
    counts = {
        IfIndex(abi.U32.unpack(key)[0]): ChecksumCounts.unpack(value)
        for key, value in programs.entries("checksum_counts")
    }
    drops = {
        abi.NETWORK_PAIR.unpack(key): abi.U64.unpack(value)[0] for key, value in programs.entries("isolation_drops")
    }
    runs = [programs.program(program) for program in Program]
    names = ChecksumCounts.__slots__
    content: Json = {
        "checksums": [
            {"device": _name(ifindex), "ifindex": ifindex, **{name: getattr(one, name) for name in names}}
            for ifindex, one in sorted(counts.items())
        ],
        "isolation_drops": [
            {"source_network": pair[0], "destination_network": pair[1], "packets": packets}
            for pair, packets in sorted(drops.items())
        ],
        "programs": [{"name": one.name, "runs": one.runs, "run_ns": one.run_ns} for one in runs],
        "events_lost": programs.events_lost(),
    }
    text = (f"{time.strftime('%H:%M:%S')}\n" if heading else "") + _table(
        ("CHECKSUMS", *(name.upper() for name in names)),
        [(_name(ifindex), *(getattr(one, name) for name in names)) for ifindex, one in sorted(counts.items())],
    )
    text += "\n" + _table(
        ("DROPPED FROM", "TO", "PACKETS"), [(*pair, packets) for pair, packets in sorted(drops.items())]
    )
    if any(one.runs for one in runs):
        text += "\n" + _table(
            ("PROGRAM", "RUNS", "NS EACH"), [(one.name, one.runs, one.run_ns // max(one.runs, 1)) for one in runs]
        )
    else:
        text += "\nruns are not counted: sysctl -w kernel.bpf_stats_enabled=1\n"
    if content["events_lost"]:
        text += f"\n{content['events_lost']} events were lost: nobody read them in time\n"
    _print(content, as_json, text)


def _show_program(programs: KernelPrograms, program: Program, as_json: bool) -> None:
    about = programs.program(program)
    hooks = [one for _, ifindex in _devices() for one in programs.hooked(ifindex) if one.program is program]
    content: Json = {
        "program": program.value,
        "name": about.name,
        "id": about.id,
        "tag": about.tag,
        "pin": str(programs.directory / program.function),
        "verified_instructions": about.verified_instructions,
        "runs": about.runs,
        "run_ns": about.run_ns,
        "map_ids": [*about.map_ids],
        "attached": [_hook_json(hooked) for hooked in hooks],
    }
    rows = [(key, value) for key, value in content.items() if key not in {"attached", "map_ids"}]
    rows += [("attached", f"{_name(one.ifindex)} by {one.mode}") for one in hooks]
    _print(content, as_json, _table(("", ""), rows).lstrip())


def _show_map(programs: KernelPrograms, name: str, as_json: bool) -> None:
    entries = [(_words(key), _decoded(name, key, value)) for key, value in _entries(programs, name)]
    content: Json = {"map": name, "entries": [{"key": key, "value": value} for key, value in entries]}
    _print(content, as_json, _table(("KEY", "VALUE"), entries))


def _entries(programs: KernelPrograms, name: str) -> list[tuple[bytes, bytes]]:
    """A map's entries; a ring buffer has none that could be looked up."""
    return [] if name == "events" else list(programs.entries(name))


def _words(raw: bytes) -> str:
    return raw.hex(" ", 4)


def _decoded(name: str, key: bytes, value: bytes) -> str:
    """An entry in words, where the bytes alone say little."""
    match name:
        case "networks":
            entry = NetworkEntry.unpack(value)
            device = _name(IfIndex(abi.U32.unpack(key)[0]))
            return f"{device}: network {entry.id}, {_word(entry.policy)}, checksum {_word(entry.checksum)}"
        case "origins":
            container, origin = abi.OriginKey.unpack(key), abi.Origin.unpack(value)
            return f"{container.address}:{container.port} was {origin.address or 'any local address'}:{origin.port}"
        case "host_addresses":
            return str(abi.unpack_address(value))
        case "checksum_counts":
            return str(ChecksumCounts.unpack(value))
        case _:
            return _words(value)


def _index(device: str) -> IfIndex:
    try:
        return IfIndex(socket.if_nametoindex(device))
    except OSError as error:
        raise BpfError("find", f'link "{device}"', error.strerror or "no such device") from error


def _devices() -> list[tuple[str, IfIndex]]:
    return [(name, IfIndex(index)) for index, name in socket.if_nameindex()]


def _name(ifindex: IfIndex) -> str:
    """The device's name, or its number once it is gone."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"#{ifindex}"


def _network(programs: KernelPrograms, ifindex: IfIndex) -> NetworkEntry | None:
    raw = programs.get("networks", abi.U32.pack(ifindex)) if programs.loaded() else None
    return NetworkEntry.unpack(raw) if raw else None


def _word(member: IsolationPolicy | ChecksumMode) -> str:
    return member.name.lower().replace("_", "-")


def _network_json(entry: NetworkEntry) -> Json:
    return {"id": entry.id, "policy": _word(entry.policy), "checksum": _word(entry.checksum)}


def _hook_json(hooked: Hooked) -> Json:
    return {
        "device": _name(hooked.ifindex),
        "ifindex": hooked.ifindex,
        "program": hooked.program.value,
        "mode": hooked.mode.value,
        "program_id": hooked.program_id,
        "link_id": hooked.link_id,
        "tag": hooked.tag,
    }


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest word, two spaces apart."""
    lines = [[str(word) for word in row] for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def _print(content: Json, as_json: bool, text: str) -> None:
    sys.stdout.write(json.dumps({"version": VERSION, **content}) + "\n" if as_json else text)
    sys.stdout.flush()
