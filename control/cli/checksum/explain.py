"""``dpctl checksum explain``: whose fault the checksum of a frame is; from text, a file, or a link as it passes."""

from __future__ import annotations

import ipaddress
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import click

from control.checksums.checksum import Certainty, Finding, Verdict, explain
from control.checksums.frame import (
    FrameError,
    LinkType,
    NoSegmentError,
    Segment,
    SumState,
    Transport,
    frames_of_text,
    link_type_of,
    parse,
)
from control.checksums.pcap import is_capture, read_capture
from control.checksums.rewrites import Ends, Evidence, Knowledge, Origin
from control.cli import findings
from control.cli.frames import read_frame
from control.cli.output import EXIT_PROBLEM, json_option, print_json
from dataplane.errors import DataplaneError, KernelError
from dataplane.types import Protocol

MAX_SHOWN = 20
"""How many findings of one capture are shown to people."""
_ENDING = (signal.SIGINT, signal.SIGTERM)

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


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame of what is to be explained."""

    number: int
    link: LinkType
    raw: bytes
    state: SumState | None = None
    """What the kernel knows about its sum; None where it does not come from the kernel."""


@dataclass(slots=True)
class _Report:
    """What one run of explain found."""

    kept: list[tuple[int, Finding]] = field(default_factory=list)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    unproved: int = 0
    """Stale ones that are not proved."""
    passed_over: int = 0
    """Frames without a TCP, UDP or ICMPv6 header, or with a broken one."""
    broken: FrameError | None = None
    """Why the input could not be read to its end."""


@click.command("explain")
@click.argument("frame", required=False)
@click.option("--pcap", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Read a capture file.")
@click.option("--capture", metavar="IFACE", help="Capture from this link, now.")
@click.option("-c", "--count", type=click.IntRange(min=1), help="Of --capture: end after so many frames.")
@click.option(
    "--for", "seconds", type=click.FloatRange(min=0, min_open=True), help="Of --capture: end after so many seconds."
)
@click.option(
    "--netns",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of --capture: the link is in this network namespace (a container's, as scan names it).",
)
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
    ctx: click.Context,
    *,
    frame: str | None,
    pcap: Path | None,
    capture: str | None,
    count: int | None,
    seconds: float | None,
    netns: Path | None,
    origins: tuple[Origin, ...],
    keep_all: bool,
    as_json: bool,
) -> None:
    """Say whose fault a frame's wrong checksum is.

    FRAME is hex text, as tcpdump -xx or a person writes it; a file that holds it (PATH or @PATH), or a capture; or -
    for standard input. With --capture it is whatever passes a link, and the kernel says what no capture file knows:
    whether a sum is yet to be computed. A link shows what it sends after our programs repaired it, and what it receives
    before.

    A checksum is called STALE where a published port, a masqueraded container, conntrack or --origin proves that NAT
    left it so, PROBABLY STALE where it is right for an address of this host, PERHAPS STALE where it is right for some
    address beside the client. JSON says "certainty": "proved", "likely" or "inferred", and as "chance_one_in" how
    rarely a random error would look the same.

    Exit status 3: a checksum is corrupt or stale, be it proved or not.
    """
    if sum(one is not None for one in (frame, pcap, capture)) != 1:
        raise click.UsageError("give FRAME, --pcap FILE or --capture IFACE")
    if capture is None and (count or seconds or netns):
        raise click.UsageError("-c, --for and --netns are about --capture")
    if capture is not None:
        frames, several = _captured(capture, count, seconds, netns), True
    else:
        raw = pcap.read_bytes() if pcap is not None else read_frame(str(frame))
        several = pcap is not None or is_capture(raw)
        frames = _frames_of_capture(raw) if several else _frames_of_text(raw)
    known, ignorance = _knowledge(origins)
    report = _explain_all(frames, known, live=capture is not None, keep_right=keep_all or not several)
    if as_json:
        _print_report_json(report, ignorance)
    else:
        _print_report(report, ignorance, several)
    if report.broken is not None:
        raise report.broken
    ctx.exit(EXIT_PROBLEM if any(verdict.problem for verdict in report.verdicts) else 0)


def _frames_of_text(raw: bytes) -> Iterator[_Frame]:
    text = raw.decode("ascii", errors="replace")
    for number, frame in enumerate(frames_of_text(text), 1):
        yield _Frame(number, link_type_of(frame), frame)


def _frames_of_capture(raw: bytes) -> Iterator[_Frame]:
    for record in read_capture(raw):
        yield _Frame(record.number, record.link, record.frame)


def _captured(link: str, count: int | None, seconds: float | None, netns: Path | None) -> Iterator[_Frame]:
    from dataplane.capture import captured  # noqa: PLC0415 - a file is explained without a socket

    with ExitStack() as stack:
        where = None if netns is None else stack.enter_context(netns.open("rb")).fileno()
        ended = stack.enter_context(_told_to_end())
        frames = stack.enter_context(closing(captured(link, seconds, where, ended)))
        for number, one in enumerate(islice(frames, count), 1):
            state = SumState.PARTIAL if one.partial else SumState.VERIFIED if one.verified else SumState.UNKNOWN
            yield _Frame(number, LinkType.ETHERNET if one.ethernet else LinkType.RAW, one.frame, state)


@contextmanager
def _told_to_end() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came meanwhile: they end a capture, and not what is said of it. Also where whoever
    started this process had them ignored, as a shell does for what runs in the background."""
    came: list[int] = []
    former = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _ENDING}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _explain_all(frames: Iterator[_Frame], known: Knowledge, *, live: bool, keep_right: bool) -> _Report:
    report = _Report()
    reason: FrameError | None = None
    try:
        for frame in frames:
            try:
                segment = parse(frame.raw, frame.link)
            except FrameError as error:
                report.passed_over += 1
                reason = error
                continue
            finding = _explained(segment, known, frame.state, live=live)
            report.verdicts[finding.verdict] += 1
            report.unproved += finding.certainty not in {None, Certainty.PROVED}
            if keep_right or finding.verdict.problem:
                report.kept.append((frame.number, finding))
    except FrameError as error:
        report.broken = error
    if not report.verdicts and report.broken is None and not live:
        # Nothing to judge is no verdict of "right": the last frame's reason says why.
        report.broken = reason or NoSegmentError("no frames in what was given")
    return report


