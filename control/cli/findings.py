"""Checksum findings as text for people and as JSON fields. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from control.checksums.checksum import Certainty, Finding, Verdict
from control.checksums.frame import SumState, Transport
from control.checksums.rewrites import Ends, Evidence, KnownMapping, Rewrite, Side, endpoint, ends_of
from control.cli.output import WIDTH
from control.model import ChecksumPolicy
from dataplane.abi import Translation
from dataplane.types import Address

_INDENT = 12
_COMMAND, _UNBROKEN = re.compile("`[^`]*`"), "\u00a0"
_WORDS = {Certainty.PROVED: "STALE", Certainty.LIKELY: "PROBABLY STALE", Certainty.INFERRED: "PERHAPS STALE"}
_STATES = {
    SumState.PARTIAL: "partial: the kernel says that the field holds no sum yet",
    SumState.VERIFIED: "verified: a device, or the kernel before it came here, found it right",
}
_FAULTY = "look for a faulty device, driver or offload on the way (`ethtool -k DEVICE`, `dpctl checksum scan`)"
_UNKNOWN = "no mapping known here does this rewrite"
_LABELS = {Certainty.PROVED: "proof", Certainty.LIKELY: "evidence", Certainty.INFERRED: "inferred"}


def describe(finding: Finding) -> str:
    """The verdict first, the evidence below it, and what to do last."""
    return "\n".join((_headline(finding), *(note(label, text) for label, text in _notes(finding))))


def note(label: str, text: str) -> str:
    """A line below a verdict, or several where it is long; a command in `backticks` stays on one line."""
    first = f"  {label}".ljust(_INDENT)
    rest = " " * _INDENT
    whole = _COMMAND.sub(lambda match: match[0].replace(" ", _UNBROKEN), text)
    lines = textwrap.fill(
        whole, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )
    return lines.replace(_UNBROKEN, " ")


def fields(finding: Finding) -> dict[str, object]:
    """A finding as JSON fields."""
    segment = finding.segment
    return {
        "verdict": finding.verdict,
        "certainty": finding.certainty,
        "chance_one_in": finding.one_in,
        "protocol": segment.protocol,
        "source": {"address": str(segment.source), "port": segment.source_port},
        "destination": {"address": str(segment.destination), "port": segment.destination_port},
        "length": segment.length,
        "stored": f"{segment.stored:#06x}",
        "correct": None if finding.correct is None else f"{finding.correct:#06x}",
        "state": finding.state,
        "rewrite": None if finding.rewrite is None else _rewrite_fields(finding, finding.rewrite),
        "tracked": None if finding.tracked is None else _ends_fields(finding.tracked),
        "receiver": None if finding.receiver is None else str(finding.receiver),
    }


def _headline(finding: Finding) -> str:
    segment, protocol = finding.segment, finding.segment.protocol.label
    match finding.verdict:
        case Verdict.RIGHT:
            return f"RIGHT: the {protocol} checksum is right."
        case Verdict.PARTIAL if finding.state is SumState.PARTIAL:
            return f"PARTIAL: no error, this is the sender's own side; the {protocol} checksum is not computed yet."
        case Verdict.PARTIAL:
            return f"PARTIAL: no error on the sender's own machine; the {protocol} checksum is not computed yet."
        case Verdict.ZERO:
            return "ZERO: no error; this UDP datagram carries no checksum, as IPv4 allows."
        case Verdict.CORRUPT if _zero(finding):
            return "CORRUPT: this UDP datagram carries no checksum, which IPv6 allows to tunnels alone."
        case Verdict.CORRUPT:
            return f"CORRUPT: the {protocol} checksum is wrong, and no address rewrite that is known explains it."
        case Verdict.UNVERIFIABLE if segment.fragment:
            return f"UNVERIFIABLE: the {protocol} checksum covers the fragments that follow, too."
        case Verdict.UNVERIFIABLE:
            there = f"{len(segment.data)} of the {segment.length} bytes"
            return f"UNVERIFIABLE: only {there} that the {protocol} checksum covers are here."
        case Verdict.STALE:
            return _stale_headline(finding)


def _stale_headline(finding: Finding) -> str:
    changes = (("address", finding.address_changed), ("port", finding.port_changed))
    parts = " and ".join(part for part, changed in changes if changed)
    stale = f"the {parts} rewrite by NAT left the sum stale"
    if finding.rewrite is None or finding.certainty in {None, Certainty.PROVED}:
        return f"STALE: {stale}."
    return f"{_WORDS[finding.certainty]}: if it was sent {_sent(finding, finding.rewrite)}, {stale}."


def _sent(finding: Finding, rewrite: Rewrite) -> str:
    before = _before(finding, rewrite)
    return {Side.SOURCE: f"from {before}", Side.DESTINATION: f"to {before}"}.get(
        finding.side or Side.BOTH, f"as {before}"
    )


def _notes(finding: Finding) -> Iterator[tuple[str, str]]:
    segment, rewrite = finding.segment, finding.rewrite
    yield "frame", f"{_flow(ends_of(segment))}, {segment.protocol.label}, {segment.length} bytes"
    yield "found", _found(finding)
    if finding.state in _STATES:
        yield "state", _STATES[finding.state]
    if rewrite is not None and finding.certainty is not None:
        yield _LABELS[finding.certainty], f"{_why(rewrite)}. Of random errors 1 in {finding.one_in} would fit as well"
    if finding.verdict is Verdict.CORRUPT and not _zero(finding):
        yield "tried", _tried(finding)
    if finding.tracked is not None and (rewrite is None or rewrite.evidence is not Evidence.CONNTRACK):
        yield "conntrack", _told(finding, finding.tracked)
    advice = _advice(finding)
    if advice:
        yield "to do", advice


def _found(finding: Finding) -> str:
    """The sum, and what it should be."""
    stored, correct = f"{finding.segment.stored:#06x}", f"{finding.correct or 0:#06x}"
    found = f"{finding.segment.protocol.label} checksum {stored}"
    match finding.verdict:
        case Verdict.STALE if finding.rewrite is not None:
            side = "" if finding.side is Side.BOTH else f"{finding.side} "
            return f"{found}, correct {correct}, right for {side}{_before(finding, finding.rewrite)}"
        case Verdict.CORRUPT if finding.correct is not None:
            return f"{found}, correct {correct} for these bytes"
        case Verdict.PARTIAL:
            # Not known where the capture was cut short.
            completed = "" if finding.correct is None else f" to {correct}"
            return f"{found}, which a device is to complete{completed}; tcpdump calls it incorrect"
        case _:
            return found


def _before(finding: Finding, rewrite: Rewrite) -> str:
    """What the sum is right for, as far as it differs from what the packet has."""
    before = rewrite.before
    if finding.side is Side.BOTH:
        return _flow(before)
    source = finding.side is Side.SOURCE
    address, port = (before.source, before.source_port) if source else (before.destination, before.destination_port)
    if not finding.port_changed:
        return str(address)
    return endpoint(address, port) if finding.address_changed else f"port {port}"


def _why(rewrite: Rewrite) -> str:
    before = rewrite.before
    match rewrite.evidence:
        case Evidence.CONNTRACK:
            mapping = "" if rewrite.mapping is None else f", by the mapping {rewrite.mapping}"
            return f"conntrack agrees: NAT made this of {_flow(before)}{mapping}"
        case Evidence.MAPPING:
            return f"the sum fits what this mapping rewrites: {rewrite.mapping}"
        case Evidence.ORIGIN:
            return "the sum fits the origin that was named with --origin"
        case Evidence.CONTAINER if rewrite.translation is Translation.BOTH:
            return f"the sum fits {_flow(before)}, of which both ends are rewritten: masquerade, and {rewrite.mapping}"
        case Evidence.CONTAINER:
            return f"the sum fits what masquerading rewrites for container {rewrite.container}"
        case Evidence.HOST_ADDRESS:
            return f"the sum fits {before.destination}, an address of this host; {_UNKNOWN}"
        case Evidence.NEIGHBOURHOOD:
            return f"the sum fits {before.destination}, in the client's /24; {_UNKNOWN}"


def _tried(finding: Finding) -> str:
    if finding.tried:
        plural = "" if finding.tried == 1 else "s"
        return f"{finding.tried} rewrite{plural} that NAT may have done; none leaves this sum"
    return "nothing: no mapping, container, host address or --origin is known that it could have been sent to"


def _told(finding: Finding, tracked: Ends) -> str:
    if tracked == ends_of(finding.segment):
        return "it tracks this flow, and NAT rewrites nothing of it"
    return f"it tracks this flow as made of {_flow(tracked)}, which this sum is not right for"


def _advice(finding: Finding) -> str:
    match finding.verdict:
        case Verdict.RIGHT | Verdict.ZERO:
            return ""
        case Verdict.PARTIAL if finding.state is SumState.PARTIAL:
            return "nothing: the device that it leaves by completes it, and from container to container nobody has to"
        case Verdict.PARTIAL:
            return (
                "nothing, if it was captured on the machine that sent it (from container to container it is never "
                "completed). If on another, have the sender complete it: `ethtool -K DEVICE tx off`"
            )
        case Verdict.CORRUPT if _zero(finding):
            return "nothing, if it is a tunnel whose ends agree on that (RFC 6935); else find what cleared the sum"
        case Verdict.CORRUPT if finding.tracked is not None:
            return f"{_FAULTY}. Such frames are never repaired"
        case Verdict.CORRUPT:
            return f"try where the client sent it with --origin ADDR:PORT, or {_FAULTY}. Such frames are never repaired"
        case Verdict.UNVERIFIABLE if finding.segment.fragment:
            return "take a packet of the same flow that is not fragmented"
        case Verdict.UNVERIFIABLE:
            return "give the whole frame: capture with `tcpdump -s 0`"
        case Verdict.STALE:
            return "" if finding.rewrite is None else _advice_on_stale(finding, finding.rewrite)


def _advice_on_stale(finding: Finding, rewrite: Rewrite) -> str:
    if rewrite.translation is not Translation.NONE:
        if finding.receiver is None:
            return "find what else rewrites it (`nft list ruleset`); only frames to containers are ever repaired"
        network = finding.receiver.network
        return (
            f"have such frames repaired, if they are not yet: `dpctl checksum mode {network} {ChecksumPolicy.REPAIR}`"
        )
    cause = "find what rewrites it (`nft list ruleset`); only what our own NAT rewrites is ever repaired"
    if finding.certainty is Certainty.PROVED:
        return cause
    sure = "make sure where the client sent it, and name that with --origin ADDR:PORT"
    if rewrite.evidence is Evidence.NEIGHBOURHOOD:
        return f"{sure}, or run this on the host that published the port"
    return f"{sure}. Then {cause}"


def _zero(finding: Finding) -> bool:
    segment = finding.segment
    return finding.verdict is Verdict.CORRUPT and segment.stored == 0 and segment.protocol is Transport.UDP


def _flow(ends: Ends) -> str:
    return f"{_end(ends.source, ends.source_port)} > {_end(ends.destination, ends.destination_port)}"


def _end(address: Address, port: int) -> str:
    return endpoint(address, port) if port else str(address)


def _rewrite_fields(finding: Finding, rewrite: Rewrite) -> dict[str, object]:
    before, source = rewrite.before, finding.side is Side.SOURCE
    return {
        "side": finding.side,
        "address": str(before.source if source else before.destination),
        "port": before.source_port if source else before.destination_port,
        "before": _ends_fields(before),
        "evidence": rewrite.evidence,
        "translation": rewrite.translation.name.lower(),
        "mapping": None if rewrite.mapping is None else _mapping_fields(rewrite.mapping),
        "container": None if rewrite.container is None else str(rewrite.container),
    }


def _ends_fields(ends: Ends) -> dict[str, object]:
    return {
        "source": {"address": str(ends.source), "port": ends.source_port},
        "destination": {"address": str(ends.destination), "port": ends.destination_port},
    }


def _mapping_fields(mapping: KnownMapping) -> dict[str, object]:
    return {
        "host_address": None if mapping.host_address is None else str(mapping.host_address),
        "host_port": mapping.host_port,
        "protocol": mapping.protocol,
        "container_address": str(mapping.container_address),
        "container_port": mapping.container_port,
        "owner": str(mapping.owner),
    }
