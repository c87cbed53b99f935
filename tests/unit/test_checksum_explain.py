"""Verdicts over checksums, held against an independent sum."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from control.checksum import (
    Evidence,
    Finding,
    Knowledge,
    KnownMapping,
    Origin,
    Side,
    Verdict,
    correct_sum,
    explain,
    is_right,
    partial_sum,
)
from control.cli.checksum import checksum
from control.frame import Segment, frames_of_text, parse
from dataplane.types import Protocol

SEED = Path(__file__).parents[1] / "data" / "seed_stale_syn.hex"
MAPPING = KnownMapping(IPv4Address("10.0.2.15"), 8080, Protocol.TCP, IPv4Address("10.88.0.116"), 80, "front/web/eth0")
NOTHING = Knowledge()


def seed() -> Segment:
    return parse(frames_of_text(SEED.read_text())[0])


def made_for(
    source: str,
    source_port: int,
    destination: str,
    destination_port: int,
    protocol: Protocol = Protocol.TCP,
    payload: bytes = b"hello",
) -> Segment:
    """A segment with the right sum, computed byte by byte as RFC 1071 writes it."""
    if protocol is Protocol.TCP:
        data = struct.pack("!HHIIBBHHH", source_port, destination_port, 1, 0, 0x50, 2, 65535, 0, 0) + payload
    else:
        data = struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload
    covered = ip_address(source).packed + ip_address(destination).packed
    covered += struct.pack("!II", len(data), protocol.number) + data
    total = 0
    for high, low in zip(covered[::2], [*covered[1::2], 0], strict=False):
        total += high << 8 | low
        total = (total & 0xFFFF) + (total >> 16)
    stored = ~total & 0xFFFF or (0xFFFF if protocol is Protocol.UDP else 0)
    return with_stored(
        Segment(
            protocol,
            ip_address(source),
            ip_address(destination),
            source_port,
            destination_port,
            0,
            len(data),
            data,
            False,
        ),
        stored,
    )


def with_stored(segment: Segment, stored: int) -> Segment:
    at = 16 if segment.protocol is Protocol.TCP else 6
    data = segment.data[:at] + stored.to_bytes(2, "big") + segment.data[at + 2 :]
    return replace(segment, stored=stored, data=data)


def rewritten(segment: Segment, address: str, port: int, side: Side = Side.DESTINATION) -> Segment:
    """What NAT makes of it that forgets the checksum."""
    at = 0 if side is Side.SOURCE else 2
    data = segment.data[:at] + port.to_bytes(2, "big") + segment.data[at + 2 :]
    if side is Side.SOURCE:
        return replace(segment, source=ip_address(address), source_port=port, data=data)
    return replace(segment, destination=ip_address(address), destination_port=port, data=data)


addresses4 = st.builds(str, st.integers(1, 2**32 - 2).map(IPv4Address))
addresses6 = st.builds(str, st.integers(1, 2**128 - 2).map(IPv6Address))
pairs = st.tuples(addresses4, addresses4) | st.tuples(addresses6, addresses6)
ports = st.integers(1, 65535)
protocols = st.sampled_from([Protocol.TCP, Protocol.UDP])
payloads = st.binary(max_size=64)


@given(pairs, ports, ports, protocols, payloads)
def test_right_sums_are_right(
    pair: tuple[str, str], sport: int, dport: int, protocol: Protocol, payload: bytes
) -> None:
    """A sum computed as the RFC says is right, and is the one we would write, for both families and protocols."""
    segment = made_for(pair[0], sport, pair[1], dport, protocol, payload)
    assert explain(segment, NOTHING).verdict is Verdict.RIGHT
    assert correct_sum(segment) == segment.stored


@given(pairs, ports, ports, protocols, payloads, st.integers(0, 65535))
def test_the_correct_sum_repairs_any_field(
    pair: tuple[str, str], sport: int, dport: int, protocol: Protocol, payload: bytes, stored: int
) -> None:
    """Whatever the field holds, writing the correct sum makes the segment verify."""
    segment = with_stored(made_for(pair[0], sport, pair[1], dport, protocol, payload), stored)
    assert is_right(with_stored(segment, correct_sum(segment)))


@given(addresses4, ports, protocols, payloads, st.integers(0, 511))
def test_a_flipped_bit_is_never_right(source: str, sport: int, protocol: Protocol, payload: bytes, bit: int) -> None:
    """One flipped bit anywhere in the segment is never taken for a right sum."""
    segment = made_for(source, sport, "10.88.0.116", 80, protocol, payload)
    at = bit % (len(segment.data) * 8)
    data = bytearray(segment.data)
    data[at // 8] ^= 1 << at % 8
    field = 16 if protocol is Protocol.TCP else 6
    flipped = replace(segment, data=bytes(data), stored=int.from_bytes(data[field : field + 2], "big"))
    assert explain(flipped, NOTHING).verdict is not Verdict.RIGHT


def test_seed_by_inference() -> None:
    """Without any mapping the seed's frame is right for 10.0.2.15, which is called an inference."""
    finding = explain(seed(), NOTHING)
    assert (finding.verdict, finding.segment.stored, finding.correct) == (Verdict.STALE, 0xD776, 0xD8B9)
    assert finding.rewrite is not None
    assert (str(finding.rewrite.address), finding.rewrite.port) == ("10.0.2.15", 80)
    assert finding.rewrite.evidence is Evidence.NEIGHBOURHOOD
    assert finding.address_changed
    assert not finding.port_changed


