"""The kernel's doors: the only Python here that touches rtnetlink, nftables, BPF, conntrack and sysctls.

This package speaks *kernel* (link, chain, element, program, map) and knows nothing of containers or CNI. What it is
told to do arrives as steps (``dataplane.steps``); what it finds out leaves as values.
"""

__version__ = "0.1.0"
