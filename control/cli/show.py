"""``dpctl status``, ``ps`` and ``ports``: what is attached, and whether all is well. They read; they change nothing.

They work without the agent, in this process, and ``status`` says whether there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points

import click

from control.cli.output import EXIT_PROBLEM, json_option, print_json, print_table
from control.desired.hooks import port_of
from control.desired.ruleset import group_of, targets
from control.engine import open_engine
from control.model import Attachment, IngressPolicy
from control.protocol.client import AgentClient, AgentUnreachableError
from control.protocol.wire import WireError
from dataplane.doors import Hooked, Programs, Sysctls
from dataplane.types import IfIndex

BRIDGED = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
"""Whether netfilter sees the packets that a bridge switches, by family."""


@dataclass(frozen=True, slots=True)
class _Port:
    """One line of ``dpctl ports``."""

    host_address: str
    host_port: int
    protocol: str
    container_address: str
    container_port: int
    container: str
    network: str
    ifname: str
    conditions: str
    """What else must be true of a packet, in nft's words; empty for nothing."""


@click.command()
@click.option("--agent", "need_agent", is_flag=True, help="Exit with status 4 when no agent answers.")
@json_option
def status(need_agent: bool, as_json: bool) -> int:
    """Agent, networks, and whether the kernel is what the attachments ask for.

    Exit status 3 when something is not as it should be.
    """
    agent = _agent(need=need_agent)
    with open_engine() as engine:
        problems = engine.problems()
        attachments = engine.attachments()
        networks = engine.networks()
        localhost = engine.localhost
        hooked = _hooked(engine.kernel.programs, attachments)
        ways = Counter(str(program.mode) for program in hooked)
        led = len(engine.kernel.programs.localhost())
        notes = [*_unreachable(attachments, engine.kernel.sysctls), *_notes()]
    interfaces = {one.key.interface for one in attachments}
    sizes = Counter(network for network, _, _ in interfaces)
    published = sum(len(one.published(target.version)) for one in attachments for target in targets(one))
    if as_json:
        print_json(
            {
                "agent": agent,
                "attachments": len(interfaces),
                "ports": published,
                "programs": {"hooked": len(hooked), "by": sorted(ways), "on_cgroups": led},
                "localhost": {"by": localhost.means, "why": localhost.why},
                "networks": [
                    {
                        "name": name,
                        "id": facts.id,
                        "attachments": sizes[name],
                        "checksum_override": facts.checksum,
                    }
                    for name, facts in networks.items()
                ],
                "problems": problems,
                "notes": notes,
            }
        )
        return EXIT_PROBLEM if problems else 0
    running = f"running (pid {agent['pid']})" if agent else "not running: plugins do its work in their own process"
    click.echo(f"agent        {running}")
    click.echo(f"attachments  {len(interfaces)} on {len(networks)} networks")
    click.echo(f"ports        {published} published")
    places = [
        *(f"{count} by {way}" for way, count in sorted(ways.items())),
        *([f"{led} on the cgroups"] if led else []),
    ]
    click.echo(f"programs     {len(hooked) + led} hooked" + (f": {', '.join(places)}" if places else ""))
    click.echo(f"localhost    {localhost}")
    if localhost.why:
        click.echo(f"             {localhost.why}; then restart the agent, or dpctl reconcile where none runs")
    for problem in problems:
        click.echo(f"PROBLEM      {problem}")
    for note in notes:
        click.echo(f"note         {note}")
    if problems:
        click.echo("what to do   dpctl reconcile puts back what others took away")
    else:
        click.echo("state        the kernel is what the attachments ask for")
    return EXIT_PROBLEM if problems else 0


@click.command()
@json_option
def ps(as_json: bool) -> None:
    """Attachments: containers, their addresses, ports and policies."""
    with open_engine() as engine:
        attachments, networks = engine.attachments(), engine.networks()
    by_hand = {name: facts.checksum for name, facts in networks.items()}
    if as_json:
        described = [_described(one) | {"checksum_override": by_hand.get(one.key.network)} for one in attachments]
        print_json({"attachments": described})
        return
    print_table(
        ("NETWORK", "CONTAINER", "IFNAME", "PLUGIN", "DEVICE", "POLICY", "GUARD", "CHECKSUM", "ADDRESSES", "PORTS"),
        [
            (
                one.key.network,
                one.key.container[:12],
                one.key.ifname,
                one.key.plugin,
                one.device.name,
                one.options.ingress_policy,
                one.options.guard,
                by_hand.get(one.key.network) or one.options.checksum,
                " ".join(map(str, one.request.addresses)),
                " ".join(f"{mapping}->{mapping.container_port}" for mapping in one.request.mappings) or "-",
            )
            for one in attachments
        ],
    )


