"""Speaks CNI: what a runtime starts, hands in as environment and JSON, and reads back. Text in, text out.

    shim       the process that a runtime starts: asks the agent, or does the work itself
    frontend   the same work as the agent does it
    skel       dispatch: one call in, one answer out; it never raises
    environment, jsontext, config, ports, result    what came in, as values
    commands   the verbs, as calls of the engine
    install    the executable and the example conflist
    driver     what a runtime does with a conflist (libcni), for tests and the demo

No kernel here, and no decisions about it.
"""
