"""What measures: each a program in C (``native/``) and the Python that asks it, or questions to the kernel.

starter.py      executables from exec to exit          watcher.py      transactions of nftables
roundtrips.py   round trips and connections            newflows.py     first packets of flows
streams.py      bulk TCP, UDP at a steady rate         floods.py       datagrams that must not arrive
assembled.py    two tc programs to measure others by   segments.py     what devices do to segments and sums
held.py         what nftables holds                    stackcounts.py  what a network stack counted
precedence.py   a processor for what is timed          answering.py    what those in C have in common, in Python
"""
