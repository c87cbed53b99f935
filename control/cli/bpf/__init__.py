"""``dpctl bpf``: our BPF programs and maps, listed, shown, attached, counted, tried out and held to their budget.

group        the command itself, and what its commands share
listing      ls
show         show PROGRAM | MAP | DEVICE
contents     entries of maps in words: pure
names        of networks, containers and devices, by the numbers that programs know
hooking      attach, detach
entries      what attach and detach write into maps: pure
refusals     what they refuse
stats        stats
trial        test
budget       budget

It reads the kernel directly and needs no agent; names come from the state, where there is one.
"""

from control.cli.bpf import budget, hooking, listing, show, stats, trial
from control.cli.bpf.group import bpf

__all__ = ["bpf", "budget", "hooking", "listing", "show", "stats", "trial"]
