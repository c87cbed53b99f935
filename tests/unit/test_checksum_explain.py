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

from control.checksums.checksum import (
    MAX_PROVED,
    Certainty,
    Finding,
    Verdict,
    correct_sum,
    explain,
    is_right,
    partial_sum,
)
from control.checksums.frame import FrameError, Segment, SumState, Transport, frames_of_text, parse
from control.checksums.rewrites import Ends, Evidence, Knowledge, KnownContainer, KnownMapping, Origin, Side
from control.cli.checksum import checksum
from control.cli.findings import describe
from control.model import AttachmentKey
from dataplane.abi import Translation
from dataplane.types import Protocol

SEED = Path(__file__).parents[1] / "data" / "seed_stale_syn.hex"
WEB = AttachmentKey("front", "web", "eth0")
MAPPING = KnownMapping(IPv4Address("10.0.2.15"), 8080, Protocol.TCP, IPv4Address("10.88.0.116"), 80, WEB)
MANY = tuple(IPv4Address("198.51.100.0") + number for number in range(100))
NOTHING = Knowledge()


def seed() -> Segment:
    return parse(frames_of_text(SEED.read_text())[0])


def made_for(
    source: str,
    source_port: int,
    destination: str,
    destination_port: int,
    protocol: Transport = Transport.TCP,
    payload: bytes = b"hello",
) -> Segment:
    """A segment with the right sum, computed byte by byte as RFC 1071 writes it."""
    if protocol is Transport.TCP:
        data = struct.pack("!HHIIBBHHH", source_port, destination_port, 1, 0, 0x50, 2, 65535, 0, 0) + payload
    elif protocol is Transport.ICMPV6:
        data = struct.pack("!BBHHH", 128, 0, 0, 7, 1) + payload
    else:
        data = struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload
    covered = ip_address(source).packed + ip_address(destination).packed
    covered += struct.pack("!II", len(data), protocol.number) + data
    total = 0
    for high, low in zip(covered[::2], [*covered[1::2], 0], strict=False):
        total += high << 8 | low
        total = (total & 0xFFFF) + (total >> 16)
    stored = ~total & 0xFFFF or (0xFFFF if protocol is Transport.UDP else 0)
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
    at = {Transport.TCP: 16, Transport.UDP: 6, Transport.ICMPV6: 2}[segment.protocol]
    data = segment.data[:at] + stored.to_bytes(2, "big") + segment.data[at + 2 :]
    return replace(segment, stored=stored, data=data)


def rewritten(segment: Segment, address: str, port: int, side: Side = Side.DESTINATION) -> Segment:
    """What NAT makes of it that forgets the checksum."""
    at = 0 if side is Side.SOURCE else 2
    data = segment.data
    if segment.protocol is not Transport.ICMPV6:
        data = data[:at] + port.to_bytes(2, "big") + data[at + 2 :]
    if side is Side.SOURCE:
        return replace(segment, source=ip_address(address), source_port=port, data=data)
    return replace(segment, destination=ip_address(address), destination_port=port, data=data)


addresses4 = st.builds(str, st.integers(1, 2**32 - 2).map(IPv4Address))
addresses6 = st.builds(str, st.integers(1, 2**128 - 2).map(IPv6Address))
pairs = st.tuples(addresses4, addresses4) | st.tuples(addresses6, addresses6)
ports = st.integers(1, 65535)
protocols = st.sampled_from([Transport.TCP, Transport.UDP])
payloads = st.binary(max_size=64)


@given(pairs, ports, ports, protocols, payloads)
def test_right_sums_are_right(
    pair: tuple[str, str], sport: int, dport: int, protocol: Transport, payload: bytes
) -> None:
    """A sum computed as the RFC says is right, and is the one we would write, for both families and protocols."""
    segment = made_for(pair[0], sport, pair[1], dport, protocol, payload)
    assert explain(segment, NOTHING).verdict is Verdict.RIGHT
    assert correct_sum(segment) == segment.stored


@given(pairs, ports, ports, protocols, payloads, st.integers(0, 65535))
def test_the_correct_sum_repairs_any_field(
    pair: tuple[str, str], sport: int, dport: int, protocol: Transport, payload: bytes, stored: int
) -> None:
    """Whatever the field holds, writing the correct sum makes the segment verify."""
    segment = with_stored(made_for(pair[0], sport, pair[1], dport, protocol, payload), stored)
    assert is_right(with_stored(segment, correct_sum(segment)))


