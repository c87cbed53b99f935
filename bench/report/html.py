"""A report as one page: no network, no scripts, its plots inside; light and dark, on a screen and on paper. Pure.

page("Figures", blocks, {"first_packet": "<svg ...>"})
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import assert_never

from bench.figures.blocks import Block, Heading, Items, Picture, Table, Text
from bench.figures.colours import DARK, INK, LIGHT, PAPER, RULE
from bench.figures.plots import Role

_BOLD, _CODE = re.compile(r"\*\*(.+?)\*\*"), re.compile(r"`(.+?)`")
_ID = re.compile(r'(\bid="|href="#|url\(#)')
_SIZE = re.compile(r'(<svg\b[^>]*?) width="[^"]*"', re.DOTALL), re.compile(r'(<svg\b[^>]*?) height="[^"]*"', re.DOTALL)
_SHORT = 32  # characters: a number with its unit and interval is kept on one line


def page(title: str, blocks: Iterable[Block], drawings: Mapping[str, str]) -> str:
    """The page; every picture has its drawing."""
    body = "\n".join(_block(block, drawings) for block in blocks)
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n'
        f"</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def inline(name: str, drawing: str) -> str:
    """A plot's SVG as part of a page: its names its own, as wide as the page lets it, in the page's colours."""
    svg = drawing[drawing.index("<svg") :].strip()
    for size in _SIZE:
        svg = size.sub(r"\1", svg, count=1)
    svg = _ID.sub(rf"\g<1>{name}-", svg)
    for colour, variable in _variables().items():
        svg = re.sub(re.escape(colour), f"var(--{variable}, {colour})", svg, flags=re.IGNORECASE)
    return svg


def _block(block: Block, drawings: Mapping[str, str]) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{_text(text)}</h{level}>"
        case Text(text):
            return f"<p>{_text(text)}</p>"
        case Items(texts):
            return "<ul>\n" + "\n".join(f"<li>{_text(text)}</li>" for text in texts) + "\n</ul>"
        case Table():
            return _table(block)
        case Picture(name, title, remark):
            told = escape(" ".join(part for part in (f"{title}.", remark) if part))
            svg = inline(name, drawings[name])
            return f'<figure role="img" aria-label="{told}">\n{svg}\n</figure>'
        case _:
            assert_never(block)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.header)
    rows = []
    for first, *rest in table.rows:
        cells = "".join(_cell(cell) for cell in rest)
        rows.append(f'<tr><th scope="row">{_text(first)}</th>{cells}</tr>')
    body = "\n".join(rows)
    parts = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="scroll" tabindex="0"><table>\n{parts}</table></div>'


def _cell(text: str) -> str:
    kind = ' class="n"' if text[:1].isdigit() and len(text) < _SHORT else ""
    lines = text.split("\n")
    inner = _text(text) if len(lines) == 1 else "".join(f"<div>{_text(line)}</div>" for line in lines)
    return f"<td{kind}>{inner}</td>"


def _text(text: str) -> str:
    safe = _BOLD.sub(r"<b>\1</b>", escape(text))
    return _CODE.sub(r"<code>\1</code>", safe).replace("\n", "<br>")


def _variables() -> dict[str, str]:
    """Colours of drawings, and the names that the page has for them."""
    roles = {LIGHT[role]: role.name.lower().replace("_", "-") for role in Role}
    return {**roles, INK: "ink", PAPER: "paper", RULE: "rule"}


def _palette(*, dark: bool) -> str:
    ink, paper, rule = ("#e8e8e8", "#16181c", "#3a3d44") if dark else (INK, PAPER, RULE)
    colours = {role.name.lower().replace("_", "-"): (DARK if dark else LIGHT)[role] for role in Role}
    named = {**colours, "ink": ink, "paper": paper, "rule": rule}
    return " ".join(f"--{name}: {colour};" for name, colour in named.items())


_STYLE = f"""
:root {{ color-scheme: light dark; {_palette(dark=False)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_palette(dark=True)} }} }}
""" + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
       font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; }
h2 { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
thead th { border-bottom-width: 2px; vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 14rem; }
td { min-width: 7rem; max-width: 26rem; }
td:last-child { min-width: 12rem; }
td div + div { margin-top: .4rem; }
td.n { white-space: nowrap; min-width: 0; }
figure { margin: 1.5rem 0; break-inside: avoid; }
figure svg { display: block; width: 100%; max-width: 60rem; height: auto; }
li { overflow-wrap: anywhere; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em; }
@media (max-width: 40rem) {
  main { padding: 1rem; } tbody th { min-width: 8rem; } .scroll { margin-inline: -1rem; }
}
@media print {
  :root { PRINT }
  body { font-size: 9pt; } main { max-width: none; padding: 0; }
  .scroll { overflow: visible; } table { font-size: 7.5pt; } tr { break-inside: avoid; }
  th, td, tbody th, td:last-child { min-width: 0; padding: .2rem .4rem; } h2, h3 { break-after: avoid; }
}
""".replace("PRINT", _palette(dark=False))