@pytest.mark.parametrize(
    ("knowledge", "evidence"),
    [
        (Knowledge(mappings=(MAPPING,)), Evidence.MAPPING),
        (Knowledge((replace(MAPPING, host_address=None),), (IPv4Address("10.0.2.15"),)), Evidence.MAPPING),
        (Knowledge(origins=(Origin(IPv4Address("10.0.2.15")),)), Evidence.ORIGIN),
        (Knowledge(origins=(Origin(IPv4Address("10.0.2.15"), 80),)), Evidence.ORIGIN),
        (Knowledge(host_addresses=(IPv4Address("10.0.2.15"),)), Evidence.HOST_ADDRESS),
        (Knowledge((replace(MAPPING, protocol=Protocol.UDP),), (IPv4Address("10.0.2.16"),)), Evidence.NEIGHBOURHOOD),
        (Knowledge((replace(MAPPING, container_port=81),)), Evidence.NEIGHBOURHOOD),
    ],
)
def test_seed_by_what_is_known(knowledge: Knowledge, evidence: Evidence) -> None:
    """The strongest thing known explains the seed's frame; a mapping of other traffic does not."""
    finding = explain(seed(), knowledge)
    assert finding.rewrite is not None
    assert finding.rewrite.evidence is evidence
    assert finding.rewrite.mapping == (knowledge.mappings[0] if evidence is Evidence.MAPPING else None)


@pytest.mark.parametrize("at", [1, 4, 9, 13, 15, 23])
def test_seed_with_one_more_bit_wrong_is_corrupt(at: int) -> None:
    """With one more bit wrong the mapping explains the seed's frame no longer."""
    frame = seed()
    data = bytearray(frame.data)
    data[at] ^= 0x20
    broken = replace(frame, data=bytes(data), source_port=int.from_bytes(data[:2], "big"))
    assert explain(broken, Knowledge(mappings=(MAPPING,))).verdict is Verdict.CORRUPT


@pytest.mark.parametrize(
    ("before", "address_changed", "port_changed"),
    [
        (("10.0.2.15", 8080), True, True),
        (("10.0.2.15", 80), True, False),
        (("10.88.0.116", 8080), False, True),
    ],
)
def test_what_dnat_forgot(before: tuple[str, int], address_changed: bool, port_changed: bool) -> None:
    """A mapping explains a sum that missed its address, its port, or both, and the finding says which."""
    stale = rewritten(made_for("192.0.2.55", 40000, *before), "10.88.0.116", 80)
    finding = explain(stale, Knowledge(mappings=(MAPPING,)))
    assert finding.verdict is Verdict.STALE
    assert (finding.address_changed, finding.port_changed) == (address_changed, port_changed)


def test_a_reply_whose_source_was_rewritten() -> None:
    """A reply that NAT gave the published address and port back is explained from its source."""
    stale = rewritten(made_for("10.88.0.116", 80, "192.0.2.55", 40000), "10.0.2.15", 8080, Side.SOURCE)
    finding = explain(stale, Knowledge(mappings=(MAPPING,)))
    assert finding.rewrite is not None
    assert (finding.rewrite.side, str(finding.rewrite.address), finding.rewrite.port) == (
        Side.SOURCE,
        "10.88.0.116",
        80,
    )


