"""From the figures of all scenarios to what is read.

summary.py     all figures of a run, its answers and what is to be drawn: summary.json
contents.py    what a report has; standing.py: its one table; machines.py: what it was measured on
markdown.py    it as report.md; html.py: as one page; bench/drawing: its plots
compare.py     two summaries; snippets.py: figures in other texts; write.py: all of it as files
"""
