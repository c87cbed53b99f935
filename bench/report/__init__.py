"""Results, from lines of JSON to figures, and from figures to what is read.

    results.py     what a scenario writes while it runs, and reads again
    figures.py     rows of a scenario's table, drawn from samples; and why one says nothing
    summary.py     all figures of a run, its answers and what is to be drawn: summary.json
    blocks.py      what a report consists of; contents.py: what this one does; standing.py: its one table
    markdown.py    it as report.md; html.py: as one page; bench/drawing.py: its plots
    compare.py     two summaries; snippets.py: figures in other texts; write.py: all of it as files

Here are the names that scenarios draw their figures with.
"""

from bench.report.blocks import grid
from bench.report.figures import (
    Better,
    Figure,
    control_figure,
    count_figure,
    difference_figure,
    median_figure,
    percentile_figure,
    ratio_figure,
)
from bench.report.results import Histogram, Log, Results, find_results, read
from bench.report.words import number

__all__ = [
    "Better",
    "Figure",
    "Histogram",
    "Log",
    "Results",
    "control_figure",
    "count_figure",
    "difference_figure",
    "find_results",
    "grid",
    "median_figure",
    "number",
    "percentile_figure",
    "ratio_figure",
    "read",
]
