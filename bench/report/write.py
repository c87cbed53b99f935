"""A report as files, from the raw results in a directory or from the summary that was drawn from them.

summary = of_results(directory)                  # or stored(directory / "summary.json")
write(summary, directory, tell=print)

DIRECTORY/summary.json     all of it, for programs
DIRECTORY/report.md        the one table, the machine, each scenario's plots, figures and notes
DIRECTORY/report.html      the same as one page that needs nothing else
DIRECTORY/plots/           SVG and PNG, where matplotlib is installed
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from bench.figures import find_results, read
from bench.native import BenchError
from bench.report.contents import TITLE, contents
from bench.report.html import page
from bench.report.markdown import render
from bench.report.summary import Summary, tell
from bench.scenarios import NAMES, find

SUMMARY, REPORT, PAGE, PLOTS = "summary.json", "report.md", "report.html", "plots"

NO_MATPLOTLIB = (
    "there is no matplotlib (pip install 'dataplane[bench]'); figures and tables are all there, and "
    "dpctl bench report draws the plots once it is installed"
)


def of_results(directory: Path) -> Summary:
    """What the raw results in a directory say; files that cannot be read are left out, and named, and so are those of
    scenarios that were interrupted before they can say anything.

    Raises ``BenchError`` where there are none.
    """
    told, left_out = [], {}
    for name in NAMES:
        path = find_results(directory, name)
        if path is None:
            continue
        try:
            results = read(path)
        except ValueError as error:
            left_out[path.name] = str(error)
            continue
        try:
            told.append(tell(find(name), results))
        except ValueError as error:
            if not results.cut:
                raise
            left_out[path.name] = f"{results.cut}, which is too little: {error}"
    if not told and not left_out:
        raise BenchError(f"could not report on {directory}: there are no results; dpctl bench run --out DIR makes them")
    return Summary(tuple(told), left_out)


def stored(path: Path) -> Summary:
    """The summary in a file, or in a directory that has one. Raises ``BenchError`` where there is none."""
    file = path / SUMMARY if path.is_dir() else path
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise BenchError(f"could not read the summary {file}: it is no object")
        return Summary.from_json(fields)
    except (OSError, ValueError) as error:
        raise BenchError(f"could not read the summary {file}: {error}") from None


def write(summary: Summary, directory: Path, say: Callable[[str], None]) -> str:
    """Write all files anew; the report in Markdown, which also says what could not be drawn. Raises ``OSError``."""
    drawings, undrawn = _draw(summary, directory / PLOTS)
    shown = Summary(summary.scenarios, {**summary.left_out, **undrawn})
    blocks = tuple(contents(shown, drawn=drawings.keys()))
    text = render(blocks, PLOTS)
    (directory / SUMMARY).write_text(json.dumps(summary.to_json(), indent=1) + "\n", encoding="utf-8")
    (directory / REPORT).write_text(text, encoding="utf-8")
    (directory / PAGE).write_text(page(TITLE, blocks, drawings), encoding="utf-8")
    for name, why in shown.left_out.items():
        say(f"{name}: left out: {why}")
    return text


def _draw(summary: Summary, directory: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The plots as SVG, by name, after they were written to files; and those that cannot be drawn, and why."""
    plots = list(summary.plots())
    drawing = _drawing() if plots else None
    if drawing is None:
        return {}, {"plots": NO_MATPLOTLIB} if plots else {}
    directory.mkdir(exist_ok=True)
    drawn, undrawn = dict[str, str](), dict[str, str]()
    for plot in plots:
        try:
            vector, _ = drawing.write(plot, directory)
        except ValueError as error:
            undrawn[f"plot {plot.name}"] = str(error)
        else:
            drawn[plot.name] = vector.read_text(encoding="utf-8")
    return drawn, undrawn


def _drawing() -> ModuleType | None:
    """Who draws, which takes matplotlib; None where that is not installed."""
    try:
        from bench.drawing import draw as drawing  # noqa: PLC0415 - half a second, and not everywhere
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        return None
    return drawing
