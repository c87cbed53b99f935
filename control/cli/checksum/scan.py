"""``dpctl checksum scan``: is anything wrong with checksums, network by network."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from control.checksums import wording
from control.checksums.health import Diagnosis, Evidence, Offloads, diagnose, problem
from control.cli.findings import note
from control.cli.output import EXIT_PROBLEM, json_option, print_json
from control.errors import EngineError


@click.command()
@click.argument("networks", nargs=-1, metavar="[NETWORK]...")
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Look twice, so many seconds apart, and judge what happened in between.",
)
@json_option
@click.pass_context
def scan(ctx: click.Context, networks: tuple[str, ...], seconds: float | None, as_json: bool) -> None:
    """Say whether checksums are wrong, network by network.

    For each a verdict, the evidence, and what to do about it. The evidence: what our program verified, what receivers
    dropped in each container's network namespace (TcpInCsumErrors ...), and what the devices on the path are trusted
    to compute.

    Counters go back to when the programs were loaded and the containers started: --for tells what happens now.

    Exit status 3: a problem was found. Stale sums that were repaired are none.
    """
    from control.checksums.survey import survey  # noqa: PLC0415 - "--help" needs none of it
    from control.cli import state  # noqa: PLC0415

    known = state.attached()
    if unknown := sorted(set(networks) - known.networks.keys()):
        raise EngineError(f'could not scan network "{unknown[0]}": nothing is attached to it; dpctl ps lists networks')
    evidence = survey(known, networks)
    since = "since the programs were loaded"
    if seconds is not None:
        time.sleep(seconds)
        evidence = survey(state.attached(), networks).since(evidence)
        since = f"in {seconds:g} s"
    diagnoses = [diagnose(network) for network in evidence.networks]
    if as_json:
        print_json(_fields(evidence, diagnoses, seconds))
    else:
        _print(evidence, diagnoses, since)
    ctx.exit(EXIT_PROBLEM if problem(evidence) else 0)


def _print(evidence: Evidence, diagnoses: list[Diagnosis], since: str) -> None:
    diagnoses = sorted(diagnoses, key=lambda one: (not one.worst.problem, one.evidence.name))
    for diagnosis in diagnoses:
        click.echo(wording.headline(diagnosis))
    if not diagnoses:
        click.echo("no network: nothing is attached")
    click.echo(wording.host_headline(evidence))
    for diagnosis in diagnoses:
        click.echo(f"\n{diagnosis.evidence.name}")
        for label, text in wording.notes(diagnosis, since=since, uplink=wording.uplink(evidence)):
            click.echo(note(label, text))
    click.echo("\nhost")
    for label, text in wording.host_notes(evidence):
        click.echo(note(label, text))


def _fields(evidence: Evidence, diagnoses: list[Diagnosis], seconds: float | None) -> dict[str, object]:
    return {
        "problem": problem(evidence),
        "seconds": seconds,
        "networks": [_network(one, wording.uplink(evidence)) for one in diagnoses],
        "host": {"dropped": dict(evidence.host), "devices": [_device(one) for one in evidence.devices]},
        "events_lost": evidence.lost,
    }


def _network(diagnosis: Diagnosis, uplink: str) -> dict[str, object]:
    network = diagnosis.evidence
    return {
        "network": network.name,
        "verdicts": [health.name.lower() for health in diagnosis.found],
        "problem": diagnosis.worst.problem,
        "mode": network.mode,
        "counts": asdict(network.counts),
        "filled": network.filled,
        "fill_ports": list(network.fill_ports),
        "unwatched": list(network.unwatched),
        "dropped_unseen": network.unseen,
        "receivers": [
            {
                "container": one.container,
                "ifname": one.ifname,
                "netns": one.netns,
                "dropped": dict(one.dropped),
                "trouble": one.trouble or None,
            }
            for one in network.receivers
        ],
        "devices": [_device(one) for one in network.devices],
        "to_do": wording.advices(diagnosis, uplink),
    }


def _device(device: Offloads) -> dict[str, object]:
    return {
        "device": device.name,
        "role": device.role,
        "kind": device.kind or None,
        "container": device.container or None,
        "suspect": device.suspect,
        "features": dict(device.features),
    }