@given(addresses4, ports, protocols, payloads, st.integers(0, 511))
def test_a_flipped_bit_is_never_right(source: str, sport: int, protocol: Transport, payload: bytes, bit: int) -> None:
    """One flipped bit anywhere in the segment is never taken for a right sum."""
    segment = made_for(source, sport, "10.88.0.116", 80, protocol, payload)
    at = bit % (len(segment.data) * 8)
    data = bytearray(segment.data)
    data[at // 8] ^= 1 << at % 8
    field = 16 if protocol is Transport.TCP else 6
    flipped = replace(segment, data=bytes(data), stored=int.from_bytes(data[field : field + 2], "big"))
    assert explain(flipped, NOTHING).verdict is not Verdict.RIGHT


def test_seed_by_inference() -> None:
    """Without any mapping the seed's frame is right for 10.0.2.15, which is called an inference."""
    finding = explain(seed(), NOTHING)
    assert (finding.verdict, finding.segment.stored, finding.correct) == (Verdict.STALE, 0xD776, 0xD8B9)
    assert finding.rewrite is not None
    assert (str(finding.rewrite.before.destination), finding.rewrite.before.destination_port) == ("10.0.2.15", 80)
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
        (Knowledge(origins=(Origin(IPv4Address("10.0.2.15"), 8080),)), Evidence.ORIGIN),
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


@pytest.mark.parametrize(
    ("knowledge", "tried", "one_in", "certainty"),
    [
        (Knowledge((MAPPING,)), 3, 21845, Certainty.PROVED),
        (Knowledge((replace(MAPPING, host_port=80),)), 1, 65535, Certainty.PROVED),
        (Knowledge((replace(MAPPING, host_address=None),), (IPv4Address("10.0.2.15"), *MANY)), 203, 322, "likely"),
        (Knowledge(origins=(Origin(IPv4Address("10.0.2.15")),)), 1, 65535, Certainty.PROVED),
        (Knowledge(origins=(Origin(IPv4Address("10.0.2.15")), *map(Origin, MANY))), 101, 648, Certainty.LIKELY),
        (Knowledge((), (IPv4Address("10.0.2.15"), *MANY[:3])), 4, 16383, Certainty.LIKELY),
        (Knowledge((), (IPv4Address("10.0.2.15"), *MANY)), 101, 648, Certainty.INFERRED),
        (NOTHING, 253, 259, Certainty.INFERRED),
        (Knowledge((), MANY[:3]), 256, 255, Certainty.INFERRED),
    ],
)
def test_certainty_falls_with_the_number_tried(
    knowledge: Knowledge, tried: int, one_in: int, certainty: Certainty
) -> None:
    """The more errors the evidence would have explained, the less is it relied on; only what is known proves."""
    finding = explain(seed(), knowledge)
    assert (finding.verdict, finding.tried, finding.one_in) == (Verdict.STALE, tried, one_in)
    assert finding.certainty == certainty


def test_the_chance_is_what_errors_show() -> None:
    """Of all wrong sums that there are, exactly as many are called stale as are said to have been tried for it."""
    knowledge = Knowledge((replace(MAPPING, host_address=None),), MANY[:3])
    findings = [explain(with_stored(seed(), stored), knowledge) for stored in range(0xFFFF)]
    stale = [one for one in findings if one.verdict is Verdict.STALE and one.certainty is Certainty.PROVED]
    assert [one.tried for one in stale] == [len(stale)] * 7


def test_a_proof_is_rarely_chance() -> None:
    """What counts as proved would be found by chance in at most one of 1,000 random errors."""
    assert 0xFFFF // MAX_PROVED >= 1000 > 0xFFFF // (MAX_PROVED + 1)


@pytest.mark.parametrize("origin", ["10.0.2.16", "203.0.113.9"])
def test_nothing_is_inferred_against_the_user(origin: str) -> None:
    """Where the user names the destination and the sum does not fit it, no other address is made up for it."""
    finding = explain(seed(), Knowledge(origins=(Origin(IPv4Address(origin), 80),)))
    assert (finding.verdict, finding.certainty, finding.one_in, finding.tried) == (Verdict.CORRUPT, None, None, 1)


@pytest.mark.parametrize("before", [("10.0.2.15", 8080), ("10.0.2.15", 80), ("10.88.0.116", 8080)])
def test_a_named_origin_is_tried_as_a_mapping_is(before: tuple[str, int]) -> None:
    """Of the origin that the user names, the sum may have missed the address, the port, or both."""
    stale = rewritten(made_for("192.0.2.55", 40000, *before), "10.88.0.116", 80)
    finding = explain(stale, Knowledge(origins=(Origin(IPv4Address("10.0.2.15"), 8080),)))
    assert finding.rewrite is not None
    assert (finding.rewrite.evidence, finding.certainty) == (Evidence.ORIGIN, Certainty.PROVED)
    assert (str(finding.rewrite.before.destination), finding.rewrite.before.destination_port) == before


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
    before = finding.rewrite.before
    assert (finding.side, str(before.source), before.source_port) == (
        Side.SOURCE,
        "10.88.0.116",
        80,
    )


HOST, GATEWAY, OUTSIDE = "10.0.2.15", "10.88.0.1", "198.51.100.9"
SHOP = AttachmentKey("front", "shop", "eth0")
CONTAINERS = (
    KnownContainer(IPv4Address("10.88.0.116"), True, WEB),
    KnownContainer(IPv4Address("10.88.0.117"), True, SHOP),
)
FULL = Knowledge((MAPPING,), (IPv4Address(HOST), IPv4Address(GATEWAY)), CONTAINERS)


def moved(segment: Segment, source: tuple[str, int] | None, destination: tuple[str, int] | None) -> Segment:
    """What NAT makes of both ends that forgets the checksum."""
    if source is not None:
        segment = rewritten(segment, *source, Side.SOURCE)
    return segment if destination is None else rewritten(segment, *destination)


@pytest.mark.parametrize(
    ("made", "source", "destination", "translation", "receiver"),
    [
        (("192.0.2.55", 4000, HOST, 8080), None, ("10.88.0.116", 80), Translation.PUBLISHED, WEB),
        (("10.88.0.116", 80, "192.0.2.55", 4000), (HOST, 8080), None, Translation.REPLY, None),
        (("10.88.0.117", 4000, OUTSIDE, 443), (HOST, 4000), None, Translation.MASQUERADE, None),
        ((OUTSIDE, 443, HOST, 4000), None, ("10.88.0.117", 4000), Translation.UNMASQUERADE, SHOP),
        (("10.88.0.117", 4000, HOST, 8080), (GATEWAY, 4000), ("10.88.0.116", 80), Translation.BOTH, WEB),
        (("10.88.0.116", 80, GATEWAY, 4000), (HOST, 8080), ("10.88.0.117", 4000), Translation.BOTH, SHOP),
        (("127.0.0.1", 4000, "127.0.0.1", 8080), (GATEWAY, 4000), ("10.88.0.116", 80), Translation.BOTH, WEB),
    ],
)
def test_each_translation_is_told(
    made: tuple[str, int, str, int],
    source: tuple[str, int] | None,
    destination: tuple[str, int] | None,
    translation: Translation,
    receiver: AttachmentKey | None,
) -> None:
    """Whatever of our NAT a sum has missed is proved, named, and told with the tuple that it was made for."""
    made_it = made_for(*made)
    finding = explain(moved(made_it, source, destination), FULL)
    assert (finding.verdict, finding.certainty) == (Verdict.STALE, Certainty.PROVED)
    assert finding.rewrite is not None
    assert finding.rewrite.translation is translation
    assert finding.rewrite.before == Ends(ip_address(made[0]), made[1], ip_address(made[2]), made[3])
    assert finding.receiver == receiver
    _, notes = described(finding)
    assert ("dpctl checksum mode front repair" in notes["to do"]) == (receiver is not None)


@pytest.mark.parametrize("protocol", [Transport.TCP, Transport.UDP, Transport.ICMPV6])
def test_ipv6_is_explained_as_ipv4_is(protocol: Transport) -> None:
    """Masquerade and published ports of IPv6 are proved alike, and of ICMPv6 what has no ports."""
    container = KnownContainer(IPv6Address("fd00:11::2"), True, WEB)
    mapping = KnownMapping(None, 8080, Protocol.TCP, IPv6Address("fd00:11::2"), 80, WEB)
    known = Knowledge((mapping,), (IPv6Address("2001:db8::1"),), (container,))
    ends = (0, 0) if protocol is Transport.ICMPV6 else (443, 4000)
    stale = rewritten(made_for("2001:db8::9", ends[0], "2001:db8::1", ends[1], protocol), "fd00:11::2", ends[1])
    finding = explain(stale, known)
    assert finding.rewrite is not None
    assert finding.rewrite.translation is Translation.UNMASQUERADE
    if protocol is Transport.TCP:
        stale = rewritten(made_for("2001:db8::9", 4000, "2001:db8::1", 8080), "fd00:11::2", 80)
        headline, notes = described(explain(stale, known))
        assert headline.startswith("STALE: the address and port rewrite")
        assert "*:8080/tcp -> [fd00:11::2]:80" in notes["proof"]


def test_conntrack_makes_certain_what_many_addresses_do_not() -> None:
    """Of a port that is published on a hundred addresses, conntrack's tuple proves what trying them all does not."""
    many = Knowledge((replace(MAPPING, host_address=None, host_port=80),), (IPv4Address(HOST), *MANY))
    assert explain(seed(), many).certainty is Certainty.LIKELY
    was = Ends(seed().source, 54017, IPv4Address(HOST), 80)
    finding = explain(seed(), many, was)
    assert (finding.certainty, finding.tried, finding.tracked) == (Certainty.PROVED, 1, was)
    _, notes = described(finding)
    assert notes["proof"].startswith(
        "conntrack agrees: NAT made this of 10.0.2.2:54017 > 10.0.2.15:80, by the mapping *:80"
    )


def test_conntrack_may_disagree() -> None:
    """A proof that conntrack contradicts is none, and what conntrack says is told; of a corrupt sum, too."""
    elsewhere = Ends(seed().source, 54017, IPv4Address("10.0.2.99"), 80)
    finding = explain(seed(), Knowledge((MAPPING,)), elsewhere)
    assert finding.certainty is Certainty.LIKELY
    headline, notes = described(finding)
    assert headline.startswith("PROBABLY STALE")
    assert "10.0.2.2:54017 > 10.0.2.99:80, which this sum is not right for" in notes["conntrack"]
    untouched = Ends(seed().source, 54017, seed().destination, 80)
    _, notes = described(explain(with_stored(seed(), 0x1234), NOTHING, untouched))
    assert notes["conntrack"] == "it tracks this flow, and NAT rewrites nothing of it"
    assert "--origin" not in notes["to do"]


def test_the_kernel_knows_what_is_partial() -> None:
    """What the kernel calls partial is, whatever the field holds; a full sum that looks so is judged as what it is."""
    finding = explain(with_stored(seed(), 0x1234), NOTHING, state=SumState.PARTIAL)
    headline, notes = described(finding)
    assert headline == "PARTIAL: no error, this is the sender's own side; the TCP checksum is not computed yet."
    assert notes["state"].startswith("partial")
    assert notes["to do"].startswith("nothing")
    looks_so = with_stored(seed(), partial_sum(seed()))
    assert explain(looks_so, NOTHING).verdict is Verdict.PARTIAL
    assert explain(looks_so, NOTHING, state=SumState.UNKNOWN).verdict is Verdict.CORRUPT


@given(ports, protocols, payloads, st.integers(1, 65534))
def test_no_inference_inside_one_network(sport: int, protocol: Transport, payload: bytes, error: int) -> None:
    """Between neighbours, where nothing is translated, a wrong sum is corrupt and nobody's address is made up."""
    segment = made_for("10.11.0.3", sport, "10.11.0.2", 80, protocol, payload)
    wrong = with_stored(segment, (segment.stored + error) % 0xFFFF or 0xFFFF)
    assert explain(wrong, NOTHING).verdict in {Verdict.CORRUPT, Verdict.PARTIAL}


@given(pairs, ports, ports, protocols)
def test_partial_is_the_senders_own_side(pair: tuple[str, str], sport: int, dport: int, protocol: Transport) -> None:
    """A field that holds the pseudo-header's sum is no error, even where the capture is cut short."""
    segment = made_for(pair[0], sport, pair[1], dport, protocol)
    partial = with_stored(segment, partial_sum(segment))
    if is_right(partial) or (protocol is Transport.UDP and partial.stored == 0):
        return
    assert explain(partial, NOTHING).verdict is Verdict.PARTIAL
    assert explain(replace(partial, data=partial.data[:-2]), NOTHING).verdict is Verdict.PARTIAL


def test_udp_without_a_checksum() -> None:
    """A UDP sum of zero is the sender's choice over IPv4, and an error over IPv6 (RFC 8200 8.1)."""
    assert (
        explain(with_stored(made_for("10.0.2.2", 1, "10.0.2.3", 2, Transport.UDP), 0), NOTHING).verdict is Verdict.ZERO
    )
    assert (
        explain(with_stored(made_for("fd00::2", 1, "fd00::3", 2, Transport.UDP), 0), NOTHING).verdict is Verdict.CORRUPT
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
    monkeypatch.setattr("control.cli.checksum.explain._knowledge", lambda origins: (Knowledge(origins=origins), ""))
    return explain(seed(), NOTHING)


@pytest.mark.usefixtures("explained_seed")
def test_command_explains_the_seed() -> None:
    """``dpctl checksum explain`` says what the seed's frame looks like without calling it proved, and exits with 3."""
    status, text = run(f"@{SEED}")
    assert status == 3
    assert text.startswith(
        "PERHAPS STALE: if it was sent to 10.0.2.15, the address rewrite by NAT left the sum stale.\n"
        "  frame     10.0.2.2:54017 > 10.88.0.116:80, TCP, 24 bytes\n"
        "  found     TCP checksum 0xd776, correct 0xd8b9, right for destination 10.0.2.15\n"
        "  inferred  "
    )
    assert "1 in 259" in text
    assert "--origin ADDR:PORT" in text
    assert "proof" not in text


@pytest.mark.usefixtures("explained_seed")
@pytest.mark.parametrize("origin", ["10.0.2.15", "10.0.2.15:80", "10.0.2.15:8080"])
def test_command_takes_the_advice_it_gives(origin: str) -> None:
    """With the origin that the user was asked for, the seed's sum is stale without an if."""
    status, text = run(str(SEED), "--origin", origin)
    assert status == 3
    assert text.startswith("STALE: the address rewrite by NAT left the sum stale.\n")
    assert "\n  found     TCP checksum 0xd776, correct 0xd8b9, right for destination 10.0.2.15\n  proof     " in text
    assert "make sure" not in text


@pytest.mark.usefixtures("explained_seed")
@pytest.mark.parametrize(
    ("words", "certainty", "one_in"), [([], "inferred", 259), (["--origin", "10.0.2.15"], "proved", 65535)]
)
def test_command_prints_json(words: list[str], certainty: str, one_in: int) -> None:
    """``--json`` carries the version, the verdict, and how far it can be relied on."""
    status, text = run("-", "--json", *words, input=SEED.read_bytes())
    said = json.loads(text)
    assert (status, said["version"], said["counts"]["stale"]) == (3, 1, 1)
    found = said["findings"][0]
    assert (found["verdict"], found["certainty"], found["chance_one_in"]) == ("stale", certainty, one_in)
    assert (found["stored"], found["correct"]) == ("0xd776", "0xd8b9")
    assert found["rewrite"] == {
        "side": "destination",
        "address": "10.0.2.15",
        "port": 80,
        "before": {
            "source": {"address": "10.0.2.2", "port": 54017},
            "destination": {"address": "10.0.2.15", "port": 80},
        },
        "evidence": "origin" if words else "neighbourhood",
        "translation": "none",
        "mapping": None,
        "container": None,
    }


def described(finding: Finding) -> tuple[str, dict[str, str]]:
    """The headline, and what is said under each label."""
    headline, *lines = describe(finding).splitlines()
    notes: dict[str, str] = {}
    label = ""
    for line in lines:
        label = line[:12].strip() or label
        notes[label] = f"{notes.get(label, '')} {line[12:]}".strip()
    return headline, notes


@pytest.mark.parametrize(
    ("knowledge", "word", "label"),
    [
        (Knowledge((MAPPING,)), "STALE", "proof"),
        (
            Knowledge((replace(MAPPING, host_address=None),), (IPv4Address("10.0.2.15"), *MANY)),
            *("PROBABLY", "evidence"),
        ),
        (Knowledge((), (IPv4Address("10.0.2.15"),)), "PROBABLY", "evidence"),
        (NOTHING, "PERHAPS", "inferred"),
    ],
)
def test_the_first_word_is_as_sure_as_the_evidence(knowledge: Knowledge, word: str, label: str) -> None:
    """What is not proved is said with a doubt in the first word and with an if, whatever it rests on."""
    headline, notes = described(explain(seed(), knowledge))
    assert headline.split()[0].rstrip(":") == word
    assert ("if it was sent to 10.0.2.15" in headline) == (word != "STALE")
    assert list(notes) == ["frame", "found", label, "to do"]


def test_a_mapping_is_named_with_what_repairs_it() -> None:
    """A mapping that explains the sum is named, and the command that has it repaired names its network."""
    _, notes = described(explain(seed(), Knowledge((MAPPING,))))
    assert "10.0.2.15:8080/tcp -> 10.88.0.116:80 (front/web/eth0)" in notes["proof"]
    assert notes["to do"].endswith("`dpctl checksum mode front repair`")


def test_no_repair_is_promised_for_what_leaves() -> None:
    """Replies to the outside are explained, and not said to be repaired: frames to containers alone are."""
    stale = rewritten(made_for("10.88.0.116", 80, "192.0.2.55", 40000), "10.0.2.15", 8080, Side.SOURCE)
    headline, notes = described(explain(stale, Knowledge((MAPPING,))))
    assert headline == "STALE: the address and port rewrite by NAT left the sum stale."
    assert "right for source 10.88.0.116:80" in notes["found"]
    assert "checksum mode" not in notes["to do"]


@pytest.mark.parametrize(
    ("segment", "headline", "said"),
    [
        (
            with_stored(made_for("10.11.0.3", 1, "10.12.0.2", 2), 0x1234),
            "CORRUPT: the TCP checksum is wrong, and no address rewrite that is known explains it.",
            {"tried": "253 rewrites", "to do": "--origin ADDR:PORT"},
        ),
        (
            with_stored(made_for("10.11.0.3", 1, "10.11.0.2", 2), 0x1234),
            "CORRUPT: the TCP checksum is wrong, and no address rewrite that is known explains it.",
            {"tried": "nothing"},
        ),
        (
            with_stored(made_for("fd00::2", 1, "fd00::3", 2), 0x1234),
            "CORRUPT: the TCP checksum is wrong, and no address rewrite that is known explains it.",
            {"frame": "[fd00::2]:1 > [fd00::3]:2", "tried": "nothing: no mapping"},
        ),
        (
            with_stored(made_for("fd00::2", 1, "fd00::3", 2, Transport.UDP), 0),
            "CORRUPT: this UDP datagram carries no checksum, which IPv6 allows to tunnels alone.",
            {"to do": "RFC 6935"},
        ),
        (
            with_stored(made_for("10.0.2.2", 1, "10.0.2.3", 2, Transport.UDP), 0),
            "ZERO: no error; this UDP datagram carries no checksum, as IPv4 allows.",
            {"found": "UDP checksum 0x0000"},
        ),
        (
            replace(seed(), data=seed().data[:-4]),
            "UNVERIFIABLE: only 20 of the 24 bytes that the TCP checksum covers are here.",
            {"to do": "tcpdump -s 0"},
        ),
        (
            replace(seed(), fragment=True),
            "UNVERIFIABLE: the TCP checksum covers the fragments that follow, too.",
            {"to do": "not fragmented"},
        ),
        (
            with_stored(seed(), partial_sum(seed())),
            "PARTIAL: no error on the sender's own machine; the TCP checksum is not computed yet.",
            {"found": "to 0xd8b9; tcpdump calls it incorrect", "to do": "tx off"},
        ),
    ],
)
def test_what_is_said_of_other_frames(segment: Segment, headline: str, said: dict[str, str]) -> None:
    """Each verdict comes first, says no more than is known, and says what to do."""
    first, notes = described(explain(segment, NOTHING))
    assert first == headline
    for label, part in said.items():
        assert part in notes[label]


@pytest.mark.usefixtures("explained_seed")
@pytest.mark.parametrize("name", ["no/such/file.hex", "seed.hex", "@d776"])
def test_a_file_that_is_not_there_is_said_to_be_missing(name: str) -> None:
    """A word that is no hex is a file's name, and a missing file is not taken for broken hex."""
    with pytest.raises(FrameError, match="there is no such file"):
        run(name)


@pytest.mark.usefixtures("explained_seed")
def test_hex_text_that_is_broken_is_no_file() -> None:
    """Several words with something else than hex among them are refused as hex."""
    with pytest.raises(FrameError, match="not hex digits"):
        run("ea56 b4c6 4fxx")


@pytest.mark.usefixtures("explained_seed")
@pytest.mark.parametrize("words", [["--origin", "10.0.2.15:0"], ["--origin", "web"], ["--origin", "[::1]:70000"], []])
def test_command_refuses_what_it_cannot_use(words: list[str]) -> None:
    """An origin that is no address, a port out of range and a missing frame are wrong usage."""
    assert run(*words, *([str(SEED)] if words else []))[0] == 2
