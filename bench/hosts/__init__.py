"""What stands on a host (``bench.place``) before anything is measured: ours, networks of others, clients and servers.

ours.py       the installed plugins and the agent      chains.py     whole networks by a conflist
calls.py      what a CNI call took                     traffic.py    a machine outside, and what it saw
hooked.py     programs attached in turn (variants.py)  cgroups.py    those of the cgroups' root, elsewhere
testbed.py    a rung of the ladder (ladder.py), where packets were seen (sightings.py)
sites.py      one published container by each of those that are compared
wiring.py     what is between a client and a container, the same on all of these
"""
