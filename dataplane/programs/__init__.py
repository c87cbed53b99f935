"""BPF programs: compiled once by bcc in a child process, pinned, and from then on used through ``bpf(2)``.

source    which C files, in which order, with which flags: pure
btf       where this kernel keeps what no helper tells: more flags
compile   the child that imports bcc
loading   runs that child, one at a time, and names its results by digest
generation what one load has pinned, all of it open
syscall   bpf(2)
clsact    tc filters over rtnetlink
attach    programs on the hooks of a device
cgroups   programs on the root of the cgroups
ringbuf   events
door      ``KernelPrograms``: all of it behind ``dataplane.doors.Programs``
inventory what is pinned and attached, in any version, and what is wrong with it
cost      what a program costs before it runs: instructions, stack, time to load
budget    ``bpf/budget.csv``: what it may cost
"""
