"""``dpctl bpf show``: one program, one map with its contents, or one device with what is attached to it."""

from __future__ import annotations

import textwrap
import time

import click

from control.cli.bpf.contents import Ago, Row, columns, decoded, heading, in_words
from control.cli.bpf.group import bpf, loaded
from control.cli.bpf.listing import attachment_json, place_of, served
from control.cli.bpf.names import Names, known_names
from control.cli.output import json_option, print_json, print_table
from dataplane.programs import syscall
from dataplane.programs.cost import stack_depth
from dataplane.programs.door import KernelPrograms
from dataplane.programs.inventory import Foreign, foreign, take_inventory
from dataplane.programs.source import MAPS
from dataplane.types import IfIndex, Program

_WIDTH = 120
"""Columns of text for people."""

_OF_DEVICES = ("networks", "ports", "port_addresses", "checksum_counts", "guard_drops")
"""Maps whose keys begin with a device."""

_KINDS = {
    1: "hash",
    2: "array",
    5: "per-CPU hash",
    6: "per-CPU array",
    9: "LRU hash",
    10: "per-CPU LRU hash",
    27: "ring buffer",
}
"""``enum bpf_map_type``."""


@bpf.command()
@click.argument("name", metavar="PROGRAM|MAP|DEVICE")
@json_option
def show(name: str, as_json: bool) -> None:
    """One program, the contents of one map, or what one device has of both."""
    names = known_names()
    device = names.index(name)
    if name in {program.value for program in Program}:
        _show_program(Program(name), names, as_json)
    elif name in MAPS:
        _show_map(name, names, as_json)
    elif device is not None:
        _show_device(device, names, as_json)
    else:
        known = ", ".join([*(program.value for program in Program), *MAPS])
        raise click.UsageError(f"{name!r} is neither a device nor a program or map of ours: {known}")


def _show_program(program: Program, names: Names, as_json: bool) -> None:
    programs = loaded(f"show program {program}")
    inventory = take_inventory(programs.digest)
    with syscall.obj_get(programs.directory / program.function) as pinned:
        about, code = syscall.program_info(pinned.number), syscall.program_code(pinned.number)
        memory = syscall.memory(pinned.number)
    attached = [one for one in inventory.attached if one.program is program]
    content: Row = {
        "program": program.value,
        "name": about.name,
        "hook": program.hook.value,
        "id": about.id,
        "tag": about.tag,
        "digest": programs.digest,
        "pin": str(programs.directory / program.function),
        "loaded": Ago((time.clock_gettime_ns(time.CLOCK_BOOTTIME) - about.loaded_ns) / 1e9),
        "verified_instructions": about.verified_instructions,
        "instructions": about.xlated_bytes // 8,
        "xlated_bytes": about.xlated_bytes,
        "jited_bytes": about.jited_bytes,
        "stack_bytes": stack_depth(code),
        "memory_bytes": memory,
        "runs": about.runs,
        "run_ns": about.run_ns,
        "maps": _map_names(programs, about.map_ids),
    }
    if as_json:
        print_json(content | {"attached": [attachment_json(one, inventory, names) for one in attached]})
        return
    _print_fields(content | {"maps": " ".join(_map_names(programs, about.map_ids)) or "none"})
    for one in attached:
        of = served(one, names)
        link = f", link {one.link_id}" if one.link_id else ""
        flaws = "".join(f"; {flaw}" for flaw in inventory.flaws(one))
        whom = f" for {of}" if of else ""
        click.echo(f"{'attached':<23}to {place_of(one, names)}{whom} by {one.how}{link}{flaws}")
    if not attached:
        click.echo(f"{'attached':<23}nowhere")


def _map_names(programs: KernelPrograms, ids: tuple[int, ...]) -> list[str]:
    """The maps that a program uses, in the order of ``MAPS``; then those that are not pinned, as scratch space is."""
    known = {programs.map(name).id: name for name in MAPS}
    names = [name for number, name in known.items() if number in ids]
    for number in ids:
        if number not in known:
            with syscall.map_by_id(number) as opened:
                names.append(syscall.map_info(opened.number).name)
    return names


