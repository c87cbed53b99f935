"""Checksum findings as text for people and as JSON fields. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from control.checksums.checksum import Certainty, Evidence, Finding, KnownMapping, Rewrite, Side, Verdict
from control.model import ChecksumPolicy
from dataplane.types import Address, Protocol

_INDENT, _WIDTH = 12, 110
_WORDS = {Certainty.PROVED: "STALE", Certainty.LIKELY: "PROBABLY STALE", Certainty.INFERRED: "PERHAPS STALE"}
_LABELS = {Certainty.PROVED: "proof", Certainty.LIKELY: "evidence", Certainty.INFERRED: "inferred"}


def describe(finding: Finding) -> str:
    """The verdict first, the evidence below it, and what to do last."""
    return "\n".join((_headline(finding), *(note(label, text) for label, text in _notes(finding))))


def note(label: str, text: str) -> str:
    """A line below a verdict, or several where it is long."""
    first = f"  {label}".ljust(_INDENT)
    rest = " " * _INDENT
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


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
        "rewrite": None if finding.rewrite is None else _rewrite_fields(finding.rewrite),
    }


def _headline(finding: Finding) -> str:
    segment, protocol = finding.segment, finding.segment.protocol.upper()
    match finding.verdict:
        case Verdict.RIGHT:
            return f"RIGHT: the {protocol} checksum is right."
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
    way = "to" if finding.rewrite.side is Side.DESTINATION else "from"
    return f"{_WORDS[finding.certainty]}: if it was sent {way} {_before(finding, finding.rewrite)}, {stale}."


def _notes(finding: Finding) -> Iterator[tuple[str, str]]:
    segment, rewrite = finding.segment, finding.rewrite
    source = _endpoint(segment.source, segment.source_port)
    destination = _endpoint(segment.destination, segment.destination_port)
    yield "frame", f"{source} > {destination}, {segment.protocol.upper()}, {segment.length} bytes"
    yield "found", _found(finding)
    if rewrite is not None and finding.certainty is not None:
        yield _LABELS[finding.certainty], f"{_why(rewrite)}. Of random errors 1 in {finding.one_in} would fit as well"
    if finding.verdict is Verdict.CORRUPT and not _zero(finding):
        yield "tried", _tried(finding)
    advice = _advice(finding)
    if advice:
        yield "to do", advice


def _found(finding: Finding) -> str:
    """The sum, and what it should be."""
    stored, correct = f"{finding.segment.stored:#06x}", f"{finding.correct or 0:#06x}"
    found = f"{finding.segment.protocol.upper()} checksum {stored}"
    match finding.verdict:
        case Verdict.STALE if finding.rewrite is not None:
            return f"{found}, correct {correct}, right for {finding.rewrite.side} {_before(finding, finding.rewrite)}"
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
    if not finding.port_changed:
        return str(rewrite.address)
    return _endpoint(rewrite.address, rewrite.port) if finding.address_changed else f"port {rewrite.port}"


def _why(rewrite: Rewrite) -> str:
    match rewrite.evidence:
        case Evidence.MAPPING:
            return f"the sum fits what this mapping rewrites: {rewrite.mapping}"
        case Evidence.ORIGIN:
            return "the sum fits the origin that was named with --origin"
        case Evidence.HOST_ADDRESS:
            return f"the sum fits {rewrite.address}, an address of this host; no mapping known here does this rewrite"
        case Evidence.NEIGHBOURHOOD:
            return f"the sum fits {rewrite.address}, in the client's /24; no mapping known here does this rewrite"


def _tried(finding: Finding) -> str:
    if finding.tried:
        plural = "" if finding.tried == 1 else "s"
        return f"{finding.tried} rewrite{plural} that NAT may have done; none leaves this sum"
    if finding.segment.destination.version == 6:
        return "nothing: IPv6 is held against --origin alone"
    return "nothing: no mapping, host address or --origin is known that it could have been sent to"


def _advice(finding: Finding) -> str:
    match finding.verdict:
        case Verdict.RIGHT | Verdict.ZERO:
            return ""
        case Verdict.PARTIAL:
            return (
                "nothing, if it was captured on the machine that sent it (from container to container it is never "
                "completed). If on another, have the sender complete it: ethtool -K DEVICE tx off"
            )
        case Verdict.CORRUPT if _zero(finding):
            return "nothing, if it is a tunnel whose ends agree on that (RFC 6935); else find what cleared the sum"
        case Verdict.CORRUPT:
            return (
                "try where the client sent it with --origin ADDR:PORT, or look for a faulty device, driver or offload "
                "on the way (ethtool -k DEVICE). Such frames are never repaired"
            )
        case Verdict.UNVERIFIABLE if finding.segment.fragment:
            return "take a packet of the same flow that is not fragmented"
        case Verdict.UNVERIFIABLE:
            return "give the whole frame: capture with tcpdump -s 0"
        case Verdict.STALE:
            return "" if finding.rewrite is None else _advice_on_stale(finding, finding.rewrite)


def _advice_on_stale(finding: Finding, rewrite: Rewrite) -> str:
    if rewrite.mapping is not None:
        if rewrite.side is Side.SOURCE:
            return "find what else rewrites replies (nft list ruleset); only frames to containers are ever repaired"
        network = rewrite.mapping.owner.network
        return f"have such frames repaired, if they are not yet: dpctl checksum mode {network} {ChecksumPolicy.REPAIR}"
    cause = "find what rewrites it (nft list ruleset); only what our own mappings rewrite is ever repaired"
    if finding.certainty is Certainty.PROVED:
        return cause
    sure = "make sure where the client sent it, and name that with --origin ADDR:PORT"
    if rewrite.evidence is Evidence.NEIGHBOURHOOD:
        return f"{sure}, or run this on the host that published the port"
    return f"{sure}. Then {cause}"


def _zero(finding: Finding) -> bool:
    return (
        finding.verdict is Verdict.CORRUPT and finding.segment.stored == 0 and finding.segment.protocol is Protocol.UDP
    )


def _endpoint(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _rewrite_fields(rewrite: Rewrite) -> dict[str, object]:
    return {
        "side": rewrite.side,
        "address": str(rewrite.address),
        "port": rewrite.port,
        "evidence": rewrite.evidence,
        "mapping": None if rewrite.mapping is None else _mapping_fields(rewrite.mapping),
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
