"""The sentences of CNI SPEC 1.1 that bind a plugin, and the mark of the tests that show that ours does what they say.

    @quotes("A plugin must exit with a return code of 0 on success, and non-zero on failure.")
    def test_exit_status(...):

The sentences are in ``tests/data/spec-1.1-sentences.txt``. To quote another one, or one in other words, is an error as
soon as the test is imported; that each is quoted is the promise of ``tests/unit/test_spec_sentences.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

_FILE = Path(__file__).parent.parent / "data" / "spec-1.1-sentences.txt"

F = TypeVar("F", bound=Callable[..., Any])


def _read(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line and not line.startswith("#"):
            assert section, f"{_FILE.name}: a sentence before the first section: {line}"
            assert line not in found, f"{_FILE.name}: twice: {line}"
            found[line] = section
    return found


SECTIONS = _read(_FILE.read_text(encoding="utf-8"))
"""Sentence -> the section of the specification that it is in."""


def quotes(*sentences: str) -> Callable[[F], F]:
    """Mark a test as the one, or one of those, that shows that our plugin does what these sentences say."""
    for sentence in sentences:
        assert sentence in SECTIONS, f"not a sentence of {_FILE.name}: {sentence}"

    def unchanged(test: F) -> F:
        return test

    return unchanged
