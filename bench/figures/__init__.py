"""What scenarios make of their samples, as values; from lines of JSON to rows, plots and answers.

    measure.py     blocks, pairs and intervals: the statistics
    results.py     what a scenario writes while it runs, and reads again
    rows.py        rows of a scenario's table, drawn from samples; and why one says nothing
    controls.py    rows of a variant against itself
    answers.py     rows of the one table that a whole run is made for
    plots.py       what is to be drawn; colours.py: in which colours
    blocks.py      parts of a text, words.py: how numbers and differences are put

Here are the names that scenarios draw their figures with.
"""

from bench.figures.blocks import grid
from bench.figures.controls import control_figure, size_controls
from bench.figures.results import Histogram, Log, Results, find_results, read
from bench.figures.rows import (
    Better,
    Counted,
    Figure,
    count_figure,
    difference_figure,
    median_figure,
    percentile_figure,
    ratio_figure,
    tail_figure,
)
from bench.figures.words import number

__all__ = [
    "Better",
    "Counted",
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
    "size_controls",
    "tail_figure",
]
