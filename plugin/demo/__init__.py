"""``dpctl demo``: the main job, shown on this machine, in namespaces of its own, and then removed again.

cli.py        the command; puts itself into new namespaces
world.py      two bridge networks, four containers, an outside client and another host, from a real conflist
traffic.py    what is sent, and what came back
rows.py       what is tried, what should be seen, what was seen
"""

from plugin.demo.cli import demo

__all__ = ["demo"]