@click.command()
@json_option
def ports(as_json: bool) -> None:
    """Published ports: from where, to whom.

    No process listens on them: the kernel rewrites their packets (nftables), so ss and netstat do not show them.
    """
    with open_engine() as engine:
        found = [port for one in engine.attachments() for port in _ports(one)]
    found.sort(key=lambda port: (port.host_port, port.protocol, port.host_address))
    if as_json:
        fields = _Port.__slots__
        print_json({"ports": [{name: getattr(port, name) for name in fields} for port in found]})
        return
    print_table(
        ("HOST", "PORT", "LEADS TO", "CONTAINER", "NETWORK", "WHEN"),
        [
            (
                port.host_address,
                f"{port.host_port}/{port.protocol}",
                _endpoint(port.container_address, port.container_port),
                port.container[:12],
                port.network,
                port.conditions or "always",
            )
            for port in found
        ],
    )


def _agent(*, need: bool) -> dict[str, object] | None:
    try:
        pong = AgentClient().ping()
    except AgentUnreachableError:
        if need:
            raise
        return None
    except WireError as error:
        raise AgentUnreachableError(f"the agent does not speak this version's protocol: {error}; restart it") from None
    return {"pid": pong.pid, "version": pong.version}


def _unreachable(attachments: list[Attachment], sysctls: Sysctls) -> Iterator[str]:
    """Published ports that neighbours do not reach: netfilter leads them on inside the bridge, whose port isolation
    drops them there. Neither has a switch for one network."""
    on = [name for name in BRIDGED if sysctls.read(name) == "1"]
    isolated = {
        one.key.network
        for one in attachments
        if one.options.ingress_policy is IngressPolicy.ISOLATED and one.device.port and one.request.mappings
    }
    for network in sorted(isolated if on else ()):
        settings = " and ".join(f"{name.replace('/', '.')}=0" for name in on)
        yield (
            f"network {network} is isolated, and bridged packets go through netfilter: its containers do not reach "
            f"their own and each other's published ports; sysctl {settings}, where nothing else needs that"
        )


def _hooked(programs: Programs, attachments: list[Attachment]) -> list[Hooked]:
    """Our programs on the devices of networks, and on the ports of containers."""
    devices = {one.device.index for one in attachments} | {port_of(one) for one in attachments} - {IfIndex(0)}
    return [program for device in sorted(devices) for program in programs.hooked(device)]


def _notes() -> list[str]:
    """What folders above this one have to say; nothing that is wrong."""
    return [note for point in entry_points(group="dataplane.notes") for note in point.load()()]


def _described(one: Attachment) -> dict[str, object]:
    options = one.options
    return {
        "network": one.key.network,
        "container": one.key.container,
        "ifname": one.key.ifname,
        "plugin": one.key.plugin,
        "device": one.device.name,
        "device_index": one.device.index,
        "netns": one.request.netns,
        "addresses": list(map(str, one.request.addresses)),
        "ports": [
            {
                "host_address": str(mapping.host_address) if mapping.host_address else None,
                "host_port": mapping.host_port,
                "container_port": mapping.container_port,
                "protocol": mapping.protocol,
            }
            for mapping in one.request.mappings
        ],
        "ingress_policy": options.ingress_policy,
        "guard": options.guard,
        "checksum": options.checksum,
        "fill_ports": list(options.fill_ports),
        "snat": options.snat,
        "masq_all": options.masq_all,
        "ip_masq": options.ip_masq,
    }


def _ports(one: Attachment) -> list[_Port]:
    return [
        _Port(
            host_address="*" if mapping.wildcard else str(mapping.host_address),
            host_port=mapping.host_port,
            protocol=mapping.protocol,
            container_address=str(target),
            container_port=mapping.container_port,
            container=one.key.container,
            network=one.key.network,
            ifname=one.key.ifname,
            conditions=" ".join(map(str, group_of(one, target.version).conditions)),
        )
        for target in targets(one)
        for mapping in one.published(target.version)
    ]


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
