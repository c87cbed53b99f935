"""Frames as people and tools write them, and broken ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.checksums.frame import FrameError, LinkType, NoSegmentError, Transport, frames_of_text, link_type_of, parse

SEED = Path(__file__).parents[1] / "data" / "seed_stale_syn.hex"
FRAME = frames_of_text(SEED.read_text())[0]


def lines_of(frame: bytes) -> list[tuple[int, bytes]]:
    return [(at, frame[at : at + 16]) for at in range(0, len(frame), 16)]


def printable(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)


def as_tcpdump(frame: bytes) -> str:
    lines = ["12:00:00.000001 IP 10.0.2.2.54017 > 10.88.0.116.80: Flags [S], length 0"]
    lines += [f"\t0x{at:04x}:  {data.hex(' ', -2)}" for at, data in lines_of(frame)]
    return "\n".join(lines)


def as_tcpdump_with_text(frame: bytes) -> str:
    return "\n".join(f"\t0x{at:04x}:  {data.hex(' ', -2):<39}  {printable(data)}" for at, data in lines_of(frame))


def as_hexdump(frame: bytes) -> str:
    lines = [
        f"{at:08x}  {data[:8].hex(' '):<23}  {data[8:].hex(' '):<23}  |{printable(data)}|"
        for at, data in lines_of(frame)
    ]
    return "\n".join([*lines, f"{len(frame):08x}"])


def as_xxd(frame: bytes) -> str:
    return "\n".join(f"{at:08x}: {data.hex(' ', -2):<39}  {printable(data)}" for at, data in lines_of(frame))


def as_words(frame: bytes) -> str:
    return "# a comment\n" + "\n".join(f"  {data.hex(' ')}  # more" for _, data in lines_of(frame))


WRITERS = [as_tcpdump, as_tcpdump_with_text, as_hexdump, as_xxd, as_words, bytes.hex]


@pytest.mark.parametrize("write", WRITERS)
@given(frame=st.binary(min_size=1, max_size=100))
def test_every_way_of_writing_reads_back(write: object, frame: bytes) -> None:
    """What tcpdump, hexdump, xxd and people write reads back as the same bytes, text columns and all."""
    assert callable(write)
    assert frames_of_text(write(frame)) == [frame]


def test_offset_zero_starts_a_new_frame() -> None:
    """Several dumps in one text are several frames."""
    assert frames_of_text(as_tcpdump(FRAME) + "\n" + as_tcpdump(FRAME[:30])) == [FRAME, FRAME[:30]]


@pytest.mark.parametrize("text", ["", "# only a comment", "zz", "abc", "0x0000:  4500\n0x0020:  4500"])
def test_text_that_is_no_frame(text: str) -> None:
    """Text without digits, with half a byte, or with a line missing in the middle is refused."""
    with pytest.raises(FrameError, match="could not read"):
        frames_of_text(text)


@given(st.text(alphabet="0123456789abcdefx: |#\n\tz", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in another way than by its own error."""
    try:
        frames = frames_of_text(text)
    except FrameError:
        return
    assert all(frames)


def test_the_seed() -> None:
    """The seed's frame is the SYN that its comment describes."""
    segment = parse(FRAME)
    assert (segment.protocol, segment.length, segment.complete) == (Transport.TCP, 24, True)
    assert (str(segment.source), segment.source_port) == ("10.0.2.2", 54017)
    assert (str(segment.destination), segment.destination_port) == ("10.88.0.116", 80)
    assert segment.stored == 0xD776


@pytest.mark.parametrize(
    ("link", "header"),
    [
        (LinkType.ETHERNET, FRAME[:12] + b"\x81\x00\x00\x05\x08\x00"),
        (LinkType.ETHERNET, FRAME[:12] + b"\x88\xa8\x00\x05\x81\x00\x00\x06\x08\x00"),
        (LinkType.RAW, b""),
        (LinkType.LINUX_SLL, bytes(14) + b"\x08\x00"),
        (LinkType.LINUX_SLL2, b"\x08\x00" + bytes(18)),
    ],
)
def test_link_headers(link: LinkType, header: bytes) -> None:
    """The segment is found behind VLAN tags, both cooked headers and none at all."""
    assert parse(header + FRAME[14:], link) == parse(FRAME)


