"""``dpctl bpf attach`` and ``detach``: our programs on a device, by hand. Programs of others stay where they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

import click

from control.cli.bpf.contents import Row, word
from control.cli.bpf.entries import (
    Known,
    RefusedError,
    Wish,
    after_detaching,
    entries_to_put,
    network_entry,
    port_entry,
)
from control.cli.bpf.group import bpf, index_of
from control.cli.bpf.names import Names, known_names
from control.cli.bpf.refusals import refuse_device, refuse_opening, refuse_others
from control.cli.output import json_option, print_json
from control.engine import RUN_DIRECTORY, STATE_FILE, open_engine
from control.model import DEFAULT_FILL_PORTS
from control.settings import read_settings
from dataplane.abi import U32, NetworkEntry, Port
from dataplane.programs.door import KernelPrograms
from dataplane.programs.inventory import foreign
from dataplane.types import (
    NETWORK_PROGRAMS,
    Address,
    AttachMode,
    ChecksumMode,
    IfIndex,
    IsolationPolicy,
    Program,
)

_POLICIES = {word(policy): policy for policy in IsolationPolicy}
_CHECKSUMS = {word(mode): mode for mode in ChecksumMode}
_MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_chosen = click.option(
    "--program",
    "chosen",
    type=click.Choice([program.value for program in Program]),
    multiple=True,
    help="Which one; may be repeated.",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


def _mac(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str:
    if text is not None and not _MAC.fullmatch(text):
        raise click.BadParameter(f"{text!r} is no MAC address (02:42:ac:11:00:02)")
    return (text or "").lower()


def _addresses(_ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> tuple[Address, ...]:
    try:
        return tuple(ip_address(text) for text in texts)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@bpf.command()
@click.argument("device")
@_chosen
@click.option("--policy", type=click.Choice(list(_POLICIES)), help="isolation: policy of a network by hand.")
@click.option("--checksum-mode", type=click.Choice(list(_CHECKSUMS)), help="checksum: mode of a network by hand.")
@click.option("--mac", callback=_mac, metavar="MAC", help="guard: the MAC that may be sent from.")
@click.option(
    "--address", "addresses", callback=_addresses, multiple=True, metavar="ADDR", help="guard: an address, likewise."
)
@click.option("--udp-port", "udp_ports", type=click.IntRange(1, 65535), multiple=True, help="fill: whose sums.")
@click.option(
    "--attach-mode",
    type=click.Choice([mode.value for mode in AttachMode]),
    help="By tcx or clsact; what the settings file says by default.",
)
@click.option("--force", is_flag=True, help="isolation also on an uplink.")
@_dry_run
@json_option
def attach(
    device: str,
    *,
    chosen: tuple[str, ...],
    policy: str | None,
    checksum_mode: str | None,
    mac: str,
    addresses: tuple[Address, ...],
    udp_ports: tuple[int, ...],
    attach_mode: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Attach programs to DEVICE: isolation and checksum, unless others are chosen.

    A device that no attachment asked for becomes a network by hand, which reconcile leaves alone and detach takes away
    again. Without isolation that network is open. checksum makes sense on an uplink, too: there it finds what
    masquerading left stale.
    """
    wish = Wish(
        programs=tuple(Program(name) for name in chosen) or NETWORK_PROGRAMS,
        policy=_POLICIES[policy] if policy else None,
        checksum=_CHECKSUMS[checksum_mode] if checksum_mode else None,
        mac=mac,
        addresses=addresses,
        udp_ports=udp_ports,
    )
    programs = KernelPrograms(AttachMode(attach_mode) if attach_mode else read_settings().attach)
    ifindex, names = index_of(device), known_names()
    refuse_device(device, ifindex, wish, force=force)
    known = _known(programs, ifindex)
    refuse_others(wish, known, names)
    try:
        network, port = network_entry(wish, known), port_entry(wish, known)
    except RefusedError as error:
        raise click.UsageError(str(error)) from None
    others = [one.name for one in foreign(ifindex)]
    if not dry_run:
        _load(programs)
        # The entry first: a program that finds none lets everything through.
        for (map_name, key), value in entries_to_put(wish, known, network, port).items():
            programs.put(map_name, key, value)
        for program in sorted(wish.programs, key=list(Program).index):
            programs.attach(program, ifindex)
    if as_json:
        print_json(
            {
                "device": device,
                "ifindex": ifindex,
                "attached": [program.value for program in Program if program in wish.programs],
                "network": _network_json(network, names) if network else None,
                "port": _port_json(port, names) if port else None,
                "foreign": others,
                "dry_run": dry_run,
            }
        )
        return
    about = []
    if network:
        about.append(
            f"network {names.network(network.id)}, policy {word(network.policy)}, checksum {word(network.checksum)}"
        )
    if port and Program.GUARD in wish.programs:
        about.append(f"guard {word(port.guard)}" + (f" for {port.mac}" if port.mac else ""))
    if port and Program.FILL in wish.programs and known.port_is_manual:
        about.append(f"UDP ports {', '.join(map(str, wish.udp_ports or DEFAULT_FILL_PORTS))}")
    done = "would attach" if dry_run else "attached"
    click.echo(f"{done} {_list(wish.programs)} to {device}: {'; '.join(about) or 'for its container'}")
    _say_others(others)


