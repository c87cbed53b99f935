"""Checksum findings as text for people and as JSON fields. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from control.checksum import Evidence, Finding, KnownMapping, Rewrite, Verdict
from control.model import ChecksumPolicy


def describe(finding: Finding) -> str:
    """The verdict first, the evidence below it, and what to do last."""
    return "\n".join(_lines(finding))


def fields(finding: Finding) -> dict[str, object]:
    """A finding as JSON fields."""
    segment = finding.segment
    return {
        "verdict": finding.verdict,
        "protocol": segment.protocol,
        "source": {"address": str(segment.source), "port": segment.source_port},
        "destination": {"address": str(segment.destination), "port": segment.destination_port},
        "length": segment.length,
        "stored": f"{segment.stored:#06x}",
        "correct": None if finding.correct is None else f"{finding.correct:#06x}",
        "rewrite": None if finding.rewrite is None else _rewrite_fields(finding.rewrite),
    }


def _lines(finding: Finding) -> Iterator[str]:
    segment, protocol = finding.segment, finding.segment.protocol.upper()
    yield _headline(finding)
    yield (
        f"  frame     {segment.source}:{segment.source_port} > {segment.destination}:{segment.destination_port},"
        f" {protocol}, {segment.length} bytes"
    )
    wrong = f" (correct: {finding.correct:#06x})" if finding.correct not in {None, segment.stored} else ""
    yield f"  checksum  {segment.stored:#06x}{wrong}"
    if finding.rewrite is not None:
        yield from _rewrite_lines(finding, finding.rewrite)
    advice = _advice(finding)
    if advice:
        yield f"  to do     {advice}"


def _headline(finding: Finding) -> str:
    protocol = finding.segment.protocol.upper()
    match finding.verdict:
        case Verdict.RIGHT:
            return f"RIGHT: the {protocol} checksum is right."
        case Verdict.PARTIAL:
            return (
                f"PARTIAL: no error. The {protocol} checksum is not computed yet: the frame was captured on its "
                "sender's side, and the device is to complete it. tcpdump calls this incorrect."
            )
        case Verdict.ZERO:
            return "ZERO: no error. The sender of this UDP datagram chose to send no checksum."
        case Verdict.CORRUPT:
            return f"CORRUPT: the {protocol} checksum is wrong, and no address rewrite that is known explains it."
        case Verdict.UNVERIFIABLE:
            return f"UNVERIFIABLE: the {protocol} checksum covers bytes that this frame does not hold."
        case Verdict.STALE:
            side = "" if finding.rewrite is None else f"{finding.rewrite.side} "
            changes = (("address", finding.address_changed), ("port", finding.port_changed))
            parts = " and ".join(part for part, changed in changes if changed)
            return f"STALE: NAT rewrote the {side}{parts} and left the {protocol} checksum as it was."


def _rewrite_lines(finding: Finding, rewrite: Rewrite) -> Iterator[str]:
    difference = ((finding.correct or 0) - finding.segment.stored) % 0xFFFF
    before = f"{rewrite.side} {rewrite.address}:{rewrite.port}"
    yield f"  right for {before}; the difference, {difference:#06x}, is that rewrite"
    match rewrite.evidence:
        case Evidence.MAPPING:
            yield f"  proof     it is what this mapping rewrites: {rewrite.mapping}"
        case Evidence.ORIGIN:
            yield "  proof     it is the origin that was named with --origin"
        case Evidence.HOST_ADDRESS:
            yield f"  evidence  {rewrite.address} is an address of this host; none of its mappings does this rewrite"
        case Evidence.NEIGHBOURHOOD:
            yield (
                f"  inferred  {rewrite.address} is the one address in the client's /24 that fits. No mapping known "
                "here does this rewrite,"
            )
            yield "            and 1 in 259 random errors would find such an address: no proof"


def _advice(finding: Finding) -> str:
    match finding.verdict:
        case Verdict.RIGHT | Verdict.ZERO:
            return ""
        case Verdict.PARTIAL:
            return "capture where the frame is received to see the checksum that was sent"
        case Verdict.CORRUPT:
            return (
                "name the address that it was sent to with --origin, or look for a faulty device, driver or offload on "
                "the way (ethtool -k); such frames are never repaired"
            )
        case Verdict.UNVERIFIABLE:
            return "capture whole packets (tcpdump -s 0), and not fragments"
        case Verdict.STALE:
            if finding.rewrite is not None and finding.rewrite.evidence is Evidence.MAPPING:
                return f"have such frames repaired: dpctl checksum mode NETWORK {ChecksumPolicy.REPAIR}"
            return "find what rewrites it (nft list ruleset); only what our own mappings rewrite is ever repaired"


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
        "owner": mapping.owner,
    }
