"""Measures the dataplane through the same doors that its users take: executables, commands and packets.

    scenarios/    one question each: what it puts side by side, and which figures it draws from that
    measure.py    blocks, pairs and intervals: the statistics, pure
    report/       results as lines of JSON, figures drawn from them; reports, comparisons, figures in other texts
    plots.py      what is drawn, and drawing.py what draws it; answers.py: the one table of a run
    place.py      hosts made of namespaces; native.py: the programs that measure, in C; starter.py: one of them
    ours.py       the installed plugins and the agent on such a host; peers.py: whoever they are compared with

``dpctl bench list`` and ``dpctl bench run``; bench/README.md has the method, and a command for each figure.
"""