@bpf.command()
@click.argument("device")
@_chosen
@click.option("--force", is_flag=True, help="Also what an attachment asks for.")
@_dry_run
@json_option
def detach(device: str, chosen: tuple[str, ...], force: bool, dry_run: bool, as_json: bool) -> None:
    """Detach our programs from DEVICE: all of them, unless some are chosen.

    What an attachment asks for needs --force, and comes back with the agent's or reconcile's next look.
    """
    programs, ifindex, names = KernelPrograms(), index_of(device), known_names()
    known = _known(programs, ifindex)
    wanted = [program for program in Program if not chosen or program.value in chosen]
    found = [one for one in programs.hooked(ifindex) if one.program in wanted]
    if not force:
        refuse_opening(device, found, known, names)
    others = [one.name for one in foreign(ifindex)]
    if not dry_run:
        for program in dict.fromkeys(one.program for one in found):
            programs.detach(program, ifindex)
        _forget(programs, known)
    if as_json:
        print_json(
            {
                "device": device,
                "ifindex": ifindex,
                "detached": [
                    {"program": one.program.value, "mode": one.mode.value, "link_id": one.link_id or None}
                    for one in found
                ],
                "foreign": others,
                "dry_run": dry_run,
            }
        )
        return
    what = _list(one.program for one in found) or "nothing"
    click.echo(f"{'would detach' if dry_run else 'detached'} {what} from {device}")
    _say_others(others)


def _load(programs: KernelPrograms) -> None:
    """Have programs; where maps would be new, with all in them that attachments ask for. Raises ``EngineError``."""
    if not programs.loaded() and (RUN_DIRECTORY / STATE_FILE).exists():
        with open_engine() as engine:
            engine.require_kernel()
    programs.load()


def _known(programs: KernelPrograms, ifindex: IfIndex) -> Known:
    hooked = frozenset(one.program for one in programs.hooked(ifindex))
    if not programs.loaded():
        return Known(ifindex, hooked=hooked)
    network, port = (programs.get(name, U32.pack(ifindex)) for name in ("networks", "ports"))
    return Known(
        ifindex, NetworkEntry.unpack(network) if network else None, Port.unpack(port) if port else None, hooked
    )


def _forget(programs: KernelPrograms, known: Known) -> None:
    """Take a network by hand out of the maps, as far as no program that stays needs it."""
    if not programs.loaded():
        return
    held = [(name, key) for name in ("port_addresses", "fill_ports") for key, _ in programs.entries(name)]
    left = {one.program for one in programs.hooked(known.ifindex)}
    dropped, rewritten = after_detaching(known, left, held)
    for map_name, key in sorted(dropped):
        programs.drop(map_name, key)
    if rewritten is not None:
        programs.put("networks", U32.pack(known.ifindex), rewritten)


def _say_others(others: list[str]) -> None:
    if others:
        click.echo(f"programs of others on it stay: {', '.join(others)}")


def _list(programs: Iterable[Program]) -> str:
    wanted = set(programs)
    *most, last = [program.value for program in Program if program in wanted] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def _network_json(entry: NetworkEntry, names: Names) -> Row:
    return {
        "id": entry.id,
        "name": names.network(entry.id),
        "policy": word(entry.policy),
        "checksum": word(entry.checksum),
    }


def _port_json(port: Port, names: Names) -> Row:
    return {"network": names.network(port.network), "guard": word(port.guard), "mac": port.mac or None}