def _show_map(name: str, names: Names, as_json: bool) -> None:
    programs = loaded(f"show map {name}")
    with syscall.obj_get(programs.directory / name) as pinned:
        about, memory = syscall.map_info(pinned.number), syscall.memory(pinned.number)
    rows = map_rows(programs, name, names)
    content: Row = {
        "map": name,
        "kind": _KINDS.get(about.type, str(about.type)),
        "id": about.id,
        "pin": str(programs.directory / name),
        "key_bytes": about.key_size,
        "value_bytes": about.value_size,
        "max_entries": about.max_entries,
        "memory_bytes": memory,
    }
    if name == "events":  # a ring's entries are read once, and by one reader: not by somebody who looks
        if as_json:
            print_json(content | {"entries": []})
        else:
            _print_fields(content)
            click.echo("\na ring has no entries to look at; dpctl events shows what was read from it")
        return
    if as_json:
        entries = [{"key": key.hex(), "value": value.hex(), **row} for key, value, row in rows]
        print_json(content | {"entries": entries})
        return
    _print_fields(content | {"entries": len(rows)})
    if rows:
        click.echo()
        _print_rows([row for _, _, row in rows])


def map_rows(programs: KernelPrograms, name: str, names: Names) -> list[tuple[bytes, bytes, Row]]:
    """Every entry of a map as key, value and fields, in the order of the fields; none of a ring buffer."""
    if name == "events":
        return []
    now = time.monotonic_ns()
    found = [(key, value, decoded(name, key, value, names, now)) for key, value in programs.entries(name)]
    return sorted(found, key=lambda entry: [_sortable(value) for value in entry[2].values()])


def _sortable(value: object) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    return (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))


def _show_device(device: IfIndex, names: Names, as_json: bool) -> None:
    programs = KernelPrograms()
    inventory = take_inventory(programs.digest)
    attached = [one for one in inventory.attached if one.ifindex == device]
    others = foreign(device)
    entries = {
        name: [row for _, _, row in map_rows(programs, name, names) if row.get("ifindex") == device]
        for name in _OF_DEVICES
        if programs.loaded()
    }
    if as_json:
        print_json(
            {
                "device": names.device(device),
                "ifindex": device,
                "networks": list(names.on_device.get(device, ())),
                "container": names.ports.get(device),
                "attached": [attachment_json(one, inventory, names) for one in attached],
                "foreign": [_foreign_json(one) for one in others],
                "entries": entries,
            }
        )
        return
    whom = names.behind(device)
    click.echo(f"{names.device(device)}, link {device}" + (f", of {whom}" if whom else ""))
    lines = [
        (one.program.value, one.program.hook.value, one.how, one.link_id or "-", "; ".join(inventory.flaws(one)))
        for one in attached
    ]
    lines += [(one.name, one.hook.value, one.how, "-", "of somebody else") for one in others]
    if lines:
        click.echo()
        print_table(("PROGRAM", "HOOK", "HOW", "LINK", ""), lines)
    else:
        click.echo("\nno programs are attached")
    for name, rows in entries.items():
        if rows:
            click.echo(f"\n{name}")
            _print_rows(rows)


def _foreign_json(one: Foreign) -> Row:
    return {"name": one.name, "hook": one.hook.value, "mode": one.how.value, "id": one.program_id}


def _print_fields(content: Row) -> None:
    for name, value in content.items():
        lines = textwrap.wrap(in_words(value), _WIDTH - 23, break_long_words=False, break_on_hyphens=False)
        click.echo(f"{name.replace('_', ' '):<23}" + f"\n{'':<23}".join(lines))


def _print_rows(rows: list[Row]) -> None:
    shown = [field for field in columns(rows) if field != "ifindex"]  # the device's name says it
    print_table(
        [heading(field) for field in shown],
        [[in_words(row[field]) for field in shown] for row in rows],
    )
