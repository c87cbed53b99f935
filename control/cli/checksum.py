"""``dpctl checksum``: explain a frame's checksum, watch what the programs find, choose what they do about it."""

from __future__ import annotations

import ipaddress
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import islice
from pathlib import Path

import click

from control.agent import sightings
from control.agent.history import Kind
from control.checksums.checksum import Certainty, Finding, Knowledge, KnownMapping, Origin, Verdict, explain
from control.checksums.frame import FrameError, LinkType, NoSegmentError, frames_of_text, link_type_of, parse
from control.checksums.pcap import is_capture, read_capture
from control.cli import findings
from control.cli.output import EXIT_PROBLEM, json_option, print_json
from control.errors import EngineError
from control.model import ChecksumPolicy
from control.protocol.client import AgentClient, AgentUnreachableError
from dataplane.abi import EventKind
from dataplane.errors import DataplaneError

MAX_SHOWN = 20
"""How many findings of one capture are shown to people."""


@click.group()
def checksum() -> None:
    """Explain, watch and repair TCP and UDP checksums."""


_ORIGIN = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<ipv4>[0-9.]+)):(?P<port>[0-9]{1,5})")


def _origins(_ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> tuple[Origin, ...]:
    return tuple(_origin(text) for text in texts)


def _origin(text: str) -> Origin:
    match = _ORIGIN.fullmatch(text)
    port = int(match["port"]) if match else None
    try:
        address = ipaddress.ip_address((match["ipv6"] or match["ipv4"]) if match else text.strip("[]"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no address, with or without a port") from None
    if port is not None and not 1 <= port <= 65535:
        raise click.BadParameter(f"{port} is not a port (1 to 65535)")
    return Origin(address, port)


@dataclass(slots=True)
class _Report:
    """What one run of explain found."""

    kept: list[tuple[int, Finding]] = field(default_factory=list)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    passed_over: int = 0
    """Frames without a TCP or UDP header, or with a broken one."""
    broken: FrameError | None = None
    """Why the input could not be read to its end."""


@checksum.command("explain")
@click.argument("frame", required=False)
@click.option("--pcap", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Read a capture file.")
@click.option(
    "--origin",
    "origins",
    callback=_origins,
    metavar="ADDR[:PORT]",
    multiple=True,
    help="Where the client sent it, before NAT (of a published port: the host's address and port).",
)
@click.option("--all", "keep_all", is_flag=True, help="Of a capture: show also frames that are right.")
@json_option
@click.pass_context
def explain_command(
    ctx: click.Context, frame: str | None, pcap: Path | None, origins: tuple[Origin, ...], keep_all: bool, as_json: bool
) -> None:
    """Say whether a frame's checksum is right, and if not, whose fault that is.

    FRAME is hex text, as tcpdump -xx or a person writes it; a file that holds it (PATH or @PATH), or a capture; or -
    for standard input.

    A checksum is called STALE where a published port or --origin proves that NAT left it so, PROBABLY STALE where it is
    right for an address of this host, PERHAPS STALE where it is right for some address beside the client. JSON says
    "certainty": "proved", "likely" or "inferred", and as "chance_one_in" how rarely a random error would look the same.

    Exit status 3: a checksum is corrupt or stale, be it proved or not.
    """
    if (frame is None) == (pcap is None):
        raise click.UsageError("give either FRAME or --pcap FILE")
    raw = pcap.read_bytes() if pcap is not None else _read(str(frame))
    from_capture = pcap is not None or is_capture(raw)
    knowledge, ignorance = _knowledge(origins)
    report = _explain_all(_frames_of_capture(raw) if from_capture else _frames_of_text(raw), knowledge)
    if from_capture and not keep_all:
        report.kept = [(number, finding) for number, finding in report.kept if finding.verdict.problem]
    if as_json:
        _print_report_json(report, ignorance)
    else:
        _print_report(report, ignorance, from_capture)
    if report.broken is not None:
        raise report.broken
    ctx.exit(EXIT_PROBLEM if any(verdict.problem for verdict in report.verdicts) else 0)


@checksum.command()
@click.option("--count", type=click.IntRange(min=1), help="End after so many events.")
@click.option("--for", "seconds", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds.")
@json_option
def watch(count: int | None, seconds: float | None, as_json: bool) -> None:
    """Print stale and corrupt checksums as the programs find them, until interrupted.

    An agent that runs reads the findings already: they come from it then, several at a time.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    for fields, line in islice(_checksum_sightings(deadline), count):
        if as_json:
            print_json(fields, line=True)
        else:
            click.echo(line)
        sys.stdout.flush()


@checksum.command()
@click.argument("network")
@click.argument("policy", metavar="off|observe|repair", type=click.Choice([one.value for one in ChecksumPolicy]))
@json_option
def mode(network: str, policy: str, as_json: bool) -> None:
    """Choose what is done about checksums on the way to a network's containers.

    It takes precedence over the conflist for as long as any container is attached to the network.
    """
    from control.engine import open_engine  # noqa: PLC0415 - explain works without an engine

    with open_engine() as engine:
        engine.set_checksum_mode(network, ChecksumPolicy(policy))
    if as_json:
        print_json({"network": network, "checksum": policy})
    else:
        click.echo(f'network "{network}": checksum {policy}')


def _checksum_sightings(deadline: float | None) -> Iterator[tuple[dict[str, object], str]]:
    """Each as JSON fields and as a line."""
    try:
        newest = max(
            (number for record in AgentClient().events() if isinstance(number := record["number"], int)), default=0
        )
    except AgentUnreachableError:
        yield from _own_sightings(deadline)
        return
    for record in AgentClient().events(newest, follow=True, deadline=deadline):
        details = record.get("details")
        if record.get("kind") == Kind.CHECKSUM and isinstance(details, dict):
            yield details, str(record.get("text"))


def _own_sightings(deadline: float | None) -> Iterator[tuple[dict[str, object], str]]:
    from dataplane.programs.door import KernelPrograms  # noqa: PLC0415 - explain works without BPF

    programs = KernelPrograms()
    if not programs.loaded():
        raise EngineError("could not watch checksums: no programs are loaded; the first container's ADD does that")
    with programs.events() as events:
        while deadline is None or time.monotonic() < deadline:
            for event in events.poll(0.2):
                if event.kind in {EventKind.STALE, EventKind.CORRUPT}:
                    yield sightings.fields(event, {}), sightings.sentence(event, {})


def _read(frame: str) -> bytes:
    if frame == "-":
        return sys.stdin.buffer.read()
    path = Path(frame.removeprefix("@"))
    # Hex text is long and full of spaces; asking the kernel whether it is a file may fail for that alone. One word of
    # anything else is a file's name, and if it is not there, that is the error.
    named = frame.startswith("@") or not re.fullmatch(r"[0-9a-fA-F]*|.*\s.*", frame, re.DOTALL)
    if named or (len(frame) < 256 and path.is_file()):
        return path.read_bytes()
    return frame.encode()


def _frames_of_text(raw: bytes) -> Iterator[tuple[int, LinkType, bytes]]:
    text = raw.decode("ascii", errors="replace")
    for number, frame in enumerate(frames_of_text(text), 1):
        yield number, link_type_of(frame), frame


def _frames_of_capture(raw: bytes) -> Iterator[tuple[int, LinkType, bytes]]:
    for record in read_capture(raw):
        yield record.number, record.link, record.frame


def _explain_all(frames: Iterator[tuple[int, LinkType, bytes]], knowledge: Knowledge) -> _Report:
    report = _Report()
    reason: FrameError | None = None
    try:
        for number, link, frame in frames:
            try:
                segment = parse(frame, link)
            except FrameError as error:
                report.passed_over += 1
                reason = error
                continue
            finding = explain(segment, knowledge)
            report.verdicts[finding.verdict] += 1
            report.kept.append((number, finding))
    except FrameError as error:
        report.broken = error
    if not report.verdicts and report.broken is None:
        # Nothing to judge is no verdict of "right": the last frame's reason says why.
        report.broken = reason or NoSegmentError("no frames in what was given")
    return report


def _knowledge(origins: tuple[Origin, ...]) -> tuple[Knowledge, str]:
    """What is known here, and where the published ports could not be read, why."""
    addresses: list[IPv4Address] = []
    mappings: list[KnownMapping] = []
    ignorance = ""
    try:
        from control.cli import state  # noqa: PLC0415 - the engine is slow to import

        # Anybody may read the addresses; the state is root's.
        addresses = state.host_addresses()
        mappings = state.known_mappings()
    except (DataplaneError, OSError) as error:
        ignorance = str(error)
    return Knowledge(tuple(mappings), tuple(addresses), origins), ignorance


def _print_report(report: _Report, ignorance: str, from_capture: bool) -> None:
    several = from_capture or len(report.kept) > 1
    for number, finding in report.kept[:MAX_SHOWN]:
        if several:
            click.echo(f"frame {number}: ", nl=False)
        click.echo(findings.describe(finding))
    if len(report.kept) > MAX_SHOWN:
        click.echo(f"... and {len(report.kept) - MAX_SHOWN} more (--json lists all)")
    if ignorance and report.verdicts.keys() & {Verdict.STALE, Verdict.CORRUPT}:
        click.echo(findings.note("note", f"judged without this host's published ports: {ignorance}"))
    if several:
        click.echo(_summary(report))


def _summary(report: _Report) -> str:
    unproved = sum(finding.certainty not in {None, Certainty.PROVED} for _, finding in report.kept)
    counts = []
    for verdict, count in sorted(report.verdicts.items()):
        doubt = f" ({unproved} of them not proved)" if verdict is Verdict.STALE and unproved else ""
        counts.append(f"{count} {verdict}{doubt}")
    return f"checksums: {', '.join(counts) or 'none'}; other frames: {report.passed_over}"


def _print_report_json(report: _Report, ignorance: str) -> None:
    print_json(
        {
            "findings": [{"frame": number, **findings.fields(finding)} for number, finding in report.kept],
            "counts": {verdict.value: report.verdicts[verdict] for verdict in Verdict},
            "passed_over": report.passed_over,
            "judged_without_mappings": ignorance or None,
        }
    )
