"""Wiring: a container's interface on a bridge, made, given its addresses, compared and taken away.

    wire        what is asked for, what was made, and the names that tell whose it is (pure)
    making      connect(wire, netns) -> plug; configure(wire, plug, leases, routes)
    removing    disconnect(key, netns); collect(network, valid)
    comparing   differences(wire, expected, netns)

No policies and no ports: these are the engine's. Nothing is kept on disk: the host's end has a name made from the
attachment's key, and the key in its alias, so that what an interrupted call left is found by the next one.
"""
