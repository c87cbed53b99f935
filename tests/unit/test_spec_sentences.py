"""Each sentence of SPEC 1.1 that binds a plugin is quoted by a test that shows that ours does it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.spec import SECTIONS, quotes

TESTS = Path(__file__).parent.parent


def quoted(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(sentence, name of the test), for every use of ``quotes`` on a test, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == quotes.__name__:
                    yield from ((ast.literal_eval(sentence), node.name) for sentence in mark.args)


QUOTED: dict[str, set[str]] = {}
for path in sorted(TESTS.glob("*/test_*.py")):
    for sentence, test in quoted(ast.parse(path.read_text(encoding="utf-8"))):
        QUOTED.setdefault(sentence, set()).add(f"{path.relative_to(TESTS)}::{test}")


@pytest.mark.parametrize("sentence", SECTIONS)
def test_a_test_quotes_it(sentence: str) -> None:
    """Some test of a real executable quotes the sentence."""
    assert QUOTED.get(sentence), f"no test quotes, of {SECTIONS[sentence]}: {sentence}"


def test_only_the_list_is_quoted() -> None:
    """Where a test quotes what is not in the list, the test is never imported, or the list lacks a sentence."""
    assert QUOTED.keys() <= SECTIONS.keys()
    with pytest.raises(AssertionError, match="not a sentence"):
        quotes("Plugins should be kind.")