def _explained(segment: Segment, known: Knowledge, state: SumState | None, *, live: bool) -> Finding:
    """The verdict, with conntrack's word where it has one. Of a file, which may be of another day or another host, it
    can only agree."""
    finding = explain(segment, known, state=state)
    if finding.verdict.problem and (tracked := _tracked(segment)):
        asked = explain(segment, known, tracked, state)
        if live or (asked.rewrite is not None and asked.rewrite.evidence is Evidence.CONNTRACK):
            return asked
    return finding


def _tracked(segment: Segment) -> Ends | None:
    """What conntrack says that a segment was before NAT; None where it does not know, or may not be asked."""
    from dataplane.tracked import Tuple, before  # noqa: PLC0415 - as above

    if segment.protocol is Transport.ICMPV6:
        return None
    protocol = Protocol(segment.protocol.value)
    now = Tuple(protocol, segment.source, segment.source_port, segment.destination, segment.destination_port)
    try:
        found = before(now)
    except KernelError:
        return None  # a kernel without conntrack; the verdict stands on the rest
    if found is None:
        return None
    return Ends(found.source, found.source_port, found.destination, found.destination_port)


def _knowledge(origins: tuple[Origin, ...]) -> tuple[Knowledge, str]:
    """What is known here, and where the published ports could not be read, why."""
    from control.cli import state  # noqa: PLC0415 - "--help" needs none of it

    addresses = state.host_addresses()
    try:
        return state.knowledge(state.attached(), addresses, origins), ""
    except (DataplaneError, OSError) as error:
        # Anybody may read the addresses; the state is root's.
        reason = "only root may read them" if isinstance(error, PermissionError) else str(error)
        return Knowledge(host_addresses=addresses, origins=origins), reason


def _print_report(report: _Report, ignorance: str, several: bool) -> None:
    several = several or len(report.kept) > 1
    if several and (partial := report.verdicts[Verdict.PARTIAL]):
        click.echo(
            f"{partial} of {report.verdicts.total()} sums are not computed yet (partial), which is no error on the "
            'sender\'s own side: tcpdump calls these "incorrect".'
        )
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
    counts = []
    for verdict, count in sorted(report.verdicts.items()):
        doubt = f" ({report.unproved} of them not proved)" if verdict is Verdict.STALE and report.unproved else ""
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
