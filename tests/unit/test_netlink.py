"""Netlink attributes: what is written reads back, and nothing that is read breaks the reader."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.netlink import NESTED, attribute, attributes, text, text_attribute

KINDS = st.integers(0, 0x3FFF)


@given(st.dictionaries(KINDS, st.binary(max_size=40)))
def test_attributes_read_back_as_written(wanted: dict[int, bytes]) -> None:
    """Whatever the lengths, padding is neither lost nor read, and the flag of a nested one is no part of its type."""
    raw = b"".join(attribute(kind | (NESTED if kind % 2 else 0), value) for kind, value in wanted.items())
    assert len(raw) % 4 == 0
    assert attributes(raw) == wanted


@given(st.text("abcdefgh0189-_.", max_size=15))
def test_strings_read_back_as_written(word: str) -> None:
    """A string ends with its zero."""
    assert {kind: text(value) for kind, value in attributes(text_attribute(3, word)).items()} == {3: word}


@given(st.binary(max_size=64))
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    """Truncated and absurd lengths end the reading; a length of 0 does not make it endless."""
    assert all(len(value) <= len(raw) for value in attributes(raw).values())