@given(ports, protocols, payloads, st.integers(1, 65534))
def test_no_inference_inside_one_network(sport: int, protocol: Protocol, payload: bytes, error: int) -> None:
    """Between neighbours, where nothing is translated, a wrong sum is corrupt and nobody's address is made up."""
    segment = made_for("10.11.0.3", sport, "10.11.0.2", 80, protocol, payload)
    wrong = with_stored(segment, (segment.stored + error) % 0xFFFF or 0xFFFF)
    assert explain(wrong, NOTHING).verdict in {Verdict.CORRUPT, Verdict.PARTIAL}


@given(pairs, ports, ports, protocols)
def test_partial_is_the_senders_own_side(pair: tuple[str, str], sport: int, dport: int, protocol: Protocol) -> None:
    """A field that holds the pseudo-header's sum is no error, even where the capture is cut short."""
    segment = made_for(pair[0], sport, pair[1], dport, protocol)
    partial = with_stored(segment, partial_sum(segment))
    if is_right(partial) or (protocol is Protocol.UDP and partial.stored == 0):
        return
    assert explain(partial, NOTHING).verdict is Verdict.PARTIAL
    assert explain(replace(partial, data=partial.data[:-2]), NOTHING).verdict is Verdict.PARTIAL


def test_udp_without_a_checksum() -> None:
    """A UDP sum of zero is the sender's choice over IPv4, and an error over IPv6 (RFC 8200 8.1)."""
    assert (
        explain(with_stored(made_for("10.0.2.2", 1, "10.0.2.3", 2, Protocol.UDP), 0), NOTHING).verdict is Verdict.ZERO
    )
    assert (
        explain(with_stored(made_for("fd00::2", 1, "fd00::3", 2, Protocol.UDP), 0), NOTHING).verdict is Verdict.CORRUPT
    )


@pytest.mark.parametrize("cut", [{"fragment": True}, {"length": 900}])
def test_bytes_that_are_not_there_are_not_judged(cut: dict[str, int]) -> None:
    """A first fragment and a capture cut short are unverifiable, not corrupt."""
    finding = explain(replace(seed(), **cut), NOTHING)  # type: ignore[arg-type]  # fields of Segment, by name
    assert (finding.verdict, finding.correct) == (Verdict.UNVERIFIABLE, None)


def run(*words: str, input: bytes | None = None) -> tuple[int, str]:
    outcome = CliRunner().invoke(checksum, ["explain", *words], input=input, catch_exceptions=False)
    return outcome.exit_code, outcome.output


@pytest.fixture
def explained_seed(monkeypatch: pytest.MonkeyPatch) -> Finding:
    """No state is read: these tests run as any user, and not in a sandbox."""
    monkeypatch.setattr("control.cli.checksum._knowledge", lambda origins: (Knowledge(origins=origins), ""))
    return explain(seed(), NOTHING)


@pytest.mark.usefixtures("explained_seed")
def test_command_explains_the_seed() -> None:
    """``dpctl checksum explain`` says it all about the seed's frame, and exits with 3."""
    status, text = run(f"@{SEED}")
    assert status == 3
    assert text.startswith("STALE: NAT rewrote the destination address and left the TCP checksum")
    for part in ("10.0.2.2:54017 > 10.88.0.116:80", "0xd776 (correct: 0xd8b9)", "right for destination 10.0.2.15:80"):
        assert part in text
    assert "inferred" in text
    assert "\n  proof " not in text
    assert "\n  proof " in run(str(SEED), "--origin", "10.0.2.15:80")[1]


@pytest.mark.usefixtures("explained_seed")
def test_command_prints_json() -> None:
    """``--json`` carries the version, the verdict and the evidence."""
    status, text = run("-", "--json", "--origin", "10.0.2.15", input=SEED.read_bytes())
    said = json.loads(text)
    assert (status, said["version"], said["counts"]["stale"]) == (3, 1, 1)
    assert said["findings"][0]["rewrite"] == {
        "side": "destination",
        "address": "10.0.2.15",
        "port": 80,
        "evidence": "origin",
        "mapping": None,
    }


@pytest.mark.usefixtures("explained_seed")
@pytest.mark.parametrize("words", [["--origin", "10.0.2.15:0"], ["--origin", "web"], ["--origin", "[::1]:70000"], []])
def test_command_refuses_what_it_cannot_use(words: list[str]) -> None:
    """An origin that is no address, a port out of range and a missing frame are wrong usage."""
    assert run(*words, *([str(SEED)] if words else []))[0] == 2
