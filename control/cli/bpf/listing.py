"""``dpctl bpf ls``: programs, where each is attached and for whom, and maps."""

from __future__ import annotations

from collections.abc import Iterator

import click

from control.cli.bpf.group import bpf
from control.cli.bpf.names import Names, known_names
from control.cli.output import EXIT_PROBLEM, json_option, print_json, print_table
from dataplane.doors import MapSize
from dataplane.programs.door import KernelPrograms
from dataplane.programs.inventory import ROOT_CGROUP, Attachment, How, Inventory, take_inventory
from dataplane.programs.source import MAPS
from dataplane.programs.syscall import ProgramInfo

Json = dict[str, object]

HEAD = ("PROGRAM", "HOOK", "ON", "FOR", "HOW", "LINK", "TAG", "INSNS", "RUNS", "NS")
_MAX_NAME = 18
"""Characters: with the longest of everything else, a line has 120."""
_INSTRUCTION = 8  # bytes


@bpf.command("ls")
@json_option
def list_programs(as_json: bool) -> int:
    """Programs, where they are attached and for whom, and maps.

    Exit status 3: one that is attached is of another version, there more than once, or has lost its pins.
    """
    programs = KernelPrograms()
    inventory, names = take_inventory(programs.digest), known_names()
    sizes = _sizes(programs) if programs.loaded() else {}
    flawed = any(inventory.flaws(one) for one in inventory.attached)
    if as_json:
        print_json(_json(programs, inventory, names, sizes))
    else:
        _print(programs, inventory, names, sizes)
    return EXIT_PROBLEM if flawed else 0


def place_of(one: Attachment, names: Names) -> str:
    """Where a program is attached: a device, or a cgroup."""
    if one.how is not How.CGROUP:
        return names.device(one.ifindex)
    return "/" if one.cgroup == ROOT_CGROUP else f"cgroup {one.cgroup}"


def served(one: Attachment, names: Names) -> str:
    """For whom: a network, a container, or the host's processes."""
    if one.how is How.CGROUP:
        return "host"
    of_network = not one.program.of_port and one.ifindex in names.on_device  # a routed network's veth is both
    return ",".join(names.on_device[one.ifindex]) if of_network else names.behind(one.ifindex)


def attachment_json(one: Attachment, inventory: Inventory, names: Names) -> Json:
    """A program on a hook as JSON fields."""
    return {
        "program": one.program.value,
        "hook": one.program.hook.value,
        "mode": one.how.value,
        "device": names.device(one.ifindex) or None,
        "ifindex": one.ifindex or None,
        "cgroup": one.cgroup or None,
        "networks": list(names.on_device.get(one.ifindex, ())),
        "container": names.ports.get(one.ifindex),
        "link_id": one.link_id or None,
        "link_pin": one.link_pin or None,
        "digest": one.digest or None,
        "flaws": inventory.flaws(one),
        "program_id": one.about.id,
        **_program_json(one.about),
    }


def _json(programs: KernelPrograms, inventory: Inventory, names: Names, sizes: dict[str, MapSize]) -> Json:
    return {
        "loaded": programs.loaded(),
        "digest": inventory.digest,
        "directory": str(programs.directory),
        "attached": [attachment_json(one, inventory, names) for one in inventory.attached],
        "programs": [
            {
                "name": one.program.function,
                "program": one.program.value,
                "hook": one.program.hook.value,
                "digest": one.digest,
                "pin": one.path,
                "attached": one not in inventory.idle,
                **_program_json(one.about),
            }
            for one in inventory.pinned
        ],
        "maps": [
            {"name": name, "id": programs.map(name).id, "entries": size.entries, "max_entries": size.maximum}
            for name, size in sizes.items()
        ],
    }


def _program_json(about: ProgramInfo) -> Json:
    return {
        "id": about.id,
        "tag": about.tag,
        "instructions": about.xlated_bytes // _INSTRUCTION,
        "verified_instructions": about.verified_instructions,
        "runs": about.runs,
        "run_ns": about.run_ns,
        "ns_per_run": round(about.run_ns / about.runs, 1) if about.runs else None,
    }


def _print(programs: KernelPrograms, inventory: Inventory, names: Names, sizes: dict[str, MapSize]) -> None:
    if programs.loaded():
        click.echo(f"version {inventory.digest}, pinned in {programs.directory}")
    else:
        click.echo(f"not loaded (version {inventory.digest})")
    if inventory.attached:
        click.echo()
        print_table(HEAD, lines(inventory, names))
    idle = [one.program.value for one in inventory.idle if one.digest == inventory.digest]
    if idle:
        click.echo(f"\nattached nowhere: {', '.join(idle)}")
    _print_flaws(inventory, names)
    if sizes:
        click.echo()
        print_table(("MAP", "ENTRIES", "AT MOST"), [(name, one.entries, one.maximum) for name, one in sizes.items()])
    if inventory.pinned and not any(runs for runs, _ in inventory.runs.values()):
        click.echo("\nruns are counted while dpctl bpf stats --watch runs, or by sysctl -w kernel.bpf_stats_enabled=1")


def lines(inventory: Inventory, names: Names) -> Iterator[tuple[object, ...]]:
    """A line for each program on a hook, under ``HEAD``. Pure."""
    for one in inventory.attached:
        of = served(one, names) or "-"
        yield (
            one.program.value,
            "cgroup" if one.program.hook.of_cgroup else one.program.hook.value,
            place_of(one, names),
            of if len(of) <= _MAX_NAME else f"{of[: _MAX_NAME - 1]}~",
            one.how.value,
            one.link_id or "-",
            *_numbers(one.about),
        )


def _print_flaws(inventory: Inventory, names: Names) -> None:
    flawed = [(one, inventory.flaws(one)) for one in inventory.attached if inventory.flaws(one)]
    unused = sorted({one.digest for one in inventory.idle if one.digest != inventory.digest})
    if flawed or unused:
        click.echo()
    for one, flaws in flawed:
        click.echo(f"PROBLEM      {one.program} on {place_of(one, names)}: {'; '.join(flaws)}")
    for digest in unused:
        click.echo(f"note         version {digest} is pinned, and some of its programs are attached nowhere")
    if flawed:
        click.echo("what to do   dpctl reconcile brings them up to date")


def _numbers(about: ProgramInfo) -> tuple[object, ...]:
    each = about.run_ns // about.runs if about.runs else "-"
    return about.tag, about.xlated_bytes // _INSTRUCTION, about.runs or "-", each


def _sizes(programs: KernelPrograms) -> dict[str, MapSize]:
    """How full each map is; a ring buffer has no entries."""
    return {name: programs.size(name) for name in MAPS if name != "events"}
