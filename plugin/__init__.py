"""Speaks CNI: what a runtime starts, hands in as environment and JSON, and reads back. Text in, text out.

    native       the process that a runtime starts, in C: asks the agent, or hands the work on to shim
    shim         the same in Python, where no compiler was; and the work itself, where no agent answers
    frontend     the same work as the agent does it
    deferred     DELs that could not be carried out, tried again
    skel         dispatch: one call in, one answer out; it never raises
    environment, jsontext, config, dropins, mainconf, ports, result    what came in, as values
    commands     who carries out a verb: chained, mainplugin, or ipam
    install      the executables and the example conflist
    check        what a conflist does here
    runtime      what a runtime does with a conflist
    demo         the main job, shown

No kernel here, and no decisions about it.
"""
