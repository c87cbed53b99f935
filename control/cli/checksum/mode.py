"""``dpctl checksum mode``: what is done about the checksums of a network."""

from __future__ import annotations

import click

from control.cli.output import json_option, print_json
from control.model import ChecksumPolicy

_POLICIES = [policy.value for policy in ChecksumPolicy]


@click.command()
@click.argument("network")
@click.argument("policy", metavar="|".join(_POLICIES), type=click.Choice(_POLICIES))
@json_option
def mode(network: str, policy: str, as_json: bool) -> None:
    """Choose what is done about a network's checksums.

    off: nothing. observe: verify, count and report. repair: and take out of a sum what NAT left in it. fill: and
    complete sums that nobody computed, for the UDP ports of DHCP clients, which read frames.

    This is about packets on their way to the containers. It takes precedence over the conflist for as long as any
    container is attached to the network.
    """
    from control.engine import open_engine  # noqa: PLC0415 - explain and watch work without an engine

    with open_engine() as engine:
        engine.set_checksum_mode(network, ChecksumPolicy(policy))
    if as_json:
        print_json({"network": network, "checksum": policy})
    else:
        click.echo(f'network "{network}": checksum {policy}')
