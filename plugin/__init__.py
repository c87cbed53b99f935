"""Speaks CNI: what a runtime starts, hands in as environment and JSON, and reads back. Text in, text out.

    shim         the process that a runtime starts: asks the agent, or does the work itself
    frontend     the same work as the agent does it
    skel         dispatch: one call in, one answer out; it never raises
    environment, jsontext, config, dropins, mainconf, ports, result    what came in, as values
    commands     who carries out a verb: chained, mainplugin, or ipam
    install      the executables and the example conflist
    check        what a conflist does here
    runtime      what a runtime does with a conflist
    demo         the main job, shown

No kernel here, and no decisions about it.
"""
