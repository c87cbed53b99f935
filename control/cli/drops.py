"""``dpctl drops``: what isolation and guard dropped, whose it was, why, and what to do.

It reads the programs' maps and the state, and needs no agent. Where there is no state, reading makes none.
"""

from __future__ import annotations

import sys
import textwrap
import time
from dataclasses import replace

import click

from control.cli.output import WIDTH, json_option, print_json, print_table
from control.drops import Counted, Drop, Dropper, Known, Party, ago, drops, last_packet, protocol_name
from control.engine import RUN_DIRECTORY, STATE_FILE, open_engine, running_kernel
from dataplane.abi import GUARD_DROP_KEY, NETWORK_PAIR, U64, GuardReason, Offender
from dataplane.doors import Programs
from dataplane.errors import KernelError
from dataplane.tracked import Tuple, before
from dataplane.types import IfIndex, Protocol

_INTERVAL = 1.0
"""Seconds between two looks of ``--watch``."""


@click.command("drops")
@click.option("--watch", is_flag=True, help="Print what is dropped from now on, a line a second for each of them.")
@click.option("--for", "seconds", type=click.FloatRange(min=0, min_open=True), help="Watch for so many seconds.")
@json_option
def show_drops(watch: bool, seconds: float | None, as_json: bool) -> None:
    """What was dropped on the way between containers: whose it was, why, and what to do about it.

    Isolation drops what containers send to other networks, or to neighbours that are kept apart; guard drops what a
    container must not send. Packets are counted since the programs were loaded, and the last of each is shown. A
    container that is masqueraded is named for as long as conntrack knows the flow: half a minute (UDP) or two (TCP).
    """
    programs = running_kernel().programs
    if watch or seconds is not None:
        _watch(programs, seconds, as_json=as_json)
        return
    loaded = programs.loaded()
    found = _joined(_counted(programs)) if loaded else []
    if as_json:
        print_json({"programs_loaded": loaded, "drops": [_fields(one) for one in found]})
    elif found:
        _print(found)
    else:
        click.echo("nothing was dropped" if loaded else "nothing was dropped: no programs are loaded")


def _watch(programs: Programs, seconds: float | None, *, as_json: bool) -> None:
    """Until the time is up, or interrupted."""
    if not programs.loaded():
        raise click.ClickException("could not watch drops: no programs are loaded; the first container has them loaded")
    before, end = _counted(programs), None if seconds is None else time.monotonic() + seconds
    left = _INTERVAL
    while left > 0:
        time.sleep(min(left, _INTERVAL))
        now = _counted(programs)
        for one in _joined(now.since(before)):
            if as_json:
                print_json(_fields(one), line=True)
            else:
                click.echo(_line(one))
        sys.stdout.flush()
        before, left = now, _INTERVAL if end is None else end - time.monotonic()


def _counted(programs: Programs) -> Counted:
    return Counted(
        isolated={_pair(key): _number(value) for key, value in programs.entries("isolation_drops")},
        isolated_last={_pair(key): _as_sent(Offender.unpack(value)) for key, value in programs.entries("offenders")},
        guarded={_reason(key): _number(value) for key, value in programs.entries("guard_drops")},
        guarded_last={_reason(key): Offender.unpack(value) for key, value in programs.entries("guard_offenders")},
    )


def _joined(counted: Counted) -> list[Drop]:
    return drops(counted, _known(), time.clock_gettime_ns(time.CLOCK_MONOTONIC))


def _known() -> Known:
    if not (RUN_DIRECTORY / STATE_FILE).exists():
        return Known.of({}, ())
    with open_engine() as engine:
        return Known.of({facts.id: name for name, facts in engine.networks().items()}, engine.attachments())


def _as_sent(last: Offender) -> Offender:
    """With the sender's own address: isolation drops after masquerade, and conntrack knows for a while who it was."""
    protocol = next((one for one in (Protocol.TCP, Protocol.UDP) if one.number == last.protocol), None)
    if protocol is None or last.source is None or last.destination is None:
        return last
    try:
        sent = before(Tuple(protocol, last.source, last.source_port, last.destination, last.destination_port))
    except KernelError:
        return last  # a kernel without conntrack; nothing is masqueraded there
    return last if sent is None else replace(last, source=sent.source, source_port=sent.source_port)


def _pair(key: bytes) -> tuple[int, int]:
    source, destination = NETWORK_PAIR.unpack(key)
    return source, destination


def _reason(key: bytes) -> tuple[IfIndex, GuardReason]:
    port, reason = GUARD_DROP_KEY.unpack(key)
    return IfIndex(port), GuardReason(reason)


def _number(value: bytes) -> int:
    return int(U64.unpack(value)[0])


def _print(found: list[Drop]) -> None:
    print_table(
        ("BY", "FROM", "TO", "REASON", "PACKETS", "LAST", "PACKET"),
        [
            (one.dropper, one.source, one.destination, one.reason, one.packets, ago(one.age), last_packet(one))
            for one in found
        ],
    )
    click.echo("\nwhy, and what to do")
    for (whose, why, advice), receivers in _alike(found).items():
        to = f" to {', '.join(receivers)}" if receivers else ""
        click.echo(_wrapped(f"{whose}{to}: {why}", 2))
        click.echo(_wrapped(advice, 6))


def _alike(found: list[Drop]) -> dict[tuple[str, str, str], dict[str, None]]:
    """What differs in the receiver alone is said once; of guard, whom it was for does not matter."""
    alike: dict[tuple[str, str, str], dict[str, None]] = {}
    for one in found:
        receivers = alike.setdefault((str(one.source), one.why, one.advice), {})
        if one.dropper is Dropper.ISOLATION:
            receivers[str(one.destination)] = None
    return alike


def _wrapped(text: str, indent: int) -> str:
    first, rest = " " * indent, " " * (indent + 2)
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False)


def _line(one: Drop) -> str:
    clock = time.strftime("%H:%M:%S")
    return f"{clock}  {one.dropper}  {one.source} to {one.destination}  +{one.packets}  {last_packet(one)}  {one.why}"


def _fields(one: Drop) -> dict[str, object]:
    return {
        "dropped_by": one.dropper,
        "source": _party(one.source),
        "destination": _party(one.destination),
        "reason": one.reason,
        "why": one.why,
        "packets": one.packets,
        "last": None if one.last is None else _packet(one.last) | {"seconds_ago": one.age},
        "what_to_do": one.advice,
    }


def _packet(last: Offender) -> dict[str, object]:
    return {
        "source": {"address": str(last.source) if last.source else None, "port": last.source_port},
        "destination": {
            "address": str(last.destination) if last.destination else None,
            "port": last.destination_port,
        },
        "protocol": protocol_name(last.protocol) if last.source else None,
        "mac": last.mac,
    }


def _party(one: Party) -> dict[str, object]:
    return {
        "network": one.network or None,
        "container": one.container or None,
        "address": str(one.address) if one.address else None,
    }
