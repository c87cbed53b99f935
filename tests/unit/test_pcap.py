"""Capture files in every form that they are written in."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from control.checksums.frame import FrameError, LinkType, frames_of_text
from control.checksums.pcap import Record, is_capture, read_capture
from control.checksums.rewrites import Knowledge
from control.cli.checksum import checksum

FRAME = frames_of_text((Path(__file__).parents[1] / "data" / "seed_stale_syn.hex").read_text())[0]
ARP = FRAME[:12] + b"\x08\x06" + bytes(28)
RIGHT = FRAME[:50] + b"\xd8\xb9" + FRAME[52:]


def pcap(order: str, magic: int, link: int, *frames: bytes) -> bytes:
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, link)
    return head + b"".join(struct.pack(f"{order}IIII", 1, 2, len(one), len(one)) + one for one in frames)


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def pcapng(order: str, link: int, *frames: bytes) -> bytes:
    section = block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
    interface = block(order, 1, struct.pack(f"{order}HHI", link, 0, 0))
    statistics = block(order, 5, bytes(12))
    enhanced = [block(order, 6, struct.pack(f"{order}IIIII", 0, 0, 0, len(one), len(one)) + one) for one in frames[:-1]]
    simple = block(order, 3, struct.pack(f"{order}I", len(frames[-1])) + frames[-1])
    return section + interface + b"".join(enhanced) + statistics + simple


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D])
@pytest.mark.parametrize("link", [LinkType.ETHERNET, LinkType.RAW, LinkType.LINUX_SLL])
def test_classic_captures(order: str, magic: int, link: LinkType) -> None:
    """pcap reads the same in both byte orders, with microseconds and with nanoseconds, for each link type."""
    raw = pcap(order, magic, link, FRAME, ARP)
    assert is_capture(raw)
    assert list(read_capture(raw)) == [Record(1, link, FRAME), Record(2, link, ARP)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_captures(order: str) -> None:
    """pcapng's enhanced and simple packets are read in both byte orders, also from two sections in one file."""
    raw = pcapng(order, 1, FRAME, ARP)
    assert is_capture(raw)
    assert [record.frame for record in read_capture(raw + raw)] == [FRAME, ARP, FRAME, ARP]
    assert {record.link for record in read_capture(raw)} == {LinkType.ETHERNET}


@pytest.mark.parametrize("raw", [pcap("<", 0xA1B2C3D4, 1, FRAME), pcapng("<", 1, FRAME)])
def test_a_capture_cut_short(raw: bytes) -> None:
    """A capture that ends inside of a packet is refused there."""
    with pytest.raises(FrameError, match="the file ends in it"):
        list(read_capture(raw[:-2]))


@pytest.mark.parametrize("raw", [b"", b"\xd4\xc3", b"hello world, this is text", pcap("<", 0xA1B2C3D4, 147, FRAME)])
def test_what_is_no_capture(raw: bytes) -> None:
    """Another file, an empty one and an unknown link type are refused."""
    with pytest.raises(FrameError, match="could not read the capture"):
        list(read_capture(raw))


@given(st.sampled_from([b"", pcap("<", 0xA1B2C3D4, 1), pcapng(">", 1, FRAME)]), st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(start: bytes, rest: bytes) -> None:
    """No bytes make the reader fail in another way than by its own error, or run for ever."""
    try:
        assert len(list(read_capture(start + rest))) <= len(start + rest)
    except FrameError:
        return


@pytest.fixture
def capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A capture with one right, one stale and one other frame."""
    monkeypatch.setattr("control.cli.checksum.explain._knowledge", lambda origins: (Knowledge(origins=origins), ""))
    path = tmp_path / "three.pcap"
    path.write_bytes(pcap("<", 0xA1B2C3D4, 1, RIGHT, FRAME, ARP))
    return path


def test_command_reports_problems_and_counts_the_rest(capture: Path) -> None:
    """Of a capture the frames with a problem are shown, and all are counted."""
    outcome = CliRunner().invoke(checksum, ["explain", "--pcap", str(capture)], catch_exceptions=False)
    assert outcome.exit_code == 3
    assert outcome.output.startswith("frame 2: PERHAPS STALE: ")
    assert outcome.output.endswith("checksums: 1 right, 1 stale (1 of them not proved); other frames: 1\n")


def test_command_takes_a_capture_by_its_name(capture: Path) -> None:
    """A capture is recognised by its content where hex text would be expected; ``--all`` lists right frames too."""
    outcome = CliRunner().invoke(checksum, ["explain", str(capture), "--all", "--json"], catch_exceptions=False)
    said = json.loads(outcome.output)
    assert [(one["frame"], one["verdict"]) for one in said["findings"]] == [(1, "right"), (2, "stale")]
    assert said["passed_over"] == 1


def test_command_tells_what_it_found_before_a_break(capture: Path) -> None:
    """A capture that breaks off is judged up to there, and the command fails."""
    capture.write_bytes(capture.read_bytes()[:-4])
    outcome = CliRunner().invoke(checksum, ["explain", "--pcap", str(capture)])
    assert isinstance(outcome.exception, FrameError)
    assert outcome.output.startswith("frame 2: PERHAPS STALE: ")