def test_link_type_is_recognised() -> None:
    """A dump without link layer, as tcpdump -x makes it, is told from Ethernet."""
    assert link_type_of(FRAME) is LinkType.ETHERNET
    assert link_type_of(FRAME[14:]) is LinkType.RAW


def test_padding_is_no_payload() -> None:
    """What Ethernet pads a short frame with is not part of the segment."""
    assert parse(FRAME + bytes(6)) == parse(FRAME)


def ipv6(following: int, body: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(body), following, 64) + bytes(15) + b"\1" + bytes(15) + b"\2" + body


UDP = struct.pack("!HHHH", 53, 5353, 8, 0xABCD)


def test_ipv6_extension_headers_are_stepped_over() -> None:
    """UDP is found behind hop-by-hop and destination options; its length leaves them out."""
    segment = parse(ipv6(0, bytes([60, 0]) + bytes(6) + bytes([17, 1]) + bytes(14) + UDP), LinkType.RAW)
    assert (segment.protocol, segment.destination_port, segment.length, segment.stored) == (
        Transport.UDP,
        5353,
        8,
        0xABCD,
    )


def test_icmpv6_is_read_and_has_no_ports() -> None:
    """ICMPv6's sum covers the addresses, so it is a segment; ICMP's does not, so it is none."""
    echo = struct.pack("!BBHHH", 128, 0, 0xBEEF, 7, 1)
    segment = parse(ipv6(58, echo), LinkType.RAW)
    assert (segment.protocol, segment.source_port, segment.destination_port) == (Transport.ICMPV6, 0, 0)
    assert (segment.stored, segment.length) == (0xBEEF, 8)


def test_what_follows_a_datagram_is_not_covered() -> None:
    """Where the UDP header says less than the IP header, the rest of the packet is no part of it."""
    segment = parse(ipv6(17, UDP + b"trailer"), LinkType.RAW)
    assert (segment.length, segment.data, segment.complete) == (8, UDP, True)


def test_fragments() -> None:
    """A first fragment has a segment that is not complete; a later one has none."""
    first = FRAME[:20] + b"\x20\x00" + FRAME[22:]
    assert not parse(first).complete
    assert not parse(ipv6(44, bytes([17, 0, 0, 1]) + bytes(4) + UDP), LinkType.RAW).complete
    with pytest.raises(NoSegmentError, match="later fragment"):
        parse(FRAME[:20] + b"\x00\x10" + FRAME[22:])
    with pytest.raises(NoSegmentError, match="later fragment"):
        parse(ipv6(44, bytes([17, 0, 0, 8]) + bytes(4) + UDP), LinkType.RAW)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (FRAME[:12] + b"\x08\x06" + FRAME[14:], "not IP"),
        (FRAME[:23] + b"\x01" + FRAME[24:], "ICMP, whose"),
        (FRAME[:23] + b"\x84" + FRAME[24:], "SCTP"),
    ],
)
def test_frames_without_a_segment(frame: bytes, why: str) -> None:
    """ARP, ICMP and SCTP are no errors of the frame, and the text says what they are."""
    with pytest.raises(NoSegmentError, match=why):
        parse(frame)


@given(st.integers(0, len(FRAME) - 5))
def test_a_frame_cut_anywhere_is_refused(length: int) -> None:
    """A frame that ends before its TCP header does is refused with what was missing."""
    with pytest.raises(FrameError, match="could not read"):
        parse(FRAME[:length])


@given(st.binary(max_size=120), st.sampled_from(list(LinkType)))
def test_any_bytes_are_read_or_refused(frame: bytes, link: LinkType) -> None:
    """No bytes make the parser fail in another way than by its own error."""
    try:
        segment = parse(frame, link)
    except FrameError:
        return
    assert len(segment.data) <= max(len(frame), segment.length)
