"""A report as Markdown. Pure.

    render((Heading(1, "Figures"), Table(("what", "measured"), (("ADD", "1.2 ms"),))))

Pictures are linked as files in ``plots/``, beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import assert_never

from bench.figures.blocks import Block, Heading, Items, Picture, Table, Text

_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # what would be taken for HTML; "<= 3 ms" would not


def render(blocks: Iterable[Block], plots: str = "plots") -> str:
    """The text; ``plots`` is the way from its file to the pictures."""
    return "\n\n".join(_block(block, plots) for block in blocks) + "\n"


def _block(block: Block, plots: str) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_text(text)}"
        case Text(text):
            return _text(text)
        case Items(texts):
            return "\n".join(f"* {_text(text)}" for text in texts)
        case Table(header, rows):
            lines = (header, ("---",) * len(header), *rows)
            return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)
        case Picture(name, title, _):
            return f"![{_text(title)}]({plots}/{name}.svg)"
        case _:
            assert_never(block)


def _text(text: str) -> str:
    return _TAG.sub("&lt;", text)


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|").replace("\n", "<br>")
